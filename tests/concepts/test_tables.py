"""Files of the user's own: what is read from them, and what is wrong with them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llmprobe.concepts.dataset import ConceptDataset
from llmprobe.concepts.load import load_dataset
from llmprobe.errors import UserError

ROWS = [
    {"text": "Lima, of Peru", "label": 1, "city": "Lima", "note": "é ✓"},
    {"text": 'so "called"', "label": 0, "city": "Lima", "note": "NA"},
    {"text": "None", "label": 1, "city": None, "note": "two\nlines"},
]


def written(path: Path) -> Path:
    """``ROWS`` in a file of the format that the suffix says."""
    table = pd.DataFrame(ROWS)
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n", encoding="utf-8")
    else:
        table.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.fixture
def load(tmp_path: Path):
    """``load(content)``: the dataset in a .csv file with this text or these bytes."""

    def load(content: str | bytes, name: str = "my.csv", **options: str) -> ConceptDataset:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return load_dataset(path, **options)

    return load


def problem(load, *arguments: str | bytes, **options: str) -> str:
    with pytest.raises(UserError) as caught:
        load(*arguments, **options)
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_dataset(tmp_path: Path, suffix: str) -> None:
    dataset = load_dataset(written(tmp_path / f"my.{suffix}"), group="city")
    assert dataset.name == "my"
    assert dataset.texts == [row["text"] for row in ROWS]
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.groups is not None
    assert dataset.groups[0] == dataset.groups[1] != dataset.groups[2]
    assert dataset.fields["note"].tolist() == [row["note"] for row in ROWS]


def test_the_label_is_no_field_and_the_group_is_one(tmp_path: Path) -> None:
    dataset = load_dataset(written(tmp_path / "my.jsonl"), group="city")
    assert set(dataset.fields.columns) == {"city", "note"}


def test_a_row_without_a_group_is_a_group_of_its_own(load) -> None:
    dataset = load("text,label,g\na,0,x\nb,1,\nc,0,\nd,1,x\n", group="g")
    assert len(set(dataset.groups)) == 3


def test_a_byte_order_mark_and_windows_line_ends_are_no_content(load) -> None:
    dataset = load(b"\xef\xbb\xbftext,label\r\na,0\r\nb,1\r\n")
    assert dataset.texts == ["a", "b"]
    assert dataset.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (["yes", "no"], ["yes", "no"]),
        (["1", "0"], [1, 0]),
        (["1.0", "0.0"], [1, 0]),
        (["True", "False"], [True, False]),
        (["None", "NA"], ["None", "NA"]),
        (["1", "no"], ["1", "no"]),
    ],
)
def test_labels_keep_their_kind(load, cells: list[str], labels: list[object]) -> None:
    found = load(f"text,label\na,{cells[0]}\nb,{cells[1]}\n").labels
    assert found.tolist() == labels


def test_numbers_and_words_are_texts(load) -> None:
    assert load("text,label\n12,0\n13,1\n").texts == ["12", "13"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        ("text,label\n", "no rows below the header"),
        ("statement,label\na,0\n", "no column 'text' (text); known: label, statement"),
        ("text,lable\na,0\n", "no column 'label' (label); did you mean 'lable'?"),
        ("text,label\na,0\n,1\n", "row 2 has no value in column 'text'"),
        ("text,label\na,0\n  ,1\n", "row 2 has no value in column 'text'"),
        ("text,label\na,0\nb,\nc,\n", "row 2 has no value in column 'label'; rows without one: 2"),
        ("text,label\na,0\nb,NaN\n", "row 2 has no value in column 'label'"),
        ("text,label\na,yes\nb,nan\n", "row 2 has no value in column 'label'"),
        ("text,label\na,0\nb\n", "row 2 has no value in column 'label'"),
        ("text,label\na,inf\nb,1\n", "column 'label' has values that are not finite"),
        ("text,label\na,1\nb,1\n", "every label is"),
        ("text,label\na,0\nb,c,1\n", "Expected 2 fields in line 3, saw 3"),
        ("text,label\na,b,0\nc,d,1\n", "rows have more cells than the header"),
        ('text,label\n"a,0\nb,1\n', "cannot be read: "),
        ("text,label\na,0\nb\0,1\n", "line 3 has a NUL byte"),
        ("text,label\na,0\ncafé,1\n".encode("latin-1"), "line 3 is not UTF-8"),
        ("text,label\na,0\nb,1\n".encode("utf-16"), "line 1 is not UTF-8"),
    ],
)
def test_what_is_wrong_with_a_csv_file_is_said(load, content: str | bytes, words: str) -> None:
    said = problem(load, content)
    assert words in said
    assert "my.csv" in said or "'my'" in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"text": "a", "label": 0}\n\n{"text": "b" "label": 1}\n', "line 3 is not JSON: Expe"),
        ('{"text": "a", "label": 0}\n["b", 1]\n', "line 2 is not a JSON object"),
        ('{"text": "a", "label": 0}\n{"text": "b"}\n', "row 2 has no value in column 'label'"),
        ('{"text": "a", "label": 0}\n{"text": "b", "label": NaN}\n', "row 2 has no value in"),
        ('{"text": "a", "label": ""}\n{"text": "b", "label": "x"}\n', "row 1 has no value in"),
        ('{"text": null, "label": 0}\n{"text": "b", "label": 1}\n', "row 1 has no value in"),
        ("", "the file is empty"),
        (50_000 * "[", "line 1 is not JSON"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_jsonl_file_is_said(load, content: str, words: str) -> None:
    said = problem(load, content, "my.jsonl")
    assert words in said
    assert "my.jsonl" in said


def test_separators_of_unicode_end_no_line_of_jsonl(load) -> None:
    text = "one\u2028still one\u0085"
    rows = [{"text": text, "label": 0}, {"text": "b", "label": 1}]
    content = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    assert load(content, "my.jsonl").texts == [text, "b"]


def test_a_zip_file_called_csv_is_refused(tmp_path: Path, load) -> None:
    with zipfile.ZipFile(tmp_path / "my.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("my.csv", "text,label\n" + 100 * "a,0\n")
    assert "not UTF-8" in problem(load, (tmp_path / "my.zip").read_bytes())


def test_a_parquet_file_that_is_none_is_refused(load) -> None:
    assert "cannot be read" in problem(load, "text,label\na,0\n", "my.parquet")


def test_a_column_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    columns = [pa.array(["a", "b"]), pa.array([0, 1]), pa.array([0, 1])]
    table = pa.Table.from_arrays(columns, names=["text", "label", "label"])
    pyarrow.parquet.write_table(table, tmp_path / "my.parquet")
    with pytest.raises(UserError, match=r"my\.parquet: "):
        load_dataset(tmp_path / "my.parquet")


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_dataset(tmp_path / "absent.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match="not a file"):
        load_dataset(tmp_path / "folder.csv")


def test_another_suffix_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    (tmp_path / "my.xlsx").touch()
    with pytest.raises(UserError, match=r"cannot read \.xlsx files; known: \.csv"):
        load_dataset("my", path=tmp_path / "my.xlsx")


def test_integers_too_large_for_a_float_stay_distinct(load) -> None:
    large = 2**60
    labels = load(f"text,label\na,{large}\nb,{large + 1}\n").labels
    assert labels.tolist() == [large, large + 1]
    assert labels.dtype == np.int64


def test_labels_with_fractions_stay_numbers(load) -> None:
    dataset = load("text,label\na,0.5\nb,1\nc,-2e3\n")
    assert dataset.labels.tolist() == [0.5, 1, -2000]
    assert load("text,label\na,1.0\nb,2.0\n").labels.dtype.kind == "i"


def test_a_sample_of_numbers_is_of_any_of_them(load) -> None:
    rows = "\n".join(f"text {i},{i / 3}" for i in range(200))
    assert len(load(f"text,label\n{rows}\n").sample(50)) == 50
