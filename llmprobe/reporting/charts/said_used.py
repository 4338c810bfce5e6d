"""Readable, said, used, linear: what each layer holds, and what the model makes of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from llmprobe.reporting.charts.colour_scale import CHANCE_MAP, text_colour
from llmprobe.reporting.charts.style import (
    em,
    entitle,
    label,
    panels_on,
    sheet,
    styled,
    text_width,
)
from llmprobe.results.curve import Curve, by_dataset, by_model
from llmprobe.results.figures import RUN, Look, figure
from llmprobe.results.results import Results

_MOST_BELOW = 4
"""Up to this many strips stand below each other; more stand in two columns."""
_TWO_BESIDE = 5.5
"""From this width in inches on, two columns of strips have room."""


class _Bar(NamedTuple):
    """One line of a strip."""

    name: str
    column: str
    """Its column of the results."""
    nothing: float
    """The value with the lightest colour."""
    most: float
    """The value with the darkest colour."""


_BARS = (
    _Bar("readable", "auroc", 0.5, 1.0),
    _Bar("said", "said_auroc", 0.5, 1.0),
    _Bar("used", "used_share", 0.0, 1.0),
    _Bar("more, not linear", "linearity_gap", 0.0, 0.25),
)


@figure(
    "said_used",
    caption="Readable: AUROC of the probe. Said: AUROC of the answers by the model's own head: at "
    "the last layer what the model says, below it the logit lens, in whose basis earlier layers "
    "need not write. Used: how much of the gap between the answers changes with the state. More, "
    "not linear: what a curved probe adds. Blue is more than nothing, orange the opposite. Numbers "
    "are those of the best layer; for said those of the last layer, for used the largest.",
    alt="For each model and dataset a strip of bars over layers: readable, said, used, linear. "
    "results.csv holds the same numbers.",
    takes="ax cmap",
)
@styled
def said_used(results: Results, look: Look = RUN) -> Figure | None:
    """Draw a strip for each curve that was asked more than what is readable; None without any.

    Many strips, and those of several models, stand in two columns if there is room.
    """
    asked = [curve for curve in results.curves if len(_bars(curve)) > 1]
    if not asked:
        return None
    # Models of one dataset stand beside each other.
    curves = [curve for group in by_dataset(asked).values() for curve in group]
    most = max(len(curve.layers) for curve in curves)
    several = len(curves) > _MOST_BELOW or len(by_model(curves)) > 1
    width = look.inches(6.9 if several else 1.5 + max(3.0, min(0.16 * most, 5.5)))
    columns = 2 if several and width >= _TWO_BESIDE else 1
    bars = max(len(_bars(curve)) for curve in curves)
    n_rows = -(-len(curves) // columns)
    drawn = sheet(look, width, em() * (1.8 + n_rows * (4.1 + 1.7 * bars)))
    shape = (n_rows, columns) if len(curves) > 1 else (1, 1)
    panels = panels_on(drawn, look, *shape)
    names = max(text_width(bar.name) for bar in _BARS)
    room = (width - 0.2) / columns - names - 1.5 * em()
    for ax, curve in zip(panels, curves, strict=False):
        _draw(ax, curve, room, look.cmap or CHANCE_MAP)
    for ax in panels[len(curves) :]:
        ax.remove()
    panels = panels[: len(curves)]
    for ax in panels[-columns:]:
        ax.set_xlabel("layer")
    entitle(look, drawn, panels)
    return drawn


def _bars(curve: Curve) -> list[_Bar]:
    """Return the bars that a curve has numbers for."""
    return [bar for bar in _BARS if np.isfinite(curve.column(bar.column)).any()]


def _draw(ax: Axes, curve: Curve, inches: float, colours: Colormap) -> None:
    bars, layers = _bars(curve), curve.layers
    for row, bar in enumerate(bars):
        values = curve.column(bar.column)
        norm = Normalize(2 * bar.nothing - bar.most, bar.most)
        extent = (-0.5, len(layers) - 0.5, row + 0.42, row - 0.42)
        ax.imshow(values[None], cmap=colours, norm=norm, aspect="auto", extent=extent,
                  interpolation="nearest")  # fmt: skip
        place = _marked(curve, bar, values)
        written = f"{values[place]:.2f}".removeprefix("0").replace("-0", "−")
        # At an end, a number that is wider than its cell goes inward.
        half = text_width(written, "x-small") / inches * len(layers) / 2
        x = np.clip(place, half - 0.5, len(layers) - 0.5 - half) if 2 * half > 1 else place
        ax.text(x, row, written, ha="center", va="center", fontsize="x-small",
                color=text_colour(norm(values[place]), colours))  # fmt: skip
    ax.set_ylim(len(bars) - 0.5, -0.5)
    ax.set_xlim(-0.5, len(layers) - 0.5)
    ax.set_yticks(range(len(bars)), [bar.name for bar in bars])
    most = max(2, min(12, int(inches / (2.2 * em()))))
    step = max(1, -(-len(layers) // most))
    ax.set_xticks(range(0, len(layers), step), [str(n) for n in layers[::step]])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    model = label(curve.model, 40, inches / 2, weight="bold")
    room = inches - text_width(f" in {model}", weight="bold")
    ax.set_title(f"{label(curve.title, 40, room, weight='bold')} in {model}")


def _marked(curve: Curve, bar: _Bar, values: np.ndarray) -> int:
    """Return the index of the layer whose number is written."""
    if bar.column == "said_auroc":
        return len(values) - 1
    if bar.column == "used_share":
        return int(np.nanargmax(values))
    best = curve.layers.index(curve.layer) if curve.layer in curve.layers else 0
    return best if np.isfinite(values[best]) else int(np.nanargmax(values))
