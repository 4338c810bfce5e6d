"""Directions along which states are moved."""

from __future__ import annotations

import numpy as np
import pytest

from llmprobe.config.schema import ProbeConfig
from llmprobe.probing.directions import KINDS, fit_directions
from llmprobe.probing.tasks import build_tasks

N, D, NULL = 400, 8, 6


def test_leace_makes_the_class_means_one_and_changes_less_than_the_mean_difference() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=N)
    X = rng.normal(size=(N, D))
    # Noise along the difference of the means that another feature tells.
    X[:, 0] = 2 * y + 3 * X[:, 1] + 0.5 * X[:, 0]
    probe = ProbeConfig(l2=1.0, folds=3).alone(permutations=NULL // 2)
    tasks = build_tasks(y, None, probe, "toy")
    directions = fit_directions(X.astype(np.float32), tasks, NULL, seed=0)[0].between(0, 1)
    train = tasks.train[0]
    leace, difference = len(KINDS), KINDS.index("mean_difference")
    places = directions.places(X[train])
    erased = X[train] - places[:, [leace]] * directions.acts[leace]
    means = [erased[y[train] == label].mean(axis=0) for label in (0, 1)]
    assert np.abs(means[1] - means[0]).max() < 0.01
    squared = (places**2).mean(axis=0)
    assert squared[leace] < 0.5 * squared[difference]
    assert (directions.reads * directions.acts).sum(axis=1) == pytest.approx(1, abs=1e-4)


def test_random_directions_are_orthogonal_and_vary_alike() -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(N, D)) * np.geomspace(0.5, 2, D)
    y = (X[:, 4] + 0.3 * rng.normal(size=N) > 0).astype(int)
    probe = ProbeConfig(l2=1.0, folds=3).alone(permutations=NULL // 2)
    tasks = build_tasks(y, None, probe, "toy")
    directions = fit_directions(X.astype(np.float32), tasks, NULL, seed=0)[0].between(0, 1)
    drawn = directions.acts[-2 * (NULL - NULL // 2) :].reshape(-1, len(KINDS), D)
    own = directions.acts[: len(KINDS)]
    assert np.abs((drawn * own).sum(axis=2)).max() < 1e-3
    covariance = np.cov(X.T, bias=True)
    varies, expected = (np.einsum("...i,ij,...j", of, covariance, of) for of in (drawn, own))
    assert varies == pytest.approx(np.broadcast_to(expected, varies.shape), rel=0.02)


def test_random_vectors_of_classes_stand_to_each_other_as_those_of_the_labels_do() -> None:
    rng = np.random.default_rng(2)
    y = rng.integers(4, size=N)
    X = rng.normal(size=(N, 16)) + np.outer(np.arange(4)[y], np.eye(16)[3])  # All along a line.
    probe = ProbeConfig(l2=1.0, folds=3).alone(permutations=NULL // 2)
    vectors = fit_directions(X.astype(np.float32), build_tasks(y, None, probe, "toy"), NULL, 0)[0]
    means, drawn = vectors.acts[1], vectors.acts[-2 * (NULL - NULL // 2) + 1 :: 2]
    gram = means @ means.T
    for one in drawn:
        np.testing.assert_allclose(one @ one.T, gram, atol=1e-5)
        np.testing.assert_allclose(one @ means.T, 0, atol=1e-5)
    between = vectors.between(1, 3)
    cosine = between.acts[1] @ np.eye(16)[3]
    assert cosine > 0.95
    assert (between.reads * between.acts).sum(axis=1) == pytest.approx(1, abs=1e-4)
    train = build_tasks(y, None, probe, "toy").train[0]
    np.testing.assert_allclose(between.spread, between.places(X[train]).std(axis=0), rtol=1e-4)
