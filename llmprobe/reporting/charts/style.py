"""The look of all figures: colours, markers and names, and how a figure becomes a file."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from llmprobe.ground.text import elide

# From Okabe & Ito and Paul Tol: apart for colour-blind eyes too, and dark enough on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#332288", "#56b4e9", "#882255")
# Apart from each other on light and on dark, and not those of the first models.
CLASS_COLOURS = (
    "#8257cc",
    "#e69f00",
    "#009e73",
    "#d4569b",
    "#56b4e9",
    "#b0562b",
    "#7a8b2c",
    "#777777",
)
GREY = "#555555"
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")

_STYLE: list[Any] = [
    "default",  # figures do not depend on the user's matplotlibrc
    {
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "figure.labelsize": 8,
        "legend.frameon": False,
        "legend.fontsize": 7,
        "legend.handlelength": 2.2,
        "legend.columnspacing": 1.5,
        "figure.constrained_layout.use": True,
    },
]
_SVG = {"svg.fonttype": "none", "svg.hashsalt": "llmprobe"}
_MOST_PIXELS = 2**16 - 1
"""That matplotlib draws in one direction."""

styled = matplotlib.style.context(_STYLE)
"""Decorator of what draws or writes a figure."""


def model_style(index: int) -> dict[str, Any]:
    """Return the line of model number ``index``; beyond eight, colours return, other markers."""
    turn, index = divmod(index, len(COLOURS))
    return {
        "color": COLOURS[index],
        "marker": _MARKERS[(index + 3 * turn) % len(_MARKERS)],
        "linestyle": "-." if turn else "-",
        "linewidth": 1.2,
        "markersize": 4,
    }


def class_style(index: int) -> dict[str, Any]:
    """Return the point of class number ``index``, in the colour that the page has for it."""
    return model_style(index) | {"color": CLASS_COLOURS[index % len(CLASS_COLOURS)]}


def model_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the style of each model, by the order in which models first appear in ``names``."""
    return {name: model_style(index) for index, name in enumerate(dict.fromkeys(names))}


def paler(colour: str) -> tuple[float, float, float]:
    """Return a colour mixed with white, which hides what is beneath it as the colour does."""
    red, green, blue = (0.35 * part + 0.65 for part in to_rgb(colour))
    return red, green, blue


def label(name: str, width: int) -> str:
    """Return a name that matplotlib shows as it is, without ``$mathematics$``."""
    return elide(name, width).replace("$", r"\$")


@styled
def png(figure: Figure, dpi: float = 200) -> bytes:
    """Return a figure as the bytes of a PNG file; coarser where it would be too large to draw."""
    width, height = figure.get_size_inches()
    dpi = min(dpi, _MOST_PIXELS / max(width, height))
    return _saved(figure, format="png", dpi=dpi, metadata={"Software": None})


@matplotlib.style.context([*_STYLE, _SVG])
def svg(figure: Figure) -> bytes:
    """Return a figure as the bytes of an SVG file, whose text stays text."""
    return _saved(figure, format="svg", dpi=200, metadata={"Date": None, "Creator": None})


def _saved(figure: Figure, **options: Any) -> bytes:
    buffer = BytesIO()
    with warnings.catch_warnings():
        # Names may have characters that the font lacks; they are drawn as boxes.
        warnings.filterwarnings("ignore", r"Glyph \d+")
        figure.savefig(buffer, **options)
    return buffer.getvalue()


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``name.png`` and ``name.svg``; equal figures give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    png_path, svg_path = folder / f"{name}.png", folder / f"{name}.svg"
    png_path.write_bytes(png(figure))
    svg_path.write_bytes(svg(figure))
    return [png_path, svg_path]


def write_all(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write every figure into ``folder`` and return the paths of the files."""
    return [path for name, figure in figures.items() for path in save(figure, folder, name)]
