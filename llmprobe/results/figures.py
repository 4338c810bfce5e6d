"""The figures that can be drawn of results, by name: each is one decorated function.

    @figure("peaks", caption="The best score of each model.", alt="Bar chart: …")
    def peaks(results: Results) -> Figure | None:
        ...

It is then drawn for every run, in its files and on its page. A function returns None where these
results have nothing to draw, and a mapping for several figures: ``{"accuracy": …}`` is called
``peaks_accuracy``. With a second argument ``look``, it draws in the size and the place that the
user asks for (``results.plot``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeVar

from llmprobe.config.schema import file_name
from llmprobe.ground.registry import Registry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    from llmprobe.results.results import Results

Draw = Callable[..., "Figure | Mapping[str, Figure] | None"]
D = TypeVar("D", bound=Draw)

WIDTHS: Mapping[str, float] = {"column": 3.3, "two_column": 6.9}
"""Widths of figures in papers by name, in inches: of one of two columns, and of both."""


@dataclass(frozen=True)
class Look:
    """How one figure is drawn, where a user says so; by default, as every run draws it."""

    ax: Axes | None = None
    """Where it is drawn, if it has one panel; else in a new figure."""
    width: float | None = None
    """Inches."""
    height: float | None = None
    """Inches; by default what is drawn decides."""
    title: str | None = None
    """The title above; a single panel has it in place of its own."""
    cmap: Colormap | None = None
    """Colours of scores."""
    metric: str | None = None
    """The metric that is drawn in place of each dataset's main metric."""
    layer: int | None = None
    """The layer of the probes, in place of the best one."""

    def inches(self, default: float) -> float:
        """Return the width of the figure, or of the axes it is drawn in, in inches."""
        if self.ax is None:
            return self.width or default
        extent = self.ax.get_window_extent().transformed(self.ax.figure.dpi_scale_trans.inverted())
        return float(extent.width) + 1.0


RUN = Look()
"""How the files of a run are drawn."""


@dataclass(frozen=True)
class FigureKind:
    """A figure that every run may have."""

    name: str
    """The name of its file, by which it is asked for."""
    draw: Draw
    """The function from results (and a ``Look``) to the figure, or to several by name suffix."""
    caption: str = ""
    """What it shows; ``{metric}`` stands for what the metric is called."""
    alt: str = ""
    """What it shows, for those who do not see it."""
    drawn_by_script: bool = False
    """Whether the page's script draws the same, so that only a page without scripts shows it."""
    on_page: bool = False
    """Whether the page shows it; else it is drawn into files alone."""
    takes: frozenset[str] = frozenset()
    """The parts of a ``Look`` that it uses beside sizes and title: ax, cmap, metric, layer."""

    def drawn(self, results: Results, look: Look = RUN) -> Mapping[str, Figure]:
        """Draw the figures, by the suffix of their name: ``""`` for a single one; empty for none.

        Figures of a function without ``look`` get their size and title afterwards.
        """
        knows = "look" in signature(self.draw).parameters
        drawn = self.draw(results, look=look) if knows else self.draw(results)
        if drawn is None:
            return {}
        figures = drawn if isinstance(drawn, Mapping) else {"": drawn}
        for figure in () if knows else figures.values():
            if look.width is not None:
                figure.set_size_inches(look.width, look.height or figure.get_figheight())
            if look.title is not None:
                figure.suptitle(look.title)
        return figures


FIGURES: Registry[FigureKind] = Registry("figure", homes=["llmprobe.reporting.charts"])
"""Every figure by name, in the order of the page."""


def figure(
    name: str,
    *,
    caption: str = "",
    alt: str = "",
    drawn_by_script: bool = False,
    on_page: bool | None = None,
    takes: str = "",
) -> Callable[[D], D]:
    """Register a function of results as a figure; the options are `FigureKind`'s.

    Parameters
    ----------
    on_page
        By default, whether it has a caption.
    takes
        ``FigureKind.takes``, as words with spaces between them.

    Raises
    ------
    UserError
        There is another figure of that name.
    """
    shown = bool(caption) if on_page is None else on_page

    def register(draw: D) -> D:
        options: dict[str, Any] = {"on_page": shown, "takes": frozenset(takes.split())}
        FIGURES.add(name, FigureKind(name, draw, caption, alt, drawn_by_script, **options))
        return draw

    return register


def draw_figures(results: Results) -> dict[str, Figure]:
    """Draw every figure that the results have numbers for, by name."""
    return {
        f"{name}_{file_name(of)}" if of else name: drawn
        for name, kind in FIGURES.items()
        for of, drawn in kind.drawn(results).items()
    }


def figure_kind(name: str) -> FigureKind | None:
    """Return the kind of a drawn figure by its name: ``projection`` for ``projection_capitals``.

    None for figures that are drawn outside the registry.
    """
    kinds = [kind for kind in FIGURES.values() if f"{name}_".startswith(f"{kind.name}_")]
    return max(kinds, key=lambda kind: len(kind.name), default=None)
