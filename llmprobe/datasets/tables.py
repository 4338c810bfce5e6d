"""The user's own files: from bytes to a table, or what is wrong with them."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import logging
import re
import sys
import zlib
from collections import Counter
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet

from llmprobe.config.schema import TABLE_SUFFIXES, table_suffix
from llmprobe.ground.errors import UserError, first_line, foreign_errors
from llmprobe.ground.files import size
from llmprobe.ground.text import listed

log = logging.getLogger(__name__)

_DELIMITERS = ",\t;|"
_MARKS = {  # UTF-32's begins with UTF-16's.
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
_OF_NAMES = ("idna", "punycode")
"""Encodings of host names, not of files, which Python knows too."""
_MAGIC = {
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"\x1f\x8b": "a gzip archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"%PDF-": "a PDF",
    b"<!doctype html": "an HTML page",
    b"<html": "an HTML page",
    b"version https://git-lfs": "a Git LFS pointer to the real file",
}
"""What a file is that begins like this, in lower or upper case."""

LARGEST = 2**30
"""The most bytes that a .gz file may unpack to: a small one can hold more than fits in memory."""

_NEEDS_QUOTES = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"')
"""A cell from a program that quotes cells and doubles the quotation marks inside them."""


def read_table(
    path: Path,
    encoding: str | None = None,
    delimiter: str | None = None,
    quoting: str | None = None,
) -> pd.DataFrame:
    """Read a .csv, .tsv, .json, .jsonl or .parquet file, a row for each example.

    A .json file is a list of objects, or one object with such a list in it. All but .parquet are
    read from .gz files too.

    Cells of a .csv or .tsv file become numbers or truth values only if all of their column would
    print as they are written; an empty cell is a missing value, and a column without a name is left
    out.

    Parameters
    ----------
    encoding
        Of a text file; by default UTF-8, or what a byte order mark says.
    delimiter
        Between the cells of a row; by default a comma, in a .tsv file a tab.
    quoting
        ``"minimal"``: quotation marks around a cell are not part of it, and it may have delimiters
        and line breaks. ``"none"``: they are ordinary characters. By default what fits the file; if
        both fit and give different rows, a warning says which was taken.

    Raises
    ------
    UserError
        What is wrong with the file, and in which line or row.
    """
    suffix = table_suffix(path.name)
    if not path.is_file():
        raise UserError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    if not suffix:
        kind = f"{path.suffix} files" if path.suffix else "a file without a suffix"
        raise UserError(f"{path}: cannot read {kind}; known: {', '.join(TABLE_SUFFIXES)}")
    kind = suffix.removesuffix(".gz")
    if delimiter is not None and kind not in (".csv", ".tsv"):
        raise UserError(f"{path}: delimiter belongs to .csv and .tsv files")
    if quoting is not None and kind not in (".csv", ".tsv"):
        raise UserError(f"{path}: quoting belongs to .csv and .tsv files")
    if encoding is not None and kind == ".parquet":
        raise UserError(f"{path}: encoding belongs to text files")
    content = _content(path, packed=suffix != kind)
    if kind == ".parquet":
        table = _parquet(content, path)
    else:
        text = _text(content, path, encoding)
        if kind == ".jsonl":
            table = _json_lines(text, path)
        elif kind == ".json":
            table = _json(text, path)
        else:
            delimiter = delimiter or ("\t" if kind == ".tsv" else ",")
            table = _separated(text, path, delimiter, quoting)
    if len(table) == 0:
        raise UserError(f"{path}: no rows below the header")
    return table


def _content(path: Path, packed: bool) -> bytes:
    """Return the bytes of a file; of a gzip archive, those that are packed in it."""
    try:
        if not packed:
            return path.read_bytes()
        with gzip.open(path) as file:
            content = file.read(LARGEST + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: no gzip archive, or a damaged one: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > LARGEST:
        raise UserError(f"{path}: more than {size(LARGEST)} when unpacked; if that is no mistake, "
                        "unpack it and give the unpacked file")  # fmt: skip
    return content


def _kind(content: bytes) -> str | None:
    """Return what kind of file begins like this, when it is a well-known one that is no text."""
    if content[:4] == content[-4:] == b"PAR1":
        return "a parquet file"
    start = content[:100].lstrip().lower()
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic.lower())), None)


def _parquet(content: bytes, path: Path) -> pd.DataFrame:
    kind = _kind(content)
    if kind != "a parquet file":
        raise UserError(f"{path}: is no parquet file" + (f" but {kind}" if kind else ""))
    with foreign_errors(f"{path}: cannot be read"):
        # A plain read: no columns from folders called key=value, no index from pandas' metadata.
        table = pyarrow.parquet.ParquetFile(BytesIO(content)).read()
        _each_once(table.column_names, path)
        table.validate(full=True)  # Checks UTF-8 too, which would fail later otherwise.
        frame: pd.DataFrame = table.to_pandas(ignore_metadata=True, integer_object_nulls=True)
    return frame[[name for name in frame.columns if not name.startswith("__index_level_")]]


def _text(content: bytes, path: Path, encoding: str | None) -> str:
    """Decode the content of a text file, without a byte order mark."""
    if kind := _kind(content):
        raise UserError(f"{path}: is {kind}, not text")
    marked = (name for mark, name in _MARKS.items() if content.startswith(mark))
    used = encoding if encoding is not None else next(marked, "utf-8")
    try:
        if used.lower() in _OF_NAMES:
            raise LookupError
        text = content.decode(used).removeprefix("\ufeff")
        text.encode()
    except UnicodeEncodeError as error:
        line = error.object.count("\n", 0, error.start) + 1
        half = error.object[error.start]
        raise UserError(f"{path}: line {line} has {half!a}, half of a surrogate pair") from None
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
    return text


def _separated(text: str, path: Path, delimiter: str, quoting: str | None) -> pd.DataFrame:
    """Read the table in a .csv or .tsv file."""
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise UserError(f"{path}: delimiter {delimiter!r} cannot separate cells; "
                        'allowed: one character such as ";"')  # fmt: skip
    beginning = text.lstrip().splitlines()[0]
    other = next((mark for mark in _DELIMITERS if mark in beginning), None)
    if delimiter not in beginning and other:
        raise UserError(f"{path}: the header has no {delimiter!r} but {other!r}; "
                        f"say `delimiter: {json.dumps(other)}`")  # fmt: skip
    if quoting is None:
        header, *rows = _cells_as_fits(text, path, delimiter)
    else:
        header, *rows = _cells(text, path, delimiter, quoting)
    named = [place for place, name in enumerate(header) if name]
    _each_once([header[place] for place in named], path)
    columns = {header[place]: _typed([cells[place] for cells in rows]) for place in named}
    return pd.DataFrame(columns, index=range(len(rows)))


def _cells_as_fits(text: str, path: Path, delimiter: str) -> list[list[str]]:
    """Return the cells of the header and of each row, with quotation marks as fits the file.

    Marks that are parts of texts (as in GLUE's files) can join the lines between two of them into
    one cell. They are taken for parts of texts if, without quoting, every line has the right number
    of cells, and in some column the joined lines have the values that other lines have there.
    """
    try:
        quoted, error = _cells(text, path, delimiter, "minimal"), None
    except UserError as refusal:
        quoted, error = [], refusal
    if error is None and len(quoted) == sum(1 for line in text.splitlines() if line):
        return quoted
    try:
        plain = _cells(text, path, delimiter, "none")
    except UserError:
        plain = []
    if error is not None:
        # With commas inside texts, lines often have the right number of cells by chance.
        if not plain or delimiter != "\t" or _is_quoted(plain):
            raise error
        log.warning("%s: read with `quoting: none`, since there are quotation marks that do not "
                    "enclose a cell", path)  # fmt: skip
        return plain
    if len(plain) <= len(quoted) or plain[0] != quoted[0]:
        return quoted
    whole = set(map(tuple, quoted))
    row = next(i for i, cells in enumerate(plain) if tuple(cells) not in whole)
    both = "%s: from row %d on, quotation marks either enclose cells that hold line breaks and "\
           "delimiters (%d rows) or are part of texts (%d rows); the %s is taken, with "\
           "`quoting: %s`; say that, or `quoting: %s`"  # fmt: skip
    counts = path, row, len(quoted) - 1, len(plain) - 1
    if _is_quoted(plain) or not _lines_fit(plain, whole):
        log.warning(both, *counts, "first", "minimal", "none")
        return quoted
    log.warning(both, *counts, "second", "none", "minimal")
    return plain


def _is_quoted(plain: list[list[str]]) -> bool:
    """Whether some cell has quotation marks as a program writes them where they are needed."""
    return any(_NEEDS_QUOTES.fullmatch(cell) for row in plain for cell in row)


def _lines_fit(plain: list[list[str]], whole: set[tuple[str, ...]]) -> bool:
    """Whether lines that quotation marks would join have the usual cells in some column.

    Usual are numbers, if all cells are, or cells of lines that are rows (``whole``) either way.
    """
    joined = [row for row in plain[1:] if tuple(row) not in whole]
    others = [row for row in plain[1:] if tuple(row) in whole]
    for place in range(len(plain[0])):
        numbers = pd.to_numeric(pd.Series([row[place] for row in plain[1:]]), errors="coerce")
        if numbers.notna().all() or {r[place] for r in joined} <= {r[place] for r in others}:
            return True
    return False


def _cells(text: str, path: Path, delimiter: str, quoting: str) -> list[list[str]]:
    """Return the cells of the header and of each row that is not blank."""
    rows: list[list[str]] = []
    line = 1
    marks = quoting != "none"
    needs = f"a text with a {delimiter!r} needs quotation marks, and " if marks else ""
    # The limit is one for the whole process, and its message names no row.
    limit = csv.field_size_limit(sys.maxsize)
    try:
        # A line may end in any way; inside quotation marks it stays as it is.
        reader = csv.reader(
            StringIO(text, newline=""), delimiter=delimiter, strict=True,
            quoting=csv.QUOTE_MINIMAL if marks else csv.QUOTE_NONE,
        )  # fmt: skip
        for cells in reader:
            if cells and rows and len(cells) != len(rows[0]):
                raise UserError(
                    f"{path}: row {len(rows)} (line {line}): {len(cells)} cells, and the header "
                    f"has {len(rows[0])}; {needs}an empty cell its {delimiter!r}"
                )
            rows += [cells] if cells else []
            line = reader.line_num + 1
    except csv.Error:
        place = f"row {len(rows)} (line {line})" if rows else "the header"
        raise UserError(f"{path}: {place}: a quotation mark opens and does not close, or stands "
                        "inside quotation marks and is not doubled; if it is an ordinary "
                        "character, say `quoting: none`") from None  # fmt: skip
    finally:
        csv.field_size_limit(limit)
    return rows


def _typed(cells: list[str]) -> pd.Series:
    """Return numbers or truth values if they all print as the cells do, else texts. [n]"""
    column = pd.Series(cells, dtype=object)
    if column.isin(["True", "False"]).all():
        return column == "True"
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().all() and (numbers.astype(str) == column).all():
        return numbers
    return column.where(column != "", None)


def _json_lines(text: str, path: Path) -> pd.DataFrame:
    rows: list[Any] = []
    # Not splitlines(), which also splits at characters that JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            hint = "write one object per line, without brackets around them"
            rows.append(_parsed(line, path, hint, number))
            if not isinstance(rows[-1], dict):
                raise UserError(f"{path}: line {number}: not a JSON object; {hint}")
    return _of_objects(rows)


def _json(text: str, path: Path) -> pd.DataFrame:
    """Read the table in a .json file: a list of objects, alone or in an object."""
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) > 1 and all(line.strip()[0] + line.strip()[-1] == "{}" for line in lines):
        return _json_lines(text, path)
    hint = "write a list of objects, [{…}, {…}]"
    rows = _parsed(text, path, hint)
    if isinstance(rows, dict):
        lists = {key: value for key, value in rows.items() if isinstance(value, list)}
        if len(lists) != 1:
            names = f": {listed([*map(repr, lists)])}" if lists else ""
            raise UserError(f"{path}: an object with {len(lists) or 'no'} lists{names}; {hint}")
        (rows,) = lists.values()
    if not isinstance(rows, list):
        raise UserError(f"{path}: not a list of objects; {hint}")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise UserError(f"{path}: row {number}: not a JSON object but {row!r:.40}; {hint}")
    return _of_objects(rows)


def _parsed(text: str, path: Path, hint: str, line: int = 0) -> Any:
    """Return the value of a JSON text: line number ``line`` of a file, or (0) all of it."""
    try:
        value = json.loads(text, object_pairs_hook=_object)
        # Only an escape can stand for half of a surrogate pair, which nothing can write again.
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        line = line or error.lineno
        raise UserError(f"{path}: line {line} is not JSON: {error.msg}; {hint}") from None
    except (ValueError, RecursionError) as error:
        place = f"line {line}: " if line else ""
        raise UserError(f"{path}: {place}{first_line(error)}") from None
    return value


def _of_objects(rows: list[dict[str, Any]]) -> pd.DataFrame:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return pd.DataFrame({c: _as_they_are([row.get(c) for row in rows]) for c in columns},
                        index=range(len(rows)))  # fmt: skip


def _as_they_are(values: list[Any]) -> pd.Series:
    """Keep 1 from becoming 1.0 where other rows have a fraction or nothing. [n]"""
    column = pd.Series(values, dtype=object)
    return column.infer_objects() if len({type(value) for value in values}) == 1 else column


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; raise ``ValueError`` for a name that occurs twice."""
    members = dict(pairs)
    if len(members) < len(pairs):
        name = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{name!r} occurs twice in one object")
    return members


def _each_once(columns: list[str], path: Path) -> None:
    name, times = max(Counter(columns).items(), key=lambda item: item[1], default=("", 1))
    if times > 1:
        raise UserError(f"{path}: column {name!r} occurs {times} times; give each its own name")
