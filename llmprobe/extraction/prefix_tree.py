"""The prefix tree on a model: each distinct token of a set of texts is run once.

Nodes run in slices of their depth-first order, with their depth in the tree as position and a mask
that shows each its own ancestors. Keys and values of the path above the next slice are kept, those
of all other nodes forgotten.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from llmprobe.extraction.capture import Capture, Pending
from llmprobe.extraction.memory import Budget
from llmprobe.extraction.tokens import Reading, Text
from llmprobe.extraction.tree import TokenTree, build_tree
from llmprobe.models.loading import LoadedModel, text_config
from llmprobe.models.private import plain_attention

MASKED_TYPES = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of layers whose states depend on which keys are seen, and on nothing else before them."""


def tree_can_run(module: Any) -> bool:
    """Whether a model takes the tree's input; if its states are right, the self-check tells."""
    accepted = inspect.signature(module.forward).parameters
    types = set(getattr(text_config(module.config), "layer_types", None) or ())
    return types <= MASKED_TYPES and {"position_ids", "past_key_values"} <= set(accepted)


MOST_MULTIPLIED = 2048
"""Tokens of a text up to which it does not matter that plain products hold all scores at once."""


def multiplied(model: LoadedModel) -> bool:
    """Whether plain products of queries and keys are faster than the fused attention with a mask.

    On a CPU in bfloat16 they take half the time, and round as much.
    """
    return model.device.type == "cpu" and model.dtype.itemsize == 2


@dataclass(frozen=True)
class _AncestorPath:
    """The path above the first node of the next slice, which the slices run so far leave to it."""

    length: int = 0
    """Number of tokens of the path; the first stands at position 0."""
    attention: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Keys and values of each attention layer, each [1, heads, length, head size]."""
    sums: Tensor | None = None
    """For means: sums of the states from the first token to some on the path. [layers, open, d]"""
    open: dict[int, int] = field(default_factory=dict)
    """For means: from the position of such a token to its row in ``sums``."""


class PrefixTree:
    """Runs sorted texts as a tree of tokens.

    Parameters
    ----------
    prefix
        What all texts of the extraction begin with. It is run once, by ``prepare``.
    multiply
        Whether attention is by plain products of queries and keys instead of the fused kernel.
    """

    def __init__(
        self,
        capture: Capture,
        reading: Reading,
        budget: Budget,
        prefix: Sequence[int],
        multiply: bool = False,
    ) -> None:
        self.capture, self.reading, self.budget = capture, reading, budget
        self.multiply = multiply
        self.prefix = tuple(prefix)
        self._above = _AncestorPath()

    def running(self) -> AbstractContextManager[None]:
        """Compute attention as it is to be computed while strands run."""
        return plain_attention(self.capture.model.module) if self.multiply else nullcontext()

    def prepare(self) -> None:
        """Run the common prefix and keep its path."""
        if self.prefix and not self._above.length:
            itself = Text(self.prefix, len(self.prefix) - 1)
            *_, (_, self._above) = self._run(build_tree([self.prefix]), [itself])

    def __call__(self, texts: Sequence[Text]) -> Pending:
        """Return the states of some texts, [layers, rows, d], on their way to the host.

        The texts are sorted and begin with the prefix.
        """
        tree = build_tree([text.tokens for text in texts], skip=len(self.prefix))
        return Pending.of([states for states, _ in self._run(tree, texts) if states.shape[1]])

    def _run(
        self, tree: TokenTree, texts: Sequence[Text]
    ) -> Iterator[tuple[Tensor, _AncestorPath]]:
        """Yield the states of the texts that end in each slice, and the path to go on from it."""
        path = self._above

        def run(nodes: range) -> tuple[Tensor, _AncestorPath]:
            nonlocal path
            states, path = self._slice(tree, texts, nodes, path)
            return states, path

        def describe(nodes: range) -> str:
            return f"{len(nodes)} token{'s' * (len(nodes) > 1)} of the prefix tree"

        slices = list(tree.slices(self.budget.tokens))
        yield from self.budget.run_in_parts(slices, run, len, describe)

    @torch.inference_mode()
    def _slice(
        self, tree: TokenTree, texts: Sequence[Text], nodes: range, path: _AncestorPath
    ) -> tuple[Tensor, _AncestorPath]:
        """Run one slice below ``path``.

        Return the states of the texts that end in it, [layers, rows, d], and the path above the
        next slice.
        """
        model, device = self.capture.model, self.capture.model.device

        def of_slice(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values[nodes.start : nodes.stop]).to(device)

        depth, end, tops = of_slice(tree.depth), of_slice(tree.end), tree.tops(nodes)
        entered = torch.from_numpy(tops).to(device)[:, None]
        index = torch.arange(nodes.start, nodes.stop, device=device)
        below = (index <= index[:, None]) & (index[:, None] < end)
        seen = torch.cat([torch.arange(path.length, device=device) < entered, below], dim=1)

        goes_on = tree.path_after(nodes)
        n_above = int(tree.depth[goes_on[0] if goes_on else nodes.stop])
        kept = [*range(n_above), *(path.length + node - nodes.start for node in goes_on)]
        cache = _PathCache(path, torch.tensor(kept, dtype=torch.long, device=device))

        rows = np.flatnonzero((tree.leaf >= nodes.start) & (tree.leaf < nodes.stop))
        leaves = tree.leaf[rows] - nodes.start
        reader: _Last | _Means
        if self.reading.mean:
            last = len(tree) - 1
            goes_on = [n - nodes.start for n in goes_on if tree.last_child[n] >= nodes.stop
                       or n == last]  # fmt: skip
            targets = np.array([*leaves, *goes_on], dtype=int)
            counted = of_slice(self.reading.counted(tree.token))
            reader = _Means(
                path,
                weights=below[torch.from_numpy(targets).to(device)] * counted,
                entered=tops[targets],
                counts=[self.reading.counted(texts[int(row)].tokens).sum() for row in rows],
                still_open={p: row for p, row in path.open.items() if p < n_above},
                opened=tree.depth[[n + nodes.start for n in goes_on]].tolist(),
                n_layers=len(self.capture.layers),
            )
        else:
            reader = _Last(torch.tensor(leaves, device=device))
        states = model.buffer(len(self.capture.layers), len(rows))
        with self.capture.into(states, reader, (1, len(nodes))):
            model.module(
                input_ids=of_slice(tree.token)[None],
                position_ids=depth[None],
                attention_mask=_masks(model, seen, depth, path.length),
                past_key_values=cache,
                use_cache=True,
            )
        return states, _AncestorPath(len(kept), cache.kept, *reader.carried)


class _Last:
    """Reads the states of the nodes of a slice at which texts end."""

    carried = (None, dict[int, int]())

    def __init__(self, leaves: Tensor) -> None:
        self.leaves = leaves

    def __call__(self, _: int, states: Tensor) -> Tensor:
        return states[0, self.leaves.to(states.device)]


class _Means:
    """Reads means along the paths to the nodes at which texts end, through several slices.

    Parameters
    ----------
    path
        The path above the slice, with the sums up to it.
    weights
        Which of the slice's nodes count for which target; the last targets are not texts that
        end but nodes that later slices stand below. [targets, nodes]
    entered
        The depth at which each target's path enters the slice. [targets]
    counts
        Number of tokens that the mean of each text is over. [texts that end]
    still_open, opened
        The sums of the path above that later slices need; the positions of the new ones.
    """

    def __init__(
        self,
        path: _AncestorPath,
        weights: Tensor,
        entered: np.ndarray,
        counts: Sequence[int],
        still_open: dict[int, int],
        opened: Sequence[int],
        n_layers: int,
    ) -> None:
        self.path, self.weights = path, weights
        self.n_rows = len(counts)
        self.counts = torch.tensor(counts, dtype=torch.float32, device=weights.device)[:, None]
        below = [i for i, top in enumerate(entered) if top]
        self.below = torch.tensor(below, dtype=torch.long, device=weights.device)
        base = [path.open[int(entered[i]) - 1] for i in below]
        self.base = torch.tensor(base, dtype=torch.long, device=weights.device)
        self.still_open = torch.tensor(list(still_open.values()), dtype=torch.long,
                                       device=weights.device)  # fmt: skip
        self.open = {p: row for row, p in enumerate([*still_open, *opened])}
        self.layers: list[Tensor] = [torch.empty(0)] * n_layers

    def __call__(self, layer: int, states: Tensor) -> Tensor:
        sums = self.weights.to(states.device) @ states[0].float()
        carried = [sums[self.n_rows :]]
        if self.path.sums is not None:
            before = self.path.sums[layer].to(states.device)
            sums.index_add_(0, self.below.to(states.device), before[self.base.to(states.device)])
            carried = [before[self.still_open.to(states.device)], sums[self.n_rows :]]
        self.layers[layer] = torch.cat(carried).to(self.weights.device)
        return sums[: self.n_rows] / self.counts.to(states.device)

    @property
    def carried(self) -> tuple[Tensor, dict[int, int]]:
        """Sums for the next slice, and from where on its path each ends to its row in them."""
        return torch.stack(self.layers), self.open


class _PathCache(DynamicCache):  # type: ignore[misc]
    """Shows a slice the keys and values of the path above it, and keeps those of the next path."""

    def __init__(self, path: _AncestorPath, keep: Tensor) -> None:
        super().__init__()
        self.path, self.keep = path, keep
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Return what the slice looks at, keys and values [1, heads, path + slice, head size]."""
        if layer_idx in self.path.attention:
            keys, values = self.path.attention[layer_idx]
            key_states = torch.cat([keys, key_states], dim=2)
            value_states = torch.cat([values, value_states], dim=2)
        keep = self.keep.to(key_states.device)
        self.kept[layer_idx] = (
            key_states.index_select(2, keep),
            value_states.index_select(2, keep),
        )
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """Return the number of tokens of the path."""
        return self.path.length


def _masks(
    model: LoadedModel, seen: Tensor, depth: Tensor, above: int
) -> Tensor | dict[str, Tensor]:
    """Return additive masks [1, 1, queries, keys], one for each kind of layer the model has.

    transformers takes a mask of four dimensions as it is, and a mapping of them where the model's
    configuration has ``layer_types``.
    """
    config = text_config(model.module.config)
    position = torch.cat([torch.arange(above, device=depth.device), depth])
    types = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)

    def mask(kind: str) -> Tensor:
        visible = seen
        if kind == "sliding_attention" and window:
            visible = seen & (depth[:, None] - position < window)
        elif kind == "chunked_attention":
            chunk = config.attention_chunk_size
            visible = seen & (depth[:, None] // chunk == position // chunk)
        hidden = torch.zeros(visible.shape, dtype=model.dtype, device=depth.device)
        return hidden.masked_fill_(~visible, torch.finfo(model.dtype).min)[None, None]

    if types:
        return {kind: mask(kind) for kind in sorted(set(types))}
    return mask("sliding_attention")
