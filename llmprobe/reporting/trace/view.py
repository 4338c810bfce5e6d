"""What every picture of a trace shows: its words, its colours, and what there is room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from matplotlib.colors import to_hex

from llmprobe.ground.text import elide
from llmprobe.reporting.charts.colour_scale import CHANCE_MAP
from llmprobe.results.trace import Trace

_POSITIONS = {
    "last": "the last token",
    "first": "the first token",
    "mean": "the mean of all tokens",
}


def meaning(trace: Trace) -> str:
    """What its scores are: ``probability of '1'``."""
    if trace.label is None:
        return "predicted number"
    return f"probability of {elide(trace.label, 40)!r}"


def caution(trace: Trace) -> str:
    """Why its scores are to be read with care."""
    _, _, field = trace.position.partition(":")
    place = f"the end of {elide(field, 40)!r}" if field else _POSITIONS[trace.position]
    return f"The probe was fitted at {place}; elsewhere its scores are an extrapolation."


def score_range(trace: Trace) -> tuple[float, float]:
    """The scores with the first colour and with the last one: 0 and 1 for probabilities.

    For numbers the range of those that are no outliers (Tukey 1977, section 2D: beyond the
    quartiles by 1.5 times their distance). Many models give their first token a state of enormous
    norm, so it counts only where the probe is at home there.
    """
    if trace.label is not None:
        return 0.0, 1.0
    skipped = int(trace.position != "first" and len(trace.tokens) > 1)
    scores = trace.scores[:, skipped:]
    first, third = np.quantile(scores, [0.25, 0.75])
    reach = 1.5 * (third - first)
    low, high = max(scores.min(), first - reach), min(scores.max(), third + reach)
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(high) + 0.5)


def levels(trace: Trace) -> np.ndarray:
    """Where in ``CHANCE_MAP`` each score lies, 0 to 1: even odds in the middle. [layers, tokens]

    Numbers have no chance, and run from the middle, which is light, to the dark end.
    """
    low, high = score_range(trace)
    share = np.clip((trace.scores - low) / (high - low), 0, 1)
    shown: np.ndarray = share if trace.label is not None else 0.5 + share / 2
    return shown


def colours(level: float) -> tuple[str, str]:
    """Of the number in a cell, and of the cell: ``("#ffffff", "#002c64")``."""
    red, green, blue, _ = CHANCE_MAP(level)
    dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.55
    return "#ffffff" if dark else "#000000", to_hex((red, green, blue))


class Row(NamedTuple):
    """One layer of a trace, as a page shows it."""

    layer: int
    best: bool
    cells: Sequence[tuple[int, str]]
    """The shade and the score of each token."""


SHADES = 41
"""Colours of the cells on a page."""


def rows(trace: Trace) -> list[Row]:
    """The last layer first."""
    shades = np.rint(levels(trace) * (SHADES - 1)).astype(int)
    found = [
        Row(
            layer,
            layer == trace.best_layer,
            [(shade, number(score, trace)) for shade, score in zip(shaded, scores, strict=True)],
        )
        for layer, shaded, scores in zip(
            trace.layers, shades.tolist(), trace.scores.tolist(), strict=True
        )
    ]
    return found[::-1]


def shade_style() -> str:
    """The colours of the classes ``s0``, ``s1``, …, as CSS."""
    rules = []
    for shade in range(SHADES):
        ink, paper = colours(shade / (SHADES - 1))
        rules.append(f".s{shade} {{ color: {ink}; background: {paper}; }}")
    return "\n".join(rules)


def number(score: float, trace: Trace) -> str:
    """A score in a cell."""
    if trace.label is not None:
        return f"{score:.2f}"
    return f"{score:.0f}" if 100 <= abs(score) < 1e6 else f"{score:.3g}"


def last_tokens(trace: Trace, most: int) -> tuple[Trace, int]:
    """The trace of its last ``most`` tokens, where the probe is at home, and how many it lost."""
    lost = max(0, len(trace.tokens) - most)
    return replace(trace, tokens=trace.tokens[lost:], scores=trace.scores[:, lost:]), lost


def some_layers(trace: Trace, most: int) -> Trace:
    """The trace of ``most`` layers, evenly spaced, the best one among them."""
    n = len(trace.layers)
    if n <= most:
        return trace
    chosen = np.linspace(0, n - 1, most).round().astype(int)
    best = trace.layers.index(trace.best_layer)
    inner = np.abs(chosen[1:-1] - best)
    if best not in chosen:
        chosen[1 + int(inner.argmin())] = best
    return replace(trace, layers=[trace.layers[i] for i in chosen], scores=trace.scores[chosen])


def left_out(lost: int, layers: Sequence[int], all_layers: Sequence[int], where: str) -> str:
    """A sentence about what a picture does not show; empty if it shows everything."""
    said = []
    if lost:
        said.append(f"the first {lost:,} tokens")
    if len(layers) < len(all_layers):
        said.append(f"{len(all_layers) - len(layers)} of {len(all_layers)} layers")
    return f"Left out here: {' and '.join(said)}; {where} has them." if said else ""


def visible(token: str) -> str:
    """A token whose spaces show: ``·`` for a space at an end, ``↵`` and ``⇥`` for others."""
    token = token.replace("\r\n", "↵").replace("\n", "↵").replace("\r", "↵").replace("\t", "⇥")
    inner = token.strip(" ")
    start = len(token) - len(token.lstrip(" ")) if inner else 0
    return "·" * start + inner + "·" * (len(token) - start - len(inner))
