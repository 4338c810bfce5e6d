"""Contrast pairs: a row has a text with the concept and one without it."""

from __future__ import annotations

import pandas as pd

from llmprobe.config.schema import PairsConfig
from llmprobe.datasets.cells import Rows, check_cells, find_column
from llmprobe.ground.errors import UserError


def rows_of_pairs(table: pd.DataFrame, pairs: PairsConfig, where: str) -> Rows:
    """Return two rows for each: the positive side, labelled 1, and the negative one, labelled 0.

    Raises
    ------
    UserError
        A column is missing, a side has no text, or both are the same.
    """
    columns = list(table.columns)
    sides = [
        find_column(f"pairs.{key}", name, columns, where) for key, name in pairs
    ]  # The positive one first.
    for side in sides:
        check_cells(table[side], side, where)
    texts = table[sides].astype(str)
    for row, (positive, negative) in enumerate(texts.itertuples(index=False)):
        if positive.split() == negative.split():
            raise UserError(f"{where}: row {row + 1}: {sides[0]} and {sides[1]} are the same text, "
                            f"{positive!r:.40}")  # fmt: skip
    index = table.index.repeat(2)
    read = pd.DataFrame(
        {"text": texts.to_numpy().ravel(), "group": [f"pair {row + 1}" for row in index]}, index
    )
    labels = pd.DataFrame({"label": [1, 0] * len(table)}, index)
    return Rows(read, labels, table.drop(columns=sides).loc[index])
