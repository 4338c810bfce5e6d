"""Texts from a stream, such as standard input, read in parts, so that it may have any length."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO

import pandas as pd

from llmprobe.datasets.cells import LONGEST, usual_columns
from llmprobe.ground.errors import UserError, first_line

log = logging.getLogger(__name__)

TEXTS_AT_A_TIME = 256
"""Texts that are read before any of them is scored."""

FORMATS = ("text", "jsonl", "csv")
"""One text a line; one JSON object a line; a table with a header, whose cells all stay text."""


def tables_of(
    stream: BinaryIO,
    form: str | None,
    encoding: str | None = None,
    delimiter: str | None = None,
    at_a_time: int = TEXTS_AT_A_TIME,
) -> Iterator[tuple[pd.DataFrame, str]]:
    """Yield the next rows of a stream as a table, and what errors call them.

    Blank lines are left out.

    Parameters
    ----------
    form
        One of ``FORMATS``; ``text`` puts each line into the column ``text``. None means ``text``,
        with a warning if the first line looks like another format.
    encoding
        By default UTF-8, with or without a byte order mark.
    at_a_time
        The most rows of a table.

    Raises
    ------
    UserError
        There are no rows; a line is in another encoding, too long, or not a row of the format.
    """
    delimiter = {None: ",", "\\t": "\t"}.get(delimiter, delimiter)
    if delimiter is None or len(delimiter) != 1 or delimiter in '"\r\n':
        raise UserError(f"--delimiter: {delimiter!r} is not one character that can separate cells")
    try:
        lines = io.TextIOWrapper(stream, encoding or "utf-8-sig", newline="")
    except LookupError:
        raise UserError(f"--encoding: {encoding!r} is not known") from None
    rows = _rows(_lines(lines, encoding), form, delimiter)
    first = 1
    while table := list(islice(rows, at_a_time)):
        last = first + len(table) - 1
        yield pd.DataFrame(table), f"stdin, texts {first:,} to {last:,}"
        first = last + 1
    if first == 1:
        raise UserError("stdin: has no texts")


def _rows(lines: Iterator[str], form: str | None, delimiter: str) -> Iterator[dict[str, Any]]:
    if form == "csv":
        yield from _of_csv(lines, delimiter)
        return
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if form is None and number == 1 and (other := _looks_like(line, delimiter)):
            log.warning(
                "stdin: each line is a text, but the first looks like %s; is it --format %s?",
                "the header of a table" if other == "csv" else "JSON", other,
            )  # fmt: skip
        if form in (None, "text"):
            yield {"text": line.rstrip("\r\n")}
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"stdin: line {number} is no JSON: {first_line(error)}") from None
        if not isinstance(row, dict):
            raise UserError(f'stdin: line {number} is no JSON object, as {{"text": "…"}}')
        yield row


def _looks_like(line: str, delimiter: str) -> str | None:
    """Return the format that the first line probably has; None for a text."""
    if usual_columns("text", line.strip().split(delimiter)):
        return "csv"
    return "jsonl" if line.startswith("{") and line.rstrip().endswith("}") else None


def _of_csv(lines: Iterator[str], delimiter: str) -> Iterator[dict[str, Any]]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise UserError("stdin: two columns of the header have one name")
        for cells in reader:
            if cells and len(cells) != len(header):
                raise UserError(
                    f"stdin: line {reader.line_num} has {len(cells)} cells, and the header "
                    f"{len(header)}"
                )
            if cells:
                yield dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"stdin: line {reader.line_num}: {error}") from None


def _lines(lines: io.TextIOWrapper, encoding: str | None) -> Iterator[str]:
    """Yield lines, none of which is longer than a text may be."""
    number = 1
    try:
        while line := lines.readline(LONGEST + 2):
            if len(line) > LONGEST + 1:
                raise UserError(f"stdin: line {number} has more than {LONGEST:,} characters")
            yield line
            number += 1
    except UnicodeError:
        name = encoding or "UTF-8"
        raise UserError(f"stdin: line {number} or later is not {name}; say --encoding") from None
