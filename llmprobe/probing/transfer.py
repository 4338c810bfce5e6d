"""Transfer: probes of one set of examples, scored on others that they have not seen."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import torch

from llmprobe.config.schema import ProbeConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.shared_units import shared_units
from llmprobe.ground.errors import UserError
from llmprobe.probing.fit_many import Design
from llmprobe.probing.labels import relabellings, shuffled_labels
from llmprobe.probing.search import search
from llmprobe.probing.splits import assign_folds
from llmprobe.probing.tasks import ProbingTasks, build_tasks
from llmprobe.probing.workers import States, each_layer
from llmprobe.results.columns import TRANSFER_LAYERS
from llmprobe.results.curve import FEWEST_RELABELLINGS
from llmprobe.results.metrics import METRICS, Predictions
from llmprobe.results.resampling import Resamples
from llmprobe.results.transfer import TransferMatrix, with_answers

log = logging.getLogger(__name__)

PERMUTATIONS = 1999
"""Permutations of the test labels: scores are fixed, so that they cost next to nothing."""


@dataclass(frozen=True, eq=False)
class TransferSet:
    """Examples that probes are fitted on, or scored on: some rows of a dataset's states."""

    name: str
    """What tables call it."""
    states: States
    """The hidden states of the whole dataset; sets of one dataset share the object."""
    dataset: ConceptDataset
    """The whole dataset."""
    rows: np.ndarray
    """Which of its examples the set has. [n] int"""
    leaves_out: TransferSet | None = None
    """Of all values of a field but one, the set of that one, which is all that it is scored on."""
    masked: TransferSet | None = None
    """Of texts without a field, the set of the same texts with it, whose probes alone score it."""
    field: str = ""
    """The field that its texts are without."""

    @property
    def original(self) -> TransferSet:
        """Return the set with whole texts, from which units and folds are known."""
        return self.masked or self

    @property
    def fitted_on(self) -> str:
        """Return what of its dataset it has: ``dataset``, ``part``, or ``all but one`` value."""
        if self.leaves_out is not None:
            return "all but one"
        return "dataset" if len(self.rows) == len(self.dataset) else "part"

    @property
    def labels(self) -> np.ndarray:
        """Return the labels of the examples of the set. [n]"""
        labels: np.ndarray = self.dataset.labels[self.rows]
        return labels


@dataclass(frozen=True, eq=False)
class _Shared:
    """The examples of a test set that a train set's probes can be asked about."""

    rows: np.ndarray
    """Which examples of the test set have a class that both sets have. [m]"""
    columns: tuple[int, ...]
    """Those classes among the train set's; empty for numbers."""
    truth: np.ndarray
    """Their number among the shared classes, or the label that is a number. [m]"""
    note: str = ""
    """Why nothing can be asked; empty where something can."""


Pair = tuple[TransferSet, TransferSet]
"""A train set and a test set."""


@dataclass(frozen=True, eq=False)
class TransferPlan:
    """Which sets are trained on and scored, and how their examples are dealt out to folds."""

    train: tuple[TransferSet, ...]
    """The sets that probes are fitted on."""
    unit_of: Mapping[TransferSet, np.ndarray]
    """The unit of each example of each set, numbered over all of them. [n] each"""
    fold_of: Mapping[TransferSet, np.ndarray]
    """The fold of each example of each set; all examples of a unit are in one. [n] each"""
    tasks: Mapping[TransferSet, ProbingTasks]
    """The fits of each train set."""
    shared: Mapping[Pair, _Shared]
    """What each train set's probes can be asked about each test set."""
    seed: int
    """That of permutations and resamples."""


@dataclass(frozen=True, eq=False)
class _Trained:
    """The probes of one train set: one for each layer and fold."""

    coef: Mapping[int, np.ndarray]
    """Directions in raw space, by layer. [F, d, C]"""
    intercept: Mapping[int, np.ndarray]
    """By layer. [F, C]"""
    classes: tuple[str, ...]
    """As text, in the order of the probes; empty for labels that are numbers."""
    best: int
    """The layer with the least out-of-fold loss."""


def plan_transfer(
    sets: Sequence[TransferSet],
    config: ProbeConfig,
    train: Sequence[str] = (),
    test: Sequence[str] = (),
    entity: str | None = None,
) -> TransferPlan:
    """Choose sets by name, and deal the units of all together out to folds. Reads no states.

    Raises
    ------
    UserError
        There is no such set, one set only, a train set is too small for the folds, or no two sets
        have labels in common.
    """
    config = config.alone(repeats=1)
    every = dict.fromkeys([*sets, *(one.masked for one in sets if one.masked)])
    names = [one.name for one in every]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"transfer: two sets are called {name!r}; give the dataset another "
                            "name (as: NAME)")  # fmt: skip
    plain = [one for one in sets if one.leaves_out is None and one.masked is None]
    train_sets, test_sets = _named(plain, train), _named(plain, test)
    rest = [one for one in sets if one.leaves_out in test_sets]
    # A dataset that is a set itself may be none that is to be fitted on.
    masked = [
        one for one in sets if one.masked and (one.masked in train_sets or one.masked not in plain)
    ]
    pairs = [
        *product(train_sets, test_sets),
        *((one, one.leaves_out) for one in rest if one.leaves_out),
        *((one.masked, other) for one in masked if one.masked for other in (one.masked, one)),
    ]
    used = list(dict.fromkeys(one for pair in pairs for one in pair))
    if len(used) < 2:
        left = f"{used[0].name} is the only set" if used else "no set has two classes"
        raise UserError(
            f"transfer: {left}; give more datasets, or a field of one (transfer: {{by: FIELD}})"
        )
    split = {id(one.dataset) for one in rest}
    dealt = [one for one in used if one.leaves_out is None and one.masked is None]
    dealt = list(dict.fromkeys([*dealt, *(one for one in plain if id(one.dataset) in split)]))
    unit_of, fold_of = _units_and_folds(used, dealt, config, entity)
    fitted = tuple(dict.fromkeys(one for one, _ in pairs))
    tasks = {
        one: build_tasks(
            one.labels, unit_of[one], config, f"transfer: {one.name}", fold_of=fold_of[one]
        )
        for one in fitted
    }
    shared = {(one, other): _shared(tasks[one], one, other) for one, other in pairs}
    notes = [cell.note for (one, other), cell in shared.items() if one is not other]
    if all(notes):
        raise UserError(f"transfer: {notes[0]}")
    return TransferPlan(fitted, unit_of, fold_of, tasks, shared, config.seed)


def transfer(
    plan: TransferPlan,
    *,
    across_layers: bool = False,
    model: str = "model",
    position: str = "",
    progress: bool = True,
) -> TransferMatrix:
    """Fit probes on each train set, and score them on each test set.

    Folds are dealt to the units of all sets together (`datasets.shared_units`), and each example is
    scored by the probe of its fold, which saw its unit in no set. So the diagonal is out-of-fold,
    and a probe that has memorised units gains nothing elsewhere. The layer of a cell is the train
    set's own best.

    Parameters
    ----------
    across_layers
        Whether probes of every layer are scored on the states of every other one too.

    Raises
    ------
    UserError
        The sets are states of different layers.
    """
    layers = _common_layers(list(plan.unit_of))
    trained = {one: _fit(one, plan, layers, progress) for one in plan.train}
    names = {"model": model, "position": position}
    by_layer, answers = _scored(trained, plan.shared, plan.fold_of, layers, across_layers)
    labels = _ShuffledLabels(plan.unit_of, plan.seed)
    rows = []
    for (one, other), cell in plan.shared.items():
        best = trained[one].best
        row = {
            **names, "train": one.name, "test": other.name,
            "train_layer": best, "test_layer": best, "note": cell.note,
            "n_examples": len(cell.rows),
            "shared_units": len(np.intersect1d(plan.unit_of[one], plan.unit_of[other])),
            **_origin(one, other),
        }  # fmt: skip
        if not cell.note:
            row |= _cell(cell, answers[one, other], other, plan, labels)
        rows.append(row)
    table = pd.DataFrame(rows).reindex(columns=[*dict.fromkeys([*_MEASURED, *rows[0]])])
    return TransferMatrix(
        with_answers(table),
        pd.DataFrame(by_layer).assign(**names).reindex(columns=list(TRANSFER_LAYERS)),
    )


_MEASURED = (
    *("accuracy", "accuracy_refitted_threshold", "auroc", "auroc_low", "auroc_high", "p_value"),
    *("rank_correlation", "rank_correlation_low", "rank_correlation_high"),
)


def _named(sets: Sequence[TransferSet], names: Sequence[str]) -> tuple[TransferSet, ...]:
    """Return the sets of some names, or all; raise ``UserError`` where there is none of a name."""
    by_name = {one.name: one for one in sets}
    for name in names:
        if name not in by_name:
            raise UserError(f"transfer: no set is called {name!r}; there are {', '.join(by_name)}")
    return tuple(by_name[name] for name in names or by_name)


def _common_layers(sets: Sequence[TransferSet]) -> list[int]:
    first = sets[0]
    for other in sets:
        if other.states.layers != first.states.layers:
            raise UserError(
                f"transfer: {first.name} and {other.name} are states of different layers"
            )
    return first.states.layers


def _origin(one: TransferSet, other: TransferSet) -> dict[str, str]:
    """Return of which datasets a train set and a test set are, and what of them."""
    return {
        "train_dataset": one.original.dataset.name, "test_dataset": other.original.dataset.name,
        "fitted_on": one.fitted_on, "masked": other.field,
    }  # fmt: skip


def _units_and_folds(
    used: Sequence[TransferSet],
    dealt: Sequence[TransferSet],
    config: ProbeConfig,
    entity: str | None,
) -> tuple[dict[TransferSet, np.ndarray], dict[TransferSet, np.ndarray]]:
    """Number the units of all sets, and deal them out to folds, stratified by set and label.

    Parameters
    ----------
    used
        All sets.
    dealt
        Those whose rows are dealt out, in which all rows of the others are: each once in these.
    """
    datasets = list({id(one.dataset): one.dataset for one in dealt}.values())
    unit_of_row = dict(zip(map(id, datasets), shared_units(datasets, entity), strict=True))
    for_numbers = config.kind == "ridge"
    strata = np.concatenate(
        [
            [f"{'' if for_numbers else label} of {one.name}" for label in _as_text(one.labels)]
            for one in dealt
        ]
    )
    units = np.concatenate([unit_of_row[id(one.dataset)][one.rows] for one in dealt])
    fold_of_unit = np.full(units.max() + 1, -1)
    fold_of_unit[units] = assign_folds(strata, units, config.folds, config.seed, "transfer")
    unit_of = {one: unit_of_row[id(one.original.dataset)][one.rows] for one in used}
    return unit_of, {one: fold_of_unit[unit] for one, unit in unit_of.items()}


def _as_text(labels: np.ndarray) -> np.ndarray:
    """Return labels such that 1, 1.0 and "1" are the same. [n]"""
    if labels.dtype.kind == "f" and (labels % 1 == 0).all():
        labels = labels.astype(int)
    text: np.ndarray = labels.astype(int).astype(str) if labels.dtype.kind == "b" else labels
    return text.astype(str)


def _fit(one: TransferSet, plan: TransferPlan, layers: Sequence[int], progress: bool) -> _Trained:
    """Fit a probe for each layer and fold, with penalties chosen inside the training folds."""
    tasks = plan.tasks[one]
    label = f"fitting on {one.name}"
    fits = each_layer(one.states, partial(_fit_layer, rows=one.rows, tasks=tasks), label, progress)
    coef, intercept, skill = zip(*fits, strict=True)
    best = layers[int(np.argmax(skill))]
    return _Trained(
        dict(zip(layers, coef, strict=True)), dict(zip(layers, intercept, strict=True)),
        _classes(tasks), best,
    )  # fmt: skip


def _fit_layer(
    X: np.ndarray, rows: np.ndarray, tasks: ProbingTasks
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return each fold's direction [F, d, C] and intercept [F, C] on some rows, and the skill."""
    design = Design(torch.as_tensor(X[rows]))
    chosen = search(design, tasks.kind, tasks.loss, [*tasks.inner, tasks.observed], tasks.penalties)
    folds = len(tasks.train)
    l2 = chosen.l2[:folds] if tasks.inner else np.full(folds, tasks.penalties[0])
    targets = torch.as_tensor(tasks.targets)
    weights = torch.as_tensor(tasks.train).to(design.X.dtype)
    problems = tasks.kind.problems(design, tasks.loss, targets.expand(folds, -1, -1), weights)
    fits = problems.raw(problems.solve(torch.as_tensor(l2)))
    skill = 1 - chosen.loss[-1] / tasks.intercept_loss[0]
    return fits.coef.transpose(1, 0, 2), fits.intercept, float(skill)


def _classes(tasks: ProbingTasks) -> tuple[str, ...]:
    """Return the classes as text, none for labels that are numbers."""
    return tuple(_as_text(tasks.classes).tolist()) if len(tasks.classes) else ()


def _shared(tasks: ProbingTasks, one: TransferSet, other: TransferSet) -> _Shared:
    """Return what probes of ``one`` can be asked about the examples of ``other``."""
    classes = _classes(tasks)
    if not classes:
        if other.labels.dtype.kind not in "fiu":
            note = f"{one.name} has numbers as labels and {other.name} has classes"
            return _Shared(np.empty(0, int), (), np.empty(0), note)
        return _Shared(np.arange(len(other.rows)), (), other.labels.astype(float))
    labels = _as_text(other.labels)
    columns = tuple(column for column, name in enumerate(classes) if (labels == name).any())
    if len(columns) < 2:
        ours, theirs = ", ".join(classes[:4]), ", ".join(np.unique(labels)[:4])
        note = (
            f"{one.name} and {other.name} have fewer than two classes in common (labels {ours}; "
            f"{theirs})"
        )
        return _Shared(np.empty(0, int), (), np.empty(0), note)
    number = {classes[column]: place for place, column in enumerate(columns)}
    rows = np.flatnonzero(np.isin(labels, list(number)))
    return _Shared(rows, columns, np.array([number[label] for label in labels[rows]]))


def _scored(
    trained: Mapping[TransferSet, _Trained],
    shared: Mapping[Pair, _Shared],
    fold_of: Mapping[TransferSet, np.ndarray],
    layers: Sequence[int],
    across_layers: bool,
) -> tuple[list[dict[str, object]], dict[Pair, np.ndarray]]:
    """Score every probe on every test set, one product for each layer of the states.

    -> a row for each cell and pair of layers; and each cell's logits [m, C] at its best layer
    """
    rows: list[dict[str, object]] = []
    answers = {}
    of_states: dict[int, list[TransferSet]] = {}
    for other in dict.fromkeys(other for _, other in shared):
        of_states.setdefault(id(other.states), []).append(other)
    for group in of_states.values():
        for test_layer in layers:
            X = group[0].states.layer(test_layer)
            for other in group:
                fitted = [
                    (one, layer)
                    for one, scored in shared
                    if scored is other
                    for layer in (layers if across_layers else [test_layer])
                    if trained[one].coef[layer].shape[1] == X.shape[1]
                ]
                if not fitted:
                    continue
                stacked = [trained[one].coef[layer].transpose(1, 0, 2) for one, layer in fitted]
                columns = np.cumsum([coef[0].size for coef in stacked])[:-1]
                directions = np.concatenate(
                    [coef.reshape(len(coef), -1) for coef in stacked], axis=1
                )
                products = np.split(X[other.rows].astype(float) @ directions, columns, axis=1)
                for (one, layer), values in zip(fitted, products, strict=True):
                    cell, probes = shared[one, other], trained[one]
                    if cell.note:
                        continue
                    logits = _of_own_fold(values, probes.intercept[layer], fold_of[other])
                    logits = _of_classes(logits[cell.rows], probes, cell)
                    if layer == test_layer == probes.best:
                        answers[one, other] = logits
                    score = "auroc" if probes.classes else "rank_correlation"
                    rows.append(
                        {"train": one.name, "test": other.name, "train_layer": layer,
                         "test_layer": test_layer,
                         **_origin(one, other),
                         score: _separation(cell.truth, logits, fold_of[other][cell.rows])}
                    )  # fmt: skip
    return rows, answers


def _of_own_fold(values: np.ndarray, intercept: np.ndarray, fold_of: np.ndarray) -> np.ndarray:
    """Return each example's logits by the probe of its fold. [n, F · C], [F, C] -> [n, C]"""
    by_fold = values.reshape(len(values), *intercept.shape) + intercept
    own: np.ndarray = by_fold[np.arange(len(values)), fold_of]
    return own


def _of_classes(logits: np.ndarray, probes: _Trained, cell: _Shared) -> np.ndarray:
    """Return the logits of the shared classes [m, C]; of numbers, what is predicted [m, 1]."""
    if not probes.classes:
        return logits
    if len(probes.classes) == 2:
        logits = np.column_stack([np.zeros(len(logits)), logits])
    of_classes: np.ndarray = logits[:, cell.columns]
    return of_classes


def _separation(truth: np.ndarray, logits: np.ndarray, fold_of: np.ndarray) -> float:
    """Return the AUROC of logits [m, C], or of numbers [m, 1] the rank correlation."""
    return float(_statistics(truth[:, None], logits, fold_of)[0])


def _statistics(truth: np.ndarray, logits: np.ndarray, fold_of: np.ndarray) -> np.ndarray:
    """Return the AUROC, or of numbers the rank correlation, of each of B labellings.

    Within folds; of more than two classes the mean of one against the rest. truth [m, B],
    logits [m, C] -> [B]
    """
    if logits.shape[1] == 1:
        return _rank_correlations(truth, logits[:, 0], fold_of)
    probabilities = _probabilities(logits)
    classes = [1] if logits.shape[1] == 2 else range(logits.shape[1])
    areas = [aurocs(truth == k, probabilities[:, k], fold_of) for k in classes]
    means: np.ndarray = np.mean(areas, axis=0)
    return means


def aurocs(positive: np.ndarray, scores: np.ndarray, fold_of: np.ndarray) -> np.ndarray:
    """Compute the AUROC within folds of B labellings: `metrics.auroc` of each.

    positive [m, B] bool, scores [m], fold_of [m] -> [B], NaN where no fold has both classes
    """
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    in_order, pairs = np.zeros((2, positive.shape[1]))
    for fold in np.unique(fold_of):
        rows = fold_of == fold
        labels = positive[rows].astype(float)
        count = labels.sum(axis=0)
        in_order += rankdata(scores[rows]) @ labels - count * (count + 1) / 2
        pairs += count * (len(labels) - count)
    with np.errstate(invalid="ignore"):
        areas: np.ndarray = in_order / pairs
    return areas


def _rank_correlations(truth: np.ndarray, scores: np.ndarray, fold_of: np.ndarray) -> np.ndarray:
    """Compute `metrics.rank_correlation` of B labellings. truth [m, B], scores [m] -> [B]"""
    from scipy.stats import rankdata

    weighted, total = np.zeros((2, truth.shape[1]))
    for fold in np.unique(fold_of):
        rows = fold_of == fold
        a, b = (rankdata(of[rows], axis=0) for of in (truth, scores[:, None]))
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        with np.errstate(invalid="ignore"):
            correlation = (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum())
        there = np.isfinite(correlation)
        weighted += np.where(there, correlation * rows.sum(), 0)
        total += np.where(there, rows.sum(), 0)
    with np.errstate(invalid="ignore"):
        correlations: np.ndarray = weighted / total
    return correlations


def _probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the soft-max of logits [m, C]."""
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = exponents / exponents.sum(axis=1, keepdims=True)
    return probabilities


class _ShuffledLabels:
    """The labels of test sets, permuted by unit: drawn once, for all probes that are scored."""

    def __init__(self, unit_of: Mapping[TransferSet, np.ndarray], seed: int) -> None:
        self.unit_of, self.seed = unit_of, seed
        self.drawn: dict[tuple[TransferSet, bytes], np.ndarray | None] = {}

    def of(self, other: TransferSet, cell: _Shared) -> np.ndarray | None:
        """Return permuted labels [m, B]; None where too few are different for a p-value."""
        key = other, cell.rows.tobytes() + cell.truth.tobytes()
        if key not in self.drawn:
            units = self.unit_of[other][cell.rows]
            few = relabellings(cell.truth, units) < FEWEST_RELABELLINGS
            self.drawn[key] = (
                None if few else shuffled_labels(cell.truth, units, PERMUTATIONS, self.seed)
            )
        return self.drawn[key]


def _cell(
    cell: _Shared,
    logits: np.ndarray,
    other: TransferSet,
    plan: TransferPlan,
    labels: _ShuffledLabels,
) -> dict[str, float]:
    """Return the scores of one cell, from logits [m, C] at the train set's best layer."""
    folds, units = plan.fold_of[other][cell.rows], plan.unit_of[other][cell.rows]
    is_number = logits.shape[1] == 1
    predicted = logits[:, 0] if is_number else _probabilities(logits)
    answers = Predictions(cell.truth, predicted, Resamples(len(cell.rows), units, plan.seed), folds)
    metric = METRICS["rank_correlation" if is_number else "auroc"]
    scores = metric.score([answers])
    shuffled = labels.of(other, cell)
    if shuffled is not None:
        observed = _separation(cell.truth, logits, folds)
        scores["p_value"] = two_sided(observed, _statistics(shuffled, logits, folds))
    if is_number:
        return scores
    scores["accuracy"] = METRICS["accuracy"].estimate(answers)
    refitted = with_refitted_thresholds(cell.truth, logits, folds)
    return scores | {"accuracy_refitted_threshold": refitted}


def two_sided(observed: float, shuffled: np.ndarray) -> float:
    """Return twice the smaller share of shuffled statistics [B] as far out, the observed included.

    NaN where the statistic is not defined.
    """
    shuffled = shuffled[np.isfinite(shuffled)]
    if not np.isfinite(observed) or not len(shuffled):
        return np.nan
    above = (shuffled >= observed - 1e-12).sum()
    below = (shuffled <= observed + 1e-12).sum()
    return float(min(1.0, 2 * (1 + min(above, below)) / (1 + len(shuffled))))


def with_refitted_thresholds(truth: np.ndarray, logits: np.ndarray, fold_of: np.ndarray) -> float:
    """Return the accuracy with thresholds that are fitted on the other folds of the test set.

    Directions stay as they are, also where they read the opposite: what is fitted is a number that
    is added to the logit of each class, as one threshold of two classes is.

    Parameters
    ----------
    truth
        Class indices. [m]
    logits
        [m, C]
    fold_of
        Of one fold alone nothing could be fitted, so the accuracy is NaN. [m]
    """
    right = np.empty(len(truth), dtype=bool)
    for fold in np.unique(fold_of):
        rows = fold_of == fold
        if rows.all():
            return np.nan
        offsets = _best_offsets(truth[~rows], logits[~rows])
        right[rows] = (logits[rows] + offsets).argmax(axis=1) == truth[rows]
    return float(right.mean())


_ROUNDS = 10
"""Times that each class's threshold is fitted in turn, at most: a few rounds settle it."""


def _best_offsets(truth: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return what to add to the logits [m, C] to be right most often. [C]

    Of two classes that is the best threshold. Of more, each is moved in turn to its best place
    beside the others, from where they are and from where all have the same mean.
    """
    n_classes = logits.shape[1]
    moved = range(1, 2) if n_classes == 2 else range(n_classes)
    best, most = np.zeros(n_classes), -1
    for start in (np.zeros(n_classes), -logits.mean(axis=0))[: n_classes - 1]:
        offsets, before = start.copy(), -1
        for _ in range(_ROUNDS):
            for k in moved:
                offsets[k] += _best_offset(truth, logits + offsets, k)
            right = int(((logits + offsets).argmax(axis=1) == truth).sum())
            if right <= before:
                break
            before = right
        if before > most:
            best, most = offsets, before
    return best


def _best_offset(truth: np.ndarray, logits: np.ndarray, k: int) -> float:
    """Return what to add to the logits of class k, half-way between two changes of an answer."""
    others = np.delete(logits, k, axis=1)
    margin = logits[:, k] - others.max(axis=1)
    without = others.argmax(axis=1)
    without += without >= k
    order = margin.argsort(kind="stable")
    ranked = margin[order]
    # Below a cut the answer is the best of the other classes, above it k.
    gain = (without == truth).astype(int) - (truth == k)
    gained = np.concatenate([[0], np.cumsum(gain[order])])
    cuts = np.concatenate([ranked[:1] - 1, (ranked[1:] + ranked[:-1]) / 2, ranked[-1:] + 1])
    possible = np.concatenate([[True], ranked[1:] > ranked[:-1], [True]])
    return -float(cuts[np.where(possible, gained, -len(truth)).argmax()])


def sets_of(
    dataset: ConceptDataset,
    states: States,
    by: str | None = None,
    prefix: str = "",
    leave_one_out: bool = False,
) -> list[TransferSet]:
    """Return a dataset as one set, or as one for each value of a field, called ``prefix`` + value.

    Values with which there are fewer than two classes are left out.

    Parameters
    ----------
    leave_one_out
        Whether there is a set ``all but VALUE`` for each of three or more: of two, it is the other.

    Raises
    ------
    UserError
        The dataset has no such field.
    """
    if by is None:
        return [TransferSet(dataset.name, states, dataset, np.arange(len(dataset)))]
    if by not in dataset.fields:
        known = ", ".join(map(str, dataset.fields.columns)) or "none"
        raise UserError(f"dataset {dataset.name!r}: transfer: no field {by!r}; its fields: {known}")
    values = dataset.fields[by]
    sets = {}
    for value in pd.unique(values.dropna()):
        rows = np.flatnonzero(values == value)
        if len(np.unique(dataset.labels[rows])) > 1:
            sets[value] = TransferSet(f"{prefix}{value}", states, dataset, rows)
        else:
            log.warning(
                "transfer: %s: %s %r is left out: all its labels are the same",
                dataset.name, by, str(value),
            )  # fmt: skip
    rest = []
    if leave_one_out and len(sets) > 2:
        for value, left_out in sets.items():
            others = np.sort(np.concatenate([o.rows for o in sets.values() if o is not left_out]))
            name = f"{prefix}all but {value}"
            rest.append(TransferSet(name, states, dataset, others, leaves_out=left_out))
    return [*sets.values(), *rest]


Masked = tuple[str, ConceptDataset, States]
"""A field, a dataset whose texts are without it, and the states of those."""


def sets_of_all(
    datasets: Sequence[tuple[ConceptDataset, States]],
    by: str | None = None,
    leave_one_out: bool = False,
    masked: Mapping[str, Sequence[Masked]] | None = None,
) -> list[TransferSet]:
    """Return datasets as sets; those that have the field ``by`` as a set for each value of it.

    Sets are called as the datasets or the values are, or DATASET:VALUE where several have the
    field.

    Parameters
    ----------
    leave_one_out
        Whether all values but one are sets too.
    masked
        By the name of a dataset, its texts without some fields.

    Raises
    ------
    UserError
        No dataset has such a field.
    """
    having = [dataset for dataset, _ in datasets if by in dataset.fields]
    if by is not None and not having:
        sets_of(*datasets[0], by)
    sets = []
    for dataset, states in datasets:
        prefix = f"{dataset.name}:" if len(having) > 1 else ""
        field = by if by in dataset.fields else None
        own = sets_of(dataset, states, field, prefix, leave_one_out)
        sets += own
        whole = own[0] if field is None else sets_of(dataset, states)[0]
        sets += [
            TransferSet(texts.name, of_texts, texts, whole.rows, masked=whole, field=name)
            for name, texts, of_texts in (masked or {}).get(dataset.name, ())
        ]
    return sets
