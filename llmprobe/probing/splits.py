"""Cross-validation folds that never separate a group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmprobe.datasets.groups import group_indices
from llmprobe.ground.errors import UserError

INNER_FOLDS = 4
"""Folds of a training set in which a penalty is chosen."""

ENOUGH = 5000
"""Rows that are enough to choose a penalty: no more are trained on for it, nor scored. (The best
penalty of a sum over examples changes little with their number.)"""

_SOME = 5
"""The stream of random numbers for parts of rows; labels.py and tasks.py have the others."""


def assign_folds(
    labels: np.ndarray,
    groups: np.ndarray | None,
    folds: int,
    seed: int | Sequence[int] = 0,
    where: str = "examples",
    *,
    stratify: bool = True,
) -> np.ndarray:
    """Return the fold of each example: shuffled, stratified by label, whole groups. -> [n] int

    Groups with the same number of rows of each class are of one type, and are interchangeable.
    From the type of the largest groups to that of the smallest, every fold gets an equal share of
    the members, drawn at random. Members left over go to the folds that have least of the classes
    they hold. No fold is empty, and without groups the sizes of folds, and their numbers of each
    class, differ by at most one.

    Permutation tests need folds for every relabelling, since folds that suit the observed labels
    better than the shuffled ones would favour the observed ones. scikit-learn's
    StratifiedGroupKFold is about as even, but 100 times slower.

    Parameters
    ----------
    labels
        The class of each row. [n]
    groups
        Rows that share a group are in one fold. [n], or None
    where
        The beginning of error messages.
    stratify
        False for continuous labels: sizes are evened out, labels are not looked at.

    Raises
    ------
    UserError
        There are too few examples or groups for ``folds``, or a training set without one of the
        classes.
    """
    n = len(labels)
    group_of = group_indices(groups, n)
    n_groups = int(group_of.max()) + 1 if n else 0
    kind = "examples" if groups is None else "groups"
    if n_groups < folds:
        few = f"{n_groups} {kind} are" if n_groups != 1 else f"1 {kind.removesuffix('s')} is"
        raise UserError(f"{where}: {few} too few for {folds} folds")
    classes, y = np.unique(labels if stratify else np.zeros(n), return_inverse=True)
    counts = _table(group_of, y, n_groups, len(classes))
    totals = counts.sum(axis=0)
    if stratify and totals.min() < folds:
        rare = totals.argmin()
        examples = "example" if totals[rare] == 1 else "examples"
        raise UserError(
            f"{where}: class {classes[rare]} has {totals[rare]} {examples}, too few for {folds} "
            "folds"
        )
    fold_of: np.ndarray = _deal(counts, folds, np.random.default_rng(seed))[group_of]
    alone = (_table(fold_of, y, folds, len(classes)) == totals).any(axis=0)
    if stratify and alone.any():
        raise UserError(
            f"{where}: {folds} folds of {n_groups} {kind}: class {classes[alone.argmax()]} is "
            "absent from a training set; use fewer folds"
        )
    return fold_of


def inner_folds(
    y: np.ndarray,
    groups: np.ndarray | None,
    fold_of: np.ndarray,
    seed: int,
    folds: int = INNER_FOLDS,
    *,
    stratify: bool = True,
) -> np.ndarray:
    """Return folds inside each outer training set, to choose the penalty. -> [n, outer folds] int

    -1 marks the rows of the outer fold itself, which nothing inside may see.
    """
    inner = np.full((len(y), int(fold_of.max()) + 1), -1)
    for fold in range(inner.shape[1]):
        train = fold_of != fold
        train_groups = None if groups is None else groups[train]
        where = f"choosing the penalty (l2: auto) in the training set of fold {fold}"
        inner[train, fold] = assign_folds(
            y[train], train_groups, folds, seed, where, stratify=stratify
        )
    return inner


def some_units(rows: np.ndarray, most: int, units: np.ndarray | None, seed: int) -> np.ndarray:
    """Return the rows; if they are more than ``most``, at most that many, in random whole units.

    At least one unit is returned, whatever its size.
    """
    if len(rows) <= most:
        return rows
    unit_of = np.unique(rows if units is None else units[rows], return_inverse=True)[1]
    place = np.random.default_rng([seed, _SOME]).permutation(int(unit_of.max()) + 1)[unit_of]
    some: np.ndarray = rows[(np.bincount(place).cumsum()[place] <= most) | (place == 0)]
    return some


def some_of_each_unit(
    rows: np.ndarray, most: int, units: np.ndarray | None, seed: int
) -> np.ndarray:
    """Return the rows; if they are more than ``most``, that many, taken from each unit in turn.

    More units make an interval by units narrower; more rows of each do not.
    """
    if len(rows) <= most:
        return rows
    unit_of = np.unique(rows if units is None else units[rows], return_inverse=True)[1]
    rng = np.random.default_rng([seed, _SOME])
    place = rng.permutation(int(unit_of.max()) + 1)[unit_of]
    by_unit = np.lexsort((rng.random(len(rows)), unit_of))
    starts = np.searchsorted(unit_of[by_unit], unit_of[by_unit])
    turn = np.empty(len(rows), dtype=int)
    turn[by_unit] = np.arange(len(rows)) - starts
    some: np.ndarray = rows[np.sort(np.lexsort((place, turn))[:most])]
    return some


def _table(rows: np.ndarray, columns: np.ndarray, n_rows: int, n_columns: int) -> np.ndarray:
    """Count how often each row index goes with each column index. -> [n_rows, n_columns]"""
    cells = np.bincount(rows * n_columns + columns, minlength=n_rows * n_columns)
    return cells.reshape(n_rows, n_columns)


def _deal(counts: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Return the fold of each group, from its number of rows of each class [G, C]. -> [G]"""
    counts = np.column_stack([counts, counts.sum(axis=1)])  # sizes count as one more class
    # Equal for groups of one type, and with that, types of one size come in random order.
    types = counts @ rng.integers(2**62, size=counts.shape[1])
    order = np.lexsort((rng.random(len(counts)), types, -counts[:, -1]))
    starts = np.flatnonzero(np.diff(types[order], prepend=types[order[0]] - 1))
    members = np.diff(starts, append=len(order))
    fold_of = np.empty(len(counts), dtype=int)
    fold_of[order] = (np.arange(len(order)) - np.repeat(starts, members)) % folds
    # Members left over go where they add least to the sum, over folds and classes, of the squared
    # share of the class. Members of a type are alike, so the best folds are those whose contents
    # have the least product with a member; the equal shares add the same to each.
    vectors = counts[order[starts]]
    weighted = vectors / counts.sum(axis=0, dtype=float) ** 2
    ties = rng.random((len(starts), folds))
    has = np.zeros((folds, counts.shape[1]))
    for i in np.flatnonzero(members % folds):
        left = members[i] % folds
        # In float32, so that equal sums stay ties on machines that round them differently.
        chosen = np.lexsort((ties[i], (has @ weighted[i]).astype(np.float32)))[:left]
        has[chosen] += vectors[i]
        stop = starts[i] + members[i]
        fold_of[order[stop - left : stop]] = chosen
    return fold_of
