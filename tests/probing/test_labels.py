"""Relabellings keep what they must and are even over what they may."""

from __future__ import annotations

import math
import time
from collections import Counter
from itertools import product

import numpy as np
import pytest

from llmprobe.probing.labels import (
    ONLINE_FRACTIONS,
    control_folds,
    control_labels,
    opposite_labels,
    portions,
    relabellings,
    shuffled_labels,
)

RNG = np.random.default_rng(0)
GROUPS: dict[str, np.ndarray | None] = {
    "none": None,
    "pairs": np.repeat([f"city {i:03}" for i in range(120)], 2),
    "equal, mixed": RNG.permutation(np.repeat(np.arange(40), 6)),
    "a few larger": RNG.permutation(np.repeat(np.arange(113), [2] * 110 + [6, 6, 8])),
    "uneven": RNG.choice(40, 240, p=RNG.dirichlet(np.full(40, 2))),
}
LABELS = {
    "two": RNG.permutation(np.repeat([0, 1], [170, 70])),
    "four": RNG.permutation(np.repeat([0, 1, 2, 3], [150, 50, 30, 10])),
    "continuous": RNG.normal(size=240),
}
each_kind = pytest.mark.parametrize(
    ("y", "groups"),
    [pytest.param(y, g, id=f"{of}, {by}") for of, y in LABELS.items() for by, g in GROUPS.items()],
)


def sizes(groups: np.ndarray) -> np.ndarray:
    """The size of each row's group. [n]"""
    _, group_of, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return counts[group_of]


def constant_in(values: np.ndarray, groups: np.ndarray) -> list[bool]:
    """Whether each group, in sorted order, has one value only."""
    return [len(set(values[groups == group])) == 1 for group in np.unique(groups)]


def uniform(found: list[tuple[int, ...]], outcomes: int) -> bool:
    """Whether so many outcomes occur, none further from its share than five standard deviations."""
    counts = np.array(list(Counter(found).values()))
    expected = len(found) / outcomes
    return len(counts) == outcomes and bool(np.abs(counts - expected).max() < 5 * expected**0.5)


@each_kind
def test_shuffling_keeps_the_labels_and_changes_their_places(
    y: np.ndarray, groups: np.ndarray | None
) -> None:
    shuffled = shuffled_labels(y, groups, 20, seed=0)
    assert shuffled.shape == (240, 20)
    assert shuffled.dtype == y.dtype
    if groups is None or len(set(sizes(groups))) == 1:
        assert (np.sort(shuffled, axis=0) == np.sort(y)[:, None]).all()
    assert set(shuffled.ravel()) <= set(y)
    assert (shuffled != y[:, None]).any(axis=0).all()
    assert len({tuple(column) for column in shuffled.T}) == 20


@pytest.mark.parametrize("make", [shuffled_labels, control_labels])
@each_kind
def test_a_seed_fixes_the_labels_and_another_changes_them(
    make: object, y: np.ndarray, groups: np.ndarray | None
) -> None:
    assert callable(make)
    first = make(y, groups, 3, 0)
    assert (first == make(y, groups, 3, 0)).all()
    assert (first != make(y, groups, 3, 1)).any()
    assert (first[:, :2] == make(y, groups, 2, 0)).all()


def test_shuffling_pairs_swaps_inside_them() -> None:
    y, groups = np.tile([1, 0], 100), np.repeat(range(100), 2)
    shuffled = shuffled_labels(y, groups, 50, seed=0)
    assert (shuffled[::2] + shuffled[1::2] == 1).all()
    assert shuffled[::2].mean() == pytest.approx(0.5, abs=0.035)  # 5 standard deviations


@pytest.mark.parametrize("by", ["pairs", "equal, mixed"])
def test_labels_constant_in_groups_stay_so_among_equals(by: str) -> None:
    groups = GROUPS[by]
    assert groups is not None
    _, group_of = np.unique(groups, return_inverse=True)
    y = RNG.permutation(group_of.max() + 1)[group_of] % 3
    for shuffled in shuffled_labels(y, group_of, 20, seed=0).T:
        assert all(constant_in(shuffled, group_of))
        assert (shuffled != y).mean() > 0.3


def test_groups_exchange_lists_among_equals_whatever_other_sizes_there_are() -> None:
    groups = GROUPS["a few larger"]
    assert groups is not None
    pairs = sizes(groups) == 2
    y = np.empty(240, dtype=int)
    y[np.argsort(groups, kind="stable")] = np.arange(240) % 2
    for shuffled in shuffled_labels(y, groups, 20, seed=0).T:
        assert not any(constant_in(shuffled, groups))
        assert (np.bincount(groups, shuffled) == np.bincount(groups, y)).all()
    y = np.where(pairs, groups % 2, 5)
    for shuffled in shuffled_labels(y, groups, 20, seed=0).T:
        assert set(shuffled[~pairs]) <= {0, 1, 5}
        assert all(constant_in(shuffled, groups))


def test_a_label_goes_to_groups_of_like_size_whole() -> None:
    groups = np.repeat(np.arange(30), np.arange(1, 31))
    y = np.random.default_rng(0).permutation(30)[groups]
    shuffled = shuffled_labels(y, groups, 50, 0)
    assert all(all(constant_in(column, groups)) for column in shuffled.T)
    last = {int(np.flatnonzero(y[np.arange(30).cumsum()] == label)[0]) for label in shuffled[-1]}
    assert last == {25, 26, 27, 28, 29}
    assert relabellings(y, groups) == pytest.approx(math.factorial(5) ** 6)


def test_groups_of_two_sizes_exchange_among_their_own() -> None:
    groups = np.repeat(np.arange(12), [2] * 6 + [9] * 6)
    y = (groups % 2 == 0).astype(int)
    shuffled = shuffled_labels(y, groups, 40, seed=0)
    assert (shuffled[:12].sum(axis=0) == 6).all()
    assert relabellings(y, groups) == pytest.approx(20 * 20)


def test_labellings_of_many_numbers_are_counted_without_a_table_of_all() -> None:
    y = np.arange(50_000) / 7
    assert relabellings(y, None) == np.inf
    assert relabellings(y[:6], np.arange(6) // 2) == pytest.approx(6 * 2**3)


def test_labels_that_the_size_gives_away_have_one_labelling() -> None:
    groups = np.repeat(np.arange(40), [2] * 20 + [3] * 20)
    y = (groups < 20).astype(int)
    assert relabellings(y, groups) == 1
    assert (shuffled_labels(y, groups, 3, seed=0) == y[:, None]).all()


@pytest.mark.parametrize(
    ("y", "groups", "times"),
    [
        ([0, 1, 2, 3], None, 24),
        ([0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 2], 48),  # 3! orders of the pairs, 2 of each pair
        ([0, 1, 2, 3, 4, 5], [0, 1, 2, 2, 1, 0], 48),
        ([0, 0, 0, 1], None, 4),
        ([0, 1, 2, 3, 4], [0, 0, 1, 1, 1], 12),  # 2! 3! inside the groups
    ],
)
def test_every_relabelling_is_as_likely(y: list[int], groups: list[int] | None, times: int) -> None:
    given_groups = None if groups is None else np.asarray(groups)
    shuffled = shuffled_labels(np.asarray(y), given_groups, 200 * times, seed=0)
    assert uniform([tuple(column) for column in shuffled.T], times)
    assert relabellings(np.asarray(y), given_groups) == pytest.approx(times)


@each_kind
def test_control_labels_are_one_for_each_group_in_the_shares_of_y(
    y: np.ndarray, groups: np.ndarray | None
) -> None:
    control = control_labels(y, groups, 20, seed=0)
    assert control.shape == (240, 20)
    assert control.dtype == y.dtype
    assert set(control.ravel()) <= set(y)
    group_of = np.arange(240) if groups is None else np.unique(groups, return_inverse=True)[1]
    of_group = np.empty((group_of.max() + 1, 20), dtype=y.dtype)
    of_group[group_of] = control
    assert (of_group[group_of] == control).all()
    # To the nearest whole group, at any threshold; a rare class may have been given two.
    for value in np.unique(y):
        below = (of_group <= value).sum(axis=0)
        assert np.abs(below - (y <= value).mean() * len(of_group)).max() <= 1
        if y.dtype.kind == "i":
            assert (of_group == value).sum(axis=0).min() >= 2


def test_a_rare_class_gets_two_groups_of_the_control_task() -> None:
    y, groups = np.repeat([0, 1, 2], [396, 2, 2]), np.repeat(np.arange(20), 20)
    control = control_labels(y, groups, 5, seed=0)[::20]
    assert [np.bincount(column).tolist() for column in control.T] == [[16, 2, 2]] * 5


def test_every_control_task_is_as_likely() -> None:
    control = control_labels(np.array([0, 0, 0, 1, 1, 1]), np.array([3, 3, 2, 2, 1, 0]), 6000, 0)
    assert uniform([tuple(column) for column in control[[0, 2, 4, 5]].T], 6)


@pytest.mark.parametrize("by", GROUPS)
@pytest.mark.parametrize("of", ["two", "four"])
def test_control_folds_spread_each_group_and_class(of: str, by: str) -> None:
    groups = GROUPS[by]
    y = LABELS[of]
    labels = control_labels(y, groups, 1, seed=0)[:, 0]
    fold_of = control_folds(groups, labels, y, 5, seed=0)
    for rows in [labels == label for label in set(labels)] + [np.full(240, True)]:
        assert np.ptp(np.bincount(fold_of[rows], minlength=5)) <= 1
    for group in [] if groups is None else np.unique(groups):
        assert np.ptp(np.bincount(fold_of[groups == group], minlength=5)) <= 1
    if groups is None:
        for label, of_concept in product(set(labels), set(y)):
            rows = (labels == label) & (y == of_concept)
            assert np.ptp(np.bincount(fold_of[rows], minlength=5)) <= 1
    assert (fold_of == control_folds(groups, labels, y, 5, seed=0)).all()
    assert (fold_of != control_folds(groups, labels, y, 5, seed=1)).any()


def test_what_a_group_is_can_be_memorised_over_control_folds() -> None:
    """A probe that knows the group of each row, and nothing else, gets every label right."""
    groups = GROUPS["pairs"]
    assert groups is not None
    labels = control_labels(LABELS["two"], groups, 1, seed=0)[:, 0]
    fold_of = control_folds(groups, labels, LABELS["two"], 5, seed=0)
    for row in range(240):
        mates = (groups == groups[row]) & (fold_of != fold_of[row])
        assert set(labels[mates]) == {labels[row]}


@pytest.mark.parametrize(
    ("of_a_group", "opposite"),
    [
        ([0, 1], True),
        ([0, 1, 2], True),
        ([0, 0, 0, 0, 0, 1, 1, 1, 1, 1], True),
        ([-1.5, 1.5], True),
        ([0, 0, 0, 0], False),
        ([0], False),
    ],
)
def test_labels_that_come_as_one_of_each_in_groups_are_opposite(
    of_a_group: list[float], opposite: bool
) -> None:
    groups = np.repeat(np.arange(40), len(of_a_group))
    y = np.tile(of_a_group, 40) + (
        0.0 if opposite else np.repeat(np.arange(40) % 2, groups.size // 40)
    )
    targets = np.stack([y == k for k in np.unique(y)]) if len(np.unique(y)) == 3 else y[None]
    assert opposite_labels(targets.astype(float), groups) == opposite
    assert not opposite_labels(targets.astype(float), None)


def test_labels_that_are_free_inside_groups_are_seldom_called_opposite() -> None:
    rng = np.random.default_rng(0)
    groups = np.sort(rng.integers(0, 40, 200))
    found = [
        opposite_labels(rng.integers(0, 2, (1, 200)).astype(float), groups) for _ in range(400)
    ]
    assert np.mean(found) < 0.05


@pytest.mark.parametrize("by", GROUPS)
def test_portions_hold_whole_groups_and_grow_as_said(by: str) -> None:
    groups = GROUPS[by]
    portion_of = portions(groups, 240, seed=0)
    group_of = np.arange(240) if groups is None else np.unique(groups, return_inverse=True)[1]
    assert all(constant_in(portion_of, group_of))
    n_groups = group_of.max() + 1
    ends = np.unique(np.ceil(np.array(ONLINE_FRACTIONS) * n_groups))
    _, of_group = np.unique(group_of, return_index=True)
    assert np.bincount(portion_of[of_group]).cumsum().tolist() == ends.tolist()
    assert (portion_of == portions(groups, 240, seed=0)).all()
    assert (portion_of != portions(groups, 240, seed=1)).any()


@pytest.mark.parametrize(
    ("n", "fractions", "expected"),
    [
        (1000, (0.001, 0.01, 1.0), [1, 9, 990]),
        (100, (0.07, 0.14, 1.0), [7, 7, 86]),  # 0.07 * 100 is a little over 7
        (10, (0.001, 0.05, 0.1, 0.5, 1.0), [1, 4, 5]),
        (10, (0.5,), [5, 5]),
        (1, ONLINE_FRACTIONS, [1]),
    ],
)
def test_the_sizes_of_portions(n: int, fractions: tuple[float, ...], expected: list[int]) -> None:
    assert np.bincount(portions(None, n, 0, fractions)).tolist() == expected


def test_a_hundred_relabellings_of_many_rows_take_no_time() -> None:
    y, groups = np.arange(6000) % 2, np.random.default_rng(0).integers(600, size=6000)
    began = time.process_time()
    shuffled_labels(y, groups, 100, seed=0)
    control_labels(y, groups, 100, seed=0)
    assert time.process_time() - began < 1  # 0.02 s


def test_labels_shuffled_with_the_same_seed_do_not_meet_their_order_again() -> None:
    for seed in range(3):
        y = np.random.default_rng(seed).permutation(np.repeat([0, 1], 100))
        control = control_labels(y, None, 5, seed)
        assert np.abs((control == y[:, None]).mean(axis=0) - 0.5).max() < 0.2
        shuffled = shuffled_labels(y, None, 5, seed)
        assert np.abs((shuffled == y[:, None]).mean(axis=0) - 0.5).max() < 0.2
        portion_of = portions(None, 200, seed)
        assert np.abs(y[portion_of >= portion_of.max() - 2].mean() - 0.5) < 0.15


def test_a_control_of_numbers_that_are_mostly_one_is_not_constant() -> None:
    y = np.zeros(200)
    y[:10] = np.arange(1, 11) / 2
    control = control_labels(y, np.arange(200) % 6, 5, 0)
    assert (np.ptp(control, axis=0) > 0).all()
