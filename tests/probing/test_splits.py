"""Folds keep groups whole and classes even, and say when they cannot."""

from __future__ import annotations

import numpy as np
import pytest

from llmprobe import UserError
from llmprobe.probing.logistic import INNER_FOLDS, inner_folds
from llmprobe.probing.splits import assign_folds


def grouped(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Labels that lean with the group, and groups of uneven size in random order."""
    rng = np.random.default_rng(seed)
    groups = rng.choice(60, n, p=rng.dirichlet(np.full(60, 2)))
    return (rng.random(n) < rng.random(60)[groups]).astype(int), groups


@pytest.mark.parametrize("seed", range(5))
def test_a_group_is_in_one_fold(seed: int) -> None:
    labels, groups = grouped(seed)
    fold_of = assign_folds(labels, groups, 5, seed)
    assert set(fold_of) == set(range(5))
    for group in np.unique(groups):
        assert len(set(fold_of[groups == group])) == 1


@pytest.mark.parametrize("labels", [["a", "b"], [True, False], [0.0, 0.5], [3, 7]])
def test_classes_are_even_over_folds_without_groups(labels: list[object]) -> None:
    rng = np.random.default_rng(0)
    y = np.asarray(labels)[(rng.random(103) < 0.3).astype(int)]
    fold_of = assign_folds(y, None, 5)
    for label in labels:
        counts = np.bincount(fold_of[y == label], minlength=5)
        assert np.ptp(counts) <= 1


def test_classes_are_nearly_even_over_folds_of_groups() -> None:
    labels, groups = grouped(0)
    fold_of = assign_folds(labels, groups, 5)
    shares = [labels[fold_of == fold].mean() for fold in range(5)]
    assert np.ptp(shares) < 0.15


def test_a_seed_fixes_the_folds_and_another_changes_them() -> None:
    labels, groups = grouped(0)
    for given in (None, groups):
        first = assign_folds(labels, given, 5, seed=0)
        assert (first == assign_folds(labels, given, 5, seed=0)).all()
        assert (first != assign_folds(labels, given, 5, seed=1)).any()


@pytest.mark.parametrize("folds", [2, 3, 10])
def test_there_are_as_many_folds_as_asked_for(folds: int) -> None:
    labels, groups = grouped(1)
    assert set(assign_folds(labels, groups, folds)) == set(range(folds))


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        (["a", "b"] * 2, None, "cities: 4 examples are too few for 5 folds"),
        (["a", "b"] * 20, np.arange(40) % 4, "cities: 4 groups are too few for 5 folds"),
        (["a"] * 20 + ["b"] * 4, None, "cities: class b has 4 examples, too few for 5 folds"),
        (["a"] * 20 + ["b"] * 5, [*range(20)] + [20] * 5, "class b is absent from a training set"),
    ],
)
def test_too_few_for_the_folds_is_an_error(labels: list[str], groups: object, message: str) -> None:
    given = None if groups is None else np.asarray(groups)
    with pytest.raises(UserError, match=message):
        assign_folds(np.asarray(labels), given, 5, where="cities")


def test_inner_folds_hide_the_outer_fold_and_keep_groups_whole() -> None:
    labels, groups = grouped(2)
    fold_of = assign_folds(labels, groups, 5)
    inner = inner_folds(labels, groups, fold_of, seed=0)
    for fold in range(5):
        assert ((inner[:, fold] == -1) == (fold_of == fold)).all()
        assert set(inner[fold_of != fold, fold]) == set(range(INNER_FOLDS))
        for group in np.unique(groups):
            assert len(set(inner[groups == group, fold])) == 1


def test_too_few_for_choosing_a_penalty_is_an_error_that_says_so() -> None:
    labels = np.asarray([0] * 20 + [1] * 3)
    with pytest.raises(UserError, match=r"l2: auto.*class 1 has 2 examples"):
        inner_folds(labels, None, assign_folds(labels, None, 3), seed=0)
