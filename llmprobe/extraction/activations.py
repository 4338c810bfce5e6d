"""Hidden states of a dataset in a model: the result of extraction and the input of probing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction.store import Store
from llmprobe.ground.errors import UserError
from llmprobe.ground.notebook import ShownInNotebooks
from llmprobe.ground.text import elide, listed


@dataclass(frozen=True)
class Activations(ShownInNotebooks):
    """Hidden states of every layer for every example, read from disk a layer at a time."""

    dataset: ConceptDataset
    facts: dict[str, Any]
    """Facts of the extraction: model, layers, hidden_size, tokens, way, seconds, dtype, …"""
    store: Store
    """The files of the hidden states."""
    keep_alive: Any = field(default=None, repr=False)
    """Holds the temporary folder of an extraction that is not cached."""
    embeddings: Activations | None = field(default=None, repr=False)
    """The mean token embedding of each text, where that was extracted too."""

    def __repr__(self) -> str:
        states = f"{len(self.layers)} layers of [n, {self.facts['hidden_size']}]"
        at = ", ".join(self.positions)
        model = elide(str(self.facts.get("model", "?")), 60)
        return f"Activations({elide(self.dataset.name, 60)!r} in {model!r}: {states} at {at})"

    @property
    def positions(self) -> tuple[str, ...]:
        """Return the positions that were read, in the order in which they were asked for."""
        return tuple(self.facts["positions"])

    def at(self, position: str | None = None) -> Activations:
        """Return the states at one position, by default the only one.

        Raises
        ------
        UserError
            There is no such position, or there are several and none is named.
        """
        if position is None and len(self.positions) == 1:
            position = self.positions[0]
        if position not in self.positions:
            wanted = "none was named" if position is None else f"{position!r} is none of them"
            raise UserError(f"these are states at {listed(self.positions)}, and {wanted}")
        if self.facts.get("position") == position:
            return self
        column = self.positions.index(position)
        own = {
            name: self.facts[name][column]
            for name in ("row_of", "distinct_states", "golden", "n_read")
        }
        return replace(self, facts=self.facts | own | {"positions": [position],
                                                       "position": position})  # fmt: skip

    @property
    def n_tokens(self) -> np.ndarray | None:
        """Number of rows of each text at the position ``tokens``, one for each token. [n]

        None at positions where each text has one row.
        """
        counts = self.facts["n_read"]
        return None if counts is None else np.array(counts)

    @property
    def token_embeddings(self) -> np.ndarray | None:
        """The mean token embedding of each text, where it is known. [n, d], or None"""
        return None if self.embeddings is None else self.embeddings.layer(0)

    @property
    def layers(self) -> list[int]:
        """Numbers of the layers that were read; 0 is what enters block 1, which some sites lack."""
        return [int(layer) for layer in self.facts["layer_numbers"]]

    @property
    def labels(self) -> np.ndarray:
        """The dataset's labels. [n]"""
        return self.dataset.labels

    @property
    def groups(self) -> np.ndarray | None:
        """The dataset's groups. [n], or None"""
        return self.dataset.groups

    def n_bytes(self, index: int) -> int:  # noqa: ARG002 - all layers are of one size
        """Return the bytes that one layer takes in memory."""
        return 4 * len(self.facts["row_of"]) * int(self.facts["hidden_size"])

    def layer(self, index: int) -> np.ndarray:
        """Return the states of one layer, [n, d] float32, rows in the dataset's order.

        At the position ``tokens`` a text has a row for each of its tokens, see ``n_tokens``.

        Raises
        ------
        UserError
            There is no such layer, or the states are at several positions.
        """
        if "position" not in self.facts:
            raise UserError(f"these are states at {listed(self.positions)}: `.at(NAME)` has those "
                            "of one")  # fmt: skip
        if index not in self.layers:
            raise UserError(f"there is no layer {index}: these are {_ranges(self.layers)}")
        return self.store.layer(index, self.facts)


def _ranges(layers: list[int]) -> str:
    first, last = layers[0], layers[-1]
    if layers == list(range(first, last + 1)):
        return f"layers {first} to {last}"
    return f"layers {listed([str(layer) for layer in layers])}"
