"""What a probe says at every token and every layer of a text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmprobe.config.schema import file_name
from llmprobe.ground.errors import UserError


@dataclass(frozen=True, eq=False)
class Trace:
    """The scores of one probe for one text.

    The probe was fitted at one position, the last token if nothing else was asked for: what it
    says at the other tokens is an extrapolation.
    """

    text: str
    """As the model read it, in its template if it has one."""
    tokens: list[str]
    """The text of each token; ``�`` for one that is a part of a character only."""
    layers: list[int]
    """In rising order."""
    scores: np.ndarray
    """Probability of the class ``label``, or the predicted number. [layers, tokens]"""
    model: str
    dataset: str
    best_layer: int
    """Where the probe does best on examples that it was not fitted on."""
    label: str | None
    """The last of two classes; of more, the one predicted for the whole text at the best layer.
    None when the probe predicts a number."""
    position: str
    """Where in a text the probe was fitted: last, first, mean or span:FIELD."""
    probe: str
    """The `digest` of the probe."""

    @property
    def file_name(self) -> str:
        """Without a suffix: the model, the dataset, and a hash of the text."""
        digest = hashlib.sha256(self.text.encode()).hexdigest()
        return f"{self.model}-{file_name(self.dataset)}-{digest[:8]}"

    def to_json(self) -> dict[str, Any]:
        """Of plain values, scores with four digits after the point."""
        return {**vars(self), "scores": np.round(self.scores, 4).tolist()}

    @staticmethod
    def from_json(facts: Mapping[str, Any]) -> Trace:
        """What ``to_json`` gave; ``UserError`` when it is not that."""
        try:
            trace = Trace(**{**facts, "scores": np.array(facts["scores"], dtype=float)})
            whole = trace.scores.shape == (len(trace.layers), len(trace.tokens))
        except (TypeError, ValueError, LookupError) as error:
            raise UserError(f"not a trace: {error}") from None
        if not whole or trace.best_layer not in trace.layers:
            raise UserError("not a trace: its layers, tokens and scores do not fit each other")
        return trace
