"""Compared curves, as the page shows them: how much they differ, and how their runs do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from types import MappingProxyType
from typing import Any, NamedTuple

import pandas as pd

from llmprobe.ground.text import elide, interval_text, number_text, p_text
from llmprobe.reporting.page.tables import LONGEST_NAME, Table, whole_text
from llmprobe.results.curve import SURE, titles
from llmprobe.results.metrics import METRICS

MOST_SENTENCES = 8
MOST_ROWS = 500


class Compared(NamedTuple):
    """Pairs of curves of the same examples, and the runs that they come from."""

    differences: pd.DataFrame
    """As `llmprobe.results.differences.differences` returns them."""
    runs: Mapping[str, str] = MappingProxyType({})
    """Name of each run -> its folder; empty where all are of one run."""
    differs: Mapping[str, Sequence[str]] = MappingProxyType({})
    """What is not the same in all runs -> the value of each run."""

    def sentences(self) -> list[str]:
        """Return how the curves of each pair differ, a sentence each; none for too many pairs."""
        few = len(self.differences) <= MOST_SENTENCES
        return [_sentence(row) for row in pairs(self.differences)] if few else []

    def tables(self) -> list[Table]:
        """Return how curves differ, if any are of the same examples, and how runs do."""
        rows = [_row(row) for row in pairs(self.differences, MOST_ROWS)]
        left_out = len(self.differences) - len(rows)
        more = f"; {left_out:,} more pairs are in differences.csv" if left_out else ""
        tables = [Table(_PAIRS + more, _HEADERS, rows)] if rows else []
        if not self.runs:
            return tables
        runs = [["folder", *self.runs.values()]]
        runs += [
            [what, *(value or "–" for value in values)] for what, values in self.differs.items()
        ]
        return [*tables, Table("What differs between the runs", ("", *self.runs), runs)]


def pairs(differences: pd.DataFrame, most: int = MOST_SENTENCES) -> list[dict[Any, Any]]:
    """Return the first rows of differences, with the titles of datasets for their names."""
    if differences.empty:
        return []
    both = [
        differences[[f"{name}_{end}" for name in ("dataset", "position")]].set_axis(
            ["dataset", "position"], axis=1
        )
        for end in "ab"
    ]
    called = titles(pd.concat(both, keys=["a", "b"]))
    named = differences.assign(dataset_a=called["a"], dataset_b=called["b"])
    return named.head(most).to_dict("records")


def sides(row: Mapping[Any, Any]) -> tuple[str, str, str]:
    """Return the model or dataset that two curves share, and the name of each that differs."""
    if row["model_a"] != row["model_b"]:
        return row["dataset_a"], row["model_a"], row["model_b"]
    return row["model_a"], row["dataset_a"], row["dataset_b"]


def with_interval(row: Mapping[Any, Any], name: str) -> str:
    """Return ``+0.19 [+0.16, +0.22]`` of a column; a dash if there is no value."""
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return interval_text(value, low, high, "+.2f")


def _metric(row: Mapping[Any, Any]) -> str:
    return "r2" if isnan(row["accuracy_a"]) else "accuracy"


def _sentence(row: Mapping[Any, Any]) -> str:
    common, a, b = (elide(name, LONGEST_NAME) for name in sides(row))
    metric, p = _metric(row), row["p_value"]
    scores = row[f"{metric}_b"], row[f"{metric}_a"]
    sentence = (
        f"{common}: {METRICS[metric].label} {scores[0]:.2f} for {b}, {scores[1]:.2f} for {a}: "
        f"{with_interval(row, 'difference')}, p {p_text(p) if p < 0.001 else f'= {p_text(p)}'}"
    )
    if p > SURE:
        sentence += ", no clear difference"
    low, high = (row[f"{_DEPTH}_difference_{end}"] for end in ("low", "high"))
    if low > 0 or high < 0:
        by = abs(row[f"{_DEPTH}_difference"])
        sentence += (
            f"; {b} stays above half of its rise from a depth {by:.2f} "
            f"{'later' if low > 0 else 'earlier'} on"
        )
    return sentence


def _row(row: Mapping[Any, Any]) -> list[str]:
    metric = _metric(row)
    scores, depths = (
        " → ".join(number_text(row[f"{name}_{end}"]) for end in "ab") for name in (metric, _DEPTH)
    )
    return [
        *(elide(name, LONGEST_NAME) for name in sides(row)),
        scores,
        with_interval(row, "difference"),
        p_text(row["p_value"]),
        depths,
        with_interval(row, f"{_DEPTH}_difference"),
        number_text(row["agreement"]),
        " and ".join(whole_text(row[f"only_{end}"]) for end in "ab"),
    ]


_DEPTH = "stays_above_half_depth"
_PAIRS = "Curves of the same examples, a and b, each at its own best layer"
_HEADERS = (
    "of", "a", "b", "score", "b − a [95 %]", "p", "above half from", "b − a [95 %]", "agreement",
    "right in one alone",
)  # fmt: skip
