"""What changed states do to the answers: by layer, and by how far they are moved."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from llmprobe.reporting.charts.panels import legend
from llmprobe.reporting.charts.style import (
    COLOURS,
    em,
    entitle,
    label,
    panels_on,
    sheet,
    styled,
    text_width,
)
from llmprobe.results.columns import CURVE
from llmprobe.results.curve import Curve
from llmprobe.results.figures import RUN, Look, figure
from llmprobe.results.results import Results

_LINES: dict[str, dict[str, Any]] = {
    "logistic": {"label": "logistic", "color": COLOURS[0], "marker": "o"},
    "mean_difference": {"label": "mean difference", "color": COLOURS[1], "marker": "s"},
}
_STYLE: dict[str, Any] = {"linewidth": 1.2, "markersize": 3}
_NULL: dict[str, Any] = {"label": "95 % of the null", "color": "#bbbbbb", "alpha": 0.6}
_TWO_BESIDE = 5.0
"""From this width in inches on, the two panels of a curve stand side by side."""


@figure(
    "doses",
    caption="How far the log-odds of the answers move away from the side on which a state was. "
    "Left: each layer’s states are reflected to the other class. Right: they are shifted by "
    "multiples of their standard deviation, at the layer of the largest effect. Bands: 95 % "
    "intervals; grey: 95 % of the null, directions that say nothing and move a state as far.",
    alt="For each model and dataset two line charts: the effect over layers, and over doses at one "
    "layer, beside a band of directions that say nothing. intervene.csv holds the same numbers.",
)
@styled
def doses(results: Results, look: Look = RUN) -> Figure | None:
    """Draw two panels for each curve whose states were changed; None if there is none.

    In a narrow figure they stand below each other.
    """
    if results.interventions.empty:
        return None
    tables = dict(list(results.interventions.groupby(list(CURVE), sort=False)))
    curves = [curve for curve in results.curves if curve.key in tables]
    if not curves:
        return None
    width = look.inches(6.75)
    columns = 2 if width >= _TWO_BESIDE else 1
    n_rows = len(curves) * 2 // columns
    drawn = sheet(look, width, 0.1 + 1.9 * n_rows)
    widths = (3, 2)[:columns]
    panels = panels_on(drawn, look, n_rows, columns, width_ratios=widths)
    room = width * widths[0] / sum(widths) - 6 * em()
    for by_layer, by_dose, curve in zip(panels[::2], panels[1::2], curves, strict=True):
        by_dose.sharey(by_layer)
        _draw(by_layer, by_dose, curve, tables[curve.key], room)
        by_dose.tick_params(labelleft=columns == 1)
    null = Line2D([], [], **{**_NULL, "linewidth": 6})
    legend(drawn, {}, [null, *(Line2D([], [], **_STYLE, **line) for line in _LINES.values())], look)
    entitle(look, drawn, panels)
    return drawn


def _draw(by_layer: Axes, by_dose: Axes, curve: Curve, table: pd.DataFrame, inches: float) -> None:
    _draw_lines(by_layer, table[table["edit"] == "reflect"], "layer")
    model = label(curve.model, 40, inches / 2, weight="bold")
    room = inches - text_width(f" in {model}", weight="bold")
    by_layer.set_title(f"{label(curve.title, 40, room, weight='bold')} in {model}")
    by_layer.set_ylabel("effect (log-odds)")
    by_layer.set_xlabel("layer, reflected")
    by_layer.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    layer = curve.number("used_layer")
    _draw_lines(by_dose, table[(table["edit"] == "shift") & (table["layer"] == layer)], "dose")
    by_dose.set_xlabel(f"standard deviations, layer {layer:.0f}")


def _draw_lines(ax: Axes, rows: pd.DataFrame, x: str) -> None:
    """Draw the effect of each direction over a column, with its interval, and the null's."""
    ax.axhline(0, color="black", linewidth=0.6)
    null = rows[rows["direction"] == "null"].sort_values(x)
    ax.fill_between(null[x], null["effect_low"], null["effect_high"], **_NULL, linewidth=0)
    for direction, style in _LINES.items():
        line = rows[rows["direction"] == direction].sort_values(x)
        ax.plot(line[x], line["effect"], **style, **_STYLE)
        ax.fill_between(line[x], line["effect_low"], line["effect_high"],
                        color=style["color"], alpha=0.15, linewidth=0)  # fmt: skip
