"""Concept depth: where on the way through the network a concept becomes readable."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

JUMP = 1.1
CONVERGED = 0.03
ROUNDING = 1e-9
"""So that a ratio which is exactly at a threshold counts whichever way it was rounded."""


def jump_layer(accuracies: Sequence[float]) -> int | None:
    """The first layer whose accuracy is at least 1.1 times that of the layer before it.

    Jin et al. 2024, section 4.3. ``accuracies`` starts at layer 0; None when there is no jump.
    """
    for layer, ratio in enumerate(_ratios(accuracies), start=1):
        if ratio >= JUMP - ROUNDING:
            return layer
    return None


def converging_layer(accuracies: Sequence[float]) -> int:
    """The layer after the last change of 3 % or more.

    Jin et al. 2024, section 4.3, as their published figures follow it: the last ``i`` with
    ``|a_i / a_{i-1} - 1| >= 0.03`` (1 if there is none), and the layer after it. Their formula
    read literally (the last layer within 3 % of the one before) is nearly always the last layer.
    ``accuracies`` starts at layer 0.
    """
    last_change = 1
    for layer, ratio in enumerate(_ratios(accuracies), start=1):
        if abs(ratio - 1) >= CONVERGED - ROUNDING:
            last_change = layer
    return min(last_change + 1, len(accuracies) - 1)


def _ratios(accuracies: Sequence[float]) -> list[float]:
    """Of each layer's accuracy, from layer 1 on, to that of the layer before it."""
    return [
        1.0 if after == before else after / before if before else float("inf")
        for before, after in pairwise(accuracies)
    ]
