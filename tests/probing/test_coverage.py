"""The interval of an accuracy covers the accuracy that the probes would have on new examples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

import llmprobe
from llmprobe.probing import protocol
from llmprobe.probing.layer import LayerFit
from llmprobe.probing.tasks import ProbingTasks

N, D = 240, 4
CALLS, LAYERS = 10, 20
"""Data sets with labels of their own, and independent layers of each: 200 intervals."""


@pytest.fixture
def fold_penalties(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, np.ndarray]:
    """By a layer's first row, the penalty of each fold, of which the table has the mean alone."""
    seen = {}
    probe_layer = protocol.probe_layer

    def remember(X: np.ndarray, tasks: ProbingTasks, *device: object) -> LayerFit:
        fit = probe_layer(X, tasks, *device)
        seen[X[0].tobytes()] = fit.l2
        return fit

    monkeypatch.setattr(protocol, "probe_layer", remember)
    return seen


def true_accuracy(
    X: np.ndarray, y: np.ndarray, fold_of: np.ndarray, l2: np.ndarray, separation: float
) -> tuple[float, float]:
    """Of the probes of all folds: the accuracy out-of-fold, and on all examples there could be.

    Classes are normal, equally frequent and ``separation`` apart along the first feature.
    """
    train = (fold_of[:, None] != np.arange(len(l2))).astype(float)
    fits = llmprobe.fit_many(X, np.repeat(y[:, None], len(l2), axis=1), train, l2)
    logits = (X @ fits.coef + fits.intercept)[np.arange(len(y)), fold_of]
    margin = fits.coef[0] * separation / 2
    deviation = np.linalg.norm(fits.coef, axis=0)
    right = [norm.cdf((margin + side * fits.intercept) / deviation) for side in (-1, 1)]
    exact = np.mean(right, axis=0)
    return float(((logits > 0) == (y == 1)).mean()), float(exact[fold_of].mean())


def coverage(
    shared: float,
    size: int,
    accuracy: float,
    l2: object,
    fold_penalties: dict[bytes, np.ndarray],
    seed: int = 0,
) -> float:
    """How often the interval holds the truth; groups of ``size`` share that much variance."""
    separation = 2 * norm.ppf(accuracy)
    group_of = np.arange(N) // size
    groups = None if size == 1 else group_of
    found = []
    for call in range(CALLS):
        rng = np.random.default_rng([seed, call])
        y = rng.permutation(N // size)[group_of] % 2
        layers = {}
        for layer in range(LAYERS):
            X = shared**0.5 * rng.normal(size=(N // size, D))[group_of]
            X = X + (1 - shared) ** 0.5 * rng.normal(size=(N, D))
            X[:, 0] += (y - 0.5) * separation
            layers[layer] = X
        results = llmprobe.probe_layers(
            layers, y, groups, progress=False, permutations=0, controls=(),
            description_length=False, l2=l2, device="cpu",
        )  # fmt: skip
        fold_of = results.predictions["fold"].to_numpy()[:N]
        for layer, X in layers.items():
            row = results.table.iloc[layer]
            penalties = fold_penalties[X[0].tobytes()]
            out_of_fold, truth = true_accuracy(X, y, fold_of, penalties, separation)
            # These are the probes that were scored; a row on the boundary may fall to each side.
            assert out_of_fold == pytest.approx(row["accuracy"], abs=1.5 / N)
            found.append(row["accuracy_low"] <= truth <= row["accuracy_high"])
    return float(np.mean(found))


@pytest.mark.parametrize(
    ("shared", "size", "accuracy", "l2"),
    [
        pytest.param(0, 1, 0.7, 10.0, id="single examples, accuracy 0.7"),
        pytest.param(0, 1, 0.95, 10.0, id="single examples, accuracy 0.95"),
        pytest.param(0.5, 3, 0.7, "auto", id="groups, accuracy 0.7"),
        pytest.param(0.5, 3, 0.95, 10.0, id="groups, accuracy 0.95"),
    ],
)
def test_a_95_percent_interval_covers_the_true_accuracy_in_95_percent(
    shared: float,
    size: int,
    accuracy: float,
    l2: object,
    fold_penalties: dict[bytes, np.ndarray],
) -> None:
    assert 0.92 <= coverage(shared, size, accuracy, l2, fold_penalties) <= 0.98
