"""What changed states do to the answers: by layer, and by how far they are moved."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llmprobe.reporting.charts.style import COLOURS, label, styled
from llmprobe.results.columns import CURVE
from llmprobe.results.curve import Curve
from llmprobe.results.figures import figure
from llmprobe.results.results import Results

_LINES: dict[str, dict[str, Any]] = {
    "logistic": {"label": "logistic", "color": COLOURS[0], "marker": "o"},
    "mean_difference": {"label": "mean difference", "color": COLOURS[1], "marker": "s"},
}
_NULL: dict[str, Any] = {"label": "95 % of the null", "color": "#bbbbbb", "alpha": 0.6}


@figure(
    "doses",
    caption="How far the log-odds of the answers move against the side on which a state stood. "
    "Left: each layer’s states are reflected to the other class. Right: they are shifted by "
    "multiples of their standard deviation, at the layer of the largest effect. Bands: 95 % "
    "intervals; grey: 95 % of the directions that say nothing, which move a state as far.",
    alt="For each model and dataset two line charts: the effect over layers, and over doses at one "
    "layer, beside a band of directions that say nothing. intervene.csv holds the same numbers.",
)
@styled
def doses(results: Results) -> Figure | None:
    """Draw two panels for each curve whose states were changed; None where there is none."""
    if results.interventions.empty:
        return None
    tables = dict(list(results.interventions.groupby(list(CURVE), sort=False)))
    curves = [curve for curve in results.curves if curve.key in tables]
    if not curves:
        return None
    drawn = Figure(figsize=(6.75, 0.4 + 1.9 * len(curves)))
    rows = drawn.subplots(len(curves), 2, squeeze=False, sharey="row", width_ratios=(3, 2))
    for axes, curve in zip(rows, curves, strict=True):
        _draw(axes[0], axes[1], curve, tables[curve.key])
    handles, labels = rows[0, 0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return drawn


def _draw(by_layer: Axes, by_dose: Axes, curve: Curve, table: pd.DataFrame) -> None:
    _draw_lines(by_layer, table[table["edit"] == "reflect"], "layer")
    by_layer.set_title(label(f"{curve.title} in {curve.model}", 60))
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
        ax.plot(line[x], line["effect"], **style, linewidth=1.2, markersize=3)
        ax.fill_between(line[x], line["effect_low"], line["effect_high"],
                        color=style["color"], alpha=0.15, linewidth=0)  # fmt: skip
