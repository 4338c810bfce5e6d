"""Projection strips: a dataset's examples in the plane of the probe, at five depths a model."""

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
from llmprobe.reporting.charts.style import (
    class_style,
    em,
    entitle,
    label,
    panels_on,
    sheet,
    styled,
    text_width,
    wrapped,
)
from llmprobe.results.columns import CURVE
from llmprobe.results.curve import Curve, by_dataset, layer_names
from llmprobe.results.figures import RUN, Look, figure
from llmprobe.results.results import Results

PANELS = 5
MOST_POINTS = 300
MOST_CLASSES = 10
SEED = 0
RARE: dict[str, Any] = {"label": "other classes", "color": "#aaaaaa", "marker": "o"} | {
    "markersize": 4, "linestyle": "none",
}  # fmt: skip
_LONGEST_AXIS = "along the probe's direction, which decides at the line"
EDGE = 3.0
"""How far a panel reaches from its middle, in root mean squares."""


@figure(
    "projection",
    caption="Examples in the plane of the probe, at several depths of each model: to the right the "
    "probe's direction, upwards the widest direction across it. No point was seen by its probe.",
    alt="Scatter plots: a row for each model, a column for each layer, a point for each example.",
    on_page=False,
)
def projections(results: Results, look: Look = RUN) -> Mapping[str, Figure]:
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
            drawn[group[0].file_name] = projection(group, points, names, look)
    return drawn


@styled
def projection(
    curves: Sequence[Curve],
    predictions: pd.DataFrame,
    class_names: Mapping[str, str] = MappingProxyType({}),
    look: Look = RUN,
) -> Figure:
    """Draw the examples of one dataset in the plane of the probe: a row a model, five layers.

    In a narrow figure there are fewer layers.

    Horizontally the distance from where the probe decides (the line, for two classes), vertically
    the place along the first principal component that is orthogonal to its direction, both
    out-of-fold and each in units of its root mean square at that layer
    (``probing.probe_plane``); with more than two classes, the first two principal components of the
    scores of the classes. Colour is the class, or the label where labels are numbers.

    The layers are the first, the last and those nearest to 1/4, 1/2 and 3/4 of the way; the best
    layer replaces the nearest of these three. Of many examples, ``MOST_POINTS`` are drawn at
    random, the same ones in all panels, and the axis says so. Points farther out than ``EDGE`` are
    drawn at the edge. Classes other than the ``MOST_CLASSES`` most frequent are drawn as one.

    Parameters
    ----------
    curves
        One for each model on the dataset, for the scores above the panels.
    predictions
        A row for each model × layer × example of the dataset: label, along, across.
    class_names
        The names of labels, by the label as text, for those that have a name.
    """
    metric = curves[0].metric
    inches = look.inches(6.75)
    most = max(2, min(PANELS, int((inches - 0.4) / (8.5 * em()))))
    chosen = [_spread(curve, most) for curve in curves]
    points, examples = _sample(predictions)
    columns = max(map(len, chosen))
    inches = look.inches(max(3.3, 0.6 + 1.23 * columns))
    panel = (inches - 0.6) / columns
    around = (3.3 + 1.2 * len(wrapped(_LONGEST_AXIS, inches - 0.3).split("\n"))) * em()
    drawn = sheet(look, inches, around + (panel + 2.2 * em()) * len(chosen))
    panels = panels_on(drawn, look, len(chosen), columns, sharex=True, sharey=True)
    lines = [panels[row * columns :][:columns] for row in range(len(chosen))]
    looks = (
        _Numbers(points["label"])
        if metric.target == "numbers"
        else _Classes(predictions["label"], curves[0].classes, class_names)
    )
    names = layer_names(curves)
    for curve, places, line in zip(curves, chosen, lines, strict=True):
        line[0].set_ylabel(label(curve.model, 20, panel))
        for ax in line[len(places) :]:
            ax.remove()
        for ax, place in zip(line, places, strict=False):
            layer, score = curve.layers[place], curve.column(metric.name)[place]
            if looks.decide:
                ax.axvline(0, color="black", linewidth=0.8, zorder=0)
            looks.draw(ax, points[(points["model"] == curve.model) & (points["layer"] == layer)])
            is_best = place == curve.best(metric)
            name = label(names.get(layer, f"layer {layer}"), 13, panel, weight="bold")
            ax.set_title(
                _title(name, metric.label, f"{score:.2f}".replace("-", "−"), is_best, panel),
                fontweight="bold" if is_best else "normal",
            )
    panels[0].set(
        xlim=(-1.04 * EDGE, 1.04 * EDGE), ylim=(-1.04 * EDGE, 1.04 * EDGE), xticks=[], yticks=[]
    )
    shown = points["example"].nunique()
    sampled = f"{shown:,} of {examples:,} examples" if shown < examples else ""
    along = wrapped(looks.along, inches - 0.3)
    drawn.supxlabel("\n".join([along, *([sampled] if sampled else [])]))
    drawn.supylabel(wrapped(looks.across, drawn.get_figheight() - 0.4))
    looks.explain(drawn)
    entitle(look, drawn, panels)
    return drawn


def _title(name: str, metric: str, score: str, is_best: bool, inches: float) -> str:
    """Return the layer and its score in two lines, in fewer words if there is little room."""
    lines = [f"{name} (best)" if is_best else name, f"{metric} {score}"]
    if max(text_width(line, weight="bold") for line in lines) > inches:
        lines = [name, f"best: {score}" if is_best else score]
    return "\n".join(lines)


def _spread(curve: Curve, most: int) -> list[int]:
    """Return the indices of the layers that are shown."""
    layers = np.array(curve.layers)
    if len(layers) <= most:
        return list(range(len(layers)))
    even = np.linspace(layers[0], layers[-1], most)
    shown = abs(layers[:, None] - even).argmin(axis=0)
    best = curve.best(curve.metric)
    if best is not None and best not in shown:
        inner = shown[1:-1] if most > 2 else shown[:1]
        inner[abs(inner - best).argmin()] = best
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
        self.along = _LONGEST_AXIS
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
