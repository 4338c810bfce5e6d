"""Curves: scores over layers beside their baselines, and over the number of training groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from llmprobe.reporting.charts.panels import SPAN, SPAN_NAME, Grid, draw_span, legend
from llmprobe.reporting.charts.style import GREY, entitle, model_styles, styled
from llmprobe.results.columns import CURVE
from llmprobe.results.curve import Curve, by_dataset, by_model, main_metrics, same_layers
from llmprobe.results.figures import RUN, Look, figure
from llmprobe.results.results import Results
from llmprobe.results.selection import with_main_metric

_Style = Mapping[str, Any]

MOST_CONTROLLED = 4
"""With more models, their controls would hide the curves."""

_BASELINES: dict[str, _Style] = {
    "majority": {"label": "majority class", "color": GREY, "linestyle": "--", "linewidth": 1},
    "bag_of_words": {"label": "bag of words", "color": "black", "linestyle": ":", "linewidth": 1},
}
"""Lines for a dataset that need no model."""

_CONTROLS: dict[str, _Style] = {
    "random_weights": {"label": "random weights", "linestyle": "-", "linewidth": 0.6},
    "random_labels": {
        "label": "a random label for each group, groups split",
        "linestyle": (0, (3, 1.5, 1, 1.5)),
        "linewidth": 0.6,
    },
    "same_splits": {
        "label": "the concept on the same splits",
        "linestyle": (0, (6, 2)),
        "linewidth": 0.6,
    },
}
"""Lines for a model, over layers: the same probe on an untrained model, on random labels, and on
the concept with the splits of these."""

_MARKS: dict[str, _Style] = {
    "jump_depth": {"label": "jump layer", "marker": "x", "markersize": 4},
    "converging_depth": {"label": "converging layer", "markerfacecolor": "white"},
    "highest_depth": {
        "label": "highest score",
        "marker": "D",
        "markersize": 4,
        "markerfacecolor": "white",
    },
    "peak_depth": {"label": "best layer"},
}
"""Marks on a curve; those without a marker have the model's."""
_SPAN = "span"


@figure(
    "curves",
    caption="The same scores as curves, with their 95 % intervals. Filled: the best layer, which "
    "the held-out loss chose; diamond: the highest score, if it is at another layer; hollow: the "
    "converging layer; cross: the jump layer; lines below: where a curve stays above "
    "half of its rise.",
    alt="Line chart: a panel for each dataset, a line for each model, the score over layers. "
    "The tables below hold the same numbers.",
    drawn_by_script=True,
    takes="ax metric",
)
@styled
def curves(results: Results, look: Look = RUN) -> Figure:
    """Draw the main metric over layers: a panel for each dataset, a line and band for each model.

    The axis is the layer if all models have the same layers, else the relative depth. Baselines
    that are known are shown too: the majority class (dashed) and a bag of words (dotted). For at
    most ``MOST_CONTROLLED`` models, thin lines of the model's colour show the same architecture
    with random weights, the control task of random labels (Hewitt & Liang 2019), and the concept on
    the splits of that task. On each curve the best layer is filled, the highest score at another
    layer is a diamond, the converging layer is hollow and the jump layer a cross. Lines at the axis
    show where it stays above half of its rise (``results.depth``). `Curve.shown` decides which of
    these marks are shown.
    """
    if look.metric is not None:
        results = with_main_metric(results, look.metric)
    styles, datasets = model_styles(by_model(results.curves)), by_dataset(results.curves)
    x: Literal["layers", "depths"] = "layers" if same_layers(results.curves) else "depths"
    grid = Grid.of(list(datasets), look)
    drawn: set[str] = set()
    for ax, group in zip(grid.panels, datasets.values(), strict=True):
        drawn |= _draw_baselines(ax, group, list(_BASELINES))
        for row, curve in enumerate(group):
            style, places = styles[curve.model], getattr(curve, x)
            if len(styles) <= MOST_CONTROLLED:
                drawn |= _draw_controls(ax, curve, places, style)
            _draw_curve(ax, curve, places, style)
            drawn |= _mark_curve(ax, curve, places, style)
            height = 0.02 + row * min(0.03, 0.2 / len(group))
            if draw_span(ax, curve, places, height, style, transform=ax.get_xaxis_transform()):
                drawn.add(_SPAN)
    scores = _scores(grid, results.curves)
    if x == "layers":
        grid.over_layers(results.curves, scores)
    else:
        grid.over_depth(scores)
    legend(grid.figure, styles, _explained(drawn), look)
    entitle(look, grid.figure, grid.panels)
    return grid.figure


def _draw_baselines(ax: Axes, group: Sequence[Curve], names: Sequence[str]) -> set[str]:
    """Draw the baselines of one dataset that need no model. -> the names of those drawn"""
    drawn = set()
    for name in names:
        levels = [curve.number(f"{name}_{curve.metric.name}") for curve in group]
        for level in [level for level in levels if not np.isnan(level)][:1]:
            ax.axhline(level, **_BASELINES[name])
            drawn.add(name)
    return drawn


def _draw_controls(ax: Axes, curve: Curve, x: Sequence[float], style: _Style) -> set[str]:
    """Draw the controls that a curve has at each layer. -> the names of those drawn"""
    drawn = set()
    for name, control in curve.controls.items():
        if np.isfinite(control).any():
            ax.plot(x, control, **_CONTROLS[name], color=style["color"], alpha=0.8)
            drawn.add(name)
    return drawn


def _draw_curve(ax: Axes, curve: Curve, x: Sequence[float], style: _Style) -> None:
    score, low, high = (curve.column(f"{curve.metric.name}{end}") for end in ("", "_low", "_high"))
    ax.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    ax.plot(x, score, **{**style, "marker": ""})


def _mark_curve(ax: Axes, curve: Curve, x: Sequence[float], style: _Style) -> set[str]:
    """Mark where the curve jumps, converges and is highest. -> the names of the marks"""
    drawn = set()
    for name, mark in _MARKS.items():
        depth = _depth(curve, name)
        if np.isnan(depth):
            continue
        place, score = (
            np.interp(depth, curve.depths, of) for of in (x, curve.column(curve.metric.name))
        )
        ax.plot(place, score, **{**style, **mark, "linestyle": "none", "zorder": 3})
        drawn.add(name)
    return drawn


def _depth(curve: Curve, mark: str) -> float:
    if mark == "peak_depth":
        return curve.at_best("depth")
    if mark == "highest_depth":
        highest = curve.highest_elsewhere
        return np.nan if highest is None else float(curve.depths[highest])
    return curve.shown(mark)


def _explained(drawn: set[str]) -> list[Line2D]:
    """Return the entries of the legend besides the models."""
    lines = {name: {"color": GREY, **style} for name, style in (_BASELINES | _CONTROLS).items()}
    for name, style in reversed(_MARKS.items()):
        lines[name] = {"marker": "o", **style, "markersize": 4, "color": GREY, "linestyle": "none"}
    lines[_SPAN] = {"label": SPAN_NAME, "color": GREY, **SPAN}
    return [Line2D([], [], **style) for name, style in lines.items() if name in drawn]


def _scores(grid: Grid, shown: Sequence[Curve]) -> str:
    """Return the label of the vertical axis.

    Scores far below 0, which R² can have, would leave no room for others, so they are cut off.
    """
    metrics = main_metrics(shown)
    if any(metric.interval == "below one" for metric in metrics):
        grid.panels[0].set_ylim(bottom=max(-1, grid.panels[0].get_ylim()[0]))
    return " or ".join(metric.label for metric in metrics)


@figure(
    "learning_curve",
    caption="The score at the best layer after training on a part of the groups.",
    alt="Line chart: the score against the fraction of the training groups.",
    takes="ax",
)
@styled
def learning_curves(results: Results, look: Look = RUN) -> Figure | None:
    """Draw the score at the best layer against the share of training groups that probes saw.

    A panel for each dataset, a line for each model, whose last point is the score with all of the
    training groups. A dashed line is the majority class. None if no shares were asked for.
    """
    table = results.learning_curve
    if table.empty:
        return None
    of_curves = dict(list(table.groupby(list(CURVE), sort=False)))
    datasets = by_dataset([curve for curve in results.curves if curve.key in of_curves])
    styles = model_styles(by_model(results.curves))
    grid = Grid.of(list(datasets), look)
    drawn: set[str] = set()
    for ax, group in zip(grid.panels, datasets.values(), strict=True):
        drawn |= _draw_baselines(ax, group, ["majority"])
        for curve in group:
            line = of_curves[curve.key]
            line = line[line["layer"] == curve.layer].sort_values("fraction")
            ax.plot(
                [*line["fraction"], 1.0],
                [*line[curve.search_metric], curve.at_best(curve.search_metric)],
                **styles[curve.model],
            )
        ax.set_xlim(0, 1.04)
        ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    scores = _scores(grid, [curve for group in datasets.values() for curve in group])
    grid.name_axes("share of the training groups", scores)
    legend(grid.figure, styles, _explained(drawn), look)
    entitle(look, grid.figure, grid.panels)
    return grid.figure
