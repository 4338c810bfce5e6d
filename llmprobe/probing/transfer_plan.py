"""What a transfer fits and scores: pairs of sets, and the folds of their units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from llmprobe.config.schema import ProbeConfig
from llmprobe.datasets.shared_units import shared_units
from llmprobe.ground.errors import UserError
from llmprobe.probing.splits import assign_folds
from llmprobe.probing.tasks import ProbingTasks, build_tasks
from llmprobe.probing.transfer_sets import TransferSet


@dataclass(frozen=True, eq=False)
class Cell:
    """The examples of a test set that a train set's probes can be scored on."""

    rows: np.ndarray
    """Which examples of the test set have a class that both sets have. [m]"""
    columns: tuple[int, ...]
    """The indices of these classes among the train set's; empty for numbers."""
    truth: np.ndarray
    """The index of each example's class among the shared classes, or its label, a number. [m]"""
    note: str = ""
    """Why no example can be scored; empty where some can."""


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
    shared: Mapping[Pair, Cell]
    """The cell of each train set and test set."""
    seed: int
    """The seed of permutations and resamples."""


def plan_transfer(
    sets: Sequence[TransferSet],
    config: ProbeConfig,
    train: Sequence[str] = (),
    test: Sequence[str] = (),
    entity: str | None = None,
) -> TransferPlan:
    """Choose sets by name, and deal the units of all sets out to folds. Reads no states.

    Raises
    ------
    UserError
        There is no such set, or only one set; a train set is too small for the folds; or no two
        sets have labels in common.
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
    # If the unmasked dataset is a set itself, probes are fitted on it only where it is asked for.
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
    shared = {(one, other): _cell(tasks[one], one, other) for one, other in pairs}
    notes = [cell.note for (one, other), cell in shared.items() if one is not other]
    if all(notes):
        raise UserError(f"transfer: {notes[0]}")
    return TransferPlan(fitted, unit_of, fold_of, tasks, shared, config.seed)


def _named(sets: Sequence[TransferSet], names: Sequence[str]) -> tuple[TransferSet, ...]:
    """Return the sets of some names, or all; raise ``UserError`` where there is none of a name."""
    by_name = {one.name: one for one in sets}
    for name in names:
        if name not in by_name:
            raise UserError(f"transfer: no set is called {name!r}; there are {', '.join(by_name)}")
    return tuple(by_name[name] for name in names or by_name)


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
        Those whose rows are dealt out. They contain the rows of all others, each row once.
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
    """Return labels as text, in which 1, 1.0 and "1" are the same. [n]"""
    if labels.dtype.kind == "f" and (labels % 1 == 0).all():
        labels = labels.astype(int)
    text: np.ndarray = labels.astype(int).astype(str) if labels.dtype.kind == "b" else labels
    return text.astype(str)


def _cell(tasks: ProbingTasks, one: TransferSet, other: TransferSet) -> Cell:
    """Return the cell of probes fitted on ``one`` and scored on ``other``."""
    classes = classes_as_text(tasks)
    if not classes:
        if other.labels.dtype.kind not in "fiu":
            note = f"{one.name} has numbers as labels and {other.name} has classes"
            return Cell(np.empty(0, int), (), np.empty(0), note)
        return Cell(np.arange(len(other.rows)), (), other.labels.astype(float))
    labels = _as_text(other.labels)
    columns = tuple(column for column, name in enumerate(classes) if (labels == name).any())
    if len(columns) < 2:
        ours, theirs = ", ".join(classes[:4]), ", ".join(np.unique(labels)[:4])
        note = (
            f"{one.name} and {other.name} have fewer than two classes in common (labels {ours}; "
            f"{theirs})"
        )
        return Cell(np.empty(0, int), (), np.empty(0), note)
    number = {classes[column]: place for place, column in enumerate(columns)}
    rows = np.flatnonzero(np.isin(labels, list(number)))
    return Cell(rows, columns, np.array([number[label] for label in labels[rows]]))


def classes_as_text(tasks: ProbingTasks) -> tuple[str, ...]:
    """Return the classes as text, none for labels that are numbers."""
    return tuple(_as_text(tasks.classes).tolist()) if len(tasks.classes) else ()
