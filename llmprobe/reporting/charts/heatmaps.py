"""Heatmaps: scores of all layers at a glance, by model or side by side at relative depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from llmprobe.reporting.charts.colour_scale import CHANCE_MAP, ColourScale, scored
from llmprobe.reporting.charts.panels import (
    DEPTH,
    layer_label,
    layer_ticks,
    name_layers,
    same_layers,
)
from llmprobe.reporting.charts.style import label, styled
from llmprobe.results.peaks import layer_names

_MOST_NUMBERS = 12
"""Layers of which each cell has room for its score."""


@styled
def heatmap(results: pd.DataFrame, metric: str = "accuracy") -> Figure:
    """Scores as colours: a panel for each model, a row for each dataset, a column for each layer.

    Colours are those of ``ColourScale``. A dot marks the best layer of each row, whose score and
    number (or name) stand at its right; hatched cells were not scored. With at most 12 layers,
    cells hold their scores and the best one has a frame. Layers that have names have them below
    the last panel.

    Parameters
    ----------
    results
        A row for each model × dataset × layer.
    metric
        ``accuracy`` (chance: the majority class), ``balanced_accuracy`` (1 / number of classes),
        ``auroc`` (0.5), ``selectivity`` or ``r2`` (0). For selectivity, the marked layer is that
        of the best accuracy or R².
    """
    rows = scored(results, metric)
    scale = ColourScale.of(rows, metric)
    parts = [part for _, part in rows.groupby("model", sort=False)]
    n_rows = [part["dataset"].nunique() for part in parts]
    numbers = bool(rows["layer"].max() - rows["layer"].min() < _MOST_NUMBERS)
    height = 1.0 + 0.45 * len(parts) + 0.18 * sum(n_rows)
    names = layer_names(rows)
    wide = (numbers or names) and rows["layer"].nunique() > _MOST_NUMBERS / 2
    figure = Figure(figsize=(6.75 if wide else 4.5, height))
    *panels, bar = figure.subplots(len(parts) + 1, 1, height_ratios=[*n_rows, 0.7])
    for ax, part in zip(panels, parts, strict=True):
        layers = range(int(part["layer"].min()), int(part["layer"].max()) + 1)
        datasets = list(part["dataset"].unique())
        level = part.pivot(index="dataset", columns="layer", values="level")
        level = level.reindex(index=datasets, columns=list(layers))
        ax.imshow(
            np.ma.masked_invalid(level.to_numpy()),
            cmap=CHANCE_MAP,
            norm=scale.norm,
            aspect="auto",
            interpolation="none",
            extent=(layers[0] - 0.5, layers[-1] + 0.5, len(datasets) - 0.5, -0.5),
        )
        if numbers:
            _write_scores(ax, part, datasets, scale)
        _mark_best(ax, part.assign(row=part["dataset"]), "layer", datasets, scale, names, numbers)
        _name_rows(ax, datasets, hatched=bool(level.isna().any(axis=None)))
        _head(ax, metric)
        ax.set_title(label(part["model"].iloc[0], 34))
        ax.set_xticks(layer_ticks(layers[0], layers[-1]))
    if names and same_layers(rows):
        for ax in panels[:-1]:
            ax.set_xticks([])
        name_layers(figure, panels[-1:], names)
    panels[-1].set_xlabel(layer_label(rows))
    scale.draw(figure, bar)
    return figure


@styled
def heatmap_by_model(results: pd.DataFrame, metric: str = "accuracy") -> Figure:
    """Scores as colours at relative depth: a panel for each dataset, a row for each model.

    So models of different numbers of layers stand beside each other: a cell reaches half-way to
    the layers before and after it. Colours, marks and parameters are those of ``heatmap``.
    """
    rows = scored(results, metric)
    scale = ColourScale.of(rows, metric)
    models = list(rows["model"].unique())
    parts = [part for _, part in rows.groupby("dataset", sort=False)]
    columns = 1 if len(parts) < 4 else 2
    n_rows, height = ceil(len(parts) / columns), 0.3 + 0.18 * len(models)
    figure = Figure(figsize=(4.5 if columns == 1 else 6.75, 0.9 + height * n_rows))
    layout = figure.add_gridspec(n_rows + 1, columns, height_ratios=[*[height] * n_rows, 0.13])
    for index, part in enumerate(parts):
        ax = figure.add_subplot(layout[divmod(index, columns)])
        for row, model in enumerate(models):
            _draw_row(ax, row, part[part["model"] == model].sort_values("layer"), scale)
        _mark_best(ax, part.assign(row=part["model"]), "depth", models, scale, layer_names(rows))
        shown = models if index % columns == 0 else [""] * len(models)
        _name_rows(
            ax, shown, bool(part["score"].isna().any()) or part["model"].nunique() < len(models)
        )
        _head(ax, metric)
        ax.set_title(label(part["dataset"].iloc[0], 34 if columns == 1 else 24))
        ax.set(xlim=(0, 1), ylim=(len(models) - 0.5, -0.5))
        if index + columns < len(parts):
            ax.set_xticks([])
        else:
            ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
            ax.set_xlabel(DEPTH)
    scale.draw(figure, figure.add_subplot(layout[n_rows, :]))
    return figure


def _draw_row(ax: Axes, row: int, layers: pd.DataFrame, scale: ColourScale) -> None:
    """The layers of one model as cells between 0 and 1."""
    depth = layers["depth"].to_list()
    edges = [0.0, *((a + b) / 2 for a, b in pairwise(depth)), 1.0]
    ax.pcolormesh(
        edges[: len(depth) + 1],
        [row - 0.5, row + 0.5],
        np.ma.masked_invalid(layers[["level"]].to_numpy().T),
        cmap=CHANCE_MAP,
        norm=scale.norm,
        rasterized=True,  # a path for each cell would make large files
    )


def _write_scores(
    ax: Axes, rows: pd.DataFrame, datasets: Sequence[str], scale: ColourScale
) -> None:
    for cell in rows.dropna(subset="score").to_dict("records"):
        ax.text(
            cell["layer"],
            datasets.index(cell["dataset"]),
            f"{cell['score']:.{scale.decimals}f}".replace("-", "−"),
            color=scale.text_colour(cell["level"]),
            ha="center",
            va="center",
            fontsize=6.5,
        )


def _mark_best(
    ax: Axes,
    rows: pd.DataFrame,
    x: str,
    order: Sequence[str],
    scale: ColourScale,
    names: Mapping[int, str],
    frame: bool = False,
) -> None:
    """A dot or a frame at the marked layer, and its score and name at the right.

    The column ``row`` says which of ``order`` a row belongs to.
    """
    for best in rows[rows["marked"]].to_dict("records"):
        row, layer = order.index(best["row"]), int(best["layer"])
        if frame:
            box = Rectangle((layer - 0.5, row - 0.42), 1, 0.84, fill=False, clip_on=False)
            box.set_path_effects([withStroke(linewidth=2.4, foreground="white")])
            ax.add_patch(box)
        else:
            dot: dict[str, Any] = {"color": "black", "markeredgecolor": "white", "markersize": 4}
            ax.plot(best[x], row, "o", clip_on=False, **dot)
        score = f"{best['score']:.{scale.decimals}f}".replace("-", "−")
        ax.annotate(
            f"{score} ({label(names.get(layer, str(layer)), 14)})",
            (1, row),
            (5, 0),
            ax.get_yaxis_transform(),
            "offset points",
            va="center",
            fontsize=7,
        )


def _head(ax: Axes, metric: str) -> None:
    """What stands at the right of the rows."""
    text = "at best layer" if metric == "selectivity" else "best (layer)"
    ax.annotate(text, (1, 1), (5, 5), "axes fraction", textcoords="offset points", fontsize=7)


def _name_rows(ax: Axes, names: Sequence[str], hatched: bool) -> None:
    if hatched:
        ax.patch.set(facecolor="white", edgecolor="#bbbbbb", hatch="//////")
    ax.set_yticks(range(len(names)), [label(name, 22) for name in names], fontsize=7)
    ax.set_yticks(np.arange(len(names) - 1) + 0.5, minor=True)
    ax.grid(which="minor", axis="y", color="white", linewidth=1)
    ax.tick_params(axis="y", which="both", length=0)
    ax.spines[:].set_visible(False)
