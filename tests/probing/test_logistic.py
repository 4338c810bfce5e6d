"""Out-of-fold probabilities are those of a plain scikit-learn loop, and see no test row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from llmprobe.probing.fit_many import Problems
from llmprobe.probing.logistic import INNER_FOLDS, PENALTIES, inner_folds, out_of_fold
from llmprobe.probing.splits import assign_folds


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Problems this small are slower on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


def hidden_states(
    n: int, d: int, n_classes: int, seed: int, signal: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States with a few large directions and an offset, labels, and groups of two to four rows."""
    rng = np.random.default_rng(seed)
    sizes = np.arange(1, min(n, d) + 1) ** -0.7
    X = (rng.normal(size=(n, len(sizes))) * sizes) @ rng.normal(size=(len(sizes), d))
    logits = X @ rng.normal(size=(d, n_classes))
    y = (signal * logits / logits.std() + rng.gumbel(size=(n, n_classes))).argmax(axis=1)
    return (X + 3 * rng.normal(size=d)).astype(np.float32), y, np.arange(n) // 3


def scikit_learn(l2: float) -> Pipeline:
    model = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=1000, solver="newton-cholesky")
    return make_pipeline(StandardScaler(), model)


def plain_probabilities(X: np.ndarray, y: np.ndarray, train: np.ndarray, l2: float) -> np.ndarray:
    """Of every row, from fits on some: one probe, or one for each class against the rest."""
    if y.max() == 1:
        return scikit_learn(l2).fit(X[train], y[train]).predict_proba(X)
    each = [
        scikit_learn(l2).fit(X[train], y[train] == k).predict_proba(X)[:, 1]
        for k in range(y.max() + 1)
    ]
    return np.stack(each, axis=1) / np.sum(each, axis=0)[:, None]


def plain_loop(
    X: np.ndarray, y: np.ndarray, fold_of: np.ndarray, inner: np.ndarray
) -> tuple[np.ndarray, list[float]]:
    """What ``out_of_fold`` does, one fit at a time and over the whole grid."""
    X, rows = X.astype(float), np.arange(len(y))
    probabilities, penalties = np.empty((len(y), y.max() + 1)), []
    for fold in range(fold_of.max() + 1):
        losses = []
        for l2 in PENALTIES:
            likelihood = np.empty(len(y))
            for part in range(INNER_FOLDS):
                train = (inner[:, fold] >= 0) & (inner[:, fold] != part)
                held_out = inner[:, fold] == part
                fitted = plain_probabilities(X, y, train, l2)[rows, y]
                likelihood[held_out] = fitted[held_out]
            losses.append(-np.log(likelihood[fold_of != fold]).mean())
        penalties.append(PENALTIES[int(np.argmin(losses))])
        test = fold_of == fold
        probabilities[test] = plain_probabilities(X, y, ~test, penalties[-1])[test]
    return probabilities, penalties


@pytest.mark.parametrize(
    ("n", "d", "n_classes", "signal", "grouped"),
    [
        (120, 20, 2, 2.0, True),
        (60, 90, 2, 2.0, False),
        (120, 20, 2, 0.0, True),
        (90, 20, 3, 3.0, True),
    ],
    ids=["more rows", "more features", "no signal", "three classes"],
)
def test_penalties_and_probabilities_are_those_of_a_plain_loop(
    n: int, d: int, n_classes: int, signal: float, grouped: bool
) -> None:
    X, y, groups = hidden_states(n, d, n_classes, 0, signal)
    given = groups if grouped else None
    fold_of = assign_folds(y, given, 4)
    inner = inner_folds(y, given, fold_of, seed=0)
    probabilities, penalties = out_of_fold(X, y, fold_of, inner)
    plain, chosen = plain_loop(X, y, fold_of, inner)
    assert penalties.tolist() == pytest.approx(chosen)
    assert probabilities == pytest.approx(plain, abs=1e-3)
    assert probabilities.sum(axis=1) == pytest.approx(1)


def test_leaving_out_weak_penalties_changes_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[float] = []
    solve = Problems.solve

    def noted(self: Problems, l2: float | torch.Tensor, *start: object, **options: float) -> object:
        if isinstance(l2, float):
            tried.append(l2)
        return solve(self, l2, *start, **options)

    monkeypatch.setattr(Problems, "solve", noted)
    full = 0
    for seed in range(4):
        tried.clear()
        X, y, groups = hidden_states(120, 60, 2, seed, signal=0.2)
        fold_of = assign_folds(y, groups, 3)
        inner = inner_folds(y, groups, fold_of, seed=0)
        _, penalties = out_of_fold(X, y, fold_of, inner)
        full += len(tried) == len(PENALTIES)
        assert penalties.tolist() == pytest.approx(plain_loop(X, y, fold_of, inner)[1])
    assert full < 4


def test_a_given_penalty_is_used_in_every_fold() -> None:
    X, y, groups = hidden_states(90, 20, 2, 0, signal=3.0)
    fold_of = assign_folds(y, groups, 3)
    probabilities, penalties = out_of_fold(X, y, fold_of, None, 7.0)
    assert penalties.tolist() == [7.0] * 3
    for fold in range(3):
        test = fold_of == fold
        plain = plain_probabilities(X.astype(float), y, ~test, 7.0)
        assert probabilities[test] == pytest.approx(plain[test], abs=1e-3)


@pytest.mark.parametrize("elsewhere", [0.0, 1e3])
def test_what_only_test_rows_show_changes_nothing(elsewhere: float) -> None:
    X, y, groups = hidden_states(120, 10, 2, 0, signal=2.0)
    fold_of = assign_folds(y, groups, 4)
    inner = inner_folds(y, groups, fold_of, seed=0)
    test = fold_of == 1
    plain = np.column_stack([X, np.full(len(y), elsewhere, dtype=np.float32)])
    leaky = plain.copy()
    leaky[test, -1] += y[test] - 0.5
    probabilities, penalties = out_of_fold(leaky, y, fold_of, inner)
    expected, expected_penalties = out_of_fold(plain, y, fold_of, inner)
    assert penalties[1] == expected_penalties[1]
    assert probabilities[test] == pytest.approx(expected[test], abs=1e-4)


def test_labels_of_test_rows_change_nothing() -> None:
    X, y, groups = hidden_states(120, 10, 2, 0, signal=2.0)
    fold_of = assign_folds(y, groups, 4)
    inner = inner_folds(y, groups, fold_of, seed=0)
    test = fold_of == 2
    turned = np.where(test, 1 - y, y)
    probabilities, _ = out_of_fold(X, turned, fold_of, inner)
    expected, _ = out_of_fold(X, y, fold_of, inner)
    assert probabilities[test] == pytest.approx(expected[test], abs=1e-4)


def test_no_signal_is_about_chance_and_the_strong_penalties() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(400) % 2
    fold_of = assign_folds(y, None, 5)
    inner = inner_folds(y, None, fold_of, seed=0)
    probabilities, penalties = out_of_fold(rng.normal(size=(400, 20)), y, fold_of, inner)
    assert (penalties >= 1e2).all()
    assert abs((probabilities.argmax(axis=1) == y).mean() - 0.5) < 0.1
