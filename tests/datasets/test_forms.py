"""Chats, contrast pairs, labelled words and several concepts: what is made of a row of each."""

from __future__ import annotations

import json
import re
import shlex
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import llmprobe
from llmprobe.cli.main import main
from llmprobe.config.load import load_config
from llmprobe.config.schema import ProbeConfig
from llmprobe.datasets.checks import check
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.describe import describe
from llmprobe.ground.errors import UserError
from llmprobe.probing.tasks import build_tasks

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Is 2 even?"},
    {"role": "assistant", "content": "Yes."},
]


@pytest.fixture
def load(tmp_path: Path):
    """``load(rows)``: the dataset in a .jsonl file with these rows, or a .csv file of this text."""

    def load(rows: str | list[dict[str, Any]], **options: Any) -> ConceptDataset:
        path = tmp_path / ("my.csv" if isinstance(rows, str) else "my.jsonl")
        lines = rows if isinstance(rows, str) else "\n".join(map(json.dumps, rows))
        path.write_text(lines, encoding="utf-8")
        return llmprobe.load_dataset(path, **options)

    return load


def said(dataset: ConceptDataset, row: int = 0) -> list[tuple[str, str]]:
    """Role and content of each turn of a chat."""
    assert dataset.turns is not None
    text = dataset.texts[row]
    return [(role, text[start:stop]) for role, start, stop in dataset.turns[row]]


def chats(*messages: Any) -> list[dict[str, Any]]:
    """Rows with these messages, labelled 0, 1, 0, …"""
    return [{"messages": said, "label": row % 2} for row, said in enumerate(messages)]


OTHER = [{"role": "user", "content": "Is 3 even?"}]
SHARE_GPT = [{"from": "human", "value": "Is 2 even?"}, {"from": "gpt", "value": "Yes."}]
IN_PARTS = [{"role": "user", "content": [{"type": "text", "text": "Is 2 "},
                                         {"type": "text", "text": "even?"}]}]  # fmt: skip


def test_a_chat_is_its_contents_and_where_each_turn_stands(load) -> None:
    dataset = load(chats(CHAT, OTHER), chat={"enable_thinking": False})
    assert dataset.texts == ["Be brief.\n\nIs 2 even?\n\nYes.", "Is 3 even?"]
    assert said(dataset) == [(m["role"], m["content"]) for m in CHAT]
    assert dataset.chat == {"enable_thinking": False}
    assert list(dataset.fields.columns) == []
    assert said(dataset.take([1, 0])) == [("user", "Is 3 even?")]


@pytest.mark.parametrize(("form", "n"), [(SHARE_GPT, 2), (json.dumps(CHAT), 3), (IN_PARTS, 1)])
def test_chats_are_read_as_other_programs_write_them(load, form: Any, n: int) -> None:
    dataset = load([{"conversations": form, "label": 1}, {"conversations": OTHER, "label": 0}])
    assert len(said(dataset)) == n
    assert ("user", "Is 2 even?") in said(dataset)
    assert {role for role, _ in said(dataset)} <= {"system", "user", "assistant"}


def test_chats_in_parquet_are_the_same(tmp_path: Path, load) -> None:
    path = tmp_path / "my.parquet"
    pd.DataFrame(chats(CHAT, OTHER)).to_parquet(path)
    assert llmprobe.load_dataset(path).turns == load(chats(CHAT, OTHER)).turns


def test_a_prompt_and_its_response_are_a_chat_with_two_spans(load) -> None:
    rows = "q,a,s,label\nIs 2 even?,Yes.,Be brief.,1\nIs 3 even?,No.,,0\n"
    dataset = load(rows, prompt="q", response="a", system="s")
    assert said(dataset) == [(m["role"], m["content"]) for m in CHAT]
    assert said(dataset, 1) == [("user", "Is 3 even?"), ("assistant", "No.")]
    for name, parts in (("prompt", ["Is 2 even?", "Is 3 even?"]), ("response", ["Yes.", "No."])):
        places = zip(dataset.texts, dataset.spans[name], strict=True)
        assert [text[slice(*place)] for text, place in places] == parts


BAD_CHATS = {
    "no list": ("Hello", "no list of messages, "),
    "no messages": ([], "no list of messages, "),
    "no message": (["Hello"], "no list of messages, "),
    "image": ([{"role": "user", "content": [{"type": "image"}]}], "message 1: its content is no"),
    "nothing": ([*OTHER, {"role": "assistant", "content": None}], "message 2: its content is no"),
    "call": (
        [{"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}],
        "message 1: has tool_calls, which is not read",
    ),
    "no role": ([{"content": "Hello"}], "message 1: no role but None"),
    "no text": ([{"role": "user", "content": " "}], "a chat without any text"),
}


@pytest.mark.parametrize("what", BAD_CHATS)
def test_a_chat_without_text_is_refused_with_its_row(load, what: str) -> None:
    messages, words = BAD_CHATS[what]
    with pytest.raises(UserError, match=r"my\.jsonl: row 2, column 'messages': ") as caught:
        load(chats(OTHER, messages))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"template": "Q: {text}"}, "template: a chat is put into the model's own chat template"),
        ({"perturb": "case"}, "perturb: changes texts, and not chats"),
    ],
)
def test_what_changes_texts_is_refused_of_chats(load, option: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load(chats(CHAT, OTHER), **option)


def test_a_column_of_texts_beside_one_of_chats_has_to_be_said(load) -> None:
    rows = [{"text": f"text {i}", **row} for i, row in enumerate(chats(CHAT, OTHER))]
    with pytest.raises(UserError, match="say `text: text` or `messages: messages`"):
        load(rows)
    assert load(rows, text="text").turns is None
    assert load(rows, messages="messages").turns is not None


PAIRS = "question,good,bad,topic\nWallet?,Return it.,Keep it.,a\nPurse?,Return it.,Keep it.,b\n"
SIDES = {"positive": "good", "negative": "bad"}


def test_a_pair_is_two_texts_of_one_group(load) -> None:
    dataset = load(PAIRS, pairs=SIDES, template="{question} {text}")
    assert dataset.texts[:2] == ["Wallet? Return it.", "Wallet? Keep it."]
    assert dataset.labels.tolist() == [1, 0, 1, 0]
    assert dataset.groups.tolist() == ["pair 1", "pair 1", "pair 2", "pair 2"]
    assert list(dataset.fields.columns) == ["question", "topic"]
    assert load(PAIRS, pairs=SIDES, group="topic").groups.tolist() == ["a", "a", "b", "b"]


def test_a_pair_with_equal_sides_is_refused_with_its_row(load) -> None:
    with pytest.raises(UserError, match="row 2: good and bad are the same text, 'Go'"):
        load("good,bad\na,b\nGo,Go\n", pairs=SIDES)


SENTENCES = [
    {"words": ["Dogs", "bark", "."], "pos": ["NOUN", "VERB", "PUNCT"], "id": 7},
    {"words": ["Cats", "sleep"], "pos": ["NOUN", "VERB"], "id": 8},
]
TAGGED = {"tokens": "words", "tags": "pos"}


def test_each_word_of_a_sentence_is_an_example_with_its_place(load) -> None:
    dataset = load(SENTENCES, **TAGGED)
    assert dataset.texts == 3 * ["Dogs bark ."] + 2 * ["Cats sleep"]
    assert dataset.surface == ["Dogs", "bark", ".", "Cats", "sleep"]
    assert dataset.labels.tolist() == ["NOUN", "VERB", "PUNCT", "NOUN", "VERB"]
    assert dataset.fields["id"].tolist() == [7, 7, 7, 8, 8]
    assert dataset.units.tolist() == [0, 0, 0, 1, 1]
    in_csv = 'words,pos\nDogs bark .,NOUN VERB PUNCT\n"[""Cats"", ""sleep""]",NOUN VERB\n'
    assert load(in_csv, **TAGGED).words == dataset.words


def test_whole_sentences_are_drawn(load) -> None:
    drawn = load(SENTENCES * 4, **TAGGED, n=7)
    assert len(drawn) in (5, 6, 7)
    assert all(np.bincount(drawn.units) >= 2)


def test_a_template_moves_the_places_of_words(load) -> None:
    dataset = load(SENTENCES, **TAGGED, template="Sentence: {text} ({id})")
    assert dataset.surface == ["Dogs", "bark", ".", "Cats", "sleep"]
    assert dataset.texts[0] == "Sentence: Dogs bark . (7)"
    with pytest.raises(UserError, match="does not keep the labelled words"):
        load(SENTENCES, **TAGGED, template="{text:.3}")
    with pytest.raises(UserError, match="perturb: changes texts, and not labelled words"):
        load(SENTENCES, **TAGGED, perturb="case")


def test_checks_of_words_look_at_words_and_not_at_their_sentences(load) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"words": [f"w{w}" for w in rng.integers(500, size=9)], "pos": rng.integers(2, size=9)}
        for _ in range(200)
    ]
    dataset = load([{**row, "pos": row["pos"].tolist()} for row in rows], **TAGGED)
    assert [finding for finding in check(dataset) if finding.level != "note"] == []


PLACES = "text,from,to,label\nThe bank of the river,4,8,river\nA bank,2,6,money\n"
ENDS = {"start": "from", "end": "to"}


def test_a_place_in_each_text_is_what_is_labelled(load) -> None:
    dataset = load(PLACES, **ENDS)
    assert dataset.surface == ["bank", "bank"]
    assert dataset.groups is None
    assert list(dataset.fields.columns) == []


BAD_WORDS: dict[str, tuple[Any, dict[str, str], str]] = {
    "lengths": (
        [*SENTENCES, {"words": ["Go", "!"], "pos": ["VERB"]}], TAGGED, "row 3: 2 words but 1 pos"
    ),
    "no list": ([{"words": 3, "pos": []}], TAGGED, "row 1, column 'words': no list but 3"),
    "empty": ([{"words": [" "], "pos": ["X"]}], TAGGED, "row 1, column 'words': number 1 is empty"),
    "outside": (PLACES.replace("2,6", "2,7"), ENDS, "row 2: from 2, to 7: no part of its text"),
    "turned": (PLACES.replace("4,8", "8,4"), ENDS, "row 1: from 8, to 4: no part of its text"),
    "space": (PLACES.replace("4,8", "3,4"), ENDS, "row 1: from 3, to 4: no part of its text"),
    "no place": (
        PLACES.replace("2,6", "two,6"), ENDS, "row 2, column 'from': 'two' is no place"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_WORDS)
def test_a_word_that_is_not_there_is_refused_with_its_row(load, what: str) -> None:
    rows, options, words = BAD_WORDS[what]
    with pytest.raises(UserError) as caught:
        load(rows, **options)
    assert words in str(caught.value)


MOODS = [["joy"], ["joy", "fear"], [], ["fear"]]


def test_lists_of_labels_and_columns_are_the_same_concepts(load) -> None:
    listed = load([{"text": f"text {i}", "label": moods} for i, moods in enumerate(MOODS)])
    rows = "".join(f"text {i},{+('joy' in m)},{+('fear' in m)}\n" for i, m in enumerate(MOODS))
    columns = load(f"text,joy,fear\n{rows}", label=["joy", "fear"])
    as_json = "".join(
        f"text {i},{json.dumps(json.dumps(m))}\n".replace('\\"', '""') for i, m in enumerate(MOODS)
    )
    in_csv = load(f"text,label\n{as_json}")
    for dataset in (listed, columns, in_csv):
        alone = {one.name: one for one in dataset.by_concept()}
        assert alone["my:joy"].labels.tolist() == [1, 1, 0, 0]
        assert alone["my:fear"].labels.tolist() == [0, 1, 0, 1]
        assert alone["my:joy"].texts is alone["my:fear"].texts
        assert alone["my:joy"].stem == "my"
    assert columns.labels.tolist() == ["joy", "joy, fear", "none", "fear"]
    assert columns.take([1, 2]).concepts["joy"].tolist() == [1, 0]


def test_a_concept_that_every_text_has_is_left_out_and_named(load) -> None:
    rows = "".join(f"text {i},{i % 2},1\n" for i in range(40))
    dataset = load(f"text,joy,all\n{rows}", label=["joy", "all"])
    assert [one.name for one in dataset.by_concept()] == ["my:joy"]
    assert "left out, since their labels are all the same: all" in str(check(dataset))


def test_what_is_found_of_several_concepts_is_said_once(load) -> None:
    rows = "".join(f"a text with the number {i},{+(i < 6)},{+(i > 34)}\n" for i in range(40))
    dataset = load(f"text,joy,fear\n{rows}", label=["joy", "fear"])
    (majority,) = [finding for finding in check(dataset) if finding.check == "majority"]
    assert majority.message.startswith("of 'joy' (and fear): the majority class is 0, 85.0 %")


BAD_LABELS = {
    "none": ([{"text": "a", "label": []}, {"text": "b", "label": []}], None, "no list has a label"),
    "missing": (
        [{"text": "a", "label": ["joy"]}, {"text": "b", "label": None}], None,
        "row 2: no value in column 'label'; `drop: {unlabelled: true}` leaves them out",
    ),
    "mixed": (
        [{"text": "a", "label": ["joy"]}, {"text": "b", "label": "joy"}], None,
        "row 1, column 'label': a list; it should be a text or a number",
    ),
    "empty": ([{"text": "a", "label": [""]}], None, "row 1, column 'label': '' in a list is no"),
    "spelled": (
        [{"text": "a", "label": ["joy"]}, {"text": "b", "label": ["Joy"]}], None,
        "'joy' (row 1) and 'Joy' (row 2) differ only in case or spaces",
    ),
    "gap": (
        "text,joy,fear\na,1,0\nb,0,\n", ["joy", "fear"],
        "row 2: no value in column 'fear'; `drop: {unlabelled: true}` leaves them out",
    ),
    "column": ("text,joy\na,1\nb,0\n", ["joy", "fear"], "no column 'fear' (label)"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_LABELS)
def test_labels_of_several_concepts_that_are_none_are_refused(load, what: str) -> None:
    rows, label, words = BAD_LABELS[what]
    with pytest.raises(UserError) as caught:
        load(rows, **({} if label is None else {"label": label}))
    assert words in str(caught.value)


def test_rows_that_lack_a_label_of_any_concept_are_left_out_where_asked(load) -> None:
    rows = "text,joy,fear\na,1,0\nb,0,\nc,0,1\n"
    dataset = load(rows, label=["joy", "fear"], drop={"unlabelled": True})
    assert dataset.texts == ["a", "c"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"messages": "m", "prompt": "p"}, "has messages and prompt, which are two forms"),
        ({"response": "a"}, "has response, which needs prompt"),
        ({"tokens": "t"}, "has tokens, which needs tags"),
        ({"start": "s"}, "has start, which needs end"),
        ({"pairs": SIDES, "label": "l"}, "has pairs and a label, but its labels are the sides"),
        ({**TAGGED, "label": "l"}, "has tokens and a label, but its labels are tags"),
        ({**TAGGED, **ENDS}, "has tokens and start, but start and end are places in a text"),
        ({"label": ["a", "a"]}, "should be a column, or a list of different ones"),
        ({"pairs": {"positive": "a"}}, "pairs.negative: missing"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(
    load, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=r"my\.csv") as caught:
        load("text,label\na,0\nb,1\n", **options)
    assert words in str(caught.value)


SPLIT = "text,label,part\n" + "".join(
    f"text {i},{i % 2},{('train', 'dev', 'test')[i // 10 % 3]}\n" for i in range(60)
)


def test_a_column_or_a_second_file_says_what_is_scored(load, tmp_path: Path) -> None:
    table = pd.read_csv(StringIO(SPLIT))
    of_test = (table["part"] == "test").to_numpy()
    by_column = load(SPLIT, split="part")
    assert by_column.test.tolist() == of_test.tolist()
    assert load(SPLIT, test={"column": "part", "value": "dev"}).test.sum() == 20
    table[of_test].to_csv(tmp_path / "other.csv", index=False)
    by_file = load(table[~of_test].to_csv(index=False), test=str(tmp_path / "other.csv"))
    assert by_file.test.tolist() == 40 * [False] + 20 * [True]
    assert by_file.texts[40:] == table["text"][of_test].tolist()
    drawn = by_column.sample(30)
    assert drawn.test.sum() == 10


def test_the_file_of_a_config_is_beside_it(tmp_path: Path) -> None:
    for name in ("my.csv", "other.csv"):
        (tmp_path / name).write_text("text,label\na,0\nb,1\n")
    config = tmp_path / "my.yaml"
    config.write_text("models: [m]\ndatasets: {path: my.csv, test: other.csv}\n")
    assert load_config(config).datasets[0].test == str(tmp_path / "other.csv")


def test_what_stands_on_both_sides_of_a_split_is_no_training(
    load, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = load(SPLIT.replace("text 3,", "TEXT 25.,"), split="part")
    assert len(dataset) == 59
    assert dataset.test.sum() == 20
    assert "1 of 40 examples outside the test set have a text or group that is in it, such as "\
           "'TEXT 25.'; they are left out" in caplog.text  # fmt: skip
    with pytest.raises(UserError, match="nothing is left to fit probes on"):
        load(SPLIT, split="part", group="label")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "fold"}, "no column 'fold' (test); columns: text, label, part"),
        ({"test": {"column": "part", "value": 3}}, "no row has '3', so there is nothing to score"),
        ({"test": "none.csv"}, "none.csv: no such file"),
        ({"test": {"value": 1}}, "missing"),
        ({"test": {"column": "part"}, "split": "part"}, "split and test both say what is scored"),
    ],
)
def test_a_split_that_is_none_is_refused(load, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        load(SPLIT, **options)
    assert words in str(caught.value)


def test_a_split_without_anything_to_fit_probes_on_is_refused(load) -> None:
    with pytest.raises(UserError, match="every row has 'test', so there is nothing to fit"):
        load(SPLIT.replace(",train", ",test").replace(",dev", ",test"), split="part")


def test_an_error_in_the_second_file_names_its_row(load, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("text,label\nc,0\n,1\n")
    with pytest.raises(UserError, match=r"other\.csv: row 2: no value in column 'text'"):
        load("text,label\na,0\nb,1\n", test=str(tmp_path / "other.csv"))


def test_show_says_what_is_of_each_form(load) -> None:
    def shown(*rows: Any, **options: Any) -> str:
        return " ".join(describe(load(*rows, **options)).split())

    assert "60 texts, 20 of them to be scored" in shown(SPLIT, split="part")
    assert "system: 1, user: 2, assistant: 1" in shown(chats(CHAT, OTHER))
    moods = [{"text": f"text {i}", "label": moods} for i, moods in enumerate(MOODS)]
    assert "fear: 0: 2 (50.0 %), 1: 2 (50.0 %)" in shown(moods)
    assert "NOUN sentence 1 Dogs Dogs bark ." in shown(SENTENCES, **TAGGED)


def test_many_whole_numbers_point_to_a_probe_of_numbers(load) -> None:
    rows = "".join(f"text {i},{i % 40}\n" for i in range(200))
    dataset = load(f"text,label\n{rows}")
    assert "40 distinct whole numbers as labels" in str(check(dataset))
    with pytest.raises(UserError, match=r"40 different labels are scores .* probe\.kind to ridge"):
        build_tasks(dataset.labels, None, ProbeConfig(folds=8), "my")


def test_the_commands_of_the_docs_show_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name, content in re.findall(r"`([\w.]+)`:\n\n```\n(.*?)```", docs, re.DOTALL):
        Path(name).write_text(content, encoding="utf-8")
    commands = re.findall(r"^    llmprobe (show \w+\.\w+.*)$", docs, re.MULTILINE)
    assert {Path(shlex.split(command)[1]) for command in commands} == {*Path().iterdir()}
    for command in commands:
        assert main(shlex.split(command)) == 0, command
        assert "size  " in capsys.readouterr().out
