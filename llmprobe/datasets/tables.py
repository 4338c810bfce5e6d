"""The user's own files: from bytes to a table, or what is wrong with them."""

from __future__ import annotations

import codecs
import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet

from llmprobe.config.schema import TABLE_SUFFIXES
from llmprobe.ground.errors import UserError, first_line

_DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "vertical bar"}
_MARKS = {  # UTF-32's begins with UTF-16's.
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
_MAGIC = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"BZh91AY&SY": "a bzip2 archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"%PDF-": "a PDF",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture",
    b"\x7fELF": "a program",
    b"SQLite format 3\x00": "a SQLite database",
    b"<!doctype html": "an HTML page",
    b"<html": "an HTML page",
    b"version https://git-lfs": "a Git LFS pointer to the real file",
}


def read_table(
    path: Path, encoding: str | None = None, delimiter: str | None = None
) -> pd.DataFrame:
    """Read a .csv, .tsv, .jsonl or .parquet file, a row for each example.

    Cells of a .csv or .tsv file are numbers or truth values only in columns where these print as
    the cells are written; an empty cell is a missing value, and a column without a name is left
    out.

    Parameters
    ----------
    encoding
        Of a text file; by default UTF-8, or what a byte order mark says.
    delimiter
        Between the cells of a row; by default a comma, in a .tsv file a tab.

    Raises
    ------
    UserError
        What is wrong with the file, and in which line or row.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        raise UserError(f"{path}: is a folder, not a file")
    if not path.is_file():
        raise UserError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    if suffix not in TABLE_SUFFIXES:
        kind = f"{suffix} files" if suffix else "a file without a suffix"
        raise UserError(f"{path}: cannot read {kind}; known: {', '.join(TABLE_SUFFIXES)}")
    if delimiter is not None and suffix not in (".csv", ".tsv"):
        raise UserError(f"{path}: delimiter belongs to .csv and .tsv files")
    if encoding is not None and suffix == ".parquet":
        raise UserError(f"{path}: encoding belongs to text files")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not content.strip():
        raise UserError(f"{path}: the file is empty")
    if suffix == ".parquet":
        table = _parquet(content, path)
    else:
        text = _text(content, path, encoding)
        if suffix == ".jsonl":
            table = _json_lines(text, path)
        else:
            table = _separated(text, path, delimiter or ("\t" if suffix == ".tsv" else ","))
    if len(table) == 0:
        raise UserError(f"{path}: no rows below the header")
    return table


def _is_parquet(content: bytes) -> bool:
    return content[:4] == content[-4:] == b"PAR1"


def _other_format(content: bytes) -> str | None:
    """Return what kind of file begins like this, "a PDF", when it is neither text nor parquet."""
    start = content[:100].lstrip()
    kind = next((kind for magic, kind in _MAGIC.items() if start.lower().startswith(magic.lower())),
                None)  # fmt: skip
    # A workbook is a zip archive with a folder of this name.
    return "an Excel workbook" if kind == "a zip archive" and b"xl/work" in content else kind


def _parquet(content: bytes, path: Path) -> pd.DataFrame:
    if not _is_parquet(content):
        other = _other_format(content)
        raise UserError(f"{path}: is {f'{other}, not parquet' if other else 'no parquet file'}")
    try:
        # A plain read: no columns from folders called key=value, no index from pandas' metadata.
        table = pyarrow.parquet.ParquetFile(BytesIO(content)).read()
        _each_once(table.column_names, path)
        frame: pd.DataFrame = table.to_pandas(ignore_metadata=True, integer_object_nulls=True)
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, LookupError) as error:
        raise UserError(f"{path}: cannot be read: {first_line(error)}") from None
    return frame[[name for name in frame.columns if not name.startswith("__index_level_")]]


def _text(content: bytes, path: Path, encoding: str | None) -> str:
    """Decode the content of a text file, without a byte order mark."""
    kind = "a parquet file" if _is_parquet(content) else _other_format(content)
    if kind is not None:
        raise UserError(f"{path}: is {kind}, not text")
    marked = (name for mark, name in _MARKS.items() if content.startswith(mark))
    used = encoding if encoding is not None else next(marked, "utf-8")
    try:
        text = content.decode(used).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content[: error.start].decode(used, errors="replace").count("\n") + 1
        hint = "; save it as UTF-8, or say what it is, as in `encoding: latin-1`"
        raise UserError(f"{path}: line {line} is not {used.upper()}{hint}") from None
    except (LookupError, ValueError):
        raise UserError(f"{path}: encoding {used!r} is not known; "
                        "some that are: utf-8, utf-16, latin-1, cp1252") from None  # fmt: skip
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path}: line {line} has a NUL byte, so this is not a text file")
    if not text.strip():
        raise UserError(f"{path}: the file is empty")
    _check_whole(text, path, 1)
    return text


def _separated(text: str, path: Path, delimiter: str) -> pd.DataFrame:
    """Read the table in a .csv or .tsv file."""
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise UserError(f"{path}: delimiter {delimiter!r} cannot part cells; "
                        'allowed: one character such as ";"')  # fmt: skip
    beginning = text.lstrip().splitlines()[0]
    others = [d for d in _DELIMITERS if d in beginning]
    if delimiter not in beginning and others:
        written = others[0].replace("\t", r"\t")
        raise UserError(
            f"{path}: the header has no {_DELIMITERS.get(delimiter, repr(delimiter))} but a "
            f'{_DELIMITERS[others[0]]}; say `delimiter: "{written}"`'
        )
    header: list[str] = []
    rows: list[list[str]] = []
    for line, cells in _cells(text, path, delimiter):
        if not header:
            header = cells
            continue
        if len(cells) != len(header):
            mark = _DELIMITERS.get(delimiter, repr(delimiter))
            remedy = f"put quotation marks around a text with a {mark}"
            if len(cells) < len(header):
                remedy = f"an empty cell needs its {mark} too"
            raise UserError(
                f"{path}: row {len(rows) + 1} (line {line}): {len(cells)} cells, and the header "
                f"has {len(header)}; {remedy}"
            )
        rows.append(cells)
    named = [place for place, name in enumerate(header) if name]
    _each_once([header[place] for place in named], path)
    columns = zip(*rows, strict=True) if rows else [()] * len(header)
    cells_of = dict(enumerate(columns))
    table = pd.DataFrame({header[place]: _typed(cells_of[place]) for place in named})
    return table if named else pd.DataFrame(index=range(len(rows)))


def _cells(text: str, path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield, for each row that is not blank and the header, its first line and its cells."""
    row = -1
    line = 1
    try:
        # A line may end in any way; inside quotation marks it stays as it is.
        reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
        with _cells_of_any_size():
            for cells in reader:
                if cells:
                    row += 1
                    yield line, cells
                line = reader.line_num + 1
    except csv.Error as error:
        wrong = (
            "a quotation mark opens and does not close"
            if "end of data" in str(error)
            else "a quotation mark inside quotation marks; write it twice"
        )
        place = f"row {row + 1} (line {line})" if row >= 0 else "the header"
        raise UserError(f"{path}: {place}: {wrong}") from None


@contextmanager
def _cells_of_any_size() -> Iterator[None]:
    """Lift the csv module's limit, which counts for the process and names no row."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _typed(cells: tuple[str, ...]) -> pd.Series:
    """Return numbers or truth values if they all print as the cells do, else texts. [n]"""
    column = pd.Series(cells, dtype=object)
    if column.isin(["True", "False"]).all():
        return column == "True"
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().all() and (numbers.astype(str) == column).all():
        return numbers
    return column.where(column != "", None)


def _json_lines(text: str, path: Path) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    # Not splitlines(), which also splits at characters that JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        if not rows and line.lstrip().startswith("["):
            raise UserError(f"{path}: line {number} opens a JSON array; write one object per line, "
                            "without brackets around them")  # fmt: skip
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            cut = error.pos >= len(line.rstrip())
            reason = "it ends before its object does; write one per line" if cut else error.msg
            raise UserError(f"{path}: line {number} is not JSON: {reason}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {number} is not JSON: {first_line(error)}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}: line {number} is not a JSON object")
        if "\\u" in line:  # Only an escape can stand for half a character.
            _check_whole(json.dumps(row, ensure_ascii=False), path, number)
        rows.append(row)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return pd.DataFrame({c: _as_they_are([row.get(c) for row in rows]) for c in columns},
                        index=range(len(rows)))  # fmt: skip


def _as_they_are(values: list[Any]) -> pd.Series:
    """Keep 1 from becoming 1.0 where other rows have a fraction or nothing. [n]"""
    column = pd.Series(values, dtype=object)
    return column.infer_objects() if len({type(value) for value in values}) == 1 else column


def _check_whole(text: str, path: Path, line: int) -> None:
    """Raise ``UserError`` for half of what UTF-16 writes as two; ``text`` begins in ``line``."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line += text.count("\n", 0, error.start)
        half = text[error.start]
        raise UserError(f"{path}: line {line} has {half!a}, half a character") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; raise ``ValueError`` for a name that occurs twice."""
    members = dict(pairs)
    if len(members) < len(pairs):
        name = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{name!r} occurs twice in one object")
    return members


def _each_once(columns: list[str], path: Path) -> None:
    for name, times in Counter(columns).items():
        if times > 1:
            times_said = "twice" if times == 2 else f"{times} times"
            raise UserError(f"{path}: column {name!r} occurs {times_said}; give each its own name")
