"""The metrics of a layer, each defined once with all that tables, figures and pages need.

    @metric("sensitivity", "sensitivity", target="classes", chance=0.5, heatmap=True)
    def sensitivity(predictions: Predictions) -> np.ndarray:
        positive = predictions.truth == 1
        return predictions.totals(predictions.right & positive) / predictions.totals(positive)

is all that a new one takes: its columns, interval, heatmap and place on the page follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

from llmprobe.ground.registry import Registry
from llmprobe.results.intervals import (
    TRAINING_VARIANCE,
    UNKNOWN_INSTABILITY,
    below_one_interval,
    correlation_interval,
    positive_interval,
    unit_interval,
)
from llmprobe.results.operating import negatives_needed
from llmprobe.results.resampling import Resamples, chunks, floats

BINS = 15
"""Bins of the calibration error: Guo et al. 2017, section 5."""

LOW_RATES = (0.1, 0.01, 0.001)
"""The false positive rates that have a metric."""

Target = Literal["classes", "numbers", "any"]
Interval = Literal["unit", "positive", "below one", "correlation"]
INTERVALS: Mapping[Interval, Callable[[float, float, float], tuple[float, float]]] = {
    "unit": unit_interval,
    "positive": positive_interval,
    "below one": below_one_interval,
    "correlation": correlation_interval,
}


@dataclass(frozen=True, eq=False)
class Predictions:
    """The out-of-fold predictions of one layer, in every resample of the examples at once."""

    truth: np.ndarray
    """Class indices, or labels that are numbers. [n]"""
    predicted: np.ndarray
    """Probabilities of the classes [n, C], or predicted numbers [n]."""
    resamples: Resamples
    """B resamples of the examples."""
    fold_of: np.ndarray | None = None
    """The fold of each example, whose probe predicted it; None where one probe predicted all. [n]
    """

    @cached_property
    def as_they_are(self) -> Predictions:
        """Return the same predictions of the examples as they are, each once."""
        return replace(self, resamples=self.resamples.once)

    @cached_property
    def at_low_rates(self) -> dict[float, tuple[np.ndarray, np.ndarray]]:
        """Return the operating points at `LOW_RATES`, which several metrics use."""
        return _at_low_rates(self)

    @property
    def n_classes(self) -> int:
        """Return C."""
        return int(self.predicted.shape[1])

    @property
    def one_hot(self) -> np.ndarray:
        """Return 1 in the column of the class of each example, else 0. [n, C]"""
        one_hot: np.ndarray = np.eye(self.n_classes)[self.truth]
        return one_hot

    @property
    def choice(self) -> np.ndarray:
        """Return the class of the largest probability of each example. [n]"""
        choice: np.ndarray = self.predicted.argmax(axis=1)
        return choice

    @property
    def right(self) -> np.ndarray:
        """Whether ``choice`` is the class of each example. [n] bool"""
        right: np.ndarray = self.choice == self.truth
        return right

    @property
    def folds(self) -> list[np.ndarray]:
        """Return the indices of the examples of each fold."""
        if self.fold_of is None:
            return [np.arange(len(self.truth))]
        return [np.flatnonzero(self.fold_of == fold) for fold in np.unique(self.fold_of)]

    @property
    def ranked_classes(self) -> range:
        """Return the classes whose probabilities are ranked: of two, the last; of more, each."""
        return range(1, 2) if self.n_classes == 2 else range(self.n_classes)

    def totals(self, values: np.ndarray) -> np.ndarray:
        """Add up ``values`` [n] or [n, m] over the examples of each resample. -> [B] or [B, m]"""
        sums = self.resamples.sums(values.reshape(len(values), -1))
        return sums.reshape(len(sums), *values.shape[1:])

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Average ``values`` [n] over the examples of each resample. [B]"""
        totals = self.totals(np.column_stack([values, np.ones(len(values))]))
        mean: np.ndarray = totals[:, 0] / totals[:, 1]
        return mean


Compute = Callable[[Predictions], np.ndarray]


@dataclass(frozen=True)
class Metric:
    """A column of the results that measures a layer."""

    name: str
    """The name of the column; the ends of its interval are ``name_low`` and ``name_high``."""
    label: str
    """What tables and figures call it."""
    target: Target = "any"
    """The kind of labels that it is for."""
    compute: Compute | None = None
    """The function from predictions to the metric in each resample [B], NaN where it is not
    defined. None where the protocol computes it, from more than predictions."""
    interval: Interval | None = None
    """How its 95 % interval is made."""
    class_balanced: bool = False
    """Whether every class counts the same, so that a rare class makes the interval wide."""
    chance: float | Callable[[pd.DataFrame], pd.Series] | None = None
    """The score of a probe that learned nothing. If that depends on the dataset, a function from
    rows of the results to it; None where there is no such number."""
    chance_name: str = "chance"
    """What figures and pages call that score."""
    perfect: float = 1.0
    """The best value there is."""
    heatmap: bool = False
    """Whether it has a heatmap, from chance to perfect."""
    form: str = ".2f"
    """How a value is written: a format, or ``p`` for a p-value."""

    @property
    def columns(self) -> list[str]:
        """Return its column, and those of its interval if it has one."""
        return [self.name, *([f"{self.name}_low", f"{self.name}_high"] if self.interval else [])]

    def chance_of(self, rows: pd.DataFrame) -> pd.Series:
        """Return the score of a probe that learned nothing, for each row of the results."""
        if callable(self.chance):
            return self.chance(rows)
        return pd.Series(np.nan if self.chance is None else self.chance, index=rows.index)

    def estimate(self, predictions: Predictions) -> float:
        """Compute the metric of the examples as they are, NaN where it is not defined."""
        if self.compute is None:
            raise ValueError(f"{self.name} is not made of predictions alone.")
        return float(self.compute(predictions.as_they_are)[0])

    def resampled(self, repeats: Sequence[Predictions]) -> np.ndarray:
        """Compute the mean over repeats of the folds, in each resample. [B]"""
        if self.compute is None:
            raise ValueError(f"{self.name} is not made of predictions alone.")
        mean: np.ndarray = np.mean([self.compute(repeat) for repeat in repeats], axis=0)
        return mean

    def score(self, repeats: Sequence[Predictions]) -> dict[str, float]:
        """Compute the mean over repeats of the folds and the ends of its interval, by column."""
        estimate = float(np.mean([self.estimate(repeat) for repeat in repeats]))
        if self.interval is None:
            return {self.name: estimate}
        resampled, resamples = self.resampled(repeats), repeats[0].resamples
        # Only the resamples that have all classes, as far as the metric needs them.
        resampled = resampled[np.isfinite(resampled)]
        variance = float(resampled.var(dtype=float)) if len(resampled) else np.nan
        variance *= 1 + TRAINING_VARIANCE * instability(repeats)
        truth = repeats[0].truth
        weights = 1 / np.bincount(truth)[truth] if self.class_balanced else None
        ends = INTERVALS[self.interval](estimate, variance, resamples.effective_size(weights))
        return dict(zip(self.columns, (estimate, *ends), strict=True))


def instability(repeats: Sequence[Predictions]) -> float:
    """Return how much a prediction depends on which other examples trained its probe, 0 to 1.

    It is the share of the variance of being right (for numbers, of the squared error) that is
    between repeats of the folds. 0 where one probe predicted all examples; `UNKNOWN_INSTABILITY`
    where the folds were not repeated.
    """
    if len(repeats[0].folds) < 2:
        return 0.0
    if len(repeats) < 2:
        return UNKNOWN_INSTABILITY
    merits = np.array(
        [of.right if of.predicted.ndim == 2 else (of.predicted - of.truth) ** 2 for of in repeats],
        dtype=float,
    )
    total = float(merits.var())
    return min(float(merits.var(axis=0, ddof=1).mean()) / total, 1.0) if total else 0.0


METRICS: Registry[Metric] = Registry("metric")
"""Every metric by name, in the order in which tables show them."""


def metric(
    name: str,
    label: str,
    *,
    target: Literal["classes", "numbers"],
    interval: Interval | None = "unit",
    class_balanced: bool = False,
    chance: float | Callable[[pd.DataFrame], pd.Series] | None = None,
    chance_name: str = "chance",
    perfect: float = 1.0,
    heatmap: bool = False,
    form: str = ".2f",
) -> Callable[[Compute], Compute]:
    """Register a function of out-of-fold predictions as a metric; the options are `Metric`'s.

    Raises
    ------
    UserError
        There is another metric of that name.
    """

    def register(compute: Compute) -> Compute:
        METRICS.add(
            name,
            Metric(name, label, target, compute, interval, class_balanced, chance, chance_name,
                   perfect, heatmap, form),
        )  # fmt: skip
        return compute

    return register


def score(repeats: Sequence[Predictions]) -> dict[str, float]:
    """Compute each metric of one layer and the ends of its interval, by column.

    ``repeats`` are the out-of-fold predictions of the same examples in each repeat of the folds.
    """
    target = "classes" if repeats[0].predicted.ndim == 2 else "numbers"
    return {
        column: value
        for metric in METRICS.values()
        if metric.compute is not None and metric.target == target
        for column, value in metric.score(repeats).items()
    }


def majority_accuracy(truth: np.ndarray) -> float:
    """Return the share of the most frequent class of ``truth`` [n]."""
    return float(np.bincount(truth).max() / len(truth))


def _majority(rows: pd.DataFrame) -> pd.Series:
    """Return the majority's accuracy for each row; where it was not asked for, a fair guess's."""
    return rows["majority_accuracy"].astype(float).fillna(_fair_guess(rows))


def _fair_guess(rows: pd.DataFrame) -> pd.Series:
    return 1 / rows["n_classes"].astype(float)


@metric("accuracy", "accuracy", target="classes", chance=_majority, heatmap=True)
def accuracy(predictions: Predictions) -> np.ndarray:
    """Compute the share of examples whose class has the largest probability."""
    return predictions.mean(predictions.right)


@metric("r2", "R²", target="numbers", interval="below one", chance=0.0,
        chance_name="as the mean", heatmap=True)  # fmt: skip
def r2(predictions: Predictions) -> np.ndarray:
    """Compute 1 − SSE / SST over all out-of-fold predictions."""
    return resampled_r2(predictions.truth, predictions.predicted[:, None], predictions.resamples)[
        :, 0
    ]


@metric("balanced_accuracy", "balanced accuracy", target="classes", class_balanced=True,
        chance=_fair_guess, heatmap=True)  # fmt: skip
def balanced_accuracy(predictions: Predictions) -> np.ndarray:
    """Compute the mean over classes of the share of its examples that are right."""
    one_hot = predictions.one_hot
    right = predictions.totals(one_hot * predictions.right[:, None])
    with np.errstate(invalid="ignore"):
        return _mean(right / predictions.totals(one_hot))


@metric("auroc", "AUROC", target="classes", class_balanced=True, chance=0.5, heatmap=True)
def auroc(predictions: Predictions) -> np.ndarray:
    """Compute the area under the ROC curve: of the last of two classes, else the one-vs-rest mean.

    It is within folds: the share of the pairs of a positive and a negative example of one fold that
    are in order. (Examples of different folds are scored by different probes. Pooled, they would
    also be ranked by the class shares of the training sets, which lean against the labels.) Folds
    without both classes have no pairs; NaN where no fold has any. Forman & Scholz 2010, section 3.
    """
    return _mean(_areas(predictions))


@metric("partial_auroc", "AUROC up to 10 % FPR", target="classes", class_balanced=True, chance=0.5)
def partial_auroc(predictions: Predictions) -> np.ndarray:
    """Compute the area under the ROC curve where the false positive rate is at most 10 %.

    It is for two classes; standardised, so that chance is 0.5 and perfect 1 (McClish 1989, as
    scikit-learn's ``max_fpr``). NaN where `negatives_needed` says that there are too few units.
    """
    return predictions.at_low_rates[0.1][1]


@metric("tpr_at_1_fpr", "TPR at 1 % FPR", target="classes", class_balanced=True, chance=0.01)
def tpr_at_1_fpr(predictions: Predictions) -> np.ndarray:
    """Compute the share of positives above the threshold that at most 1 % of the negatives exceed.

    Of two classes, the last is positive. The scores of all folds are ranked together, since the
    negatives of one fold are too few. NaN where `negatives_needed` says that there are too few.
    """
    return predictions.at_low_rates[0.01][0]


@metric("tpr_at_01_fpr", "TPR at 0.1 % FPR", target="classes", class_balanced=True, chance=0.001)
def tpr_at_01_fpr(predictions: Predictions) -> np.ndarray:
    """Compute the same as `tpr_at_1_fpr` where at most 0.1 % of the negatives are above."""
    return predictions.at_low_rates[0.001][0]


@metric("f1", "F1", target="classes", class_balanced=True)
def f1(predictions: Predictions) -> np.ndarray:
    """Compute F1 of the last of two classes; of more, its mean over the classes that occur."""
    one_hot, chosen = predictions.one_hot, np.eye(predictions.n_classes)[predictions.choice]
    right = predictions.totals(one_hot * chosen)
    with np.errstate(invalid="ignore"):
        by_class = 2 * right / (predictions.totals(one_hot) + predictions.totals(chosen))
    return by_class[:, 1] if predictions.n_classes == 2 else _mean(by_class)


@metric("log_loss", "log loss", target="classes", interval="positive", perfect=0.0)
def log_loss(predictions: Predictions) -> np.ndarray:
    """Compute the mean of −log of the probability of the class, clipped as scikit-learn does."""
    of_truth = predictions.predicted[np.arange(len(predictions.truth)), predictions.truth]
    tiny = np.finfo(of_truth.dtype).eps
    return predictions.mean(-np.log(np.clip(of_truth, tiny, 1 - tiny)))


@metric("brier", "Brier score", target="classes", perfect=0.0)
def brier(predictions: Predictions) -> np.ndarray:
    """Compute half the squared distance of the probabilities from the label.

    For two classes it is (p₁ − y)²; it lies in [0, 1] for any number of them. (For more than two,
    scikit-learn's default is twice that.)
    """
    return predictions.mean(((predictions.one_hot - predictions.predicted) ** 2).sum(axis=1) / 2)


@metric("ece", "calibration error (ECE)", target="classes", perfect=0.0)
def ece(predictions: Predictions) -> np.ndarray:
    """Compute the expected calibration error of the predicted class's probability.

    In 15 bins of equal width (Naeini et al. 2015; Guo et al. 2017, section 2). Noise adds to it:
    calibrated probabilities of 60 examples have an ECE of about 0.1. Its interval is of what is
    measured, not of the ECE that many examples would give.
    """
    n = len(predictions.truth)
    confidence = predictions.predicted.max(axis=1)
    too_low = np.zeros((n, BINS + 1))
    bin_of = np.minimum((confidence * BINS).astype(int), BINS - 1)
    too_low[np.arange(n), bin_of] = predictions.right - confidence
    too_low[:, BINS] = 1
    totals = predictions.totals(too_low)
    error: np.ndarray = np.abs(totals[:, :BINS]).sum(axis=1) / totals[:, BINS]
    return error


@metric("rank_correlation", "rank correlation", target="numbers", interval="correlation",
        chance=0.0)  # fmt: skip
def rank_correlation(predictions: Predictions) -> np.ndarray:
    """Compute Spearman's correlation of labels and predictions, within folds as the AUROC is.

    It is the mean over folds, weighted by their examples; each resample is ranked again.
    """
    return _spearman(predictions)


@metric("mean_absolute_error", "mean absolute error", target="numbers", interval="positive",
        perfect=0.0, form=".3g")  # fmt: skip
def mean_absolute_error(predictions: Predictions) -> np.ndarray:
    """Compute the mean distance of the prediction from the label, in units of the label."""
    errors = np.abs(predictions.truth - predictions.predicted)
    scale = float(errors.max()) or 1.0  # So that single precision suffices.
    return predictions.mean(errors / scale) * scale


for of_protocol in (
    Metric("skill", "skill", chance=0.0, chance_name="as an intercept"),
    Metric("majority_accuracy", "majority class", "classes"),
    Metric("control_accuracy", "random labels", "classes"),
    Metric("control_r2", "random labels’ R²", "numbers"),
    Metric("selectivity", "selectivity", chance=0.0, chance_name="as random labels", heatmap=True),
    Metric("random_weights_accuracy", "random weights", "classes"),
    Metric("random_weights_auroc", "random weights’ AUROC", "classes"),
    Metric("code_length", "description length (kbit)", "classes"),
    Metric("compression", "compression", "classes"),
    Metric("compression_range_low", "compression, range from", "classes"),
    Metric("compression_range_high", "compression, range to", "classes"),
    Metric("p_value", "p of the layer", form="p"),
    Metric("l2", "L2 penalty", form=".3g"),
):
    METRICS.add(of_protocol.name, of_protocol)


def resampled_r2(truth: np.ndarray, predicted: np.ndarray, resamples: Resamples) -> np.ndarray:
    """Compute R² of each layer's predictions [n, layers] in every resample. -> [B, layers]

    NaN where a resample holds one value of ``truth`` [n] alone.
    """
    centred = truth - truth.mean()
    scale = float(np.abs(centred).max()) or 1.0  # So that single precision suffices.
    errors = ((predicted - truth[:, None]) / scale) ** 2
    centred = centred / scale
    means = resamples.means(np.column_stack([errors, centred**2, centred]))
    return 1 - _share(means[:, :-2], (means[:, -2] - means[:, -1] ** 2)[:, None])


def _mean(by_class: np.ndarray) -> np.ndarray:
    """Average over the classes that have a value: [B, C] to [B]."""
    defined = np.isfinite(by_class)
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = np.where(defined, by_class, 0).sum(axis=-1) / defined.sum(axis=-1)
    return mean


def _areas(predictions: Predictions) -> np.ndarray:
    """Compute the share of positive-negative pairs of a fold in order; ties count half.

    A negative counts with the weight of the positives above it. With many classes there are few
    positives, so the negatives between two of them are added up first.

    -> of each resample and ranked class [B, classes], NaN where no fold has a pair
    """
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped]

    counts, group_of = predictions.resamples.counts, predictions.resamples.group_of
    in_order, pairs = np.zeros((2, counts.shape[1], len(predictions.ranked_classes)))
    rankings: list[tuple[int, np.ndarray, csr_matrix]] = []
    for i, label in enumerate(predictions.ranked_classes):
        for rows in predictions.folds:
            is_positive, sureness = (
                predictions.truth[rows] == label,
                -predictions.predicted[:, label],
            )
            positives, negatives = rows[is_positive], rows[~is_positive]
            positives = positives[sureness[positives].argsort()]
            above = np.concatenate(_places(sureness[positives], sureness[negatives]))
            halves = np.full(len(above), 0.5, np.float32), (above, np.tile(group_of[negatives], 2))
            lost = csr_matrix(halves, shape=(len(positives) + 1, len(counts)))
            rankings.append((i, group_of[positives], lost))
    for part in chunks(len(pairs), len(counts)):
        weights = floats(counts[:, part], counts)
        for i, positives, negatives in rankings:
            lost = negatives @ weights
            won = np.zeros(lost.shape, weights.dtype)
            np.cumsum(weights[positives], axis=0, out=won[1:])
            in_order[part, i] += np.einsum("pb,pb->b", won, lost)
            pairs[part, i] += won[-1].astype(float) * lost.sum(axis=0, dtype=float)
    with np.errstate(invalid="ignore"):
        areas: np.ndarray = in_order / pairs
    return areas


def _at_low_rates(predictions: Predictions) -> dict[float, tuple[np.ndarray, np.ndarray]]:
    """Compute for each of `LOW_RATES` the true positive rate, and the standardised area up to it.

    -> two arrays [B] for each, NaN where the classes are not two or the negative units too few
    """
    counts, group_of = predictions.resamples.counts, predictions.resamples.group_of
    points = {rate: (*np.full((2, counts.shape[1]), np.nan),) for rate in LOW_RATES}
    negative = predictions.truth == 0
    units = len(np.unique(group_of[negative]))
    told = [rate for rate in LOW_RATES if units >= negatives_needed(rate)]
    if predictions.n_classes != 2 or not told or negative.all():
        return points
    least_sure = -predictions.predicted[:, 1]
    positives, negatives = (
        rows[least_sure[rows].argsort()]
        for rows in (np.flatnonzero(~negative), np.flatnonzero(negative))
    )
    places = _places(least_sure[positives], least_sure[negatives])
    all_won, all_lost = predictions.totals(np.column_stack([~negative, negative])).astype(float).T
    # Only the surest negatives are needed: enough to exceed the highest rate.
    some = int(2 * max(told) * len(negatives)) + 1
    for part in chunks(counts.shape[1], len(least_sure)):
        weights = floats(counts[:, part], counts)  # Sums of whole numbers are exact in both.
        with np.errstate(invalid="ignore", divide="ignore"):
            while True:
                reached = weights[group_of[negatives[:some]]].cumsum(axis=0) / all_lost[part]
                if some >= len(negatives) or (reached[-1] > max(told) + 1e-12).all():
                    break
                some *= 2
            above, at_least = (place[: len(reached)] for place in places)
            won = weights[group_of[positives[: at_least[-1]]]]
            cumulated = np.zeros((len(won) + 1, won.shape[1]), won.dtype)
            np.cumsum(won, axis=0, out=cumulated[1:])
            higher = (cumulated[above] + cumulated[at_least]) / 2 / all_won[part]
            for rate in told:
                share, area = points[rate]
                # Rounding must not exclude a negative that is just allowed.
                first = (reached > rate + 1e-12).argmax(axis=0)
                share[part] = cumulated[above[first], np.arange(len(first))] / all_won[part]
                widths = np.diff(np.minimum(reached, rate), axis=0, prepend=0)
                within = (higher * widths).sum(axis=0)
                area[part] = (1 + (within - rate**2 / 2) / (rate - rate**2 / 2)) / 2
    return points


def _spearman(predictions: Predictions) -> np.ndarray:
    """Compute Spearman's correlation in each resample [B], of ranks within it; ties share a rank.

    NaN where no fold has one.
    """
    counts, group_of = predictions.resamples.counts, predictions.resamples.group_of
    weighted, total = np.zeros((2, counts.shape[1]))
    for rows in predictions.folds:
        values = predictions.truth[rows], predictions.predicted[rows]
        orders = [of.argsort() for of in values]
        places = [_places(of[order], of) for of, order in zip(values, orders, strict=True)]
        for part in chunks(len(total), len(group_of)):
            weights = floats(counts[:, part], counts)[group_of[rows]]
            size = weights.sum(axis=0)
            with np.errstate(invalid="ignore"):
                # A weighted mean of ranks is half the total weight, whatever the weights and ties.
                a, b = (
                    _weight_below(weights[order], *place) / size - 0.5
                    for order, place in zip(orders, places, strict=True)
                )
                correlation = (weights * a * b).sum(axis=0) / np.sqrt(
                    (weights * a**2).sum(axis=0) * (weights * b**2).sum(axis=0)
                )
            there = np.isfinite(correlation)
            weighted[part] += np.where(there, correlation * size, 0)
            total[part] += np.where(there, size, 0)
    with np.errstate(invalid="ignore"):
        correlations: np.ndarray = weighted / total
    return correlations


def _places(reference: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count how many of the sorted reference are less than, and at most, each value."""
    return np.searchsorted(reference, values, "left"), np.searchsorted(reference, values, "right")


def _weight_below(weights: np.ndarray, less: np.ndarray, at_most: np.ndarray) -> np.ndarray:
    """Add up the weight below each value; ties count half. [reference, B] to [values, B]"""
    cumulated = np.zeros((len(weights) + 1, weights.shape[1]), weights.dtype)
    np.cumsum(weights, axis=0, out=cumulated[1:])
    below: np.ndarray = (cumulated[less] + cumulated[at_most]) / 2
    return below


def _share(unexplained: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Divide squared errors by a variance; NaN where the variance is no more than rounding."""
    there = variance > 1e-6  # Values are at most 1, in single precision.
    share: np.ndarray = np.divide(
        unexplained, variance, out=np.full(unexplained.shape, np.nan), where=there
    )
    return share
