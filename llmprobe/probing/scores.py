"""Scores of out-of-fold predictions, with intervals that respect groups."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, roc_auc_score

BOOTSTRAP_SAMPLES = 2000


def score(y: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy, F1, AUROC and log loss of one layer.

    Binary: F1 and AUROC of class 1. More classes: macro F1, one-vs-rest macro AUROC.

    Parameters
    ----------
    y
        Class indices. [n]
    probabilities
        Out-of-fold. [n, K]
    """
    predicted = probabilities.argmax(axis=1)
    binary = probabilities.shape[1] == 2
    ranked = probabilities[:, 1] if binary else probabilities
    return {
        "accuracy": float((predicted == y).mean()),
        "balanced_accuracy": float(balanced_accuracy_score(y, predicted)),
        "f1": float(f1_score(y, predicted, average="binary" if binary else "macro")),
        "auroc": float(roc_auc_score(y, ranked, multi_class="ovr")),
        "log_loss": float(log_loss(y, probabilities, labels=np.arange(probabilities.shape[1]))),
    }


def majority_accuracy(y: np.ndarray) -> float:
    """The share of the most frequent class."""
    return float(np.bincount(y).max() / len(y))


def accuracy_intervals(
    correct: np.ndarray, groups: np.ndarray | None, seed: int = 0, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap over groups, the same resamples for every layer.

    Examples of one group are not independent: resampling examples would give intervals that are
    too narrow. (Cameron, Gelbach & Miller 2008, section II, on the pairs cluster bootstrap.)

    Parameters
    ----------
    correct
        Whether each example was right at each layer. [n, layers]

    Returns
    -------
    low, high : [layers]
    """
    n = len(correct)
    _, group_of = np.unique(np.arange(n) if groups is None else groups, return_inverse=True)
    n_groups = int(group_of.max()) + 1
    tally = np.zeros((n_groups, correct.shape[1] + 1))  # right at each layer; size
    np.add.at(tally, group_of, np.column_stack([correct, np.ones(n)]))
    rng = np.random.default_rng(seed)
    totals = np.empty((BOOTSTRAP_SAMPLES, tally.shape[1]))
    for sample in range(BOOTSTRAP_SAMPLES):
        drawn = rng.integers(n_groups, size=n_groups)
        totals[sample] = np.bincount(drawn, minlength=n_groups) @ tally
    accuracies = totals[:, :-1] / totals[:, -1:]
    tail = (1 - level) / 2
    low, high = np.quantile(accuracies, [tail, 1 - tail], axis=0)
    return low, high
