"""With a test set of their own, scores are of its rows and of probes that have not seen them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import balanced_accuracy_score, log_loss, r2_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

import llmprobe
from llmprobe import Results, UserError
from llmprobe.config.probe_kinds import PROBE_KINDS
from llmprobe.config.schema import ProbeConfig
from llmprobe.probing import protocol, workers
from llmprobe.probing import search as searching
from llmprobe.probing import tasks as tasks_module
from llmprobe.probing.design import Design
from llmprobe.probing.fit_many import fit_many, fit_many_multinomial
from llmprobe.probing.layer import LayerFit
from llmprobe.probing.losses import Logistic, Loss, Softmax, Squared
from llmprobe.probing.search import ProbingTask, search
from llmprobe.probing.splits import inner_folds, some_of_each_unit, some_units
from llmprobe.probing.tasks import ProbingTasks, build_tasks
from llmprobe.probing.workers import threads

LOGISTIC = PROBE_KINDS["logistic"]

N, D = 160, 8
QUICK = {"permutations": 0, "controls": (), "description_length": False}
KINDS = [
    ("logistic", "two classes"), ("logistic", "three classes"), ("ridge", "numbers"),
    ("mass_mean", "two classes"), ("mass_mean", "three classes"),
]  # fmt: skip
each_kind = pytest.mark.parametrize(
    ("kind", "of"), [pytest.param(*pair, id=", ".join(pair)) for pair in KINDS]
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threads(1):
        yield


def planted(
    of: str = "two classes", n: int = N, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States that tell something of the labels, and groups of four neighbours."""
    rng = np.random.default_rng(seed)
    X, latent = rng.normal(size=(n, D)), rng.normal(size=n)
    X[:, :2] += latent[:, None]
    ends = {"two classes": [0.0], "three classes": [-0.5, 0.5]}
    y = np.digitize(latent, ends[of]) if of in ends else 5 + 3 * latent
    return X, y, np.arange(n) // 4


def held_out(n: int = N, share: float = 0.4, seed: int = 1) -> np.ndarray:
    """Some rows here and there, in whole groups of four."""
    chosen = np.random.default_rng(seed).permutation(n // 4) < share * n / 4
    return np.repeat(chosen, 4)


def probe(
    X: np.ndarray,
    y: np.ndarray,
    test: object,
    groups: np.ndarray | None = None,
    **options: object,
) -> Results:
    return llmprobe.probe_layers({0: X}, y, groups, test=test, progress=False, **options)


def tasks_of(
    y: np.ndarray, groups: np.ndarray | None, test: np.ndarray | None = None
) -> ProbingTasks:
    return build_tasks(y, groups, ProbeConfig(**QUICK), "here", test)


def coefficients(results: Results) -> tuple[np.ndarray, np.ndarray]:
    return results.probes[0].coef[0], results.probes[0].intercept[0]


@pytest.mark.parametrize("of", ["two classes", "three classes"])
def test_scores_follow_from_the_predictions_of_test_rows(of: str) -> None:
    X, y, groups = planted(of)
    test = held_out()
    results = probe(X, y, test, groups, permutations=0)
    rows, row = results.predictions, results.table.iloc[0]
    assert rows["example"].to_list() == np.flatnonzero(test).tolist()
    assert rows["label"].to_list() == y[test].astype(str).tolist()
    assert (rows["fold"] == 0).all()
    assert row["n_examples"] == results.summary["n_examples"].item() == test.sum()
    assert row["n_groups"] == test.sum() / 4
    assert row["accuracy"] == pytest.approx((rows["label"] == rows["predicted"]).mean())
    assert row["balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(rows["label"], rows["predicted"])
    )
    assert row["majority_accuracy"] == pytest.approx(np.bincount(y[test]).max() / test.sum())
    assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"]
    if of == "two classes":
        assert row["auroc"] == pytest.approx(roc_auc_score(y[test], rows["score"]))
        assert row["log_loss"] == pytest.approx(log_loss(y[test], rows["score"]))


def test_scores_of_numbers_follow_from_the_predictions_of_test_rows() -> None:
    X, y, groups = planted("numbers")
    test = held_out()
    results = probe(X, y, test, groups, kind="ridge", permutations=0)
    row, predicted = results.table.iloc[0], results.predictions["score"].to_numpy()
    assert row["r2"] == pytest.approx(r2_score(y[test], predicted))
    assert row["mean_absolute_error"] == pytest.approx(np.abs(y[test] - predicted).mean())


@each_kind
def test_the_saved_probe_is_the_one_that_was_scored(kind: str, of: str) -> None:
    X, y, groups = planted(of)
    test = held_out()
    results = probe(X, y, test, groups, kind=kind, permutations=5, controls=())
    (saved,) = results.probes
    if of == "numbers":
        score = saved.decision_function(X[test], 0)
    else:
        probabilities = saved.predict_proba(X[test], 0)
        score = probabilities[:, 1] if of == "two classes" else probabilities.max(axis=1)
        assert saved.predict(X[test], 0).astype(str).tolist() == (
            results.predictions["predicted"].to_list()
        )
    assert score == pytest.approx(results.predictions["score"].to_numpy(), abs=1e-5)
    if kind != "mass_mean":
        assert saved.scores["l2"] == [pytest.approx(results.table["l2"].item(), rel=1e-5)]


def plain_fit(
    kind: str, X: np.ndarray, y: np.ndarray, l2: float
) -> tuple[np.ndarray, np.ndarray | float]:
    """Direction and intercept, from rows to be trained on alone."""
    if kind == "ridge":
        scaler = StandardScaler().fit(X)
        fitted = Ridge(alpha=l2).fit(scaler.transform(X), y)
        coef = fitted.coef_ / scaler.scale_
        return coef[None], fitted.intercept_ - coef @ scaler.mean_
    if y.max() == 1:
        fits = fit_many(X, y[:, None], l2=l2)
        return fits.coef.T, fits.intercept
    fits = fit_many_multinomial(X, np.eye(3)[y][:, None], l2=l2)
    return fits.coef[:, 0].T, fits.intercept[0]


@pytest.mark.parametrize("l2", ["auto", 3.0])
@pytest.mark.parametrize(("kind", "of"), KINDS[:3])
def test_the_probe_is_a_fit_on_the_training_rows_alone(kind: str, of: str, l2: str | float) -> None:
    X, y, groups = planted(of)
    test = held_out()
    results = probe(X, y, test, groups, kind=kind, l2=l2, permutations=3, controls=())
    found = results.table["l2"].item()
    assert l2 in ("auto", found)
    coef, intercept = plain_fit(kind, X[~test], y[~test], found)
    assert coefficients(results)[0] == pytest.approx(coef, abs=2e-4)
    assert coefficients(results)[1] == pytest.approx(intercept, abs=2e-4)


def test_a_mass_mean_probe_is_along_the_means_of_the_training_rows() -> None:
    X, y, groups = planted()
    test = held_out()
    coef, _ = coefficients(probe(X, y, test, groups, kind="mass_mean", permutations=0))
    train, label = X[~test], y[~test]
    direction = train[label == 1].mean(axis=0) - train[label == 0].mean(axis=0)
    cosine = coef[0] @ direction / np.linalg.norm(coef) / np.linalg.norm(direction)
    assert cosine == pytest.approx(1, abs=1e-6)


@each_kind
def test_labels_of_test_rows_change_nothing_that_is_fitted(kind: str, of: str) -> None:
    X, y, groups = planted(of)
    test = held_out()
    other = y.copy()
    other[test] = np.random.default_rng(2).permutation(y[test])
    one, two = (probe(X, labels, test, groups, kind=kind, **QUICK_L2) for labels in (y, other))
    for before, after in zip(coefficients(one), coefficients(two), strict=True):
        assert after == pytest.approx(before, abs=1e-5)
    np.testing.assert_array_equal(one.table["l2"], two.table["l2"])
    pd.testing.assert_series_equal(one.predictions["score"], two.predictions["score"])
    metric = "r2" if kind == "ridge" else "accuracy"
    assert two.table[metric].item() < one.table[metric].item() - 0.1


QUICK_L2 = {**QUICK, "permutations": 1}
"""With one permutation there is a search even where no penalty is chosen."""


@each_kind
@pytest.mark.parametrize("size", [1, 1000])
def test_states_of_test_rows_change_nothing_that_is_fitted(kind: str, of: str, size: int) -> None:
    X, y, groups = planted(of)
    test = held_out()
    other = X.copy()
    other[test] = size * (1 + np.random.default_rng(2).normal(size=(test.sum(), D)))
    one, two = (probe(states, y, test, groups, kind=kind, **QUICK_L2) for states in (X, other))
    for before, after in zip(coefficients(one), coefficients(two), strict=True):
        # Within the solver's tolerance: the test rows have a part in its preconditioner.
        assert after == pytest.approx(before, abs=1e-4)
    np.testing.assert_array_equal(one.table["l2"], two.table["l2"])
    assert np.abs(one.predictions["score"] - two.predictions["score"]).max() > 0.1


def test_training_rows_do_change_the_probe() -> None:
    X, y, groups = planted()
    test = held_out()
    other = y.copy()
    other[~test] = np.random.default_rng(2).permutation(y[~test])
    one, two = (probe(X, labels, test, groups, **QUICK) for labels in (y, other))
    assert np.abs(coefficients(one)[0] - coefficients(two)[0]).max() > 0.1


X_RIGHT, Y_RIGHT, GROUPS_RIGHT = planted()
TEST_RIGHT = held_out()
RARE = np.where(np.arange(N) == np.flatnonzero(TEST_RIGHT)[0], 2, Y_RIGHT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": np.ones(N, bool)}, "every row is of the test set"),
        ({"test": np.zeros(N, bool)}, "no row is of the test set"),
        ({"test": np.arange(N) % 2}, "test: int64 numbers; expected true or false for each row"),
        ({"test": TEST_RIGHT[1:]}, f"test: shape ({N - 1},), expected ({N},)"),
        ({"test": [None, True] * (N // 2)}, f"test: {N // 2} are missing"),
        ({"test": np.arange(N) < 50}, "1 groups (or texts) have rows both in test and outside it"),
        (
            {"test": np.arange(N) % 2 == 0},
            "40 groups (or texts) have rows both in test and outside it",
        ),
        ({"y": RARE}, "class 2 has no rows outside test"),
        ({"y": np.where(TEST_RIGHT, "b", "a")}, "class b has no rows outside test"),
    ],
)
def test_a_wrong_test_set_is_named(change: dict[str, object], message: str) -> None:
    right = {"X": X_RIGHT, "y": Y_RIGHT, "groups": GROUPS_RIGHT, "test": TEST_RIGHT}
    with pytest.raises(UserError, match=re.escape(message)):
        probe(**{**right, **change}, **QUICK)


def test_the_same_text_on_both_sides_is_refused() -> None:
    X, y, _ = planted()
    texts = [f"text {i % 150}" for i in range(N)]
    with pytest.raises(UserError, match="have rows both in test and outside it"):
        probe(X, y, np.arange(N) < 80, texts=texts, **QUICK)


@pytest.mark.parametrize("form", [list, pd.Series])
def test_a_test_set_can_be_a_list_or_a_column(form: Callable[[np.ndarray], object]) -> None:
    X, y, groups = planted()
    as_array = probe(X, y, held_out(), groups, **QUICK)
    again = probe(X, y, form(held_out()), groups, **QUICK)
    assert again.table["accuracy"].item() == as_array.table["accuracy"].item()


@each_kind
def test_p_values_tell_signal_from_noise(kind: str, of: str) -> None:
    X, y, groups = planted(of)
    noise = np.random.default_rng(5).normal(size=(N, D))
    for states, low, high in ((X, 0.05, 0.05), (noise, 0.15, 1)):
        results = probe(
            states, y, held_out(), groups, kind=kind, permutations=19, controls=(),
            description_length=False,
        )  # fmt: skip
        assert low <= results.table["p_value"].item() <= high
        assert results.summary["peak_p_value"].item() == results.table["p_value"].item()


def test_shuffled_labels_are_scored_on_the_same_test_rows() -> None:
    _, y, groups = planted()
    test = held_out()
    shuffled = build_tasks(y, groups, ProbeConfig(l2=1.0, permutations=5), "here", test).shuffled
    assert len(shuffled) == 5
    for task in shuffled:
        np.testing.assert_array_equal(task.train, ~test[None])
        np.testing.assert_array_equal(task.scored_by >= 0, test)


def test_p_values_of_noise_are_even() -> None:
    X = np.random.default_rng(0).normal(size=(80, 3))
    p = []
    for seed in range(25):
        y = np.random.default_rng([seed, 1]).permutation(np.arange(80) % 2)
        results = probe(X, y, np.arange(80) < 30, l2=1.0, **{**QUICK, "permutations": 4}, seed=seed)
        p.append(results.table["p_value"].item())
    counts = np.bincount(np.rint(5 * np.asarray(p)).astype(int), minlength=6)[1:]
    # Of 25 draws from five equal values, so many of one come about once in 10,000 times.
    assert counts.sum() == 25
    assert counts.max() < 15


def test_other_shares_of_the_classes_in_the_test_set_are_no_signal() -> None:
    p = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        y = np.repeat([0, 1, 0, 1], [40, 60, 5, 95])  # 60 % of class 1, and 95 % in the test set
        X = rng.normal(size=(200, 3))
        options = {**QUICK, "permutations": 19, "seed": seed}
        p.append(probe(X, y, np.arange(200) >= 100, l2=1.0, **options).table["p_value"].item())
    # Four or more of twelve uniform draws are so small once in 450 times.
    assert (np.asarray(p) <= 0.05).sum() <= 3


@each_kind
def test_a_learning_curve_ends_at_the_score_of_the_whole_training_set(kind: str, of: str) -> None:
    X, y, groups = planted(of)
    options = {"kind": kind, "learning_curve": [0.1, 0.5, 1.0]}
    results = probe(X, y, held_out(), groups, **options, **QUICK_L2)
    metric = "r2" if kind == "ridge" else "accuracy"
    curve = results.learning_curve
    assert curve["fraction"].to_list() == [0.1, 0.5, 1.0]
    # Not out-of-fold means: scores of the one split, in float32.
    whole = results.table[metric].item()
    assert curve[metric].iloc[-1] == pytest.approx(whole, abs=1e-4)
    assert curve[metric].iloc[0] != curve[metric].iloc[-1]


def test_a_learning_curve_trains_on_growing_whole_groups_outside_test() -> None:
    _, y, groups = planted()
    test = held_out()
    config = ProbeConfig(**QUICK, learning_curve=(0.25, 0.5, 1.0))
    subsets = build_tasks(y, groups, config, "here", test).subsets
    assert subsets.shape == (3, 1, N)
    in_training = (~test).sum() / 4
    for subset, fraction in zip(subsets[:, 0], (0.25, 0.5, 1.0), strict=True):
        assert not (subset & test).any()
        assert set(np.bincount(groups, subset)) <= {0, 4}
        assert subset.sum() / 4 == pytest.approx(fraction * in_training, abs=0.5)
    assert (subsets[0] <= subsets[1]).all()
    assert (subsets[2, 0] == ~test).all()


def test_the_baseline_of_words_learns_from_training_rows_alone() -> None:
    X, y, _ = planted()
    test = held_out()
    # In test rows the words say the opposite of what they say in the rest.
    told = [f"number {i} is {'odd' if y[i] ^ test[i] else 'even'}" for i in range(N)]
    options = {"permutations": 0, "description_length": False, "controls": ("bag_of_words",)}
    lied = probe(X, y, test, texts=told, **options).summary["bag_of_words_accuracy"].item()
    told = [f"number {i} is {'odd' if y[i] else 'even'}" for i in range(N)]
    true = probe(X, y, test, texts=told, **options).summary["bag_of_words_accuracy"].item()
    assert lied < 0.05
    assert true > 0.95


@pytest.mark.parametrize(("kind", "of"), KINDS[:3])
def test_the_control_is_that_of_all_rows(kind: str, of: str) -> None:
    X, y, groups = planted(of)
    options = {**QUICK, "controls": ("random_labels",)}
    metric = "control_r2" if kind == "ridge" else "control_accuracy"
    found = [probe(X, y, test, groups, kind=kind, **options) for test in (held_out(), None)]
    one, other = (results.table[metric].item() for results in found)
    assert one == pytest.approx(other, abs=1e-6)
    beyond = [results.table["selectivity"].item() for results in found]
    assert beyond[0] == pytest.approx(beyond[1], abs=1e-6)


@pytest.mark.parametrize("share", [0.4, 0.8])
@pytest.mark.parametrize("of", ["two classes", "three classes"])
def test_the_code_is_that_of_the_test_rows_alone(of: str, share: float) -> None:
    X, y, groups = planted(of)
    test = held_out(share=share)
    options = {**QUICK, "description_length": True}
    with_rest = probe(X, y, test, groups, l2=1.0, **options).table.iloc[0]
    alone = probe(X[test], y[test], None, groups[test], l2=1.0, **options).table.iloc[0]
    assert with_rest["code_length"] == pytest.approx(alone["code_length"], rel=1e-3)
    assert with_rest["compression"] == pytest.approx(alone["compression"], rel=1e-3)


@pytest.mark.parametrize("with_test", [True, False])
def test_each_label_is_encoded_with_the_doubt_of_the_rows_seen_before_it(with_test: bool) -> None:
    _, y, groups = planted("three classes")
    test = held_out() if with_test else None
    for task in build_tasks(y, groups, ProbeConfig(l2=1.0), "here", test).online:
        assert task.doubt is not None
        encoded = np.flatnonzero(task.scored_by >= 0)
        seen = task.train.sum(axis=1)[task.scored_by[encoded]]
        assert len(set(seen)) > 3
        assert task.doubt[encoded] == pytest.approx(3 / (seen + 3))
        # The first portion is seen by all, and encoded by none.
        assert len(encoded) + task.train[0].sum() == (N if test is None else test.sum())


@pytest.mark.parametrize("with_test", [True, False])
def test_the_code_of_many_labels_is_of_a_part_in_whole_groups(
    with_test: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y, groups = planted(n=800)
    test = held_out(800, share=0.75) if with_test else None
    options = {**QUICK, "description_length": True}
    whole = probe(X, y, test, groups, l2=10.0, **options).table.iloc[0]
    monkeypatch.setattr(tasks_module, "MOST_CODED", 302)
    for task in build_tasks(y, groups, ProbeConfig(l2=10.0, **options), "here", test).online:
        assert task.used.sum() == 300
        assert set(np.bincount(groups, task.used)) == {0, 4}
        assert test is None or not (task.used & ~test).any()
    part = probe(X, y, test, groups, l2=10.0, **options).table.iloc[0]
    assert part["compression"] == pytest.approx(whole["compression"], rel=0.25)
    # Without states the labels, half of them of each class, take about a bit each.
    assert part["code_length"] * part["compression"] == pytest.approx(300 / 1024, rel=0.06)
    assert part["accuracy"] == whole["accuracy"]


@pytest.mark.parametrize("with_test", [True, False])
@pytest.mark.parametrize("grouped", [True, False])
def test_with_few_rows_the_penalty_is_chosen_in_four_folds_of_all(
    grouped: bool, with_test: bool
) -> None:
    _, y, groups = planted()
    tasks = tasks_of(y, groups if grouped else None, held_out() if with_test else None)
    within = inner_folds(y, groups if grouped else None, tasks.fold_of[0], 0)
    assert len(tasks.inner) == within.shape[1] == (1 if with_test else 5)
    for task, fold_of in zip(tasks.inner, within.T, strict=True):
        expected = ProbingTask.cross_validated(tasks.targets, fold_of)
        assert len(task.train) == 4
        np.testing.assert_array_equal(task.train, expected.train)
        np.testing.assert_array_equal(task.scored_by, expected.scored_by)


@pytest.mark.parametrize("enough", [10, 33, 70, 120])
@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("with_test", [True, False])
def test_of_many_rows_the_penalty_is_chosen_with_enough(
    grouped: bool, with_test: bool, enough: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks_module, "ENOUGH", enough)
    _, y, groups = planted(n=400)
    units, step = (groups, 4) if grouped else (np.arange(400), 1)
    test = held_out(400, share=0.25) if with_test else None
    tasks = tasks_of(y, units if grouped else None, test)
    for outer, task in enumerate(tasks.inner):
        outside = tasks.fold_of[0] == outer
        assert not (task.used & outside).any()
        scored = task.scored_by >= 0
        # About so many, and never more.
        assert enough - step < scored.sum() <= enough
        assert set(np.bincount(units, scored)) == {0, step}
        for fold, train in enumerate(task.train):
            assert enough - step < train.sum() <= enough
            assert set(np.bincount(units, train)) == {0, step}
            assert not np.intersect1d(units[train], units[task.scored_by == fold]).size
        # No fold of training rows is for nothing.
        assert set(task.scored_by) - {-1} == set(range(len(task.train)))


def test_the_rows_that_choose_a_penalty_are_some_of_all_the_folds_rows() -> None:
    rows = np.flatnonzero(np.random.default_rng(0).random(3000) < 0.5)
    some = some_units(rows, 200, None, 0)
    assert len(set(some)) == len(some) == 200
    assert set(some) <= set(rows)
    # Spread out, not the first ones: a mean is this far off less than once in 10,000 times.
    assert abs(some.mean() - rows.mean()) < 4 * rows.std() / 200**0.5
    assert set(some_units(rows, 200, None, 1)) != set(some)
    np.testing.assert_array_equal(some_units(rows, len(rows), None, 0), rows)


@pytest.mark.parametrize(
    ("loss", "of"),
    [(Logistic(), "two classes"), (Softmax(), "three classes"), (Squared(), "numbers")],
)
def test_a_task_of_few_rows_has_the_answer_of_those_rows_alone(loss: Loss, of: str) -> None:
    X, y, _ = planted(of, n=400)
    X[::2] *= 20  # What is left out is of another size.
    rows = np.sort(np.random.default_rng(5).permutation(400)[:150])
    targets = np.atleast_2d(y == np.arange(3)[:, None] if of == "three classes" else y)
    targets = targets.astype(np.float32)
    fold_of = np.full(400, -1)
    fold_of[rows] = np.arange(150) % 5
    weight = np.random.default_rng(6).uniform(0.5, 2, size=400).astype(np.float32)
    for given in (None, weight):
        few = ProbingTask.cross_validated(targets, fold_of, given)
        part = None if given is None else given[rows]
        alone = ProbingTask.cross_validated(targets[:, rows], fold_of[rows], part)
        # Beside a task of all rows, and one of others.
        whole = ProbingTask.cross_validated(targets, np.arange(400) % 5)
        others = np.where(fold_of < 0, np.arange(400) % 5, -1)
        others[::2] = -1
        tasks = [few, whole, ProbingTask.cross_validated(targets, others), few]
        found = search(Design(X), LOGISTIC, loss, tasks)
        expected = search(Design(X[rows]), LOGISTIC, loss, [alone])
        for i in (0, 3):
            assert found.l2[i] == expected.l2[0]
            assert found.loss[i] == pytest.approx(expected.loss[0], rel=1e-4)
            assert found.score[i] == pytest.approx(expected.score[0], abs=1e-4)
        separate = [search(Design(X), LOGISTIC, loss, [task]) for task in tasks]
        assert found.loss == pytest.approx([one.loss[0] for one in separate], rel=1e-4)


def test_a_task_of_few_rows_takes_no_work_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, _ = planted(n=400)
    rows: list[int] = []
    path = searching.PenaltyPath

    def noted(design: Design, *arguments: object) -> object:
        rows.append(len(design.X))
        return path(design, *arguments)

    monkeypatch.setattr(searching, "PenaltyPath", noted)
    targets = np.atleast_2d(y).astype(np.float32)
    folds = [np.where(np.arange(400) < few, np.arange(400) % 4, -1) for few in (200, 400, 201)]
    tasks = [ProbingTask.cross_validated(targets, fold_of) for fold_of in folds]
    search(Design(X), LOGISTIC, Logistic(), tasks)
    assert rows == [200, 400]


def test_a_part_of_a_design_gives_the_fits_of_its_rows() -> None:
    X, _, _ = planted(n=400)
    design = Design(X)
    part = design.rows(np.asarray([3, 5, 399]))
    assert torch.equal(part.X, design.X[[3, 5, 399]])
    assert len(design.X) == 400


@pytest.mark.parametrize("sizes", [(8, 8, 8), (20, 8, 20), (8, 20, 20), (20, 20, 20)])
def test_large_layers_are_worked_on_one_at_a_time_with_all_threads_to_the_same_results(
    sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(N) % 2
    layers = {i: rng.normal(size=(N, d)).astype(np.float32) for i, d in enumerate(sizes)}
    for i, X in layers.items():
        X[:, 0] += 0.5 * i * y
    options = {"progress": False, **QUICK}
    threads_at: dict[int, int] = {}
    fit = protocol.probe_layer

    def noted(X: np.ndarray, *arguments: object, **options: object) -> LayerFit:
        threads_at.setdefault(X.shape[1], torch.get_num_threads())
        return fit(X, *arguments, **options)

    monkeypatch.setattr(protocol, "probe_layer", noted)
    with threads(2):
        small = llmprobe.probe_layers(layers, y, **options)
        assert set(threads_at.values()) == {1}
        threads_at.clear()
        monkeypatch.setattr(workers, "LARGE", 4 * N * 10)
        mixed = llmprobe.probe_layers(layers, y, **options)
        assert threads_at == {d: 2 if d == 20 else 1 for d in set(sizes)}
        assert torch.get_num_threads() == 2
    assert mixed.table["layer"].to_list() == [0, 1, 2]
    pd.testing.assert_frame_equal(mixed.table, small.table, rtol=1e-4)


@pytest.mark.parametrize("kind", ["logistic", "mass_mean"])
def test_with_nothing_to_search_for_there_are_scores_nonetheless(kind: str) -> None:
    X, y, groups = planted()
    results = probe(X, y, held_out(), groups, kind=kind, l2=1.0, **QUICK)
    assert results.table["accuracy"].item() > 0.6


def test_a_test_set_of_one_group_has_scores() -> None:
    X, y, groups = planted()
    test = held_out()
    results = probe(X, y, test, np.where(test, -1, groups), permutations=0)
    assert results.table["accuracy"].item() > 0.6
    # All labels are in the first portion, so that no probe encodes any.
    assert np.isnan(results.table["compression"].item())


@pytest.mark.parametrize("name", ["ENOUGH", "MOST_CODED"])
def test_groups_of_more_rows_than_enough_still_give_some(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y, _ = planted()
    monkeypatch.setattr(tasks_module, name, 10)
    results = probe(X, y, np.arange(N) >= 80, np.arange(N) // 16, permutations=0, controls=())
    assert np.isfinite(results.table["log_loss"].item())


def test_of_many_rows_some_of_each_unit_are_drawn() -> None:
    units = np.repeat(np.arange(10), [40, *[20] * 9])
    rows = np.arange(len(units))
    drawn = some_of_each_unit(rows, 35, units, seed=0)
    assert len(drawn) == len(set(drawn)) == 35
    assert set(np.bincount(units[drawn])) == {3, 4}
    assert some_of_each_unit(rows, 220, units, seed=0) is rows
    alone = some_of_each_unit(rows, 35, None, seed=3)
    assert alone.tolist() == some_units(rows, 35, None, seed=3).tolist()
