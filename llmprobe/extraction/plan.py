"""Which texts run together: sorted by length, so that padding is rare, within a token budget."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch

SHARD_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Plan:
    """The work of one extraction, the same whenever it is made from the same texts."""

    unique: list[list[int]]
    """Distinct token lists; a text that occurs twice is run once."""
    row_of: list[int]
    """For each example, its row in the store. [n]"""
    shards: list[list[range]]
    """For each shard its batches; a batch is a range of rows of the store."""

    @property
    def fingerprint(self) -> str:
        """Identifies the layout of the rows; shards of another layout are not used."""
        layout = [self.unique, [[[b.start, b.stop] for b in shard] for shard in self.shards]]
        return hashlib.sha256(json.dumps(layout).encode()).hexdigest()


def make_plan(
    token_lists: Sequence[Sequence[int]],
    batch_tokens: int,
    row_bytes: int,
    padding: bool = True,
) -> Plan:
    """Batches of similar length, longest first, so that memory peaks at once and not at the end.

    Parameters
    ----------
    batch_tokens
        Most tokens in a batch, padding included; a longer text is a batch of its own.
    row_bytes
        Size of one example's states, for the size of shards.
    padding
        Whether texts of different length may share a batch.
    """
    distinct = {tuple(tokens): None for tokens in token_lists}
    ordered = sorted(distinct, key=lambda tokens: (-len(tokens), tokens))
    row = {tokens: i for i, tokens in enumerate(ordered)}
    batches: list[range] = []
    start = 0
    for stop in range(1, len(ordered) + 1):
        width = len(ordered[start])
        full = (stop - start + 1) * width > batch_tokens
        ends = stop == len(ordered) or full or (not padding and len(ordered[stop]) != width)
        if ends:
            batches.append(range(start, stop))
            start = stop
    shards: list[list[range]] = []
    rows_in_shard = 0
    for batch in batches:
        if not shards or (rows_in_shard + len(batch)) * row_bytes > SHARD_BYTES:
            shards.append([])
            rows_in_shard = 0
        shards[-1].append(batch)
        rows_in_shard += len(batch)
    return Plan([list(tokens) for tokens in ordered], [row[tuple(t)] for t in token_lists], shards)


def default_batch_tokens(device: torch.device) -> int:
    """A budget that keeps the device busy: its caches on a CPU, its many cores on a GPU."""
    return 1024 if device.type == "cpu" else 16_384
