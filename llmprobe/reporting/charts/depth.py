"""Depths: where each concept becomes readable, by its difficulty and by the size of the model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.optimize import isotonic_regression  # type: ignore[import-untyped]
from scipy.stats import rankdata  # type: ignore[import-untyped]

from llmprobe.reporting.charts.panels import DEPTH, SPAN, SPAN_NAME, Grid, draw_span, legend
from llmprobe.reporting.charts.style import (
    GREY,
    em,
    entitle,
    label,
    model_styles,
    paler,
    panels_on,
    sheet,
    styled,
    text_width,
    wrapped,
)
from llmprobe.results.curve import Curve, by_dataset, by_model, difficulty
from llmprobe.results.figures import RUN, Look, figure
from llmprobe.results.results import Results

STAYS = "stays_above_half_depth"
ABOVE_HALF = "depth from which it stays above half"
PERMUTATIONS = 9_999
LEAST_CORRELATED = 5
"""With fewer concepts, no order would be surprising."""
SIZE = re.compile(r"\d+(\.\d+)?[kmbt]|tiny|mini|small|medium|base|large|x+l")
"""The part of a model's name that says its size."""
MOST_SLANTED = 15
"""Up to this many names above a panel are slanted; more are upright."""


@figure(
    "depth",
    caption="Where each concept can be read: a line where the score stays above half of its rise "
    "from chance, with an end where it falls again; the dot is the best layer. Pale: not above "
    "chance.",
    alt="Dot chart: a row for each dataset, the relative depth of the best layer and the depths "
    "between which the score stays above half of its rise, for each model. The summary table holds "
    "the same numbers.",
    takes="ax",
)
@styled
def depth_scatter(results: Results, look: Look = RUN) -> Figure:
    """Draw where each concept is read best (a dot), and where it can be read (a line).

    The line is where the score stays above half of its rise; it has an end where it falls again.
    A row for each dataset, a colour for each model, at relative depths, 0 … 1. If the best layer is
    not above chance, the dot is pale and has no line.
    """
    models, datasets = by_model(results.curves), list(by_dataset(results.curves))
    styles = model_styles(models)
    width, row = look.inches(4.5), max(0.14 + 0.09 * len(styles), 1.6 * em())
    drawn = sheet(look, width, 0.7 + row * len(datasets))
    (ax,) = panels_on(drawn, look)
    for index, (model, style) in enumerate(styles.items()):
        aside = (index + 1) / (len(styles) + 1) - 0.5
        for part, point in _by_pallor(models[model], style):
            y = [datasets.index(curve.title) + aside for curve in part]
            best = [curve.at_best("depth") for curve in part]
            for curve, place in zip(part, y, strict=True):
                draw_span(ax, curve, curve.depths.tolist(), place, point)
            ax.plot(best, y, **point)
    ax.set_xlim(0, 1)
    ax.set_ylim(len(datasets) - 0.5, -0.5)
    ax.set_yticks(range(len(datasets)), [label(name, 24, 0.35 * width) for name in datasets])
    ax.set_yticks(np.arange(len(datasets) - 1) + 0.5, minor=True)
    ax.grid(which="minor", axis="y", color="#dddddd", linewidth=0.6)
    ax.tick_params(axis="y", which="both", length=0)
    ax.set_xlabel(DEPTH)
    marks = [_mark("best layer")]
    if any(not np.isnan(curve.shown(STAYS)) for curve in results.curves):
        marks.append(_mark(SPAN_NAME, **SPAN))
    legend(drawn, styles, [*marks, *_pale_mark(results.curves)], look)
    entitle(look, drawn, [ax])
    return drawn


@figure(
    "difficulty",
    caption="Are harder concepts read deeper? Each point is a concept in a model: how far the best "
    "model stays from a perfect score, and the depth from which it stays above half of its rise, "
    "with its interval.",
    alt="Dot chart: the depth from which the score stays above half of its rise, against the "
    "difficulty of each concept. The summary table holds the same numbers.",
    takes="ax",
)
@styled
def depth_against_difficulty(results: Results, look: Look = RUN) -> Figure | None:
    """Draw whether harder concepts are read deeper: a point for each model and dataset.

    Horizontally the ``difficulty`` of the dataset, which is named above it; vertically the depth
    from which the score stays above half of its rise, with its 95 % interval. Points are pale if
    the best layer is not above chance, since the depth of such a rise is noise. For models with at
    least ``LEAST_CORRELATED`` other points, the legend has their Spearman's rank correlation, with
    the share of ``PERMUTATIONS`` random orders that are as correlated (two-sided). None if fewer
    than three datasets have a rise.
    """
    rising = _rising(results.curves)
    datasets = by_dataset(rising)
    if len(datasets) < 3:
        return None
    hardness, styles = difficulty(results.curves), model_styles(by_model(results.curves))
    few = len(datasets) <= MOST_SLANTED
    width = look.inches(4.5 if few and len(styles) <= 6 else 6.75)
    drawn = sheet(look, width, 0.53 * width + 12 * em())
    (ax,) = panels_on(drawn, look)
    for index, (model, style) in enumerate(styles.items()):
        group = [curve for curve in rising if curve.model == model]
        # Models share the difficulty of a dataset, and would hide each other.
        aside = min(0.006, 0.03 / len(styles)) * (index - (len(styles) - 1) / 2)
        places = {dataset: hard + aside for dataset, hard in hardness.items()}
        _draw_starts(ax, places, group, style)
        sure = [curve for curve in group if curve.above_chance]
        if len(sure) >= LEAST_CORRELATED:
            rho, p = rank_correlation(
                np.array([hardness[curve.title] for curve in sure]),
                np.array([curve.number(STAYS) for curve in sure]),
            )
            said = f": ρ = {rho:.2f}, p = {p:.2g}, n = {len(sure)}".replace("-", "−")
            said = "" if np.isnan(rho) else said
            room = width - 0.6 - text_width(said, "small")
            style["label"] = label(model, 34, room, "small") + said
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    ax.set_ylabel(wrapped(ABOVE_HALF, 0.3 * width))
    meaning = "difficulty (0: the best model never errs, 1: it guesses)"
    ax.set_xlabel(wrapped(meaning, width - 9 * em()))
    _name_above(ax, {dataset: hardness[dataset] for dataset in datasets}, width)
    legend(drawn, styles, _pale_mark(rising), look)
    entitle(look, drawn, [ax])
    return drawn


def rank_correlation(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Compute Spearman's rank correlation, and its two-sided p-value from random orders.

    Both are NaN if all of ``x`` or all of ``y`` are equal.
    """
    ranks = rankdata(np.stack([x, y]), axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    length = np.sqrt((ranks**2).sum(axis=1).prod())
    if length == 0:
        return np.nan, np.nan
    orders = np.random.default_rng(0).permuted(np.tile(ranks[1], (PERMUTATIONS, 1)), axis=1)
    rho, shuffled = ranks[0] @ ranks[1] / length, orders @ ranks[0] / length
    return float(rho), float((1 + (abs(shuffled) >= abs(rho) - 1e-9).sum()) / (1 + PERMUTATIONS))


@figure(
    "size",
    caption="How much of the network does a model of each size need? Parameters, and the depth "
    "from which the score stays above half of its rise, with its interval. Lines join models of "
    "one family.",
    alt="Line chart: a panel for each dataset, the depth from which the score stays above half of "
    "its rise against the number of parameters. The summary table holds the same numbers.",
    takes="ax",
)
@styled
def depth_against_size(results: Results, look: Look = RUN) -> Figure | None:
    """Draw how much of the network a model of each size needs: a panel for each dataset.

    Horizontally the number of parameters; vertically the depth from which the score stays above
    half of its rise, with its 95 % interval. A line joins the models of one family (``family``)
    that read the dataset; models whose best layer is not above chance are pale. None if all models
    have one size.
    """
    sized = [curve for curve in _rising(results.curves) if not np.isnan(_parameters(curve))]
    sizes = {_parameters(curve) for curve in sized}
    if len(sizes) < 2:
        return None
    styles, datasets = model_styles(by_model(results.curves)), by_dataset(sized)
    grid = Grid.of(list(datasets), look)
    for ax, group in zip(grid.panels, datasets.values(), strict=True):
        group = sorted(group, key=_parameters)
        sure = [curve for curve in group if curve.above_chance]
        for name in dict.fromkeys(family(curve.model) for curve in sure):
            kin = [curve for curve in sure if family(curve.model) == name]
            ax.plot(
                [_parameters(curve) for curve in kin],
                [curve.number(STAYS) for curve in kin],
                color="#aaaaaa", linewidth=0.8, zorder=1,
            )  # fmt: skip
        for curve in group:
            places = {curve.title: _parameters(curve)}
            _draw_starts(ax, places, [curve], styles[curve.model])
    first = grid.panels[0]
    first.set_xscale("log")
    ticks = _apart(sizes, 4.5 * em() / max(grid.panel - 5 * em(), 0.1))
    first.set_xticks(ticks, [_size(parameters) for parameters in ticks], minor=False)
    first.minorticks_off()
    first.set_ylim(-0.03, 1.03)
    first.margins(x=0.15)
    grid.name_axes("parameters", ABOVE_HALF if grid.panel >= 3 else "depth")
    legend(grid.figure, styles, _pale_mark(sized), look)
    entitle(look, grid.figure, grid.panels)
    return grid.figure


def family(model: str) -> str:
    """Return the name of a model without the folder or owner before it and the size in it.

    ``Qwen/Qwen2.5-0.5B`` and ``Qwen/Qwen2.5-7B`` are both ``qwen2.5``.
    """
    return "-".join(part for part in re.split(r"[-_ ]", model.lower().rsplit("/", 1)[-1])
                    if not SIZE.fullmatch(part))  # fmt: skip


def _parameters(curve: Curve) -> float:
    return curve.number("parameters")


def _rising(curves: Sequence[Curve]) -> list[Curve]:
    return [curve for curve in curves if not np.isnan(curve.number(STAYS))]


def _by_pallor(
    curves: Sequence[Curve], style: dict[str, Any]
) -> Iterator[tuple[list[Curve], dict[str, Any]]]:
    """Yield the curves above chance, then the others, each with the style of their points."""
    for pale in (False, True):
        part = [curve for curve in curves if curve.above_chance != pale]
        if part:
            colour = paler(style["color"]) if pale else style["color"]
            yield part, {**style, "linestyle": "none", "clip_on": False, "color": colour}


def _draw_starts(
    ax: Axes, places: Mapping[str, float], curves: Sequence[Curve], style: dict[str, Any]
) -> None:
    """Draw the depth from which each curve stays above half, with its interval, at its dataset."""
    for part, point in _by_pallor(curves, style):
        x = [places[curve.title] for curve in part]
        depth, low, high = (
            [curve.number(f"{STAYS}{end}") for curve in part] for end in ("", "_low", "_high")
        )
        ax.vlines(x, low, high, point["color"], linewidth=0.8)
        ax.plot(x, depth, **point)


def _name_above(ax: Axes, places: Mapping[str, float], inches: float) -> None:
    """Write names above the panel, moved apart, with lines to their places, if there is room.

    Parameters
    ----------
    places
        The place of each name on the axis.
    inches
        The width of the figure.
    """
    slanted = len(places) <= MOST_SLANTED and inches >= 4.4
    inches -= (14.4 if slanted else 8.5) * em()
    gap = (1.35 if slanted else 0.95) * em() / inches
    height = 1.04 if slanted else 1.09
    room = 1 - gap * (len(places) - 1)
    if room < 0:
        return
    names = sorted(places, key=lambda name: places[name])
    shares = ax.transLimits.transform([(places[name], 0) for name in names])[:, 0]
    steps = gap * np.arange(len(places))
    # The nearest places (least squares) that keep the order and the least distance.
    moved = np.clip(isotonic_regression(shares - steps).x, 0, room) + steps
    for name, share, at in zip(names, shares, moved, strict=True):
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
            label(name, 24 if slanted else 20),
            transform=ax.transAxes,
            rotation=45 if slanted else 90,
            rotation_mode="anchor",
            va="center",
            fontsize="small",
        )


def _apart(values: Iterable[float], share: float) -> list[float]:
    """Keep the greatest value, and others whose logarithms are a share of the range apart."""
    descending = sorted(values, reverse=True)
    kept = descending[:1]
    for value in descending[1:]:
        if np.log(kept[-1] / value) >= share * np.log(descending[0] / descending[-1]):
            kept.append(value)
    return kept[::-1]


def _size(parameters: float) -> str:
    """Return a number of parameters as ``135M`` or ``1.5B``."""
    for unit, factor in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= 0.9995 * factor:
            return f"{parameters / factor:.3g}{unit}"
    return f"{parameters:.0f}"


def _pale_mark(curves: Sequence[Curve]) -> list[Line2D]:
    pale = not all(curve.above_chance for curve in curves)
    return [_mark("pale: not above chance", color=paler(GREY))] if pale else []


def _mark(text: str, **style: Any) -> Line2D:
    grey: dict[str, Any] = {"color": GREY, "marker": "o", "markersize": 4, "linestyle": "none"}
    return Line2D([], [], label=text, **{**grey, **style})
