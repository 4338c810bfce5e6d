"""Depths: where each concept becomes readable, by its difficulty and by the size of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.optimize import isotonic_regression  # type: ignore[import-untyped]

from llmprobe.reporting.charts.panels import DEPTH, Grid, legend
from llmprobe.reporting.charts.style import GREY, label, model_styles, paler, styled
from llmprobe.results.peaks import chance_accuracy, main_probe

HALF_RISE = "depth at half of the rise"
PERMUTATIONS = 9_999
LEAST_CORRELATED = 5
"""Concepts: of fewer, no order would be surprising."""
MOST_SLANTED = 15
"""Names above a panel; more of them are upright."""


@styled
def depth_scatter(summary: pd.DataFrame) -> Figure:
    """Where each concept is read best (filled) and where its accuracy has converged (hollow).

    A row for each dataset, a colour for each model, both at their relative depth, 0 … 1. Pale where
    the best layer is not better than the best one on shuffled labels (p > 0.05).
    """
    styles, datasets = model_styles(summary["model"]), list(summary["dataset"].unique())
    figure = Figure(figsize=(4.5, 0.7 + (0.14 + 0.09 * len(styles)) * len(datasets)))
    ax = figure.subplots()
    table = summary.assign(
        best=summary["peak_layer"].astype(float) / summary["layers"].clip(lower=1).astype(float),
        pale=_unsure(summary),
    )
    for index, (model, style) in enumerate(styles.items()):
        for pale, here in table[table["model"] == model].groupby("pale"):
            y = here["dataset"].map(datasets.index).astype(float)
            y += (index + 1) / (len(styles) + 1) - 0.5
            converged = here["converging_depth"].astype(float)
            colour = paler(style["color"]) if pale else style["color"]
            point = {**style, "linestyle": "none", "clip_on": False, "color": colour}
            ax.hlines(y, here["best"], converged, colour, linewidth=0.8)
            ax.plot(converged, y, **{**point, "markerfacecolor": "white"})
            ax.plot(here["best"], y, **point)
    ax.set_xlim(0, 1)
    ax.set_ylim(len(datasets) - 0.5, -0.5)
    ax.set_yticks(range(len(datasets)), [label(name, 24) for name in datasets])
    ax.set_yticks(np.arange(len(datasets) - 1) + 0.5, minor=True)
    ax.grid(which="minor", axis="y", color="#dddddd", linewidth=0.6)
    ax.tick_params(axis="y", which="both", length=0)
    ax.set_xlabel(DEPTH)
    marks = [_mark("best layer")]
    if table["converging_depth"].notna().any():
        marks.append(_mark("converging layer", markerfacecolor="white"))
    legend(figure, styles, [*marks, *_pale_mark(table["pale"])])
    return figure


def difficulty(results: pd.DataFrame, summary: pd.DataFrame) -> pd.Series:
    """How far the best of the models stays from a perfect score, by dataset, 0 … 1.

    1 - (score - chance) / (1 - chance) of the best layer of the best model; R², whose chance is 0,
    for labels that are numbers. It is measured and not declared, so facts, generated tasks and the
    variants of one task, whatever their dial, lie on one axis; it allows for how many classes there
    are and how common; and being one number for all models, it compares them on equal terms. It
    tells nothing outside this set of models, and a concept that none reads has difficulty 1.
    """
    rows = main_probe(results).assign(chance=chance_accuracy)
    chance = rows.groupby(["model", "dataset"])["chance"].first()
    table = summary.join(chance, on=["model", "dataset"])
    accuracy = table["peak_accuracy"].astype(float)
    level = (accuracy - table["chance"]) / (1 - table["chance"])
    if "peak_r2" in table:
        level = level.fillna(table["peak_r2"].astype(float))
    return (1 - level.groupby(table["dataset"], sort=False).max()).clip(0, 1)


@styled
def depth_against_difficulty(results: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Whether harder concepts are read deeper: a point for each model and dataset.

    Horizontally the ``difficulty`` of the dataset, which is named above it; vertically the depth at
    half of the rise, with its 95 % interval. Pale where the best layer is not better than the best
    one on shuffled labels (p > 0.05): the depth of such a rise is that of noise. Without these,
    the legend has Spearman's rank correlation of each model, where there are at least
    ``LEAST_CORRELATED`` datasets, with the share of ``PERMUTATIONS`` random orders that are as
    correlated (two-sided).
    """
    hardness = difficulty(results, summary)
    table = half_rises(summary)
    table["hard"] = table["dataset"].map(hardness)
    styles = model_styles(summary["model"])
    few = table["dataset"].nunique() <= MOST_SLANTED
    width, height = (4.5, 3.8) if few and len(styles) <= 6 else (6.75, 4.8)
    figure = Figure(figsize=(width, height))
    ax = figure.subplots()
    for index, (model, style) in enumerate(styles.items()):
        here = table[table["model"] == model]
        # Models share the difficulty of a dataset, and would hide each other.
        aside = min(0.006, 0.03 / len(styles)) * (index - (len(styles) - 1) / 2)
        _draw_depths(ax, here["hard"] + aside, here, style)
        sure = here[~here["pale"]]
        if len(sure) >= LEAST_CORRELATED:
            rho, p = rank_correlation(sure["hard"].to_numpy(), sure["depth"].to_numpy())
            said = f": ρ = {rho:.2f}, p = {p:.2g}, n = {len(sure)}".replace("-", "−")
            style["label"] = label(model, 34) + ("" if np.isnan(rho) else said)
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), ylabel=HALF_RISE)
    ax.set_xlabel("difficulty (0: the best model never errs, 1: it guesses)")
    _name_above(ax, hardness[table["dataset"].unique()], inches=width - 1.6 if few else width - 0.8)
    legend(figure, styles, _pale_mark(table["pale"]))
    return figure


def rank_correlation(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Spearman's, and the share of random orders (``PERMUTATIONS`` and the given) as far from 0.

    Both NaN where all of ``x`` or of ``y`` are equal.
    """
    ranks = np.stack([pd.Series(values).rank().to_numpy() for values in (x, y)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    length = np.sqrt((ranks**2).sum(axis=1).prod())
    if length == 0:
        return np.nan, np.nan
    orders = np.random.default_rng(0).permuted(np.tile(ranks[1], (PERMUTATIONS, 1)), axis=1)
    rho, shuffled = ranks[0] @ ranks[1] / length, orders @ ranks[0] / length
    return float(rho), float((1 + (abs(shuffled) >= abs(rho) - 1e-9).sum()) / (1 + PERMUTATIONS))


@styled
def depth_against_size(summary: pd.DataFrame) -> Figure:
    """How much of the network a model of each size needs: a panel for each dataset.

    Horizontally the number of parameters; vertically the depth at half of the rise, with its 95 %
    interval. A line joins the models of one dataset, those that read it: pale are models whose
    best layer is not better than the best one on shuffled labels (p > 0.05).
    """
    table = half_rises(summary).dropna(subset="parameters")
    table["parameters"] = table["parameters"].astype(float)
    styles, datasets = model_styles(summary["model"]), list(table["dataset"].unique())
    grid = Grid.of(datasets)
    for ax, dataset in zip(grid.panels, datasets, strict=True):
        here = table[table["dataset"] == dataset].sort_values("parameters")
        joined = here[~here["pale"]]
        ax.plot(joined["parameters"], joined["depth"], color="#aaaaaa", linewidth=0.8, zorder=1)
        for model, of_model in here.groupby("model"):
            _draw_depths(ax, of_model["parameters"], of_model, styles[str(model)])
    first = grid.panels[0]
    first.set_xscale("log")
    ticks = _apart(table["parameters"].unique().tolist(), 0.04 + 0.1 * grid.columns)
    first.set_xticks(ticks, [_size(parameters) for parameters in ticks], minor=False)
    first.minorticks_off()
    first.set_ylim(-0.03, 1.03)
    first.margins(x=0.15)
    for ax in grid.left:
        ax.set_ylabel(HALF_RISE if grid.columns < 3 else "depth")
    grid.figure.supxlabel("parameters")
    legend(grid.figure, styles, _pale_mark(table["pale"]))
    return grid.figure


def half_rises(summary: pd.DataFrame) -> pd.DataFrame:
    """The rows with a half rise: its ``depth``, its interval ``low`` … ``high``, and ``pale``."""
    names = {
        "half_rise_depth": "depth",
        "half_rise_depth_low": "low",
        "half_rise_depth_high": "high",
    }
    found = summary.reindex(columns=list(names)).astype(float).rename(columns=names)
    return summary.assign(**found, pale=_unsure(summary)).dropna(subset="depth")


def _unsure(summary: pd.DataFrame) -> pd.Series:
    return summary["peak_p_value"].astype(float) > 0.05


def _draw_depths(ax: Axes, x: pd.Series, rows: pd.DataFrame, style: dict[str, Any]) -> None:
    """Points with the intervals of their depths."""
    for pale, part in rows.groupby("pale"):
        colour = paler(style["color"]) if pale else style["color"]
        point = {**style, "linestyle": "none", "clip_on": False, "color": colour}
        ax.vlines(x[part.index], part["low"], part["high"], colour, linewidth=0.8)
        ax.plot(x[part.index], part["depth"], **point)


def _name_above(ax: Axes, places: pd.Series, inches: float) -> None:
    """Names above the panel, moved apart, with lines to their places; none if there is no room.

    Parameters
    ----------
    places
        The place of each name. [n], indexed by name
    inches
        That the panel is wide, at least.
    """
    slanted = len(places) <= MOST_SLANTED
    gap = (0.15 if slanted else 0.105) / inches
    height = 1.04 if slanted else 1.09
    room = 1 - gap * (len(places) - 1)
    if room < 0:
        return
    places = places.sort_values(kind="stable")
    shares = ax.transLimits.transform(np.column_stack([places, np.zeros(len(places))]))[:, 0]
    steps = gap * np.arange(len(places))
    # The nearest places (least squares) that keep their order and their distance.
    moved = np.clip(isotonic_regression(shares - steps).x, 0, room) + steps
    for name, share, at in zip(places.index, shares, moved, strict=True):
        line: dict[str, Any] = {
            "transform": ax.transAxes,
            "linewidth": 0.5,
            "clip_on": False,
            "zorder": 0,
        }
        ax.plot([share, share], [0, 1], color="#eeeeee", **line)
        ax.plot([share, at], [1, height], color="#aaaaaa", **line)
        ax.text(
            at,
            height + 0.01,
            label(str(name), 24),
            transform=ax.transAxes,
            rotation=45 if slanted else 90,
            rotation_mode="anchor",
            va="center",
            fontsize=7 if slanted else 6.5,
        )


def _apart(values: Sequence[float], share: float) -> list[float]:
    """Values that are a share of the range of all apart, in logarithms; the greatest is one."""
    descending = sorted(values, reverse=True)
    kept = descending[:1]
    for value in descending[1:]:
        if np.log(kept[-1] / value) >= share * np.log(descending[0] / descending[-1]):
            kept.append(value)
    return kept[::-1]


def _size(parameters: float) -> str:
    """``135M``, ``1.5B``."""
    for unit, factor in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= 0.9995 * factor:
            return f"{parameters / factor:.3g}{unit}"
    return f"{parameters:.0f}"


def _pale_mark(pale: pd.Series) -> list[Line2D]:
    return [_mark("pale: p > 0.05", color=paler(GREY))] if pale.any() else []


def _mark(text: str, **style: Any) -> Line2D:
    grey: dict[str, Any] = {"color": GREY, "marker": "o", "markersize": 4, "linestyle": "none"}
    return Line2D([], [], label=text, **{**grey, **style})
