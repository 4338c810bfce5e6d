"""The interval of a cross-validated score holds what the procedure scores on average."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

import llmprobe

N = 240
CALLS, LAYERS = 20, 10
"""Data sets with labels of their own, and independent layers of each: 200 intervals."""


def coverage(shared: float, size: int, accuracy: float, d: int) -> float:
    """How often the interval holds the mean over all sets; groups of ``size`` share variance.

    Classes are normal, equally frequent, and apart along the first of d features, as far as gives
    the best possible classifier that accuracy.
    """
    separation = 2 * norm.ppf(accuracy)
    group_of = np.arange(N) // size
    tables = []
    for call in range(CALLS):
        rng = np.random.default_rng(call)
        y = rng.permutation(N // size)[group_of] % 2
        layers = {}
        for layer in range(LAYERS):
            X = shared**0.5 * rng.normal(size=(N // size, d))[group_of]
            X = X + (1 - shared) ** 0.5 * rng.normal(size=(N, d))
            X[:, 0] += (y - 0.5) * separation
            layers[layer] = X
        results = llmprobe.probe_layers(
            layers, y, None if size == 1 else group_of, progress=False, permutations=0,
            controls=(), description_length=False, l2=10.0, repeats=3, device="cpu",
        )  # fmt: skip
        tables.append(results.table[["accuracy", "accuracy_low", "accuracy_high"]].to_numpy())
    accuracies, low, high = np.concatenate(tables).T
    return float(((low <= accuracies.mean()) & (accuracies.mean() <= high)).mean())


@pytest.mark.parametrize(
    ("shared", "size", "accuracy", "d"),
    [
        pytest.param(0, 1, 0.7, 4, id="single examples, accuracy 0.7"),
        pytest.param(0, 1, 0.95, 4, id="single examples, accuracy 0.95"),
        pytest.param(0.5, 4, 0.7, 4, id="60 groups, accuracy 0.7"),
        pytest.param(0.5, 12, 0.5, 8, id="20 groups, nothing to learn"),
        pytest.param(0.5, 12, 0.8, 32, id="20 groups, more features than groups"),
    ],
)
def test_a_95_percent_interval_holds_the_expected_accuracy_in_95_percent(
    shared: float, size: int, accuracy: float, d: int
) -> None:
    assert 0.92 <= coverage(shared, size, accuracy, d) <= 0.99
