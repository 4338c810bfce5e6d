"""A trace as a figure: layers upward, tokens to the right, as many rows of them as it takes."""

from __future__ import annotations

from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from llmprobe.reporting.charts.colour_scale import CHANCE_MAP
from llmprobe.reporting.charts.panels import layer_ticks
from llmprobe.reporting.charts.style import Chart, label, styled
from llmprobe.reporting.trace.view import PALE, TraceView
from llmprobe.results.trace import Trace

_TOKENS_BESIDE = 24
_MOST_TOKENS = 144
_LONGEST_TOKEN = 14


@styled
def trace_figure(trace: Trace) -> Figure:
    """Draw the scores as colours, the best layer in a frame; of a long text the last 144 tokens."""
    view = TraceView(trace, _MOST_TOKENS)
    n = len(view.tokens)
    beside = min(n, _TOKENS_BESIDE)
    n_panels = ceil(n / beside)
    longest = max(min(len(token), _LONGEST_TOKEN) for token in view.tokens)
    height = min(max(0.075 * len(view.layers), 1.2), 3.5) + 0.065 * longest
    figure = Chart(figsize=(max(1.2 + 0.25 * beside, 4.5), 1.3 + n_panels * height))
    *panels, bar = figure.subplots(
        n_panels + 1, 1, height_ratios=[*[height] * n_panels, 0.12], squeeze=False
    )[:, 0]
    for start, ax in zip(range(0, n, beside), panels, strict=True):
        _panel(ax, view, slice(start, start + beside))
        ax.set_xlim(-0.5, beside - 0.5)
    panels[0].set_title(f"{label(trace.model, 34)} on {label(trace.subject, 34)}", pad=6)
    figure.supylabel("layer")
    _colour_bar(figure, bar, view)
    notes = [view.caution, view.left_out("the .json file")]
    figure.supxlabel("\n".join(filter(None, notes)), fontsize=7, wrap=True)
    return figure


def _panel(ax: Axes, view: TraceView, part: slice) -> None:
    first, last, best = view.layers[0], view.layers[-1], view.trace.best_layer
    tokens = [label(token, _LONGEST_TOKEN) for token in view.tokens[part]]
    right = len(tokens) - 0.5
    ax.imshow(
        view.levels[:, part],
        cmap=CHANCE_MAP,
        norm=Normalize(0, 1),
        origin="lower",
        aspect="auto",
        interpolation="none",
        alpha=np.broadcast_to(np.where(view.read[part], 1, PALE), view.levels[:, part].shape),
        extent=(-0.5, right, first - 0.5, last + 0.5),
    )
    ax.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=7)
    for text, is_read in zip(ax.get_xticklabels(), view.read[part], strict=True):
        text.set_fontweight("bold" if is_read else "normal")
    ax.xaxis.tick_top()
    ax.set_yticks(layer_ticks(first, last, 8))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.add_patch(
        Rectangle(
            (-0.5, best - 0.5), len(tokens), 1,
            fill=False, edgecolor="black", linewidth=0.8, clip_on=False,
        )
    )  # fmt: skip
    ax.annotate(
        f"best: {best}", (right, best), (3, 0),
        textcoords="offset points", va="center", fontsize=7,
    )  # fmt: skip


def _colour_bar(figure: Figure, bar: Axes, view: TraceView) -> None:
    colours: Colormap = CHANCE_MAP
    extend = "neither"
    if view.trace.label is None:  # From the light middle on.
        colours = ListedColormap(CHANCE_MAP([0.5 + i / 510 for i in range(256)]))
        extend = "both"
    scores = ScalarMappable(Normalize(*view.score_range), colours)
    figure.colorbar(scores, cax=bar, orientation="horizontal", extend=extend)
    bar.set_xlabel(label(view.meaning, 60))
