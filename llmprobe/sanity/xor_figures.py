"""The figures of the XOR experiment: its fields, its hidden plane, its training and its seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from llmprobe.reporting.charts.colour_scale import CHANCE_MAP
from llmprobe.reporting.charts.style import COLOURS, GREY, styled
from llmprobe.reporting.description import Illustrations
from llmprobe.results.results import Results
from llmprobe.sanity.xor import OUTCOMES, Xor, best_line, regress, sample, train_all
from llmprobe.sanity.xor_network import CORNERS, XOR, hidden, loss, predict

FIELD = np.linspace(-0.25, 1.25, 151)
"""Both axes of the fields."""

_CLASSES: tuple[dict[str, Any], ...] = (
    {"color": COLOURS[1], "marker": "o", "label": "XOR = 0"},
    {"color": COLOURS[0], "marker": "^", "label": "XOR = 1"},
)
_CORNER: dict[str, Any] = {
    "linestyle": "none", "markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.8,
    "clip_on": False, "zorder": 3,
}  # fmt: skip
_SAMPLE: dict[str, Any] = {"linestyle": "none", "markersize": 2.5, "alpha": 0.35}
_WIDTH = 6.75
_CLOSE = 0.05
"""Corners that are closer in the hidden plane share one label."""


def xor_figures(_: Results) -> Illustrations:
    """Draw all figures, of networks that are trained again: it takes a second."""
    xor = train_all()
    n, count, others = len(xor.losses), xor.count, ~xor.learned
    plane, before, after = _hidden_plane(xor)
    return {
        "fields": (
            _fields(xor),
            "The outputs over the plane of the inputs; numbers are those at the four corners. Only "
            "the network with the ReLU is low at (0, 0) and (1, 1) and high at (1, 0) and (0, 1).",
            "Three colour fields. Linear regression is 0.5 everywhere. The network without the "
            "ReLU rises in one direction, along x + y. The network with the ReLU is a valley along "
            "x = y that rises to both sides.",
        ),
        "hidden_plane": (
            plane,
            f"Where the hidden layer of seed {xor.seed} puts the four corners. Before training the "
            f"best line has {before} of them on their right sides; after it (0, 0) and (1, 1) fall "
            f"on one point, and a line has {after}.",
            "Two scatter plots of the hidden plane. Before training the corners of both classes "
            "are mixed. After training both corners of class 0 lie at the origin and those of "
            "class 1 on one axis each, with a line between.",
        ),
        "training": (
            _training(xor),
            f"The hidden plane of seed {xor.seed} during training: the grey outline is the square "
            "of the inputs, which folds until (0, 0) and (1, 1) meet. Below, the loss; dots are "
            "the frames.",
            f"A row of {len(xor.frame_steps)} small plots in which a quadrilateral folds into a "
            f"corner, above a loss curve that falls from {loss(xor.path[0]):.2f} to 0.",
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
    panels: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "linear regression": regress,
        "network without the ReLU": lambda points: predict(points, linear, relu=False),
        "network with the ReLU": lambda points: predict(points, trained),
    }
    figure = Figure(figsize=(_WIDTH, 2.6), layout="compressed")
    axes = figure.subplots(1, 3, sharey=True)
    for ax, (title, model) in zip(axes, panels.items(), strict=True):
        image = ax.imshow(
            model(grid).reshape(len(FIELD), -1),
            origin="lower",
            extent=(FIELD[0], FIELD[-1], FIELD[0], FIELD[-1]),
            cmap=CHANCE_MAP,
            norm=Normalize(-0.5, 1.5),
        )
        _draw_corners(ax, CORNERS)
        for (x, y), value in zip(CORNERS, model(CORNERS), strict=True):
            text = f"{value:.2f}".replace("-0.00", "0.00")
            _note(ax, text, (x, y), (0, -13 if y == 0 else 8))
        ax.set(title=title, xlabel="x", xticks=[0, 1], yticks=[0, 1])
    axes[0].set_ylabel("y", rotation=0)
    bar = figure.colorbar(image, ax=axes, ticks=[-0.5, 0, 0.5, 1, 1.5])
    bar.set_label("output")
    _class_legend(figure)
    return figure


@styled
def _hidden_plane(xor: Xor) -> tuple[Figure, int, int]:
    """Draw the hidden states before and after training, with the best line in each.

    -> the figure, and how many corners the two lines have right
    """
    figure = Figure(figsize=(_WIDTH, 3.55))
    axes = figure.subplots(1, 2)
    points, labels = sample()
    rights = []
    for ax, when, weights in zip(axes, ("before", "after"), xor.path[[0, -1]], strict=True):
        states = hidden(points, weights)
        for label, style in enumerate(_CLASSES):
            ax.plot(*states[labels == label].T, **style | _SAMPLE, markeredgewidth=0)
        corners = hidden(CORNERS, weights)
        _draw_corners(ax, corners)
        for name, state in _named(corners):
            below = state[1] < _CLOSE
            _note(ax, name, state, (-4, -15) if below else (10, -3), "left")
        (a, b, c), right = best_line(corners)
        rights.append(right)
        foot = -c * np.array([a, b]) / (a * a + b * b)
        ax.axline(foot, foot + np.array([-b, a]), color="black", linewidth=1)
        ax.set(title=f"{when} training: a line has {right} of 4 right", xlabel="hidden unit 1")
        ax.set(xlim=(-0.15, 1.3), ylim=(-0.15, 1.3), aspect="equal")
    axes[0].set_ylabel("hidden unit 2")
    _class_legend(
        figure,
        Line2D([], [], color=GREY, marker="o", label="points around the corners", **_SAMPLE),
        Line2D([], [], color="black", linewidth=1, label="best line"),
    )
    return figure, rights[0], rights[1]


@styled
def _training(xor: Xor) -> Figure:
    """Draw frames of the hidden plane, and the loss with the frames marked on it."""
    steps, losses = xor.frame_steps, loss(xor.path)
    figure = Figure(figsize=(_WIDTH, 3.3))
    grid = figure.add_gridspec(2, len(steps), height_ratios=[1, 0.8])
    states = hidden(CORNERS, xor.path[steps])
    top = float(states.max()) + 0.1
    for index, (step, corners) in enumerate(zip(steps, states, strict=True)):
        ax = figure.add_subplot(grid[0, index])
        # In the order of a walk around the square, so that its folding shows.
        ax.plot(*corners[[0, 1, 3, 2, 0]].T, color="#999999", linewidth=0.8)
        _draw_corners(ax, corners, markersize=5)
        ax.set(title=f"step {step:,}", xlim=(-0.1, top), ylim=(-0.1, top), aspect="equal")
        ax.set(xticks=[0, 1], yticks=[0, 1])
        if index:
            ax.tick_params(labelleft=False)
        else:
            ax.set(xlabel="hidden unit 1", ylabel="hidden unit 2")
    ax = figure.add_subplot(grid[1, :])
    ax.plot(losses, color="black", linewidth=1.2)
    ax.plot(steps, losses[steps], "o", color="black", markersize=4, clip_on=False)
    ax.set(xlabel="step", ylabel="mean squared error", ylim=(0, None))
    ax.set_xlim(0, 1.1 * steps[-1])
    _class_legend(figure)
    return figure


@styled
def _seeds(xor: Xor) -> Figure:
    """Draw the final loss of each seed, sorted, and say what each plateau is."""
    names = {
        "learned": "learn |x − y|",
        "one corner": "answer 1 at only one of (1, 0) and (0, 1)",
        "linear": "end as (x + y)/3, as without a ReLU",
        "silent": "answer 0 at every corner: both units are dead",
    }
    figure = Figure(figsize=(4.5, 2.6))
    ax = figure.subplots()
    order = np.argsort(xor.losses, kind="stable")
    losses, learned, rank = xor.losses[order], xor.learned[order], np.arange(1, len(order) + 1)
    for some, colour in ((learned, COLOURS[2]), (~learned, GREY)):
        ax.plot(rank[some], losses[some], "o", color=colour, markersize=3)
    first = 0
    for name, level in OUTCOMES.items():
        count = xor.count[name]
        left = first < len(losses) / 2
        ax.annotate(
            f"{count} {names[name]}",
            (first + (1 if left else count), level),
            (0, 5),
            textcoords="offset points",
            ha="left" if left else "right",
            fontsize=7,
        )
        first += count
    ax.set(xlabel="seeds, sorted by loss", ylabel="mean squared error", xlim=(0, len(losses) + 1))
    ax.set_yticks([0, 1 / 4, 1 / 3, 1 / 2], ["0", "1/4", "1/3", "1/2"])
    ax.set_ylim(-0.02, 0.57)
    return figure


def _draw_corners(ax: Axes, corners: np.ndarray, **style: Any) -> None:
    for state, label in zip(corners, XOR, strict=True):
        ax.plot(*state, **_CLASSES[label] | _CORNER | style)


def _named(corners: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names of the corners [4, 2] with their places, one name for those that coincide."""
    left = list(range(len(corners)))
    while left:
        here = [i for i in left if np.abs(corners[i] - corners[left[0]]).max() < _CLOSE]
        yield " and ".join(f"({x:.0f}, {y:.0f})" for x, y in CORNERS[here]), corners[here[0]]
        left = [i for i in left if i not in here]


def _note(ax: Axes, text: str, at: Any, offset: tuple[float, float], align: str = "center") -> None:
    box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
    ax.annotate(
        text, at, offset, textcoords="offset points", ha=align, fontsize=7, zorder=4, bbox=box
    )


def _class_legend(figure: Figure, *others: Line2D) -> None:
    """Name the markers of the two classes above all panels, then ``others``."""
    classes = [Line2D([], [], **style | _CORNER) for style in _CLASSES]
    figure.legend(handles=[*classes, *others], loc="outside upper center", ncols=5)
