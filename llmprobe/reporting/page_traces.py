"""Traces as tables of the page: a row for each layer, the last on top, a column for each token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from llmprobe.probing.trace import Trace
from llmprobe.reporting import elide
from llmprobe.reporting.traces import (
    colours,
    last_tokens,
    levels,
    meaning,
    number,
    some_layers,
    visible,
)

SHADES = 41
_MOST_TOKENS, _MOST_LAYERS = 40, 50
_LONGEST_TOKEN, _LONGEST_TITLE = 16, 120


class TraceTable(NamedTuple):
    """One trace, ready for the page."""

    title: str
    caption: str
    tokens: Sequence[str]
    rows: Sequence[tuple[int, bool, Sequence[tuple[int, str]]]]
    """Of each layer: its number, whether it is the best, and shade and score of each token."""


def trace_tables(traces: Sequence[tuple[str, Trace]]) -> Iterator[TraceTable]:
    """Of long texts the last tokens, of many layers some; each with what it is of."""
    for what, trace in traces:
        shown, lost = last_tokens(some_layers(trace, _MOST_LAYERS), _MOST_TOKENS)
        shades = np.rint(levels(shown) * (SHADES - 1)).astype(int)
        missing = f"; the first {lost:,} tokens are left out" if lost else ""
        rows = zip(shown.layers, shades.tolist(), shown.scores.tolist(), strict=True)
        yield TraceTable(
            title=f"{trace.model}, {trace.dataset}{what and f', {what}'}: "
            f"{elide(trace.text, _LONGEST_TITLE)}",
            caption=f"The {meaning(trace)} at every token and layer{missing}",
            tokens=[elide(visible(token), _LONGEST_TOKEN) for token in shown.tokens],
            rows=[
                (
                    layer,
                    layer == trace.best_layer,
                    [
                        (shade, number(score, trace))
                        for shade, score in zip(of_layer, scores, strict=True)
                    ],
                )
                for layer, of_layer, scores in rows
            ][::-1],
        )


def shade_style() -> str:
    """The colours of the cells, as CSS."""
    rules = []
    for shade in range(SHADES):
        ink, paper = colours(shade / (SHADES - 1))
        rules.append(f".s{shade} {{ color: {ink}; background: {paper}; }}")
    return "\n".join(rules)
