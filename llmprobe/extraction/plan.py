"""Plans of an extraction: which way of running its texts costs least, and how it is divided.

The layout depends only on the texts, the model's shape and the kind of device, never on a clock or
on the number of cores or processes, so an extraction that is resumed, repeated or shared writes the
same bytes. The speeds below are therefore constants, of which only the ratios matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from llmprobe.extraction.tokens import Place, Text, TokenisedTexts
from llmprobe.extraction.tree import common, shared_with_previous
from llmprobe.models.loading import text_config

PREFIX_TREE, PADDED, MASKED, ONE_LENGTH = (
    "prefix tree", "padded batches", "padded batches with a mask", "one length a batch",
)  # fmt: skip

SHARD_BYTES = 32 * 2**20
"""Size at which a shard is full; a few shards are in memory at a time."""
LEAST_SHARDS, LEAST_ROWS = 4, 256
"""The shards that a small extraction has at least, so that processes can share it and a crash costs
little; and the rows of a shard that is not divided further for that."""


@dataclass(frozen=True)
class Machine:
    """The speeds at which a kind of device does the parts of a forward pass.

    On a CPU they are those of one core, which runs a batch or a strand there;
    ``docs/performance.md`` says how they were measured.
    """

    products: dict[int, float]
    """Operations a second in products of matrices, by bytes of a number."""
    attention: float
    """Operations a second in the attention of padded batches."""
    masked_attention: dict[int, float]
    """Operations a second in attention with the tree's masks, by bytes of a number."""
    memory: float
    """Bytes a second at which weights are read, once a pass, and keys and values copied."""
    block: float
    """Seconds that a block costs in every pass, whatever it computes."""
    batch_tokens: int
    """Tokens of a batch of padded texts that keeps the device busy."""
    slice_tokens: int
    """Most nodes of a slice of the tree."""
    blocks: tuple[int, ...]
    """Sizes of a block that a plan chooses from."""
    strand_tokens: tuple[int, int]
    """Least and most tokens of a strand of the tree."""
    shard_seconds: float
    """Seconds of work after which even a small shard is written: about what a crash can cost."""


CPU = Machine(
    products={2: 0.53e12, 4: 0.12e12},
    attention=0.08e12,
    masked_attention={2: 0.07e12, 4: 0.07e12},
    memory=12e9,
    block=2e-4,
    batch_tokens=1024,
    slice_tokens=1024,
    blocks=(64, 128, 256, 512, 1024),
    strand_tokens=(512, 8192),
    shard_seconds=60,
)
# One strand a shard: a GPU runs one thing at a time. Not measured but taken from the vendor's
# figures for an H100 (dense bfloat16, float32, memory), of which large products reach about 0.7.
GPU = Machine(
    products={2: 6.5e14, 4: 4.5e13},
    attention=3e14,
    masked_attention={2: 1.5e14, 4: 3e13},
    memory=2.4e12,
    block=4e-4,
    batch_tokens=16_384,
    slice_tokens=8192,
    blocks=(64, 128, 256, 512, 1024, 2048),
    strand_tokens=(2**31, 2**31),
    shard_seconds=30,
)


def machine_of(device: torch.device) -> Machine:
    """Return the speeds of a kind of device."""
    return CPU if device.type == "cpu" else GPU


@dataclass(frozen=True)
class ModelShape:
    """The sizes that decide what a model's forward pass costs."""

    weights: int
    """Parameters that each token uses (of the experts, those that are chosen)."""
    weight_bytes: int
    """Bytes of those parameters."""
    pair: int
    """Operations of all attention layers for one query and one key."""
    blocks: int
    """Number of blocks."""
    row_bytes: int
    """Bytes of one row, all layers."""
    itemsize: int
    """Bytes of a number."""

    @staticmethod
    def of(config: Any, weights: int, blocks: int, layers: int, dtype: torch.dtype) -> ModelShape:
        """Return the shape of a model, by its configuration.

        ``weights`` counts its parameters without embeddings, and ``layers`` those that are read.
        """
        text = text_config(config)
        hidden_size = int(text.hidden_size)
        heads = getattr(text, "num_attention_heads", None) or 1
        head = getattr(text, "head_dim", None) or hidden_size // heads
        # Two products, of a multiplication and an addition for each number of each head.
        pair = 4 * heads * head * blocks
        row_bytes = layers * hidden_size * dtype.itemsize
        n_bytes = weights * dtype.itemsize
        return ModelShape(weights, n_bytes, pair, blocks, row_bytes, dtype.itemsize)


@dataclass(frozen=True)
class Cost:
    """What a way of running some texts costs."""

    tokens: int
    """Tokens that are computed, padding included."""
    operations: float
    """Operations in all products, those of attention included."""
    seconds: float
    """Time on the nominal machine, on one of its cores."""


@dataclass(frozen=True)
class ExtractionPlan:
    """The work of one extraction; the same texts always give the same plan."""

    way: str
    """How texts are run: ``"prefix tree"``, ``"padded batches"``, …"""
    texts: list[Text]
    """Distinct texts, in the order of the store's rows; one that occurs twice is run once."""
    text_of: list[int]
    """The index in ``texts`` of each example's text. [n]"""
    row_of: list[list[int]]
    """The row of each place of each example. [n][positions]"""
    strands: list[range]
    """Ranges of texts that are run together or one after the other; strands are independent."""
    shards: list[range]
    """The strands of each shard."""
    prefix: int
    """Number of tokens that all texts begin with and that are run once (0 for padded batches)."""
    budget: int
    """Most tokens of a forward pass."""
    cost: Cost
    """What the work costs."""
    block: int = 0
    """Most nodes of a block of the prefix tree (0 for padded batches)."""

    @cached_property
    def first_row(self) -> np.ndarray:
        """Return the first row of each text, and at the end the number of rows. [texts + 1]"""
        return _first_rows(self.texts)

    def rows_of(self, texts: range) -> range:
        """Return the rows of a range of texts."""
        return range(int(self.first_row[texts.start]), int(self.first_row[texts.stop]))

    def rows(self, shard: int) -> range:
        """Return the rows of a shard."""
        return self.rows_of(self._texts_of(shard))

    def shard_tokens(self, shard: int) -> int:
        """Return the number of tokens of a shard, about proportional to its work."""
        return sum(len(self.texts[i].tokens) - self.prefix for i in self._texts_of(shard))

    @property
    def fingerprint(self) -> str:
        """Digest of the layout of the rows; shards of another layout are not used."""
        digest = hashlib.sha256(repr([self.way, *map(self.rows, range(len(self.shards)))]).encode())
        for tokens, places in self.texts:
            for numbers in (tokens, *places):
                digest.update(np.array([len(numbers), *numbers], dtype=np.int64).tobytes())
        return digest.hexdigest()

    def _texts_of(self, shard: int) -> range:
        strands = self.shards[shard]
        return range(self.strands[strands.start].start, self.strands[strands.stop - 1].stop)


def plan_tree(
    texts: TokenisedTexts, shape: ModelShape, machine: Machine, slice_tokens: int | None = None
) -> ExtractionPlan:
    """Plan a prefix tree: the texts are sorted, and each distinct token is run once.

    Parameters
    ----------
    slice_tokens
        Most tokens in one forward pass, by default as many as keep the machine busy. Layout and
        cost do not depend on it.
    """
    wanted = texts.merged(cut=True)
    ordered = sorted(set(wanted))
    text_of = _texts_of(wanted, ordered)
    tokens = [text.tokens for text in ordered]
    lengths = np.array([len(t) for t in tokens])
    shared = shared_with_previous(tokens)
    prefix = min(common(tokens[0], tokens[-1]), int(lengths.min()) - 1)
    shared[0] = prefix
    new = lengths - shared
    n_new = int(new.sum())
    # Mean depth of the nodes, which is about the length of the path above a slice.
    above = float((new * (shared + lengths - 1) / 2).sum() / n_new)
    least, most = machine.strand_tokens
    # Long enough that the path that a strand may run again is a small part of it.
    strand = min(max(n_new // 128, least, int(8 * above)), most)
    strands = _tree_strands(new, shared, strand, _first_rows(ordered), shape)
    n_run = n_new + sum(int(shared[s.start]) - prefix for s in strands[1:])

    # A small block is given fewer keys that are masked; a large one copies its path less often.
    def cost(block: int) -> Cost:
        pairs = prefix**2 + n_run * (above + min(block, n_run / len(strands)))
        passes = n_run / machine.slice_tokens + len(strands) / 2
        copied = n_run * (above / block + 1)
        return _cost(shape, machine, prefix + n_run, pairs, passes, copied, tree=True)

    best = min(machine.blocks, key=lambda block: cost(block).seconds)
    return ExtractionPlan(
        way=PREFIX_TREE,
        texts=ordered,
        text_of=text_of,
        row_of=_rows_of(text_of, texts.places, ordered),
        strands=strands,
        shards=_group_strands(ordered, strands, shape, machine, prefix, cost(best)),
        prefix=prefix,
        budget=slice_tokens or machine.slice_tokens,
        cost=cost(best),
        block=best,
    )


def plan_padded(
    texts: TokenisedTexts,
    shape: ModelShape,
    machine: Machine,
    batch_tokens: int | None = None,
    *,
    way: str = PADDED,
    cut: bool = True,
    padding: bool = True,
) -> ExtractionPlan:
    """Plan batches of texts of similar length, longest first, so that memory peaks at the start.

    Parameters
    ----------
    batch_tokens
        Most tokens in a batch, padding included; a longer text is a batch of its own.
    cut
        Whether a text is run only up to its last token that is read.
    padding
        Whether texts of different length may share a batch.
    """
    wanted = texts.merged(cut)
    ordered = sorted(set(wanted), key=lambda text: (-len(text.tokens), text))
    text_of, first_row = _texts_of(wanted, ordered), _first_rows(ordered)
    most_rows = _most_rows(shape, int(first_row[-1]))

    def divide(rows: range, most_tokens: int) -> list[range]:
        batches, start = [], rows.start
        for stop in range(rows.start + 1, rows.stop + 1):
            width = len(ordered[start].tokens)
            full = (stop - start + 1) * width > most_tokens
            full = full or first_row[min(stop + 1, rows.stop)] - first_row[start] > most_rows
            if stop == rows.stop or full or (not padding and len(ordered[stop].tokens) != width):
                batches.append(range(start, stop))
                start = stop
        return batches

    strands = divide(range(len(ordered)), machine.batch_tokens)
    widths = [len(ordered[strand.start].tokens) for strand in strands]
    n_tokens = sum(len(s) * width for s, width in zip(strands, widths, strict=True))
    pairs = sum(len(s) * width**2 for s, width in zip(strands, widths, strict=True))
    cost = _cost(shape, machine, n_tokens, pairs, len(strands), tree=False)
    shards = _group_strands(ordered, strands, shape, machine, 0, cost)
    if batch_tokens is not None:
        # Only the batches change, not the shards, so those made with another budget are kept.
        rows = [range(strands[s.start].start, strands[s.stop - 1].stop) for s in shards]
        parts = [divide(shard, batch_tokens) for shard in rows]
        ends = np.cumsum([0, *map(len, parts)]).tolist()
        strands = [strand for part in parts for strand in part]
        shards = [range(a, b) for a, b in pairwise(ends)]
    return ExtractionPlan(
        way=way,
        texts=ordered,
        text_of=text_of,
        row_of=_rows_of(text_of, texts.places, ordered),
        strands=strands,
        shards=shards,
        prefix=0,
        budget=batch_tokens or machine.batch_tokens,
        cost=cost,
    )


def _cost(
    shape: ModelShape,
    machine: Machine,
    tokens: int,
    pairs: float,
    passes: float,
    copied: float = 0,
    *,
    tree: bool,
) -> Cost:
    """Return the cost of passes over a number of tokens and of pairs of query and key.

    Parameters
    ----------
    copied
        Tokens whose keys and values are copied: gathered, and repeated for each head.
    """
    linear, attention = 2 * shape.weights * tokens, shape.pair * pairs
    seconds = linear / machine.products[shape.itemsize]
    seconds += attention / (machine.masked_attention[shape.itemsize] if tree else machine.attention)
    # A token's keys and values are pair / 2 numbers; each of their two copies reads and writes.
    seconds += copied * 2 * shape.pair * shape.itemsize / machine.memory
    seconds += passes * (shape.weight_bytes / machine.memory + shape.blocks * machine.block)
    return Cost(tokens, linear + attention, seconds)


def _most_rows(shape: ModelShape, n: int) -> int:
    """Return the most rows of a strand or a shard, by its bytes and the least number of shards."""
    return max(1, min(SHARD_BYTES // shape.row_bytes, max(n // LEAST_SHARDS, LEAST_ROWS)))


def _tree_strands(
    new: np.ndarray, shared: np.ndarray, most_tokens: int, first_row: np.ndarray, shape: ModelShape
) -> list[range]:
    """Cut sorted texts into strands, where neighbours share few tokens.

    A strand runs again what its first text shares with the text before it. The cut is chosen in the
    second half of the texts that fit.
    """
    most_rows = _most_rows(shape, int(first_row[-1]))
    before = np.concatenate([[0], new.cumsum()])
    strands: list[range] = []
    start, n = 0, len(new)
    while start < n:
        fits = int(before.searchsorted(before[start] + most_tokens, side="right")) - 1
        fits_too = int(first_row.searchsorted(first_row[start] + most_rows, side="right")) - 1
        stop = max(start + 1, min(fits, fits_too, n))
        if stop < n:
            middle = start + (stop - start + 1) // 2
            stop -= int(shared[middle : stop + 1][::-1].argmin())
        strands.append(range(start, stop))
        start = stop
    return strands


def _group_strands(
    ordered: list[Text],
    strands: list[range],
    shape: ModelShape,
    machine: Machine,
    prefix: int,
    cost: Cost,
) -> list[range]:
    """Return the strands of each shard, which is full by its number of rows or by its time."""
    first_row = _first_rows(ordered)
    most_rows = _most_rows(shape, int(first_row[-1]))
    seconds_a_token = cost.seconds / max(cost.tokens, 1)
    shards: list[range] = []
    first, rows, seconds = 0, 0, 0.0
    for i, strand in enumerate(strands):
        work = seconds_a_token * sum(len(ordered[text].tokens) - prefix for text in strand)
        n_rows = int(first_row[strand.stop] - first_row[strand.start])
        if i > first and (rows + n_rows > most_rows or seconds + work > machine.shard_seconds):
            shards.append(range(first, i))
            first, rows, seconds = i, 0, 0.0
        rows += n_rows
        seconds += work
    return [*shards, range(first, len(strands))]


def _first_rows(texts: Sequence[Text]) -> np.ndarray:
    """Return the first row of each text, and at the end the number of rows. [texts + 1]"""
    return np.cumsum([0, *(len(text.places) for text in texts)])


def _texts_of(wanted: list[Text], ordered: list[Text]) -> list[int]:
    """Return the index of each wanted text among the ordered ones."""
    place = {text.tokens: i for i, text in enumerate(ordered)}
    return [place[text.tokens] for text in wanted]


def _rows_of(
    text_of: Sequence[int], places: Sequence[Sequence[Place]], ordered: Sequence[Text]
) -> list[list[int]]:
    """Return the row of each place of each example. [n][places]"""
    rows: list[dict[Place, int]] = []
    for text, first in zip(ordered, _first_rows(ordered).tolist(), strict=False):
        rows.append(dict(zip(text.places, range(first, first + len(text.places)), strict=True)))
    return [[rows[text][place] for place in own] for text, own in zip(text_of, places, strict=True)]
