"""Readable, said, used, linear: what each layer holds, and what the model makes of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from llmprobe.reporting.charts.colour_scale import CHANCE_MAP, text_colour
from llmprobe.reporting.charts.style import label, styled
from llmprobe.results.curve import Curve
from llmprobe.results.figures import figure
from llmprobe.results.results import Results


class _Bar(NamedTuple):
    """One line of a strip."""

    name: str
    column: str
    """Of the results."""
    nothing: float
    """Where colours are light."""
    most: float
    """Where they are darkest."""


_BARS = (
    _Bar("readable", "auroc", 0.5, 1.0),
    _Bar("said", "said_auroc", 0.5, 1.0),
    _Bar("used", "used_share", 0.0, 1.0),
    _Bar("more, not linear", "linearity_gap", 0.0, 0.25),
)


@figure(
    "said_used",
    caption="Readable: AUROC of the probe. Said: AUROC of the answers by the model's own head, at "
    "the last layer what the model says; below it the logit lens, in whose basis earlier layers "
    "need not write. Used: how much of the gap between the answers changes with the state. More, "
    "not linear: what a curved probe adds. Blue is more than nothing, orange the opposite; numbers "
    "stand at the best layer, for said at the last, for used where it is most.",
    alt="For each model and dataset a strip of bars over layers: readable, said, used, linear. "
    "results.csv holds the same numbers.",
)
@styled
def said_used(results: Results) -> Figure | None:
    """Draw a strip for each curve of which more was asked than what is readable; else None."""
    curves = [curve for curve in results.curves if len(_bars(curve)) > 1]
    if not curves:
        return None
    heights = [0.45 + 0.19 * len(_bars(curve)) for curve in curves]
    most = max(len(curve.layers) for curve in curves)
    drawn = Figure(figsize=(1.5 + max(3.0, min(0.16 * most, 5.5)), sum(heights) + 0.2))
    axes = drawn.subplots(len(curves), squeeze=False, height_ratios=heights)[:, 0]
    for ax, curve in zip(axes, curves, strict=True):
        _draw(ax, curve)
    axes[-1].set_xlabel("layer")
    return drawn


def _bars(curve: Curve) -> list[_Bar]:
    """Return the bars that a curve has numbers for."""
    return [bar for bar in _BARS if np.isfinite(curve.column(bar.column)).any()]


def _draw(ax: Axes, curve: Curve) -> None:
    bars, layers = _bars(curve), curve.layers
    for row, bar in enumerate(bars):
        values = curve.column(bar.column)
        norm = Normalize(2 * bar.nothing - bar.most, bar.most)
        extent = (-0.5, len(layers) - 0.5, row + 0.42, row - 0.42)
        ax.imshow(values[None], cmap=CHANCE_MAP, norm=norm, aspect="auto", extent=extent,
                  interpolation="nearest")  # fmt: skip
        place = _marked(curve, bar, values)
        written = f"{values[place]:.2f}".removeprefix("0").replace("-0", "−")
        ax.text(place, row, written, ha="center", va="center", fontsize=6,
                color=text_colour(norm(values[place])))  # fmt: skip
    ax.set_ylim(len(bars) - 0.5, -0.5)
    ax.set_xlim(-0.5, len(layers) - 0.5)
    ax.set_yticks(range(len(bars)), [bar.name for bar in bars])
    step = max(1, -(-len(layers) // 12))
    ax.set_xticks(range(0, len(layers), step), [str(n) for n in layers[::step]])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(label(f"{curve.title} in {curve.model}", 60))


def _marked(curve: Curve, bar: _Bar, values: np.ndarray) -> int:
    """Return the place of the layer whose number is written."""
    if bar.column == "said_auroc":
        return len(values) - 1
    if bar.column == "used_share":
        return int(np.nanargmax(values))
    best = curve.layers.index(curve.layer) if curve.layer in curve.layers else 0
    return best if np.isfinite(values[best]) else int(np.nanargmax(values))
