"""A folder of bad files: for each, one sentence that says what is wrong and where."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy import write_config

from llmprobe.cli.main import main
from llmprobe.datasets.load import load_dataset
from llmprobe.ground.errors import UserError


def problem(path: Path, **options: Any) -> str:
    """What ``load_dataset`` says of a file, after the name of the file."""
    with pytest.raises(UserError) as caught:
        load_dataset(path, **options)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < len(str(path)) + 250
    return said.removeprefix(f"{path}: ")


def zipped(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, "text,label\n" + 100 * "a,0\n")
    return file.getvalue()


def parquet(*columns: tuple[str, list[Any]]) -> bytes:
    file = io.BytesIO()
    table = pa.Table.from_arrays([pa.array(c) for _, c in columns], [name for name, _ in columns])
    pq.write_table(table, file)
    return file.getvalue()


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def labelled(*labels: str) -> str:
    """A .csv file with these labels."""
    return "text,label\n" + "".join(f"text {i},{label}\n" for i, label in enumerate(labels))


def no_utf8() -> pa.Array:
    """Texts by their type, of bytes that are none."""
    _, *parts = pa.array([b"a", b"\xff"]).buffers()
    return pa.StringArray.from_buffers(2, *parts)


PARQUET = parquet(("text", ["a", "b"]), ("label", [0, 1]))
LATIN = "text,label\na,0\ncafé,1\n"
HUGE = 10_000_000 * "x"

Cases = dict[str, tuple[str | bytes, str]]

CSV: Cases = {
    # What is no text at all.
    "empty": ("", "the file is empty"),
    "zip": (zipped("my.csv"), "is a zip archive or an Excel workbook, not text"),
    "xlsx": (zipped("xl/workbook.xml"), "an Excel workbook, not text"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "is an Excel workbook, not"),
    "parquet": (PARQUET, "is a parquet file, not text"),
    "html": ("\n<!DOCTYPE html><p>Log in</p>", "is an HTML page, not text"),
    "lfs": ("version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer to"),
    "NUL": ("text,label\na,0\nb\0,1\n", "line 3 has a NUL byte"),
    "latin-1": (LATIN.encode("latin-1"), "line 3 is not UTF-8; "),
    "latin-1 hint": (LATIN.encode("latin-1"), "`encoding: latin-1`"),
    "half utf-16": (LATIN.encode("utf-16")[:-1], "line 3 is not UTF-16"),
    # The shape of a table.
    "header": ("text,label\n", "no rows below the header"),
    "semicolons": ("text;label\na;0\n", """has no ',' but ';'; say `delimiter: ";"`"""),
    "quoted": ('"text";"label"\n"a";0\n', 'say `delimiter: ";"`'),
    "tabs": ("text\tlabel\na\t0\n", r"""has no ',' but '\t'; say `delimiter: "\t"`"""),
    "twice": ("text,label,text\na,0,b\n", "column 'text' occurs 2 times; give each its own"),
    "more cells": ("text,label\na,0\nb,c,1\n", "row 2 (line 3): 3 cells, and the header "),
    "all more": ("text,label\na,b,0\nc,d,1\n", "a text with a ',' needs quotation marks"),
    "later line": ('text,label\n"a\nb",0\n\nc,d,1\n', "row 2 (line 5): 3 cells"),
    "fewer cells": (
        "text,label\na,0\nb\n",
        "row 2 (line 3): 1 cells, and the header has 2; a text with a ',' needs "
        "quotation marks, and an empty cell its ','",
    ),
    "open quote": ('text,label\na,0\n"b,1\nc,0\n', "row 2 (line 3): a quotation mark opens"),
    "open header": ('"text,label\na,0\n', "the header: a quotation mark opens"),
    "bare quote": ('text,label\n"a "b" c",0\n', "row 1 (line 2): a quotation mark opens"),
    # Columns.
    "no text": ("claim,label\na,0\n", "no column 'text' or 'statement' or 'sentence'; say"),
    "columns": ("claim,label\na,0\n", "columns: claim, label"),
    "no label": ("text,truth\na,0\n", "no column 'label'; say `label: NAME`; columns: text"),
    "two texts": ("text,sentence,label\na,b,0\n", "columns 'text' and 'sentence' could each"),
    "two cases": ("text,Label,label\na,0,0\n", "columns 'Label' and 'label' could each"),
    "nameless": (",\na,0\n", "columns: none"),
    # Cells.
    "no value": ("text,label\na,0\n,1\n", "row 2: no value in column 'text'"),
    "spaces": ("text,label\na,0\n  ,1\n", "row 2: no value in column 'text'"),
    "some": ("text,label\na,0\nb,\nc,\n", "row 2: no value in column 'label'; rows without"),
    "nan": (labelled("0", "NaN"), "row 2: no value in column 'label'"),
    "nan word": (labelled("yes", "nan"), "row 2: no value in column 'label'"),
    "infinite": (labelled("0.5", "inf"), "row 2, column 'label': inf is not finite"),
    "too big": (labelled("1", "1e999"), "row 2, column 'label': 1e999 is not finite"),
    "huge": (f"text,label\na,0\n{HUGE},1\n", "row 2, column 'text': 10,000,000 characters"),
    "huge label": (f"text,label\na,{HUGE}\n", "row 1, column 'label': 10,000,000 charact"),
    "one class": (labelled("1", "1"), "every label is '1'"),
    "case": (labelled("no", "Yes", "yes"), "'Yes' (row 2) and 'yes' (row 3) differ only in"),
    "space": (labelled("no", "yes", "yes "), "'yes' (row 2) and 'yes ' (row 3) differ only"),
    "families": (labelled("no", "yes", "1"), "'yes' (row 2) and '1' (row 3) say the same"),
    "letters": (labelled("t", "f", "0"), "'f' (row 2) and '0' (row 3) say the same"),
    "words": (labelled("maybe", "Positive", "True"), "'Positive' (row 2) and 'True' (row 3)"),
}  # fmt: skip

TSV: Cases = {
    "blank": ("\ufeff\n\n", "the file is empty"),
    "pdf": (b"%PDF-1.7\n\xe2\xe3", "is a PDF, not text"),
    "commas": ("text,label\na,0\n", r"""has no '\t' but ','; say `delimiter: ","`"""),
}  # fmt: skip

JSONL: Cases = {
    "empty jsonl": ("\n", "the file is empty"),
    "gzip": (gzip.compress(b"{}", mtime=0), "is a gzip archive, not text"),
    "syntax": (6 * "\n" + '{"text": "b" "label": 1}', "line 7 is not JSON: Expecting ','"),
    "array": ('[{"text": "a"},\n{"text": "b"}]', "line 1 is not JSON: Expecting value; write"),
    "list": ('{"text": "a"}\n["b", 1]\n', "line 2: not a JSON object; write one object per line"),
    "pretty": ('{\n"text": "a"\n}', "; write one object per line, without brackets"),
    "deep": ('{"a":' * 50_000, "line 1: maximum recursion depth"),
    "key twice": ('{"text": "a", "text": "b"}', "line 1: 'text' occurs twice"),
    "surrogate": ('{"text": "a \\ud800"}', "line 1: 'utf-8' codec can't encode character"),
    "list cell": (jsonl({"text": ["a"], "label": 0}), "row 1, column 'text': a list; it"),
    "dict cell": (jsonl({"text": "a", "label": {"x": 0}}), "row 1, column 'label': a dict;"),
    "null": (jsonl({"text": None, "label": 0}), "row 1: no value in column 'text'"),
    "no key": ('{"text":"a","label":0}\n{"text":"b"}', "row 2: no value in column 'label'"),
    "NaN": ('{"text": "a", "label": NaN}', "row 1: no value in column 'label'"),
    "Infinity": ('{"text": "a", "label": Infinity}', "row 1, column 'label': inf is not fin"),
    "kinds": (
        jsonl({"text": "a", "label": 0}, {"text": "b", "label": "1"}),
        "column 'label': row 1 has the number 0 and row 2 has the text '1'; labels should be",
    ),
    "truth": (
        jsonl({"text": "a", "label": 0}, {"text": "b", "label": True}),
        "row 1 has the number 0 and row 2 has the truth value True",
    ),
    "no keys": ("{}\n{}\n", "columns: none"),
}  # fmt: skip

PARQUETS: Cases = {
    "text file": ("text,label\na,0\n", "is no parquet file"),
    "zipped": (zipped("my.csv"), "is no parquet file but a zip archive"),
    "cut": (PARQUET[: len(PARQUET) // 2], "is no parquet file"),
    "damaged": (PARQUET[:50] + PARQUET[-50:], "cannot be read: "),
    "no rows": (parquet(("text", []), ("label", [])), "no rows below the header"),
    "parquet twice": (
        parquet(("text", ["a"]), ("label", [0]), ("label", [1])),
        "column 'label' occurs 2 times",
    ),
    "lists": (
        parquet(("text", [["a"], ["b"]]), ("label", [0, 1])),
        "row 1, column 'text': a list",
    ),
    "bytes": (
        parquet(("text", [b"a", b"b"]), ("label", [0, 1])),
        "row 1, column 'text': a bytes",
    ),
    "no UTF-8": (parquet(("text", no_utf8()), ("label", [0, 1])), "cannot be read: Column 0"),
    "no UTF-8 beside": (
        parquet(("text", ["a", "b"]), ("label", [0, 1]), ("city", no_utf8())),
        "cannot be read: Column 2",
    ),
    "infinities": (
        parquet(("text", ["a", "b"]), ("label", [0.5, float("-inf")])),
        "row 2, column 'label': -inf is not finite",
    ),
}  # fmt: skip

JSON: Cases = {
    "cut": ('[{"text": "a",\n', "line 2 is not JSON: "),
    "text": ('"text"', "not a list of objects; write a list of objects, [{…}, {…}]"),
    "texts": ('["a", "b"]', "row 1: not a JSON object but 'a'; write a list"),
    "columns": ('{"text": ["a", "b"], "label": [0, 1]}', "2 lists: 'text' and 'label'; write"),
    "nested": ('{"train": {"a": [1]}}', "an object with no lists; write"),
    "twice": ('[{"text": "a", "text": "b"}]', "'text' occurs twice in one object"),
    "empty": ("[]", "no rows below the header"),
    "half of a surrogate pair": ('[{"text": "\\ud800"}]', "surrogates not allowed"),
}
GZIP: Cases = {
    "text": ("text,label\na,0\n", "no gzip archive, or a damaged one: "),
    "cut": (gzip.compress(b"text,label\na,0\nb,1\n")[:-9], "no gzip archive, or a damaged one: "),
    "damaged": (gzip.compress(labelled("0", "1").encode())[:12] + 9 * b"\xff", "a damaged one: "),
    "table": (gzip.compress(b"text,label\na,0,1\n"), "row 1 (line 2): 3 cells"),
}

TEXTS = ("csv", CSV), ("tsv", TSV), ("jsonl", JSONL), ("json", JSON), ("csv.gz", GZIP)
FILES = {
    f"{suffix} {what}": (f"my.{suffix}", content, words)
    for suffix, cases in (*TEXTS, ("parquet", PARQUETS))
    for what, (content, words) in cases.items()
}
FILES |= {
    "xlsx": ("my.xlsx", zipped("xl/workbook.xml"), "cannot read .xlsx files; known: .csv, "),
    "no suffix": ("my", "text,label\na,0\n", "cannot read a file without a suffix; known: .csv, "),
}


@pytest.mark.parametrize("what", FILES)
def test_a_bad_file_is_refused_with_what_is_wrong_and_where(tmp_path: Path, what: str) -> None:
    name, content, words = FILES[what]
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert words in problem(path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"text": "statement"}, "no column 'statement' (text); columns: text, label, city"),
        ({"label": "truth"}, "no column 'truth' (label); columns: text, label, city"),
        ({"group": "country"}, "no column 'country' (group); columns: text, label, city"),
        ({"encoding": "latn-1"}, "encoding 'latn-1' is not known; some that are: utf-8"),
        ({"encoding": "rot13"}, "encoding 'rot13' is not known"),
        ({"encoding": "idna"}, "encoding 'idna' is not known"),
        ({"encoding": "Punycode"}, "encoding 'Punycode' is not known"),
        ({"encoding": "undefined"}, "encoding 'undefined' is not known"),
        ({"encoding": "base64"}, "encoding 'base64' is not known"),
        ({"encoding": "a\0b"}, "is not known"),
        ({"encoding": "ascii"}, "line 2 is not ASCII"),
        ({"encoding": "unicode_escape"}, r"line 2 has '\udc00', half of a surrogate pair"),
        ({"delimiter": '"'}, "delimiter '\"' cannot separate cells"),
        ({"delimiter": "\n"}, "delimiter '\\n' cannot separate cells"),
        ({"delimiter": ";"}, """the header has no ';' but ','; say `delimiter: ","`"""),
    ],
)
def test_an_option_that_does_not_fit_the_file_is_named(
    tmp_path: Path, options: dict[str, str], words: str
) -> None:
    path = tmp_path / "my.csv"
    path.write_text("text,label,city\ncafé,0,\\udc00\nb,1,y\n", encoding="utf-8")
    assert words in problem(path, **options)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("my.jsonl", {"delimiter": ","}, "delimiter belongs to .csv and .tsv files"),
        ("my.parquet", {"encoding": "utf-8"}, "encoding belongs to text files"),
    ],
)
def test_an_option_of_another_format_is_refused(
    tmp_path: Path, name: str, options: dict[str, str], words: str
) -> None:
    (tmp_path / name).write_bytes(PARQUET)
    assert words in problem(tmp_path / name, **options)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert problem(tmp_path / "absent.csv") == "no such file"
    assert "no such file" in problem(tmp_path / ".." / ".." / "absent" / "my.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder" in problem(tmp_path / "folder.csv")


def test_a_file_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may read everything, so the refusal is simulated.
    def refused(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "my.csv").write_text("text,label\na,0\nb,1\n")
    monkeypatch.setattr(Path, "read_bytes", refused)
    assert problem(tmp_path / "my.csv") == "cannot be read: Permission denied"


@pytest.mark.parametrize(
    "what", ["csv empty", "csv zip", "csv latin-1", "csv huge", "csv open quote", "jsonl syntax"]
)
def test_the_command_line_says_it_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    name, content, words = FILES[what]
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    config = write_config(tmp_path / "c.yaml", "m", name)
    assert main(["validate", str(config), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"llmprobe: {path}: ")
    assert words in said
    assert said.count("\n") == 1


def test_a_dataset_elsewhere_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "c.yaml", "m", "../../x.csv")
    assert main(["validate", str(config), "--out", str(tmp_path / "run")]) == 2
    assert "x.csv: no such file\n" in capsys.readouterr().err


def test_a_good_file_is_not_refused(tmp_path: Path) -> None:
    rows = [f"the {'red' if i % 2 else 'blue'} coin {i},{i % 2}" for i in range(40)]
    (tmp_path / "my.csv").write_text("\n".join(["text,label", *rows]))
    assert len(load_dataset(tmp_path / "my.csv")) == 40
    pd.read_csv(tmp_path / "my.csv").to_parquet(tmp_path / "my.parquet")
    assert len(load_dataset(tmp_path / "my.parquet")) == 40
