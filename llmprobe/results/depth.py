"""Concept depth: where on the way through the network a concept becomes readable.

Curves are accuracies over layers [..., layers], the first layer first; of many curves at once,
such as resampled ones, the depths come as one array [...].
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

NORMAL = NormalDist()
JUMP = 1.1
CONVERGED = 0.03
HALF_RISE = 0.5
FULL_RISE = 0.95
ROUNDING = 1e-9
"""So that a ratio which is exactly at a threshold counts whichever way it was rounded."""


def concept_depth(
    curve: np.ndarray,
    resampled: np.ndarray,
    layers: np.ndarray | Sequence[int],
    depths: np.ndarray | Sequence[float],
    baseline: float,
) -> dict[str, float]:
    """Compute four depths of a curve, with 95 % intervals: ``half_rise_depth_low``, ….

    ``half_rise_depth``, ``full_rise_depth``: where half and 95 % of the rise are reached
    (`rise_depth`), whatever the number of layers. ``converging_layer``, ``converging_depth``,
    ``jump_layer``, ``jump_depth``: of Jin et al. 2024. They compare neighbouring layers, so they
    depend on how many there are.

    The peak of a noisy curve is too high, being the largest of many noisy numbers. Half the rise
    hardly feels it, but 95 % of the rise is reached late, and noise of 3 % makes a curve converge
    late. Since a resample has that noise once more, intervals are bias-corrected percentiles
    (Efron 1981). On simulated curves (200 or 500 examples, 12 to 48 layers) they covered the
    half-rise depth of the noiseless curve 91 to 97 % of the time, but that of the full rise 58 to
    91 %, and its converging layer anywhere from 0 % (48 layers) to 100 %: for the latter two they
    show how unsure the estimate is, no more.

    An interval always includes its estimate; it is NaN when there is none, or when more than half
    of the resamples have none.

    Parameters
    ----------
    curve
        Accuracies. [L]
    resampled
        The same in each resample. [B, L]
    layers, depths
        Number and depth (0 to 1, increasing) of each. [L]
    baseline
        Accuracy without knowledge of the concept, such as the majority's.
    """
    both = np.vstack([curve, resampled])
    found = {}
    for name, index in (("converging", converging_layer(both)), ("jump", jump_layer(both))):
        found[f"{name}_layer"] = _pick(layers, np.asarray(index))
        found[f"{name}_depth"] = _pick(depths, np.asarray(index))
    for name, share in (("half_rise", HALF_RISE), ("full_rise", FULL_RISE)):
        found[f"{name}_depth"] = np.asarray(rise_depth(both, depths, baseline, share))
    return {
        name + end: value
        for name, (estimate, *others) in found.items()
        for end, value in zip(
            ("", "_low", "_high"),
            (float(estimate), *_interval(float(estimate), np.array(others))),
            strict=True,
        )
    }


def peak_index(curve: np.ndarray | Sequence[float], losses: np.ndarray | Sequence[float]) -> int:
    """Return the place of the layer with the highest score; of equals, that with the least loss.

    With a rare class, probes of many layers answer the frequent one and score the same.
    """
    return int(np.lexsort((np.asarray(losses), -np.asarray(curve)))[0])


def jump_layer(accuracies: np.ndarray | Sequence[float]) -> np.ndarray | float:
    """Return the first layer whose accuracy is at least 1.1 times that of the layer before it.

    Jin et al. 2024, section 4.3. NaN when there is no jump.
    """
    jumps = _ratios(accuracies) >= JUMP - ROUNDING
    return _scalar(np.where(jumps.any(axis=-1), jumps.argmax(axis=-1), np.nan))


def converging_layer(accuracies: np.ndarray | Sequence[float]) -> np.ndarray | float:
    """Return the layer after the last change of 3 % or more.

    Jin et al. 2024, section 4.3, as their published figures follow it: the last ``i`` with
    ``|a_i / a_{i-1} - 1| >= 0.03`` (1 if there is none), and the layer after it. Their formula
    read literally (the last layer within 3 % of the one before) is nearly always the last layer.
    """
    changes = np.abs(_ratios(accuracies) - 1) >= CONVERGED - ROUNDING
    last = changes.shape[-1] - 1
    last_change = np.where(changes.any(axis=-1), last - changes[..., ::-1].argmax(axis=-1), 1)
    return _scalar(np.minimum(last_change + 1, last).astype(float))


def rise_depth(
    accuracies: np.ndarray | Sequence[float],
    depths: np.ndarray | Sequence[float],
    baseline: float,
    share: float = HALF_RISE,
) -> np.ndarray | float:
    """Return the depth at which the curve first reaches a share of its rise from baseline to peak.

    Between layers the curve is a straight line, so more layers give the same depth. The first
    layer's depth if that is there already; NaN when the peak isn't above the baseline.
    """
    curve, depth = np.asarray(accuracies, float), np.asarray(depths, float)
    rise = curve.max(axis=-1) - baseline
    goal = baseline + share * rise
    after = (curve >= goal[..., None] - ROUNDING).argmax(axis=-1)
    before = np.maximum(after - 1, 0)
    start, end = (
        np.take_along_axis(curve, at[..., None], axis=-1)[..., 0] for at in (before, after)
    )
    step = np.where(after > 0, end - start, 1)
    way = np.where(after > 0, np.minimum((goal - start) / step, 1), 0)
    reached = depth[before] + way * (depth[after] - depth[before])
    return _scalar(np.where(rise > ROUNDING, reached, np.nan))


def _ratios(accuracies: np.ndarray | Sequence[float]) -> np.ndarray:
    """Divide each accuracy by that of the layer before it; the first has the ratio 1."""
    curve = np.asarray(accuracies, float)
    ratios = np.ones_like(curve)
    before, after = curve[..., :-1], curve[..., 1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios[..., 1:] = np.where(after == before, 1, after / before)
    return ratios


def _pick(values: np.ndarray | Sequence[float], index: np.ndarray) -> np.ndarray:
    """Return the values at indices some of which are NaN."""
    there = np.isfinite(index)
    return np.where(there, np.asarray(values)[np.where(there, index, 0).astype(int)], np.nan)


def _interval(estimate: float, resampled: np.ndarray) -> tuple[float, float]:
    there = resampled[np.isfinite(resampled)]
    if np.isnan(estimate) or 2 * len(there) < len(resampled):
        return np.nan, np.nan
    # Where resamples are mostly later than the estimate, so is the estimate than the truth.
    earlier = ((there < estimate).mean() + (there <= estimate).mean()) / 2
    bias = NORMAL.inv_cdf(float(np.clip(earlier, 0.5 / len(there), 1 - 0.5 / len(there))))
    tails = [NORMAL.cdf(2 * bias + NORMAL.inv_cdf(tail)) for tail in (0.025, 0.975)]
    # Values that occur: there is no layer 3.4.
    low = float(np.quantile(there, tails[0], method="lower"))
    high = float(np.quantile(there, tails[1], method="higher"))
    return min(low, estimate), max(high, estimate)


def _scalar(depths: np.ndarray) -> np.ndarray | float:
    return float(depths) if depths.ndim == 0 else depths
