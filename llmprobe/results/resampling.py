"""Bootstrap resamples of groups."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from functools import cached_property

import numpy as np

CHUNK = 2**20
"""How many numbers are handled at a time: they fit in the cache, and bound the memory."""


class Resamples:
    """Bootstrap resamples of whole groups, used for every layer and metric.

    Examples of one group are not independent: resampling examples would give intervals that are
    too narrow. (Cameron, Gelbach & Miller 2008, section II, on the pairs cluster bootstrap.)

    Parameters
    ----------
    n
        Number of examples.
    groups
        The group of each example, in order; None where each is its own. Names of groups do not
        matter. [n]
    samples
        B, the number of resamples.
    """

    group_of: np.ndarray
    """Number of the group of each example, by first appearance. [n]"""
    counts: np.ndarray
    """How often each resample drew each group. Bytes: even with many groups, none is drawn 256
    times. [G, B]"""

    def __init__(
        self, n: int, groups: np.ndarray | None = None, seed: int = 0, samples: int = 2000
    ) -> None:
        self.group_of = np.arange(n)
        if groups is not None:
            if len(groups) != n:
                raise ValueError(f"groups has {len(groups)} entries for n = {n} examples.")
            _, first, by_name = np.unique(groups, return_index=True, return_inverse=True)
            self.group_of = first.argsort().argsort()[by_name]
        n_groups = int(self.group_of.max()) + 1
        rng = np.random.default_rng(seed)
        self.counts = np.empty((n_groups, samples), np.uint8)
        for part in chunks(samples, n_groups):
            offsets = np.arange(part.stop - part.start)[:, None] * n_groups
            drawn = rng.integers(n_groups, size=(len(offsets), n_groups)) + offsets
            tally = np.bincount(drawn.ravel(), minlength=len(offsets) * n_groups)
            self.counts[:, part] = tally.reshape(-1, n_groups).T

    @cached_property
    def once(self) -> Resamples:
        """Return the examples as they are: a single resample that holds each group once, [G, 1]."""
        whole = copy(self)
        whole.counts = np.ones((len(self.counts), 1))
        return whole

    def sums(self, rows: np.ndarray) -> np.ndarray:
        """Add up each column of ``rows`` [n, m] over the examples of each resample.

        -> [B, m], in single precision for resamples and in double for the examples as they are
        """
        by_group = np.zeros((len(self.counts), rows.shape[1]))
        np.add.at(by_group, self.group_of, rows)
        by_group = floats(by_group, self.counts)
        sums = np.empty((self.counts.shape[1], rows.shape[1]), by_group.dtype)
        for part in chunks(len(sums), len(self.counts)):
            sums[part] = self.counts[:, part].T.astype(by_group.dtype) @ by_group
        return sums

    def means(self, rows: np.ndarray) -> np.ndarray:
        """Average each column of ``rows`` [n, m] over the examples of each resample: [B, m]."""
        sums = self.sums(np.column_stack([rows, np.ones(len(rows))]))
        means: np.ndarray = sums[:, :-1] / sums[:, -1:]
        return means

    def effective_size(self, weights: np.ndarray | None = None) -> float:
        """Return how many independent examples would say as much, if those of a group all agree.

        Kish 1965, section 8.2: (Σ w)² / Σ (w of a group)²; the number of groups when all are of
        one size. ``weights`` [n] default to 1.
        """
        by_group = np.bincount(self.group_of, weights)
        return float(by_group.sum() ** 2 / (by_group**2).sum())


def chunks(samples: int, rows: int) -> Iterator[slice]:
    """Yield parts of the resamples, such that a [rows, part] matrix is of bounded size."""
    width = max(CHUNK // rows, 1)
    for start in range(0, samples, width):
        yield slice(start, min(start + width, samples))


def floats(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return ``values`` in the precision that ``counts`` ask for: double where these are double.

    Resamples are in single precision, which halves their memory and time; estimates in double.
    """
    return values.astype(np.result_type(counts, np.float32))
