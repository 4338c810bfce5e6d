"""Texts as one tree of tokens, whose nodes stand in depth-first order.

In a causal model two texts with the same beginning have the same hidden states there, so each node
need be computed only once. In depth-first order the nodes can be computed in slices of any size:
whatever a slice needs from before it is the path above its first node, since a node that stands
before the slice and above one of its members is above the first one too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class TokenTree:
    """The distinct prefixes of a sorted list of texts. Arrays have a value for each node."""

    token: np.ndarray
    depth: np.ndarray
    """The position in the text; 0 is its first token."""
    parent: np.ndarray
    """-1 for nodes whose parent is not in the tree."""
    end: np.ndarray
    """The node after the last one of its subtree: node ``j`` is below ``i`` (or is it) when
    ``i <= j < end[i]``."""
    last_child: np.ndarray
    """-1 for nodes without children."""
    leaf: np.ndarray
    """For each text, the node at which it ends. [texts]"""

    def __len__(self) -> int:
        return len(self.token)

    def slices(self, size: int) -> Iterator[range]:
        """The nodes in turn, at most ``size`` at a time, in slices of nearly equal size."""
        n_slices = -(-len(self) // size)
        edges = [len(self) * i // n_slices for i in range(n_slices + 1)]
        return (range(a, b) for a, b in pairwise(edges))

    def path_after(self, nodes: range) -> list[int]:
        """Of a slice, the nodes that the next one stands below, from the top down.

        After the last slice: those on the path to the last node.
        """
        node = int(self.parent[nodes.stop]) if nodes.stop < len(self) else nodes.stop - 1
        path = []
        while node >= nodes.start:
            path.append(node)
            node = int(self.parent[node])
        return path[::-1]

    def tops(self, nodes: range) -> np.ndarray:
        """For each node of a slice, the depth at which its path enters the slice. [nodes]"""
        tops = self.depth[nodes.start : nodes.stop].copy()
        for i, parent in enumerate(self.parent[nodes.start : nodes.stop] - nodes.start):
            if parent >= 0:
                tops[i] = tops[parent]
        return tops


def build_tree(ordered: Sequence[Sequence[int]], skip: int = 0) -> TokenTree:
    """The tree of texts that are sorted, below their first ``skip`` tokens, which all share.

    A text may be the beginning of another, or equal to it. Each is longer than ``skip``.
    """
    token: list[int] = []
    depth: list[int] = []
    parent: list[int] = []
    end: list[int] = []
    last_child: list[int] = []
    leaf: list[int] = []
    path: list[int] = []
    before: Sequence[int] = ()
    for text in ordered:
        shared = max(common(before, text), skip)
        for node in path[shared - skip :]:
            end[node] = len(token)
        del path[shared - skip :]
        for position in range(shared, len(text)):
            if path:
                last_child[path[-1]] = len(token)
            parent.append(path[-1] if path else -1)
            path.append(len(token))
            token.append(text[position])
            depth.append(position)
            end.append(-1)
            last_child.append(-1)
        leaf.append(path[len(text) - skip - 1])
        before = text
    for node in path:
        end[node] = len(token)
    return TokenTree(*map(np.array, (token, depth, parent, end, last_child, leaf)))


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts share from the first one on."""
    shortest = min(len(a), len(b))
    if a[:shortest] == b[:shortest]:
        return shortest
    # Beginnings that are equal are found by halving: slices compare much faster than items.
    low, high = 0, shortest
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def shared_with_previous(ordered: Sequence[Sequence[int]]) -> np.ndarray:
    """For each of some sorted texts, the tokens it shares with the one before it. [texts]"""
    return np.array([0, *(common(a, b) for a, b in pairwise(ordered))][: len(ordered)])
