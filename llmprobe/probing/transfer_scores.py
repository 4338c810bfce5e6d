"""Scores of a cell of a transfer, from fixed logits for many labellings at once."""

from __future__ import annotations

import numpy as np


def separation(truth: np.ndarray, logits: np.ndarray, fold_of: np.ndarray) -> float:
    """Return the AUROC of logits [m, C], or of numbers [m, 1] the rank correlation."""
    return float(statistics(truth[:, None], logits, fold_of)[0])


def statistics(truth: np.ndarray, logits: np.ndarray, fold_of: np.ndarray) -> np.ndarray:
    """Return the AUROC, or of numbers the rank correlation, of each of B labellings.

    Within folds; of more than two classes the mean of one against the rest. truth [m, B],
    logits [m, C] -> [B]
    """
    if logits.shape[1] == 1:
        return _rank_correlations(truth, logits[:, 0], fold_of)
    of_classes = probabilities(logits)
    classes = [1] if logits.shape[1] == 2 else range(logits.shape[1])
    areas = [aurocs(truth == k, of_classes[:, k], fold_of) for k in classes]
    means: np.ndarray = np.mean(areas, axis=0)
    return means


def aurocs(positive: np.ndarray, scores: np.ndarray, fold_of: np.ndarray) -> np.ndarray:
    """Compute the AUROC within folds of B labellings: `metrics.auroc` of each.

    positive [m, B] bool, scores [m], fold_of [m] -> [B], NaN where no fold has both classes
    """
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    in_order, pairs = np.zeros((2, positive.shape[1]))
    for fold in np.unique(fold_of):
        rows = fold_of == fold
        labels = positive[rows].astype(float)
        count = labels.sum(axis=0)
        in_order += rankdata(scores[rows]) @ labels - count * (count + 1) / 2
        pairs += count * (len(labels) - count)
    with np.errstate(invalid="ignore"):
        areas: np.ndarray = in_order / pairs
    return areas


def _rank_correlations(truth: np.ndarray, scores: np.ndarray, fold_of: np.ndarray) -> np.ndarray:
    """Compute `metrics.rank_correlation` of B labellings. truth [m, B], scores [m] -> [B]"""
    from scipy.stats import rankdata

    weighted, total = np.zeros((2, truth.shape[1]))
    for fold in np.unique(fold_of):
        rows = fold_of == fold
        a, b = (rankdata(of[rows], axis=0) for of in (truth, scores[:, None]))
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        with np.errstate(invalid="ignore"):
            correlation = (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum())
        there = np.isfinite(correlation)
        weighted += np.where(there, correlation * rows.sum(), 0)
        total += np.where(there, rows.sum(), 0)
    with np.errstate(invalid="ignore"):
        correlations: np.ndarray = weighted / total
    return correlations


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the soft-max of logits [m, C]."""
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = exponents / exponents.sum(axis=1, keepdims=True)
    return probabilities


def two_sided(observed: float, shuffled: np.ndarray) -> float:
    """Return a two-sided p-value: twice the share of shuffled statistics [B] in the smaller tail.

    The observed statistic counts as one of them. NaN where it is not defined.
    """
    shuffled = shuffled[np.isfinite(shuffled)]
    if not np.isfinite(observed) or not len(shuffled):
        return np.nan
    above = (shuffled >= observed - 1e-12).sum()
    below = (shuffled <= observed + 1e-12).sum()
    return float(min(1.0, 2 * (1 + min(above, below)) / (1 + len(shuffled))))


def with_refitted_thresholds(truth: np.ndarray, logits: np.ndarray, fold_of: np.ndarray) -> float:
    """Return the accuracy with thresholds that are fitted on the other folds of the test set.

    Directions stay as they are, also where they read the opposite. What is fitted is a number that
    is added to the logit of each class; for two classes that is one threshold.

    Parameters
    ----------
    truth
        Class indices. [m]
    logits
        [m, C]
    fold_of
        With one fold alone there is nothing to fit on, and the accuracy is NaN. [m]
    """
    right = np.empty(len(truth), dtype=bool)
    for fold in np.unique(fold_of):
        rows = fold_of == fold
        if rows.all():
            return np.nan
        offsets = _best_offsets(truth[~rows], logits[~rows])
        right[rows] = (logits[rows] + offsets).argmax(axis=1) == truth[rows]
    return float(right.mean())


_ROUNDS = 10
"""The most rounds in which the threshold of each class is fitted in turn; a few settle it."""


def _best_offsets(truth: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return what to add to the logits [m, C] to be right most often. [C]

    For two classes that is the best threshold. For more, the offset of each is set in turn to its
    best value given the others. This starts from 0, and from offsets with which the logits of all
    classes have the same mean; the better result is returned.
    """
    n_classes = logits.shape[1]
    moved = range(1, 2) if n_classes == 2 else range(n_classes)
    best, most = np.zeros(n_classes), -1
    for start in (np.zeros(n_classes), -logits.mean(axis=0))[: n_classes - 1]:
        offsets, before = start.copy(), -1
        for _ in range(_ROUNDS):
            for k in moved:
                offsets[k] += _best_offset(truth, logits + offsets, k)
            right = int(((logits + offsets).argmax(axis=1) == truth).sum())
            if right <= before:
                break
            before = right
        if before > most:
            best, most = offsets, before
    return best


def _best_offset(truth: np.ndarray, logits: np.ndarray, k: int) -> float:
    """Return what to add to the logits of class k, half-way between two changes of an answer."""
    others = np.delete(logits, k, axis=1)
    margin = logits[:, k] - others.max(axis=1)
    without = others.argmax(axis=1)
    without += without >= k
    order = margin.argsort(kind="stable")
    ranked = margin[order]
    # Below a cut the answer is the best of the other classes, above it k.
    gain = (without == truth).astype(int) - (truth == k)
    gained = np.concatenate([[0], np.cumsum(gain[order])])
    cuts = np.concatenate([ranked[:1] - 1, (ranked[1:] + ranked[:-1]) / 2, ranked[-1:] + 1])
    possible = np.concatenate([[True], ranked[1:] > ranked[:-1], [True]])
    return -float(cuts[np.where(possible, gained, -len(truth)).argmax()])
