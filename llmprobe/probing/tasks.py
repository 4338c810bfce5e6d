"""The tasks of every layer: the labels on their splits, and other labels on theirs."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from llmprobe.config.probe_kinds import PROBE_KINDS
from llmprobe.config.schema import ProbeConfig
from llmprobe.datasets.groups import group_indices
from llmprobe.ground.errors import UserError
from llmprobe.probing.kinds import ProbeKind
from llmprobe.probing.labels import (
    control_folds,
    control_labels,
    opposite_labels,
    portions,
    relabellings,
    shuffled_labels,
)
from llmprobe.probing.losses import Loss
from llmprobe.probing.search import PENALTIES, ProbingTask
from llmprobe.probing.splits import ENOUGH, assign_folds, inner_folds, some_units
from llmprobe.results.curve import FEWEST_RELABELLINGS

log = logging.getLogger(__name__)

CONTROL_DRAWS = 5
"""Random labellings whose mean is the control accuracy."""

_SUBSETS, _REPEATS, _ASIDE = 4, 6, 7
"""Streams of random numbers: of the learning curve, of repeated folds, of units set aside;
labels.py and splits.py have the others."""

MOST_FRACTIONS = 10
"""The most different labels that may still be classes if some have fractions."""

MANY_CLASSES = 20
"""More different whole numbers than this are probably scores, not classes."""

MOST_FREQUENT = 1.2
"""The most fair shares that a class may have for accuracy to be the main metric: 60 % of two
classes."""

MOST_CODED = 5000
"""The most labels that the online code encodes: of more examples, a random part."""

CODE_ORDERS = 3
"""Orders of the groups in which the labels are sent, each an online code of its own."""


@dataclass(frozen=True)
class ProbingTasks:
    """All tasks of a dataset; none depends on hidden states, so they serve every layer."""

    kind: ProbeKind
    loss: Loss
    penalties: tuple[float, ...]
    """The penalties to choose from, from strong to weak; or the only one."""
    classes: np.ndarray
    """Names of the classes, sorted; empty for continuous labels. [C]"""
    y: np.ndarray
    """Class indices, or continuous labels. [n]"""
    targets: np.ndarray
    """The labels as the loss takes them. [1 or C, n]"""
    fold_of: np.ndarray
    """The outer fold of each row, in each of R repeats; -1 for rows that are trained on only,
    beside a test set. [R, n]"""
    inner: tuple[ProbingTask, ...]
    """For each outer fold of each repeat, the choice of a penalty inside its training set."""
    observed: ProbingTask
    """The choice of a penalty for the probe that is fitted on all rows, in the first repeat's
    folds. Its loss chooses the best layer, and is compared with that of shuffled labels."""
    shuffled: tuple[ProbingTask, ...]
    """Choices of a penalty like that of ``observed``, with shuffled labels."""
    relabellings: float
    """How many different labellings shuffling can give, up to a million."""
    control: tuple[ProbingTask, ...]
    """Choices of a penalty with a random label for each group."""
    beside_control: tuple[ProbingTask, ...]
    """The same with the labels themselves, on the splits of each control task; none where groups
    hold opposite labels, which put the concept below chance there."""
    online: tuple[ProbingTask, ...]
    """The online codes: one for each order in which groups are sent; none for numbers."""
    subsets: np.ndarray
    """Training rows of the learning curve, for each fraction and fold. [fractions, folds, n]"""
    calibrated: ProbingTask | None = None
    """The choice of a penalty for the probe that is kept, and of its best layer, without the rows
    that are set aside for its thresholds; None where none are."""
    aside: np.ndarray | None = None
    """Which rows are set aside. [n] bool"""

    @property
    def scored(self) -> np.ndarray:
        """Return which rows are scored. [n] bool"""
        scored: np.ndarray = self.fold_of[0] >= 0
        return scored

    @property
    def fitted(self) -> np.ndarray:
        """Return which rows the probe that is kept is fitted on, without a test set. [n] bool"""
        return np.ones(len(self.y), dtype=bool) if self.aside is None else ~self.aside

    @cached_property
    def intercept_loss(self) -> np.ndarray:
        """Return the held-out loss of an intercept alone, of ``observed`` and then ``shuffled``.

        -> [1 + permutations]
        """
        labellings = self.observed, *self.shuffled
        return np.array([intercept_loss(task, self.loss) for task in labellings])

    @property
    def search_metric(self) -> str:
        """Return the metric of control tasks and learning curves: accuracy, or R² of numbers."""
        return "accuracy" if len(self.classes) else "r2"

    @property
    def main_metric(self) -> str:
        """Return the metric that is shown: R² for numbers, accuracy for classes.

        Where one class is so frequent that always answering it would look like knowing, it is AUROC
        for two classes and balanced accuracy for more. (Of more than two classes, tables keep only
        the predicted one with its probability, and balanced accuracy needs no more.)
        """
        if not len(self.classes):
            return "r2"
        most = np.bincount(self.truth).max() / len(self.truth)
        if most * len(self.classes) <= MOST_FREQUENT:
            return "accuracy"
        return "auroc" if len(self.classes) == 2 else "balanced_accuracy"

    @property
    def truth(self) -> np.ndarray:
        """Return class indices or numbers of the scored rows. [m]"""
        truth: np.ndarray = self.y[self.scored]
        return truth

    @property
    def without_refits(self) -> ProbingTasks:
        """Return what the probes themselves need: no shuffled, control or encoded labels."""
        return replace(
            self, shuffled=(), control=(), beside_control=(), online=(), subsets=self.subsets[:0]
        )

    @property
    def bare(self) -> ProbingTasks:
        """Return what out-of-fold predictions need: nothing for the probe that is kept either."""
        return replace(self.without_refits, calibrated=None, aside=None)

    @property
    def kept_choices(self) -> tuple[ProbingTask, ...]:
        """Return the choice of a penalty for the probe that is kept, and ``observed`` last."""
        return (self.observed,) if self.calibrated is None else (self.calibrated, self.observed)

    @property
    def n_folds(self) -> int:
        """Return the number of outer folds of a repeat."""
        return int(self.fold_of.max()) + 1

    @property
    def train(self) -> np.ndarray:
        """Return the training rows of each outer fold of each repeat. [R · folds, n] bool"""
        return np.concatenate([_train(fold_of) for fold_of in self.fold_of])


def build_tasks(
    labels: np.ndarray,
    units: np.ndarray | None,
    config: ProbeConfig,
    where: str,
    test: np.ndarray | None = None,
    fold_of: np.ndarray | None = None,
    control_of: np.ndarray | None = None,
) -> ProbingTasks:
    """Return the tasks of a config, for labels [n] and the units [n] that no split may separate.

    With ``test`` [n] bool there is one split: those rows are scored, by probes fitted on the rest.
    With ``fold_of`` [n] the rows have been dealt out to folds already, once. ``control_of`` [n]
    says which rows get the same random label in the control task, such as those of a word type; by
    default the rows of a unit.

    Raises
    ------
    UserError
        There is only one class; labels of a ridge probe are no numbers; there are too few examples,
        units or members of a class for the folds; a unit has rows both in ``test`` and outside it;
        a class of the test set has no rows outside it; ``calibrate`` is asked for with a test set,
        or with too few examples to set some aside.
    """
    kind: ProbeKind = PROBE_KINDS[config.kind]
    classes, y = _encode(labels, kind, where)
    stratify = bool(len(classes))
    n, seed = len(y), config.seed
    if fold_of is not None:
        fold_of = fold_of[None]
    elif test is None:
        again = [(), *((_REPEATS, i) for i in range(1, config.n_repeats))]
        try:
            fold_of = np.stack(
                [assign_folds(labels, units, config.folds, [seed, *repeat], where,
                              stratify=stratify) for repeat in again]
            )  # fmt: skip
        except UserError as error:
            if len(classes) <= MANY_CLASSES or classes.dtype.kind not in "iu":
                raise
            raise UserError(
                f"{error}; if the {len(classes):,} different labels are scores and no classes, set "
                "probe.kind to ridge"
            ) from None
    else:
        fold_of = _one_split(test, y, classes, units, where)[None]
    auto = config.l2 == "auto" and kind.has_penalty
    inner: tuple[ProbingTask, ...] = ()
    targets = targets_of(y, classes)
    if auto or config.multi_layer is not None:  # A multi-layer probe chooses its form there too.
        try:
            inner = tuple(
                _choice(targets, fold, units, seed)
                for of_repeat in fold_of
                for fold in inner_folds(y, units, of_repeat, seed, stratify=stratify).T
            )
        except UserError as error:
            way_out = "set probe.l2 to a number, such as 100" if auto else "leave out multi_layer"
            raise UserError(f"{where}: {error}; {way_out}") from None
    shuffled, n_relabellings = _shuffled(
        y, classes, units, config, where, None if test is None else fold_of[0]
    )
    observed = _split(targets, fold_of[0])
    aside = calibrated = None
    if config.calibrate is not None and len(classes) == 2:
        if test is not None:
            raise UserError(f"{where}: probe.calibrate: there is a test set; leave out one of the "
                            "two")  # fmt: skip
        aside = _set_aside(config.calibrate, y, group_indices(units, n), seed)
        calibrated = _without(observed, aside, where)
    of = units if control_of is None else control_of
    control = _control(y, classes, of, config) if "random_labels" in config.controls else ()
    return ProbingTasks(
        kind=kind,
        loss=kind.loss(len(classes)),
        penalties=PENALTIES if auto else (1.0 if config.l2 == "auto" else config.l2,),
        classes=classes,
        y=y,
        targets=targets,
        fold_of=fold_of,
        inner=inner,
        observed=observed,
        shuffled=shuffled,
        relabellings=min(n_relabellings, 1e6),
        control=control,
        beside_control=_beside_control(targets, of, control, where),
        online=_online(targets, classes, units, fold_of[0], seed)
        if config.description_length
        else (),
        subsets=_subsets(config.learning_curve, fold_of[0], group_indices(units, n), seed),
        calibrated=calibrated,
        aside=aside,
    )


def _encode(labels: np.ndarray, kind: ProbeKind, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes (none for labels that are numbers) and labels as numbers [n]."""
    if kind.for_numbers:
        if labels.dtype.kind not in "fiu":
            raise UserError(f"{where}: labels are no numbers; a ridge probe needs numbers")
        y = labels.astype(float)
        if not np.isfinite(y).all() or y.min() == y.max():
            raise UserError(f"{where}: labels are not finite, or all the same")
        return np.empty(0), y
    classes, y = np.unique(labels, return_inverse=True)
    if labels.dtype.kind == "f" and len(classes) > MOST_FRACTIONS and (classes % 1 != 0).any():
        raise UserError(
            f"{where}: {len(classes)} different labels with fractions are no classes; set "
            "probe.kind to ridge for labels that are numbers"
        )
    if len(classes) < 2:
        raise UserError(f"{where}: one class only; a probe needs at least two")
    return classes, y


def targets_of(y: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return targets: of class 1 or standardised numbers [1, n], of more classes [C, n]."""
    if not len(classes):
        targets = (y - y.mean()) / y.std()
    else:
        targets = y if len(classes) == 2 else y == np.arange(len(classes))[:, None]
    return np.atleast_2d(targets).astype(np.float32)


def _one_split(
    test: np.ndarray,
    y: np.ndarray,
    classes: np.ndarray,
    units: np.ndarray | None,
    where: str,
) -> np.ndarray:
    """Return fold 0 for test rows and -1 for the others. [n]"""
    if test.all() or not test.any():
        rows, wanted = ("every row", "fit probes on") if test.all() else ("no row", "score")
        raise UserError(f"{where}: {rows} is of the test set; leave some to {wanted}")
    if units is not None and (torn := np.intersect1d(units[test], units[~test])).size:
        raise UserError(
            f"{where}: {len(torn)} groups (or texts) have rows both in test and outside it"
        )
    if len(classes) and (absent := np.setdiff1d(y[test], y[~test])).size:
        raise UserError(f"{where}: class {classes[absent[0]]} has no rows outside test")
    return np.where(test, 0, -1)


def _train(fold_of: np.ndarray) -> np.ndarray:
    """Return which rows the probe of each outer fold is fitted on. [folds, n] bool"""
    train: np.ndarray = fold_of != np.arange(fold_of.max() + 1)[:, None]
    return train


def _split(targets: np.ndarray, fold_of: np.ndarray) -> ProbingTask:
    """Return a task in which each outer fold is scored by the probe fitted on the rest."""
    return ProbingTask(targets, _train(fold_of), fold_of)


def _set_aside(share: float, y: np.ndarray, unit_of: np.ndarray, seed: int) -> np.ndarray:
    """Return the rows of random units, the same share of those with negatives and of others. [n]

    Among the units with negatives every choice is equally likely: the guarantee rests on that.
    """
    rng = np.random.default_rng([seed, _ASIDE])
    has_negative = np.bincount(unit_of, y == 0) > 0
    aside = np.zeros(len(has_negative), dtype=bool)
    for kind in (has_negative, ~has_negative):
        members = rng.permutation(np.flatnonzero(kind))
        aside[members[: round(share * len(members))]] = True
    rows: np.ndarray = aside[unit_of]
    return rows


def _without(task: ProbingTask, aside: np.ndarray, where: str) -> ProbingTask:
    """Return a task of two classes that neither trains on nor scores the rows that are set aside.

    Raises
    ------
    UserError
        A training set has one class only, no fold has rows to score, or no negative is set aside.
    """
    train, positive = task.train & ~aside, task.targets[0] == 1
    counts = np.array([(train & positive).sum(axis=1), (train & ~positive).sum(axis=1)])
    if not counts.all() or aside.all() or not (aside & ~positive).any():
        raise UserError(
            f"{where}: probe.calibrate: there are too few units to set that share aside, and to "
            "fit and to choose a penalty on the others"
        )
    return replace(task, train=train, scored_by=np.where(aside, -1, task.scored_by))


def _choice(
    targets: np.ndarray, fold_of: np.ndarray, units: np.ndarray | None, seed: int
) -> ProbingTask:
    """Return the choice of a penalty, in as few folds of a training set as score enough rows."""
    scored = np.bincount(fold_of[fold_of >= 0]).cumsum()
    folds = min(int(np.searchsorted(scored, ENOUGH)) + 1, len(scored))
    train = np.zeros((folds, len(fold_of)), dtype=bool)
    for fold in range(folds):
        rows = np.flatnonzero((fold_of != fold) & (fold_of >= 0))
        train[fold, some_units(rows, ENOUGH, units, seed)] = True
    rows = some_units(np.flatnonzero((fold_of >= 0) & (fold_of < folds)), ENOUGH, units, seed)
    scored_by = np.full(len(fold_of), -1)
    scored_by[rows] = fold_of[rows]
    return ProbingTask(targets, train, scored_by)


def _shuffled(
    y: np.ndarray,
    classes: np.ndarray,
    units: np.ndarray | None,
    config: ProbeConfig,
    where: str,
    one_split: np.ndarray | None,
) -> tuple[tuple[ProbingTask, ...], float]:
    """Return tasks with shuffled labels, on folds of their own, and how many labellings there are.

    Folds are found as those of the observed labels were. The whole procedure is then the same
    function of observed and of shuffled labels, which makes the test exact. Labellings that no
    folds fit are left out, as observed ones would be. With a test set, labels stay on their side of
    the split, so that each side keeps its shares of the classes.

    -> no tasks where there are fewer than `FEWEST_RELABELLINGS` labellings
    """
    tasks: list[ProbingTask] = []
    shuffled = np.empty((len(y), config.permutations), dtype=y.dtype)
    sides = np.zeros(len(y)) if one_split is None else one_split
    different = 1.0
    for side in np.unique(sides):
        rows = sides == side
        of_side = None if units is None else units[rows]
        different *= relabellings(y[rows], of_side)
        shuffled[rows] = shuffled_labels(
            y[rows], of_side, config.permutations, config.seed - int(side)
        )
    if config.permutations and different < FEWEST_RELABELLINGS:
        log.warning(
            "%s: no p-values: exchanging labels between groups of like size gives only %.0f "
            "different labellings", where, different,
        )  # fmt: skip
        return (), different
    for column in shuffled.T:
        fold_of = one_split
        try:
            if fold_of is None:
                fold_of = assign_folds(
                    column, units, config.folds, config.seed, stratify=bool(len(classes))
                )
        except UserError:
            continue
        tasks.append(_split(targets_of(column, classes), fold_of))
    if len(tasks) < config.permutations:
        log.warning(
            "%s: %d of %d shuffled labellings fit the folds; p-values are from those",
            where, len(tasks), config.permutations,
        )  # fmt: skip
    return tuple(tasks), different


def intercept_loss(task: ProbingTask, loss: Loss) -> float:
    """Return the total held-out loss of probes that are an intercept alone."""
    targets, train = (torch.as_tensor(x, dtype=torch.float64) for x in (task.targets, task.train))
    means = train @ targets.T / train.sum(dim=1, keepdim=True)
    logits = loss.intercept(means[:, :, None])[:, :, 0].T[None]
    scored = torch.as_tensor(np.flatnonzero(task.scored_by >= 0))
    by_row = logits[:, :, torch.as_tensor(task.scored_by)[scored]]
    return float(loss.value(by_row, targets[None][:, :, scored]).sum())


def _control(
    y: np.ndarray, classes: np.ndarray, units: np.ndarray | None, config: ProbeConfig
) -> tuple[ProbingTask, ...]:
    """Return control tasks: a random label for each group, with groups on both sides of splits."""
    drawn = control_labels(y, units, CONTROL_DRAWS, config.seed).T
    folds = (control_folds(units, column, y, config.folds, config.seed) for column in drawn)
    return tuple(
        ProbingTask.cross_validated(targets_of(column, classes), fold_of)
        for column, fold_of in zip(drawn, folds, strict=True)
    )


def _beside_control(
    targets: np.ndarray,
    units: np.ndarray | None,
    control: tuple[ProbingTask, ...],
    where: str,
) -> tuple[ProbingTask, ...]:
    """Return the concept on the splits of each control task, unless groups hold opposite labels."""
    if control and opposite_labels(targets, units):
        log.warning(
            "%s: selectivity is empty: groups hold opposite labels, which put the concept below "
            "chance on the splits of its control task, where a group stands on both sides", where,
        )  # fmt: skip
        return ()
    return tuple(replace(task, targets=targets) for task in control)


def _online(
    targets: np.ndarray,
    classes: np.ndarray,
    units: np.ndarray | None,
    fold_of: np.ndarray,
    seed: int,
) -> tuple[ProbingTask, ...]:
    """Return online codes: a probe on portions 0 … j encodes the labels of portion j + 1.

    Its probabilities are mixed with a uniform guess, with the weight of one more example of each
    class: otherwise a class that has not been seen yet could cost any number of bits.
    """
    rows = some_units(np.flatnonzero(fold_of >= 0), MOST_CODED, units, seed)
    codes = []
    for order in range(CODE_ORDERS if len(classes) else 0):
        portion_of = np.full(len(fold_of), -1)
        groups = None if units is None else units[rows]
        portion_of[rows] = portions(groups, len(rows), seed, order=order)
        seen = np.bincount(portion_of[rows]).cumsum()
        if len(seen) < 2:
            return ()
        doubt = len(classes) / (seen[np.maximum(portion_of - 1, 0)] + len(classes))
        train = (portion_of <= np.arange(portion_of.max())[:, None]) & (portion_of >= 0)
        scored_by = np.where(portion_of > 0, portion_of - 1, -1)
        codes.append(ProbingTask(targets, train, scored_by, doubt.astype(np.float32)))
    return tuple(codes)


def _subsets(
    fractions: tuple[float, ...], fold_of: np.ndarray, unit_of: np.ndarray, seed: int
) -> np.ndarray:
    """Return growing parts of each training set, in whole units. [fractions, folds, n] bool"""
    rng = np.random.default_rng([seed, _SUBSETS])
    place = rng.permutation(int(unit_of.max()) + 1)[unit_of]
    folds = np.arange(int(fold_of.max()) + 1)
    subsets = np.zeros((len(fractions), len(folds), len(fold_of)), dtype=bool)
    for fold in folds:
        train = fold_of != fold
        rank = np.unique(place[train], return_inverse=True)[1]
        for i, fraction in enumerate(fractions):
            subsets[i, fold, train] = rank < max(round(fraction * (rank.max() + 1)), 1)
    return subsets
