"""Probing beside scikit-learn at its best: the same objective, the same folds, the same penalties.

    python scripts/bench_probing.py                  # states of both packaged models, two synthetic
    python scripts/bench_probing.py --growth         # how time grows with rows, features, problems

scikit-learn gets its fastest solver for each shape, features scaled beforehand, one BLAS thread
a worker and a layer (or a fold of one) on every core. What it would need for everything is added
up: from a sample of permutations at one penalty, and from (a) with one chosen for each, which is
what llmprobe does.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from bench_common import head, parsed, parser_of, peak_bytes, report, spread, turns
from joblib import Parallel, delayed
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import log_loss
from sklearn.model_selection import PredefinedSplit
from sklearn.preprocessing import StandardScaler

import llmprobe
from llmprobe.config.probe_kinds import PROBE_KINDS
from llmprobe.config.schema import ProbeConfig
from llmprobe.datasets.groups import group_indices
from llmprobe.probing.fit_many import Design, Problems
from llmprobe.probing.labels import shuffled_labels
from llmprobe.probing.layer import probe_layer
from llmprobe.probing.losses import Logistic
from llmprobe.probing.search import SEARCH_TOLERANCE, PenaltyPath, ProbingTask, search
from llmprobe.probing.tasks import ProbingTasks, build_tasks
from llmprobe.probing.workers import Arrays, each_layer

LOGISTIC = PROBE_KINDS["logistic"]

GRID = np.logspace(4, -4, 10)
"""Penalties, strong to weak: scikit-learn's own default grid of C = 1 / l2."""
PERMUTATIONS = 100
SAMPLED = 3
"""Permutations that scikit-learn is timed on."""
CORES = os.cpu_count() or 1
BARE = ProbeConfig(controls=(), permutations=0, description_length=False)


@dataclass(frozen=True)
class Input:
    """States of some layers, scaled, with labels and groups."""

    name: str
    layers: Mapping[int, np.ndarray]
    """Each [n, d] float32"""
    raw: Mapping[int, np.ndarray]
    y: np.ndarray
    groups: np.ndarray | None

    @property
    def middle(self) -> np.ndarray:
        """A layer to choose a solver on."""
        return self.layers[list(self.layers)[len(self.layers) // 2]]

    def tasks(self) -> ProbingTasks:
        """Folds and inner folds."""
        return build_tasks(self.y, self.groups, BARE, self.name)


def scaled(X: np.ndarray) -> np.ndarray:
    """Standard deviations of 1, as who uses scikit-learn well has them."""
    result: np.ndarray = StandardScaler().fit_transform(X)
    return result


def real(model: str, data: Path | None, n_layers: int, limit: int | None) -> Input:
    """Layers of a packaged model on the cities set, or on the capitals that ship."""
    cities = data / "jin2024" / "cities.csv" if data else None
    if cities is not None and cities.is_file():
        columns = {"text": "statement", "label": "label", "group": "city"}
        dataset = llmprobe.load_dataset(str(cities), n=limit, **columns)
    else:
        dataset = llmprobe.load_dataset("capitals", n=limit)
    states = llmprobe.extract(model, dataset, progress=False)
    chosen = np.linspace(1, states.layers[-1], n_layers).round().astype(int)
    raw = {int(layer): states.layer(int(layer)) for layer in chosen}
    groups = None if dataset.groups is None else group_indices(dataset.groups, len(dataset))
    y = np.unique(dataset.labels, return_inverse=True)[1]
    layers = {layer: scaled(X) for layer, X in raw.items()}
    return Input(f"{model} on {dataset.name}, layers {[*raw]}", layers, raw, y, groups)


def synthetic(n: int, d: int, n_layers: int) -> Input:
    """A power-law spectrum, as hidden states have, and a noisy linear concept, fainter later on."""
    rank, draw, layers = min(n, d), np.random.default_rng(0), dict[int, np.ndarray]()
    sizes = np.arange(1, rank + 1, dtype=np.float32) ** -0.5
    known = draw.normal(size=(n, rank)).astype(np.float32)
    logits = (known * sizes) @ draw.normal(size=rank)
    y = (2 * logits / logits.std() > draw.logistic(size=n)).astype(int)
    for layer in range(n_layers):
        noise = draw.normal(size=(n, rank)).astype(np.float32)
        share = 0.3 * layer / n_layers
        factors = np.sqrt(1 - share) * known + np.sqrt(share) * noise
        X = (factors * sizes) @ draw.normal(size=(rank, d)).astype(np.float32)
        layers[layer] = scaled(X)
    return Input(f"synthetic, {n:,} × {d:,}", layers, layers, y, None)


# ------------------------------------------------------------------------------------ scikit-learn


def quiet() -> None:
    """What it says of iterations and of its own changes."""
    warnings.simplefilter("ignore")


def cross_validated(
    X: np.ndarray, y: np.ndarray, folds: np.ndarray, solver: str
) -> LogisticRegressionCV:
    """The whole grid on each fold, by held-out log loss, then a refit."""
    quiet()
    return LogisticRegressionCV(
        Cs=1 / GRID, cv=PredefinedSplit(folds), solver=solver, max_iter=10_000,
        scoring="neg_log_loss", n_jobs=1,
    ).fit(X, y)  # fmt: skip


def fastest_solver(given: Input, folds: np.ndarray) -> str:
    """Of those that take less than minutes."""
    solvers = ["lbfgs", "newton-cg"] + ["newton-cholesky"] * (given.middle.shape[1] <= 1024)
    took = {}
    for solver in solvers:
        began = time.perf_counter()
        cross_validated(given.middle, given.y, folds, solver)
        took[solver] = time.perf_counter() - began
    return min(took, key=lambda solver: took[solver])


def plain_fit(X: np.ndarray, y: np.ndarray) -> None:
    """As most published heatmaps are made: one penalty, states as they are."""
    quiet()
    LogisticRegression(max_iter=1000).fit(X, y)


def one_fit(X: np.ndarray, y: np.ndarray, train: np.ndarray, l2: float, solver: str) -> None:
    quiet()
    model = LogisticRegression(C=1 / l2, solver=solver, max_iter=10_000).fit(X[train], y[train])
    log_loss(y[~train], model.predict_proba(X[~train]), labels=[0, 1])


@dataclass
class ScikitLearn:
    """scikit-learn's ways on an input; each returns what it chose."""

    given: Input
    tasks: ProbingTasks
    solver: str
    pool: Parallel

    def grid(self) -> list[LogisticRegressionCV]:
        """(a) A layer on each core."""
        folds, y = self.tasks.fold_of, self.given.y
        jobs = (
            delayed(cross_validated)(X, y, folds, self.solver) for X in self.given.layers.values()
        )
        return list(self.pool(jobs))

    def plain(self) -> None:
        """(b)"""
        self.pool(delayed(plain_fit)(X, self.given.y) for X in self.given.raw.values())

    def nested(self) -> list[float]:
        """The grid again inside each training set. -> the penalties"""
        jobs = []
        for X in self.given.layers.values():
            for fold, task in enumerate(self.tasks.inner):
                train = self.tasks.fold_of != fold
                jobs.append(
                    delayed(cross_validated)(
                        X[train], self.given.y[train], task.scored_by[train], self.solver
                    )
                )
        return [1 / float(np.ravel(fitted.C_)[0]) for fitted in self.pool(jobs)]

    def relabelled(self) -> None:
        """A sample of permutations and one control labelling, at one penalty: 5 fits each."""
        labels = shuffled_labels(self.given.y, self.given.groups, SAMPLED, 0).T
        self.pool(
            delayed(one_fit)(X, y, train, 100.0, self.solver)
            for X in self.given.layers.values()
            for y in labels
            for train in self.tasks.train
        )


# ---------------------------------------------------------------------------------------- llmprobe


def on_every_layer(given: Input, fit: Callable[[np.ndarray], object]) -> list[object]:
    """As the protocol does it."""
    return list(each_layer(Arrays(given.layers), fit, "", False))


def grid(given: Input, tasks: Sequence[ProbingTask], device: str) -> np.ndarray:
    """Penalties of the tasks, [layers, tasks], with the scaling that scikit-learn was given."""

    def fit(X: np.ndarray) -> np.ndarray:
        design = Design(torch.as_tensor(X).to(device), standardize=False)
        return search(design, LOGISTIC, Logistic(), tasks, tuple(GRID)).l2

    return np.stack(on_every_layer(given, fit))  # type: ignore[arg-type]


def nested(given: Input, tasks: ProbingTasks, device: str) -> None:
    """The nested choice and the refits, on llmprobe's own grid and with its own scaling."""
    on_every_layer(given, lambda X: probe_layer(X, tasks, device))


def everything(given: Input, device: str) -> None:
    """Nested penalties, 100 permutations, control labels, all scores with intervals."""
    llmprobe.probe_layers(
        given.layers, given.y, given.groups, progress=False, permutations=PERMUTATIONS,
        controls=["majority", "random_labels"], description_length=False, device=device,
    )  # fmt: skip


# ------------------------------------------------------------------------------------- comparisons


def objectives(given: Input, tasks: ProbingTasks, fitted: Sequence[LogisticRegressionCV]) -> str:
    """Both objectives of each problem that (c) solved before it left the path."""
    theirs: list[float] = []
    ours: list[float] = []
    sign = 2.0 * given.y - 1
    for X, model in zip(given.layers.values(), fitted, strict=True):
        targets = torch.as_tensor(tasks.targets).expand(tasks.n_folds, -1, -1)
        problems = Problems(
            Design(X, standardize=False), Logistic(), targets, torch.as_tensor(tasks.train).float()
        )
        paths = np.reshape(next(iter(model.coefs_paths_.values()))
                           if isinstance(model.coefs_paths_, dict) else model.coefs_paths_,
                           (tasks.n_folds, len(GRID), -1))  # fmt: skip
        path = PenaltyPath(problems.design, LOGISTIC, problems.loss, [tasks.observed])
        solution = None
        for i, l2 in enumerate(GRID):
            if not len(path.active):
                break
            path.step(float(l2))
            solution = problems.solve(float(l2), solution, tolerance=SEARCH_TOLERANCE)
            fits = problems.raw(solution)
            for fold, train in enumerate(tasks.train):
                for found, coef, intercept in (
                    (ours, fits.coef[:, fold, 0], fits.intercept[fold, 0]),
                    (theirs, paths[fold, i, :-1], paths[fold, i, -1]),
                ):
                    margin = sign[train] * (X[train].astype(float) @ coef + intercept)
                    found.append(np.logaddexp(0, -margin).sum() + l2 / 2 * (coef**2).sum())
    excess = np.asarray(ours) / np.asarray(theirs) - 1
    return (
        f"Of {len(excess)} problems, llmprobe's objective is below scikit-learn's or equal to 1e-6 "
        f"in {np.mean(excess <= 1e-6):.1%}, at most {max(excess.max(), 0):.1e} above it, and up to "
        f"{max(-excess.min(), 0):.1e} below."
    )


def same(ours: np.ndarray, theirs: Sequence[float]) -> str:
    agree = np.isclose(np.ravel(ours), theirs, rtol=1e-6)
    return f"{agree.sum()} of {agree.size}"


def compare(given: Input, options: argparse.Namespace, pool: Parallel) -> None:
    """The table of one input."""
    tasks, small = given.tasks(), given.middle.size < 1e7
    solver = fastest_solver(given, tasks.fold_of)
    sk = ScikitLearn(given, tasks, solver, pool)
    names = {
        "a": f"(a) scikit-learn, 5 folds × 10 penalties ({solver})",
        "b": "(b) scikit-learn, one unscaled fit a layer",
        "c": "(c) llmprobe, 5 folds × 10 penalties",
        "n": "scikit-learn, (a) inside each of 5 training sets",
        "m": "llmprobe, the same, nested",
        "o": "llmprobe, its own protocol: nested, its grid and scaling, refits",
        "r": f"scikit-learn, {SAMPLED} permutations at one penalty",
        "d": "(d) llmprobe, everything",
    }
    jobs: dict[str, Callable[[], object]] = {
        "a": sk.grid,
        "b": sk.plain,
        "c": lambda: grid(given, [tasks.observed], "cpu"),
        "m": lambda: grid(given, tasks.inner, "cpu"),
        "o": lambda: nested(given, tasks, "cpu"),
        "r": sk.relabelled,
        "d": lambda: everything(given, "cpu"),
    }
    if small:
        jobs["n"] = sk.nested
    if torch.cuda.is_available():
        for key in ("c", "d"):
            names[f"{key} cuda"] = f"{names[key]}, CUDA"
        jobs["c cuda"] = lambda: grid(given, [tasks.observed], "cuda")
        jobs["d cuda"] = lambda: everything(given, "cuda")
    took, results = turns(jobs, options.rounds, given.name)
    n_layers = len(given.layers)
    if small:
        # Control labels are 5 more labellings.
        each = (PERMUTATIONS + 5) / SAMPLED
        took["s"] = [n + each * r for n, r in zip(took["n"], took["r"], strict=True)]
        names["s"] = (
            "scikit-learn, everything but intervals, permutations at one penalty (added up)"
        )
        labellings = PERMUTATIONS + 5
        took["t"] = [n + labellings * a for n, a in zip(took["n"], took["a"], strict=True)]
        names["t"] = (
            "the same, choosing the penalty of each permutation as llmprobe does (added up)"
        )
    order = [key for key in ("a", "b", "c", "n", "m", "o", "r", "s", "t", "d", "c cuda", "d cuda")
             if key in took]  # fmt: skip

    def ratio(key: str, other: str) -> str:
        return spread([x / y for x, y in zip(took[key], took[other], strict=True)])

    lines = [f"## {given.name}\n", f"{len(given.y):,} × {given.middle.shape[1]:,} a layer.\n"]
    lines += ["| way | seconds a layer | ÷ (c) | ÷ (d) |", "|---|--:|--:|--:|"]
    lines += [
        f"| {names[key]} | {spread([t / n_layers for t in took[key]], 3)} | {ratio(key, 'c')} | "
        f"{ratio(key, 'd')} |"
        for key in order
    ]
    fitted = results["a"]
    assert isinstance(fitted, list)
    lines += ["", objectives(given, tasks, fitted)]
    chosen = [1 / float(np.ravel(model.C_)[0]) for model in fitted]
    lines[-1] += f" The same penalty in {same(np.asarray(results['c']), chosen)} layers"
    if small:
        theirs = results["n"]
        assert isinstance(theirs, list)
        lines[-1] += f", and nested in {same(np.asarray(results['m']), theirs)} folds"
        lines[-1] += f"; scikit-learn's nested choice takes {ratio('n', 'm')} times llmprobe's"
    peak = peak_bytes(lambda: everything(given, "cpu"), cuda=False)
    lines[-1] += f". Peak memory of (d): {peak / 1e9:.2f} GB, the process and its input included.\n"
    report("\n".join(lines), options.out)


def growth(options: argparse.Namespace) -> None:
    """Seconds of ``fit_many`` as one size after another doubles; one thread."""
    torch.set_num_threads(1)
    sizes = [
        *((n, 512, 50) for n in (1_000, 2_000, 4_000, 8_000, 16_000)),
        *((1_500, d, 50) for d in (256, 512, 1_024, 2_048, 4_096)),
        *((1_500, 512, K) for K in (1, 5, 25, 125, 625)),
    ]
    lines = ["| rows | features | problems | seconds | converged |", "|--:|--:|--:|--:|--:|"]
    for n, d, K in sizes:
        given = synthetic(n, d, 1)
        X, draw = given.layers[0], np.random.default_rng(0)
        weights = (draw.random((n, K)) < 0.8).astype(float)
        targets = np.tile(given.y[:, None], (1, K))
        converged, seconds = 0, []
        for _ in range(options.rounds):
            began = time.perf_counter()
            fits = llmprobe.fit_many(X, targets, weights, l2=100.0)
            seconds.append(time.perf_counter() - began)
            converged = int(fits.converged.sum())
        lines.append(f"| {n:,} | {d:,} | {K} | {spread(seconds, 3)} | {converged} |")
    given = synthetic(1_500, 512, 16)
    lines += ["", "| layers | seconds of everything |", "|--:|--:|"]
    for count in (2, 4, 8, 16):
        some = Input("", {i: given.layers[i] for i in range(count)}, {}, given.y, None)
        seconds = []
        for _ in range(options.rounds):
            began = time.perf_counter()
            everything(some, "cpu")
            seconds.append(time.perf_counter() - began)
        lines.append(f"| {count} | {spread(seconds)} |")
    report("\n".join([*lines, ""]), options.out)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--growth", action="store_true", help="sizes one after another")
    parser.add_argument("--layers", type=int, default=6, help="of each packaged model")
    parser.add_argument("--no-synthetic", action="store_true")
    options = parsed(parser)
    data = Path(options.data) if options.data else None
    head("# Probing" + ", growing" * options.growth, options.out)
    if options.growth:
        growth(options)
        return
    with Parallel(n_jobs=CORES) as pool:
        for model in ("smollm2-135m", "gemma-3-270m"):
            compare(real(model, data, options.layers, options.limit), options, pool)
        if not options.no_synthetic:
            for n, d in ((1_500, 4_096), (20_000, 1_024)):
                compare(synthetic(n, d, 2), options, pool)


if __name__ == "__main__":
    main()
