"""The figures of the XOR experiment: its fields, its hidden plane, its training and its seeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from llmprobe.reporting.charts.colour_scale import CHANCE_MAP
from llmprobe.reporting.charts.style import COLOURS, styled
from llmprobe.sanity.xor import OUTCOMES, Xor
from llmprobe.sanity.xor_network import CORNERS, XOR, hidden, predict

FIELD = np.linspace(-0.25, 1.25, 151)
"""Both axes of the fields."""

_CLASSES: tuple[dict[str, Any], ...] = (
    {"color": COLOURS[1], "marker": "o", "label": "XOR = 0"},
    {"color": COLOURS[0], "marker": "^", "label": "XOR = 1"},
)
_CORNER: dict[str, Any] = {
    "linestyle": "none",
    "markersize": 6,
    "markeredgecolor": "white",
    "markeredgewidth": 0.8,
    "clip_on": False,
    "zorder": 3,
}
_WIDTH = 6.75
_CLOSE = 0.05
"""Corners that are closer in the hidden plane share one label."""


def xor_figures(found: Xor) -> dict[str, tuple[Figure, str, str]]:
    """Name -> the figure, its caption, and what it shows in words."""
    return {
        "fields": (_fields(found), *_fields_words()),
        "hidden_plane": (_hidden_plane(found), *_hidden_plane_words(found)),
        "training": (_training(found), *_training_words(found)),
        "seeds": (_seeds(found), *_seeds_words(found)),
    }


@styled
def _fields(found: Xor) -> Figure:
    """The output of the three models over the plane of the inputs."""
    points = np.stack(np.meshgrid(FIELD, FIELD), axis=-1).reshape(-1, 2)
    panels = {
        "linear regression": (found.regress(points), found.regress(CORNERS)),
        "network without the ReLU": tuple(
            predict(where, found.linear[found.seed], relu=False) for where in (points, CORNERS)
        ),
        "network with the ReLU": tuple(
            predict(where, found.trained[found.seed]) for where in (points, CORNERS)
        ),
    }
    figure = Figure(figsize=(_WIDTH, 2.6), layout="compressed")
    axes = figure.subplots(1, 3, sharey=True)
    for ax, (title, (field, at_corners)) in zip(axes, panels.items(), strict=True):
        image = ax.imshow(
            field.reshape(len(FIELD), -1),
            origin="lower",
            extent=(FIELD[0], FIELD[-1], FIELD[0], FIELD[-1]),
            cmap=CHANCE_MAP,
            norm=Normalize(-0.5, 1.5),
        )
        for (x, y), label, value in zip(CORNERS, XOR, at_corners, strict=True):
            ax.plot(x, y, **_CLASSES[label] | _CORNER)
            text = f"{value:.2f}".replace("-0.00", "0.00")
            _note(ax, text, (x, y), (0, -13 if y == 0 else 8))
        ax.set(title=title, xlabel="x", xticks=[0, 1], yticks=[0, 1])
    axes[0].set_ylabel("y", rotation=0)
    bar = figure.colorbar(image, ax=axes, ticks=[-0.5, 0, 0.5, 1, 1.5])
    bar.set_label("output")
    _class_legend(figure)
    return figure


def _fields_words() -> tuple[str, str]:
    return (
        "The outputs over the plane of the inputs; numbers are those at the four corners. Only the "
        "network with the ReLU is low at (0, 0) and (1, 1) and high at (1, 0) and (0, 1).",
        "Three colour fields. Linear regression is 0.5 everywhere. The network without the ReLU "
        "rises in one direction, along x + y. The network with the ReLU is a valley along x = y "
        "that rises to both sides.",
    )


@styled
def _hidden_plane(found: Xor) -> Figure:
    """The hidden states before and after training, with the best line in each."""
    figure = Figure(figsize=(_WIDTH, 3.55))
    axes = figure.subplots(1, 2)
    for ax, when, weights, line, right in zip(
        axes,
        ("before training", "after training"),
        (found.start[found.seed], found.trained[found.seed]),
        found.lines[1:],
        found.right[1:],
        strict=True,
    ):
        states = hidden(found.points, weights)
        for label, style in enumerate(_CLASSES):
            ax.plot(
                *states[found.labels == label].T,
                **style | {"linestyle": "none", "markersize": 2.5, "markeredgewidth": 0},
                alpha=0.35,
            )
        corners = hidden(CORNERS, weights)
        for state, label in zip(corners, XOR, strict=True):
            ax.plot(*state, **_CLASSES[label] | _CORNER)
        for name, state in _named(corners):
            below = state[1] < _CLOSE
            _note(ax, name, state, (-4, -15) if below else (10, -3), "left")
        _draw_line(ax, line)
        ax.set(title=f"{when}: a line has {right} of 4 right", xlabel="hidden unit 1")
        ax.set(xlim=(-0.15, 1.3), ylim=(-0.15, 1.3), aspect="equal")
    axes[0].set_ylabel("hidden unit 2")
    sample: dict[str, Any] = {"linestyle": "none", "markersize": 2.5, "alpha": 0.35}
    _class_legend(
        figure,
        Line2D([], [], color="#555555", marker="o", label="points around the corners", **sample),
        Line2D([], [], color="black", linewidth=1, label="best line"),
    )
    return figure


def _hidden_plane_words(found: Xor) -> tuple[str, str]:
    _, before, after = found.right.tolist()
    return (
        f"Where the hidden layer of seed {found.seed} puts the four corners. Before training the "
        f"best line has {before} of them on their right sides; after it (0, 0) and (1, 1) fall on "
        f"one point, and a line has {after}.",
        "Two scatter plots of the hidden plane. Before training the corners of both classes are "
        "mixed. After training both corners of class 0 lie at the origin and those of class 1 on "
        "one axis each, with a line between.",
    )


@styled
def _training(found: Xor) -> Figure:
    """Frames of the hidden plane, and the loss with the frames marked on it."""
    n = len(found.frame_steps)
    figure = Figure(figsize=(_WIDTH, 3.3))
    grid = figure.add_gridspec(2, n, height_ratios=[1, 0.8])
    states = hidden(CORNERS, found.frames)
    top = float(states.max()) + 0.1
    for index, (step, corners) in enumerate(zip(found.frame_steps, states, strict=True)):
        ax = figure.add_subplot(grid[0, index])
        # In the order of a walk around the square, so that its folding shows.
        ax.plot(*corners[[0, 1, 3, 2, 0]].T, color="#999999", linewidth=0.8)
        for state, label in zip(corners, XOR, strict=True):
            ax.plot(*state, **_CLASSES[label] | _CORNER | {"markersize": 5})
        ax.set(title=f"step {step:,}", xlim=(-0.1, top), ylim=(-0.1, top), aspect="equal")
        ax.set(xticks=[0, 1], yticks=[0, 1])
        if index:
            ax.tick_params(labelleft=False)
        else:
            ax.set(xlabel="hidden unit 1", ylabel="hidden unit 2")
    ax = figure.add_subplot(grid[1, :])
    ax.plot(found.loss_curve, color="black", linewidth=1.2)
    ax.plot(
        found.frame_steps,
        found.loss_curve[found.frame_steps],
        "o",
        color="black",
        markersize=4,
        clip_on=False,
    )
    ax.set(xlabel="step", ylabel="mean squared error", ylim=(0, None))
    ax.set_xlim(0, 1.1 * found.frame_steps[-1])
    _class_legend(figure)
    return figure


def _training_words(found: Xor) -> tuple[str, str]:
    first = float(found.loss_curve[0])
    return (
        f"The hidden plane of seed {found.seed} during training: the grey outline is the square of "
        "the inputs, which folds until (0, 0) and (1, 1) meet. Below, the loss; dots are the "
        "frames.",
        f"A row of {len(found.frame_steps)} small plots in which a quadrilateral folds into a "
        f"corner, above a loss curve that falls from {first:.2f} to 0.",
    )


@styled
def _seeds(found: Xor) -> Figure:
    """The final loss of each seed, sorted, and what each plateau is."""
    names = {
        "learned": "learn |x − y|",
        "one corner": "answer 1 at only one of (1, 0) and (0, 1)",
        "linear": "end as (x + y)/3, as without a ReLU",
        "silent": "answer 0 at every corner: both units are dead",
    }
    figure = Figure(figsize=(4.5, 2.6))
    ax = figure.subplots()
    order = np.argsort(found.losses, kind="stable")
    losses, learned, rank = found.losses[order], found.learned[order], np.arange(1, len(order) + 1)
    ax.plot(rank[learned], losses[learned], "o", color=COLOURS[2], markersize=3)
    ax.plot(rank[~learned], losses[~learned], "o", color="#555555", markersize=3)
    first = 0
    for name, level in OUTCOMES.items():
        count = found.count[name]
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


def _seeds_words(found: Xor) -> tuple[str, str]:
    n, count = len(found.losses), found.count
    return (
        f"Of {n} networks that differ in nothing but their random start, {count['learned']} learn "
        "XOR; the others end on one of three plateaus, "
        f"{(found.dead[~found.learned] > 0).sum()} of {n - count['learned']} with a unit that is "
        "dead, 0 at every corner.",
        f"Final losses, sorted, on four plateaus: {count['learned']} seeds at 0, "
        f"{count['one corner']} at 1/4, {count['linear']} at 1/3 and {count['silent']} at 1/2.",
    )


def _named(corners: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The names of the corners [4, 2] with their places, one name for those that coincide."""
    left = list(range(len(corners)))
    while left:
        here = [i for i in left if np.abs(corners[i] - corners[left[0]]).max() < _CLOSE]
        yield " and ".join(f"({x:.0f}, {y:.0f})" for x, y in CORNERS[here]), corners[here[0]]
        left = [i for i in left if i not in here]


def _draw_line(ax: Axes, line: np.ndarray) -> None:
    """Where a·u + b·v + c = 0."""
    normal, offset = line[:2], line[2]
    foot = -offset * normal / (normal @ normal)
    ax.axline(foot, foot + np.array([-normal[1], normal[0]]), color="black", linewidth=1)


def _note(ax: Axes, text: str, at: Any, offset: tuple[float, float], align: str = "center") -> None:
    box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
    ax.annotate(
        text, at, offset, textcoords="offset points", ha=align, fontsize=7, zorder=4, bbox=box
    )


def _class_legend(figure: Figure, *others: Line2D) -> None:
    """Above all panels: the markers of the two classes, then ``others``."""
    classes = [Line2D([], [], **style | _CORNER) for style in _CLASSES]
    figure.legend(handles=[*classes, *others], loc="outside upper center", ncols=5)
