"""Labels in cells of a table: of one concept, or of several."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from llmprobe.datasets.cells import cell_error, check_cells, list_in, require_no_missing
from llmprobe.ground.errors import UserError
from llmprobe.ground.text import listed

_SAME_ANSWER = (
    {"yes", "true", "1", "y", "t", "positive"},
    {"no", "false", "0", "n", "f", "negative"},
)
_NUMBER = re.compile(
    r"[+-]?(((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?|inf(inity)?)", re.IGNORECASE
)
"""A zero before other digits makes a code, such as "007", not a number."""


def concepts_of(labels: pd.DataFrame, where: str) -> dict[str, np.ndarray]:
    """Return the labels for each concept [n]: one concept a column, or one a label in lists.

    Raises
    ------
    UserError
        As ``class_labels``; some cells are lists and others not; no list has a label.
    """
    columns: list[str] = labels.columns.tolist()
    if len(columns) > 1:
        return {name: class_labels(labels[name], name, where) for name in columns}
    (column,) = columns
    cells = labels[column]
    lists = cells.map(list_in)
    texts = cells.map(lambda cell: isinstance(cell, str))
    if not lists.notna().any() or (texts & lists.isna()).any():
        return {column: class_labels(cells, column, where)}
    return _present(lists, column, where)


def joint_labels(concepts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Join the labels for several concepts into one text for each row, without fractions. [n]

    The concepts that a row has, ``"joy, fear"``, and ``"score=3"`` for labels other than 0 and 1.
    """
    parts = []
    for name, labels in concepts.items():
        if set(labels.tolist()) <= {0, 1}:
            parts.append(np.where(labels == 1, name, ""))
        elif labels.dtype.kind != "f":
            parts.append(np.array([f"{name}={label}" for label in labels]))
    if not parts:
        return next(iter(concepts.values()))
    return np.array([", ".join(filter(None, row)) or "none" for row in zip(*parts, strict=True)])


def _present(lists: pd.Series, column: str, where: str) -> dict[str, np.ndarray]:
    """Return, for each label that occurs, whether each list has it: 1 or 0. [n]"""
    require_no_missing(lists.index[lists.isna()].tolist(), column, where, is_label=True)
    first: dict[str, int] = {}
    for row, labels in zip(lists.index.tolist(), lists, strict=True):
        for label in labels:
            if not isinstance(label, str | int | float) or str(label).strip() in ("", "nan"):
                raise cell_error(where, row, column, f"{label!r:.40} in a list is no label")
            first.setdefault(str(label), row)
    if not first:
        raise UserError(f"{where}: column {column!r}: no list has a label")
    _check_spelling(first.items(), column, where, one_of=False)
    held = [{*map(str, labels)} for labels in lists]
    return {label: np.array([int(label in has) for has in held]) for label in sorted(first)}


def class_labels(cells: pd.Series, column: str, where: str) -> np.ndarray:
    """Return labels as integers, truth values, numbers with fractions, or texts. [n]

    Labels that are all numbers become numbers, also if they are texts; if all are whole, integers.
    The index of ``cells`` has their rows, from 0.

    Raises
    ------
    UserError
        A cell has no label, or a list, or one that is infinite or longer than ``LONGEST``; labels
        are of two kinds, or one class is spelled in two ways.
    """
    check_cells(cells, column, where, nan_is_none=True)
    values = cells.tolist()
    _check_kinds(cells, column, where)
    if all(isinstance(value, bool) for value in values):
        return np.array(values)
    words = [str(value) for value in values]
    if not all(_NUMBER.fullmatch(word.strip()) for word in words):
        _check_spelling(zip(words, cells.index, strict=True), column, where)
        return np.array(words)
    try:
        return np.array([int(word) for word in words], dtype=np.int64)
    except OverflowError:  # As texts they stay distinct, as floats they might not.
        return np.array(words)
    except ValueError:
        numbers = np.array([float(word) for word in words])
    infinite = np.flatnonzero(~np.isfinite(numbers))
    if len(infinite):
        place = infinite[0]
        raise cell_error(where, cells.index[place], column, f"{words[place]} is not finite")
    # With fractions they stay floats: numbers for a ridge probe, or a few classes.
    whole = (numbers == numbers.round()) & (np.abs(numbers) < 2**53)
    return numbers.astype(np.int64) if whole.all() else numbers


def _check_kinds(cells: pd.Series, column: str, where: str) -> None:
    """Raise ``UserError`` when some labels are texts, others numbers or truth values."""
    first: dict[str, tuple[int, object]] = {}
    for row, value in zip(cells.index.tolist(), cells, strict=True):
        kind = {bool: "truth value", str: "text"}.get(type(value), "number")
        first.setdefault(kind, (row, value))
    if len(first) > 1:
        kinds = [
            f"row {row + 1} has the {kind} {value!r:.40}" for kind, (row, value) in first.items()
        ]
        raise UserError(f"{where}: column {column!r}: {listed(kinds[:2])}; "
                        "labels should be of one kind")  # fmt: skip


def _check_spelling(
    labels: Iterable[tuple[str, int]], column: str, where: str, *, one_of: bool = True
) -> None:
    """Raise ``UserError`` when one class is spelled in two ways.

    Parameters
    ----------
    labels
        Each with its row, from 0.
    one_of
        Whether labels exclude each other, so that two that say the same are one class.
    """
    first: dict[str, int] = {}
    for word, row in labels:
        first.setdefault(word, row)
    spelled: dict[str, str] = {}
    for word in first:
        plain = " ".join(word.split()).casefold()
        other = spelled.setdefault(plain, word)
        if other != word:
            _two_spellings(other, word, first, "differ only in case or spaces", column, where)
    if not one_of:
        return
    # Letters or digits may be classes of their own, unless all labels mean yes or no.
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
