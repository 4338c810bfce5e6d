"""A layer's answers are those of a plain scikit-learn loop, and see no test row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from llmprobe.config.schema import ProbeConfig
from llmprobe.probing.layer import LayerFit, probe_layer
from llmprobe.probing.search import PENALTIES
from llmprobe.probing.tasks import ProbingTasks, build_tasks


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


BARE = {"controls": (), "permutations": 0, "description_length": False}


def tasks_of(y: np.ndarray, groups: np.ndarray | None, **options: object) -> ProbingTasks:
    return build_tasks(y, groups, ProbeConfig(**{**BARE, "folds": 4, **options}), "here")


def answers(X: np.ndarray, y: np.ndarray, groups: np.ndarray | None, **options: object) -> LayerFit:
    return probe_layer(X, tasks_of(y, groups, **options))


def plain_probabilities(X: np.ndarray, y: np.ndarray, train: np.ndarray, l2: float) -> np.ndarray:
    """Of every row, from a fit on some."""
    model = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=1000, solver="newton-cholesky")
    fitted = make_pipeline(StandardScaler(), model).fit(X[train], y[train])
    probabilities: np.ndarray = fitted.predict_proba(X)
    return probabilities


def plain_loop(X: np.ndarray, y: np.ndarray, tasks: ProbingTasks) -> tuple[np.ndarray, list[float]]:
    """One fit at a time and over the whole grid."""
    X, rows = X.astype(float), np.arange(len(y))
    probabilities, penalties = np.empty((len(y), y.max() + 1)), []
    for fold, task in enumerate(tasks.inner):
        losses = []
        for l2 in PENALTIES:
            likelihood = np.empty(len(y))
            for part, train in enumerate(task.train):
                held_out = task.scored_by == part
                fitted = plain_probabilities(X, y, train, l2)[rows, y]
                likelihood[held_out] = fitted[held_out]
            losses.append(-np.log(likelihood[tasks.fold_of[0] != fold]).mean())
        penalties.append(PENALTIES[int(np.argmin(losses))])
        test = tasks.fold_of[0] == fold
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
    tasks = tasks_of(y, groups if grouped else None)
    found = probe_layer(X, tasks)
    plain, chosen = plain_loop(X, y, tasks)
    assert found.l2.tolist() == pytest.approx(chosen)
    assert found.predicted[0] == pytest.approx(plain, abs=1e-3)
    assert found.predicted[0].sum(axis=1) == pytest.approx(1)


def test_the_probe_on_all_rows_has_the_penalty_with_the_least_out_of_fold_loss() -> None:
    differs = 0
    for seed in range(6):
        X, y, groups = hidden_states(90, 20, 2, seed, signal=0.7)
        tasks = tasks_of(y, groups)
        found, X, losses = probe_layer(X, tasks), X.astype(float), []
        for l2 in PENALTIES:
            likelihood = np.empty(len(y))
            for fold in range(4):
                fitted = plain_probabilities(X, y, tasks.fold_of[0] != fold, l2)
                likelihood[tasks.fold_of[0] == fold] = fitted[np.arange(len(y)), y][
                    tasks.fold_of[0] == fold
                ]
            losses.append(-np.log(likelihood).sum())
        assert found.kept_l2 == PENALTIES[int(np.argmin(losses))]
        differs += (found.l2 != found.kept_l2).any()
    assert differs


def test_a_given_penalty_is_used_in_every_fold() -> None:
    X, y, groups = hidden_states(90, 20, 2, 0, signal=3.0)
    tasks = tasks_of(y, groups, l2=7.0)
    found = probe_layer(X, tasks)
    assert found.l2.tolist() == [7.0] * 4
    for fold in range(4):
        test = tasks.fold_of[0] == fold
        plain = plain_probabilities(X.astype(float), y, ~test, 7.0)
        assert found.predicted[0][test] == pytest.approx(plain[test], abs=1e-3)


@pytest.mark.parametrize("elsewhere", [0.0, 1e3])
def test_what_only_test_rows_show_changes_nothing(elsewhere: float) -> None:
    X, y, groups = hidden_states(120, 10, 2, 0, signal=2.0)
    test = tasks_of(y, groups).fold_of[0] == 1
    plain = np.column_stack([X, np.full(len(y), elsewhere, dtype=np.float32)])
    leaky = plain.copy()
    leaky[test, -1] += y[test] - 0.5
    found, expected = answers(leaky, y, groups), answers(plain, y, groups)
    assert found.l2[1] == expected.l2[1]
    assert found.predicted[0][test] == pytest.approx(expected.predicted[0][test], abs=1e-4)


def test_no_signal_is_about_chance_and_the_strong_penalties() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(400) % 2
    found = answers(rng.normal(size=(400, 20)), y, None, folds=5)
    assert (found.l2 >= 1e2).all()
    assert abs((found.predicted[0].argmax(axis=1) == y).mean() - 0.5) < 0.1


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_probe_on_all_rows_is_scikit_learns(n_classes: int) -> None:
    X, y, groups = hidden_states(120, 10, n_classes, 0, signal=2.0)
    found = answers(X, y, groups, l2=3.0)
    logits = X @ found.coef + found.intercept
    plain = plain_probabilities(X.astype(float), y, np.ones(len(y), dtype=bool), 3.0)
    if n_classes == 2:
        logits = np.column_stack([np.zeros(len(y)), logits])
    odds = np.exp(logits)
    assert odds / odds.sum(axis=1, keepdims=True) == pytest.approx(plain, abs=1e-3)


def test_all_fractions_of_a_learning_curve_end_at_the_accuracy() -> None:
    X, y, groups = hidden_states(300, 20, 2, 0, signal=2.0)
    found = answers(X, y, groups, learning_curve=(0.05, 0.3, 1.0))
    assert found.learning_curve[2] == pytest.approx((found.predicted[0].argmax(axis=1) == y).mean())
    assert found.learning_curve[0] < found.learning_curve[1] < found.learning_curve[2] + 0.02


def test_subsets_of_the_learning_curve_are_nested_whole_groups_of_the_training_set() -> None:
    _, y, groups = hidden_states(300, 2, 2, 0, signal=2.0)
    tasks = tasks_of(y, groups, learning_curve=(0.1, 0.5))
    for fold in range(4):
        small, large = tasks.subsets[:, fold]
        assert not (small & ~large).any()
        assert not (large & (tasks.fold_of[0] == fold)).any()
        assert large.sum() == pytest.approx(0.5 * (tasks.fold_of[0] != fold).sum(), abs=3)
        assert not set(groups[large]) & set(groups[~large & (tasks.fold_of[0] != fold)])


def test_a_control_can_be_memorised_only_where_groups_have_several_rows() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(60), 5)
    y = rng.integers(0, 2, 300)
    X = rng.normal(size=(60, 80))[group] + 0.1 * rng.normal(size=(300, 80))
    asked = {"controls": ("random_labels",)}
    assert answers(X, y, group, **asked).control_score > 0.95
    assert abs(answers(X, y, None, **asked).control_score - 0.5) < 0.1


def test_the_concept_is_scored_on_the_splits_of_its_control_task() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(60), 5)
    identity = rng.normal(size=(60, 80))[group] + 0.1 * rng.normal(size=(300, 80))
    of_group = (np.arange(60) % 2)[group]
    free = rng.integers(0, 2, 300)
    readable = np.column_stack([rng.normal(size=(300, 20)), 5.0 * free])
    asked = {"controls": ("random_labels",)}
    tasks = tasks_of(of_group, group, **asked)
    for control, beside in zip(tasks.control, tasks.beside_control, strict=True):
        assert (control.scored_by == beside.scored_by).all()
        assert (control.train == beside.train).all()
        assert (beside.targets == tasks.targets).all()
    # What tells groups apart, memorises a label of groups as it does random ones.
    memorised = answers(identity, of_group, group, **asked)
    assert memorised.control_score > 0.95
    assert abs(memorised.beside_control - memorised.control_score) < 0.05
    found = answers(readable, free, group, **asked)
    assert found.beside_control > 0.95
    assert abs(found.control_score - 0.5) < 0.1


def test_ridge_predicts_numbers_in_their_own_units() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 10))
    y = 1000 + 50 * (X @ rng.normal(size=10)) + rng.normal(size=200)
    found = answers(X, y, None, kind="ridge")
    assert 1 - ((found.predicted[0][:, 0] - y) ** 2).sum() / ((y - y.mean()) ** 2).sum() > 0.99
    assert X @ found.coef[:, 0] + found.intercept[0] == pytest.approx(y, abs=10)


def test_mass_mean_probes_answer_by_the_nearer_class_mean() -> None:
    X, y, _ = hidden_states(120, 10, 2, 0, signal=3.0)
    tasks = tasks_of(y, None, kind="mass_mean")
    found = probe_layer(X, tasks)
    share = np.bincount(y) / len(y)
    for fold in range(4):
        train, test = tasks.fold_of[0] != fold, tasks.fold_of[0] == fold
        low, high = (X[train & (y == k)].mean(axis=0) for k in (0, 1))
        nearer = ((X - low) ** 2).sum(axis=1) - ((X - high) ** 2).sum(axis=1)
        sure = np.abs(nearer[test]) > 0.1 * nearer.std()  # class shares move the threshold a little
        answered = found.predicted[0][test].argmax(axis=1)
        assert abs(share[0] - 0.5) < 0.1
        assert (answered == (nearer[test] > 0))[sure].all()
    assert np.isnan(found.l2).all()


def test_mass_mean_takes_more_classes_than_there_are_features() -> None:
    rng = np.random.default_rng(0)
    y = np.tile(np.arange(12), 10)
    X = rng.normal(size=(12, 4)).astype(np.float32)[y] + 0.01 * rng.normal(size=(120, 4))
    predicted = answers(X.astype(np.float32), y, None, kind="mass_mean").predicted[0]
    np.testing.assert_array_equal(predicted.argmax(axis=1), y)
