"""Hidden states from a file in place of a model's, for a run that probes without a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmprobe.config.schema import ActivationsConfig, ExtractConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction.states_files import StatesFile, content_digest
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import digest
from llmprobe.ground.text import listed


@dataclass(frozen=True)
class ActivationsFromElsewhere:
    """Hidden states of every example at every layer, read from a file a layer at a time."""

    dataset: ConceptDataset
    facts: dict[str, Any]
    """Facts as an extraction has them; numbers that only a model could tell are NaN."""
    states: StatesFile
    """The file of the hidden states."""
    row_of: np.ndarray
    """The row of the file for each example. [n]"""

    @property
    def token_embeddings(self) -> None:
        """None: there is no model that has any."""

    @property
    def n_tokens(self) -> None:
        """None: each text has one row."""

    @property
    def layers(self) -> list[int]:
        """Numbers of the layers, rising."""
        return self.states.layers

    def at(self, position: str) -> ActivationsFromElsewhere:  # noqa: ARG002 - there is one
        """Return these states, which are at one position only."""
        return self

    def n_bytes(self, index: int) -> int:
        """Return the bytes that one layer takes in memory."""
        return 4 * self.states.rows * self.states.width(index)

    def layer(self, index: int) -> np.ndarray:
        """Return the states of one layer, [n, d] float32, rows in the dataset's order.

        Raises
        ------
        UserError
            A number is not finite, or the file is damaged.
        """
        states: np.ndarray = self.states.layer(index)[self.row_of]
        return states


class StatesFromElsewhere:
    """What takes an extractor's place where hidden states come from a file.

    Parameters
    ----------
    extract
        Holds the site and the position that tables name for the states.
    """

    is_local = True

    def __init__(self, config: ActivationsConfig, extract: ExtractConfig) -> None:
        self.model_config, self.config = config, extract
        self._content = ""

    def folder(self, dataset: ConceptDataset) -> Path:
        """Return a name that identifies these states of a dataset."""
        activations = self.of(dataset)
        self._content = self._content or content_digest(activations.states.path)
        key = self.model_config.model_dump(mode="json", exclude={"path", "name"})
        rows = activations.row_of.tolist()
        names = [self.config.site, self.config.position]
        return Path(digest([key, self._content, rows, names])[:16])

    def find(
        self,
        dataset: ConceptDataset,
        *,
        embeddings: bool,  # noqa: ARG002 - nobody has them
    ) -> ActivationsFromElsewhere:
        """Return the states of a dataset."""
        return self.of(dataset)

    def extract(self, dataset: ConceptDataset) -> ActivationsFromElsewhere:
        """Return the states of a dataset."""
        return self.of(dataset)

    extract_with_embeddings = extract

    def of(self, dataset: ConceptDataset) -> ActivationsFromElsewhere:
        """Return the states of a dataset, after checking that the rows of both fit.

        Raises
        ------
        UserError
            They do not fit, the file is not one of hidden states, or the position is not one token
            of each text.
        """
        states = StatesFile(self.model_config, {len(dataset)})
        if len(self.config.positions) > 1:
            raise UserError(
                f"extract.position: {listed(self.config.positions)}, and the states of "
                f"{states.where} are at one position; name that"
            )
        if self.config.position == "tokens":
            raise UserError(
                f"extract.position: tokens, and the states of {states.where} are one of each text"
            )
        facts = {
            "model": self.model_config.name,
            "site": self.config.site,
            "position": self.config.position,
            "hidden_size": states.width(states.layers[-1]),
            "dtype": states.dtype,
            **dict.fromkeys(("parameters", "seconds", "tokens", "unique_tokens"), np.nan),
        }
        return ActivationsFromElsewhere(dataset, facts, states, self._row_of(dataset, states))

    def _row_of(self, dataset: ConceptDataset, states: StatesFile) -> np.ndarray:
        """Return the row of the file for each example. [n]"""
        column = self.model_config.join
        if column is None:
            return np.arange(len(dataset))
        where = f"{states.where}: join {column!r}"
        if column not in dataset.fields:
            known = ", ".join(map(str, dataset.fields.columns)) or "none but text and label"
            raise UserError(f"{where}: {dataset.name} has no such column; it has {known}")
        names = states.names or []
        row_of = {name: row for row, name in enumerate(names)}
        if len(row_of) < len(names):
            twice = next(name for row, name in enumerate(names) if row_of[name] != row)
            raise UserError(f"{where}: {twice!r} names more than one row of the states")
        rows = []
        for example, cell in enumerate(dataset.fields[column].tolist()):
            name = str(cell)
            if states.requests is not None:  # vLLM returns the whole path.
                name = Path(name).name.removesuffix(".safetensors")
            if name not in row_of:
                raise UserError(
                    f"{where}: row {example + 1} of {dataset.name} is called {name!r:.80}, and no "
                    "row of the states is"
                )
            rows.append(row_of[name])
        return np.array(rows)
