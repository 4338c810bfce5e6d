"""Train × test matrices as a few lines of text."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from rich.text import Text

from llmprobe.ground.text import elide
from llmprobe.results.transfer import is_elsewhere

_MARKS = {"yes": "", "opposite": "!", "no": "-", "unclear": "?", "not defined": ""}
"""The mark after a score, by what the probe reads there."""
_STYLES = {"yes": "", "opposite": "bold", "no": "dim", "unclear": "dim", "not defined": "dim"}


def transfer_lines(table: pd.DataFrame, width: int, unicode: bool = True) -> list[Text]:
    """Return each model's matrix of AUROCs (of numbers, rank correlations), a row a train set.

    If the sets do not fit side by side, a row has only the worst of the other sets.
    """
    several = table["position"].nunique() > 1
    lines: list[Text] = []
    for (model, position), cells in table.groupby(["model", "position"], sort=False):
        title = f"{model} @ {position}" if several else str(model)
        lines += [Text(title, "bold"), *_matrix(cells, width, unicode), Text()]
    legend = "rows: fitted on; columns: scored on; ! reads the opposite, - nothing, ? unclear"
    return [*lines, Text(legend, "dim")]


def _matrix(cells: pd.DataFrame, width: int, unicode: bool) -> Iterator[Text]:
    tests = [str(name) for name in pd.unique(cells["test"])]
    ellipsis = "…" if unicode else "..."
    widest = max(len(str(name)) for name in cells["train"])
    first = min(widest, 24)
    longest = max(map(len, tests))
    room = (width - first - 9) // len(tests) - 2
    wide = max(6, min(longest, room))
    numbers = cells["auroc"].isna().all()
    score = "rank_correlation" if numbers else "auroc"
    label = "rank r" if numbers else "AUROC"
    if room < max(6, min(longest, 12)):
        yield from _worst(cells, score, label, first, ellipsis)
        return
    heads = "  ".join(f"{elide(name, wide, ellipsis):>{wide}}" for name in tests)
    yield Text(f"  {label:<{first}}  layer  {heads}", "dim")
    for train, row in cells.groupby("train", sort=False):
        line = Text(f"  {elide(str(train), first, ellipsis):<{first}}  ")
        line.append(f"{row['train_layer'].iloc[0]:>5}")
        of_test = {cell["test"]: cell for cell in row.to_dict("records")}
        for test in tests:
            cell = of_test.get(test, {score: np.nan, "reads": "not defined"})
            line.append(f"  {_written(cell, score):>{wide}}", _STYLES[cell["reads"]])
        yield line


def _worst(
    cells: pd.DataFrame, score: str, label: str, first: int, ellipsis: str
) -> Iterator[Text]:
    """Yield for each train set the score at home, the mean elsewhere and the worst elsewhere.

    A test set of masked texts has a line of its own.
    """
    yield Text(f"  {label:<{first}}  layer    home    mean   worst  elsewhere", "dim")
    for train, row in cells.groupby("train", sort=False):
        is_home = row["test"] == train
        home = row[is_home].to_dict("records")
        elsewhere = row[is_elsewhere(row)].dropna(subset=score).sort_values(score)
        line = f"  {elide(str(train), first, ellipsis):<{first}}  {row['train_layer'].iloc[0]:>5}"
        line += f"  {_written(home[0], score) if home else '':>6}"
        masked = row[~is_home & ~is_elsewhere(row)].dropna(subset=score)
        shown = [*elsewhere.head(1).to_dict("records"), *masked.to_dict("records")]
        mean = f"{elsewhere[score].mean():.2f}" if len(elsewhere) > 1 else ""
        for cell in shown:
            end = f"  {mean:>6}  {_written(cell, score):>6}  "
            yield Text(line + end + elide(str(cell["test"]), 24, ellipsis))
            mean = ""
        if not shown:
            yield Text(line)


def _written(cell: Mapping[Hashable, Any], score: str) -> str:
    value = float(cell[score])
    number = "" if np.isnan(value) else f"{value:.2f}"
    return f"{number}{_MARKS[cell['reads']]}"
