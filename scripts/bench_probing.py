"""Compare probing with scikit-learn given the same shortcuts: processor time of one thread each.

    python scripts/bench_probing.py                    # three layers of SmolLM2
    python scripts/bench_probing.py --model gemma-3-270m --layers 3 9 15
    python scripts/bench_probing.py --growth           # rows, features, problems, classes
    python scripts/bench_probing.py --memory           # 100,000 × 4,096 × 2 layers, bfloat16

scikit-learn goes down the same path of penalties on the same folds, starts each fit from the one
before, and stops by the same rule. It has its fastest solver for the shape, and features scaled on
the training rows. All labellings are really run, not extrapolated. Either way would run each layer
in one thread of its own, so the ratio of processor times is that of wall times with a core a layer.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from bench_common import head, parsed, parser_of, peak_bytes, report, spread
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import llmprobe
from llmprobe.config.probe_kinds import PROBE_KINDS
from llmprobe.config.schema import ProbeConfig
from llmprobe.datasets.groups import group_indices
from llmprobe.extraction.store import Store
from llmprobe.probing.design import Design
from llmprobe.probing.fits import ManyFits
from llmprobe.probing.losses import Logistic
from llmprobe.probing.protocol import probe_states
from llmprobe.probing.search import CLEAR_STANDARD_ERRORS, PENALTIES, ProbingTask, search
from llmprobe.probing.tasks import ProbingTasks, build_tasks
from llmprobe.probing.workers import threads

LOGISTIC = PROBE_KINDS["logistic"]
SOLVERS = ("lbfgs", "newton-cg", "newton-cholesky")
GRID = np.logspace(4, -4, 10)
"""Penalties of the cold grid, strong to weak: scikit-learn's own default grid of C = 1 / l2."""
TIGHT = 1e-6
"""scikit-learn's tolerance on the cold grid. Its objectives then end at most 2 % above the optimum;
with the default of 1e-4 they end at up to eight times the optimum."""


@dataclass(frozen=True)
class Input:
    """States of some layers, with labels and groups."""

    name: str
    layers: Mapping[int, np.ndarray]
    """Each [n, d] float32"""
    y: np.ndarray
    groups: np.ndarray | None


def real(model: str, data: Path | None, layers: Sequence[int], limit: int | None) -> Input:
    """Extract layers of a packaged model on the cities set, or on the shipped capitals."""
    cities = data / "jin2024" / "cities.csv" if data else None
    if cities is not None and cities.is_file():
        columns = {"text": "statement", "label": "label", "group": "city"}
        dataset = llmprobe.load_dataset(str(cities), n=limit, **columns)
    else:
        dataset = llmprobe.load_dataset("capitals", n=limit)
    states = llmprobe.extract(model, dataset, progress=False)
    groups = None if dataset.groups is None else group_indices(dataset.groups, len(dataset))
    y = np.unique(dataset.labels, return_inverse=True)[1]
    chosen = {layer: states.layer(layer) for layer in layers}
    return Input(f"{model} on {dataset.name}", chosen, y, groups)


def synthetic(n: int, d: int, n_layers: int = 1, n_classes: int = 2) -> Input:
    """Make states with a power-law spectrum, like hidden states, and a noisy linear concept.

    The concept gets fainter from layer to layer.
    """
    rank, draw, layers = min(n, d), np.random.default_rng(0), dict[int, np.ndarray]()
    sizes = np.arange(1, rank + 1, dtype=np.float32) ** -0.5
    known = draw.normal(size=(n, rank)).astype(np.float32)
    logits = (known * sizes) @ draw.normal(size=(rank, n_classes))
    y = (3 * logits / logits.std() + draw.gumbel(size=logits.shape)).argmax(axis=1)
    for layer in range(n_layers):
        noise = draw.normal(size=(n, rank)).astype(np.float32)
        share = 0.3 * layer / n_layers
        factors = np.sqrt(1 - share) * known + np.sqrt(share) * noise
        layers[layer] = (factors * sizes) @ draw.normal(size=(rank, d)).astype(np.float32)
    return Input(f"synthetic, {n:,} × {d:,}", layers, y, None)


# ------------------------------------------------------------------------------------ scikit-learn


class PlainPath:
    """scikit-learn's fits of one task, from strong to weak penalties, each from the one before."""

    def __init__(self, X: np.ndarray, task: ProbingTask, solver: str, tol: float = 1e-4) -> None:
        """Scale features by the training rows of each problem."""
        self.y, self.problems = task.targets[0].astype(int), []
        for k, train in enumerate(task.train):
            scaler = StandardScaler().fit(X[train])
            test = task.scored_by == k
            model = LogisticRegression(solver=solver, warm_start=True, tol=tol, max_iter=10_000)
            self.problems.append(
                (model, scaler.transform(X[train]), self.y[train], scaler.transform(X[test]), test)
            )
        self.n_scored = int((task.scored_by >= 0).sum())

    def losses(self, l2: float) -> np.ndarray:
        """Fit at a penalty, and return the held-out loss of each scored row. [n]"""
        rows = np.zeros(len(self.y))
        for model, X, y, X_test, test in self.problems:
            model.set_params(C=1 / l2).fit(X, y)
            logits = model.decision_function(X_test)
            rows[test] = np.logaddexp(0, np.where(self.y[test] == 1, -logits, logits))
        return rows

    def choice(self) -> float:
        """Return the penalty with the least held-out loss; stop by the rule of ``search``."""
        least, chosen = np.full(len(self.y), np.inf), 0.0
        for l2 in PENALTIES:
            rows = self.losses(l2)
            excess = np.where(np.isinf(least), -1.0, rows - least)
            mean = excess.sum() / self.n_scored
            error = np.sqrt(((excess - mean)[rows > 0] ** 2).sum())
            if rows.sum() < least.sum():
                least, chosen = rows, l2
            elif excess.sum() > CLEAR_STANDARD_ERRORS * error:
                break
        return chosen


def plain_choices(X: np.ndarray, tasks: Sequence[ProbingTask], solver: str) -> np.ndarray:
    """Choose the penalty of each task, one task after another."""
    return np.array([PlainPath(X, task, solver).choice() for task in tasks])


def plain_everything(layers: Iterable[np.ndarray], tasks: ProbingTasks, solver: str) -> None:
    """Fit all that ``probe_layers`` fits for each layer: choose penalties, and refit at them."""
    every = (*tasks.inner, tasks.observed, *tasks.shuffled, *tasks.control, *tasks.beside_control)
    for X in layers:
        chosen = plain_choices(X, every, solver)
        every_row = np.ones((1, len(X)), dtype=bool)
        own = chosen[: len(tasks.inner) + 1]
        for train, l2 in zip([*tasks.train[:, None], every_row], own, strict=True):
            scored_by = np.where(train[0], -1, 0)
            if train.all():  # Nothing is scored here, but the class needs rows to score.
                scored_by[:1] = 0
            PlainPath(X, ProbingTask(tasks.targets, train, scored_by), solver).losses(l2)


def plain_grid(X: np.ndarray, task: ProbingTask, solver: str) -> None:
    """Fit the whole grid on each fold, to a tight tolerance."""
    path = PlainPath(X, task, solver, TIGHT)
    for l2 in GRID:
        path.losses(float(l2))


def fastest_solver(given: Input, tasks: ProbingTasks) -> str:
    """Find the fastest solver by trial on the observed labels of the middle layer."""
    X = list(given.layers.values())[len(given.layers) // 2]
    solvers = SOLVERS if X.shape[1] <= 1024 else SOLVERS[:2]
    took = {}
    for solver in solvers:
        began = time.process_time()
        plain_choices(X, [tasks.observed], solver)
        took[solver] = time.process_time() - began
    return min(took, key=lambda solver: took[solver])


# ---------------------------------------------------------------------------------------- llmprobe


def choices(X: np.ndarray, tasks: Sequence[ProbingTask], device: str) -> np.ndarray:
    """Choose the penalties of all tasks at once."""
    design = Design(torch.as_tensor(X).to(device))
    return search(design, LOGISTIC, Logistic(), tasks).l2


def cold_grid(X: np.ndarray, task: ProbingTask, device: str) -> None:
    """Call ``fit_many`` on every fold and penalty of the grid at once, without warm starts."""
    k = len(task.train)
    weights = np.tile(task.train.T.astype(np.float32), (1, len(GRID)))
    targets = np.tile(task.targets.T, (1, k * len(GRID)))
    fits = llmprobe.fit_many(torch.as_tensor(X).to(device), targets, weights, np.repeat(GRID, k))
    assert fits.converged.all()


def everything(given: Input, options: argparse.Namespace) -> None:
    """Probe the layers with nested penalties, permutations, controls, intervals and tables."""
    llmprobe.probe_layers(
        given.layers, given.y, given.groups, progress=False,
        permutations=options.permutations, controls=["majority", "random_labels"],
        description_length=False, device=options.device,
    )  # fmt: skip


# ------------------------------------------------------------------------------------- comparisons


def alternating(
    jobs: Mapping[str, Callable[[], object]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, object]]:
    """Return the processor seconds of each job in each round, and its last result."""
    took, results = {name: list[float]() for name in jobs}, dict[str, object]()
    for _ in range(rounds):
        for name, job in jobs.items():
            began = time.process_time()
            results[name] = job()
            took[name].append(time.process_time() - began)
    return took, results


def compare(given: Input, options: argparse.Namespace) -> None:
    """Report a table of one input, with a row for each layer and kind of work."""
    config = ProbeConfig(permutations=options.permutations, description_length=False,
                         controls=("majority", "random_labels"))  # fmt: skip
    tasks = build_tasks(given.y, given.groups, config, given.name)
    solver, device = fastest_solver(given, tasks), options.device
    labellings = len(tasks.shuffled) + len(tasks.control)
    shape = next(iter(given.layers.values())).shape
    report(
        f"## {given.name}, {shape[0]:,} × {shape[1]:,}\n\nscikit-learn's solver is {solver}.\n\n"
        "| layer | what | scikit-learn, s | llmprobe, s | ratio | same penalties |\n"
        "|--:|---|--:|--:|--:|--:|", options.out,
    )  # fmt: skip
    families: dict[str, Sequence[ProbingTask]] = {
        "choice of a penalty": [tasks.observed],
        f"{len(tasks.inner)} nested choices": tasks.inner,
        f"{labellings} labellings": [*tasks.shuffled, *tasks.control],
    }
    pairs: dict[tuple[str, str], tuple[Callable[[], object], Callable[[], object]]] = {}
    for layer, X in given.layers.items():
        for name, some in families.items():
            pairs[str(layer), name] = (
                partial(plain_choices, X, some, solver), partial(choices, X, some, device),
            )  # fmt: skip
        pairs[str(layer), "`fit_many` cold, 5 folds × 10 penalties"] = (
            partial(plain_grid, X, tasks.observed, solver),
            partial(cold_grid, X, tasks.observed, device),
        )
    pairs[", ".join(map(str, given.layers)), "end to end, `probe_layers`"] = (
        partial(plain_everything, given.layers.values(), tasks, solver),
        partial(everything, given, options),
    )
    for (layers, name), (plain, ours) in pairs.items():
        if options.only and options.only not in name:
            continue
        took, results = alternating({"plain": plain, "ours": ours}, options.rounds)
        ratio = [a / b for a, b in zip(took["plain"], took["ours"], strict=True)]
        same = ""
        if isinstance(results["ours"], np.ndarray):
            same = f"{np.mean(results['ours'] == results['plain']):.0%}"
        report(
            f"| {layers} | {name} | {spread(took['plain'], 3)} | {spread(took['ours'], 3)} | "
            f"{spread(ratio, 1)} | {same} |", options.out,
        )  # fmt: skip
    report("", options.out)


def growth(options: argparse.Namespace) -> None:
    """Report the seconds of ``fit_many``, and of everything, as one size at a time grows."""
    sizes = [
        *((n, 512, 50) for n in (1_000, 2_000, 4_000, 8_000, 16_000)),
        *((1_500, d, 50) for d in (256, 512, 1_024, 2_048, 4_096)),
        *((1_500, 512, K) for K in (1, 5, 25, 125, 625)),
    ]
    lines = ["| rows | features | problems | seconds | converged |", "|--:|--:|--:|--:|--:|"]
    for n, d, K in sizes:
        given = synthetic(n, d)
        weights = (np.random.default_rng(0).random((n, K)) < 0.8).astype(float)
        targets = np.tile(given.y[:, None], (1, K))

        fit = partial(llmprobe.fit_many, given.layers[0], targets, weights, l2=100.0)
        took, results = alternating({"": fit}, options.rounds)
        assert isinstance(results[""], ManyFits)
        converged = int(results[""].converged.sum())
        lines.append(f"| {n:,} | {d:,} | {K} | {spread(took[''], 3)} | {converged} |")
    lines += ["", "| rows | classes | layers | seconds of everything |", "|--:|--:|--:|--:|"]
    for n, n_classes, n_layers in (
        *((1_500, 2, n_layers) for n_layers in (2, 4, 8)),
        *((n, 10, 1) for n in (1_000, 2_000, 4_000)),
        *((4_000, n_classes, 1) for n_classes in (5, 20, 50)),
    ):
        given = synthetic(n, 256, n_layers, n_classes)
        began = time.process_time()
        llmprobe.probe_layers(given.layers, given.y, progress=False, permutations=0, controls=[],
                              description_length=False)  # fmt: skip
        lines.append(f"| {n:,} | {n_classes} | {n_layers} | {time.process_time() - began:.2f} |")
    report("\n".join([*lines, ""]), options.out)


# ------------------------------------------------------------------------------------------ memory


@dataclass(frozen=True)
class Stored:
    """Layers of a made-up extraction in bfloat16, read one at a time."""

    store: Store
    n: int
    d: int
    layers: list[int]
    shards: list[str]

    def layer(self, index: int) -> np.ndarray:
        """Return the states of a layer, as an extraction reads them. [n, d] float32"""
        shards = [{"file": name} for name in self.shards]
        return self.store.layer(index, {"shards": shards, "row_of": range(self.n)})

    def n_bytes(self, index: int) -> int:  # noqa: ARG002
        """Return how many bytes of memory the states of a layer take."""
        return 4 * self.n * self.d


def stored(folder: Path, n: int, d: int, n_layers: int) -> tuple[Stored, np.ndarray]:
    """Write shards of made-up states, a block of rows at a time; return them and labels."""
    draw = np.random.default_rng(0)
    known = draw.normal(size=(n, 64)).astype(np.float32)
    y = (known @ draw.normal(size=64) / 4 > draw.logistic(size=n)).astype(int)
    mixing = draw.normal(size=(64, d)).astype(np.float32)
    store, layers, names = Store(folder), list(range(n_layers)), list[str]()
    for i, first in enumerate(range(0, n, 5_000)):
        signal = known[first : first + 5_000] @ mixing
        blocks = [signal + 3 * draw.standard_normal(signal.shape, dtype=np.float32) for _ in layers]
        states = torch.as_tensor(np.stack(blocks)).bfloat16()
        names.append(store.write_shard(i, "made up", states, layers).name)
    return Stored(store, n, d, layers, names), y


def memory(options: argparse.Namespace) -> None:
    """Report the peak memory and the time of probing layers that are stored as bfloat16."""
    n, d, n_layers = options.size
    config = ProbeConfig(permutations=options.permutations, description_length=False,
                         controls=("majority", "random_labels"))  # fmt: skip
    names = {"model": "model", "dataset": "made up", "site": "", "position": ""}
    with TemporaryDirectory() as folder:
        states, y = stored(Path(folder), n, d, n_layers)
        before, began = time.process_time(), time.perf_counter()
        peak = peak_bytes(
            lambda: probe_states(states, y, None, config=config, names=names, origin={},
                                 progress=False), cuda=False,
        )  # fmt: skip
    report(
        "| rows × features × layers | permutations | peak memory | of a layer in float32 | "
        "processor time | time |\n|---|--:|--:|--:|--:|--:|\n"
        f"| {n:,} × {d:,} × {n_layers} | {options.permutations} | {peak / 1e9:.2f} GB | "
        f"{4 * n * d / 1e9:.2f} GB | {time.process_time() - before:.0f} s | "
        f"{time.perf_counter() - began:.0f} s |", options.out,
    )  # fmt: skip


def main() -> None:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--model", default="smollm2-135m", help="a packaged model")
    add("--layers", type=int, nargs="+", default=[5, 15, 27])
    add("--permutations", type=int, default=100)
    add("--only", help="only rows whose name contains this")
    add("--device", default="cpu", help="device of llmprobe's rows")
    add("--growth", action="store_true", help="time as one size at a time grows")
    add("--memory", action="store_true", help="peak memory of probing stored states")
    add("--size", type=int, nargs=3, default=[100_000, 4_096, 2], help="n, d, layers of --memory")
    options = parsed(parser)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # Those of scikit-learn about its future changes.
    head("# Probing", options.out)
    if options.memory:
        memory(options)
        return
    with threads(1):
        if options.growth:
            growth(options)
            return
        data = Path(options.data) if options.data else None
        compare(real(options.model, data, options.layers, options.limit), options)


if __name__ == "__main__":
    main()
