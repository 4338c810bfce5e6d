"""Operating points: the score above which a monitor flags a text, at a false positive rate.

Of two classes, the last one is to be detected, and texts of the other are *negatives*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from scipy.special import bdtr  # type: ignore[import-untyped]

from llmprobe.ground.errors import UserError
from llmprobe.ground.text import listed

RATES = (0.1, 0.05, 0.01, 0.001)
"""The false positive rates that a probe has thresholds for."""

CONFIDENCE = 0.95
"""The confidence with which a guaranteed rate is kept."""

THRESHOLD_COLUMNS = (
    *("threshold_layer", "threshold_at_1_fpr", "threshold_at_01_fpr"),
    *("threshold_tpr_at_1_fpr", "threshold_tpr_at_01_fpr"),
    *("threshold_negative_units", "threshold_origin"),
)
"""The columns of the summary about the thresholds of a curve's saved probe."""

Origin = Literal["out-of-fold", "test set", "set aside"]
_MEANING: Mapping[Origin, str] = {
    "set aside": "guaranteed at 95 % confidence: of units like the {units:,} with negatives that "
    "were set aside, at most {rate} have a negative that exceeds it",
    "out-of-fold": "no guarantee: {rate} of the out-of-fold scores of {units:,} units with "
    "negatives exceed it, but those are scores of other probes than this one, fitted to parts of "
    "its examples",
    "test set": "no guarantee: {rate} of the test set's {units:,} units with negatives exceed it, "
    "by which the best layer was chosen too",
}
"""What thresholds were made from, and what that guarantees, or why it guarantees nothing."""


@dataclass(frozen=True)
class Threshold:
    """A score above which a text is flagged, with what is known of its false alarms."""

    value: float
    """A text is flagged where its probability of the last of two classes is larger than this."""
    guarantee: bool
    """Whether the false positive rate is known to be kept, at 95 % confidence."""
    sentence: str
    """The threshold, and what is guaranteed, or why nothing is."""


@dataclass(frozen=True)
class OperatingPoints:
    """The thresholds of a saved probe, at each of its layers."""

    origin: Origin
    """Which scores of negatives the thresholds were made from."""
    negative_units: int
    """How many units have a negative among those."""
    values: Mapping[float, Sequence[float]]
    """For each false positive rate that so many units can tell, the threshold at each layer."""
    tpr: Mapping[float, Sequence[float]] = field(default_factory=dict)
    """The share of the set-aside positives above each threshold; empty without any."""

    def at(self, fpr: float, place: int) -> Threshold:
        """Return the threshold for a false positive rate, at the ``place``-th layer.

        Raises
        ------
        UserError
            It is none of ``RATES``, or there are too few negatives to tell.
        """
        if fpr not in RATES:
            rates = listed([str(rate) for rate in RATES])
            raise UserError(f"fpr {fpr}: a probe has thresholds for {rates}; give one of those, or "
                            "a threshold")  # fmt: skip
        if fpr not in self.values:
            raise UserError(self.too_few(fpr))
        value = float(self.values[fpr][place])
        words = _MEANING[self.origin].format(rate=f"{100 * fpr:g} %", units=self.negative_units)
        if fpr in self.tpr:
            flagged = f"{100 * self.tpr[fpr][place]:.0f} %"
            words += f"; it flags {flagged} of the positives set aside"
        return Threshold(value, self.guarantee, f"threshold {value:.6g}, {words}")

    @property
    def guarantee(self) -> bool:
        """Whether the thresholds keep their false positive rates with a guarantee."""
        return self.origin == "set aside"

    @property
    def missing(self) -> list[float]:
        """Return the false positive rates that there are too few negatives for."""
        return [fpr for fpr in RATES if fpr not in self.values]

    def columns(self, layer: int, place: int) -> dict[str, Any]:
        """Return the columns of the summary, for the thresholds at ``layer``, the ``place``-th."""
        at = [
            by_rate[fpr][place] if fpr in by_rate else np.nan
            for by_rate in (self.values, self.tpr)
            for fpr in (0.01, 0.001)
        ]
        of_points = (layer, *at, self.negative_units, self.origin)
        return dict(zip(THRESHOLD_COLUMNS, of_points, strict=True))

    def too_few(self, fpr: float) -> str:
        """Say that a false positive rate cannot be told, and what it would take."""
        units = f"{self.negative_units:,} units" + " set aside" * (self.origin == "set aside")
        return (
            f"too few negatives to tell a false positive rate of {100 * fpr:g} %: {units} have "
            f"one, {negatives_needed(fpr):,} needed"
        )

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        values, tpr = (
            {str(fpr): list(by_layer) for fpr, by_layer in by_rate.items()}
            for by_rate in (self.values, self.tpr)
        )
        return {
            "origin": self.origin, "guarantee": self.guarantee,
            "negative_units": self.negative_units, "values": values, "tpr": tpr,
        }  # fmt: skip

    @classmethod
    def from_json(cls, entry: dict[str, Any], layers: int) -> OperatingPoints:
        """Return the operating points of an entry, for a probe of so many layers.

        Raises
        ------
        ValueError
            The entry is invalid. Parts of other types raise other errors.
        """
        values, tpr = (
            {float(fpr): [*map(float, by_layer)] for fpr, by_layer in entry[name].items()}
            for name in ("values", "tpr")
        )
        points = cls(entry["origin"], entry["negative_units"], values, tpr)
        if points.origin not in get_args(Origin) or type(points.negative_units) is not int:
            raise ValueError("its thresholds are of no known origin")
        if not tpr.keys() <= values.keys():
            raise ValueError("it has positives above thresholds that are not there")
        for fpr, by_layer in [*values.items(), *tpr.items()]:
            if fpr not in RATES or points.negative_units < negatives_needed(fpr):
                raise ValueError(f"its negatives cannot tell a false positive rate of {fpr}")
            if len(by_layer) != layers or not all(0 <= value <= 1 for value in by_layer):
                raise ValueError("its thresholds are not a probability for each layer")
        return points


def by_hand(value: float) -> Threshold:
    """Return a threshold that a user chose.

    Raises
    ------
    UserError
        It is no probability.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float | np.floating)
        or not 0 <= value <= 1
    ):
        raise UserError(f"threshold {value}: should be a probability, from 0 to 1")
    sentence = f"threshold {value:.6g}, no guarantee: it was chosen by hand"
    return Threshold(float(value), False, sentence)


def negatives_needed(rate: float) -> int:
    """Return how many independent negatives it takes to tell a false positive rate.

    With fewer, even a threshold that none of them exceeds could have a higher rate: the upper end
    of its 95 % interval is above ``rate``, 0 < rate < 1 (Clopper & Pearson 1934, one-sided).
    """
    return int(np.ceil(np.log(1 - CONFIDENCE) / np.log1p(-rate)))


def from_held_out(scores: np.ndarray, units: np.ndarray, origin: Origin) -> OperatingPoints:
    """Return for each rate the threshold that at most this share of the negatives' scores exceeds.

    Scores of all repeats count.

    Parameters
    ----------
    scores
        Probabilities of the last of two classes, of m negatives. [layers, repeats, m]
    units
        The unit of each negative. [m]
    """
    by_layer = scores.reshape(len(scores), -1)
    n = len(np.unique(units))
    values = {}
    for fpr in RATES:
        if n >= negatives_needed(fpr):
            # Rounding must not exclude a negative that is just allowed.
            above = int(fpr * by_layer.shape[1] + 1e-9)
            place = by_layer.shape[1] - 1 - above
            values[fpr] = np.partition(by_layer, place, axis=1)[:, place].tolist()
    return OperatingPoints(origin, n, values)


def from_set_aside(
    scores: np.ndarray, units: np.ndarray, positives: np.ndarray | None = None
) -> OperatingPoints:
    """Return thresholds that keep their false positive rates, at 95 % confidence.

    A unit is one trial, since units are independent and rows of a unit are not. It is a false
    positive if any of its negatives exceeds the threshold. Let n units with negatives be set aside,
    unseen by the probe, and k of them exceed the threshold. The upper end of the one-sided 95 %
    interval of their share (Clopper & Pearson 1934) is at most the rate as long as
    P(Binomial(n, rate) <= k) <= 0.05. So for the largest such k, which depends on n and the rate
    alone, the threshold is the (k + 1)-th largest of the units' largest scores. That is an upper
    tolerance limit (Wilks 1941, "Determination of sample sizes for setting tolerance limits"; for
    classifiers: Tong, Feng & Li 2018, "Neyman-Pearson classification algorithms and NP receiver
    operating characteristics", proposition 1), which holds for any distribution of scores.

    Parameters
    ----------
    scores
        Probabilities of the last of two classes, of m negatives. [layers, m]
    units
        The unit of each negative. [m]
    positives
        The probabilities of the positives set aside, to say how many are flagged. [layers, p]
    """
    unit_of = np.unique(units, return_inverse=True)[1]
    n = int(unit_of.max()) + 1
    largest = np.full((n, len(scores)), -np.inf)
    np.maximum.at(largest, unit_of, scores.T)
    largest = -np.sort(-largest, axis=0)
    values = {}
    for fpr in RATES:
        above = int(np.searchsorted(bdtr(np.arange(n), n, fpr), 1 - CONFIDENCE, side="right"))
        if above:
            values[fpr] = largest[above - 1].tolist()
    tpr = {}
    if positives is not None and positives.size:
        tpr = {
            fpr: (positives > np.array(by_layer)[:, None]).mean(axis=1).tolist()
            for fpr, by_layer in values.items()
        }
    return OperatingPoints("set aside", n, values, tpr)
