"""What can be drawn of results, by name: a figure is one decorated function.

    @figure("peaks", caption="The best score of each model.", alt="Bar chart: …")
    def peaks(results: Results) -> Figure | None:
        ...

It is then among the files of every run, and on its page. None means that these results have
nothing to draw; a mapping draws several, ``{"accuracy": …}`` being called ``peaks_accuracy``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from llmprobe.config.schema import file_name
from llmprobe.ground.registry import Registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from llmprobe.results.results import Results

Draw = Callable[["Results"], "Figure | Mapping[str, Figure] | None"]
D = TypeVar("D", bound=Draw)


@dataclass(frozen=True)
class FigureKind:
    """A figure that every run may have."""

    name: str
    """Of its file, and what it is asked for by."""
    draw: Draw
    """From results to the figure, or to several by what follows their name."""
    caption: str = ""
    """What it shows, for the page; a figure without one is drawn into files alone."""
    alt: str = ""
    """What it shows, for those who do not see it."""
    drawn_by_script: bool = False
    """Whether the page's script draws the same, so that only a page without scripts shows it."""


FIGURES: Registry[FigureKind] = Registry("figure", homes=["llmprobe.reporting.charts"])
"""Every figure by name, in the order of the page."""


def figure(
    name: str, *, caption: str = "", alt: str = "", drawn_by_script: bool = False
) -> Callable[[D], D]:
    """Register a function of results as a figure; the options are `FigureKind`'s.

    Raises
    ------
    UserError
        There is another figure of that name.
    """

    def register(draw: D) -> D:
        FIGURES.add(name, FigureKind(name, draw, caption, alt, drawn_by_script))
        return draw

    return register


def draw_figures(results: Results) -> dict[str, Figure]:
    """Draw every figure that the results have numbers for, by name."""
    figures: dict[str, Figure] = {}
    for name, kind in FIGURES.items():
        drawn = kind.draw(results)
        if isinstance(drawn, Mapping):
            figures |= {f"{name}_{file_name(of)}": one for of, one in drawn.items()}
        elif drawn is not None:
            figures[name] = drawn
    return figures


def figure_kind(name: str) -> FigureKind | None:
    """Return what a drawn figure is of, such as ``projection`` of ``projection_capitals``.

    None for what is drawn outside the registry.
    """
    kinds = [kind for kind in FIGURES.values() if f"{name}_".startswith(f"{kind.name}_")]
    return max(kinds, key=lambda kind: len(kind.name), default=None)
