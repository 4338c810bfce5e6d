"""What figures of many panels share: their grid, their legend, and axes of layers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from llmprobe.config.sites import axis_label
from llmprobe.reporting.charts.style import label
from llmprobe.results.curve import Curve, layer_names

DEPTH = "depth (layer / last layer)"


SPAN: dict[str, Any] = {"marker": "|", "markersize": 6, "linestyle": "-", "linewidth": 1}
"""The line where a curve is above half of its rise, and its ends."""
SPAN_NAME = "above half of its rise"


class Grid(NamedTuple):
    """Panels of the same axes, one for each name, in rows of up to four."""

    figure: Figure
    panels: Sequence[Axes]
    columns: int

    @classmethod
    def of(cls, names: Sequence[str]) -> Grid:
        """Return a grid of panels under their names."""
        columns = {1: 1, 2: 2, 4: 2}.get(len(names), 3 if len(names) <= 9 else 4)
        width, panel_height = (4.5, 3.0) if columns == 1 else (6.75, 5.2 / columns)
        n_rows = ceil(len(names) / columns)
        figure = Figure(figsize=(width, panel_height * n_rows + 0.3))
        panels = figure.subplots(n_rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for ax, name in zip(panels, names, strict=False):
            ax.set_title(label(name, 72 // columns))
        for ax in panels[len(names) :]:
            ax.remove()
        grid = cls(figure, list(panels[: len(names)]), columns)
        for ax in grid.bottom:
            ax.tick_params(labelbottom=True)
        return grid

    @property
    def left(self) -> Sequence[Axes]:
        """Return the first panel of each row."""
        return self.panels[:: self.columns]

    @property
    def bottom(self) -> Sequence[Axes]:
        """Return the last panel of each column."""
        return self.panels[-self.columns :]

    def over_depth(self) -> None:
        """Let the horizontal axis be relative depth."""
        if self.columns > 2:
            self.panels[0].set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        self.figure.supxlabel(DEPTH)

    def over_layers(self, curves: Sequence[Curve]) -> None:
        """Let the horizontal axis be the layer of ``curves``, by name if layers have names."""
        layers = [layer for curve in curves for layer in curve.layers]
        most = 12 if self.columns == 1 else 6
        self.panels[0].set_xticks(layer_ticks(min(layers), max(layers), most))
        if names := layer_names(curves):
            name_layers(self.figure, self.bottom, names, 20 // self.columns)
        self.figure.supxlabel(layer_label(curves))


def legend(
    figure: Figure, models: Mapping[str, Mapping[str, Any]], others: Sequence[Line2D] = ()
) -> None:
    """Draw one legend above all panels, and make room for it: the models, then ``others``.

    Parameters
    ----------
    models
        Name -> the style of its line, whose ``label`` may say more than the name.
    """
    lines = [
        Line2D([], [], **{"label": label(model, 34), **style}) for model, style in models.items()
    ]
    handles = [*lines, *others]
    for handle in handles:  # Before 3.10, a legend leaves out what starts with an underscore.
        handle.set_label(re.sub("^_", " _", str(handle.get_label())))
    columns = _columns([str(handle.get_label()) for handle in handles], figure.get_figwidth())
    figure.legend(handles=handles, loc="outside upper center", ncols=columns)
    figure.set_figheight(figure.get_figheight() + 0.17 * ceil(len(handles) / columns))


def _columns(labels: Sequence[str], inches: float) -> int:
    """Return how many labels fit beside each other, in columns as matplotlib fills them."""
    lengths = [len(text) for text in labels]
    for columns in range(len(labels), 1, -1):
        widest = [max(part) for part in np.array_split(lengths, columns)]
        if sum(4.2 * characters + 36 for characters in widest) <= 72 * inches:
            return columns
    return 1


def name_layers(
    figure: Figure, panels: Sequence[Axes], names: Mapping[int, str], most: int = 20
) -> None:
    """Write slanted names of about ``most`` layers for their numbers, and make room for them."""
    ticks = layer_ticks(min(names), max(names), most)
    labels = [label(names.get(layer, str(layer)), 20) for layer in ticks]
    for ax in panels:
        ax.set_xticks(ticks, labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=7)
    figure.set_figheight(figure.get_figheight() + 0.04 * max(map(len, labels)))


def layer_label(curves: Sequence[Curve]) -> str:
    """Return what stands along the layers of curves: what they are of."""
    if layer_names(curves):
        return "probe point"
    return axis_label(next(curve.site for curve in curves if len(curve.rows)))


def layer_ticks(first: int, last: int, most: int = 12) -> list[int]:
    """Return about ``most`` round layers from ``first``; ``last`` takes the place of a near one.

    >>> layer_ticks(0, 30)
    [0, 5, 10, 15, 20, 25, 30]
    """
    span = last - first
    step = next((s for s in (1, 2, 5, 10, 20, 50) if span / s <= most), max(1, span))
    ticks = [layer for layer in range(first, last) if layer % step == 0 and last - layer > step / 2]
    return [*ticks, last]


def draw_span(
    ax: Axes, curve: Curve, x: Sequence[float], y: float, style: Mapping[str, Any], **where: Any
) -> bool:
    """Draw a line where a curve stays above half of its rise, with an end where it falls again.

    x: the places of the layers. -> whether it is known
    """
    start, fall = (curve.shown(f"{name}_half_depth") for name in ("stays_above", "falls_below"))
    if np.isnan(start):
        return False
    stays = np.isnan(fall)
    ends = np.interp([start, curve.depths[-1] if stays else fall], curve.depths, x)
    ax.plot(ends, [y, y], **{**style, **SPAN, **where}, markevery=[0] if stays else None)
    return True
