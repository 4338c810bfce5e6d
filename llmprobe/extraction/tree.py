"""Texts as one tree of tokens, whose nodes stand in depth-first order.

In a causal model two texts with the same beginning have the same hidden states there, so each node
need be computed only once. In depth-first order the nodes can be computed in slices of any size:
from before itself, a slice needs only the path above its first node, since every earlier ancestor
of one of its nodes is an ancestor of its first node too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class TokenTree:
    """The distinct prefixes of a sorted list of texts, a node each, in depth-first order."""

    token: np.ndarray
    """Token id of each node. [nodes]"""
    depth: np.ndarray
    """Position of each node in its texts; 0 is their first token. [nodes]"""
    parent: np.ndarray
    """The node above each node, -1 where that is not in the tree. [nodes]"""
    end: np.ndarray
    """The node after each node's subtree: node ``j`` is below ``i`` (or is it) when
    ``i <= j < end[i]``. [nodes]"""
    last_child: np.ndarray
    """The last child of each node, -1 without any. [nodes]"""
    read: np.ndarray
    """The node at which each row is read; all tokens of the row are on the path to it. [rows]"""

    def __len__(self) -> int:
        return len(self.token)

    def slices(self, size: int) -> Iterator[range]:
        """Yield the nodes in slices of nearly equal size, at most ``size`` each."""
        n_slices = -(-len(self) // size)
        edges = [len(self) * i // n_slices for i in range(n_slices + 1)]
        return (range(a, b) for a, b in pairwise(edges))

    def above(self, node: int, first: int) -> list[int]:
        """Return a node's ancestors from number ``first`` on, from the top down.

        For the number after the last node, return the path to the last node, that one included.
        """
        node = int(self.parent[node]) if node < len(self) else len(self) - 1
        path = []
        while node >= first:
            path.append(node)
            node = int(self.parent[node])
        return path[::-1]

    def tops(self, nodes: range) -> np.ndarray:
        """Return for each node of a slice the depth at which its path enters the slice. [nodes]"""
        tops = self.depth[nodes.start : nodes.stop].copy()
        for i, parent in enumerate(self.parent[nodes.start : nodes.stop] - nodes.start):
            if parent >= 0:
                tops[i] = tops[parent]
        return tops


def build_tree(
    ordered: Sequence[Sequence[int]], ends: Sequence[Sequence[int]] | None = None, skip: int = 0
) -> TokenTree:
    """Build the tree of sorted texts, below their first ``skip`` tokens, which all share.

    A text may be the beginning of another, or equal to it. Each is longer than ``skip``.

    Parameters
    ----------
    ends
        For each text, the positions at which rows are read, by default its last token. A position
        among the first ``skip`` tokens is read at the node right below them.
    """
    token: list[int] = []
    depth: list[int] = []
    parent: list[int] = []
    end: list[int] = []
    last_child: list[int] = []
    read: list[int] = []
    path: list[int] = []
    before: Sequence[int] = ()
    for text, read_at in zip(ordered, ends or [[len(text) - 1] for text in ordered], strict=True):
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
        read += [path[max(position - skip, 0)] for position in read_at]
        before = text
    for node in path:
        end[node] = len(token)
    arrays = (
        np.array(values, dtype=int) for values in (token, depth, parent, end, last_child, read)
    )
    return TokenTree(*arrays)


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many tokens two texts share from the first one on."""
    shortest = min(len(a), len(b))
    if a[:shortest] == b[:shortest]:
        return shortest
    # Bisection, since Python compares slices much faster than items one by one.
    low, high = 0, shortest
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def shared_with_previous(ordered: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the number of tokens that each of some sorted texts shares with the one before it."""
    return np.array([0, *(common(a, b) for a, b in pairwise(ordered))][: len(ordered)])
