"""How a probe over tokens makes one answer for a text: from its tokens' states, or their scores.

Poolings have the names of ``probe.pooling``, such as ``max`` or ``last-5``; the position of their
curves is called ``tokens:max``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from llmprobe.config.probe_kinds import PROBE_KINDS
from llmprobe.config.schema import ProbeConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.ground.errors import UserError
from llmprobe.probing.workers import DatasetStates


@dataclass(frozen=True)
class Pooling:
    """A way to make one answer for a text from the states of its tokens."""

    kind: str
    """``mean``, ``last``, ``max``, ``softmax`` or ``attention``."""
    number: float = 1.0
    """How many of the last tokens, or the temperature of a soft-max."""

    @classmethod
    def of(cls, position: str) -> Self | None:
        """Return the pooling of the position ``tokens:NAME``; None for other positions."""
        tokens, _, name = position.partition(":")
        if tokens != "tokens" or not name:
            return None
        kind, _, number = name.partition("-")
        return cls(kind, float(number or 1))

    @property
    def is_of_states(self) -> bool:
        """Whether it averages states, so that its probe is linear in one state for each text."""
        return self.kind in ("mean", "last")

    def read(self, n_tokens: np.ndarray) -> np.ndarray:
        """Return which rows are read, for texts with so many tokens each. [n] -> [tokens] bool"""
        from_end = np.repeat(n_tokens.cumsum(), n_tokens) - np.arange(n_tokens.sum())
        read: np.ndarray = from_end <= (self.number if self.kind == "last" else np.inf)
        return read

    def merged(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Return those of a text's tokens whose states are averaged."""
        return tuple(tokens[-int(self.number) :] if self.kind == "last" else tokens)

    def states(self, X: np.ndarray, n_tokens: np.ndarray) -> np.ndarray:
        """Return the mean state of each text over the tokens that are read.

        Parameters
        ----------
        X
            The states of all tokens, text by text. [tokens, d]
        n_tokens
            The number of tokens of each text. [n]

        Returns
        -------
        np.ndarray
            [n, d] float32
        """
        if self.kind == "last":
            X, n_tokens = X[self.read(n_tokens)], np.minimum(n_tokens, int(self.number))
        sums = np.add.reduceat(X, n_tokens.cumsum() - n_tokens, axis=0, dtype=np.float64)
        means: np.ndarray = (sums / n_tokens[:, None]).astype(np.float32)
        return means


@dataclass(frozen=True)
class Pooled:
    """The states of every token as one pooling reads them, at the position ``tokens:NAME``.

    For a mean of states, a layer is [n, d], as at any position. For other poolings it is
    [tokens, d], text by text, with ``n_tokens`` rows each.
    """

    of_tokens: DatasetStates
    """The states at the position ``tokens``."""
    pooling: Pooling
    """How a text's tokens are put together."""
    position: str
    """What the curve's position is called."""

    @property
    def dataset(self) -> ConceptDataset:
        """Return the dataset whose texts the states are of."""
        return self.of_tokens.dataset

    @property
    def facts(self) -> dict[str, Any]:
        """Return what is known of the extraction, with the position of the curve.

        There are golden examples only for means of states, since other engines pool no scores.
        """
        facts = self.of_tokens.facts
        golden = facts.get("golden", []) if self.pooling.is_of_states else []
        merged = [text | {"positions": self.pooling.merged(text["positions"])} for text in golden]
        return {**facts, "position": self.position, "golden": merged}

    @property
    def token_embeddings(self) -> np.ndarray | None:
        """Return the mean of the embeddings of each text's tokens. [n, d], or None"""
        return self.of_tokens.token_embeddings

    @property
    def n_tokens(self) -> np.ndarray | None:
        """Return the rows of each text; None where there is one state for each. [n], or None"""
        return None if self.pooling.is_of_states else self.of_tokens.n_tokens

    @property
    def layers(self) -> list[int]:
        """Return the numbers of the layers, in rising order."""
        return self.of_tokens.layers

    def n_bytes(self, index: int) -> int:
        """Return how many bytes of memory the states of a layer take."""
        return self.of_tokens.n_bytes(index)

    def layer(self, index: int) -> np.ndarray:
        """Return the states of a layer: [n, d] float32, or [tokens, d] where scores are pooled."""
        X = self.of_tokens.layer(index)
        if not self.pooling.is_of_states:
            return X
        assert self.of_tokens.n_tokens is not None
        return self.pooling.states(X, self.of_tokens.n_tokens)


def pooled(states: DatasetStates, position: str) -> DatasetStates:
    """Return states as the position ``tokens:NAME`` reads them; those of other positions as is.

    Raises
    ------
    UserError
        The states are not those of every token.
    """
    pooling = Pooling.of(position)
    if pooling is None:
        return states
    if states.n_tokens is None:
        raise UserError(
            f"position {position}: these are states of one place of each text, and probes over "
            "tokens need those of every token (position: tokens)"
        )
    return Pooled(states, pooling, position)


def config_of_pooling(config: ProbeConfig, position: str) -> ProbeConfig:
    """Return the config of a position: where scores are pooled, without refits.

    Each refit on shuffled or random labels, or on parts of the texts, would be a search of its own
    by gradient descent.

    Raises
    ------
    UserError
        The kind of probe minimises no loss, so it has no scores to pool, or it predicts numbers,
        of which there is no soft-max.
    """
    pooling = Pooling.of(position)
    if pooling is None or pooling.is_of_states:
        return config
    kind = PROBE_KINDS[config.kind]
    if kind.for_numbers and pooling.kind == "softmax":
        raise UserError(
            "probe.pooling softmax: weighs tokens by their scores, but numbers have a unit; with "
            f"{config.kind} say pooling: [mean, max, last-5, attention]"
        )
    if not kind.has_penalty:
        raise UserError(
            f"probe.pooling {pooling.kind}: needs a kind of probe that minimises a loss, such as "
            f"logistic; with {config.kind} say pooling: [mean, last-5]"
        )
    controls = tuple(name for name in config.controls if name != "random_labels")
    return config.model_copy(
        update={"repeats": 1, "controls": controls, "permutations": 0,
                "description_length": False, "learning_curve": (), "multi_layer": None}
    )  # fmt: skip
