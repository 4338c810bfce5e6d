"""Folds keep groups whole and classes even, and say when they cannot."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from llmprobe import UserError
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.groups import joined, units
from llmprobe.datasets.registry import REGISTRY
from llmprobe.datasets.templates import templated
from llmprobe.probing.splits import assign_folds, inner_folds


def grouped(seed: int, n: int = 300, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Labels that lean with the group, and groups of uneven size in random order."""
    rng = np.random.default_rng(seed)
    groups = rng.choice(60, n, p=rng.dirichlet(np.full(60, 2)))
    leanings = rng.dirichlet(np.ones(classes), 60)[groups]
    labels = (leanings.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return labels.clip(max=classes - 1), groups


def unevenness(fold_of: np.ndarray, labels: np.ndarray, folds: int) -> tuple[float, float]:
    """Of classes: mean total variation of a fold's shares from all; of sizes: mean deviation."""
    counts = np.array([np.bincount(labels[fold_of == fold], minlength=labels.max() + 1)
                       for fold in range(folds)])  # fmt: skip
    sizes = counts.sum(axis=1)
    shares = counts / sizes[:, None] - counts.sum(axis=0) / len(labels)
    return float(np.abs(shares).sum(axis=1).mean() / 2), float(np.abs(sizes - sizes.mean()).mean())


def scikit_learn(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    fold_of = np.empty(len(labels), dtype=int)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings(action="ignore"):
        for fold, (_, test) in enumerate(splitter.split(labels, labels, groups)):
            fold_of[test] = fold
    return fold_of


@pytest.mark.parametrize("stratify", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_a_group_is_in_one_fold(seed: int, stratify: bool) -> None:
    labels, groups = grouped(seed)
    fold_of = assign_folds(labels, groups, 5, seed, stratify=stratify)
    assert set(fold_of) == set(range(5))
    for group in np.unique(groups):
        assert len(set(fold_of[groups == group])) == 1


@pytest.mark.parametrize("labels", [["a", "b"], [True, False], [0.0, 0.5], [3, 7], [1, 2, 3, 4]])
def test_classes_and_sizes_are_even_over_folds_without_groups(labels: list[object]) -> None:
    y = np.random.default_rng(0).choice(np.asarray(labels), 103)
    fold_of = assign_folds(y, None, 5)
    assert np.ptp(np.bincount(fold_of)) <= 1
    for label in labels:
        assert np.ptp(np.bincount(fold_of[y == label], minlength=5)) <= 1


def test_groups_that_are_alike_are_even_over_folds() -> None:
    """Pairs with both labels, and pairs with one of them: 103, 51 and 52."""
    kinds = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [103, 51, 52]))
    labels, groups = np.array([[0, 1], [0, 0], [1, 1]])[kinds].ravel(), np.repeat(range(206), 2)
    fold_of = assign_folds(labels, groups, 5)
    for kind in range(3):
        assert np.ptp(np.bincount(fold_of[::2][kinds == kind])) <= 1
    assert np.ptp(np.bincount(fold_of)) <= 2


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_folds_are_as_even_as_those_of_scikit_learn(classes: int) -> None:
    ours, theirs = [], []
    for seed in range(20):
        labels, groups = grouped(seed, classes=classes)
        ours.append(unevenness(assign_folds(labels, groups, 5, seed), labels, 5))
        theirs.append(unevenness(scikit_learn(labels, groups, 5, seed), labels, 5))
    assert (np.mean(ours, axis=0) <= 1.03 * np.mean(theirs, axis=0)).all()


def test_continuous_labels_need_no_classes() -> None:
    labels = np.random.default_rng(0).normal(size=300)
    groups = grouped(0)[1]
    fold_of = assign_folds(labels, groups, 5, stratify=False)
    assert np.ptp(np.bincount(fold_of)) <= 2  # with 60 groups of 1 to 15 rows
    assert (fold_of == assign_folds(labels[::-1], groups, 5, stratify=False)).all()
    with pytest.raises(UserError, match="1 example, too few"):
        assign_folds(labels, groups, 5)
    inner = inner_folds(labels, groups, fold_of, seed=0, stratify=False)
    assert set(inner.ravel()) == {-1, 0, 1, 2, 3}


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=5, max_size=20),
       st.integers(0, 5))  # fmt: skip
def test_no_fold_is_empty(groups: list[tuple[int, int]], seed: int) -> None:
    sizes = [sum(rows) for rows in groups]
    labels = np.concatenate([np.repeat([0, 1], rows) for rows in groups])
    fold_of = assign_folds(labels, np.repeat(range(len(sizes)), sizes), 5, seed, stratify=False)
    assert set(fold_of) == set(range(5))


def test_a_seed_fixes_the_folds_and_another_changes_them() -> None:
    labels, groups = grouped(0)
    for given_groups in (None, groups):
        first = assign_folds(labels, given_groups, 5, seed=0)
        assert (first == assign_folds(labels, given_groups, 5, seed=0)).all()
        assert (first != assign_folds(labels, given_groups, 5, seed=1)).any()


def test_names_of_groups_and_classes_do_not_matter() -> None:
    labels, groups = grouped(0)
    named = np.array([f"group {group:02}" for group in groups])
    first = assign_folds(labels, groups, 5)
    assert (first == assign_folds(np.array(["no", "yes"])[labels], named, 5)).all()


def test_over_seeds_every_two_of_alike_groups_meet_equally_often() -> None:
    meetings = np.zeros((10, 10))
    for seed in range(2000):
        fold_of = assign_folds(np.tile([0, 1], 10), np.repeat(range(10), 2), 5, seed)[::2]
        meetings += fold_of[:, None] == fold_of
    # 1 in 9, standard deviation 0.007
    assert np.abs(meetings[~np.eye(10, dtype=bool)] / 2000 - 1 / 9).max() < 0.035


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
    given_groups = None if groups is None else np.asarray(groups)
    with pytest.raises(UserError, match=message):
        assign_folds(np.asarray(labels), given_groups, 5, where="cities")


def test_folds_for_a_hundred_relabellings_take_no_time() -> None:
    rng = np.random.default_rng(0)
    labels, groups = np.tile([0, 1], 748), np.repeat(range(748), 2)
    began = time.process_time()
    for _ in range(100):
        assign_folds(rng.permutation(labels), groups, 5)
    assert time.process_time() - began < 1  # 0.02 s; scikit-learn 7 s


def test_inner_folds_hide_the_outer_fold_and_keep_groups_whole() -> None:
    labels, groups = grouped(2)
    fold_of = assign_folds(labels, groups, 5)
    inner = inner_folds(labels, groups, fold_of, seed=0, folds=3)
    for fold in range(5):
        assert ((inner[:, fold] == -1) == (fold_of == fold)).all()
        assert set(inner[fold_of != fold, fold]) == {0, 1, 2}
        for group in np.unique(groups):
            assert len(set(inner[groups == group, fold])) == 1


def test_too_few_for_choosing_a_penalty_is_an_error_that_says_so() -> None:
    labels = np.asarray([0] * 20 + [1] * 3)
    with pytest.raises(UserError, match=r"l2: auto.*class 1 has 2 examples"):
        inner_folds(labels, None, assign_folds(labels, None, 3), seed=0)


@pytest.mark.parametrize(
    ("groups", "texts", "expected"),
    [
        (None, None, None),
        (None, ["a", "b", "c"], None),
        (None, ["a", "b", "a", "c"], [0, 1, 0, 2]),
        (None, ["A  b.", "a b", "a b?", "c"], [0, 0, 0, 1]),
        (None, ["see https://x.y/z it", "see it", "www.x.y see it…"], [0, 0, 0]),
        (None, ["https://x.y", "https://x.z"], None),
        (None, ["( a )", "( a", "[ a ]", "a + b", "a - b", "a b", "a 1", "a 2", "5!", "5"], None),
        (["z", "y", "z"], None, [1, 0, 1]),
        (["z", "y", "z"], ["a", "b", "c"], [1, 0, 1]),
        (["z", "y", "z"], ["a", "b", "a"], [1, 0, 1]),
        ([1, 1, 2, 2, 3], ["a", "b", "b", "c", "d"], [0, 0, 0, 0, 1]),
        ([4, 3, 2, 1, 0], ["a", "b", "a", "b", "c"], [2, 1, 2, 1, 0]),
        ([1, 2, 3, 3, 4, 4, 5], ["a", "b", "b", "c", "c", "a", "d"], [0, 0, 0, 0, 0, 0, 1]),
    ],
)
def test_rows_that_share_a_group_or_a_text_are_one_unit(
    groups: list[object] | None, texts: list[str] | None, expected: list[int] | None
) -> None:
    found = units(None if groups is None else np.asarray(groups), texts)
    assert (found is None) == (expected is None)
    assert found is None or found.tolist() == expected


def test_a_copy_inside_a_template_is_one_unit_with_its_like() -> None:
    texts = ["Lima is in Peru.", "Lima is in  Peru", "Bern is in Peru"]
    dataset = ConceptDataset("x", texts, np.array([0, 1, 1]))
    assert dataset.units is not None
    asked = templated(dataset, "True? {text} Answer:")
    assert asked.units is not None
    assert asked.units.tolist() == dataset.units.tolist() == [0, 0, 1]


def test_the_names_of_groups_stay_as_they_are() -> None:
    found = units(np.array(["C", "c", "c."]), ["one", "two", "three"])
    assert found is not None
    assert found.tolist() == [0, 1, 2]


GENERATED = {
    name: entry.build
    for name, entry in REGISTRY.items()
    if entry.family in ("reasoning", "facts") and name != "reasoning_gym"
}


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_dataset_has_as_many_units_as_different_texts(name: str) -> None:
    options = {"n": 3000} if "n" in REGISTRY[name].options else {}
    dataset = GENERATED[name](**options)
    exact = joined(dataset.groups, dataset.texts)
    assert (dataset.units is None) == (exact is None)
    assert exact is None or dataset.units.max() == exact.max()


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=40))
def test_units_are_the_finest_that_cut_neither_groups_nor_texts(
    rows: list[tuple[int, int]],
) -> None:
    groups = np.array([group for group, _ in rows])
    texts = [str(text) for _, text in rows]
    linked = (groups[:, None] == groups) | np.equal.outer(texts, texts)
    for _ in range(6):  # 2^6 steps reach everything that chains of 40 rows do
        linked = linked @ linked
    found = units(groups, texts)
    assert found is not None
    assert (np.equal.outer(found, found) == linked).all()


def test_a_duplicate_across_groups_is_never_split() -> None:
    labels, groups = np.arange(100) % 2, np.arange(100) // 2
    texts = [f"text {row}" for row in range(100)]
    texts[10] = texts[90] = texts[50]
    for seed in range(20):
        fold_of = assign_folds(labels, units(groups, texts), 5, seed)
        assert len(set(fold_of[[10, 11, 50, 51, 90, 91]])) == 1
