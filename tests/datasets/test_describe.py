"""What the command line prints about datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from toy import write_table

from llmprobe.config.load import dataset_config
from llmprobe.datasets import describe as page
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.describe import describe, known_datasets, show
from llmprobe.datasets.published import KnownFile, PublishedDataset
from llmprobe.datasets.registry import REGISTRY, Entry
from llmprobe.probing.baselines import surface_accuracy


def made(n: int = 40, **parts: object) -> ConceptDataset:
    texts = [f"statement number {i}" for i in range(n)]
    return ConceptDataset("made", texts, np.arange(n) % 2, **parts)  # type: ignore[arg-type]


def lines_of(said: str) -> dict[str, str]:
    """The value of each key; what is wrapped is joined again."""
    keys: dict[str, str] = {}
    key = ""
    for line in said.split("\n\n")[1].splitlines():
        key = line[:10].strip() or key
        keys[key] = f"{keys.get(key, '')} {line[10:].strip()}".strip()
    return keys


def examples_of(said: str) -> list[str]:
    """The lines below the table's header."""
    return said.split("\n\n")[2].splitlines()[1:]


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, Entry]:
    """An empty registry."""
    entries: dict[str, Entry] = {}
    monkeypatch.setattr(page, "REGISTRY", entries)
    return entries


def entry(name: str, family: str, dial: str | None = None) -> Entry:
    def build(n: int = 40, depth: int = 2) -> ConceptDataset:
        assert depth
        return made(n)

    return Entry(name, build, f"Is it {name}?", family, dial)


def test_every_known_dataset_is_listed_in_lines_that_fit() -> None:
    lines = known_datasets().splitlines()
    listed = {line.split()[0] for line in lines if line.startswith("  ")}
    assert set(REGISTRY) <= listed
    assert max(map(len, lines)) <= 100


def test_the_list_is_in_families(registered: dict[str, Entry]) -> None:
    for name, family in (("z", "facts"), ("mine", "yours"), ("b", "odd"), ("a", "facts")):
        registered[name] = entry(name, family)
    registered["flip"] = entry("flip", "reasoning", "depth")
    blocks = [block.splitlines() for block in known_datasets().split("\n\n")]
    assert blocks[0] == ["Facts", "  a  Is it a?", "  z  Is it z?"]
    assert blocks[1][1] == "  flip  dial: depth  Is it flip?"
    assert [block[0] for block in blocks[2:4]] == ["Yours", "odd"]
    assert "(`hub: owner/name`)" in " ".join(blocks[4])


def test_the_list_tells_what_would_be_downloaded(
    registered: dict[str, Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = KnownFile("kept", "here.csv", "", "", size=7)
    far, unknown = (KnownFile("far", "far.csv", "", "", size=n) for n in (1_600_000, None))
    files = {"all_here": (here,), "far": (far, far, here), "unknown": (far, unknown)}
    monkeypatch.setattr(page, "is_here", lambda file: file == here)
    for name, needed in files.items():
        build = PublishedDataset(name, f"Is it {name}?", needed, "", pd.DataFrame)
        registered[name] = Entry(name, build, build.question, "jin2024")
    assert known_datasets().splitlines()[1:4] == [
        "  all_here  here             Is it all_here?",
        "  far       download 3.2 MB  Is it far?",
        "  unknown   download         Is it unknown?",
    ]


def test_a_description_says_what_is_known(registered: dict[str, Entry]) -> None:
    registered["made"] = entry("made", "yours", "depth")
    dataset = made(
        description="Is the number even?", source="a book", citation="A. Author (2020)",
        licence="CC0", version="7", groups=np.arange(40) // 2 * 10,
        fields=pd.DataFrame({"parity": ["even", "odd"] * 20, "number": np.arange(40)}),
        variants={"negation": [["no"]] * 40},
    )  # fmt: skip
    said = describe(dataset, dataset_config("made"), ["negation"])
    assert said.startswith("made\nIs the number even?\n\n")
    assert lines_of(said) == {
        "source": "a book",
        "citation": "A. Author (2020)",
        "licence": "CC0",
        "version": "7",
        "size": "40 texts in 20 groups of 2; 19 characters on average, 19 at most",
        "labels": "0: 20 (50.0 %), 1: 20 (50.0 %); majority rate 50.0 %",
        "fields": "parity (even, odd), number (40 values)",
        "options": "n=40, depth=2 (the dial)",
        "perturb": "negation, prefix_noise, typos, case",
        "content": dataset.content_hash[:12],
        "checks": "nothing found",
    }


def test_what_the_checks_find_is_in_the_description() -> None:
    texts = [*(f"statement number {i}" for i in range(39)), "statement number 0"]
    dataset = ConceptDataset("made", texts, np.arange(40) % 2)
    assert lines_of(describe(dataset))["checks"].startswith(
        "warning  1 of 40 texts repeat another: 'statement number 0' occurs 2 times"
    )
    only_one = ConceptDataset("made", ["same"] * 4, np.arange(4) % 2)
    assert lines_of(describe(only_one))["checks"].startswith("error    all 4 texts are the same")


@pytest.mark.parametrize(
    ("accuracy", "words"),
    [
        (1.0, "the words alone get 100.0 % right, so a probe as good as that shows no more; "
              "if the label belongs to the subject of a text, use `group: who`"),
        (0.2, "the words alone get 20.0 % right, below the majority rate of 50.0 %"),
        (0.8, ""),
    ],
)  # fmt: skip
def test_a_conclusion_is_drawn_from_the_bag_of_words(accuracy: float, words: str) -> None:
    who = pd.DataFrame({"who": [f"person {i // 4}" for i in range(80)]})
    labels = np.random.default_rng(0).integers(2, size=20).repeat(4)
    labels[:40] = 1 - labels[40:]
    texts = [f"statement {i} of {name}" for i, name in enumerate(who["who"])]
    dataset = ConceptDataset("made", texts, labels, fields=who)
    said = " ".join(describe(dataset, surface=lambda *_: accuracy).split())
    assert words in said
    assert ("the words alone" in said) == bool(words)


def test_each_of_several_concepts_has_its_bag_of_words() -> None:
    concepts = {f"c{i}": np.arange(20) // (1 + i % 2) % 2 for i in range(9)}
    texts = [f"statement number {i}" for i in range(20)]
    dataset = ConceptDataset("made", texts, np.arange(20) % 2, concepts=concepts)
    said = " ".join(describe(dataset, surface=lambda *_: 1.0).split())
    assert "words c0: a bag of words gets 100.0 % right, out of fold; c1: a bag of words" in said
    assert "; 1 more were not read" in said
    assert "c1: the words alone get 100.0 % right" in said


def test_a_template_is_shown_once_and_counted_in_the_lengths() -> None:
    dataset = made(template="True or false?\n{text}")
    said = describe(dataset)
    keys = lines_of(said)
    assert keys["template"] == "True or false?\\n{text}"
    assert "34 characters on average, 34 at most" in keys["size"]
    assert keys["content"] != made().content_hash[:12]
    assert all("True or" not in line for line in examples_of(said))


def test_labels_with_fractions_and_many_classes_are_summed_up() -> None:
    texts = [f"statement number {i}" for i in range(300)]
    numbers = ConceptDataset("made", texts, np.linspace(-1, 2, 300))
    assert lines_of(describe(numbers))["labels"] == "numbers from -1 to 2, mean 0.5"
    classes = np.maximum(np.arange(300) // 20 - 2, 0)
    said = lines_of(describe(ConceptDataset("made", texts, classes)))["labels"]
    assert said.startswith("0: 60 (20.0 %), 1: 20 (6.7 %), 2: 20 (6.7 %)")
    assert said.endswith("9: 20 (6.7 %), and 3 more classes; majority rate 20.0 %")


def test_examples_are_of_every_class_and_from_everywhere() -> None:
    labels = np.array([*("yes", "no", "unknown") * 30, "rare"])
    dataset = ConceptDataset("made", [f"statement number {i}" for i in range(91)], labels)
    shown = examples_of(describe(dataset))
    found = [line.split()[0] for line in shown]
    assert {label: found.count(label) for label in set(found)} == {
        "yes": 2, "no": 2, "unknown": 2, "rare": 1,
    }  # fmt: skip
    numbers = [int(line.split()[-1]) for line in shown]
    assert len(set(numbers)) == 7
    assert min(numbers) < 25
    assert max(numbers) == 90


def test_examples_of_many_classes_or_numbers_are_spread_over_them() -> None:
    texts = [f"statement number {i}" for i in range(300)]
    shown = examples_of(describe(ConceptDataset("made", texts, np.arange(300) / 3)))
    labels = [float(line.split()[0]) for line in shown]
    assert len(labels) == 8
    assert min(labels) == 0
    assert max(labels) > 99


def test_few_rows_are_each_shown_once() -> None:
    said = describe(ConceptDataset("made", list("abcde"), np.array([0, 1, 0, 1, 0])))
    assert sorted(line.split()[1] for line in examples_of(said)) == list("abcde")


def test_examples_show_their_groups() -> None:
    said = describe(made(groups=np.array(["first", "second"]).repeat(20)))
    assert said.split("\n\n")[2].splitlines()[0].split() == ["label", "group", "text"]
    assert {line.split()[1] for line in examples_of(said)} == {"first", "second"}


def test_everything_fits_in_lines() -> None:
    dataset = ConceptDataset(
        "made", [f"{500 * 'long '}end", "two\nlines", 300 * "x"], np.array([50 * "y", "z", "z"]),
        groups=np.array([90 * "g", "h", "i"]), citation=30 * "et al. ",
        template="{text}" + 300 * "-",
    )  # fmt: skip
    said = describe(dataset)
    assert max(map(len, said.splitlines())) <= 100
    table = "\n".join(examples_of(said))
    assert "two lines" in table
    assert "long … long" in " ".join(table.split())
    assert "long end" in " ".join(table.split())


def test_no_control_character_reaches_the_terminal() -> None:
    said = describe(ConceptDataset("made", ["red \x1b[31m", "blue"], np.array([0, 1])))
    assert "red ?[31m" in said
    assert "\x1b" not in said


def test_show_takes_a_name_with_options_and_a_file(tmp_path: Path) -> None:
    known = show(dataset_config("coin_flip", ["n=20", "options.people=6"]))
    assert "\nsize      20 texts" in known
    assert "options   n=20 (default 1000), seed=0, people=6 (the dial, default 4)," in known
    negated = lines_of(show(dataset_config("cities", ["n=100", "perturb=negation"])))
    assert negated["perturb"] == (
        "negation (done here); offered: negation, prefix_noise, typos, case"
    )
    file = str(write_table(tmp_path / "toy.csv"))
    own = lines_of(show(dataset_config(file, ["n=10", "template='So: {text}'"])))
    assert own["size"].startswith("10 texts")
    assert own["template"] == "So: {text}"
    assert "options" not in own


def test_show_offers_no_perturbation_of_chats_and_labelled_words(tmp_path: Path) -> None:
    chats, words = tmp_path / "chats.jsonl", tmp_path / "words.jsonl"
    chat = '{{"messages": [{{"role": "user", "content": "{}"}}], "label": {}, "part": "{}"}}\n'
    chats.write_text(chat.format("one", 0, "test") + chat.format("two", 1, "train"))
    words.write_text('{"t": ["one", "two"], "tags": ["a", "b"]}\n')
    texts = show(dataset_config(str(chats), ["test={column: part}"]))
    assert "prefix_noise" not in texts
    assert "2 texts, 1 of them to be scored; " in texts
    assert "prefix_noise" not in show(dataset_config(str(words), ["tokens=t", "tags=tags"]))


def test_show_says_what_the_words_alone_give_away(tmp_path: Path) -> None:
    table = str(write_table(tmp_path / "toy.csv"))
    said = lines_of(show(dataset_config(table), surface_accuracy))
    assert said["words"] == "a bag of words gets 100.0 % right, out of fold"
    many = lines_of(show(dataset_config("coin_flip", ["n=3000"]), lambda *_: 0.5))
    assert many["words"].endswith("50.0 % right, out of fold (2,000 of the texts)")
    few = tmp_path / "few.csv"
    few.write_text("text,label\na,0\nb,1\nc,0\n")
    assert "words" not in lines_of(show(dataset_config(str(few)), surface_accuracy))
    few.write_text("text,label\na,0.5\nb,1.5\nc,0.25\n")
    assert "words" not in lines_of(show(dataset_config(str(few)), surface_accuracy))


def test_show_prints_an_error_that_probing_would_stop_at(tmp_path: Path) -> None:
    path = tmp_path / "same.csv"
    path.write_text("text,label\nsame,0\nsame,1\n")
    assert "checks    error    all 2 texts are the same" in show(dataset_config(str(path)))
