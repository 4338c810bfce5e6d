"""The prefix tree on a model: each distinct token of a set of texts is run once.

Nodes are run in depth-first order, in slices. The position of a node is its depth in the tree, and
a mask shows it only its own ancestors. A slice is a batch of blocks of consecutive nodes. From
before itself a block needs only the path above its first node, so however long the slice is, few of
the keys that a block is given are masked. Attention is the model's own, as for a text alone, and
rounds as much. Between slices, only the keys and values of the path above the next slice are kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from llmprobe.extraction.capture import Capture, Pending
from llmprobe.extraction.memory import Budget
from llmprobe.extraction.tokens import Place, Text
from llmprobe.extraction.tree import TokenTree, build_tree
from llmprobe.models.devices import to_device
from llmprobe.models.loading import LoadedModel, text_config

MASKED_TYPES = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of layers whose states depend on earlier tokens only through the keys that they see."""


def tree_can_run(module: Any) -> bool:
    """Whether a model accepts the tree's input; the self-check tells if its states are right."""
    accepted = inspect.signature(module.forward).parameters
    types = set(getattr(text_config(module.config), "layer_types", None) or ())
    return types <= MASKED_TYPES and {"position_ids", "past_key_values"} <= set(accepted)


@dataclass(frozen=True)
class AncestorPath:
    """The path above the first node of the next slice, and what that slice needs of it."""

    length: int = 0
    """Number of tokens of the path; the first stands at position 0."""
    attention: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Keys and values of each attention layer, each [1, heads, length, head size]."""
    sums: Sequence[Tensor] = ()
    """For each layer, sums of hidden states for the means that are read below the path: one sum for
    each run of its tokens that are in the same means. Each [sums, d] float32"""
    first: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=int))
    """The position of the first token of each sum. [sums]"""


class PrefixTree:
    """Runs sorted texts as a tree of tokens.

    Parameters
    ----------
    prefix
        The tokens that all texts of the extraction begin with. ``prepare`` runs them once.
    read_in_prefix
        Indices of its tokens whose states are read, alone or in means.
    block
        The most nodes in a block.
    """

    def __init__(
        self,
        capture: Capture,
        budget: Budget,
        prefix: Sequence[int] = (),
        read_in_prefix: Collection[int] = (),
        block: int = 64,
    ) -> None:
        self.capture, self.budget, self.block = capture, budget, block
        self.prefix, self.read_in_prefix = tuple(prefix), read_in_prefix
        self._above = AncestorPath()

    def prepare(self) -> None:
        """Run the common prefix and keep its path."""
        if self.prefix and not self._above.length:
            tree = build_tree([self.prefix], [()])
            last_use = np.full(len(self.prefix), -1)
            last_use[list(self.read_in_prefix)] = len(tree)
            # Strands have different means over these tokens, so each token is its own sum.
            *_, (_, _, self._above) = self._run(_Strand(tree, [], last_use, last_use))

    def __call__(self, texts: Sequence[Text]) -> Pending:
        """Return the states of some texts, [layers, rows, d], on their way to the host.

        The texts must be sorted and begin with the prefix.
        """
        strand = _Strand.of(texts, len(self.prefix))
        read = [(rows, states) for rows, states, _ in self._run(strand) if len(rows)]
        order = np.argsort(np.concatenate([rows for rows, _ in read]))
        return Pending.of([states for _, states in read], order)

    def _run(self, strand: _Strand) -> Iterator[tuple[np.ndarray, Tensor, AncestorPath]]:
        """Yield for each slice the rows read there, their states, and the path above the next."""
        path = self._above

        def run(nodes: range) -> tuple[np.ndarray, Tensor, AncestorPath]:
            nonlocal path
            rows, states, path = self._slice(strand, nodes, path)
            return rows, states, path

        def describe(nodes: range) -> str:
            return f"{len(nodes)} token{'s' * (len(nodes) > 1)} of the prefix tree"

        slices = list(strand.tree.slices(self.budget.tokens))
        yield from self.budget.run_in_parts(slices, run, len, describe)

    @torch.inference_mode()
    def _slice(
        self, strand: _Strand, nodes: range, path: AncestorPath
    ) -> tuple[np.ndarray, Tensor, AncestorPath]:
        """Run one slice below ``path``.

        Return the rows that are read in it, their states, [layers, rows, d], and the path above the
        next slice.
        """
        model, device, tree = self.capture.model, self.capture.model.device, strand.tree

        blocks = _Blocks.of(tree, nodes, self.block, path.length, device)
        goes_on = tree.above(nodes.stop, nodes.start)
        n_above = int(tree.depth[goes_on[0] if goes_on else nodes.stop])
        kept = [*range(n_above), *(path.length + node - nodes.start for node in goes_on)]
        cache = PathCache(path, to_device(np.array(kept, dtype=np.int64), device), blocks.keys)

        rows = np.flatnonzero((tree.read >= nodes.start) & (tree.read < nodes.stop))
        reader = _Rows(strand, rows, nodes, path, goes_on, n_above, device)
        states = model.buffer(len(self.capture.layers), len(rows))
        with self.capture.into(states, reader, blocks.shape, reader.only):
            model.module(
                input_ids=blocks.token,
                position_ids=blocks.depth,
                attention_mask=masks(model, blocks.seen, blocks.depth, blocks.n_above),
                past_key_values=cache,
                use_cache=True,
            )
        return rows, states, AncestorPath(len(kept), cache.kept, reader.carried, reader.first)


@dataclass(frozen=True)
class _Blocks:
    """The nodes of a slice as a batch of blocks of one size; the last block is padded."""

    token: Tensor
    """Token ids. [blocks, size]"""
    depth: Tensor
    """Positions. [blocks, size]"""
    n_above: int
    """The number of keys of the longest path above a block."""
    seen: Tensor
    """Which keys each node sees: of those above its block, then of the block's own. [blocks, size,
    keys]"""
    keys: Tensor | None
    """Indices of each block's keys among those of the slice's path and nodes, [blocks, keys]; None
    for a slice of one block, which has them all."""

    @property
    def shape(self) -> tuple[int, int]:
        """Return the number of blocks and their size."""
        return self.token.shape[0], self.token.shape[1]

    @staticmethod
    def of(tree: TokenTree, nodes: range, most: int, path: int, device: torch.device) -> _Blocks:
        """Divide a slice, below ``path`` tokens, into blocks of at most ``most`` nodes."""
        n = -(-len(nodes) // most)
        size = -(-len(nodes) // n)
        starts = range(nodes.start, nodes.stop, size)
        blocks = [range(start, min(start + size, nodes.stop)) for start in starts]
        depths = [int(tree.depth[start]) for start in starts]
        n_above = max(depths)
        keys = np.zeros((len(blocks), n_above + size), dtype=np.int64)
        top = np.zeros((len(blocks), size), dtype=np.int64)
        for row, (block, depth) in enumerate(zip(blocks, depths, strict=True)):
            own = np.array(tree.above(block.start, nodes.start), dtype=np.int64) - nodes.start
            keys[row, : depth - len(own)] = np.arange(depth - len(own))
            keys[row, depth - len(own) : depth] = path + own
            top[row, : len(block)] = tree.tops(block)
        place = np.arange(len(blocks) * size).reshape(len(blocks), size)
        keys[:, n_above:] = path + place
        of_node = np.minimum(place + nodes.start, nodes.stop - 1)

        def on_device(values: np.ndarray) -> Tensor:
            return to_device(values, device)

        end = on_device(np.where(place < len(nodes), tree.end[of_node], nodes.stop + size))
        index = on_device(place + nodes.start)
        below = (index[:, None] <= index[..., None]) & (index[..., None] < end[:, None])
        above = torch.arange(n_above, device=device) < on_device(top)[..., None]
        return _Blocks(
            token=on_device(tree.token[of_node]),
            depth=on_device(tree.depth[of_node]),
            n_above=n_above,
            seen=torch.cat([above, below], dim=2),
            keys=on_device(keys) if len(blocks) > 1 else None,
        )


@dataclass(frozen=True)
class _Strand:
    """Texts that are run one after the other, as a tree."""

    tree: TokenTree
    places: list[Place]
    """What is read in each row. [rows]"""
    last_use: np.ndarray
    """For each position, the last node at which a mean is read that includes a token there; -1 if
    there is none. [positions]"""
    last_edge: np.ndarray
    """The same for means that include the token there but not the one before it, or the reverse.
    [positions]"""

    @staticmethod
    def of(texts: Sequence[Text], skip: int) -> _Strand:
        """Return the strand of sorted texts below their first ``skip`` tokens."""
        ends = [[place[-1] for place in text.places] for text in texts]
        tree = build_tree([text.tokens for text in texts], ends, skip)
        places = [place for text in texts for place in text.places]
        last_use, last_edge = np.full((2, max(len(text.tokens) for text in texts)), -1)
        for place, node in zip(places, tree.read.tolist(), strict=True):
            if len(place) == 1 and place[0] >= skip:
                continue
            of = np.array(place)
            gaps = np.flatnonzero(np.diff(of) > 1)
            edges = np.concatenate([of[:1], of[gaps] + 1, of[gaps + 1]])
            last_use[of] = np.maximum(last_use[of], node)
            last_edge[edges] = np.maximum(last_edge[edges], node)
        return _Strand(tree, places, last_use, last_edge)


class _Rows:
    """Reads the rows of a strand that end in a slice, and sums what later means need of the slice.

    Parameters
    ----------
    rows
        Numbers of the rows that are read here.
    path
        The path above the slice.
    goes_on
        The nodes of the slice that are above the next slice.
    n_above
        How many tokens of the path above the slice are above the next slice too.
    """

    def __init__(
        self,
        strand: _Strand,
        rows: np.ndarray,
        nodes: range,
        path: AncestorPath,
        goes_on: Sequence[int],
        n_above: int,
        device: torch.device,
    ) -> None:
        tree, self.path, self.n_nodes = strand.tree, path, len(nodes)

        def index(values: Sequence[int] | np.ndarray) -> Tensor:
            return to_device(np.asarray(values, dtype=np.int64), device)

        self.nodes = index(tree.read[rows] - nodes.start)
        skip = int(tree.depth[0])
        places = [strand.places[row] for row in rows]
        means = [i for i, place in enumerate(places) if len(place) > 1 or place[0] < skip]
        self.means = index(means)
        # Columns are the sums of the path, then the nodes of the slice.
        depth = np.concatenate([path.first, tree.depth[nodes.start : nodes.stop]])
        weights = np.zeros((len(means), len(depth)), dtype=np.float32)
        tops, ends = tree.tops(nodes), tree.end[nodes.start : nodes.stop]
        numbers = np.arange(nodes.start, nodes.stop)
        for weight, i in zip(weights, means, strict=True):
            place, node = places[i], int(tree.read[rows[i]])
            above = (numbers <= node) & (node < ends)
            seen = np.concatenate([path.first < tops[node - nodes.start], above])
            counts = np.zeros(len(strand.last_use), dtype=np.float32)
            counts[list(place)] = 1 / len(place)
            weight[:] = counts[depth] * seen
        self.weights = to_device(weights, device)
        stays = (path.first < n_above) & (strand.last_use[path.first] >= nodes.stop)
        later = [n for n in goes_on if strand.last_use[tree.depth[n]] >= nodes.stop]
        more = np.array(later, dtype=int)
        # A sum ends where a later text leaves the path, and where some mean begins or ends.
        leaves = (more == more[:1]) | (tree.last_child[tree.parent[more]] >= nodes.stop)
        begins = leaves | (strand.last_edge[tree.depth[more]] >= nodes.stop)
        self.stays, self.more = index(np.flatnonzero(stays)), index(more - nodes.start)
        self.sum_of, self.n_sums = index(begins.cumsum() - 1), int(begins.sum())
        self.first = np.concatenate([path.first[stays], tree.depth[more[begins]]])
        self.carried: list[Tensor] = []

    @property
    def only(self) -> Tensor | None:
        """Return the indices in the slice of the nodes that are read; None if sums need others."""
        return None if len(self.means) or len(self.more) else self.nodes

    def __call__(self, layer: int, states: Tensor) -> Tensor:
        states, device = states.flatten(0, 1)[: self.n_nodes], states.device
        rows = states[self.nodes.to(device)]
        above = self.path.sums[layer].to(device) if self.path.sums else states[:0].float()
        if len(self.means):
            columns = torch.cat([above, states.float()])
            rows[self.means.to(device)] = (self.weights.to(device) @ columns).to(rows.dtype)
        more = above.new_zeros(self.n_sums, states.shape[1])
        more.index_add_(0, self.sum_of.to(device), states[self.more.to(device)].float())
        self.carried.append(torch.cat([above[self.stays.to(device)], more]))
        return rows


class PathCache(DynamicCache):  # type: ignore[misc]
    """Shows a slice the keys and values of the path above it, and keeps those of the next path.

    Parameters
    ----------
    keep
        Indices of the next path's keys among those of the path and the slice. [keys]
    keys
        For a slice of several blocks, the indices of each block's keys among them. [blocks, keys]
    """

    def __init__(self, path: AncestorPath, keep: Tensor, keys: Tensor | None = None) -> None:
        super().__init__()
        self.path, self.keep, self.keys = path, keep, keys
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the keys and values that blocks attend to, [blocks, heads, keys, head size]."""
        above = self.path.attention.get(layer_idx, (None, None))
        keys, kept_keys = self._shown(above[0], key_states)
        values, kept_values = self._shown(above[1], value_states)
        self.kept[layer_idx] = kept_keys, kept_values
        return keys, values

    def _shown(self, above: Tensor | None, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys, or the values, that are shown, and those that are kept."""
        blocks, device = self.keys, states.device
        if blocks is not None:
            states = states.transpose(0, 1).flatten(1, 2)[None]
        if above is not None:
            states = torch.cat([above, states], dim=2)
        kept = states.index_select(2, self.keep.to(device))
        if blocks is not None:
            shown = states[0].index_select(1, blocks.to(device).flatten())
            states = shown.view(len(shown), *blocks.shape, -1).transpose(0, 1)
        return states, kept

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """Return the number of tokens of the path."""
        return self.path.length


def masks(
    model: LoadedModel, seen: Tensor, depth: Tensor, above: int
) -> Tensor | dict[str, Tensor]:
    """Return additive masks [texts, 1, queries, keys], one for each kind of layer the model has.

    transformers takes a mask of four dimensions as it is, and a mapping of them where the model's
    configuration has ``layer_types``.

    Parameters
    ----------
    seen
        Which keys each query may see: those of the path above, then those of the queries. [texts,
        queries, keys] bool
    depth
        The position of each query. [texts, queries]
    above
        The number of keys of the path, which stand at positions 0, 1, 2, …
    """
    config = text_config(model.module.config)
    path = torch.arange(above, device=depth.device).expand(len(depth), -1)
    position = torch.cat([path, depth], dim=1)[:, None]
    types = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)

    def mask(kind: str) -> Tensor:
        visible = seen
        if kind == "sliding_attention" and window:
            visible = seen & (depth[..., None] - position < window)
        elif kind == "chunked_attention":
            chunk = config.attention_chunk_size
            visible = seen & (depth[..., None] // chunk == position // chunk)
        hidden = torch.zeros(visible.shape, dtype=model.dtype, device=depth.device)
        return hidden.masked_fill_(~visible, torch.finfo(model.dtype).min)[:, None]

    if types:
        return {kind: mask(kind) for kind in sorted(set(types))}
    return mask("sliding_attention")
