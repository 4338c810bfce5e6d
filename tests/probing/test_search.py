"""The choice of a penalty is that of a plain loop over the grid with scikit-learn."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, log_loss, r2_score
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import llmprobe
from llmprobe.config.probe_kinds import PROBE_KINDS
from llmprobe.probing import tasks as tasks_module
from llmprobe.probing.design import Design
from llmprobe.probing.labels import portions
from llmprobe.probing.losses import Logistic, Loss, Softmax, Squared
from llmprobe.probing.search import PENALTIES, BestPenalties, ProbingTask, search
from llmprobe.probing.splits import assign_folds
from llmprobe.probing.workers import threads

LOGISTIC = PROBE_KINDS["logistic"]

# The modules: their names in the package are those of functions too.
search_module = importlib.import_module("llmprobe.probing.search")
fit_many_module = importlib.import_module("llmprobe.probing.fit_many")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threads(1), threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, about what it thinks of 1e-10
        yield


# How strong the signal is, in standard deviations of the noise; None: no noise in the labels.
SIGNALS: dict[str, float | None] = {"none": 0, "weak": 0.7, "strong": 3, "separable": None}
SHAPES = [(150, 15), (80, 120)]
each_input = pytest.mark.parametrize(
    ("signal", "n", "d"),
    [
        pytest.param(signal, n, d, id=f"{name}, {n} x {d}")
        for name, signal in SIGNALS.items()
        for n, d in SHAPES
    ],
)


def planted(signal: float | None, n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of all sizes and a number that goes with them more or less."""
    rng = np.random.default_rng(seed)
    sizes = 1 / np.arange(1, d + 1)
    X = (rng.normal(size=(n, d)) * sizes) @ rng.normal(size=(d, d)) + 0.3 * rng.normal(size=(n, d))
    number = X @ rng.normal(size=d)
    number /= number.std()
    noise = rng.logistic(size=n)
    latent = number if signal is None else signal * number + noise
    return 10 ** rng.uniform(-2, 2, size=d) * X, latent


def classes(latent: np.ndarray, n_classes: int) -> np.ndarray:
    """Equally frequent ones, by size."""
    ends = np.quantile(latent, np.arange(1, n_classes) / n_classes)
    return np.digitize(latent, ends)


def targets_of(y: np.ndarray) -> np.ndarray:
    """As a loss takes class indices."""
    rows = y[None] if y.max() == 1 else y == np.arange(y.max() + 1)[:, None]
    return rows.astype(np.float32)


def classifying(y: np.ndarray, seed: int = 0) -> ProbingTask:
    return ProbingTask.cross_validated(targets_of(y), assign_folds(y, None, 5, seed))


def loss_of(task: ProbingTask) -> Loss:
    return Logistic() if len(task.targets) == 1 else Softmax()


def shuffles(y: np.ndarray, times: int) -> list[ProbingTask]:
    rng = np.random.default_rng(9)
    return [classifying(rng.permutation(y), seed) for seed in range(times)]


def plain_probabilities(
    X: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, l2: float
) -> np.ndarray:
    """scikit-learn's, of all classes; a training set of one class is sure of it. [test, C]"""
    n_classes = y.max() + 1
    present = len(set(y[train]))
    if present == 1:
        return np.eye(n_classes)[y[train][:1]].repeat(test.sum(), axis=0)
    scaler = StandardScaler().fit(X[train])
    if present == 2 < n_classes:  # One direction for both, where a softmax has half for each.
        l2 /= 2
    model = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000, solver="newton-cholesky")
    model.fit(scaler.transform(X[train]), y[train])
    probabilities = np.zeros((test.sum(), n_classes))
    probabilities[:, model.classes_] = model.predict_proba(scaler.transform(X[test]))
    return probabilities


def plain_loop(X: np.ndarray, y: np.ndarray, task: ProbingTask) -> tuple[list[float], list[float]]:
    """Total held-out loss and accuracy at each penalty of the whole grid."""
    losses, scores = [], []
    for l2 in PENALTIES:
        held_out = np.full((len(y), y.max() + 1), np.nan)
        for k, train in enumerate(task.train):
            test = task.scored_by == k
            held_out[test] = plain_probabilities(X, y, train, test, l2)
        losses.append(log_loss(y, held_out, normalize=False))
        scores.append(accuracy_score(y, held_out.argmax(axis=1)))
    return losses, scores


@pytest.mark.parametrize("n_classes", [2, 3])
@each_input
def test_penalty_loss_and_score_are_those_of_a_plain_loop_over_the_grid(
    signal: float | None, n: int, d: int, n_classes: int
) -> None:
    X, latent = planted(signal, n, d)
    y = classes(latent, n_classes)
    task = classifying(y)
    found = search(Design(X), LOGISTIC, loss_of(task), [task])
    losses, scores = plain_loop(X, y, task)
    best = int(np.argmin(losses))
    assert found.l2[0] == PENALTIES[best]
    assert found.loss[0] == pytest.approx(losses[best], rel=1e-3)
    assert found.score[0] == pytest.approx(scores[best], abs=1.5 / n)  # a row on the boundary


def test_weak_and_strong_penalties_are_chosen_where_they_should() -> None:
    """Otherwise the loop above would compare one constant with another."""
    chosen = {}
    for name, signal in SIGNALS.items():
        X, latent = planted(signal, 150, 15)
        task = classifying(classes(latent, 2))
        chosen[name] = search(Design(X), LOGISTIC, Logistic(), [task]).l2[0]
    assert chosen["none"] > chosen["weak"] > chosen["strong"] > chosen["separable"]


@each_input
def test_leaving_early_chooses_as_the_whole_path_does(
    signal: float | None, n: int, d: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, latent = planted(signal, n, d, seed=1)
    y = classes(latent, 2)
    tasks = [classifying(y, seed) for seed in range(20)] + shuffles(y, 20)
    solved: list[int] = []
    step = search_module.PenaltyPath.step

    def counting(path: object, penalty: float) -> None:
        solved.append(len(path.active))
        step(path, penalty)

    monkeypatch.setattr(search_module.PenaltyPath, "step", counting)
    early = search(Design(X), LOGISTIC, Logistic(), tasks)
    n_early = sum(solved)
    solved.clear()
    monkeypatch.setattr(search_module, "CLEAR_STANDARD_ERRORS", np.inf)
    whole = search(Design(X), LOGISTIC, Logistic(), tasks)
    assert sum(solved) == len(PENALTIES) * len(tasks)
    assert n_early < 0.9 * sum(solved)
    assert (early.l2 == whole.l2).all()
    assert (early.score == whole.score).all()
    assert early.loss == pytest.approx(whole.loss, rel=1e-4)


def assert_same(one: BestPenalties, other: BestPenalties) -> None:
    assert (one.l2 == other.l2).all()
    assert (one.score == other.score).all()
    assert one.loss == pytest.approx(other.loss, rel=1e-4)


@pytest.fixture(params=[2, 3], ids=["two classes", "three classes"])
def mixture(request: pytest.FixtureRequest) -> tuple[Design, list[ProbingTask]]:
    """Tasks that leave the path at different penalties, with different numbers of problems."""
    X, latent = planted(3, 120, 30)
    y = classes(latent, request.param)
    inner = assign_folds(y, None, 3, 1)
    inner[:30] = -1
    tasks = [
        classifying(y), *shuffles(y, 6), ProbingTask.cross_validated(targets_of(y), inner),
        classifying(classes(planted(None, 120, 30)[1], request.param)),
    ]  # fmt: skip
    return Design(X), tasks


def test_what_a_task_gives_does_not_depend_on_the_others(
    mixture: tuple[Design, list[ProbingTask]],
) -> None:
    design, tasks = mixture
    loss = loss_of(tasks[0])
    together = search(design, LOGISTIC, loss, tasks)
    assert len(set(together.l2)) > 2
    for i, task in enumerate(tasks):
        alone = search(design, LOGISTIC, loss, [task])
        assert_same(
            alone, BestPenalties(*(getattr(together, f)[[i]] for f in ("l2", "score", "loss")))
        )
    backwards = search(design, LOGISTIC, loss, tasks[::-1])
    assert_same(
        together, BestPenalties(backwards.l2[::-1], backwards.score[::-1], backwards.loss[::-1])
    )


def test_held_out_logits_are_those_of_the_least_loss(
    mixture: tuple[Design, list[ProbingTask]],
) -> None:
    design, tasks = mixture
    loss, few = loss_of(tasks[0]), tasks[-2].scored_by.copy()
    few[:70] = -1  # So few rows that they have a design of their own.
    tasks = [ProbingTask.cross_validated(tasks[0].targets, few), *tasks]
    found = search(design, LOGISTIC, loss, tasks, with_logits=8)
    assert found.logits is not None
    for task, logits, total in zip(tasks, found.logits, found.loss, strict=False):
        rows = loss.value(logits[None], torch.as_tensor(task.targets)[None])[0, 0].numpy()
        scored = task.scored_by >= 0
        assert rows[scored].sum() == pytest.approx(total, rel=1e-5)
        assert not logits[:, ~scored].any()


@pytest.mark.parametrize("budget", [1, 100_000])
def test_memory_budgets_change_nothing(
    mixture: tuple[Design, list[ProbingTask]], budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    design, tasks = mixture
    loss = loss_of(tasks[0])
    before = search(design, LOGISTIC, loss, tasks)
    for module in (search_module, fit_many_module):
        monkeypatch.setattr(module, "CHUNK_BYTES", budget)
    chunks = search_module._chunks(tasks)
    assert len(chunks) == len(tasks) if budget == 1 else 1 < len(chunks) < len(tasks)
    assert sorted(i for chunk in chunks for i in chunk) == list(range(len(tasks)))
    assert_same(before, search(design, LOGISTIC, loss, tasks))


@each_input
def test_ridge_chooses_as_a_plain_loop_does(signal: float | None, n: int, d: int) -> None:
    X, latent = planted(signal, n, d)
    y = (latent - latent.mean()) / latent.std()
    task = ProbingTask.cross_validated(
        y[None].astype(np.float32), assign_folds(y, None, 5, stratify=False)
    )
    found = search(Design(X), PROBE_KINDS["ridge"], Squared(), [task])
    errors, scores = [], []
    for l2 in PENALTIES:
        held_out = np.empty(n)
        for k, train in enumerate(task.train):
            test = task.scored_by == k
            scaler = StandardScaler().fit(X[train])
            model = Ridge(alpha=l2, solver="cholesky").fit(scaler.transform(X[train]), y[train])
            held_out[test] = model.predict(scaler.transform(X[test]))
        errors.append(((held_out - y) ** 2).sum() / 2)
        scores.append(r2_score(y, held_out))
    best = int(np.argmin(errors))
    assert found.l2[0] == PENALTIES[best]
    assert found.loss[0] == pytest.approx(errors[best], rel=1e-3)
    assert found.score[0] == pytest.approx(scores[best], abs=2e-3)


@pytest.mark.parametrize("n_classes", [2, 3, 4])
@pytest.mark.parametrize("signal", [0, 3])
def test_mass_mean_probes_choose_the_nearest_class_mean(n_classes: int, signal: float) -> None:
    """In raw features; sure of it as normal densities with the variance within classes are."""
    X, latent = planted(signal, 120, 10)
    y = classes(latent, n_classes)
    task = classifying(y)  # Every training set has as many of each class.
    assert {tuple(np.bincount(y[train])) for train in task.train} == {
        (96 // n_classes,) * n_classes
    }
    right, total = 0, 0.0
    for k, train in enumerate(task.train):
        test = task.scored_by == k
        means = np.stack([X[train & (y == c)].mean(axis=0) for c in range(n_classes)])
        span = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)[2][: n_classes - 1]
        variance = (((X - means[y]) @ span.T)[train] ** 2).sum() / train.sum() / (n_classes - 1)
        distance = ((X[test, None] - means) ** 2).sum(axis=2)
        right += (distance.argmin(axis=1) == y[test]).sum()
        logits = -distance / (2 * variance)
        log_odds = (
            logits
            - np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1))[:, None]
            - logits.max(axis=1, keepdims=True)
        )
        total -= log_odds[np.arange(test.sum()), y[test]].sum()
    found = search(Design(X), PROBE_KINDS["mass_mean"], loss_of(task), [task], (1.0,))
    assert found.score[0] == right / 120
    assert found.loss[0] == pytest.approx(total, rel=1e-3)


def plain_code_length(X: np.ndarray | None, y: np.ndarray, portion_of: np.ndarray) -> float:
    """Bits: which penalty, the first portion by a uniform code, the rest by what came before.

    Without X, what came before is the shares of the classes.
    """
    n_classes = y.max() + 1
    totals = []
    for l2 in PENALTIES if X is not None else PENALTIES[:1]:
        total = 0.0
        for portion in range(1, portion_of.max() + 1):
            train, test = portion_of < portion, portion_of == portion
            if X is None:
                p = np.array([(y[train] == label).mean() for label in y[test]])
            else:
                p = plain_probabilities(X, y, train, test, l2)[np.arange(test.sum()), y[test]]
            # A uniform guess has the weight of one more example of each class.
            mixed = (train.sum() * p + 1) / (train.sum() + n_classes)
            total -= np.log2(mixed).sum()
        totals.append(total)
    first = (portion_of == 0).sum()
    return float(np.log2(len(PENALTIES)) + first * np.log2(n_classes) + min(totals))


@pytest.mark.parametrize("grouped", [True, False], ids=["groups", "no groups"])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("signal", [0, 3, None], ids=["none", "strong", "separable"])
def test_the_code_length_is_that_of_a_plain_loop(
    signal: float | None, n_classes: int, grouped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_orders = 1 if signal is None else 2
    monkeypatch.setattr(tasks_module, "CODE_ORDERS", n_orders)
    X, latent = planted(signal, 120, 12)
    y = classes(latent, n_classes)
    groups = np.arange(120) // 2 if grouped else None
    results = llmprobe.probe_layers(
        {0: X}, y, groups, l2="auto", permutations=0, controls=(), progress=False
    )
    orders = [portions(groups, 120, 0, order=order) for order in range(n_orders)]
    coded, uncoded = (
        np.array([plain_code_length(states, y, portion_of) for portion_of in orders])
        for states in (X, None)
    )
    row = results.table.iloc[0]
    assert row["code_length"] * 1024 == pytest.approx(coded.mean(), rel=1e-3)
    assert row["compression"] == pytest.approx(uncoded.mean() / coded.mean(), rel=1e-3)
    ends = row[["compression_range_low", "compression_range_high"]].tolist()
    by_order = uncoded / coded
    assert ends == pytest.approx([by_order.min(), by_order.max()], rel=1e-3)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.03])
def test_random_labels_cannot_be_compressed_and_separable_ones_can(share: float) -> None:
    X, latent = planted(None, 600, 10)
    separable = (latent > np.quantile(latent, 1 - share)).astype(int)
    shuffled = np.random.default_rng(0).permutation(separable)
    read, random = (
        llmprobe.probe_layers(
            {0: X}, labels, l2="auto", permutations=0, controls=(), progress=False
        ).table.iloc[0]
        for labels in (separable, shuffled)
    )
    assert read["compression"] > 1.5
    assert random["compression"] == pytest.approx(1, abs=0.03)
    for row in (read, random):
        assert row["compression_range_low"] < row["compression"] < row["compression_range_high"]


def test_a_class_that_was_not_seen_before_costs_a_bounded_number_of_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A probe that has never seen a class would by itself find it next to impossible."""
    monkeypatch.setattr(tasks_module, "CODE_ORDERS", 1)
    X, _ = planted(0, 120, 12)
    portion_of = portions(None, 120, seed=0)
    y = np.zeros(120, dtype=int)
    y[np.flatnonzero(portion_of == portion_of.max())[:4]] = 1
    table = llmprobe.probe_layers(
        {0: X}, y, l2=1.0, folds=2, permutations=0, controls=(), progress=False
    ).table
    seen = np.bincount(portion_of).cumsum()
    guessed = seen[portion_of - 1][portion_of > 0] + 2
    unseen = y[portion_of > 0] == 1
    expected = 1 - np.log2(np.where(unseen, 1, guessed - 1) / guessed).sum()
    assert table["code_length"].item() * 1024 == pytest.approx(expected, rel=1e-3)
