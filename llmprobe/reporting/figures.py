"""The figures: heatmaps and curves over layers, and where each concept becomes readable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from llmprobe.reporting import (
    SCORE_NAMES,
    chance_accuracy,
    elide,
    layer_names,
    main_probe,
    main_score,
)

METRICS = ("accuracy", "r2", "balanced_accuracy", "auroc", "selectivity")

# From Okabe & Ito and Paul Tol: apart for colour-blind eyes too, and dark enough on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#332288", "#56b4e9", "#882255")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")

# Lightness falls in equal steps away from the middle; blue and orange differ for every eye.
_ABOVE = ("#f3f3f3", "#9bc2de", "#4d8fbd", "#005d94", "#002c64")
_BELOW = ("#762904", "#a95219", "#d58249", "#f2b791")
CHANCE_MAP = LinearSegmentedColormap.from_list("chance", [*_BELOW, *_ABOVE])
"""Light at chance (the middle), blue above it, orange below it."""

_STYLE: list[Any] = [
    "default",  # figures do not depend on the user's matplotlibrc
    {
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "figure.labelsize": 8,
        "legend.frameon": False,
        "legend.fontsize": 7,
        "legend.handlelength": 2.2,
        "legend.columnspacing": 1.5,
        "figure.constrained_layout.use": True,
    },
]
styled = matplotlib.style.context(_STYLE)
"""Decorator of what draws or writes a figure."""

_DEPTH = "depth (layer / last layer)"

_BASELINES: dict[str, dict[str, Any]] = {
    "majority_accuracy": {"label": "majority class", "color": "#555555", "linestyle": "--"},
    "bag_of_words_accuracy": {"label": "bag of words", "color": "black", "linestyle": ":"},
    "bag_of_words_r2": {"label": "bag of words", "color": "black", "linestyle": ":"},
}


@styled
def heatmap(results: pd.DataFrame, metric: str = "accuracy") -> Figure:
    """Scores as colours: a panel for each model, a row for each dataset, a column for each layer.

    Colour is the share of the way from chance (0) to a perfect score (1), so datasets of different
    class balance share one scale; below chance is another hue. A dot marks the best layer of each
    row, whose score and number stand at its right; hatched cells were not scored. Layers that
    have names have them below the last panel.

    Parameters
    ----------
    results
        A row for each model × dataset × layer.
    metric
        ``accuracy`` (chance: the majority class), ``balanced_accuracy`` (1 / number of classes),
        ``auroc`` (0.5), ``selectivity`` or ``r2`` (0).
    """
    rows = main_probe(results)
    score, chance = rows[metric].astype(float), _chance(rows, metric)
    rows = rows.assign(score=score, level=(score - chance) / (1 - chance))
    models = list(rows["model"].unique())
    datasets = {model: rows[rows["model"] == model]["dataset"].unique() for model in models}
    n_rows = [len(datasets[model]) for model in models]
    figure = Figure(figsize=(4.5, 1.0 + 0.45 * len(models) + 0.18 * sum(n_rows)))
    *panels, bar = figure.subplots(len(models) + 1, 1, height_ratios=[*n_rows, 0.7])
    top = 1.0 if metric != "selectivity" else max(0.5, rows["level"].max())
    for ax, model in zip(panels, models, strict=True):
        _heatmap_panel(ax, rows[rows["model"] == model], datasets[model], Normalize(-top, top))
        ax.set_title(_label(model, 34))
    if (names := layer_names(rows)) and _same_layers(rows):
        for ax in panels[:-1]:
            ax.set_xticks([])
        _name_layers(figure, panels[-1:], names)
    panels[-1].set_xlabel(_layer_label(rows))
    figure.colorbar(panels[0].images[0], cax=bar, orientation="horizontal")
    _colour_scale(bar, metric, rows["level"], chance)
    return figure


def _heatmap_panel(ax: Axes, rows: pd.DataFrame, datasets: Sequence[str], norm: Normalize) -> None:
    layers = range(int(rows["layer"].min()), int(rows["layer"].max()) + 1)
    # Of layers that score the same, the best is the one with the least loss, as in the summary.
    tie = "log_loss" if "log_loss" in rows and rows["log_loss"].notna().any() else "score"
    score, level, loss = (
        rows.pivot_table(
            index="dataset", columns="layer", values=value, aggfunc="first", dropna=False
        )
        .reindex(index=list(datasets), columns=list(layers))
        .to_numpy()
        for value in ("score", "level", tie)
    )
    if np.isnan(level).any():
        ax.patch.set(facecolor="white", edgecolor="#bbbbbb", hatch="//////")
    ax.imshow(
        np.ma.masked_invalid(level),
        cmap=CHANCE_MAP,
        norm=norm,
        aspect="auto",
        interpolation="none",
        extent=(layers[0] - 0.5, layers[-1] + 0.5, len(datasets) - 0.5, -0.5),
    )
    for row in np.flatnonzero(np.isfinite(score).any(axis=1)).tolist():
        best = int(np.lexsort((loss[row], -score[row]))[0])
        ax.plot(layers[best], row, "o", color="black", markeredgecolor="white", markersize=4)
        ax.text(
            1.01,
            row,
            f"{score[row, best]:.2f} ({layers[best]})",
            transform=ax.get_yaxis_transform(),
            va="center",
            fontsize=7,
        )
    ax.annotate(
        "best (layer)", (1.01, 1), (0, 5), "axes fraction", textcoords="offset points", fontsize=7
    )
    ax.set_xticks(layer_ticks(layers[0], layers[-1]))
    ax.set_yticks(range(len(datasets)), [_label(name, 22) for name in datasets], fontsize=7)
    ax.set_yticks(np.arange(len(datasets) - 1) + 0.5, minor=True)
    ax.grid(which="minor", axis="y", color="white", linewidth=1)
    ax.tick_params(axis="y", which="both", length=0)
    ax.spines[:].set_visible(False)


def _chance(rows: pd.DataFrame, metric: str) -> pd.Series:
    """What a probe that learned nothing scores, for each row."""
    if metric == "accuracy":
        return chance_accuracy(rows)
    if metric == "balanced_accuracy":
        return 1 / rows["n_classes"].astype(float)
    chance = {"auroc": 0.5, "selectivity": 0.0, "r2": 0.0}
    return pd.Series(chance[metric], index=rows.index)


def _colour_scale(bar: Axes, metric: str, level: pd.Series, chance: pd.Series) -> None:
    """Ticks from the lowest level seen to the top: scores if one chance holds for all rows."""
    top = bar.get_xlim()[1]
    bottom = max(-top, float(np.nanmin([-0.2, *level])))
    low, high = float(chance.min()), float(chance.max())
    name = metric.replace("_", " ").replace("auroc", "AUROC").replace("r2", "R²")
    if high - low <= 0.02:
        anchor, label = f"{(low + high) / 2:.2f}", name
        ticks = np.arange(-10, 11) / 10
        positions, form = (ticks - low) / (1 - low), "{:.1f}"
    else:
        anchor, label = f"{low:.2f}–{high:.2f}", f"{name}: share of the way from chance to 1"
        ticks = positions = np.array([-1, -0.5, 0, 0.25, 0.5, 0.75, 1])
        form = "{:.0%}"
    shown = (positions > bottom - 1e-6) & (positions < top + 1e-6)
    bar.set_xticks(positions[shown], [form.format(tick).replace("-", "−") for tick in ticks[shown]])
    bar.set_xlim(bottom, top)
    bar.set_xlabel(label)
    bar.axvline(0, color="black", linewidth=1)
    above = bar.get_xaxis_transform()
    bar.text(0, 1.1, f"chance {anchor}", transform=above, ha="center", va="bottom", fontsize=7)


@styled
def curves(results: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Accuracy (or R²) over layers: a panel for each dataset, a line and band for each model.

    The axis is the layer when all models have the same ones, else the relative depth. A dashed line
    is the majority class, a dotted one the bag of words (where they are known).
    """
    rows = main_probe(results)
    models, datasets = list(rows["model"].unique()), list(rows["dataset"].unique())
    score = main_score(rows)
    baselines = {column: style for column, style in _BASELINES.items()
                 if column in summary and summary[column].notna().any()}  # fmt: skip
    x = "layer" if _same_layers(rows) or rows["depth"].isna().any() else "depth"
    columns = {1: 1, 2: 2, 4: 2}.get(len(datasets), 3 if len(datasets) <= 9 else 4)
    width, panel_height = (4.5, 3.0) if columns == 1 else (6.75, 5.2 / columns)
    n_rows = ceil(len(datasets) / columns)
    figure = Figure(figsize=(width, panel_height * n_rows + 0.3))
    panels = figure.subplots(n_rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for ax, dataset in zip(panels, datasets, strict=False):
        for index, model in enumerate(models):
            here = rows[(rows["model"] == model) & (rows["dataset"] == dataset)].sort_values(x)
            _curve(ax, here, x, score, index)
        for column, style in baselines.items():
            known = summary.loc[summary["dataset"] == dataset, column].dropna()
            for level in known.astype(float).head(1):
                ax.axhline(level, linewidth=1, **style)
        ax.set_title(_label(dataset, 72 // columns))
    bottom = list(panels[max(0, len(datasets) - columns) : len(datasets)])
    for ax in bottom:
        ax.tick_params(labelbottom=True)
    for ax in panels[::columns]:
        ax.set_ylabel(SCORE_NAMES[score])
    for ax in panels[len(datasets) :]:
        ax.remove()
    if x == "layer":
        most = 12 if columns == 1 else 6
        panels[0].set_xticks(layer_ticks(int(rows[x].min()), int(rows[x].max()), most))
        if names := layer_names(rows):
            _name_layers(figure, bottom, names, 20 // columns)
    elif columns > 2:
        panels[0].set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    figure.supxlabel(_layer_label(rows) if x == "layer" else _DEPTH)
    _legend(figure, models, [Line2D([], [], linewidth=1, **style) for style in baselines.values()])
    return figure


def _curve(ax: Axes, rows: pd.DataFrame, x: str, metric: str, index: int) -> None:
    """The line and band of the model number ``index``, its markers off those of the others."""
    score, low, high = (
        rows[column].astype(float) for column in (metric, f"{metric}_low", f"{metric}_high")
    )
    style = model_style(index)
    ax.fill_between(rows[x], low, high, color=style["color"], alpha=0.15, linewidth=0)
    every = max(1, ceil(len(rows) / 6))
    ax.plot(rows[x], score, markevery=(index % every, every), **style)


@styled
def depth_scatter(summary: pd.DataFrame) -> Figure:
    """Where each concept is read best (filled) and where its accuracy has converged (hollow).

    A row for each dataset, a colour for each model, both at their relative depth, 0 … 1. Pale where
    the best layer is not better than the best one on shuffled labels (p > 0.05).
    """
    models, datasets = list(summary["model"].unique()), list(summary["dataset"].unique())
    figure = Figure(figsize=(4.5, 0.7 + (0.14 + 0.09 * len(models)) * len(datasets)))
    ax = figure.subplots()
    unsure = summary["peak_p_value"].astype(float) > 0.05
    for index, model in enumerate(models):
        for pale in (False, True):
            here = summary[(summary["model"] == model) & (unsure == pale)]
            y = here["dataset"].map(datasets.index).astype(float)
            y += (index + 1) / (len(models) + 1) - 0.5
            best = here["peak_layer"].astype(float) / here["layers"].astype(float)
            converged = here["converging_depth"].astype(float)
            style = model_style(index) | {"linestyle": "none", "clip_on": False}
            style["alpha"] = 0.3 if pale else 1
            ax.hlines(y, best, converged, style["color"], linewidth=0.8, alpha=style["alpha"])
            ax.plot(converged, y, **style | {"markerfacecolor": "white"})
            ax.plot(best, y, **style)
    ax.set_xlim(0, 1)
    ax.set_ylim(len(datasets) - 0.5, -0.5)
    ax.set_yticks(range(len(datasets)), [_label(name, 24) for name in datasets])
    ax.set_yticks(np.arange(len(datasets) - 1) + 0.5, minor=True)
    ax.grid(which="minor", axis="y", color="#dddddd", linewidth=0.6)
    ax.tick_params(axis="y", which="both", length=0)
    ax.set_xlabel(_DEPTH)
    grey: dict[str, Any] = {"color": "#555555", "marker": "o", "markersize": 4, "linestyle": "none"}
    marks = [
        Line2D([], [], label="best layer", **grey),
        Line2D([], [], label="converging layer", **grey | {"markerfacecolor": "white"}),
    ]
    if unsure.any():
        marks.append(Line2D([], [], label="pale: p > 0.05", alpha=0.3, **grey))
    _legend(figure, models, marks)
    return figure


def model_style(index: int) -> dict[str, Any]:
    """Line of the model number ``index``: beyond eight, colours return with other markers."""
    turn, index = divmod(index, len(COLOURS))
    return {
        "color": COLOURS[index],
        "marker": _MARKERS[(index + 3 * turn) % len(_MARKERS)],
        "linestyle": "-." if turn else "-",
        "linewidth": 1.2,
        "markersize": 4,
    }


def _legend(figure: Figure, models: Sequence[str], others: Sequence[Line2D]) -> None:
    """One legend above all panels, which makes room for it: the models, then ``others``."""
    lines = [
        Line2D([], [], label=_label(model, 34), **model_style(index))
        for index, model in enumerate(models)
    ]
    handles = [*lines, *others]
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, int(figure.get_figwidth() * 72 / (longest * 4.2 + 36)))  # in points
    figure.legend(handles=handles, loc="outside upper center", ncols=columns)
    figure.set_figheight(figure.get_figheight() + 0.17 * ceil(len(handles) / columns))


def _label(name: str, width: int) -> str:
    """A name that matplotlib shows as it is: no ``$mathematics$``, not hidden by a ``_``."""
    text = elide(name, width).replace("$", r"\$")
    # Before 3.10, a legend leaves out what starts with an underscore.
    return f" {text}" if text.startswith("_") else text


def _same_layers(rows: pd.DataFrame) -> bool:
    """Whether all models have as many layers."""
    return rows.groupby("model")["layer"].max().nunique() == 1


def _name_layers(
    figure: Figure, panels: Sequence[Axes], names: Mapping[int, str], most: int = 20
) -> None:
    """Slanted names of about ``most`` layers in place of their numbers, and the room they take."""
    ticks = layer_ticks(min(names), max(names), most)
    labels = [_label(names.get(layer, str(layer)), 20) for layer in ticks]
    for ax in panels:
        ax.set_xticks(ticks, labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=7)
    figure.set_figheight(figure.get_figheight() + 0.04 * max(map(len, labels)))


def _layer_label(rows: pd.DataFrame) -> str:
    """What layers are of: only the residual stream has a layer 0."""
    if layer_names(rows):
        return "probe point"
    site = str(rows["site"].iloc[0])
    inside = site.replace("_", "-")
    return "layer (0: the embedding)" if site in ("residual", "") else f"layer ({inside})"


def layer_ticks(first: int, last: int, most: int = 12) -> list[int]:
    """At most about ``most`` round layers from ``first``, with ``last`` in the place of a near one.

    >>> layer_ticks(0, 30)
    [0, 5, 10, 15, 20, 25, 30]
    """
    span = last - first
    step = next((s for s in (1, 2, 5, 10, 20, 50) if span / s <= most), max(1, span))
    ticks = [layer for layer in range(first, last) if layer % step == 0 and last - layer > step / 2]
    return [*ticks, last]


def draw_figures(results: pd.DataFrame, summary: pd.DataFrame) -> dict[str, Figure]:
    """Every figure that the tables have numbers for, by name."""
    metrics = [metric for metric in METRICS if metric in results and results[metric].notna().any()]
    return {
        **{f"heatmap_{metric}": heatmap(results, metric) for metric in metrics},
        "curves": curves(results, summary),
        "depth": depth_scatter(summary),
    }


def draw_all(results: pd.DataFrame, summary: pd.DataFrame, folder: Path) -> list[Path]:
    """Write every figure into ``folder`` and return the paths of the files."""
    return [
        path
        for name, figure in draw_figures(results, summary).items()
        for path in save(figure, folder, name)
    ]


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``name.png`` and ``name.svg`` (its text stays text); equal figures give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    png_path, svg_path = folder / f"{name}.png", folder / f"{name}.svg"
    png_path.write_bytes(png(figure))
    svg_path.write_bytes(svg(figure))
    return [png_path, svg_path]


@styled
def png(figure: Figure, dpi: int = 200) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


@matplotlib.style.context([*_STYLE, {"svg.fonttype": "none", "svg.hashsalt": "llmprobe"}])
def svg(figure: Figure) -> bytes:
    """The figure as the bytes of an SVG file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
