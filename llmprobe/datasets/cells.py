"""Columns and cells of a table: which column is meant, and whether its cells can be used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from llmprobe.ground.errors import UserError
from llmprobe.ground.text import listed

LONGEST = 1_000_000
"""The most characters of a text: no model reads more, but a badly parsed file soon has more."""

_USUAL = {
    "text": ("text", "statement", "sentence"),
    "label": ("label",),
    "messages": ("messages", "conversations"),
}


class Rows(NamedTuple):
    """The examples of a table, one a row; the index is the row of the table."""

    read: pd.DataFrame
    """``text``, and where parts of it stand: ``turns``, ``word``, ``span NAME``; ``group``, if the
    examples from one row or text must stay together."""
    labels: pd.DataFrame
    """A column for each concept."""
    fields: pd.DataFrame
    """The other columns."""


def usual_columns(key: str, columns: Sequence[str]) -> list[str]:
    """Return the columns with a usual name for ``key``."""
    return [column for column in columns if column.strip().lower() in _USUAL[key]]


def find_column(key: str, wanted: str | None, columns: Sequence[str], where: str) -> str:
    """Return the column called ``wanted``, or the only one with a usual name for ``key``.

    Raises
    ------
    UserError
        There is no such column, or there are several with a usual name.
    """
    known = ", ".join(columns[:20]) + (" …" if len(columns) > 20 else "") or "none"
    if wanted is not None:
        if wanted not in columns:
            raise UserError(f"{where}: no column {wanted!r} ({key}); columns: {known}")
        return wanted
    matching = usual_columns(key, columns)
    if len(matching) > 1:
        raise UserError(f"{where}: columns {listed([*map(repr, matching)])} could each be the "
                        f"{key}; say `{key}: NAME`")  # fmt: skip
    if not matching:
        names = " or ".join(map(repr, _USUAL[key]))
        raise UserError(f"{where}: no column {names}; say `{key}: NAME`; columns: {known}")
    return matching[0]


def label_columns(
    wanted: str | Sequence[str] | None, columns: Sequence[str], where: str
) -> list[str]:
    """Return the columns of the labels: those that are named, or the one with the usual name."""
    several = [wanted] if wanted is None or isinstance(wanted, str) else wanted
    return [find_column("label", name, columns, where) for name in several]


def cell_error(where: str, row: int, column: str, problem: str) -> UserError:
    """Return the error of a cell, in a row that counts from 0."""
    return UserError(f"{where}: row {row + 1}, column {column!r}: {problem}")


def too_long(text: str, where: str, row: int, column: str) -> UserError:
    """Return the error of a cell with more text than ``LONGEST``."""
    problem = f"{len(text):,} characters; at most {LONGEST:,} are allowed"
    return cell_error(where, row, column, problem)


def check_cells(cells: pd.Series, column: str, where: str, nan_is_none: bool = False) -> None:
    """Raise ``UserError`` unless every cell holds a text, number or truth value."""
    empty = ["", "nan"] if nan_is_none else [""]
    missing = []
    for row, value in zip(cells.index.tolist(), cells, strict=True):
        if isinstance(value, list | tuple | dict | bytes | np.ndarray):
            kind = type(value).__name__.replace("ndarray", "list")
            raise cell_error(where, row, column, f"a {kind}; it should be a text or a number")
        if isinstance(value, str) and len(value) > LONGEST:
            raise too_long(value, where, row, column)
        if pd.isna(value) or (isinstance(value, str) and value.strip().lower() in empty):
            missing.append(row)
    require_no_missing(missing, column, where, nan_is_none)


def require_no_missing(missing: Sequence[Any], column: str, where: str, is_label: bool) -> None:
    """Raise ``UserError`` for rows that have no value in a column."""
    if missing:
        others = f"; rows without one: {len(missing)}" if len(missing) > 1 else ""
        if is_label:
            others += "; `drop: {unlabelled: true}` leaves them out"
        raise UserError(f"{where}: row {missing[0] + 1}: no value in column {column!r}{others}")


def list_in(cell: Any) -> list[Any] | None:
    """Return the list that a cell holds, also as JSON text; None where it holds none."""
    if isinstance(cell, np.ndarray):
        return list(cell.tolist())
    if isinstance(cell, list | tuple):
        return list(cell)
    if isinstance(cell, str) and cell.strip().startswith("["):
        try:
            value = json.loads(cell)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, list) else None
    return None
