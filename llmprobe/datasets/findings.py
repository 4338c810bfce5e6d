"""The findings of checks, and helpers that checks share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.groups import group_indices

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")

ALPHA = 0.001
"""The significance level of p-values, after Bonferroni's correction within a check."""


@dataclass(frozen=True)
class Finding:
    """One thing that a check found in a dataset."""

    level: Level
    """"error": cannot be probed; "warning": scores will mislead; "note": to keep in mind."""
    check: str
    """Which check says so: "lines", "repeats", "unlabelled", "classes", "majority", "groups",
    "length", "words", "pairs", "copies", "surface", "concepts"."""
    message: str
    """A sentence with numbers, without the dataset's name."""


@dataclass(frozen=True)
class Units:
    """The independent observations of a test: all rows of one group and one class are one unit."""

    of_row: np.ndarray
    """The unit of each row. [n]"""
    class_of: np.ndarray
    """The class of each unit. [units]"""

    @classmethod
    def of(cls, groups: np.ndarray | None, y: np.ndarray) -> Units:
        """Number the units, given the groups of rows and their classes 0 … K-1."""
        K = int(y.max()) + 1
        kept, of_row = np.unique(group_indices(groups, len(y)) * K + y, return_inverse=True)
        return cls(of_row, kept % K)

    def p_value(self, values: np.ndarray, c: int) -> float:
        """Test (Mann and Whitney) if the units' means differ between class ``c`` and the rest."""
        means = np.bincount(self.of_row, values) / np.bincount(self.of_row)
        return auroc(means[self.class_of == c], means[self.class_of != c])[1]


def auroc(positive: np.ndarray, negative: np.ndarray) -> tuple[float, float]:
    """Return the probability that a positive value is above a negative one, and its p-value."""
    from scipy.stats import mannwhitneyu  # type: ignore[import-untyped]

    statistic, p = mannwhitneyu(positive, negative, method="asymptotic")
    return float(statistic / (len(positive) * len(negative))), float(p)


def contingency(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Count how often each row index goes with each column index. [rows, columns]"""
    table = np.zeros((rows.max() + 1, columns.max() + 1), dtype=int)
    np.add.at(table, (rows, columns), 1)
    return table


def label_text(label: Any) -> str:
    """Return a label for a message: strings in quotation marks, numbers bare."""
    return repr(label.item() if isinstance(label, np.generic) else label)


def quoted_text(dataset: ConceptDataset, row: int) -> str:
    """Quote a text without the template around it, which is the same for all."""
    places = dataset.spans.get("text")
    return quoted(dataset.texts[row][slice(*places[row])] if places else dataset.texts[row])


def quoted(text: object, width: int = 50) -> str:
    line = " ".join(str(text).split())
    return repr(line if len(line) <= width else f"{line[: width - 1]}…")


def percent(share: float) -> str:
    """Return a share as ``"73.6 %"``."""
    return f"{100 * share:.1f} %"
