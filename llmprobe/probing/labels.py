"""Other labels for the same rows: for permutation tests, control tasks and online codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import gammaln  # type: ignore[import-untyped]

from llmprobe.datasets.groups import group_indices

_SHUFFLED, _CONTROL, _PORTIONS = 1, 2, 3
"""A stream of random numbers for each purpose: labels that were themselves shuffled with the same
seed must not be shuffled by the same numbers again."""

ENOUGH_GROUPS = 5
"""The fewest groups of like sizes that exchange labels only among themselves."""

ONLINE_FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""Fractions of the training data at which an online code changes its probe (Voita & Titov 2020)."""


def shuffled_labels(y: np.ndarray, groups: np.ndarray | None, times: int, seed: int) -> np.ndarray:
    """Draw labels as they could be if rows said nothing about them. -> [n, times]

    This is multi-level block permutation (Winkler et al. 2015, NeuroImage). Groups change places,
    since rows of a group are not independent: groups with one label exchange it, and groups with
    several labels exchange their lists with groups of the same size. Inside a group, labels are
    shuffled. Exchange is among groups of like size (`_blocks`): otherwise, where labels depend on
    the size of groups, the test would reject for that alone. Without groups it is a plain shuffle.

    Parameters
    ----------
    y
        Class indices or continuous labels. [n]
    groups
        [n], or None
    """
    rng = np.random.default_rng([seed, _SHUFFLED])
    group_of = group_indices(groups, len(y))
    sizes = np.bincount(group_of)
    block_of = _blocks(y, group_of)
    starts = sizes.cumsum() - sizes
    receivers = np.argsort(block_of, kind="stable")
    rows = np.argsort(group_of, kind="stable")
    place = np.arange(len(y)) - starts[group_of[rows]]
    donor_of = np.empty(len(sizes), dtype=int)
    shuffled = np.empty((times, len(y)), dtype=y.dtype)
    for relabelled in shuffled:
        donor_of[receivers] = np.argsort(block_of + rng.random(len(sizes)))
        donor = donor_of[group_of[rows]]
        # Lists are as long as their receivers, or of one label, which may be repeated.
        source = starts[donor] + place % sizes[donor]
        relabelled[rows] = y[np.argsort(group_of + rng.random(len(y)))][source]
    return shuffled.T


def relabellings(y: np.ndarray, groups: np.ndarray | None) -> float:
    """Count the different labellings that `shuffled_labels` can draw; infinite above 1e300."""
    group_of = group_indices(groups, len(y))
    block_of = _blocks(y, group_of)
    values, value = np.unique(y, return_inverse=True)
    cells, counts = np.unique(group_of * len(values) + value, return_counts=True)
    of_group, value = np.divmod(cells, len(values))
    several = np.bincount(of_group) > 1
    # Groups of one kind have the same labels, so exchanging them gives the same labelling.
    kind_of = np.empty(len(block_of), dtype=int)
    kind_of[of_group] = value
    starts = np.searchsorted(of_group, np.arange(len(block_of) + 1))
    kinds: dict[bytes, int] = {}
    for group in np.flatnonzero(several):
        cell = slice(starts[group], starts[group + 1])
        labels = np.stack([value[cell], counts[cell]]).tobytes()
        kind_of[group] = len(values) + kinds.setdefault(labels, len(kinds))
    alike = np.unique(np.stack([block_of, kind_of]), axis=1, return_counts=True)[1]
    sizes = np.bincount(group_of)
    mixed = several[of_group]
    orders = (
        gammaln(np.bincount(block_of) + 1).sum() - gammaln(alike + 1).sum()
        + gammaln(sizes[several] + 1).sum() - gammaln(counts[mixed] + 1).sum()
    )  # fmt: skip
    return float(np.exp(orders)) if orders < np.log(1e300) else np.inf


def control_labels(y: np.ndarray, groups: np.ndarray | None, times: int, seed: int) -> np.ndarray:
    """Draw a label for each group, the control task of Hewitt & Liang (2019). -> [n, times]

    Groups take the place of their word types: only recognising a group tells its label. Labels are
    drawn without replacement from a list with the shares of y, to the nearest whole group. Every
    class has two groups or more, if there are enough groups.

    Parameters
    ----------
    y
        Class indices or continuous labels. [n]
    groups
        [n]. None makes each row its own group, whose label cannot be predicted.
    """
    rng = np.random.default_rng([seed, _CONTROL])
    group_of = group_indices(groups, len(y))
    n_groups = int(group_of.max()) + 1
    values, counts = np.unique(y, return_counts=True)
    quota = np.diff(np.rint(counts.cumsum() * (n_groups / len(y))).astype(int), prepend=0)
    while quota.min() < min(2, n_groups // len(values)):
        quota[quota.argmin()] += 1
        quota[quota.argmax()] -= 1
    if np.count_nonzero(quota) == 1:  # With one label for all, there is nothing to predict.
        most = quota.argmax()
        quota[most] -= 1
        quota[0 if most else -1] += 1
    lists = np.tile(np.repeat(values, quota), (times, 1))
    drawn: np.ndarray = rng.permuted(lists, axis=1).T[group_of]
    return drawn


def control_folds(
    groups: np.ndarray | None, labels: np.ndarray, y: np.ndarray, folds: int, seed: int
) -> np.ndarray:
    """Return folds of a control task, with rows of each group on both sides. -> [n] int

    The control asks what a probe can memorise about a group from some of its rows. With folds of
    whole groups, no random label could be predicted. So the rows of a group are spread evenly over
    as many folds as possible. So are the rows of each random label and, among them, those of each
    label of the concept, which is scored on the same folds.

    Parameters
    ----------
    groups
        [n], or None. A group of one row is in one fold only.
    labels
        One of ``control_labels``: the same in all of a group. [n]
    y
        The labels of the concept. [n]
    """
    rng = np.random.default_rng(seed)
    group_of = group_indices(groups, len(labels))
    mean = np.bincount(group_of, y) / np.bincount(group_of)
    place = np.argsort(np.lexsort((rng.random(len(mean)), mean)))
    fold_of = np.empty(len(labels), dtype=int)
    # Rows are dealt out in turn: by random label, then by group (those of like labels follow each
    # other), then by label of the concept.
    order = np.lexsort((rng.random(len(labels)), y, place[group_of], labels))
    fold_of[order] = np.arange(len(labels)) % folds
    return fold_of


def opposite_labels(targets: np.ndarray, groups: np.ndarray | None) -> bool:
    """Whether labels differ more within groups than between them.

    An example is a true and a false statement about each city. A probe that has seen one of them in
    training expects its label for the other too, so on splits that separate rows of a group it is
    below chance. If labels have nothing to do with groups, the labels of pairs of a group correlate
    at 0 ± 1 / sqrt(pairs). A correlation of -2 / sqrt(pairs) or less counts as opposite.

    Parameters
    ----------
    targets
        The labels as numbers, of more than two classes one row each. [1 or C, n]
    """
    group_of = group_indices(groups, targets.shape[1])
    pairs = (np.bincount(group_of) * (np.bincount(group_of) - 1)).sum() / 2
    if not pairs:
        return False
    centred = targets - targets.mean(axis=1, keepdims=True)
    of_groups = np.stack([np.bincount(group_of, row) for row in centred])
    correlation = (
        ((of_groups**2).sum() - (centred**2).sum()) / 2 / pairs / centred.var(axis=1).sum()
    )
    return bool(correlation <= -2 / np.sqrt(pairs))


def portions(
    groups: np.ndarray | None,
    n: int,
    seed: int,
    fractions: Sequence[float] = ONLINE_FRACTIONS,
    order: int = 0,
) -> np.ndarray:
    """Return the portion of an online code in which each row is sent. -> [n] int, 0 … without gaps

    Voita & Titov (2020): a probe trained on portions 0 … j encodes portion j + 1.
    The groups are shuffled and those up to ``fractions[j]``, rounded up, are in portions 0 … j;
    portions left empty by rounding are dropped.

    Parameters
    ----------
    groups
        Rows that share a group are in one portion. [n], or None
    fractions
        Of the groups, rising; groups after the last fraction are a portion too.
    order
        The number of the random order of the groups.
    """
    group_of = group_indices(groups, n)
    n_groups = int(group_of.max()) + 1
    # Rounded first: 0.07 * 100 is a little over 7.
    ends = np.ceil(np.round(np.multiply(fractions, n_groups), 9)).astype(int)
    place = np.random.default_rng([seed, _PORTIONS, order]).permutation(n_groups)[group_of]
    portion_of: np.ndarray = np.searchsorted(np.unique([*ends, n_groups]), place, side="right")
    return portion_of


def _blocks(y: np.ndarray, group_of: np.ndarray) -> np.ndarray:
    """Return the block of each group; labels are exchanged among groups of a block. -> [G]

    A group with several labels is in a block with others of its size. Groups with one label are
    divided by size into as many blocks as have `ENOUGH_GROUPS` each; groups of one size stay
    together.
    """
    sizes = np.bincount(group_of)
    low, high = (np.full(len(sizes), fill) for fill in (y.max(), y.min()))
    np.minimum.at(low, group_of, y)
    np.maximum.at(high, group_of, y)
    constant = low == high
    lengths, members = np.unique(sizes[constant], return_counts=True)
    stratum, blocks, filled = {}, 0, 0
    left = int(members.sum())
    for length, count in zip(lengths, members, strict=True):
        if filled >= ENOUGH_GROUPS and left >= ENOUGH_GROUPS:
            blocks, filled = blocks + 1, 0
        stratum[length] = blocks
        filled, left = filled + count, left - count
    block_of = sizes + blocks
    block_of[constant] = [stratum[size] for size in sizes[constant]]
    return block_of
