"""Where examples lie beside a probe is what a direct computation says, and out-of-fold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from llmprobe.config.schema import ProbeConfig
from llmprobe.probing import tables
from llmprobe.probing.design import Design
from llmprobe.probing.layer import LayerFit, probe_layer
from llmprobe.probing.probe_plane import _spread_axis, probe_plane
from llmprobe.probing.tasks import ProbingTasks, build_tasks
from llmprobe.probing.workers import threads

FOLDS = 4
BARE = {"controls": (), "permutations": 0, "description_length": False, "folds": FOLDS, "l2": 3.0}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threads(1):
        yield


def states(n: int = 120, d: int = 10, n_classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Features of different sizes, correlated and far from 0, and labels that they nearly tell."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * np.geomspace(0.1, 10, d)
    logits = StandardScaler().fit_transform(X) @ rng.normal(size=(d, n_classes))
    y = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return X + 5 * rng.normal(size=d), y


def tasks_of(y: np.ndarray, test: np.ndarray | None = None, **options: Any) -> ProbingTasks:
    return build_tasks(y, None, ProbeConfig(**{**BARE, **options}), "here", test)


def fitted(X: np.ndarray, y: np.ndarray, **options: Any) -> tuple[LayerFit, ProbingTasks]:
    tasks = tasks_of(y, **options)
    return probe_layer(X.astype(np.float32), tasks), tasks


def unit_spread(places: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = places / np.sqrt((places**2).mean(axis=0))
    return scaled


def units(X: np.ndarray) -> np.ndarray:
    """Nearly the standard deviations of the features, of all rows. [d]"""
    found: np.ndarray = Design(X).unit.numpy()
    assert found == pytest.approx(X.std(axis=0), rel=0.2)
    return found


def standardised(X: np.ndarray) -> np.ndarray:
    Z: np.ndarray = (X - X.mean(axis=0)) / units(X)
    return Z


def random_probes(
    X: np.ndarray, folds: int = 3, C: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Probes at random. -> coef [d, folds, C], intercept [folds, C], fold_of [n], and the unit
    directions in standardised features [folds, d]
    """
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(folds, C, X.shape[1]))
    coef = (directions / units(X)).transpose(2, 0, 1)
    intercept = rng.normal(size=(folds, C)) - np.einsum("d,dfc->fc", X.mean(axis=0), coef)
    unit = directions[:, 0] / np.linalg.norm(directions[:, 0], axis=1, keepdims=True)
    return coef, intercept, rng.integers(0, folds, len(X)), unit


def widest_across(Z: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """By the eigenvectors of the covariance from which the direction is projected out."""
    across = np.eye(len(direction)) - np.outer(direction, direction)
    found: np.ndarray = np.linalg.eigh(across @ np.cov(Z.T) @ across).eigenvectors[:, -1]
    return found


def test_along_is_the_distance_to_a_plain_logistic_regression_of_the_other_folds() -> None:
    X, y = states()
    found, tasks = fitted(X, y)
    expected = np.empty(len(y))
    for fold in range(FOLDS):
        train = tasks.fold_of[0] != fold
        model = LogisticRegression(C=1 / 3.0, tol=1e-10, max_iter=1000, solver="newton-cholesky")
        plain = make_pipeline(StandardScaler(), model).fit(X[train], y[train])
        direction = model.coef_[0] / plain[0].scale_ * units(X)
        expected[~train] = plain.decision_function(X[~train]) / np.linalg.norm(direction)
    assert found.probe_plane[:, 0] == pytest.approx(unit_spread(expected), abs=1e-3)


@pytest.mark.parametrize("kind", ["logistic", "mass_mean"])
def test_the_threshold_is_at_0_and_the_last_class_on_the_right(kind: str) -> None:
    found, _ = fitted(*states(), kind=kind)
    sure = np.abs(found.predicted[0][:, 1] - 0.5) > 1e-3
    assert sure.mean() > 0.9
    assert ((found.probe_plane[:, 0] > 0) == (found.predicted[0][:, 1] > 0.5))[sure].all()


def test_of_numbers_0_is_where_the_probe_answers_their_mean() -> None:
    X, _ = states()
    y = 1000 + 50 * standardised(X) @ np.arange(10)
    found, tasks = fitted(X, y, kind="ridge")
    above = found.predicted[0][:, 0] - y.mean()
    assert ((found.probe_plane[:, 0] > 0) == (above > 0)).all()
    for fold in range(FOLDS):
        own = tasks.fold_of[0] == fold
        ratio = found.probe_plane[own, 0] / above[own]
        assert ratio == pytest.approx(ratio[0], rel=1e-3)


@pytest.mark.parametrize(("n", "d"), [(200, 12), (40, 60), (30, 30), (300, 25)])
def test_across_is_the_widest_direction_orthogonal_to_each_folds_probe(n: int, d: int) -> None:
    X, _ = states(n, d)
    coef, intercept, fold_of, directions = random_probes(X)
    places = probe_plane(Design(X), coef, intercept, fold_of)[:, 1]
    Z = standardised(X)
    widest = np.array([widest_across(Z, direction) for direction in directions])
    widest *= np.sign(widest @ widest[0])[:, None]
    expected = (Z * widest[fold_of]).sum(axis=1)
    expected = unit_spread(expected - expected.mean())
    assert np.sign(places @ expected) * places == pytest.approx(expected, abs=2e-2)


def test_across_is_orthogonal_and_nearly_the_widest_of_many_features() -> None:
    X, _ = states(400, 150)
    coef, intercept, _, directions = random_probes(X, folds=1)
    places = probe_plane(Design(X), coef, intercept, np.zeros(len(X), dtype=int))[:, 1]
    Z = standardised(X)
    across = np.linalg.lstsq(Z, places, rcond=None)[0]
    across /= np.linalg.norm(across)
    assert Z @ across == pytest.approx(places * (Z @ across).std(), abs=1e-2)  # it is linear in Z
    assert abs(across @ directions[0]) < 1e-3
    most = (Z @ widest_across(Z, directions[0])).var()
    assert (Z @ across).var() > 0.98 * most


def test_a_probe_along_the_widest_direction_leaves_the_second_spread_axis() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(500, 2))
    # Eight features of one factor and five of another: the first two principal components.
    X = shared[:, [0] * 8 + [1] * 5] + 0.1 * rng.normal(size=(500, 13))
    coef = np.array([1.0] * 8 + [0.0] * 5)[:, None, None]
    places = probe_plane(Design(X), coef, np.zeros((1, 1)), np.zeros(500, dtype=int))
    assert abs(np.corrcoef(places[:, 0], shared[:, 0])[0, 1]) > 0.99
    assert abs(np.corrcoef(places[:, 1], shared[:, 1])[0, 1]) > 0.99


@pytest.mark.parametrize("C", [3, 5])
def test_of_more_classes_the_places_are_principal_components_of_their_scores(C: int) -> None:
    X, _ = states()
    coef, intercept, fold_of, _ = random_probes(X, C=C)
    places = probe_plane(Design(X), coef, intercept, fold_of)
    length = np.linalg.norm(coef * units(X)[:, None, None], axis=(0, 2))
    scores = np.einsum("nd,dfc->nfc", X, coef) + intercept
    own = (scores / length[:, None])[np.arange(len(X)), fold_of]
    left, sizes, _ = np.linalg.svd(own - own.mean(axis=0))
    expected = left[:, :2] * np.sqrt(len(X))
    assert sizes[0] > 1.05 * sizes[1] > 1.05**2 * sizes[2]  # so that they are told apart
    for axis in (0, 1):
        sign = np.sign(places[:, axis] @ expected[:, axis])
        assert sign * places[:, axis] == pytest.approx(expected[:, axis], abs=1e-2)


@pytest.mark.parametrize("kind", ["logistic", "mass_mean"])
def test_three_classes_come_apart_in_the_plane(kind: str) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    X = rng.normal(size=(120, 8)) + 6 * np.eye(8)[y]
    found, _ = fitted(X, y, kind=kind)
    centres = np.array([found.probe_plane[y == c].mean(axis=0) for c in range(3)])
    nearest = np.linalg.norm(found.probe_plane[:, None] - centres, axis=2).argmin(axis=1)
    assert (nearest == y).mean() > 0.95


def test_a_probe_of_another_length_gives_the_same_places() -> None:
    X, _ = states()
    coef, intercept, fold_of, _ = random_probes(X)
    design, longer = Design(X), np.array([1.0, 100.0, 0.01])
    expected = probe_plane(design, coef, intercept, fold_of)
    found = probe_plane(design, coef * longer[:, None], intercept * longer[:, None], fold_of)
    assert found == pytest.approx(expected, abs=1e-4)


def test_the_units_and_zero_of_features_change_nothing() -> None:
    X, y = states()
    expected, _ = fitted(X, y)
    found, _ = fitted(X * np.geomspace(1e-3, 1e3, 10) + 7, y)
    found.probe_plane[:, 1] *= np.sign(found.probe_plane[:, 1] @ expected.probe_plane[:, 1])
    assert found.probe_plane == pytest.approx(expected.probe_plane, abs=1e-2)


def test_other_names_of_the_classes_mirror_the_places_along() -> None:
    X, y = states()
    tasks = tasks_of(y)
    mirrored = replace(
        tasks,
        y=1 - tasks.y,
        targets=1 - tasks.targets,
        observed=replace(tasks.observed, targets=1 - tasks.targets),
    )
    one, other = (probe_layer(X, of_labels).probe_plane for of_labels in (tasks, mirrored))
    assert other[:, 0] == pytest.approx(-one[:, 0], abs=1e-3)
    assert np.abs(other[:, 1]) == pytest.approx(np.abs(one[:, 1]), abs=1e-2)


def test_constant_features_change_nothing() -> None:
    X, y = states()
    expected, _ = fitted(X, y)
    found, _ = fitted(np.column_stack([np.full((len(y), 3), 1e4), X, np.zeros(len(y))]), y)
    found.probe_plane[:, 1] *= np.sign(found.probe_plane[:, 1] @ expected.probe_plane[:, 1])
    assert found.probe_plane == pytest.approx(expected.probe_plane, abs=1e-3)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_where_no_feature_varies_all_examples_are_in_one_place(n_classes: int) -> None:
    y = np.arange(62) % n_classes  # Not as many of each class in each fold.
    found, _ = fitted(np.ones((62, 5)), y)
    assert (found.probe_plane == 0).all()


@pytest.mark.parametrize("copies", [1, 7])
def test_of_one_feature_nothing_is_across(copies: int) -> None:
    X, y = states(60, 1)
    found, _ = fitted(X[:, [0] * copies], y)
    assert (found.probe_plane[:, 1] == 0).all()
    assert (found.probe_plane[:, 0] ** 2).mean() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("kind", "n_classes"), [("logistic", 2), ("logistic", 5), ("ridge", 2)])
def test_coordinates_have_a_mean_square_of_1(kind: str, n_classes: int) -> None:
    found, _ = fitted(*states(200, 10, n_classes), kind=kind)
    assert (found.probe_plane**2).mean(axis=0) == pytest.approx([1, 1], abs=1e-3)


def test_a_label_moves_the_examples_of_other_folds_alone() -> None:
    X, y = states()
    tasks = tasks_of(y)
    changed = tasks.fold_of[0] == 0
    targets = np.where(changed, 1 - tasks.targets, tasks.targets)
    mislabelled = replace(
        tasks,
        y=targets[0].astype(int),
        targets=targets,
        observed=replace(tasks.observed, targets=targets),
    )
    before, after = (probe_layer(X, of_labels).probe_plane for of_labels in (tasks, mislabelled))
    ratio = after[:, 0] / before[:, 0]
    # One scale, which depends on all of them.
    assert ratio[changed] == pytest.approx(ratio[changed][0], rel=1e-2)
    assert np.abs(ratio[~changed] / ratio[changed][0] - 1).max() > 0.5


def test_of_a_test_set_only_its_rows_have_places() -> None:
    X, y = states()
    test = np.arange(len(y)) % 3 == 0
    tasks = tasks_of(y, test)
    found = probe_layer(X, tasks)
    assert found.probe_plane.shape == (test.sum(), 2)
    distances = X[test] @ found.coef[:, 0] + found.intercept[0]
    assert found.probe_plane[:, 0] == pytest.approx(unit_spread(distances), abs=1e-3)
    assert (found.probe_plane**2).mean(axis=0) == pytest.approx([1, 1], abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "n_classes"),
    [("logistic", 2), ("logistic", 3), ("mass_mean", 2), ("mass_mean", 3), ("ridge", 2)],
)
def test_the_fold_0_probe_gives_the_out_of_fold_predictions_of_the_first_fold(
    kind: str, n_classes: int
) -> None:
    X, y = states(n_classes=n_classes)
    labels = 10 + 3 * X[:, 0] if kind == "ridge" else y
    found, tasks = fitted(X, labels, kind=kind)
    logits = torch.as_tensor(X @ found.fold0_coef + found.fold0_intercept)
    if kind == "ridge":
        probabilities = logits
    elif n_classes == 2:
        probabilities = torch.cat([torch.sigmoid(-logits), torch.sigmoid(logits)], dim=1)
    else:
        probabilities = torch.softmax(logits, dim=1)
    first_fold = tasks.fold_of[0] == 0
    assert probabilities.numpy()[first_fold] == pytest.approx(
        found.predicted[0][first_fold], abs=1e-4, rel=1e-4
    )
    assert np.abs(probabilities.numpy() - found.predicted[0])[~first_fold].max() > 1e-3


def predictions_of(places: np.ndarray, n_classes: int) -> np.ndarray:
    """``along`` and ``across`` of the table, from those of the layers' fits. [layers, n, 2]"""
    layers, n, _ = places.shape
    y = np.arange(n) % n_classes
    fits: Any = [
        SimpleNamespace(predicted=np.eye(n_classes)[y], probe_plane=each) for each in places
    ]
    tasks = tasks_of(y, folds=2)
    names = {"model": "m", "dataset": "d", "position": ""}
    table = tables.predictions(range(layers), fits, y, tasks, names)
    assert table["layer"].is_monotonic_increasing
    found: np.ndarray = table[["along", "across"]].to_numpy().reshape(layers, n, 2)
    return found


def test_an_arbitrary_sign_is_that_of_the_layer_before() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(40, 2))
    turned = np.stack([first, -first, first, -first + 0.1 * rng.normal(size=(40, 2)), -first])
    given = turned.copy()
    found = predictions_of(turned, 3)
    for before, here in pairwise(found):
        assert ((before * here).sum(axis=0) > 0).all()
    assert np.abs(found) == pytest.approx(np.abs(given))
    assert (turned == given).all()


def test_the_side_of_a_class_is_no_arbitrary_sign() -> None:
    first = np.random.default_rng(0).normal(size=(40, 2))
    found = predictions_of(np.stack([first, -first]), 2)
    assert found[1, :, 0] == pytest.approx(-first[:, 0])
    assert found[1, :, 1] == pytest.approx(first[:, 1])


def test_the_widest_direction_across_may_lie_beyond_the_widest_components() -> None:
    spectrum = torch.tensor([2.0, *[1.2] * 38, 1.0])
    design = SimpleNamespace(spectrum=spectrum, basis=torch.eye(40))
    probe = torch.zeros(1, 40, dtype=torch.float64)
    probe[0, [0, 39]] = 0.5**0.5
    (across,) = _spread_axis(cast(Any, design), probe)
    assert float(across.square() @ spectrum.double()) == pytest.approx(1.5)
    assert float(across @ probe[0]) == pytest.approx(0, abs=1e-12)
