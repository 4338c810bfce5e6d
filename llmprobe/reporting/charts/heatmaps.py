"""Heatmaps: scores of all layers at a glance, by model or side by side at relative depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from math import ceil
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from llmprobe.ground.errors import UserError
from llmprobe.reporting.charts.colour_scale import CHANCE_MAP, ColourScale
from llmprobe.reporting.charts.panels import DEPTH, layer_label, layer_ticks, name_layers
from llmprobe.reporting.charts.style import label, styled
from llmprobe.results.curve import (
    Curve,
    by_dataset,
    by_model,
    layer_names,
    main_metrics,
    same_layers,
)
from llmprobe.results.figures import figure
from llmprobe.results.metrics import METRICS, Metric
from llmprobe.results.results import Results

_MOST_NUMBERS = 12
"""Layers of which each cell has room for its score, or its number below it."""
_ALT = (
    "Heatmap: a panel for each model, a row for each dataset, a column for each layer; colour is "
    "the {}. The tables below hold the same numbers."
)
_ON_PAGE = {
    "accuracy": "Accuracy of a probe on each layer. Blue is above chance, orange below it, hatched "
    "not scored; the dot is the best layer of the row.",
    "r2": "R² of a probe on each layer: 0 is what the mean of all labels reaches, orange is worse "
    "than that; the dot is the best layer of the row.",
}
"""The captions of those heatmaps that the page has."""


@styled
def heatmap(
    curves: Sequence[Curve],
    metric: str = "accuracy",
    rows: Literal["title", "position"] = "title",
) -> Figure:
    """Draw scores as colours: a panel for each model, a row for each curve, a column per layer.

    Colours are those of ``ColourScale``. A dot marks the best layer of each row, whose score and
    number (or name) stand at its right; hatched cells were not scored. With at most 12 layers,
    cells hold their scores and the best one has a frame. Layers that have names have them below
    the last panel.

    Parameters
    ----------
    curves
        Of those, the ones that have the metric are drawn.
    metric
        A name in ``METRICS``, such as ``accuracy`` (chance: the majority class) or ``auroc`` (0.5).
        For selectivity, the marked layer is the best one by accuracy or R².
    rows
        What rows are called by: the title of the curve's dataset, or its position alone.

    Raises
    ------
    UserError
        There is no such metric, or no curve has it.
    """
    kind = METRICS[metric]
    curves = _coloured(curves, kind)
    if not curves:
        raise UserError(
            f"no layer has a value of the metric {metric!r}, or its chance is not known"
        )
    scale, models, names = ColourScale.of(curves, kind), by_model(curves), layer_names(curves)
    layers = {layer for curve in curves for layer in curve.layers}
    numbers = len(layers) <= _MOST_NUMBERS
    wide = (numbers or names) and len(layers) > _MOST_NUMBERS / 2
    height = 1.0 + 0.45 * len(models) + 0.18 * len(curves)
    drawn = Figure(figsize=(6.75 if wide else 4.5, height))
    *panels, bar = drawn.subplots(
        len(models) + 1, 1, height_ratios=[*(len(group) for group in models.values()), 0.7]
    )
    for ax, (model, group) in zip(panels, models.items(), strict=True):
        columns = sorted({layer for curve in group for layer in curve.layers})
        first, last = columns[0], columns[-1]
        # Where only some layers were read, they stand side by side.
        all_read = columns == list(range(first, last + 1))
        at = {layer: layer if all_read else i for i, layer in enumerate(columns)}
        level = np.full((len(group), len(columns)), np.nan)
        for row, curve in enumerate(group):
            level[row, [columns.index(layer) for layer in curve.layers]] = curve.levels(kind)
        ax.imshow(
            np.ma.masked_invalid(level),
            cmap=CHANCE_MAP,
            norm=scale.norm,
            aspect="auto",
            interpolation="none",
            extent=(at[first] - 0.5, at[last] + 0.5, len(group) - 0.5, -0.5),
        )
        for row, curve in enumerate(group):
            x = [at[layer] for layer in curve.layers]
            if numbers:
                _write_scores(ax, row, curve, x, scale)
            _mark_best(ax, row, curve, x, scale, names, numbers)
        stem, names_of_rows = _without_stem([str(getattr(curve, rows)) for curve in group])
        _name_rows(ax, names_of_rows, metric, hatched=bool(np.isnan(level).any()))
        ax.set_title(label(f"{model}, {stem}" if stem else model, 34))
        if all_read:
            ax.set_xticks(layer_ticks(first, last))
        else:
            shown = columns[:: -(-len(columns) // _MOST_NUMBERS)]
            ax.set_xticks([at[layer] for layer in shown], [str(layer) for layer in shown])
    if names and same_layers(curves):
        for ax in panels[:-1]:
            ax.set_xticks([])
        name_layers(drawn, panels[-1:], names)
    panels[-1].set_xlabel(layer_label(curves))
    scale.draw(drawn, bar)
    return drawn


def _without_stem(names: Sequence[str]) -> tuple[str, list[str]]:
    """Return the dataset of which all are concepts or positions (or ""), and names without it."""
    for separator in (" @ ", ":"):
        stems = {name.partition(separator)[0] for name in names}
        if len(names) > 1 and len(stems) == 1 and all(separator in name for name in names):
            return stems.pop(), [name.partition(separator)[2] for name in names]
    return "", [*names]


def _of_run(results: Results, metric: str) -> Figure | None:
    found = _coloured(results.curves, METRICS[metric])
    return heatmap(found, metric) if found else None


for of, caption in _ON_PAGE.items():
    figure(
        f"heatmap_{of}",
        caption=caption,
        alt=_ALT.format(METRICS[of].label),
        drawn_by_script=True,
    )(partial(_of_run, metric=of))


@figure("heatmap")
def heatmaps(results: Results) -> Mapping[str, Figure]:
    """Draw a heatmap of each other metric that has one, by its name."""
    found = {
        name: _of_run(results, name)
        for name, metric in METRICS.items()
        if metric.heatmap and name not in _ON_PAGE
    }
    return {name: drawn for name, drawn in found.items() if drawn is not None}


@figure(
    "positions",
    caption="Where in a text, and in which layer, a concept can be read: a row for each position. "
    "Blue is above chance, orange below it; the dot is the best layer of the row.",
    alt="Heatmap of one dataset: a panel for each model, a row for each position in the text, a "
    "column for each layer; colour is the score. The tables below hold the same numbers.",
)
def positions(results: Results) -> Mapping[str, Figure]:
    """Draw the positions of each dataset that some models were probed on at several, by name."""
    by_place: dict[tuple[str, str], list[Curve]] = {}
    for curve in _coloured(results.curves, None):
        by_place.setdefault((curve.dataset, curve.model), []).append(curve)
    of_datasets: dict[str, list[Curve]] = {}
    for (dataset, _), group in by_place.items():
        if len(group) > 1:
            of_datasets.setdefault(dataset, []).extend(group)
    drawn = {}
    for dataset, group in of_datasets.items():
        picture = heatmap(group, group[0].metric.name, rows="position")
        picture.suptitle(label(dataset, 40), fontsize=9)
        drawn[dataset] = picture
    return drawn


@styled
def heatmap_by_model(curves: Sequence[Curve], metric: str = "accuracy") -> Figure:
    """Draw scores as colours at relative depth: a panel for each dataset, a row for each model.

    So models of different numbers of layers stand beside each other: a cell reaches half-way to
    the layers before and after it. Colours, marks and parameters are those of ``heatmap``.
    """
    kind = METRICS[metric]
    curves = _coloured(curves, kind)
    scale, names = ColourScale.of(curves, kind), layer_names(curves)
    models, datasets = list(by_model(curves)), by_dataset(curves)
    columns = 1 if len(datasets) < 4 else 2
    n_rows, height = ceil(len(datasets) / columns), 0.3 + 0.18 * len(models)
    drawn = Figure(figsize=(4.5 if columns == 1 else 6.75, 0.9 + height * n_rows))
    layout = drawn.add_gridspec(n_rows + 1, columns, height_ratios=[*[height] * n_rows, 0.13])
    for index, (dataset, group) in enumerate(datasets.items()):
        ax = drawn.add_subplot(layout[divmod(index, columns)])
        for curve in group:
            _draw_row(ax, models.index(curve.model), curve, scale)
        for curve in group:
            x = curve.depths.tolist()
            _mark_best(ax, models.index(curve.model), curve, x, scale, names)
        gaps = any(np.isnan(curve.levels(kind)).any() for curve in group)
        shown = models if index % columns == 0 else [""] * len(models)
        _name_rows(ax, shown, metric, hatched=gaps or len(group) < len(models))
        ax.set_title(label(dataset, 34 if columns == 1 else 24))
        ax.set(xlim=(0, 1), ylim=(len(models) - 0.5, -0.5))
        if index + columns < len(datasets):
            ax.set_xticks([])
        else:
            ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
            ax.set_xlabel(DEPTH)
    scale.draw(drawn, drawn.add_subplot(layout[n_rows, :]))
    return drawn


@figure(
    "heatmap_by_model",
    caption="Models below each other, at relative depth: where each has what the others have.",
    alt="Heatmap: a panel for each dataset, a row for each model, over relative depth; colour is "
    "the score. The tables below hold the same numbers.",
)
def _by_model(results: Results) -> Figure | None:
    for main in main_metrics(results.curves)[:1]:
        scored = [curve for curve in results.curves if curve.has(main)]
        if any(len(group) > 1 for group in by_dataset(scored).values()):
            return heatmap_by_model(scored, main.name)
    return None


def _coloured(curves: Sequence[Curve], metric: Metric | None) -> list[Curve]:
    """Return the curves that have a layer with a value of the metric and a known chance.

    Without a metric, each of its own main one.
    """
    return [curve for curve in curves if np.isfinite(curve.levels(metric or curve.metric)).any()]


def _draw_row(ax: Axes, row: int, curve: Curve, scale: ColourScale) -> None:
    """Draw the layers of one model as cells between 0 and 1."""
    edges = [0.0, *((a + b) / 2 for a, b in pairwise(curve.depths)), 1.0]
    ax.pcolormesh(
        edges[: len(curve.layers) + 1],
        [row - 0.5, row + 0.5],
        np.ma.masked_invalid(curve.levels(scale.metric)[None]),
        cmap=CHANCE_MAP,
        norm=scale.norm,
        rasterized=True,  # a path for each cell would make large files
    )


def _write_scores(ax: Axes, row: int, curve: Curve, x: Sequence[float], scale: ColourScale) -> None:
    scores, levels = curve.column(scale.metric.name), curve.levels(scale.metric)
    for place, score, level in zip(x, scores, levels, strict=True):
        if np.isfinite(score):
            colour = scale.text_colour(level)
            ax.text(
                place, row, scale.written(score), color=colour, ha="center", va="center",
                fontsize=6.5,
            )  # fmt: skip


def _mark_best(
    ax: Axes,
    row: int,
    curve: Curve,
    x: Sequence[float],
    scale: ColourScale,
    names: Mapping[int, str],
    frame: bool = False,
) -> None:
    """Draw a dot or a frame at the best layer, and its score and name at the right.

    ``x`` is where each layer stands.
    """
    best, scores = curve.best(scale.metric), curve.column(scale.metric.name)
    if best is None or np.isnan(scores[best]):
        return
    layer = curve.layers[best]
    if frame:
        box = Rectangle((x[best] - 0.5, row - 0.42), 1, 0.84, fill=False, clip_on=False)
        box.set_path_effects([withStroke(linewidth=2.4, foreground="white")])
        ax.add_patch(box)
    else:
        dot: dict[str, Any] = {"color": "black", "markeredgecolor": "white", "markersize": 4}
        ax.plot(x[best], row, "o", clip_on=False, **dot)
    ax.annotate(
        f"{scale.written(scores[best])} ({label(names.get(layer, str(layer)), 14)})",
        (1, row),
        (5, 0),
        ax.get_yaxis_transform(),
        "offset points",
        va="center",
        fontsize=7,
    )


def _name_rows(ax: Axes, names: Sequence[str], metric: str, hatched: bool) -> None:
    """Write what stands at the left of the rows, and what the numbers at their right are."""
    if hatched:
        ax.patch.set(facecolor="white", edgecolor="#bbbbbb", hatch="//////")
    ax.set_yticks(range(len(names)), [label(name, 22) for name in names], fontsize=7)
    ax.set_yticks(np.arange(len(names) - 1) + 0.5, minor=True)
    ax.grid(which="minor", axis="y", color="white", linewidth=1)
    ax.tick_params(axis="y", which="both", length=0)
    ax.spines[:].set_visible(False)
    text = "at best layer" if metric == "selectivity" else "best (layer)"
    ax.annotate(text, (1, 1), (5, 5), "axes fraction", textcoords="offset points", fontsize=7)
