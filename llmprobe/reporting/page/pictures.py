"""Figures as images of the page, with what they say to those who see them and those who do not."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import NamedTuple

from matplotlib.figure import Figure

from llmprobe.reporting.charts.figures import png, svg

MOST_FIGURE_BYTES = 1_500_000


class Picture(NamedTuple):
    """A figure, ready for the page."""

    caption: str
    alt: str
    source: str
    """A ``data:`` address that holds the image."""
    width: float
    """In inches, on paper."""


def captioned(figures: Mapping[str, Figure]) -> dict[str, tuple[Figure, str, str]]:
    """The figures of the tables with captions and text alternatives, in the order of the page."""
    return {name: (figures[name], *said) for name, said in _CAPTIONS.items() if name in figures}


def as_pictures(
    figures: Mapping[str, tuple[Figure, str, str]], most_bytes: int
) -> tuple[dict[str, Picture], list[str], int]:
    """The figures as images in the smaller of two formats.

    -> those that go into ``most_bytes``, the names of the others, and the bytes that are used
    """
    pictures, left_out, size = dict[str, Picture](), list[str](), 0
    for name, (figure, caption, alt) in figures.items():
        kind, content = min(
            ("svg+xml", svg(figure)), ("png", png(figure, dpi=144)), key=lambda image: len(image[1])
        )
        if size + len(content) > most_bytes:
            left_out.append(name)
            continue
        size += len(content)
        source = f"data:image/{kind};base64,{b64encode(content).decode()}"
        pictures[name] = Picture(caption, alt, source, figure.get_figwidth())
    return pictures, left_out, size


_HEATMAP_ALT = "Heatmap: a panel for each model, a row for each dataset, a column for each layer; "
_CAPTIONS = {
    "heatmap_accuracy": (
        "Accuracy of a probe on each layer. Blue is above chance, orange below it, hatched not "
        "scored; the dot is the best layer of the row.",
        _HEATMAP_ALT + "colour is the accuracy. The tables below hold the same numbers.",
    ),
    "heatmap_r2": (
        "R² of a probe on each layer: 0 is what the mean of all labels reaches, orange is worse "
        "than that; the dot is the best layer of the row.",
        _HEATMAP_ALT + "colour is the R². The tables below hold the same numbers.",
    ),
    "curves": (
        "The same scores as curves, with their 95 % intervals. Filled: the best layer; hollow: the "
        "converging layer; cross: the jump layer; tick below: half of the rise.",
        "Line chart: a panel for each dataset, a line for each model, the score over layers. "
        "The tables below hold the same numbers.",
    ),
    "heatmap_by_model": (
        "Models below each other, at relative depth: where each has what the others have.",
        "Heatmap: a panel for each dataset, a row for each model, over relative depth; colour is "
        "the score. The tables below hold the same numbers.",
    ),
    "depth": (
        "How deep each concept is read best (filled), and where its accuracy has converged "
        "(hollow). Pale: no better than shuffled labels.",
        "Dot chart: a row for each dataset, the relative depth of the best and of the converging "
        "layer for each model. The summary table holds the same numbers.",
    ),
    "difficulty": (
        "Are harder concepts read deeper? Each point is a concept in a model: how far the best "
        "model stays from a perfect score, and the depth of half the rise, with its interval.",
        "Dot chart: depth of half the rise against the difficulty of each concept. The summary "
        "table holds the same numbers.",
    ),
    "size": (
        "How much of the network does a model of each size need? Parameters, and the depth of "
        "half the rise, with its interval.",
        "Line chart: a line for each dataset, the depth of half the rise against the number of "
        "parameters. The summary table holds the same numbers.",
    ),
    "learning_curve": (
        "The score at the best layer after training on a part of the groups.",
        "Line chart: the score against the fraction of the training groups.",
    ),
}
"""Caption and text alternative of each figure that the page has, in its order."""

DRAWN_BY_SCRIPT = ("heatmap_accuracy", "heatmap_r2", "curves")
"""What the script draws too: the page shows these where scripts do not run."""
