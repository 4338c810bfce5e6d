"""From a name, a file or a config section to texts and labels."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy import write_table

from llmprobe.concepts.load import describe, known_datasets, load_dataset
from llmprobe.config import DatasetConfig
from llmprobe.errors import UserError


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "my.csv"
    path.write_text(
        "statement,truth,city,country\n"
        "Lima is in Peru,yes,Lima,Peru\n"
        "Lima is in France,no,Lima,\n"
        "Bern is in France,no,Bern,France\n"
        "Paris is in France,yes,Paris,France\n"
    )
    return path


COLUMNS = {"text": "statement", "label": "truth", "group": "city"}


def test_keywords_are_those_of_a_config_mapping(table: Path) -> None:
    by_keywords = load_dataset(str(table), **COLUMNS, template="{text}?", n=3, seed=4)
    by_config = load_dataset(DatasetConfig(path=table, **COLUMNS, template="{text}?", n=3, seed=4))
    assert by_keywords.to_pandas().equals(by_config.to_pandas())
    assert len(by_keywords) <= 3


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("capitols", {}, "did you mean 'capitals'"),
        ("capitals", {"tempalte": "{text}"}, "tempalte: unknown key; did you mean 'template'?"),
        ("capitals", {"options": {"negative": "hard"}}, "did you mean 'negatives'?"),
        ("capitals", {"options": {"templates": [["a"]]}}, "templates is"),
        ("capitals", {"options": {"templates": {"a": "b"}}}, "templates is"),
        ("capitals", {"options": {"templates": 3}}, "templates is 3"),
        ("coin_flip", {"options": {"people": "four"}}, "people is 'four'; allowed: a whole number"),
        ("coin_flip", {"n": 0}, "n: 0 is not allowed"),
        ("capitals", {"group": "city"}, "group names a column of a file"),
        ("notes.txt", {}, r"a file ends in .csv"),
        ("", {}, "needs a name or a path"),
    ],
)
def test_what_is_not_known_is_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_dataset(name, **options)
    assert words in str(caught.value)


def test_a_generated_dataset_makes_as_many_as_are_asked_for() -> None:
    assert len(load_dataset("coin_flip", n=1200)) == 1200
    assert load_dataset("coin_flip", n=10, seed=1).texts != load_dataset("coin_flip", n=10).texts


def test_a_shipped_dataset_is_drawn_from() -> None:
    few, all_of_it = load_dataset("capitals", n=100), load_dataset("capitals")
    assert 80 <= len(few) <= 100
    assert set(few.texts) < set(all_of_it.texts)
    assert load_dataset("capitals", n=10**6).texts == all_of_it.texts


def test_a_table_calls_a_dataset_by_its_alias() -> None:
    assert load_dataset(DatasetConfig.model_validate({"name": "capitals", "as": "c"})).name == "c"


def test_a_template_takes_the_text_and_the_other_columns(table: Path) -> None:
    dataset = load_dataset(table, **COLUMNS, template="About {city}: {text}. {{True}}?")
    assert dataset.texts[0] == "About Lima: Lima is in Peru. {True}?"


def test_a_template_knows_where_each_field_stands(table: Path) -> None:
    dataset = load_dataset(table, **COLUMNS, template="{{x}} {city!r:>12}: {text} ({city})?")
    plain = load_dataset(table, **COLUMNS)
    for name, filled in (("city", plain.fields["city"]), ("text", plain.texts)):
        for row, (start, stop) in enumerate(dataset.spans[name]):
            assert dataset.texts[row][start:stop] == filled[row]
            # Of two places, the last one.
            assert dataset.texts[row].rfind(filled[row]) == start


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{txet}", "template field {txet}: did you mean 'text'?"),
        ("{truth}: {text}", "template field {truth}: "),
        ("{}", "template field {}: "),
        ("{text.__class__}", "template field {text.__class__}: "),
        ("{country}: {text}", "template field {country}: row 2 has no value"),
        ("{text:d}", "template '{text:d}' cannot be filled: "),
        ("{text:{width}}", "cannot be filled: "),
        ("{text", "is not allowed: "),
        ("nothing", "has no field"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(
    table: Path, template: str, words: str
) -> None:
    with pytest.raises(UserError) as caught:
        load_dataset(table, **COLUMNS, template=template)
    assert words in str(caught.value)


def test_a_template_does_not_change_what_is_drawn() -> None:
    plain = load_dataset("capitals", n=50, seed=3)
    asked = load_dataset("capitals", n=50, seed=3, template="{text}?")
    assert asked.texts == [f"{text}?" for text in plain.texts]


def test_repeated_texts_are_counted_in_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "my.csv"
    path.write_text("text,label\na,0\nb,1\na,0\na,1\nb,1\nc,0\n")
    with caplog.at_level(logging.WARNING):
        assert len(load_dataset(path)) == 6
    assert "3 of 6 texts are repeats (1 with two labels), 'a' occurs 3 times" in caplog.text


def test_without_repeats_there_is_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_dataset(write_table(tmp_path / "toy.csv"))
    assert not caplog.records


def test_every_known_dataset_can_be_described() -> None:
    for name, summary in known_datasets():
        said = describe(name)
        assert summary
        for word in ("source", "licence", "size", "labels", "options", "examples"):
            assert f"\n{word}" in said


def test_a_description_shows_examples_of_every_class(tmp_path: Path) -> None:
    path = tmp_path / "my.csv"
    rows = [f"statement {i},{label}" for label in ("yes", "no", "unknown") for i in range(30)]
    path.write_text("\n".join(["text,label", *rows, "the only one,rare"]))
    examples = describe(str(path)).split("examples\n")[1].splitlines()
    shown = [line.split()[0] for line in examples]
    assert {label: shown.count(label) for label in set(shown)} == {
        "yes": 2, "no": 2, "unknown": 2, "rare": 1,
    }  # fmt: skip
    assert len(set(examples)) == len(examples)


def test_a_description_fits_in_lines(tmp_path: Path) -> None:
    path = tmp_path / "my.jsonl"
    path.write_text(
        '{"text": "' + 500 * "long " + 'end", "label": "' + 50 * "x" + '"}\n'
        '{"text": "two\\nlines", "label": "y"}\n'
    )
    examples = describe(str(path)).split("examples\n")[1].splitlines()
    assert len(examples) == 2
    assert all(len(line) <= 185 for line in examples)
    assert examples[0].endswith("long end")
    assert examples[1].endswith("two lines")


def test_few_rows_are_each_shown_once(tmp_path: Path) -> None:
    path = tmp_path / "my.csv"
    path.write_text("text,label\na,0\nb,1\nc,0\nd,1\ne,0\n")
    examples = describe(str(path)).split("examples\n")[1].splitlines()
    assert sorted(np.char.strip(examples)) == ["0  a", "0  c", "0  e", "1  b", "1  d"]
