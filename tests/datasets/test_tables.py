"""Files of the user's own: what is read from them, and what is wrong with them."""

from __future__ import annotations

import csv
import gzip
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llmprobe
from llmprobe.config.schema import TABLE_SUFFIXES, DatasetConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.from_table import parts_of_table
from llmprobe.datasets.tables import read_table
from llmprobe.ground.errors import UserError

ROWS = [
    {"text": "Lima, of Peru", "label": 1, "city": "Lima", "note": "é ✓"},
    {"text": 'so "called"', "label": 0, "city": "Lima", "note": "NA"},
    {"text": "None", "label": 1, "city": None, "note": "two\nlines"},
]


def written(path: Path) -> Path:
    """``ROWS`` in a file of the format that the suffix says."""
    table = pd.DataFrame(ROWS)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(written(path.with_suffix("")).read_bytes()))
    elif path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps({"version": 1, "data": ROWS}, indent=2))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n", encoding="utf-8")
    else:
        table.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


def read(path: Path, **options: Any) -> ConceptDataset:
    """What is in a file, before anything is said of how well it can be probed."""
    config = DatasetConfig.model_validate({"path": path, **options})
    table = read_table(path, config.encoding, config.delimiter, config.quoting)
    return ConceptDataset(**parts_of_table(table, config, str(path)))


@pytest.fixture
def load(tmp_path: Path):
    """``load(content)``: the dataset in a .csv file with this text or these bytes."""

    def load(content: str | bytes, name: str = "my.csv", **options: Any) -> ConceptDataset:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read(path, **options)

    return load


@pytest.mark.parametrize("suffix", [suffix[1:] for suffix in TABLE_SUFFIXES])
def test_every_format_gives_the_same_dataset(tmp_path: Path, suffix: str) -> None:
    dataset = read(written(tmp_path / f"my.{suffix}"), group="city")
    assert dataset.name == "my"
    assert dataset.texts == [row["text"] for row in ROWS]
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.groups is not None
    assert dataset.groups[0] == dataset.groups[1] != dataset.groups[2]
    assert dataset.fields["note"].tolist() == [row["note"] for row in ROWS]


def test_json_lines_and_lists_of_objects_may_be_called_json(load) -> None:
    lines = '{"text": "a", "label": 0}\n\n{"text": "b", "label": 1}\n'
    assert load(lines, "my.json").texts == ["a", "b"]
    listed = '[{"text": "a", "label": 0},\n{"text": "b", "label": 1}]'
    assert load(listed, "my.json").texts == ["a", "b"]


def test_a_small_archive_cannot_fill_the_memory(load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmprobe.datasets.tables.LARGEST", 1000)
    content = b"text,label\na,0\nb,1\n"
    assert load(gzip.compress(content), "my.csv.gz").texts == ["a", "b"]
    with pytest.raises(UserError, match=r"more than 1 kB when unpacked; .* the unpacked file"):
        load(gzip.compress(content + 1000 * b"\n"), "my.csv.gz")


def test_the_label_is_no_field_and_the_group_is_one(tmp_path: Path) -> None:
    dataset = read(written(tmp_path / "my.jsonl"), group="city")
    assert set(dataset.fields.columns) == {"city", "note"}


@pytest.mark.parametrize("none", ["", "-1", "N/A", "unlabeled", "nan", " - "])
def test_rows_without_a_label_are_left_out_where_that_is_asked_for(load, none: str) -> None:
    content = f"text,label,g\na,0,x\nb,{none},x\nc,1,y\nd,2,y\n"
    dataset = load(content, drop={"unlabelled": True}, group="g")
    assert dataset.texts == ["a", "c", "d"]
    assert dataset.labels.tolist() == [0, 1, 2]
    assert dataset.groups.tolist() == ["x", "y", "y"]
    with pytest.raises(UserError, match="no row has a label"):
        load(f"text,label\na,{none}\nb,{none}\n", drop={"unlabelled": True})


def test_rare_classes_are_left_out_where_that_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "my.csv"
    path.write_text("text,label\n" + "".join(f"t{i},{'abbcccddd'[i]}\n" for i in range(9)))
    caplog.set_level("INFO")
    assert llmprobe.load_dataset(path, drop={"classes_under": 3}).texts == [
        f"t{i}" for i in range(3, 9)
    ]
    assert "3 examples of 2 classes with fewer than 3 are left out: a, b" in caplog.text
    assert len(llmprobe.load_dataset(path, drop={"classes_under": 1})) == 9
    with pytest.raises(UserError, match="no class has as many examples; the most frequent has 3"):
        llmprobe.load_dataset(path, drop={"classes_under": 4})


def test_of_several_concepts_rare_ones_are_left_out_and_no_text_for_what_it_lacks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "moods.csv"
    rows = [(i % 2, i % 3 == 0, i == 5, i / 7) for i in range(12)]
    cells = "".join(
        f"t{i},{joy},{fear:d},{awe:d},{x}\n" for i, (joy, fear, awe, x) in enumerate(rows)
    )
    path.write_text("text,joy,fear,awe,size\n" + cells)
    caplog.set_level("INFO")
    drop = {"classes_under": 4, "unlabelled": True}
    dataset = llmprobe.load_dataset(path, label=["joy", "fear", "awe", "size"], drop=drop)
    assert len(dataset) == 12
    assert list(dataset.concepts) == ["joy", "fear", "size"]
    assert dataset.labels[:4].tolist() == ["fear", "joy", "none", "joy, fear"]
    assert "1 concepts with a class with fewer than 4 are left out: awe" in caplog.text
    with pytest.raises(UserError, match="each of the 2 concepts has a class with fewer"):
        llmprobe.load_dataset(path, label=["joy", "awe"], drop={"classes_under": 7})


def test_a_label_that_is_missing_is_refused_with_the_key_that_drops_it(load) -> None:
    with pytest.raises(UserError, match=r"row 2: no value .* `drop: \{unlabelled: true\}`"):
        load("text,label\na,0\nb,\nc,1\n")


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
    ("label", "kind"),
    [("2", int), ("2.0", int), ("2.5", float), ("-2e3", int), ("007", str), ("two", str)],
)
def test_labels_are_numbers_only_when_all_are(load, label: str, kind: type) -> None:
    found = load(f"text,label\na,{label}\nb,1\n").labels.tolist()
    assert {type(value) for value in found} == {kind}


def test_labels_may_be_letters_or_digits(load) -> None:
    letters = "tynf01abc"
    rows = "".join(f"text {letter},{letter}\n" for letter in letters)
    assert load(f"text,label\n{rows}").labels.tolist() == list(letters)


def test_texts_and_fields_stay_as_they_are_written(load) -> None:
    dataset = load("text,label,code,year,share\n007,0,01,1984,1.50\n1.50,1,2,1985,2\n")
    assert dataset.texts == ["007", "1.50"]
    assert dataset.fields["code"].tolist() == ["01", "2"]
    assert dataset.fields["year"].tolist() == [1984, 1985]
    assert dataset.fields["share"].tolist() == ["1.50", "2"]


@pytest.mark.parametrize("text", ["text", "statement", "sentence", "Text", "Sentence", " text"])
@pytest.mark.parametrize("label", ["label", "Label"])
def test_columns_with_the_usual_names_need_not_be_said(load, text: str, label: str) -> None:
    dataset = load(f"id,{label},{text}\n1,x,a\n2,y,b\n")
    assert dataset.texts == ["a", "b"]
    assert dataset.labels.tolist() == ["x", "y"]
    assert list(dataset.fields.columns) == ["id"]


def test_columns_that_are_said_count_more_than_usual_names(load) -> None:
    dataset = load("text,sentence,label,kind\na,b,0,x\nc,d,1,y\n", text="sentence", label="kind")
    assert dataset.texts == ["b", "d"]
    assert dataset.labels.tolist() == ["x", "y"]


ACCENTS = "text,label\ncafé,0\nnaïve “x”,1\n"


@pytest.mark.parametrize(
    ("used", "said"),
    [
        ("utf-8", None), ("utf-8-sig", None), ("utf-16", None), ("utf-32", None),
        ("utf-8-sig", "utf-8"), ("utf-16-le", "utf-16-le"), ("cp1252", "cp1252"),
    ],
)  # fmt: skip
def test_a_file_is_read_in_its_encoding(load, used: str, said: str | None) -> None:
    options = {} if said is None else {"encoding": said}
    assert load(ACCENTS.encode(used), **options).texts == ["café", "naïve “x”"]
    assert load(ACCENTS.encode(used), "my.tsv", delimiter=",", **options).texts[0] == "café"


@pytest.mark.parametrize("delimiter", [";", "|", "\t", " ", "é"])
def test_cells_are_parted_by_the_delimiter_that_is_said(load, delimiter: str) -> None:
    rows = [["text", "label"], ["a,b", "0"], ["c", "1"]]
    content = "\n".join(delimiter.join(row) for row in rows)
    assert load(content, delimiter=delimiter).texts == ["a,b", "c"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_may_end_in_any_way_and_quoted_cells_hold_anything(load, end: str) -> None:
    lines = ["text,label", '"two\nlines, and ""quotes""",0', "", 'inches: 5",1']
    dataset = load(end.join(lines) + end)
    assert dataset.texts == ['two\nlines, and "quotes"', 'inches: 5"']


def test_columns_without_a_name_are_left_out(load) -> None:
    dataset = load(",text,label,\n0,a,0,\n1,b,1,\n")
    assert dataset.texts == ["a", "b"]
    assert len(dataset.fields.columns) == 0


def test_a_text_may_be_long(load) -> None:
    long = 1_000_000 * "x"
    assert load(f"text,label\n{long},0\nb,1\n").texts[0] == long


GLUE = "".join(
    f"{start}a film {i} of many{end}\t{i % 2}\n"
    for i, (start, end) in enumerate([("", ""), ('"', ""), ("", ""), ("", '"'), ("", "")] * 4)
)


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_no_row_is_lost_between_quotation_marks_that_are_part_of_texts(
    load, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    content = f"text\tlabel\n{GLUE}"
    content = content.replace("\t", ",") if suffix == "csv" else content
    dataset = load(content, f"my.{suffix}")
    assert dataset.texts[:4] == [
        "a film 0 of many", '"a film 1 of many', "a film 2 of many", 'a film 3 of many"'
    ]  # fmt: skip
    assert len(dataset) == 20
    assert "from row 2 on" in caplog.text
    assert "(12 rows)" in caplog.text
    assert "(20 rows); the second is taken, with `quoting: none`" in caplog.text
    caplog.clear()
    assert load(content, f"my.{suffix}", quoting="none").texts == dataset.texts
    assert len(load(content, f"my.{suffix}", quoting="minimal")) == 12
    assert caplog.text == ""


def test_a_tsv_with_a_stray_quotation_mark_is_read_and_a_csv_refused(
    load, caplog: pytest.LogCaptureFixture
) -> None:
    content = 'text\tlabel\n"so be it" , he said\t0\nb "c" d\t1\n"e\t1\n'
    assert load(content, "my.tsv").texts == ['"so be it" , he said', 'b "c" d', '"e']
    assert "read with `quoting: none`" in caplog.text
    csv = content.replace(" ,", "").replace("\t", ",")
    with pytest.raises(UserError, match="say `quoting: none`"):
        load(csv)
    assert load(csv, quoting="none").texts[2] == '"e'
    # Marks that are written twice are those of a program that quotes.
    with pytest.raises(UserError, match="row 2"):
        load('text\tlabel\n"so ""be"" it"\t0\n"e\t1\n', "my.tsv")


def test_cells_that_hold_line_breaks_and_delimiters_are_named_where_both_readings_fit(
    load, caplog: pytest.LogCaptureFixture
) -> None:
    rows = "".join(f"text {i},{'yes' if i % 2 else 'no'}\n" for i in range(9))
    dataset = load(f'text,label\n{rows}"Hello, dear\nfriend",no\n')
    assert dataset.texts[9] == "Hello, dear\nfriend"
    assert "from row 10 on, quotation marks" in caplog.text
    assert "the first is taken, with `quoting: minimal`" in caplog.text


def test_reading_leaves_the_limits_of_others_alone(load) -> None:
    before = csv.field_size_limit(12_345)
    try:
        load("text,label\na,0\nb,1\n")
        assert csv.field_size_limit() == 12_345
    finally:
        csv.field_size_limit(before)


PRINTABLE = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\",;\t\n|'\\"), min_size=1
).filter(lambda text: text.strip())
FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FEW
@given(rows=st.lists(st.tuples(PRINTABLE, st.sampled_from(["animal", "a, b", 'x "y"', "Ω"]))))
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_what_other_programs_write_comes_back_unchanged(
    tmp_path: Path, suffix: str, rows: list[tuple[str, str]]
) -> None:
    rows = [("first", "animal"), *rows, ("last", "stone")]
    path = tmp_path / f"my.{suffix}"
    table = pd.DataFrame(rows, columns=["text", "label"])
    if suffix == "parquet":
        table.to_parquet(path)
    elif suffix == "jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_csv(path, index=False, sep="\t" if suffix == "tsv" else ",")
    dataset = read(path)
    assert dataset.texts == table["text"].tolist()
    assert dataset.labels.tolist() == table["label"].tolist()


PIECES = st.lists(
    st.sampled_from(
        [b"text", b"label", b",", b"\t", b";", b"\n", b"\r\n", b'"', b"{", b"}", b"[", b":", b"0",
         b"1", b"yes", b"inf", b"nan", b"a", b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"\xe9", b"PAR1",
         b"null", b'{"text": "a", "label": ', b'"\\ud800"', b"text,label\n"]
    ) | st.binary(max_size=8)
).map(b"".join)  # fmt: skip


def footer_damaged(content: bytes) -> bytes:
    """A parquet file that is whole but for some bytes, at places that ``content`` says."""
    file = BytesIO()
    pd.DataFrame({"text": ["a", "b"], "label": [0, 1]}).to_parquet(file)
    damaged = bytearray(file.getvalue())
    for place, byte in zip(content[::2], content[1::2], strict=False):
        damaged[4 + place * (len(damaged) - 8) // 256] = byte
    return bytes(damaged)


@FEW
@given(content=PIECES)
@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet", "csv.gz"])
def test_any_bytes_are_read_or_refused_in_one_line(
    tmp_path: Path, suffix: str, content: bytes
) -> None:
    path = tmp_path / f"my.{suffix}"
    path.write_bytes(footer_damaged(content) if suffix == "parquet" else content)
    try:
        said = ""
        dataset = read(path)
    except UserError as error:
        said = str(error)
    assert said.startswith((f"{path}: ", "dataset 'my': ")) if said else len(dataset) >= 2
    assert "\n" not in said


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_whole_numbers_stay_so_beside_rows_without_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"my.{suffix}"
    rows = {"text": ["a", "b"], "label": [0, 1], "group": [7, None]}
    table = pd.DataFrame(rows).astype({"group": "Int64"})
    if suffix == "csv":
        table.to_csv(path, index=False)
    elif suffix == "jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_parquet(path)
    dataset = read(path, group="group")
    assert dataset.groups[0] == "7"
    assert str(dataset.fields["group"][0]) == "7"


def test_numbers_as_texts_of_jsonl_stay_as_they_are(load) -> None:
    content = '{"text": 1, "label": 0}\n{"text": 2.5, "label": 1}\n'
    assert load(content, "my.jsonl").texts == ["1", "2.5"]


def test_separators_of_unicode_end_no_line_of_jsonl(load) -> None:
    text = "one\u2028still one\u0085"
    rows = [{"text": text, "label": 0}, {"text": "b", "label": 1}]
    content = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    assert load(content, "my.jsonl").texts == [text, "b"]


def test_an_index_that_pandas_wrote_is_no_field(tmp_path: Path) -> None:
    pd.DataFrame({"text": ["a", "b"], "label": [0, 1]}, index=[5, 6]).to_parquet(
        tmp_path / "my.parquet"
    )
    assert len(read(tmp_path / "my.parquet").fields.columns) == 0


def test_a_folder_called_key_equals_value_makes_no_column(tmp_path: Path) -> None:
    folder = tmp_path / "label=7"
    folder.mkdir()
    pd.DataFrame({"text": ["a", "b"], "label": [0, 1]}).to_parquet(folder / "my.parquet")
    assert read(folder / "my.parquet").labels.tolist() == [0, 1]


def test_integers_too_large_for_a_float_stay_distinct(load) -> None:
    large = 2**60
    labels = load(f"text,label\na,{large}\nb,{large + 1}\n").labels
    assert labels.tolist() == [large, large + 1]
    assert labels.dtype == np.int64


def test_labels_with_fractions_stay_numbers(load) -> None:
    dataset = load("text,label\na,0.5\nb,1\nc,-2e3\n")
    assert dataset.labels.tolist() == [0.5, 1, -2000]
    assert load("text,label\na,1.0\nb,2.0\n").labels.dtype.kind == "i"
    assert load("text,label\na,1e300\nb,2\n").labels.tolist() == [1e300, 2]


def test_a_sample_of_numbers_is_of_any_of_them(load) -> None:
    rows = "\n".join(f"text {i},{i / 3}" for i in range(200))
    assert len(load(f"text,label\n{rows}\n").sample(50)) == 50
