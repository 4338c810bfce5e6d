"""Which rows belong together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def units(groups: np.ndarray | None, texts: Sequence[str] | None) -> np.ndarray | None:
    """Return what a split must keep whole: rows of one group or with one text. [n] int

    Joined along chains too, so a text that stands in two groups makes one unit of both. Where no
    text does, the units are the groups, numbered in sorted order. None without groups when no
    text repeats either.
    """
    if texts is None:
        return None if groups is None else group_indices(groups, len(groups))
    if groups is None and len(set(texts)) == len(texts):
        return None
    group_of = group_indices(groups, len(texts))
    parent = list(range(len(texts)))

    def root(group: int) -> int:
        while parent[group] != group:
            parent[group] = group = parent[parent[group]]
        return group

    first: dict[str, int] = {}
    for group, text in zip(group_of.tolist(), texts, strict=True):
        one, other = root(group), root(first.setdefault(text, group))
        # The smaller number is the root, so that units keep the groups' order.
        parent[max(one, other)] = min(one, other)
    return np.unique([root(group) for group in group_of.tolist()], return_inverse=True)[1]


def group_indices(groups: np.ndarray | None, n: int) -> np.ndarray:
    """Number groups 0 … G-1 in sorted order; without groups each row is its own. [n]"""
    return np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
