"""Which rows belong together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

_LINK = re.compile(r"(?:https?://|www\.)\S+")
_END = re.compile(r"(?:[.,;:?…。！？]|(?<!\d)!)+(?=\s*$)")
"""Punctuation at the end of a text; behind a digit, "!" is an operator."""


def units(groups: np.ndarray | None, texts: Sequence[str] | None) -> np.ndarray | None:
    """Number the units that a split must keep whole: rows of one group or with one text. [n] int

    Texts are one if ``plain`` makes them equal. Chains are joined too, so a text that is in two
    groups makes them one unit. Otherwise the units are the groups, numbered in sorted order.
    None if there are no groups and no text repeats.
    """
    return joined(groups, None if texts is None else [plain(text) for text in texts])


def plain(text: str, ends: Iterable[int] = ()) -> str:
    """Return a text without case, links, runs of space and punctuation at its end.

    Brackets, operators and digits stay. If nothing would be left, as of a link alone, the text
    stays. ``ends``: where in the text the values end that a template put there; punctuation at the
    end of these is left out too.
    """
    for end in sorted(ends, reverse=True):
        text = _END.sub("", text[:end]) + text[end:]
    line = " ".join(_LINK.sub(" ", text).split()).casefold()
    return _END.sub("", line).rstrip() or " ".join(text.split())


def joined(groups: np.ndarray | None, values: Sequence[str] | None) -> np.ndarray | None:
    """Number the units of rows that share a group or a value, along chains too. [n] int

    Units have the sorted order of the groups. None if there are no groups and no value repeats.
    """
    if values is None:
        return None if groups is None else group_indices(groups, len(groups))
    if groups is None and len(set(values)) == len(values):
        return None
    group_of = group_indices(groups, len(values))
    parent = list(range(len(values)))

    def root(group: int) -> int:
        while parent[group] != group:
            parent[group] = group = parent[parent[group]]
        return group

    first: dict[str, int] = {}
    for group, value in zip(group_of.tolist(), values, strict=True):
        one, other = root(group), root(first.setdefault(value, group))
        # The smaller number is the root, so that units keep the groups' order.
        parent[max(one, other)] = min(one, other)
    return np.unique([root(group) for group in group_of.tolist()], return_inverse=True)[1]


def group_indices(groups: np.ndarray | None, n: int) -> np.ndarray:
    """Number groups 0 … G-1 in sorted order; without groups each row is its own. [n]"""
    return np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
