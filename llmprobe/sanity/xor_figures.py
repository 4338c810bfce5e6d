"""The figures of the XOR experiment: fields, hidden plane, training and seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from llmprobe.reporting.charts.colour_scale import CHANCE_MAP
from llmprobe.reporting.charts.panels import Grid, legend
from llmprobe.reporting.charts.style import COLOURS, GREY, Chart, styled
from llmprobe.reporting.description import Illustrations
from llmprobe.results.results import Results
from llmprobe.sanity.xor import LEARNED, OUTCOMES, SAME, Xor, best_line, regress, sample, train_all
from llmprobe.sanity.xor_network import CORNERS, XOR, hidden, loss, predict

FIELD = np.linspace(-0.25, 1.25, 151)
"""The values on both axes of the fields."""

FRAMES = 6

_CORNER: dict[str, Any] = {
    "linestyle": "none", "markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.8,
    "clip_on": False, "zorder": 3,
}  # fmt: skip
_CLASSES: dict[str, dict[str, Any]] = {
    "XOR = 0": {"color": COLOURS[1], "marker": "o"} | _CORNER,
    "XOR = 1": {"color": COLOURS[0], "marker": "^"} | _CORNER,
}
_SAMPLE: dict[str, Any] = {
    "linestyle": "none", "markersize": 2.5, "alpha": 0.35, "markeredgewidth": 0, "zorder": 2,
}  # fmt: skip
_CLOSE = 0.05
"""Corners that are closer in the hidden plane share one label."""


def xor_figures(_: Results) -> Illustrations:
    """Draw all figures. The networks are trained again, which takes a second."""
    xor = train_all()
    n, count, others = len(xor.losses), xor.count, ~xor.learned
    before, after = (best_line(plane)[1] for plane in hidden(CORNERS, xor.path[[0, -1]]))
    return {
        "fields": (
            _fields(xor),
            "The outputs over the plane of the inputs; numbers are those at the four corners. Only "
            "the network with the ReLU is low at (0, 0) and (1, 1) and high at (1, 0) and (0, 1).",
            "Three colour fields: linear regression is 0.5 everywhere, the network without the "
            "ReLU rises along x + y, and the network with the ReLU is a valley along x = y.",
        ),
        "hidden_plane": (
            _hidden_plane(xor),
            f"Where the hidden layer of seed {xor.seed} puts the four corners. Before training the "
            f"best line has {before} of them on their right sides; after it (0, 0) and (1, 1) fall "
            f"on one point, and a line has {after}.",
            "Two scatter plots of the hidden plane. Before training the classes are mixed; after "
            "it class 0 is at the origin and class 1 on the axes, with a line between.",
        ),
        "training": (
            _training(xor),
            f"The hidden plane of seed {xor.seed} during training: the grey outline is the square "
            "of the inputs, which folds until (0, 0) and (1, 1) meet. Below, the loss; dots are "
            "the frames.",
            f"{FRAMES} small plots in which a quadrilateral folds into a corner, above a loss "
            f"curve that falls from {loss(xor.path[0]):.2f} to 0.",
        ),
        "seeds": (
            _seeds(xor),
            f"Of {n} networks that differ in nothing but their random start, {count['learned']} "
            "learn XOR; the others end on one of three plateaus, "
            f"{(xor.dead[others] > 0).sum()} of {others.sum()} with a unit that is dead, 0 at "
            "every corner.",
            f"Final losses, sorted, on four plateaus: {count['learned']} seeds at 0, "
            f"{count['one corner']} at 1/4, {count['linear']} at 1/3 and {count['silent']} at 1/2.",
        ),
    }


@styled
def _fields(xor: Xor) -> Figure:
    """Draw the output of the three models over the plane of the inputs."""
    grid = np.stack(np.meshgrid(FIELD, FIELD), axis=-1).reshape(-1, 2)
    linear, trained = xor.linear[xor.seed], xor.trained[xor.seed]
    models: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "linear regression": regress,
        "network without the ReLU": lambda points: predict(points, linear, relu=False),
        "network with the ReLU": lambda points: predict(points, trained),
    }
    figure, panels, *_ = Grid.of(list(models))
    figure.set(figheight=2.35, layout_engine="compressed")
    for ax, model in zip(panels, models.values(), strict=True):
        values = model(grid).reshape(len(FIELD), -1)
        image = ax.imshow(
            values, origin="lower", extent=(FIELD[0], FIELD[-1], FIELD[0], FIELD[-1]),
            cmap=CHANCE_MAP, norm=Normalize(-0.5, 1.5),
        )  # fmt: skip
        _draw_corners(ax, CORNERS)
        for (x, y), value in zip(CORNERS, model(CORNERS), strict=True):
            text = f"{value:.2f}".replace("-0.00", "0.00")
            _note(ax, text, (x, y), (0, -13 if y == 0 else 8))
        ax.set(xlabel="x", xticks=[0, 1], yticks=[0, 1])
    panels[0].set_ylabel("y", rotation=0)
    figure.colorbar(image, ax=panels, ticks=[-0.5, 0, 0.5, 1, 1.5], label="output")
    legend(figure, _CLASSES)
    return figure


@styled
def _hidden_plane(xor: Xor) -> Figure:
    """Draw the hidden states before and after training, with the best line in each."""
    figure, panels, *_ = Grid.of(["before training", "after training"])
    figure.set_figheight(3.4)
    points, labels = sample()
    for ax, weights in zip(panels, xor.path[[0, -1]], strict=True):
        for label, style in enumerate(_CLASSES.values()):
            ax.plot(*hidden(points[labels == label], weights).T, **style | _SAMPLE)
        corners = hidden(CORNERS, weights)
        _draw_corners(ax, corners)
        for name, state in _named(corners).items():
            below = state[1] < _CLOSE
            _note(ax, name, state, (-4, -15) if below else (10, -3), "left")
        (a, b, c), right = best_line(corners)
        foot = -c * np.array([a, b]) / (a * a + b * b)
        ax.axline(foot, foot + np.array([-b, a]), color="black", linewidth=1)
        ax.set_title(f"{ax.get_title(loc='left')}: a line has {right} of 4 right")
        ax.set(xlim=(-0.15, 1.3), ylim=(-0.15, 1.3), aspect="equal", xticks=np.arange(0, 1.3, 0.2))
        ax.set_xlabel("hidden unit 1")
    panels[0].set_ylabel("hidden unit 2")
    others = {"points around the corners": {"color": GREY, "marker": "o"} | _SAMPLE}
    legend(figure, _CLASSES | others | {"best line": {"color": "black", "linewidth": 1}})
    return figure


@styled
def _training(xor: Xor) -> Figure:
    """Draw frames of the hidden plane, and the loss with the frames marked on it."""
    losses, steps = loss(xor.path), frame_steps(xor)
    figure = Chart(figsize=(6.75, 3.1))
    grid = figure.add_gridspec(2, len(steps), height_ratios=[1, 0.8])
    states = hidden(CORNERS, xor.path[steps])
    limits = -0.1, float(states.max()) + 0.1
    for index, (step, corners) in enumerate(zip(steps, states, strict=True)):
        ax = figure.add_subplot(grid[0, index])
        # In the order of a walk around the square, so that its folding shows.
        ax.plot(*corners[[0, 1, 3, 2, 0]].T, color="#999999", linewidth=0.8)
        _draw_corners(ax, corners, markersize=5)
        ax.set(title=f"step {step:,}", xlim=limits, ylim=limits, aspect="equal")
        ax.set(xticks=[0, 1], yticks=[0, 1])
        ax.tick_params(labelleft=index == 0)
        if index == 0:
            ax.set(xlabel="hidden unit 1", ylabel="hidden unit 2")
    ax = figure.add_subplot(grid[1, :])
    ax.plot(losses, color="black", linewidth=1.2)
    ax.plot(steps, losses[steps], "o", color="black", markersize=4, clip_on=False)
    ax.set(xlabel="step", ylabel="mean squared error", ylim=(0, None), xlim=(0, 1.1 * steps[-1]))
    legend(figure, _CLASSES)
    return figure


def frame_steps(xor: Xor) -> np.ndarray:
    """Return steps from 0 to where the shown network has learned, with even movement in between."""
    states = hidden(CORNERS, xor.path[: int(np.argmax(loss(xor.path) < LEARNED)) + 1])
    way = np.append(0, np.linalg.norm(np.diff(states, axis=0), axis=(1, 2)).cumsum())
    return np.searchsorted(way, np.linspace(0, way[-1], FRAMES))


@styled
def _seeds(xor: Xor) -> Figure:
    """Draw the final loss of each seed, sorted, and say what each plateau is."""
    names = {
        "learned": "learn |x − y|",
        "one corner": "answer 1 at only one of (1, 0) and (0, 1)",
        "linear": "end as (x + y)/3, as without a ReLU",
        "silent": "answer 0 at every corner: both units are dead",
    }
    figure = Chart(figsize=(4.5, 2.6))
    ax = figure.subplots()
    losses, n = np.sort(xor.losses), len(xor.losses)
    ranks = np.arange(1, n + 1)
    for some, colour in ((losses < LEARNED, COLOURS[2]), (losses >= LEARNED, GREY)):
        ax.plot(ranks[some], losses[some], "o", color=colour, markersize=3)
    for name, level in OUTCOMES.items():
        first, last = np.searchsorted(losses, [level - SAME, level + SAME])
        x, side = (first + 1, "left") if first < n / 2 else (last, "right")
        _note(ax, f"{xor.count[name]} {names[name]}", (x, level), (0, 5), side)
    ax.set(xlabel="seeds, sorted by loss", ylabel="mean squared error", xlim=(0, n + 1))
    ax.set_yticks(list(OUTCOMES.values()), ["0", "1/4", "1/3", "1/2"])
    ax.set_ylim(-0.02, 0.57)
    return figure


def _draw_corners(ax: Axes, corners: np.ndarray, **style: Any) -> None:
    for state, corner_style in zip(corners, np.take(list(_CLASSES.values()), XOR), strict=True):
        ax.plot(*state, **corner_style | style)


def _named(corners: np.ndarray) -> dict[str, np.ndarray]:
    """Return the places of the corners [4, 2] by name; corners that coincide share one name."""
    names: dict[tuple[float, ...], list[str]] = {}
    for (x, y), place in zip(CORNERS, corners, strict=True):
        names.setdefault(tuple((place / _CLOSE).round()), []).append(f"({x:.0f}, {y:.0f})")
    return {" and ".join(some): np.array(place) * _CLOSE for place, some in names.items()}


def _note(ax: Axes, text: str, at: Any, offset: tuple[float, float], align: str = "center") -> None:
    box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
    ax.annotate(
        text, at, offset, textcoords="offset points", ha=align, fontsize=7, zorder=4, bbox=box
    )
