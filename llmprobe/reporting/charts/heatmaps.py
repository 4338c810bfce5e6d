"""Heatmaps: scores of all layers at a glance, by model or side by side at relative depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from math import ceil
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from llmprobe.ground.errors import UserError
from llmprobe.ground.text import capitalised
from llmprobe.reporting.charts.colour_scale import CHANCE_MAP, ColourScale
from llmprobe.reporting.charts.panels import DEPTH, layer_label, layer_ticks, name_layers
from llmprobe.reporting.charts.style import (
    em,
    entitle,
    label,
    panels_on,
    sheet,
    styled,
    text_width,
    wrapped,
)
from llmprobe.results.curve import (
    Curve,
    by_dataset,
    by_model,
    layer_names,
    main_metrics,
    same_layers,
)
from llmprobe.results.figures import RUN, Look, figure
from llmprobe.results.metrics import METRICS, Metric
from llmprobe.results.results import Results

_MOST_NUMBERS = 12
"""Up to this many layers, a cell has room for its score, and for its number below it."""
_ALT = (
    "Heatmap: a panel for each model, a row for each dataset, a column for each layer; colour is "
    "the {}. The tables below hold the same numbers."
)
_CAPTION = "{} of a probe on each layer. {}; a dot or a frame marks the best layer of the row."
_ON_PAGE = {
    "accuracy": "Blue is above chance, orange below it, hatched not scored",
    "r2": "0 is what the mean of all labels reaches, orange is worse than that",
}
"""What captions say of the colours of the heatmaps on the page."""
_LONGEST_NAME = 22
_BEST = "best (layer)"


@styled
def heatmap(
    curves: Sequence[Curve],
    metric: str = "accuracy",
    rows: Literal["title", "position"] = "title",
    look: Look = RUN,
) -> Figure:
    """Draw scores as colours: a panel for each model, a row for each curve, a column per layer.

    Colours are those of ``ColourScale``. A dot marks the best layer of each row, whose score and
    number (or name) stand at its right; hatched cells were not scored. With at most 12 layers,
    cells that are wide enough hold their scores and the best one has a frame. Layers that have
    names have them below the last panel.

    Parameters
    ----------
    curves
        Only those that have the metric are drawn.
    metric
        A name in ``METRICS``, such as ``accuracy`` (chance: the majority class) or ``auroc`` (0.5).
        For selectivity, the marked layer is the best one by accuracy or R².
    rows
        The name of a row: the title of the curve's dataset, or only its position.

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
    scale = ColourScale.of(curves, kind, look.cmap or CHANCE_MAP)
    models, names = by_model(curves), layer_names(curves)
    layers = {layer for curve in curves for layer in curve.layers}
    few = len(layers) <= _MOST_NUMBERS
    width = look.inches(6.75 if (few or names) and len(layers) > _MOST_NUMBERS / 2 else 4.5)
    titles = {
        model: _without_stem([str(getattr(curve, rows)) for curve in group])
        for model, group in models.items()
    }
    room = _Room.of(width, [name for _, of in titles.values() for name in of], curves, scale)
    numbers = few and room.panel > len(layers) * (text_width("0.00", "small") + 0.3 * em())
    height = em() * (9 + 4.05 * len(models) + 1.62 * len(curves))
    drawn = sheet(look, width, height)
    ratios = [*(len(group) for group in models.values()), 0.7]
    if look.ax is None:
        *panels, bar = panels_on(drawn, look, len(models) + 1, height_ratios=ratios)
    else:
        panels, bar = panels_on(drawn, look, len(models)), None
    for ax, (model, group) in zip(panels, models.items(), strict=True):
        stem, rows_names = titles[model]
        _draw_model(ax, group, rows_names, scale, room, names, numbers)
        ax.set_title(label(f"{model}, {stem}" if stem else model, 34, room.title, weight="bold"))
    if names and same_layers(curves):
        for ax in panels[:-1]:
            ax.set_xticks([])
        most = max(2, min(20, int(room.panel / (1.8 * em()))))
        name_layers(drawn, panels[-1:], names, most)
    panels[-1].set_xlabel(layer_label(curves))
    scale.draw(drawn, bar, room.panel, panels[-1])
    entitle(look, drawn, panels)
    return drawn


class _Room(NamedTuple):
    """The widths of a heatmap's parts, in inches."""

    names: float
    """The names at the left of the rows."""
    panel: float
    """The cells."""
    title: float
    """The title above the cells, beside the heading of the numbers at the right."""

    @classmethod
    def of(
        cls, width: float, names: Sequence[str], curves: Sequence[Curve], scale: ColourScale,
        columns: int = 1,
    ) -> _Room:  # fmt: skip
        """Return the widths for panels whose rows have these names."""
        left = min(
            0.3 * width, max(text_width(label(name, _LONGEST_NAME), "small") for name in names)
        )
        layers = layer_names(curves)
        marks = [_best_text(curve, scale, layers) for curve in curves]
        right = max(
            text_width(max(marks, key=len), "small"), text_width(_BEST, "small") - 1.2 * em()
        )
        panel = (width - left - 2 * em()) / columns - right - em()
        over = max(0, text_width(_BEST, "small") - right)
        return cls(left, panel, panel - over)


def _draw_model(
    ax: Axes,
    group: Sequence[Curve],
    names_of_rows: Sequence[str],
    scale: ColourScale,
    room: _Room,
    names: Mapping[int, str],
    numbers: bool,
) -> None:
    """Draw the curves of one model, a row each."""
    columns = sorted({layer for curve in group for layer in curve.layers})
    first, last = columns[0], columns[-1]
    # If only some layers were read, they stand side by side.
    all_read = columns == list(range(first, last + 1))
    at = {layer: layer if all_read else i for i, layer in enumerate(columns)}
    level = np.full((len(group), len(columns)), np.nan)
    for row, curve in enumerate(group):
        places = [columns.index(layer) for layer in curve.layers]
        level[row, places] = curve.levels(scale.metric)
    ax.imshow(
        np.ma.masked_invalid(level),
        cmap=scale.colours,
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
    _name_rows(ax, names_of_rows, scale.metric.name, bool(np.isnan(level).any()), room.names)
    most = max(2, min(_MOST_NUMBERS, int(room.panel / (2.2 * em()))))
    if all_read:
        ax.set_xticks(layer_ticks(first, last, most))
    else:
        shown = columns[:: -(-len(columns) // most)]
        ax.set_xticks([at[layer] for layer in shown], [str(layer) for layer in shown])


def _without_stem(names: Sequence[str]) -> tuple[str, list[str]]:
    """Return the dataset with which all names begin (or ""), and the names without it."""
    for separator in (" @ ", ":"):
        stems = {name.partition(separator)[0] for name in names}
        if len(names) > 1 and len(stems) == 1 and all(separator in name for name in names):
            return stems.pop(), [name.partition(separator)[2] for name in names]
    return "", [*names]


def _of_run(results: Results, metric: str, look: Look = RUN) -> Figure | None:
    found = _coloured(results.curves, METRICS[metric])
    return heatmap(found, metric, look=look) if found else None


for of, colours in _ON_PAGE.items():
    figure(
        f"heatmap_{of}",
        caption=_CAPTION.format(capitalised(METRICS[of].label), colours),
        alt=_ALT.format(METRICS[of].label),
        drawn_by_script=True,
        takes="ax cmap",
    )(partial(_of_run, metric=of))


@figure(
    "heatmap", caption=_CAPTION.format("{metric}", _ON_PAGE["accuracy"]), on_page=False,
    takes="ax cmap metric",
)  # fmt: skip
def heatmaps(results: Results, look: Look = RUN) -> Mapping[str, Figure]:
    """Draw a heatmap of each metric that the page does not have; or only of the one asked for.

    Raises
    ------
    UserError
        No layer has a value of the metric that is asked for.
    """
    if look.metric is not None:
        return {look.metric: heatmap(results.curves, look.metric, look=look)}
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
    takes="cmap metric",
)
def positions(results: Results, look: Look = RUN) -> Mapping[str, Figure]:
    """Draw, by its name, each dataset on which some model was probed at several positions."""
    by_place: dict[tuple[str, str], list[Curve]] = {}
    for curve in _coloured(results.curves, None):
        by_place.setdefault((curve.dataset, curve.model), []).append(curve)
    of_datasets: dict[str, list[Curve]] = {}
    for (dataset, _), group in by_place.items():
        if len(group) > 1:
            of_datasets.setdefault(dataset, []).extend(group)
    drawn = {}
    for dataset, group in of_datasets.items():
        metric = look.metric or group[0].metric.name
        titled = look if look.title is not None else replace(look, title=label(dataset, 40))
        drawn[dataset] = heatmap(group, metric, "position", titled)
    return drawn


@styled
def heatmap_by_model(curves: Sequence[Curve], metric: str = "accuracy", look: Look = RUN) -> Figure:
    """Draw scores as colours at relative depth: a panel for each dataset, a row for each model.

    So models with different numbers of layers can be compared: a cell reaches half-way to the
    layers before and after it. Colours, marks and parameters are those of ``heatmap``.
    """
    kind = METRICS[metric]
    curves = _coloured(curves, kind)
    scale = ColourScale.of(curves, kind, look.cmap or CHANCE_MAP)
    names = layer_names(curves)
    models, datasets = list(by_model(curves)), by_dataset(curves)
    width = look.inches(4.5 if len(datasets) < 4 else 6.75)
    columns = 1 if len(datasets) < 4 or width < 5.5 else 2
    room = _Room.of(width, models, curves, scale, columns)
    n_rows, height = ceil(len(datasets) / columns), em() * (2.7 + 1.62 * len(models))
    drawn = sheet(look, width, em() * 8.1 + height * n_rows)
    bar = None
    if look.ax is not None:
        panels = panels_on(drawn, look, len(datasets))
    else:
        ratios = [*[height] * n_rows, 1.2 * em()]
        layout = drawn.add_gridspec(n_rows + 1, columns, height_ratios=ratios)
        panels = [
            drawn.add_subplot(layout[divmod(index, columns)]) for index in range(len(datasets))
        ]
        bar = drawn.add_subplot(layout[n_rows, :])
    for index, (ax, (dataset, group)) in enumerate(zip(panels, datasets.items(), strict=True)):
        for curve in group:
            _draw_row(ax, models.index(curve.model), curve, scale)
        for curve in group:
            x = curve.depths.tolist()
            _mark_best(ax, models.index(curve.model), curve, x, scale, names)
        gaps = any(np.isnan(curve.levels(kind)).any() for curve in group)
        shown = models if index % columns == 0 else [""] * len(models)
        _name_rows(ax, shown, metric, gaps or len(group) < len(models), room.names)
        ax.set_title(label(dataset, 34 if columns == 1 else 24, room.title, weight="bold"))
        ax.set(xlim=(0, 1), ylim=(len(models) - 0.5, -0.5))
        if index + columns < len(datasets):
            ax.set_xticks([])
        else:
            ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
            ax.set_xlabel(wrapped(DEPTH, room.panel + 0.3))
    across = room.panel if columns == 1 else width - room.names - 6 * em()
    scale.draw(drawn, bar, across, panels[-1])
    entitle(look, drawn, panels)
    return drawn


@figure(
    "heatmap_by_model",
    caption="Models below each other, at relative depth, so that equal depths can be compared.",
    alt="Heatmap: a panel for each dataset, a row for each model, over relative depth; colour is "
    "the score. The tables below hold the same numbers.",
    takes="ax cmap metric",
)
def _by_model(results: Results, look: Look = RUN) -> Figure | None:
    asked = [METRICS[look.metric]] if look.metric else main_metrics(results.curves)[:1]
    for main in asked:
        scored = [curve for curve in results.curves if curve.has(main)]
        if any(len(group) > 1 for group in by_dataset(scored).values()):
            return heatmap_by_model(scored, main.name, look)
    return None


def _coloured(curves: Sequence[Curve], metric: Metric | None) -> list[Curve]:
    """Return the curves that have a layer with a value of the metric and a known chance.

    Without a metric, each curve's own main one counts.
    """
    return [curve for curve in curves if np.isfinite(curve.levels(metric or curve.metric)).any()]


def _draw_row(ax: Axes, row: int, curve: Curve, scale: ColourScale) -> None:
    """Draw the layers of one model as cells between 0 and 1."""
    edges = [0.0, *((a + b) / 2 for a, b in pairwise(curve.depths)), 1.0]
    ax.pcolormesh(
        edges[: len(curve.layers) + 1],
        [row - 0.5, row + 0.5],
        np.ma.masked_invalid(curve.levels(scale.metric)[None]),
        cmap=scale.colours,
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
                fontsize="small",
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
    best, text = curve.best(scale.metric), _best_text(curve, scale, names)
    if best is None or not text:
        return
    if frame:
        box = Rectangle((x[best] - 0.5, row - 0.42), 1, 0.84, fill=False, clip_on=False)
        box.set_path_effects([withStroke(linewidth=2.4, foreground="white")])
        ax.add_patch(box)
    else:
        dot: dict[str, Any] = {"color": "black", "markeredgecolor": "white", "markersize": 4}
        ax.plot(x[best], row, "o", clip_on=False, **dot)
    ax.annotate(
        text,
        (1, row),
        (5, 0),
        ax.get_yaxis_transform(),
        "offset points",
        va="center",
        fontsize="small",
    )


def _best_text(curve: Curve, scale: ColourScale, names: Mapping[int, str]) -> str:
    """Return the score of the best layer and the layer's name; empty if there is none."""
    best, scores = curve.best(scale.metric), curve.column(scale.metric.name)
    if best is None or np.isnan(scores[best]):
        return ""
    layer = curve.layers[best]
    return f"{scale.written(scores[best])} ({label(names.get(layer, str(layer)), 14)})"


def _name_rows(ax: Axes, names: Sequence[str], metric: str, hatched: bool, inches: float) -> None:
    """Write the names at the left of the rows, and the heading of the numbers at their right."""
    if hatched:
        ax.patch.set(facecolor="white", edgecolor="#bbbbbb", hatch="//////")
    shown = [label(name, _LONGEST_NAME, inches, "small") for name in names]
    ax.set_yticks(range(len(names)), shown, fontsize="small")
    ax.set_yticks(np.arange(len(names) - 1) + 0.5, minor=True)
    ax.grid(which="minor", axis="y", color="white", linewidth=1)
    ax.tick_params(axis="y", which="both", length=0)
    ax.spines[:].set_visible(False)
    text = "at best layer" if metric == "selectivity" else _BEST
    ax.annotate(text, (1, 1), (5, 5), "axes fraction", textcoords="offset points", fontsize="small")
