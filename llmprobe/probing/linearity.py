"""Whether all that can be read is linear, and how many directions it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from llmprobe.config.schema import LinearConfig
from llmprobe.ground.errors import UserError
from llmprobe.ground.progress import Progress
from llmprobe.probing.design import Design
from llmprobe.probing.labels import shuffled_labels
from llmprobe.probing.layer import predictions
from llmprobe.probing.search import search
from llmprobe.probing.tasks import ProbingTasks, targets_of
from llmprobe.probing.workers import States
from llmprobe.results.columns import LINEAR, with_layer_columns
from llmprobe.results.differences import difference_interval
from llmprobe.results.metrics import METRICS, Predictions
from llmprobe.results.resampling import Resamples
from llmprobe.results.results import Results
from llmprobe.results.rivals import measured

BANDWIDTHS = (0.5, 1.0, 2.0)
"""Bandwidths of the kernel, in units of the median distance between two states."""
CLOSE = 0.01
"""How far a probe of few directions may score below the full one."""
MOST_ERASED = 8
"""The largest redundancy that is counted."""
_SPREAD = 4
"""How many layers, from the first to the last, are compared beside the best one."""
_PAIRS = 2000
"""Random pairs of states from which the median distance is taken."""


@dataclass(frozen=True)
class LinearityGap:
    """How much more a curved probe reads than a linear one, in the main metric."""

    gap: float
    """Score of [states, random features] minus that of the states, both out-of-fold."""
    low: float
    """The lower end of its paired 95 % interval by units."""
    high: float
    """The upper end."""
    p_value: float
    """The share of labellings shuffled by unit with a gap as large, the observed one included."""
    detectable: float
    """The gap for planted labels: a parity of the states' two leading principal components."""


def linearity_gap(
    X: np.ndarray,
    tasks: ProbingTasks,
    units: np.ndarray | None,
    *,
    features: int = 2048,
    null: int = 19,
    seed: int = 0,
) -> LinearityGap:
    """Compare probes of states with probes of states and random Fourier features of them.

    The features approximate a Gaussian kernel (Rahimi & Recht 2007, "Random features for
    large-scale kernel machines"). Inside each training fold, the held-out loss chooses a penalty
    and a bandwidth, or the states alone; so if all is linear, random features cost next to nothing.

    Parameters
    ----------
    X
        States of one layer. [n, d]
    tasks
        The folds and the inner folds of the probe, with penalties to choose from.
    units
        The unit of each row, which no split separates; None where each row is its own. [n]
    features
        The number of random features.
    null
        The number of shuffled labellings.
    """
    y, n = tasks.y, len(tasks.y)
    parity, X = _parity(X, tasks), _standardised(X)
    shuffled = shuffled_labels(y, units, null, seed).T if null else np.empty((0, n))
    labellings = [y, parity, *shuffled]
    each = [replace(tasks, y=of, targets=targets_of(of, tasks.classes)) for of in labellings]
    designs = [X, *(np.hstack([X, more]) for more in _features(X, features, seed))]
    losses, logits = [], []
    for columns in designs:
        loss, held_out = _out_of_fold(Design(torch.from_numpy(columns)), each)
        losses.append(loss)
        logits.append(held_out)
    chosen = np.stack(losses).argmin(axis=0)  # [labellings, folds]
    fold_of = tasks.fold_of[0]
    resamples = _resamples(tasks, units, seed)
    metric = METRICS[tasks.main_metric]

    def scores(i: int) -> tuple[float, float, float]:
        fold = np.maximum(fold_of, 0)
        by_row = torch.as_tensor(chosen[i][fold])
        curved = torch.stack([one[i] for one in logits])[by_row, :, torch.arange(n)].T
        one, other = (
            measured(metric, _predictions(of, each[i], resamples)) for of in (logits[0][i], curved)
        )
        return (other[0][0] - one[0][0], *difference_interval(one[0], other[0], one[1], other[1]))

    gap, low, high = scores(0)
    nulls = [scores(i)[0] for i in range(2, len(each))]
    p = (1 + sum(one >= gap for one in nulls)) / (1 + len(nulls)) if nulls else np.nan
    return LinearityGap(gap, low, high, p, scores(1)[0])


def rank(X: np.ndarray, tasks: ProbingTasks, units: np.ndarray | None, seed: int = 0) -> int:
    """Return how many leading principal directions a probe needs to score within `CLOSE` of all.

    They are the principal directions of the training units of each fold, without their labels.

    Parameters
    ----------
    X
        States of one layer. [n, d]
    """
    X = X.astype(np.float64)
    resamples, metric = _resamples(tasks, units, seed).once, METRICS[tasks.main_metric]
    l2 = _penalties(Design(torch.from_numpy(X.astype(np.float32))), tasks)
    projected = []
    for train in tasks.train[: tasks.n_folds]:
        mean = X[train].mean(axis=0)
        directions = np.linalg.svd(X[train] - mean, full_matrices=False)[2]
        projected.append(((X - mean) @ directions.T).astype(np.float32))
    most = int(min(states.shape[1] for states in projected))

    def score(k: int) -> float:
        logits = torch.zeros(len(tasks.targets), len(X))
        for fold, states in enumerate(projected):
            rows = tasks.fold_of[0] == fold
            few = np.ascontiguousarray(states[:, :k])
            logits[:, rows] = _fit(few, tasks, fold, l2[fold])[0][:, rows]
        return metric.estimate(_predictions(logits, tasks, resamples))

    enough = score(most) - CLOSE
    below, k = 0, 1
    while k < most and score(k) < enough:
        below, k = k, 2 * k
    k = min(k, most)
    while k - below > 1:
        middle = (below + k) // 2
        below, k = (below, middle) if score(middle) >= enough else (middle, k)
    return k


def redundancy(X: np.ndarray, tasks: ProbingTasks, units: np.ndarray | None, seed: int = 0) -> int:
    """Return how many directions are enough alone, each erased before the next one is fitted.

    This is iterative null-space projection (Ravfogel et al. 2020). In each fold, a probe is fitted
    on the training units, at the penalty of the first probe. Its direction (for C classes, its
    C - 1 directions) is then projected out of all states, whose features have variance 1, and the
    next probe is fitted on what is left. A probe is enough if it scores within `CLOSE` of the best.

    Returns
    -------
    0 where nothing is read, 1 where only the first direction is enough, and at most `MOST_ERASED`.
    """
    X = _standardised(X)
    l2 = _penalties(Design(torch.from_numpy(X)), tasks)
    metric, resamples = METRICS[tasks.main_metric], _resamples(tasks, units, seed)
    left = [X] * tasks.n_folds
    erased = [np.empty((X.shape[1], 0))] * tasks.n_folds
    enough = -np.inf
    for count in range(MOST_ERASED):
        logits = torch.zeros(len(tasks.targets), len(X))
        for fold, states in enumerate(left):
            rows = tasks.fold_of[0] == fold
            of_fold, coef = _fit(states, tasks, fold, l2[fold])
            logits[:, rows] = of_fold[:, rows]
            coef -= erased[fold] @ (erased[fold].T @ coef)
            directions, sizes, _ = np.linalg.svd(coef, full_matrices=False)
            more = directions[:, sizes > 1e-6 * max(sizes[0], 1e-12)]
            erased[fold] = np.hstack([erased[fold], more])
            left[fold] = (states - (states @ more) @ more.T).astype(np.float32)
        answers = _predictions(logits, tasks, resamples)
        if not count and not _is_read(answers, tasks):
            return 0
        score = metric.estimate(answers)
        if score < enough:
            return count
        enough = max(enough, score - CLOSE)
    return MOST_ERASED


def _is_read(answers: Predictions, tasks: ProbingTasks) -> bool:
    """Whether answers are above chance, by the interval of AUROC, or of R² for numbers."""
    name, chance = ("auroc", 0.5) if len(tasks.classes) else ("r2", 0.0)
    return measured(METRICS[name], answers)[0][1] > chance


def linearity_of_layers(
    states: States,
    tasks: ProbingTasks,
    units: np.ndarray | None,
    best: int,
    config: LinearConfig,
    *,
    seed: int = 0,
    label: str = "",
    progress: bool = True,
) -> pd.DataFrame:
    """Return a row for each layer asked about, with ``columns.LINEAR``.

    The row of the best layer also has its rank and redundancy.

    Parameters
    ----------
    tasks
        The folds and the inner folds of the probe, with penalties to choose from.
    best
        The best layer, which is always among them.
    label
        What the line of progress calls the curve.

    Raises
    ------
    UserError
        There is no such layer, or the folds have too few examples to choose anything inside them.
    """
    layers = _layers(config, states.layers, best)
    rows = []
    with Progress(f"linear? {label}", len(layers), progress) as bar:
        for layer in layers:
            X = states.layer(layer)
            gap = linearity_gap(
                X, tasks, units, features=config.features, null=config.null, seed=seed
            )
            row = {"layer": layer, **dict(zip(LINEAR, asdict(gap).values(), strict=True))}
            asked = layer == best and config.rank
            row["rank"] = rank(X, tasks, units, seed) if asked else np.nan
            row["redundancy"] = redundancy(X, tasks, units, seed) if asked else np.nan
            rows.append(row)
            bar.advance(1)
    return pd.DataFrame(rows)


def with_linearity(results: Results, rows: pd.DataFrame) -> Results:
    """Return the results of one curve with `linearity_of_layers` beside its layers."""
    table = with_layer_columns(results.table, rows, LINEAR)
    best = rows[rows["layer"] == results.summary["peak_layer"].iloc[0]].iloc[0]
    known = {column: float(best[column]) for column in (*LINEAR, "rank", "redundancy")}
    return replace(results, table=table, summary=results.summary.assign(**known))


def _layers(config: LinearConfig, layers: list[int], best: int) -> list[int]:
    """Return the layers that are asked about, the best one among them."""
    if config.layers == "auto":
        places = np.linspace(0, len(layers) - 1, min(_SPREAD, len(layers))).round().astype(int)
        return sorted({best, *(layers[place] for place in places)})
    unknown = set(config.layers) - set(layers)
    if unknown:
        raise UserError(f"linear.layers: there is no layer {min(unknown)}; they are {layers[0]} to "
                        f"{layers[-1]}")  # fmt: skip
    return sorted({best, *config.layers})


def _standardised(X: np.ndarray) -> np.ndarray:
    """Return states whose features have mean 0 and variance 1, or are 0 if they are constant."""
    X = X.astype(np.float64)
    spread = X.std(axis=0)
    scaled: np.ndarray = (X - X.mean(axis=0)) / np.where(spread > 0, spread, 1)
    return scaled.astype(np.float32)


def _features(X: np.ndarray, features: int, seed: int) -> list[np.ndarray]:
    """Return random Fourier features of standardised states, for each bandwidth. Each [n, D]"""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(len(X), size=(2, _PAIRS))
    distance = float(np.median(np.linalg.norm(X[a] - X[b], axis=1)[a != b]))
    directions = rng.normal(size=(X.shape[1], features)) / max(distance, 1e-9)
    phase = rng.uniform(0, 2 * np.pi, size=features)
    return [
        (np.sqrt(2) * np.cos(X @ (directions / bandwidth) + phase)).astype(np.float32)
        for bandwidth in BANDWIDTHS
    ]


def _parity(X: np.ndarray, tasks: ProbingTasks) -> np.ndarray:
    """Return labels that no linear probe reads: a parity of the two leading components. -> [n]"""
    centred = torch.from_numpy(X.astype(np.float64) - X.mean(axis=0, dtype=float))
    directions = torch.linalg.svd(centred, full_matrices=False)[2][:2]
    first, *second = (centred @ directions.T).numpy().T
    other = second[0] if second else first
    if not len(tasks.classes):
        product = (first - first.mean()) * (other - other.mean())
        of_numbers: np.ndarray = product / max(float(product.std()), 1e-12)
        return of_numbers
    C = len(tasks.classes)
    parts = (of.argsort().argsort() * C // len(of) for of in (first, other))
    parity: np.ndarray = sum(parts) % C
    return parity


def _out_of_fold(design: Design, each: Sequence[ProbingTasks]) -> tuple[np.ndarray, list[Tensor]]:
    """Fit the outer folds of several labellings at penalties that are chosen inside them.

    -> the held-out loss of each choice [labellings, folds], and each labelling's logits [C, n]
    """
    tasks, n_folds = each[0], each[0].n_folds
    inner = [replace(task, targets=of.targets) for of in each for task in tasks.inner[:n_folds]]
    best = search(design, tasks.kind, tasks.loss, inner, tasks.penalties)
    masks = torch.as_tensor(np.tile(tasks.train[:n_folds], (len(each), 1)))
    targets = torch.as_tensor(np.repeat([of.targets for of in each], n_folds, axis=0))
    problems = tasks.kind.problems(design, tasks.loss, targets, masks.to(design.X.dtype))
    logits = problems.solve(torch.as_tensor(best.l2)).logits
    fold = torch.as_tensor(np.maximum(tasks.fold_of[0], 0))
    by_labelling = logits.view(len(each), n_folds, *logits.shape[1:])
    rows = torch.arange(logits.shape[2])
    held_out = [of[fold, :, rows].T for of in by_labelling]
    return best.loss.reshape(len(each), n_folds), held_out


def _penalties(design: Design, tasks: ProbingTasks) -> np.ndarray:
    """Return the penalty that each outer fold chooses. [folds]"""
    inner = tasks.inner[: tasks.n_folds]
    return search(design, tasks.kind, tasks.loss, inner, tasks.penalties).l2


def _fit(X: np.ndarray, tasks: ProbingTasks, fold: int, l2: float) -> tuple[Tensor, np.ndarray]:
    """Fit the probe of one fold. -> logits of all rows [1 or C, n], directions [d, 1 or C]"""
    design = Design(torch.from_numpy(X))
    mask = torch.as_tensor(tasks.train[fold][None]).to(design.X.dtype)
    targets = torch.as_tensor(tasks.targets[None])
    problems = tasks.kind.problems(design, tasks.loss, targets, mask)
    solution = problems.solve(torch.tensor([l2]))
    return solution.logits[0], problems.raw(solution).coef[:, 0]


def _predictions(logits: Tensor, tasks: ProbingTasks, resamples: Resamples) -> Predictions:
    """Return logits [C, n] in the form from which metrics are computed."""
    predicted = predictions(logits, tasks)
    if not len(tasks.classes):
        predicted = predicted[:, 0]
    return Predictions(tasks.truth, predicted, resamples, tasks.fold_of[0][tasks.scored])


def _resamples(tasks: ProbingTasks, units: np.ndarray | None, seed: int) -> Resamples:
    """Return resamples of the rows that are scored."""
    scored = tasks.scored
    return Resamples(int(scored.sum()), None if units is None else units[scored], seed)
