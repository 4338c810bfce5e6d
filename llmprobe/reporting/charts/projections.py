"""Projection strips: the examples of a dataset beside the probe, at five depths of each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from llmprobe.reporting.charts.panels import legend
from llmprobe.reporting.charts.style import class_style, label, styled
from llmprobe.results.columns import CURVE
from llmprobe.results.curve import Curve, by_dataset, layer_names
from llmprobe.results.figures import figure
from llmprobe.results.results import Results

PANELS = 5
MOST_POINTS = 300
MOST_CLASSES = 10
SEED = 0
RARE: dict[str, Any] = {"label": "other classes", "color": "#aaaaaa", "marker": "o"} | {
    "markersize": 4, "linestyle": "none",
}  # fmt: skip
EDGE = 3.0
"""Root mean squares from the middle to where a panel ends."""


@figure("projection")
def projections(results: Results) -> Mapping[str, Figure]:
    """Draw the strip of each dataset whose examples have places beside the probe, by its name."""
    if not {"along", "across"} <= set(results.predictions):
        return {}
    placed = results.predictions.dropna(subset=["along", "across"])
    drawn = {}
    of_curves = dict(list(placed.groupby(list(CURVE), sort=False)))
    for group in by_dataset(results.curves).values():
        group = [curve for curve in group if curve.key in of_curves and curve.has(curve.metric)]
        if group:
            points = pd.concat([of_curves[curve.key] for curve in group])
            names = results.class_names(group[0].dataset)
            drawn[group[0].file_name] = projection(group, points, names)
    return drawn


@styled
def projection(
    curves: Sequence[Curve],
    predictions: pd.DataFrame,
    class_names: Mapping[str, str] = MappingProxyType({}),
) -> Figure:
    """Draw the examples of one dataset in the plane of the probe: a row a model, five layers.

    Horizontally the distance from where the probe decides (the line, for two classes), vertically
    the place along the first principal component that is orthogonal to its direction, both
    out-of-fold and each in units of its root mean square at that layer
    (``probing.probe_plane``); with more than two classes, the first two principal components of the
    scores of the classes. Colour is the class, or the label where labels are numbers.

    The layers are the first, the last and those nearest to 1/4, 1/2 and 3/4 of the way, of which
    the one nearest to the best layer gives way to it. Of many examples, ``MOST_POINTS`` are drawn
    at random, the same ones in all panels, and the axis says so; those farther out than ``EDGE``
    stand at the edge. Of many classes, all but the ``MOST_CLASSES`` most frequent are one.

    Parameters
    ----------
    curves
        Of the dataset, one for each model, for the scores above the panels.
    predictions
        A row for each model × layer × example of the dataset: label, along, across.
    class_names
        What labels are called, by the label as text, where they have other names.
    """
    metric = curves[0].metric
    chosen = [_five(curve) for curve in curves]
    points, examples = _sample(predictions)
    width = max(map(len, chosen))
    drawn = Figure(figsize=(max(3.3, 0.6 + 1.23 * width), 0.5 + 1.42 * len(chosen)))
    panels = drawn.subplots(len(chosen), width, squeeze=False, sharex=True, sharey=True)
    looks = (
        _Numbers(points["label"])
        if metric.target == "numbers"
        else _Classes(predictions["label"], curves[0].classes, class_names)
    )
    names = layer_names(curves)
    for curve, places, line in zip(curves, chosen, panels, strict=True):
        line[0].set_ylabel(label(curve.model, 20))
        for ax in line[len(places) :]:
            ax.remove()
        for ax, place in zip(line, places, strict=False):
            layer, score = curve.layers[place], curve.column(metric.name)[place]
            if looks.decide:
                ax.axvline(0, color="black", linewidth=0.8, zorder=0)
            looks.draw(ax, points[(points["model"] == curve.model) & (points["layer"] == layer)])
            name = label(names.get(layer, f"layer {layer}"), 13)
            value = f"{metric.label} {score:.2f}".replace("-", "−")
            best = " (best)" if place == curve.best(metric) else ""
            ax.set_title(f"{name}{best}\n{value}", fontweight="bold" if best else "normal")
    panels[0, 0].set(
        xlim=(-1.04 * EDGE, 1.04 * EDGE), ylim=(-1.04 * EDGE, 1.04 * EDGE), xticks=[], yticks=[]
    )
    shown = points["example"].nunique()
    sampled = f"{shown:,} of {examples:,} examples" if shown < examples else ""
    drawn.supxlabel("\n".join([looks.along, *([sampled] if sampled else [])]))
    drawn.supylabel(looks.across)
    looks.explain(drawn)
    return drawn


def _five(curve: Curve) -> list[int]:
    """Return the places among the layers of those that are shown."""
    layers = np.array(curve.layers)
    if len(layers) <= PANELS:
        return list(range(len(layers)))
    even = np.linspace(layers[0], layers[-1], PANELS)
    shown = abs(layers[:, None] - even).argmin(axis=0)
    best = curve.best(curve.metric)
    if best is not None and best not in shown:
        shown[1 + abs(shown[1:-1] - best).argmin()] = best
    return [int(place) for place in np.unique(shown)]


def _sample(predictions: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return the rows of the examples that are drawn, and the number of all examples."""
    examples = np.sort(predictions["example"].unique())
    drawn = examples
    if len(examples) > MOST_POINTS:
        drawn = np.random.default_rng(SEED).choice(examples, MOST_POINTS, replace=False)
    places = predictions[["along", "across"]].clip(-EDGE, EDGE)
    return predictions.assign(**places)[predictions["example"].isin(drawn)], len(examples)


class _Classes:
    """Points of classes, and the threshold between two."""

    def __init__(self, labels: pd.Series, classes: Sequence[str], names: Mapping[str, str]) -> None:
        there, self.names = set(labels), names
        found = [name for name in classes if name in there]
        if len(found) < len(there):  # An earlier version did not write the classes down.
            found = sorted(there)
        kept = set(labels.value_counts().index[:MOST_CLASSES])
        frequent = [name for name in found if name in kept]
        self.styles = {name: class_style(index) for index, name in enumerate(frequent)}
        self.rare = len(found) > len(frequent)
        self.decide = len(found) == 2
        self.along = "along the probe's direction, which decides at the line"
        self.across = "across (first principal component)"
        if len(found) > 2:
            self.along = "first principal component of the class scores"
            self.across = "second principal component"

    def draw(self, ax: Axes, points: pd.DataFrame) -> None:
        known = points["label"].isin(list(self.styles))
        _scatter(ax, points[~known], color=RARE["color"])
        for name, style in self.styles.items():
            of_class = points[points["label"] == name]
            _scatter(ax, of_class, color=style["color"], marker=style["marker"])

    def explain(self, figure: Figure) -> None:
        styles = {
            self.names.get(name, name): {**style, "linestyle": "none"}
            for name, style in self.styles.items()
        }
        legend(figure, styles, [Line2D([], [], **RARE)] if self.rare else [])


class _Numbers:
    """Points whose labels are numbers."""

    decide = False
    along = "along the probe's direction"
    across = "across (first principal component)"

    def __init__(self, labels: pd.Series) -> None:
        self.colours = ScalarMappable(Normalize(), "viridis")
        self.colours.set_array(labels.astype(float))
        self.colours.autoscale()

    def draw(self, ax: Axes, points: pd.DataFrame) -> None:
        _scatter(ax, points, color=self.colours.to_rgba(points["label"].to_numpy(float)))

    def explain(self, figure: Figure) -> None:
        figure.colorbar(self.colours, ax=figure.axes, label="label", aspect=25, pad=0.02)


def _scatter(ax: Axes, points: pd.DataFrame, **style: Any) -> None:
    # Rasterised: thousands of points as paths would make large files.
    ax.scatter(
        points["along"], points["across"], s=7, alpha=0.6, linewidths=0, rasterized=True, **style
    )
