"""Traces as tables of the page: a row for each layer, the last on top, a column for each token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from llmprobe.ground.text import elide
from llmprobe.reporting.trace.shading import Row, last_tokens, meaning, rows, some_layers, visible
from llmprobe.results.trace import Trace

_MOST_TOKENS, _MOST_LAYERS = 40, 50
_LONGEST_TOKEN, _LONGEST_TITLE = 16, 120


class TraceTable(NamedTuple):
    """One trace, ready for the page."""

    title: str
    caption: str
    tokens: Sequence[str]
    rows: Sequence[Row]


def trace_tables(traces: Sequence[Trace]) -> Iterator[TraceTable]:
    """Of long texts the last tokens, of many layers some."""
    for trace in traces:
        shown, lost = last_tokens(some_layers(trace, _MOST_LAYERS), _MOST_TOKENS)
        missing = f"; the first {lost:,} tokens are left out" if lost else ""
        yield TraceTable(
            title=f"{trace.model}, {trace.dataset}{trace.title and f', {trace.title}'}: "
            f"{elide(trace.text, _LONGEST_TITLE)}",
            caption=f"The {meaning(trace)} at every token and layer{missing}",
            tokens=[elide(visible(token), _LONGEST_TOKEN) for token in shown.tokens],
            rows=rows(shown),
        )
