"""A trace as one HTML file that needs neither a script nor a network."""

from __future__ import annotations

from markupsafe import Markup

from llmprobe.ground.text import elide
from llmprobe.reporting.page.assets import asset, template
from llmprobe.reporting.trace.view import TraceView, shade_style
from llmprobe.results.trace import Trace

_MOST_TOKENS = 1000
_LONGEST_TEXT = 2000


def trace_page(trace: Trace) -> str:
    """Return the page: a table with a row for each layer, the last on top, a column for each token.

    Of a longer text it has the last 1,000 tokens. All words in it are escaped.
    """
    return template("trace.html.jinja").render(
        view=TraceView(trace, _MOST_TOKENS),
        text=_cut(trace.text),
        style=Markup(asset("page.css") + shade_style()),
    )


def _cut(text: str) -> str:
    """Return both ends of a long text, its lines as they are; control characters become `?`."""
    half = _LONGEST_TEXT // 2
    ends = text if len(text) <= _LONGEST_TEXT else f"{text[:half]} … {text[-half:]}"
    return "\n".join(elide(line.expandtabs(4), _LONGEST_TEXT) for line in ends.split("\n"))
