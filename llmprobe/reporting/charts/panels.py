"""What figures of many panels share: their grid, their legend, and axes of layers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from llmprobe.config.sites import axis_label
from llmprobe.reporting.charts.style import Chart, em, label, panels_on, sheet, text_width, wrapped
from llmprobe.results.curve import Curve, layer_names
from llmprobe.results.figures import RUN, Look

DEPTH = "depth (layer / last layer)"


SPAN: dict[str, Any] = {"marker": "|", "markersize": 6, "linestyle": "-", "linewidth": 1}
"""The line where a curve is above half of its rise, and its ends."""
SPAN_NAME = "above half of its rise"
_MOST_BELOW = 4
"""Entries of a legend below each other; more are wrapped into two columns."""
_NARROWEST_PANEL = 1.5
"""The least width of panels that stand side by side, in inches."""


class Grid(NamedTuple):
    """Panels of the same axes, one for each name, in rows of up to four."""

    figure: Figure
    panels: Sequence[Axes]
    columns: int
    look: Look = RUN

    @classmethod
    def of(cls, names: Sequence[str], look: Look = RUN, second_lines: Sequence[str] = ()) -> Grid:
        """Return a grid of panels under their names, which may have second lines."""
        columns = {1: 1, 2: 2, 4: 2}.get(len(names), 3 if len(names) <= 9 else 4)
        width = look.inches(4.5 if columns == 1 else 6.75)
        columns = max(1, min(columns, int(width / _NARROWEST_PANEL)))
        panel = width / columns
        n_rows = ceil(len(names) / columns)
        height = min(0.67 * panel, 3.2) if columns == 1 else 0.77 * panel
        figure = sheet(look, width, height * n_rows + 0.3)
        shape = (n_rows, columns) if look.ax is None else (1, len(names))
        panels = panels_on(figure, look, *shape, sharex=True, sharey=True)
        for ax, *lines in zip(
            panels, names, *([second_lines] if second_lines else []), strict=False
        ):
            room = panel - 5 * em()
            ax.set_title("\n".join(label(line, 72, room, weight="bold") for line in lines))
        for ax in panels[len(names) :]:
            ax.remove()
        grid = cls(figure, list(panels[: len(names)]), columns, look)
        for ax in grid.bottom:
            ax.tick_params(labelbottom=True)
        return grid

    @property
    def panel(self) -> float:
        """Return about how wide a panel is with its labels, in inches."""
        return self.look.inches(self.figure.get_figwidth()) / self.columns

    @property
    def left(self) -> Sequence[Axes]:
        """Return the first panel of each row."""
        return self.panels[:: self.columns]

    @property
    def bottom(self) -> Sequence[Axes]:
        """Return the last panel of each column."""
        return self.panels[-self.columns :]

    def name_axes(self, x: str, y: str) -> None:
        """Write the labels of the axes: the horizontal one once for all panels."""
        if self.look.ax is not None:
            self.look.ax.set(xlabel=x, ylabel=y)
            return
        self.figure.supxlabel(wrapped(x, self.figure.get_figwidth() - 0.3))
        height = self.figure.get_figheight() / ceil(len(self.panels) / self.columns)
        for ax in self.left:
            ax.set_ylabel(wrapped(y, height - 5 * em()))

    def over_depth(self, y: str) -> None:
        """Make the horizontal axis relative depth."""
        if self.panel < 20 * em():
            self.panels[0].set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        self.name_axes(DEPTH, y)

    def over_layers(self, curves: Sequence[Curve], y: str) -> None:
        """Make the horizontal axis the layer of ``curves``, by name if layers have names."""
        layers = [layer for curve in curves for layer in curve.layers]
        room = self.panel - 4 * em()
        most = max(2, min(12, int(room / (2.5 * em()))))
        self.panels[0].set_xticks(layer_ticks(min(layers), max(layers), most))
        if names := layer_names(curves):
            name_layers(self.figure, self.bottom, names, max(2, min(20, int(room / (1.8 * em())))))
        self.name_axes(layer_label(curves), y)


def legend(
    figure: Figure,
    models: Mapping[str, Mapping[str, Any]],
    others: Sequence[Line2D] = (),
    look: Look = RUN,
) -> None:
    """Draw one legend above all panels, and make room for it: the models, then ``others``.

    In the user's axes it stands where there is room.

    Parameters
    ----------
    models
        Name -> the style of its line, whose ``label`` may say more than the name.
    """
    room = look.inches(figure.get_figwidth()) - _around_label() - 0.1
    lines = [
        Line2D([], [], **{"label": label(model, 34, room, _legend_size()), **style})
        for model, style in models.items()
    ]
    handles = [*lines, *others]
    # Before 3.10, a legend leaves out what starts with an underscore.
    labels = [re.sub("^_", " _", str(handle.get_label())) for handle in handles]
    columns = _columns(labels, figure.get_figwidth())
    if columns == 1 and len(labels) > _MOST_BELOW:
        columns, room = 2, figure.get_figwidth() / 2 - _around_label() - em()
    labels = [_fitted(text, room) for text in labels]
    for handle, text in zip(handles, labels, strict=True):
        handle.set_label(text)
    if look.ax is not None:
        look.ax.legend(handles=handles)
        return
    figure.legend(handles=handles, loc="outside upper center", ncols=columns)
    if isinstance(figure, Chart):
        parts = np.array_split([1 + text.count("\n") for text in labels], columns)
        figure.grow(1.55 * em() * max(sum(lines) for lines in parts))


def _fitted(text: str, inches: float) -> str:
    """Wrap a text into lines that fit into a legend; cut a line if a word of it does not."""
    lines = wrapped(text, inches, _legend_size()).split("\n")
    return "\n".join(
        label(line, len(line), inches, _legend_size())
        if text_width(line, _legend_size()) > inches
        else line
        for line in lines
    )


def _legend_size() -> float | str:
    return rcParams["legend.fontsize"]  # type: ignore[no-any-return]


def _around_label() -> float:
    """Return how wide a legend's line is with the space around its label, in inches."""
    pads = rcParams["legend.handletextpad"] + rcParams["legend.columnspacing"]
    return float(rcParams["legend.handlelength"] + pads) * em() * 0.84


def _columns(labels: Sequence[str], inches: float) -> int:
    """Return how many labels fit beside each other, in columns as matplotlib fills them."""
    lengths = [text_width(text, _legend_size()) for text in labels]
    for columns in range(len(labels), 1, -1):
        widest = [max(part) for part in np.array_split(lengths, columns)]
        if sum(length + _around_label() for length in widest) <= inches - em():
            return columns
    return 1


def name_layers(
    figure: Figure, panels: Sequence[Axes], names: Mapping[int, str], most: int = 20
) -> None:
    """Write slanted names of about ``most`` layers for their numbers, and make room for them."""
    ticks = layer_ticks(min(names), max(names), most)
    labels = [label(names.get(layer, str(layer)), 20) for layer in ticks]
    for ax in panels:
        ax.set_xticks(ticks, labels, rotation=45, ha="right", rotation_mode="anchor",
                      fontsize="small")  # fmt: skip
    if isinstance(figure, Chart):
        figure.grow(0.36 * em() * max(map(len, labels)))


def layer_label(curves: Sequence[Curve]) -> str:
    """Return the label of an axis with the layers of curves."""
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

    x: the places of the layers. -> whether that is known
    """
    start, fall = (curve.shown(f"{name}_half_depth") for name in ("stays_above", "falls_below"))
    if np.isnan(start):
        return False
    stays = np.isnan(fall)
    ends = np.interp([start, curve.depths[-1] if stays else fall], curve.depths, x)
    ax.plot(ends, [y, y], **{**style, **SPAN, **where}, markevery=[0] if stays else None)
    return True
