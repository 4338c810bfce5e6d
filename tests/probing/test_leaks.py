"""No out-of-fold prediction, and no choice that it rests on, has seen the rows it is about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

import llmprobe
from llmprobe.config.schema import ProbeConfig
from llmprobe.datasets.groups import units
from llmprobe.probing.design import Design
from llmprobe.probing.layer import LayerFit, probe_layer
from llmprobe.probing.search import ProbingTask, search
from llmprobe.probing.tasks import ProbingTasks, build_tasks
from llmprobe.probing.workers import threads

N, D = 150, 20
LABELS = ("two classes", "three classes", "numbers")
KINDS = [("logistic", "two classes"), ("logistic", "three classes"), ("ridge", "numbers"),
         ("mass_mean", "two classes"), ("mass_mean", "three classes")]  # fmt: skip
each_kind = pytest.mark.parametrize(
    ("kind", "of"), [pytest.param(*pair, id=", ".join(pair)) for pair in KINDS]
)
each_fold = pytest.mark.parametrize("fold", [0, 4])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threads(1):
        yield


def planted(of: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States that tell something of the labels, as do their groups' other rows."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.arange(N) // 3)
    latent = rng.normal(size=N // 3)[groups] + rng.normal(size=N)
    X = rng.normal(size=(N // 3, D))[groups] + rng.normal(size=(N, D))
    X[:, :3] += latent[:, None]
    if of == "numbers":
        return X, latent, groups
    return X, np.digitize(latent, [0] if of == "two classes" else [-0.6, 0.6]), groups


def tasks_of(
    y: np.ndarray, groups: np.ndarray, kind: str = "logistic", **options: object
) -> ProbingTasks:
    settings = {"permutations": 0, "controls": (), "description_length": False} | options
    return build_tasks(y, groups, ProbeConfig(kind=kind, **settings), "test")


def moved(one: LayerFit, other: LayerFit, rows: np.ndarray) -> float:
    """How far the furthest prediction of some rows is from what it was."""
    return float(np.abs(one.predicted[0] - other.predicted[0])[rows].max())


def relabelled(tasks: ProbingTasks, targets: np.ndarray) -> ProbingTasks:
    """The same folds with other labels."""
    inner = tuple(replace(task, targets=targets) for task in tasks.inner)
    observed = replace(tasks.observed, targets=targets)
    return replace(tasks, targets=targets, inner=inner, observed=observed)


@pytest.mark.parametrize("grouped", [True, False], ids=["groups", "no groups"])
def test_examples_joined_by_a_text_are_never_split(grouped: bool) -> None:
    """Rows i and i + 50 share a text, across groups; with groups these make chains."""
    X, y, _ = planted("two classes")
    rows = np.arange(N)
    groups = rows // 3 if grouped else None
    joined = [(i, i + 50) for i in range(0, 50, 2)]
    if grouped:  # By way of groups: row 1 is of row 0's, row 52 of row 50's or 51's.
        joined += [(i + 1, i + 52) for i in range(0, 48, 6)]
    texts = [f"text {i - 50 if 50 <= i < 100 and i % 2 == 0 else i}" for i in rows]

    def folds(texts: list[str] | None) -> np.ndarray:
        results = llmprobe.probe_layers(
            {0: X}, y, groups, texts=texts, l2=1.0, permutations=0, controls=(), progress=False
        )
        fold_of: np.ndarray = results.predictions["fold"].to_numpy()
        return fold_of

    together, apart = ([of[a] == of[b] for a, b in joined] for of in (folds(texts), folds(None)))
    assert all(together)
    assert np.mean(apart) < 0.5  # what folds are that know of no texts


@pytest.mark.parametrize("of", LABELS)
def test_no_problem_is_scored_on_a_unit_that_it_was_fitted_on(of: str) -> None:
    """The choice of penalties, folds, shuffled labels, the online code, the learning curve."""
    _, y, groups = planted(of)
    texts = [f"text {i % 140}" for i in range(N)]
    unit_of = units(groups, texts)
    assert unit_of is not None
    assert len(set(unit_of)) < len(set(groups))
    kind = "ridge" if of == "numbers" else "logistic"
    tasks = tasks_of(
        y, unit_of, kind, permutations=10, description_length=True, learning_curve=(0.1, 0.5)
    )
    assert len(tasks.inner) == 5
    assert len(tasks.shuffled) == 10
    assert bool(tasks.online) == (of != "numbers")
    each_task = [*tasks.inner, tasks.observed, *tasks.shuffled, *tasks.online]
    for subset in (tasks.train, *tasks.subsets):
        each_task.append(ProbingTask(tasks.targets, subset, tasks.fold_of[0]))
    same_unit = unit_of[:, None] == unit_of
    for task in each_task:
        scored = np.flatnonzero(task.scored_by >= 0)
        fitted = task.train[task.scored_by[scored]]
        assert fitted.any(axis=1).all()
        assert not (fitted & same_unit[scored]).any()
    for fold, task in enumerate(tasks.inner):
        outer = tasks.fold_of[0] == fold
        assert not task.train[:, outer].any()
        assert (task.scored_by[outer] == -1).all()
        assert (task.scored_by[~outer] >= 0).all()


@each_kind
@each_fold
@pytest.mark.parametrize("elsewhere", ["constant", "noise"])
def test_a_feature_that_tells_the_labels_of_one_fold_does_not_help_there(
    kind: str, of: str, fold: int, elsewhere: str
) -> None:
    X, y, groups = planted(of)
    tasks = tasks_of(y, groups, kind)
    held_out = np.flatnonzero(tasks.fold_of[0] == fold)
    told, untold = held_out[::2], held_out[1::2]
    column = np.random.default_rng(1).normal(size=N) if elsewhere == "noise" else np.zeros(N)
    before = probe_layer(np.column_stack([X, column]), tasks)
    column[told] = 10 * y[told]
    after = probe_layer(np.column_stack([X, column]), tasks)
    # Noise has a coefficient, so that what it is replaced with counts in those rows themselves.
    assert moved(before, after, untold if elsewhere == "noise" else held_out) < 2e-4
    np.testing.assert_equal(after.l2[fold], before.l2[fold])
    assert moved(before, after, tasks.fold_of[0] != fold) > 0.01  # those probes have seen it


@each_kind
@each_fold
def test_huge_held_out_rows_do_not_move_the_standardisation(kind: str, of: str, fold: int) -> None:
    X, y, groups = planted(of)
    tasks = tasks_of(y, groups, kind)
    before = probe_layer(X, tasks)
    held_out = np.flatnonzero(tasks.fold_of[0] == fold)
    huge, usual = held_out[::2], held_out[1::2]
    X[huge] *= 1000
    after = probe_layer(X, tasks)
    assert moved(before, after, usual) < 2e-4
    np.testing.assert_equal(after.l2[fold], before.l2[fold])
    assert moved(before, after, tasks.fold_of[0] != fold) > 0.01


@each_kind
@each_fold
def test_labels_of_a_fold_change_neither_its_predictions_nor_its_penalty(
    kind: str, of: str, fold: int
) -> None:
    X, y, groups = planted(of)
    tasks = tasks_of(y, groups, kind)
    before = probe_layer(X, tasks)
    held_out = tasks.fold_of[0] == fold
    targets = tasks.targets.copy()
    turned = targets[:, held_out]
    targets[:, held_out] = {"numbers": -turned, "two classes": 1 - turned}.get(of, turned[::-1])
    after = probe_layer(X, relabelled(tasks, targets))
    assert moved(before, after, held_out) < 2e-4
    np.testing.assert_equal(after.l2[fold], before.l2[fold])
    assert moved(before, after, ~held_out) > 0.01


@pytest.mark.parametrize("of", LABELS)
def test_the_penalty_of_a_fold_is_chosen_as_if_its_rows_did_not_exist(of: str) -> None:
    chosen = set()
    for seed in range(4):
        X, y, groups = planted(of, seed)
        if seed >= 2:  # no signal, hence other penalties
            X = np.random.default_rng(seed).permutation(X)
        tasks = tasks_of(y, groups, "ridge" if of == "numbers" else "logistic")
        found = probe_layer(X, tasks).l2
        for fold, task in enumerate(tasks.inner):
            train = tasks.fold_of[0] != fold
            alone = ProbingTask.cross_validated(tasks.targets[:, train], task.scored_by[train])
            choices = search(Design(X[train]), tasks.kind, tasks.loss, [alone])
            assert choices.l2[0] == found[fold]
        chosen |= set(found)
    assert len(chosen) > 1
