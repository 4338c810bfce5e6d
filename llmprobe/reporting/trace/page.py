"""A trace as one HTML file that needs neither a script nor a network."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from llmprobe.ground.text import elide
from llmprobe.reporting.trace.shading import (
    SHADES,
    caution,
    last_tokens,
    left_out,
    meaning,
    number,
    rows,
    score_range,
    shade_style,
    visible,
)
from llmprobe.results.trace import Trace

_MOST_TOKENS = 1000
_LONGEST_TEXT = 2000
_LONGEST_TOKEN = 24


def trace_page(trace: Trace) -> str:
    """The page: a table with a row for each layer, the last on top, and a column for each token.

    Of a text of more than 1,000 tokens it has the last ones. All words in it are escaped.
    """
    shown, lost = last_tokens(trace, _MOST_TOKENS)
    low, high = score_range(trace)
    template = files("llmprobe.reporting.page").joinpath("html/trace.html.jinja")
    page: str = (
        Environment(autoescape=True, undefined=StrictUndefined)
        .from_string(template.read_text(encoding="utf-8"))
        .render(
            model=elide(trace.model, 80),
            dataset=elide(trace.dataset, 80),
            text=_cut(trace.text),
            meaning=meaning(trace),
            caution=caution(trace),
            missing=left_out(lost, trace.layers, trace.layers, "the .json file"),
            tokens=[elide(visible(token), _LONGEST_TOKEN) for token in shown.tokens],
            shade_style=Markup(shade_style()),
            scale=range(0 if trace.label is not None else SHADES // 2, SHADES),
            low=number(low, trace),
            high=number(high, trace),
            rows=rows(shown),
        )
    )
    return page


def _cut(text: str) -> str:
    """Both ends of a long text, its lines as they are; control characters become `?`."""
    return "\n".join(elide(line.expandtabs(4), _LONGEST_TEXT) for line in _ends(text).split("\n"))


def _ends(text: str) -> str:
    half = _LONGEST_TEXT // 2
    return text if len(text) <= _LONGEST_TEXT else f"{text[:half]} … {text[-half:]}"
