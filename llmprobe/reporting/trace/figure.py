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
from llmprobe.reporting.charts.style import label, styled
from llmprobe.reporting.trace.shading import (
    caution,
    last_tokens,
    left_out,
    levels,
    meaning,
    score_range,
    visible,
)
from llmprobe.results.trace import Trace

_TOKENS_BESIDE = 24
_MOST_TOKENS = 144
_LONGEST_TOKEN = 14


@styled
def trace_figure(trace: Trace) -> Figure:
    """The scores as colours, the best layer in a frame.

    Of a text of more than 144 tokens, the last ones.
    """
    trace, lost = last_tokens(trace, _MOST_TOKENS)
    n = len(trace.tokens)
    beside = min(n, _TOKENS_BESIDE)
    n_panels = ceil(n / beside)
    longest = max(min(len(visible(token)), _LONGEST_TOKEN) for token in trace.tokens)
    height = min(max(0.075 * len(trace.layers), 1.2), 3.5) + 0.065 * longest
    figure = Figure(figsize=(max(1.2 + 0.25 * beside, 4.5), 1.3 + n_panels * height))
    *panels, bar = figure.subplots(
        n_panels + 1, 1, height_ratios=[*[height] * n_panels, 0.12], squeeze=False
    )[:, 0]
    shades = levels(trace)
    for start, ax in zip(range(0, n, beside), panels, strict=True):
        _panel(ax, trace, shades, range(start, min(start + beside, n)), beside)
    panels[0].set_title(f"{label(trace.model, 34)} on {label(trace.dataset, 34)}", pad=6)
    figure.supylabel("layer")
    _colour_bar(figure, bar, trace)
    notes = [caution(trace), left_out(lost, trace.layers, trace.layers, "the .json file")]
    figure.supxlabel("\n".join(filter(None, notes)), fontsize=7, wrap=True)
    return figure


def _panel(ax: Axes, trace: Trace, shades: np.ndarray, tokens: range, beside: int) -> None:
    first, last = trace.layers[0], trace.layers[-1]
    ax.imshow(
        shades[:, tokens.start : tokens.stop],
        cmap=CHANCE_MAP,
        norm=Normalize(0, 1),
        origin="lower",
        aspect="auto",
        interpolation="none",
        extent=(-0.5, len(tokens) - 0.5, first - 0.5, last + 0.5),
    )
    ax.set_xlim(-0.5, beside - 0.5)
    ax.set_xticks(
        range(len(tokens)),
        [label(visible(trace.tokens[i]), _LONGEST_TOKEN) for i in tokens],
        rotation=90,
        fontsize=7,
    )
    ax.xaxis.tick_top()
    ax.set_yticks(layer_ticks(first, last, 8))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.add_patch(
        Rectangle(
            (-0.5, trace.best_layer - 0.5), len(tokens), 1,
            fill=False, edgecolor="black", linewidth=0.8, clip_on=False,
        )
    )  # fmt: skip
    ax.annotate(
        f"best: {trace.best_layer}", (len(tokens) - 0.5, trace.best_layer), (3, 0),
        textcoords="offset points", va="center", fontsize=7,
    )  # fmt: skip


def _colour_bar(figure: Figure, bar: Axes, trace: Trace) -> None:
    low, high = score_range(trace)
    colours: Colormap = CHANCE_MAP
    if trace.label is None:  # From the light middle on.
        colours = ListedColormap(CHANCE_MAP([0.5 + i / 510 for i in range(256)]))
    extend = "both" if trace.label is None else "neither"
    figure.colorbar(
        ScalarMappable(Normalize(low, high), colours), cax=bar, orientation="horizontal",
        extend=extend,
    )  # fmt: skip
    bar.set_xlabel(label(meaning(trace), 60))
