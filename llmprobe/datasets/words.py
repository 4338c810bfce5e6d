"""Labels of words: sentences of tokens with tags, or a place in each text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from llmprobe.config.schema import DatasetConfig
from llmprobe.datasets.cells import Rows, cell_error, find_column, list_in
from llmprobe.ground.errors import UserError


def rows_of_words(table: pd.DataFrame, config: DatasetConfig, where: str) -> Rows:
    """Return a row for each token of each sentence; its text is the tokens joined by spaces.

    Raises
    ------
    UserError
        A column is missing; a cell is no list of tokens or tags, or they differ in number.
    """
    columns = list(table.columns)
    used = [find_column(key, getattr(config, key), columns, where) for key in ("tokens", "tags")]
    read, tags, of_row = [], [], []
    for row, cells in enumerate(table[used].itertuples(index=False)):
        tokens, of_tokens = (
            _items(cell, where, row, column) for cell, column in zip(cells, used, strict=True)
        )
        if len(tokens) != len(of_tokens):
            raise UserError(f"{where}: row {row + 1}: {len(tokens)} {used[0]} but "
                            f"{len(of_tokens)} {used[1]}")  # fmt: skip
        text, start = " ".join(map(str, tokens)), 0
        for number, token in enumerate(map(str, tokens), start=1):
            if not token.strip():
                raise cell_error(where, row, used[0], f"number {number} is empty")
            place = (start, start + len(token))
            read.append({"text": text, "word": place, "group": f"sentence {row + 1}"})
            start = place[1] + 1
        tags += of_tokens
        of_row += [row] * len(tokens)
    frame = pd.DataFrame(read, columns=["text", "word", "group"], index=of_row)
    fields = table.drop(columns=used).loc[of_row]
    if "word" not in fields:
        fields["word"] = [text[slice(*place)] for text, place in zip(frame["text"], frame["word"],
                                                                     strict=True)]  # fmt: skip
    return Rows(frame, pd.DataFrame({used[1]: pd.Series(tags, of_row, dtype=object)}), fields)


def places(table: pd.DataFrame, config: DatasetConfig, texts: pd.Series, where: str) -> pd.Series:
    """Return where the labelled part of each text stands, from the columns start and end. [n]

    Raises
    ------
    UserError
        A column is missing, or a place is not inside its text.
    """
    columns = list(table.columns)
    start, end = (
        find_column(key, getattr(config, key), columns, where) for key in ("start", "end")
    )
    found = []
    for row, (text, *ends) in enumerate(zip(texts, table[start], table[end], strict=True)):
        for column, value in zip((start, end), ends, strict=True):
            if not _is_whole(value):
                raise cell_error(where, row, column, f"{value!r:.40} is no place in the text; it "
                                 "should be a number of characters")  # fmt: skip
        place = int(ends[0]), int(ends[1])
        if not 0 <= place[0] < place[1] <= len(text) or not text[slice(*place)].strip():
            raise UserError(f"{where}: row {row + 1}: {start} {place[0]}, {end} {place[1]}: no "
                            f"part of its text, which has {len(text)} characters")  # fmt: skip
        found.append(place)
    return pd.Series(found, index=table.index, dtype=object)


def _is_whole(value: Any) -> bool:
    if isinstance(value, str):  # In a column with others that are no numbers.
        return value.strip().isdecimal()
    number = isinstance(value, int | float | np.integer | np.floating)
    return number and not isinstance(value, bool) and float(value).is_integer()


def _items(cell: Any, where: str, row: int, column: str) -> list[Any]:
    """Return the tokens or tags in a cell: a list, or a text of them with spaces between."""
    items = cell.split() if isinstance(cell, str) and not cell.startswith("[") else list_in(cell)
    if items is None:
        raise cell_error(where, row, column, f"no list but {cell!r:.40}")
    for number, item in enumerate(items, start=1):
        if isinstance(item, list | dict):
            raise cell_error(where, row, column, f"number {number} is a {type(item).__name__}")
    return items
