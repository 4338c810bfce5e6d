"""Figures as images of the page, with their captions and text alternatives."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import NamedTuple

from matplotlib.figure import Figure

from llmprobe.reporting.charts.style import png, svg
from llmprobe.results.figures import figure_kind

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
    """Return the figures that have a caption, with it and their text alternative.

    Those that only a page without scripts shows come first.
    """
    kinds = {name: figure_kind(name) for name in sorted(figures, key=drawn_by_script, reverse=True)}
    return {
        name: (figures[name], kind.caption, kind.alt)
        for name, kind in kinds.items()
        if kind is not None and kind.on_page
    }


def drawn_by_script(name: str) -> bool:
    """Whether the page's script draws a figure, so that only a page without scripts needs it."""
    kind = figure_kind(name)
    return kind is not None and kind.drawn_by_script


def as_pictures(
    figures: Mapping[str, tuple[Figure, str, str]], most_bytes: int
) -> tuple[dict[str, Picture], list[str], int]:
    """Return the figures as images, each in the smaller of two formats.

    -> those that fit into ``most_bytes``, the names of the others, and the bytes that are used
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
