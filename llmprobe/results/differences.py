"""How two curves differ that were measured on the same examples: two models, wordings or positions.

The comparison is paired: each example, and each resample of examples, is scored under both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from llmprobe.datasets.groups import joined, plain
from llmprobe.results.columns import CURVE, DIFFERENCES
from llmprobe.results.curve import Curve
from llmprobe.results.depth import above_half
from llmprobe.results.metrics import majority_accuracy, resampled_r2
from llmprobe.results.resampling import Resamples
from llmprobe.results.results import Results

STEPS = 2**14
"""The number of steps to which differences that are no whole numbers are rounded for a p-value."""


def differences(results: Results, wordings: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Compare each two curves of the same examples and labels: b, the later one, against a.

    The two differ in one thing only: the model, the wording of the dataset, or the position in its
    texts. Accuracies (R², for labels that are numbers) are compared at the best layer of each
    curve, whatever its number. -> a row for each two curves

    - ``difference``: accuracy or R² of b minus that of a, with its 95 % interval
      (`difference_interval`).
    - ``p_value``: of no difference, by `sign_flip_p_value` over groups. Of this pair alone: of 20
      pairs that don't differ, one is expected at 0.05.
    - ``stays_above_half_depth_a``, ``…_b``, ``…_difference``: from where on each stays above half
      of its rise (`depth.above_half`), and how much later b does, with an interval. The difference
      is missing where a curve is not above chance: a curve that does not rise has no depth.
    - ``agreement``, ``only_a``, ``only_b``: the share of examples that both get right or both get
      wrong, and the numbers of those that one alone gets right. Missing for labels that are
      numbers.

    Groups, and examples of the same text, are resampled and flipped as a whole.

    The best layer is the best of many, partly by luck, a little more so with more layers. On
    simulated curves (200 or 500 examples, single or in groups of 4; 12 to 48 layers a model) the
    intervals still covered the difference of the noiseless curves 95 to 100 % of the time, that of
    the depths 93 to 98 %, and p was 0.05 or less for 0 to 4 % of the pairs without a difference.

    Parameters
    ----------
    results
        Curves of a dataset without examples are left out, since nothing says which of its rows
        belong together. So are curves whose predictions are not of the same layers.
    wordings
        For each dataset that has the examples of another in other words, the name of that other.
    """
    predictions = dict(list(results.predictions.groupby(list(CURVE), sort=False)))
    examples = {
        name: table.set_index("example") for name, table in results.examples.groupby("dataset")
    }
    alike: dict[tuple[Any, ...], list[tuple[Curve, _Answers]]] = {}
    for curve in results.curves:
        of_curve = predictions.get(curve.key)
        if curve.dataset in examples and curve.layer is not None and of_curve is not None:
            answers = _Answers.of(of_curve)
            if answers.layers != curve.layers:
                continue  # The tables are of different runs: one was stopped while writing.
            original = (wordings or {}).get(curve.dataset, curve.dataset)
            key = (original, *answers.examples.tolist(), *answers.labels.tolist())
            alike.setdefault(key, []).append((curve, answers))
    rows = []
    for family in alike.values():
        if len(family) == 1:
            continue
        tables = [examples[name] for name in dict.fromkeys(curve.dataset for curve, _ in family)]
        resamples = _resamples(tables, family[0][1].examples)
        measured = [_Measured.of(curve, answers, resamples) for curve, answers in family]
        rows += [
            _compared(a, b, resamples)
            for a, b in combinations(measured, 2)
            if sum(of_a != of_b for of_a, of_b in zip(a.curve.key, b.curve.key, strict=True)) == 1
        ]
    return pd.DataFrame(rows, columns=list(DIFFERENCES))


def difference_interval(
    a: tuple[float, float, float],
    b: tuple[float, float, float],
    resampled_a: np.ndarray,
    resampled_b: np.ndarray,
) -> tuple[float, float]:
    """Return the 95 % interval of b − a, from the interval of each and how the two vary together.

    Newcombe 1998, method 10; Zou & Donner 2008, section 2, for any two intervals. Percentiles of
    resampled differences rest on the few examples on which the two differ. In simulations of 60 to
    300 examples, single or in groups of 3 or 4::

        % covered, mean (range)        this interval        percentiles
        accuracies 0.55 to 0.97        95.3 (92.5, 99.5)    93.9 (91.2, 98.2)
        accuracies 0.99 and 0.995      99.5 (98.5, 100)     67.9 (40.2, 86.8)

    Parameters
    ----------
    a, b
        Estimate, low and high end of its interval.
    resampled_a, resampled_b
        The estimates in the same resamples of examples; NaN where there is none. [B]
    """
    (first, first_low, first_high), (second, second_low, second_high) = a, b
    correlation = _correlation(resampled_a, resampled_b)

    def reach(one: float, other: float) -> float:
        return float(np.sqrt(max(one**2 - 2 * correlation * one * other + other**2, 0.0)))

    down = reach(second - second_low, first_high - first)
    up = reach(second_high - second, first - first_low)
    return second - first - down, second - first + up


def sign_flip_p_value(gains: np.ndarray) -> float:
    """Return the exact two-sided p-value of no difference, from what each group gains from a to b.

    If it does not matter which of the two is a, each group's gain could as well be a loss. So p is
    the share of all ways to flip signs whose sum is as far from 0 as the observed one (Fisher 1935,
    section 21). With single examples that is the exact test of McNemar (1947). Groups flip as a
    whole, which keeps the test valid where their examples are alike (Winkler et al. 2014, section
    2.3).

    Parameters
    ----------
    gains
        Whole numbers. [G]
    """
    sizes = np.abs(gains[gains != 0])
    total = int(sizes.sum())
    chances = np.zeros(total + 1)  # The probability of each sum of the groups that gain.
    chances[0] = 1.0
    for size in sizes:
        chances /= 2
        chances[size:] += chances[: total + 1 - size].copy()
    sums = 2 * np.arange(total + 1) - total
    return min(float(chances[np.abs(sums) >= abs(int(gains.sum()))].sum()), 1.0)


@dataclass(frozen=True, eq=False)
class _Answers:
    """Out-of-fold answers of one curve, examples and layers in rising order."""

    layers: list[int]
    examples: np.ndarray
    """Their numbers. [n]"""
    labels: np.ndarray
    """As text. [n]"""
    predicted: np.ndarray
    """As text, in each repeat of the folds. [R, layers, n]"""
    numbers: np.ndarray
    """What is predicted where labels are numbers. [R, layers, n]"""

    @classmethod
    def of(cls, rows: pd.DataFrame) -> _Answers:
        rows = rows.sort_values(["repeat", "layer", "example"])
        layers, repeats = rows["layer"].unique(), rows["repeat"].nunique()
        shape = repeats, len(layers), len(rows) // (repeats * len(layers))
        return cls(
            layers.tolist(),
            rows["example"].to_numpy()[: shape[2]],
            rows["label"].to_numpy(dtype=str)[: shape[2]],
            rows["predicted"].to_numpy(dtype=str).reshape(shape),
            rows["score"].to_numpy(dtype=float).reshape(shape),
        )


@dataclass(frozen=True, eq=False)
class _Measured:
    """A curve, and how its best layer does on each example and in each resample."""

    curve: Curve
    merits: np.ndarray
    """What each example contributes to the score: in how many repeats of the folds it is right; for
    numbers, 1 - its mean squared error / the variance of the labels. [n]"""
    resampled: np.ndarray
    """The score in each resample. [B]"""
    depths: np.ndarray
    """The depth from which on the curve stays above half of its rise, in each resample. [B]"""

    @classmethod
    def of(cls, curve: Curve, answers: _Answers, resamples: Resamples) -> _Measured:
        best = curve.layers.index(int(curve.number("peak_layer")))
        if curve.metric.target == "classes":
            right = (answers.predicted == answers.labels).sum(axis=0).T
            merits, curves = right[:, best], resamples.means(right) / len(answers.predicted)
            baseline = majority_accuracy(np.unique(answers.labels, return_inverse=True)[1])
        else:
            truth = answers.labels.astype(float)
            merits = 1 - ((answers.numbers[:, best] - truth) ** 2).mean(axis=0) / truth.var()
            repeats = [resampled_r2(truth, numbers.T, resamples) for numbers in answers.numbers]
            curves, baseline = np.mean(repeats, axis=0), 0.0
        depths = np.asarray(above_half(curves, curve.depths, baseline, best)[0])
        return cls(curve, merits, curves[:, best], depths)

    @property
    def score(self) -> tuple[float, float, float]:
        """Return the accuracy (or R²) at the best layer, with its interval."""
        metric = self.curve.search_metric
        value, low, high = (self.curve.at_best(f"{metric}{end}") for end in ("", "_low", "_high"))
        return value, low, high

    @property
    def depth(self) -> tuple[float, float, float]:
        """Return the depth from which on it stays above half of its rise, with its interval."""
        low, high = (self.curve.number(f"stays_above_half_depth_{end}") for end in ("low", "high"))
        return self.curve.number("stays_above_half_depth"), low, high


def _resamples(tables: list[pd.DataFrame], rows: np.ndarray) -> Resamples:
    """Draw resamples of rows that belong together in any wording, by a group or an equal text."""
    whole = None
    for table in tables:
        for column, same in (("group", str), ("text", plain)):
            values = table.loc[rows, column]
            if values.notna().all():
                whole = joined(whole, [same(str(value)) for value in values])
    return Resamples(len(rows), whole)


def _compared(a: _Measured, b: _Measured, resamples: Resamples) -> dict[str, Any]:
    """Return the row of two curves."""
    gains = b.merits - a.merits
    row: dict[str, Any] = {"n_examples": len(gains), "difference": b.score[0] - a.score[0]}
    for end, measured in (("a", a), ("b", b)):
        curve = measured.curve
        for name in (*CURVE, "parameters", "peak_layer", "stays_above_half_depth"):
            row[f"{name}_{end}"] = curve.summary[name]
        row[f"{curve.search_metric}_{end}"] = measured.score[0]
    row["difference_low"], row["difference_high"] = difference_interval(
        a.score, b.score, a.resampled, b.resampled
    )
    by_group = np.bincount(resamples.group_of, gains)
    if a.curve.metric.target == "classes":
        row["agreement"] = float((gains == 0).mean())
        row["only_a"], row["only_b"] = int((gains < 0).sum()), int((gains > 0).sum())
    elif by_group.any():
        by_group *= STEPS / np.abs(by_group).sum()
    row["p_value"] = sign_flip_p_value(np.rint(by_group).astype(int))
    if a.curve.above_chance and b.curve.above_chance:
        ends = difference_interval(a.depth, b.depth, a.depths, b.depths)
        for end, value in zip(("", "_low", "_high"), (b.depth[0] - a.depth[0], *ends), strict=True):
            row[f"stays_above_half_depth_difference{end}"] = value
    return row


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Correlate a and b [B] where both are defined; 0 where one of them never changes."""
    there = np.isfinite(a) & np.isfinite(b)
    a, b = a[there].astype(float), b[there].astype(float)
    if not len(a) or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
