"""The figures of a run, by name."""

from __future__ import annotations

from matplotlib.figure import Figure

from llmprobe.config.schema import file_name
from llmprobe.reporting.charts.style import png, svg, write_all
from llmprobe.results.figures import FIGURES
from llmprobe.results.results import Results

__all__ = ["draw_figures", "png", "svg", "write_all"]


def draw_figures(results: Results) -> dict[str, Figure]:
    """Draw every figure of the registry that the results have numbers for, by name.

    One that draws several has them as ``projection_capitals``.
    """
    figures = {}
    for name, kind in FIGURES.items():
        drawn = kind.draw(results)
        if isinstance(drawn, Figure):
            figures[name] = drawn
        else:
            figures |= {f"{name}_{file_name(of)}": one for of, one in (drawn or {}).items()}
    return figures
