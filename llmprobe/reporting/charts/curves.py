"""Curves: scores over layers beside their baselines, and over the number of training groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from llmprobe.reporting.charts.panels import Grid, legend, same_layers
from llmprobe.reporting.charts.style import GREY, model_styles, styled
from llmprobe.results.peaks import SCORE_NAMES, main_probe, main_score

_Style = Mapping[str, Any]

MOST_CONTROLLED = 4
"""Models; the controls of more would hide the curves."""

_BASELINES: Mapping[str, _Style] = {
    "majority": {"label": "majority class", "color": GREY, "linestyle": "--", "linewidth": 1},
    "bag_of_words": {"label": "bag of words", "color": "black", "linestyle": ":", "linewidth": 1},
}
"""Of a dataset: what needs no model."""

_CONTROLS: Mapping[str, _Style] = {
    "random_weights": {"label": "random weights", "linestyle": "-", "linewidth": 0.6},
    "control": {"label": "random labels", "linestyle": (0, (3, 1.5, 1, 1.5)), "linewidth": 0.6},
}
"""Of a model: what the same probe reads where there is no concept, at each layer."""

_MARKS: Mapping[str, _Style] = {
    "half_rise_depth": {"label": "half of the rise", "marker": "|", "markersize": 14},
    "jump_depth": {"label": "jump layer", "marker": "x", "markersize": 4},
    "converging_depth": {"label": "converging layer", "markerfacecolor": "white"},
    "peak_depth": {"label": "best layer"},
}
"""On a curve, the first on the axis; those without a marker of their own have the model's."""


@styled
def curves(results: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Accuracy (or R²) over layers: a panel for each dataset, a line and band for each model.

    The axis is the layer when all models have the same ones, else the relative depth. What is
    known of these is shown too: the majority class (dashed), a bag of words (dotted) and, as thin
    lines of the model's colour, the same architecture with random weights and the control task of
    random labels (Hewitt & Liang 2019), the latter two for at most ``MOST_CONTROLLED`` models. On
    each curve the best layer is filled, the converging layer hollow and the jump layer a cross; a
    tick on the axis is the depth at half of the rise (``probing.depth``).
    """
    rows = main_probe(results)
    datasets = list(rows["dataset"].unique())
    styles = model_styles([*summary["model"], *rows["model"]])
    found = summary.assign(peak_depth=summary["peak_layer"] / summary["layers"].clip(lower=1))
    x = "layer" if same_layers(rows) else "depth"
    grid = Grid.of(datasets)
    drawn: set[str] = set()
    for ax, dataset in zip(grid.panels, datasets, strict=True):
        here, known = (table[table["dataset"] == dataset] for table in (rows, found))
        score = main_score(here)
        drawn |= _draw_baselines(ax, known, score)
        for model, style in styles.items():
            layers = here[here["model"] == model].sort_values("layer")
            if len(layers):
                if len(styles) <= MOST_CONTROLLED:
                    drawn |= _draw_controls(ax, layers, x, score, style)
                _draw_curve(ax, layers, x, score, style)
                drawn |= _mark_curve(ax, layers, x, score, known[known["model"] == model], style)
    _name_scores(grid, [main_score(part) for _, part in rows.groupby("dataset")])
    grid.over_layers(rows) if x == "layer" else grid.over_depth()
    legend(grid.figure, styles, _explained(drawn))
    return grid.figure


def _draw_baselines(ax: Axes, known: pd.DataFrame, score: str) -> set[str]:
    """-> the names of those that are known"""
    drawn = set()
    for name, style in _BASELINES.items():
        for level in _column(known, f"{name}_{score}").dropna().head(1):
            ax.axhline(level, **style)
            drawn.add(name)
    return drawn


def _draw_controls(ax: Axes, layers: pd.DataFrame, x: str, score: str, style: _Style) -> set[str]:
    """-> the names of those that are known"""
    drawn = set()
    for name, thin in _CONTROLS.items():
        control = _column(layers, f"{name}_{score}")
        if control.notna().any():
            ax.plot(layers[x], control, **thin, color=style["color"], alpha=0.8)
            drawn.add(name)
    return drawn


def _draw_curve(ax: Axes, layers: pd.DataFrame, x: str, score: str, style: _Style) -> None:
    low, high = (_column(layers, f"{score}_{end}") for end in ("low", "high"))
    ax.fill_between(layers[x], low, high, color=style["color"], alpha=0.15, linewidth=0)
    ax.plot(layers[x], layers[score].astype(float), **{**style, "marker": ""})


def _mark_curve(
    ax: Axes, layers: pd.DataFrame, x: str, score: str, known: pd.DataFrame, style: _Style
) -> set[str]:
    """Where the curve jumps, rises, converges and is highest. -> the names of those that do"""
    drawn = set()
    depth = layers["depth"].to_numpy(float)
    for name, mark in _MARKS.items():
        for at in _column(known, name).dropna().head(1):
            place = [np.interp(at, depth, layers[of].to_numpy(float)) for of in (x, score)]
            point = {**style, **mark, "linestyle": "none", "zorder": 3}
            if name == "half_rise_depth":  # on a steep rise it would be hidden
                ax.plot(place[0], 0, transform=ax.get_xaxis_transform(), **point)
            else:
                ax.plot(*place, **point)
            drawn.add(name)
    return drawn


def _explained(drawn: set[str]) -> list[Line2D]:
    """What the legend says of them beside the models."""
    lines = {
        **{
            name: {**style, "color": style.get("color", GREY)} for name, style in _BASELINES.items()
        },
        **{name: {**style, "color": GREY} for name, style in _CONTROLS.items()},
        **{
            name: {"marker": "o", **style, "markersize": 4, "color": GREY, "linestyle": "none"}
            for name, style in reversed(list(_MARKS.items()))
        },
    }
    return [Line2D([], [], **style) for name, style in lines.items() if name in drawn]


def _name_scores(grid: Grid, scores: list[str]) -> None:
    """What the vertical axis shows; R² far below 0 would leave no room for the rest."""
    for ax in grid.left:
        ax.set_ylabel(" or ".join(name for score, name in SCORE_NAMES.items() if score in scores))
    if "r2" in scores:
        grid.panels[0].set_ylim(bottom=max(-1, grid.panels[0].get_ylim()[0]))


@styled
def learning_curves(curve: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Score at the best layer against the share of the training groups that probes learned from.

    A panel for each dataset, a line for each model, whose last point is the score with all of the
    training groups. A dashed line is the majority class.

    Parameters
    ----------
    curve
        A row for each model × dataset × layer × fraction, with its ``accuracy`` or ``r2``.
    """
    datasets = list(curve["dataset"].unique())
    styles = model_styles(summary["model"])
    grid = Grid.of(datasets)
    drawn: set[str] = set()
    scores = []
    for ax, dataset in zip(grid.panels, datasets, strict=True):
        here, known = (table[table["dataset"] == dataset] for table in (curve, summary))
        scores.append(main_score(here))
        drawn |= _draw_baselines(ax, known.drop(columns="bag_of_words_accuracy"), scores[-1])
        for peak in known.to_dict("records"):
            line = here[(here["model"] == peak["model"]) & (here["layer"] == peak["peak_layer"])]
            line = line.sort_values("fraction")
            ax.plot(
                [*line["fraction"], 1.0],
                [*line[scores[-1]], peak[f"peak_{scores[-1]}"]],
                **styles[peak["model"]],
            )
        ax.set_xlim(0, 1.04)
        ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    _name_scores(grid, scores)
    grid.figure.supxlabel("share of the training groups")
    legend(grid.figure, styles, _explained(drawn))
    return grid.figure


def _column(table: pd.DataFrame, name: str) -> pd.Series:
    """As numbers; NaN where that was not asked for."""
    if name not in table:
        return pd.Series(np.nan, index=table.index)
    return table[name].astype(float)
