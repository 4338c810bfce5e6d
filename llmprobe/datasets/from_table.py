"""From a table to a dataset: which columns, and whether their cells can be probed."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from llmprobe.config.schema import DatasetConfig
from llmprobe.datasets.unlabelled import without_label
from llmprobe.ground.errors import UserError
from llmprobe.ground.text import listed

log = logging.getLogger(__name__)

LONGEST = 1_000_000
"""Characters in one text. No model reads more; a file read in the wrong way soon has more."""

_USUAL = {"text": ("text", "statement", "sentence"), "label": ("label",)}
_SAME_ANSWER = (
    {"yes", "true", "1", "y", "t", "positive"},
    {"no", "false", "0", "n", "f", "negative"},
)
_NUMBER = re.compile(
    r"[+-]?(((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?|inf(inity)?)", re.IGNORECASE
)
"""With a zero before other digits it is a code such as "007"."""


def parts_of_table(table: pd.DataFrame, config: DatasetConfig, where: str) -> dict[str, Any]:
    """Return the arguments of a ``ConceptDataset`` from a table.

    Text, label and group are the columns that ``config`` names, or which have the usual names.

    Labels that are all numbers become numbers, also when they are texts; whole ones integers.
    ``where``, a file's or dataset's name, begins error messages.

    Raises
    ------
    UserError
        A column is missing; no row has a label; a row has no text or label, or one that is a list,
        infinite, or longer than ``LONGEST``; labels of two kinds, or one class spelled in two ways.
    """
    table = table.set_axis([str(column) for column in table.columns], axis=1)
    columns = list(table.columns)
    text = find_column("text", config.text, columns, where)
    label = find_column("label", config.label, columns, where)
    _check_cells(table[text], text, where, nan_is_none=False)
    if config.drop.unlabelled:
        none = without_label(table[label])
        if none.all():
            raise UserError(f"{where}: column {label!r}: no row has a label")
        table = table[~none].reset_index(drop=True)
        if none.any():
            log.info("%s: %d of %d rows have no label and are left out", where, none.sum(),
                     len(none))  # fmt: skip
    _check_cells(table[label], label, where, nan_is_none=True)
    groups = None
    if config.group is not None:
        values = table[find_column("group", config.group, columns, where)].astype(object)
        # A row without a group is a group of its own.
        alone = pd.Series([f"row {i + 1}" for i in range(len(table))], index=table.index)
        groups = values.where(values.notna(), alone).astype(str).to_numpy(str)
    return {
        "name": config.title,
        "texts": [str(value) for value in table[text]],
        "labels": _labels(table[label], label, where),
        "groups": groups,
        "fields": table.drop(columns=[text, label]),
        "source": where,
    }


def unlabelled(table: pd.DataFrame, text: str | None, where: str) -> pd.DataFrame:
    """Return what a template can be filled with: as ``text`` the texts, and the other columns.

    Raises
    ------
    UserError
        The column is missing or not clear, or a row of it has no text.
    """
    table = table.set_axis([str(column) for column in table.columns], axis=1)
    column = find_column("text", text, list(table.columns), where)
    _check_cells(table[column], column, where, nan_is_none=False)
    return table.drop(columns=column).assign(text=[str(value) for value in table[column]])


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
    usual = _USUAL[key]
    matching = [column for column in columns if column.strip().lower() in usual]
    if len(matching) > 1:
        raise UserError(f"{where}: columns {listed([*map(repr, matching)])} could each be the "
                        f"{key}; say `{key}: NAME`")  # fmt: skip
    if not matching:
        names = " or ".join(map(repr, usual))
        raise UserError(f"{where}: no column {names}; say `{key}: NAME`; columns: {known}")
    return matching[0]


def _check_cells(cells: pd.Series, column: str, where: str, nan_is_none: bool) -> None:
    """Raise ``UserError`` unless every cell holds a text, number or truth value."""
    empty = ["", "nan"] if nan_is_none else [""]
    missing = []
    for row, value in enumerate(cells, start=1):
        place = f"{where}: row {row}, column {column!r}"
        if isinstance(value, list | tuple | dict | bytes | np.ndarray):
            kind = type(value).__name__.replace("ndarray", "list")
            raise UserError(f"{place}: a {kind}; it should be a text or a number")
        if isinstance(value, str) and len(value) > LONGEST:
            raise UserError(f"{place}: {len(value):,} characters; at most {LONGEST:,} are allowed")
        if pd.isna(value) or (isinstance(value, str) and value.strip().lower() in empty):
            missing.append(row)
    if missing:
        others = f"; rows without one: {len(missing)}" if len(missing) > 1 else ""
        if nan_is_none:
            others += "; `drop: {unlabelled: true}` leaves them out"
        raise UserError(f"{where}: row {missing[0]}: no value in column {column!r}{others}")


def _labels(cells: pd.Series, column: str, where: str) -> np.ndarray:
    """Return labels as integers, truth values, numbers with fractions, or texts. [n]"""
    values = cells.tolist()
    _check_kinds(values, column, where)
    if all(isinstance(value, bool) for value in values):
        return np.array(values)
    words = [str(value) for value in values]
    if not all(_NUMBER.fullmatch(word.strip()) for word in words):
        _check_spelling(words, column, where)
        return np.array(words)
    try:
        return np.array([int(word) for word in words], dtype=np.int64)
    except OverflowError:  # They stay apart as texts, where numbers with fractions would not.
        return np.array(words)
    except ValueError:
        numbers = np.array([float(word) for word in words])
    infinite = np.flatnonzero(~np.isfinite(numbers))
    if len(infinite):
        row = infinite[0]
        raise UserError(f"{where}: row {row + 1}, column {column!r}: {words[row]} is not finite")
    # What has fractions stays: numbers for a ridge probe, or a few classes.
    whole = (numbers == numbers.round()) & (np.abs(numbers) < 2**53)
    return numbers.astype(np.int64) if whole.all() else numbers


def _check_kinds(values: Sequence[object], column: str, where: str) -> None:
    """Raise ``UserError`` when some labels are texts, others numbers or truth values."""
    first: dict[str, int] = {}
    for row, value in enumerate(values):
        kind = {bool: "truth value", str: "text"}.get(type(value), "number")
        first.setdefault(kind, row)
    if len(first) > 1:
        kinds = [f"row {row + 1} has the {kind} {values[row]!r:.40}" for kind, row in first.items()]
        raise UserError(f"{where}: column {column!r}: {listed(kinds[:2])}; "
                        "labels should be of one kind")  # fmt: skip


def _check_spelling(words: Sequence[str], column: str, where: str) -> None:
    """Raise ``UserError`` when one class is spelled in two ways."""
    first: dict[str, int] = {}
    for row, word in enumerate(words):
        first.setdefault(word, row)
    spelled: dict[str, str] = {}
    for word in first:
        plain = " ".join(word.split()).casefold()
        other = spelled.setdefault(plain, word)
        if other != word:
            _two_spellings(other, word, first, "differ only in case or spaces", column, where)
    # Classes may be letters or digits, unless nothing is there but yes and no.
    only_answers = set(spelled) <= set.union(*_SAME_ANSWER)
    for answer in _SAME_ANSWER:
        same = [plain for plain in spelled if plain in answer]
        if len(same) > 1 and (only_answers or any(len(plain) > 1 for plain in same)):
            one, two = (spelled[plain] for plain in same[:2])
            _two_spellings(one, two, first, "say the same", column, where)


def _two_spellings(
    one: str, two: str, first: dict[str, int], how: str, column: str, where: str
) -> None:
    raise UserError(
        f"{where}: column {column!r}: {one!r:.40} (row {first[one] + 1}) and {two!r:.40} "
        f"(row {first[two] + 1}) {how}; spell each class in one way"
    )
