"""Hidden states of a dataset in a model: what extraction gives and probing takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction.store import Store
from llmprobe.ground.errors import UserError


@dataclass(frozen=True)
class Activations:
    """Hidden states of every layer for every example, read from disk a layer at a time."""

    dataset: ConceptDataset
    facts: dict[str, Any]
    """Of the extraction: model, layers, hidden_size, parameters, tokens, seconds, dtype, …"""
    store: Store
    keep_alive: Any = field(default=None, repr=False)
    """Holds the temporary folder of an extraction that is not cached."""

    @property
    def layers(self) -> list[int]:
        """0 (what enters block 1; for the residual stream only) to the number of blocks."""
        last = int(self.facts["layers"])
        return list(range(last + 1 - self.facts["shape"][1], last + 1))

    @property
    def labels(self) -> np.ndarray:
        """The dataset's labels. [n]"""
        return self.dataset.labels

    @property
    def groups(self) -> np.ndarray | None:
        """The dataset's groups. [n], or None"""
        return self.dataset.groups

    def n_bytes(self, index: int) -> int:  # noqa: ARG002 - all layers are of one size
        """What ``layer`` takes in memory."""
        return 4 * len(self.dataset) * int(self.facts["hidden_size"])

    def layer(self, index: int) -> np.ndarray:
        """States of one layer, rows in the dataset's order. -> [n, d] float32"""
        if index not in self.layers:
            first, last = self.layers[0], self.layers[-1]
            raise UserError(f"there is no layer {index}: these are layers {first} to {last}")
        return self.store.layer(index, self.facts)
