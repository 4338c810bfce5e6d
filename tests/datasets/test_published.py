"""The published datasets: how each is read, from small files of its format and the real ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.published import KnownFile, PublishedDataset
from llmprobe.datasets.published.files import without_downloads
from llmprobe.datasets.registry import REGISTRY, build
from llmprobe.ground.errors import UserError
from llmprobe.probing.baselines import bag_of_words_accuracy
from llmprobe.probing.splits import assign_folds

SHARED = Path(__file__).parents[3] / "shared" / "datasets"
real = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here")
Put = Callable[[KnownFile, bytes], None]


def published_sets() -> dict[str, PublishedDataset]:
    entries = {name: entry.build for name, entry in REGISTRY.items()}
    return {name: one for name, one in entries.items() if isinstance(one, PublishedDataset)}


def files_of(name: str) -> tuple[KnownFile, ...]:
    return published_sets()[name].files


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Put:
    """``put(file, content)``: the file is in LLMPROBE_DATA, and known by this content's digest."""
    monkeypatch.setenv("LLMPROBE_DATA", str(tmp_path / "data"))

    def place(file: KnownFile, content: bytes) -> None:
        path = tmp_path / "data" / file.collection / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if file.sha256 is None:
            return
        digest = hashlib.sha256(content).hexdigest()

        def swapped(files: tuple[KnownFile, ...]) -> tuple[KnownFile, ...]:
            return tuple(replace(f, sha256=digest) if f == file else f for f in files)

        for name, entry in published_sets().items():
            splits = {split: swapped(files) for split, files in entry.splits.items()}
            changed = replace(entry, files=swapped(entry.files), splits=splits)
            entries = REGISTRY._entries
            monkeypatch.setitem(entries, name, replace(REGISTRY[name], build=changed))

    return place


@pytest.fixture
def real_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMPROBE_DATA", str(SHARED))


def csv(rows: list[dict[str, object]], sep: str = ",", *, index: bool = False) -> bytes:
    return pd.DataFrame(rows).to_csv(sep=sep, index=index).encode()


def parquet(tmp_path: Path, rows: list[dict[str, object]]) -> bytes:
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    return (tmp_path / "rows.parquet").read_bytes()


def rows_of(dataset: ConceptDataset) -> list[tuple[object, str]]:
    return list(zip(dataset.labels.tolist(), dataset.texts, strict=True))


def test_all_are_registered_with_their_users_options_alone() -> None:
    options = {name: REGISTRY[name].options for name in published_sets()}
    assert options.pop("jin2024/common_claim") == {"prompts": "paper", "slice": "paper"}
    assert options.pop("imdb") == {"split": "test"}
    assert options.pop("sst2") == {"split": "validation"}
    assert options.pop("senteval/SST2") == {"split": "test"}
    assert options.pop("senteval/TREC") == {"split": "all"}
    for name, own in options.items():
        assert own == ({"prompts": "paper"} if name.startswith("jin2024/") else {}), name
    for name in published_sets():
        entry = REGISTRY[name]
        assert entry.family == (name.split("/")[0] if "/" in name else "hub")
        assert entry.summary.endswith("?")


# --- Jin et al. -------------------------------------------------------------------------------


def test_cities_has_true_statements_first_as_class_0_in_pairs(put: Put) -> None:
    rows = [
        {"statement": f"{city} is in {country}.", "label": label,
         "city": city, "country": country, "correct_country": "A"}
        for city, country, label in [("x", "A", 1), ("x", "B", 0), ("y", "B", 0), ("y", "A", 1)]
    ]  # fmt: skip
    put(files_of("jin2024/cities")[0], csv(rows))
    dataset = build("jin2024/cities")
    texts = ["x is in A.", "y is in A.", "x is in B.", "y is in B."]
    assert rows_of(dataset) == list(zip([0, 0, 1, 1], texts, strict=True))
    assert dataset.groups is not None
    assert dataset.groups.tolist() == ["x", "y", "x", "y"]
    assert dataset.fields.columns.tolist() == ["city", "country", "correct_country"]
    assert dataset.fields["country"].tolist() == ["A", "A", "B", "B"]


@pytest.mark.parametrize(("slice", "counts"), [("paper", [3000, 3000]), ("released", [3002, 3001])])
def test_common_claim_is_sliced_and_leaves_neither_out(
    put: Put, slice: str, counts: list[int]
) -> None:
    labels = ["Neither", *["False"] * 3001, *["True"] * 3002]
    rows: list[dict[str, object]] = [
        {"examples": f"claim {i}", "label": label, "agreement": 0.5}
        for i, label in enumerate(labels)
    ]
    put(files_of("jin2024/common_claim")[0], csv(rows, index=True))
    dataset = build("jin2024/common_claim", slice=slice)
    assert np.bincount(dataset.labels).tolist() == counts
    assert dataset.texts[0] == "claim 3002"
    assert dataset.texts[counts[0]] == "claim 1"
    assert dataset.fields.columns.tolist() == ["agreement"]
    assert dataset.groups is None


def test_a_column_of_true_and_false_alone_is_read_the_same(put: Put) -> None:
    rows = [{"examples": "a", "label": False}, {"examples": "b", "label": True}]
    put(files_of("jin2024/common_claim")[0], csv(rows, index=True))
    assert rows_of(build("jin2024/common_claim")) == [(0, "b"), (1, "a")]


def test_counterfact_is_the_first_2000_of_each_class_grouped_by_subject(put: Put) -> None:
    rows = [
        {"statement": f"s{i} is {label}.", "label": label, "relation": "{} is",
         "subject": f"s{i}", "target": label, "true_target": 1}
        for i in range(2003) for label in (1, 0)
    ]  # fmt: skip
    put(files_of("jin2024/counterfact")[0], csv(rows))
    dataset = build("jin2024/counterfact")
    assert np.bincount(dataset.labels).tolist() == [2000, 2000]
    assert dataset.texts[0] == "s0 is 1."
    assert dataset.texts[2000] == "s0 is 0."
    assert dataset.groups is not None
    assert dataset.groups[[0, 1999, 2000]].tolist() == ["s0", "s1999", "s0"]
    assert dataset.fields.columns.tolist() == ["relation", "subject", "target", "true_target"]


def test_hateeval_is_the_first_3000_of_each_class_hate_first(put: Put) -> None:
    rows: list[dict[str, object]] = [
        {"id": i, "text": f'say "{i}", NA', "HS": i % 2, "TR": 0, "AG": 0} for i in range(6004)
    ]
    put(files_of("jin2024/hateeval")[0], csv(rows, sep="\t") + b'9\t"a" b "c\t1\t0\t0\n')
    dataset = build("jin2024/hateeval")
    assert np.bincount(dataset.labels).tolist() == [3000, 3000]
    assert dataset.texts[0] == 'say "1", NA'
    assert dataset.texts[3000] == 'say "0", NA'
    assert dataset.fields.columns.tolist() == ["id", "TR", "AG"]


def test_stsa_is_a_label_and_a_text_a_line(put: Put) -> None:
    put(files_of("jin2024/stsa")[0], b"1 a fine film\n0 a dull one \n1 so , so\n")
    assert rows_of(build("jin2024/stsa")) == [(0, "a dull one"), (1, "a fine film"), (1, "so , so")]


def test_imdb_is_the_first_1000_of_each_class_of_the_test_split(put: Put, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"text": f"review {i}", "label": int(i >= 1001)} for i in range(2003)
    ]
    put(files_of("jin2024/imdb")[0], parquet(tmp_path, rows))
    dataset = build("jin2024/imdb")
    assert np.bincount(dataset.labels).tolist() == [1000, 1000]
    assert dataset.texts[0] == "review 0"
    assert dataset.texts[1000] == "review 1001"
    whole = build("imdb")
    assert len(whole) == 2003
    assert rows_of(whole)[0] == (0, "review 0")


def test_sarcasm_is_the_first_3000_of_each_class_sarcastic_first(put: Put) -> None:
    lines = [
        f'{{"is_sarcastic": {i % 2}, "headline": "h\u2028{i}", "article_link": "x/{i}"}}'
        for i in range(6004)
    ]
    put(files_of("jin2024/sarcasm")[0], "\n".join(lines).encode())
    dataset = build("jin2024/sarcasm")
    assert np.bincount(dataset.labels).tolist() == [3000, 3000]
    assert dataset.texts[0] == "h\u20281"
    assert dataset.texts[3000] == "h\u20280"
    assert dataset.fields["article_link"].tolist()[:2] == ["x/1", "x/3"]
    assert "not pinned" in dataset.source


def test_strategyqa_appends_the_explanation_without_the_answer(put: Put) -> None:
    examples = [
        {"input": "A?", "target": "No. Because a.", "target_scores": {"Yes": 0, "No": 1}},
        {"input": "B?", "target": "Yes. No. 1 is.", "target_scores": {"Yes": 1, "No": 0}},
        {"input": "C?", "target": "Unclear.", "target_scores": {"Yes": 1, "No": 0}},
    ]
    put(files_of("jin2024/strategyqa")[0], json.dumps({"examples": examples}).encode())
    dataset = build("jin2024/strategyqa")
    assert rows_of(dataset) == [(0, "B? No. 1 is."), (0, "C? Unclear."), (1, "A? Because a.")]
    assert dataset.fields["question"].tolist() == ["B?", "C?", "A?"]


def test_coinflip_has_yes_first(put: Put) -> None:
    examples = [{"question": "q1", "answer": "no"}, {"question": "q2", "answer": "yes"}]
    put(files_of("jin2024/coinflip")[0], json.dumps({"examples": examples}).encode())
    assert rows_of(build("jin2024/coinflip")) == [(0, "q2"), (1, "q1")]


RELEASED = "According to the sentence, judge the emotion is Positive or Negative."
STUDY = [name for name in published_sets() if name.startswith("jin2024/")]
BEFORE = ["cities", "common_claim", "counterfact", "sarcasm", "strategyqa"]


@pytest.mark.parametrize("name", STUDY)
def test_every_prompt_takes_the_text_once_and_leaves_braces_in_it_alone(name: str) -> None:
    assert len(STUDY) == 9
    entry, text = published_sets()[name], "a {text} {0} b"
    assert entry.prompts["none"] == ""
    assert entry.template == entry.prompts["paper"]
    for prompts in ("paper", "released_code"):
        template = entry.prompts[prompts]
        assert template.count("{text}") == 1
        assert template.count("{") == template.count("}") == 1
        assert template.format(text=text).count(text) == 1
    before, after = entry.prompts["released_code"].split("{text}")
    in_front, tail = (before, after) if name.split("/")[1] in BEFORE else (after, before)
    assert in_front.strip() == RELEASED
    assert tail.strip() in entry.prompts["paper"]


def test_prompts_stand_where_the_study_has_them() -> None:
    def paper(name: str) -> str:
        return published_sets()[f"jin2024/{name}"].template

    assert paper("cities") == "Judge the statement is True or False. {text}"
    assert paper("counterfact") == "Judge the statement is true or false. {text}"
    assert paper("imdb") == (
        "{text} According to the movie review, judge whether it is Positive or Negative."
    )
    assert paper("strategyqa").endswith("\npred_ans: no{text} Let us think step by step...")
    assert "saying one thing but meaning the opposite. {text} Think carefully" in paper("sarcasm")
    coinflip = published_sets()["jin2024/coinflip"]
    assert coinflip.prompts["released_code"] == f"{{text}} {RELEASED}"


@pytest.mark.parametrize(
    ("name", "options", "allowed"),
    [
        ("jin2024/cities", {"prompts": "papers"}, "paper, released_code, none"),
        ("jin2024/common_claim", {"prompts": "papers"}, "paper, released_code, none"),
        ("jin2024/common_claim", {"slice": "all"}, "paper, released"),
        ("imdb", {"split": "validation"}, "test, train"),
        ("sst2", {"split": "test"}, "validation, train"),
        ("senteval/SST2", {"split": "validation"}, "train, dev, test"),
        ("senteval/TREC", {"split": "dev"}, "train, test, all"),
    ],
)
def test_an_option_out_of_range_names_what_is_allowed(
    name: str, options: dict[str, object], allowed: str
) -> None:
    option = next(iter(options))
    with pytest.raises(UserError, match=f"dataset '{name}': {option} is .* allowed: {allowed}$"):
        build(name, **options)


# --- Marks and Tegmark ------------------------------------------------------------------------


@pytest.mark.parametrize("stem", ["cities", "neg_cities"])
def test_a_city_is_a_group(put: Put, stem: str) -> None:
    rows: list[dict[str, object]] = [
        {"statement": f"{city} {i}.", "label": i, "city": city, "country": "C",
         "correct_country": "C"}
        for city in ("Lima", "Bern") for i in (1, 0)
    ]  # fmt: skip
    put(files_of(f"geometry_of_truth/{stem}")[0], csv(rows))
    dataset = build(f"geometry_of_truth/{stem}")
    assert rows_of(dataset) == [(1, "Lima 1."), (0, "Lima 0."), (1, "Bern 1."), (0, "Bern 0.")]
    assert dataset.groups is not None
    assert dataset.groups.tolist() == ["Lima", "Lima", "Bern", "Bern"]
    assert dataset.fields.columns.tolist() == ["city", "country", "correct_country"]


@pytest.mark.parametrize(("stem", "verb"), [("", "means"), ("neg_", "does not mean")])
def test_what_shares_a_spanish_or_an_english_word_is_a_group(
    put: Put, stem: str, verb: str
) -> None:
    words = [("sí", "'yes'", 1), ("sí", "'it's'", 0), ("no", "'no'", 1), ("es", "'it's'", 1)]
    rows: list[dict[str, object]] = [
        {"statement": f"The Spanish word '{word}' {verb} {meaning}.", "label": label}
        for word, meaning, label in words
    ]
    put(files_of(f"geometry_of_truth/{stem}sp_en_trans")[0], csv(rows))
    dataset = build(f"geometry_of_truth/{stem}sp_en_trans")
    assert dataset.groups is not None
    one, two, other, chained = dataset.groups.tolist()
    assert one == two == chained != other
    assert dataset.labels.tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize("stem", ["larger_than", "smaller_than"])
def test_two_numbers_are_a_group_in_either_order(put: Put, stem: str) -> None:
    rows: list[dict[str, object]] = [
        {"statement": f"{a} … {b}.", "label": int(a > b), "n1": a, "n2": b,
         "diff": a - b, "abs_diff": abs(a - b)}
        for a, b in [(51, 52), (52, 51), (5, 152), (51, 53)]
    ]  # fmt: skip
    put(files_of(f"geometry_of_truth/{stem}")[0], csv(rows))
    dataset = build(f"geometry_of_truth/{stem}")
    assert dataset.groups is not None
    assert dataset.groups.tolist() == ["51 52", "51 52", "5 152", "51 53"]
    assert dataset.fields["diff"].tolist() == [-1, 1, -147, -2]


@pytest.mark.parametrize("stem", ["conj", "disj"])
def test_two_cities_are_a_group_in_either_order(put: Put, stem: str) -> None:
    rows: list[dict[str, object]] = [
        {"statement": f"{a} and {b} {i}.", "label": i % 2, "statement1": a, "label1": 1,
         "city1": a, "country1": "C", "correct_country1": "C", "statement2": b, "label2": i % 2,
         "city2": b, "country2": "D", "correct_country2": "D"}
        for i, (a, b) in enumerate([("x", "y"), ("y", "x"), ("x", "z")])
    ]  # fmt: skip
    name = f"geometry_of_truth/cities_cities_{stem}"
    put(files_of(name)[0], csv(rows))
    dataset = build(name)
    assert dataset.groups is not None
    assert dataset.groups.tolist() == ["x|y", "x|y", "x|z"]
    assert {"statement1", "label1", "city2", "correct_country2"} <= set(dataset.fields.columns)


def test_a_company_is_a_group_whatever_is_said_of_it(put: Put) -> None:
    said = {
        "Mitsubishi": ["has headquarters in Japan.", "engages in general trading."],
        "Mitsubishi UFJ Financial Group": [
            "operates in the industry of banking.",
            "is a commercial bank, which engages in banking.",
        ],
        "British American Tobacco": ["has headquarters in China.", "British Acts as a subsidiary."],
        "The Home Depot": ["is the world's largest home improvement specialty retailer."],
    }
    rows: list[dict[str, object]] = [
        {"statement": f"{company} {rest}", "label": i % 2}
        for company, statements in said.items()
        for i, rest in enumerate(statements)
    ]
    put(files_of("geometry_of_truth/companies_true_false")[0], csv(rows))
    dataset = build("geometry_of_truth/companies_true_false")
    assert dataset.groups is not None
    assert dataset.groups.tolist() == [c for c, rest in said.items() for _ in rest]


def test_claims_have_no_groups_and_subjects_are_groups(put: Put) -> None:
    claims: list[dict[str, object]] = [
        {"statement": "None", "label": 1}, {"statement": 'A "b", c.', "label": 0},
    ]  # fmt: skip
    put(files_of("geometry_of_truth/common_claim_true_false")[0], csv(claims))
    dataset = build("geometry_of_truth/common_claim_true_false")
    assert rows_of(dataset) == [(1, "None"), (0, 'A "b", c.')]
    assert dataset.groups is None
    facts: list[dict[str, object]] = [
        {"statement": f"{s} {i}", "label": i, "relation": "{} is", "subject": s, "target": "t",
         "true_target": "t"}
        for s in ("None", "b") for i in (0, 1)
    ]  # fmt: skip
    put(files_of("geometry_of_truth/counterfact_true_false")[0], csv(facts))
    dataset = build("geometry_of_truth/counterfact_true_false")
    assert dataset.groups is not None
    assert dataset.groups.tolist() == ["None", "None", "b", "b"]


# --- SentEval and the Hub ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "zero", "one"),
    [
        ("MR", "rt-polarity.neg", "rt-polarity.pos"),
        ("CR", "custrev.neg", "custrev.pos"),
        ("SUBJ", "subj.subjective", "subj.objective"),
        ("MPQA", "mpqa.neg", "mpqa.pos"),
    ],
)
def test_two_files_of_sentences_are_the_two_classes(
    put: Put, stem: str, zero: str, one: str
) -> None:
    files = files_of(f"senteval/{stem}")
    assert [file.name for file in files] == [zero, one]
    put(files[0], b"a caf\xe9 \n\nnothing new\n")
    put(files[1], b"good .\n")
    dataset = build(f"senteval/{stem}")
    assert rows_of(dataset) == [(0, "a café"), (0, "nothing new"), (1, "good .")]
    assert "not pinned" in dataset.source


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_the_treebank_is_a_sentence_a_tab_and_a_label_a_line(put: Put, split: str) -> None:
    put(
        published_sets()["senteval/SST2"].splits[split][0],
        "naïve , but fun . \t1\ndull \t0\n".encode(),
    )
    dataset = build("senteval/SST2", split=split)
    assert rows_of(dataset) == [(1, "naïve , but fun ."), (0, "dull")]


def test_trec_is_a_class_and_a_question_a_line(put: Put) -> None:
    train, test = files_of("senteval/TREC")
    put(train, b"DESC:manner How : so ?\nHUM:ind Who was Al\xe9 ?\n")
    put(test, b"NUM:dist How far ?\n")
    dataset = build("senteval/TREC")
    assert rows_of(dataset) == [("DESC", "How : so ?"), ("HUM", "Who was Alé ?"),
                                ("NUM", "How far ?")]  # fmt: skip
    assert dataset.fields["kind"].tolist() == ["manner", "ind", "dist"]
    assert dataset.fields["split"].tolist() == ["train", "train", "test"]
    assert len(build("senteval/TREC", split="train")) == 2


@pytest.mark.parametrize(("name", "column"), [("imdb", "text"), ("sst2", "sentence")])
def test_every_split_of_a_hub_dataset_is_read(
    put: Put, tmp_path: Path, name: str, column: str
) -> None:
    for split, (file,) in published_sets()[name].splits.items():
        rows: list[dict[str, object]] = [
            {"idx": i, column: f"{split} {i}", "label": 1 - i} for i in (0, 1)
        ]
        put(file, parquet(tmp_path, rows))
    for split in published_sets()[name].splits:
        dataset = build(name, split=split)
        assert rows_of(dataset) == [(1, f"{split} 0"), (0, f"{split} 1")]
        assert dataset.version == files_of(name)[0].revision


def test_a_group_that_is_no_column_is_not_taken_for_no_groups(put: Put) -> None:
    put(files_of("jin2024/stsa")[0], b"1 fine\n0 dull\n")
    with pytest.raises(KeyError, match="film"):
        replace(published_sets()["jin2024/stsa"], group="film")()


# --- What can be wrong with a file (one with a known digest is what it should be) -------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("jin2024/sarcasm", b'{"headline": "a", "is_sarcastic": 1}\n{"headl', "line 2 is not JSON"),
        ("jin2024/sarcasm", b'{"headline": "a"}\n', "line 1 is not JSON with headline and is_sar"),
        ("jin2024/sarcasm", b"\n\n", "no lines, expected JSON with headline"),
        ("jin2024/sarcasm", b'{"headline": "\xff"}', "line 1 is not UTF-8"),
        ("senteval/MR", b"", "no lines, expected text"),
        ("jin2024/stsa", b"1 fine\nfine\n", "line 2 is not '0' or '1', a space and a text"),
        ("senteval/SST2", b"a b 1\n", "line 1 is not a sentence, a tab, and 0 or 1"),
        ("senteval/SST2", b"a\t1\nb\t2\n", "line 2 is not a sentence, a tab, and 0 or 1"),
        ("senteval/TREC", b"DESC:def What ?\nWHAT:def What ?\n", "line 2 is not CLASS:kind"),
    ],
)
def test_a_garbled_file_is_named_with_the_line(
    put: Put, name: str, content: bytes, message: str
) -> None:
    file, *others = files_of(name)
    for one in (file, *others):
        put(one, content)
    with pytest.raises(UserError, match=message) as caught:
        build(name)
    assert f"{file.collection}/{file.name}: " in str(caught.value)


# --- The real files ---------------------------------------------------------------------------

COUNTS = [
    ("jin2024/cities", 748, 748, 748),
    ("jin2024/common_claim", 3000, 3000, None),
    ("jin2024/strategyqa", 1071, 1219, None),
    ("jin2024/coinflip", 253, 247, None),
    ("geometry_of_truth/cities", 748, 748, 748),  # from the copy that jin2024 has
    ("geometry_of_truth/neg_cities", 748, 748, 748),
    ("geometry_of_truth/sp_en_trans", 177, 177, 237),
    ("geometry_of_truth/neg_sp_en_trans", 177, 177, 237),
    ("geometry_of_truth/larger_than", 990, 990, 990),
    ("geometry_of_truth/smaller_than", 990, 990, 990),
]


@real
@pytest.mark.usefixtures("real_data")
@pytest.mark.parametrize(("name", "zero", "one", "groups"), COUNTS)
def test_the_real_files_have_the_published_numbers(
    name: str, zero: int, one: int, groups: int | None
) -> None:
    with without_downloads():
        dataset = build(name)
    assert np.bincount(dataset.labels).tolist() == [zero, one]
    assert (None if dataset.groups is None else len(set(dataset.groups))) == groups
    file = files_of(name)[0]
    assert dataset.version == file.revision
    assert file.revision[:7] in dataset.source
    assert dataset.licence == "no licence stated; cite the paper"
    assert ("Jin" if "jin2024" in name else "Marks") in dataset.citation
    assert len(dataset.description.splitlines()) == 1


@real
@pytest.mark.usefixtures("real_data")
@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("jin2024/cities", "The city of Krasnodar is in Russia.",
         "The city of Tangerang is in China."),
        ("jin2024/common_claim", "In olden times, lemons were used as an insecticide.",
         "The hotter a substance, the colder is its opposite."),
        ("geometry_of_truth/larger_than", "Fifty-one is larger than fifty-two.",
         "Ninety-nine is larger than ninety-eight."),
        ("geometry_of_truth/neg_sp_en_trans", "The Spanish word 'con' does not mean 'to speak'.",
         "The Spanish word 'nuevo' does not mean 'new'."),
    ],
)  # fmt: skip
def test_the_real_files_begin_and_end_as_published(name: str, first: str, last: str) -> None:
    dataset = build(name)
    assert (dataset.texts[0], dataset.texts[-1]) == (first, last)


@real
@pytest.mark.usefixtures("real_data")
def test_all_common_claims_are_those_that_the_published_scores_are_of() -> None:
    whole = build("jin2024/common_claim", slice="released")
    assert np.bincount(whole.labels).tolist() == [12_063, 4_321]
    sliced = build("jin2024/common_claim")
    assert sliced.texts == [*whole.texts[:3000], *whole.texts[12_063:15_063]]


@real
@pytest.mark.usefixtures("real_data")
def test_no_real_explanation_begins_with_the_answer() -> None:
    dataset = build("jin2024/strategyqa")
    rest = [text.removeprefix(q) for text, q in zip(dataset.texts, dataset.fields["question"],
                                                    strict=True)]  # fmt: skip
    assert not any(text.startswith((" Yes.", " No.")) for text in rest)
    assert all(text.startswith(" ") for text in rest)


@real
@pytest.mark.usefixtures("real_data")
def test_the_order_gives_the_splits_of_the_study() -> None:
    """Accuracies of a bag of words under its split, calculated elsewhere, to within one example."""
    known = pd.read_csv(SHARED / "jin2024_published" / "bow_baselines.csv", index_col="dataset")
    names = {"cities": "cities", "strategyqa": "StrategyQA", "coinflip": "coinflip"}
    for name, row in names.items():
        dataset = build(f"jin2024/{name}")
        train, test, y_train, y_test = train_test_split(
            dataset.texts, dataset.labels, test_size=0.4, random_state=42
        )
        words = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=1000))
        accuracy = words.fit(train, y_train).score(test, y_test)
        assert len(test) == known.loc[row, "n_test"]
        assert accuracy == pytest.approx(known.loc[row, "bow_acc"], abs=1.1 / len(test)), name


@real
@pytest.mark.usefixtures("real_data")
def test_pairs_mislead_a_bag_of_words_unless_they_are_kept_together() -> None:
    dataset = build("jin2024/cities", prompts="none")
    accuracy = {
        grouped: bag_of_words_accuracy(
            dataset.texts,
            dataset.labels,
            assign_folds(dataset.labels, dataset.groups if grouped else None, 5),
        )
        for grouped in (False, True)
    }
    assert accuracy[False] == pytest.approx(0.388, abs=0.01)
    assert 0.45 < accuracy[True] < 0.65
