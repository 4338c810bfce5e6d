"""The look of all figures: colours, markers and names, and how a figure becomes a file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib
import matplotlib.style
from matplotlib import rcParams, rcParamsDefault
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from llmprobe.ground.errors import UserError, foreign_errors, suggestion
from llmprobe.ground.text import elide
from llmprobe.results.figures import Look

P = ParamSpec("P")
R = TypeVar("R")

# From Okabe & Ito and Paul Tol: distinct for colour-blind eyes too, and dark enough on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#332288", "#56b4e9", "#882255")
# Distinct on light and on dark, and different from the colours of the first models.
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

_STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "figure.labelsize": "medium",
    "figure.titlesize": "medium",
    "figure.titleweight": "bold",
    "legend.frameon": False,
    "legend.fontsize": "small",
    "legend.handlelength": 2.2,
    "legend.columnspacing": 1.5,
    "figure.constrained_layout.use": True,
}
"""Sizes follow ``font.size``, so that a user can change them all with one setting."""
_OWN: list[Any] = ["default", _STYLE]  # files of a run do not depend on the user's matplotlibrc
_AS_TEXT: dict[Any, Any] = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none"}
"""Letters stay letters, which can be searched and edited."""
_SALT: dict[Any, Any] = {"svg.hashsalt": "llmprobe"}
_NO_DATE: Mapping[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""The metadata that is left out of each format, so that equal figures give equal bytes."""
_MOST_PIXELS = 2**16 - 1
"""The most pixels that matplotlib draws in one direction."""

_users_own: ContextVar[bool] = ContextVar("users_own", default=False)


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Make a function draw or write figures in llmprobe's style, or the user's in ``users_style``.

    llmprobe's style is the same on every machine.
    """

    @wraps(draw)
    def drawn(*args: P.args, **options: P.kwargs) -> R:
        with nullcontext() if _users_own.get() else matplotlib.style.context(_OWN):
            return draw(*args, **options)

    return drawn


@contextmanager
def users_style(style: Any = None) -> Iterator[None]:
    """Draw figures with the user's settings of matplotlib, and with llmprobe's for all others.

    A setting that differs from matplotlib's own default counts as the user's.

    Parameters
    ----------
    style
        What matplotlib.style takes: a name, a mapping of rcParams, or a list of these.

    Raises
    ------
    UserError
        There is no such style, or no such parameter.
    """
    theirs: dict[str, Any] = {
        name: rcParams[name]
        for name in rcParams
        if not name.startswith("backend") and rcParams[name] != rcParamsDefault[name]
    }
    more: list[Any] = [] if style is None else style if isinstance(style, list) else [style]
    with foreign_errors("style"), warnings.catch_warnings():
        # Such as whether figures are interactive, as they are in a notebook.
        warnings.filterwarnings("ignore", "Style includes a parameter")
        context = matplotlib.style.context([*_OWN, {"savefig.dpi": 300}, theirs, *more])
        context.__enter__()
    token = _users_own.set(True)
    try:
        yield
    finally:
        _users_own.reset(token)
        context.__exit__(None, None, None)


class Chart(Figure):
    """A figure whose letters stay letters in files, and which a notebook shows as it is."""

    def __init__(self, figsize: tuple[float, float], grows: bool = True, **options: Any) -> None:
        super().__init__(figsize=figsize, **{"layout": "constrained"} | options)
        self._grows = grows

    def grow(self, inches: float) -> None:
        """Make room for what is written around the panels, unless the user gave the height."""
        if self._grows:
            self.set_figheight(self.get_figheight() + inches)

    def savefig(self, *args: Any, **options: Any) -> None:
        """Write the figure as matplotlib does; letters in PDF, PS and SVG stay letters."""
        with matplotlib.rc_context(_AS_TEXT), _any_character():
            super().savefig(*args, **options)

    def _repr_png_(self) -> bytes:
        return png(self, dpi=144)


def sheet(look: Look, width: float, height: float) -> Figure:
    """Return the figure to draw on: that of the user's axes, or a new one.

    Parameters
    ----------
    width, height
        In inches, unless the user gave others.
    """
    if look.ax is not None:
        return look.ax.figure.figure  # of a subfigure, the whole one
    size = (look.width or width, look.height or height)
    return Chart(size, grows=look.height is None)


def panels_on(
    figure: Figure, look: Look, rows: int = 1, columns: int = 1, **options: Any
) -> list[Axes]:
    """Return rows × columns of panels, row by row; a single one is the user's axes, if given.

    Raises
    ------
    UserError
        Several panels do not fit into the user's axes.
    """
    if look.ax is None:
        return list(figure.subplots(rows, columns, squeeze=False, **options).ravel())
    if rows * columns > 1:
        raise UserError(
            f"ax: there are {rows * columns} panels, but an axes holds one; choose with "
            "models= and datasets=, or give width= in place of ax="
        )
    return [look.ax]


def entitle(look: Look, figure: Figure, panels: Sequence[Axes]) -> None:
    """Write the user's title: in place of a single panel's own, or above several panels."""
    if look.title is None:
        return
    title = wrapped(look.title, figure.get_figwidth() - 0.3, weight="bold")
    if len(panels) == 1:
        panels[0].set_title(title)
        return
    if figure.legends:  # Both at the top, constrained layout would lay one on the other.
        figure.legends[0].set_title(title, FontProperties(weight="bold"))
    else:
        figure.suptitle(title)
    if isinstance(figure, Chart):
        figure.grow((0.5 + 1.2 * (title.count("\n") + 1)) * em())


def colour_map(cmap: str | Colormap) -> Colormap:
    """Return matplotlib's colour map of a name; a colour map is returned as it is.

    Raises
    ------
    UserError
        There is no colour map of that name.
    """
    if isinstance(cmap, Colormap):
        return cmap
    if cmap not in matplotlib.colormaps:
        raise UserError(
            f"cmap: {cmap!r} is not known; {suggestion(str(cmap), matplotlib.colormaps)}"
        )
    return matplotlib.colormaps[cmap]


def em() -> float:
    """Return the font size in inches, by which heights of rows are measured."""
    return float(rcParams["font.size"]) / 72


def text_width(text: str, size: float | str = "medium", weight: str = "normal") -> float:
    """Return how wide a text is, in inches: that is, its widest line."""
    font = FontProperties(size=size, weight=weight)
    with _any_character():
        return max(
            float(text_to_path.get_text_width_height_descent(line, font, ismath=False)[0]) / 72
            for line in text.split("\n")
        )


def wrapped(text: str, inches: float, size: float | str = "medium", weight: str = "normal") -> str:
    """Wrap a text into lines of at most ``inches``; a word that is wider has its own line."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and text_width(longer, size, weight) > inches:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def model_style(index: int) -> dict[str, Any]:
    """Return the line style of model number ``index``; after eight, colours repeat, dash-dotted."""
    turn, index = divmod(index, len(COLOURS))
    return {
        "color": COLOURS[index],
        "marker": _MARKERS[(index + 3 * turn) % len(_MARKERS)],
        "linestyle": "-." if turn else "-",
        "linewidth": 1.2,
        "markersize": 4,
    }


def class_style(index: int) -> dict[str, Any]:
    """Return the point style of class number ``index``, in the colour that it has on the page."""
    return model_style(index) | {"color": CLASS_COLOURS[index % len(CLASS_COLOURS)]}


def model_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the style of each model, by the order in which models first appear in ``names``."""
    return {name: model_style(index) for index, name in enumerate(dict.fromkeys(names))}


def paler(colour: str) -> tuple[float, float, float]:
    """Return a colour mixed with white, which is opaque, unlike one with an alpha."""
    red, green, blue = (0.35 * part + 0.65 for part in to_rgb(colour))
    return red, green, blue


def label(
    name: str,
    width: int,
    inches: float = float("inf"),
    size: float | str = "medium",
    weight: str = "normal",
) -> str:
    """Return a name that matplotlib shows as it is, without ``$mathematics$``.

    It is cut in the middle to ``width`` characters, and to what fits into ``inches``.
    """
    text = elide(name, width)
    while len(text) > 3 and text_width(text, size, weight) > inches:
        text = elide(name, len(text) - 1)
    return text.replace("$", r"\$")


@styled
def png(figure: Figure, dpi: float = 200) -> bytes:
    """Return a figure as the bytes of a PNG file; coarser if it would be too large to draw."""
    return _saved(figure, "png", _drawable(figure, dpi))


@styled
def svg(figure: Figure) -> bytes:
    """Return a figure as the bytes of an SVG file, whose text stays text."""
    return _saved(figure, "svg", 200)


def _drawable(figure: Figure, dpi: float) -> float:
    return min(dpi, _MOST_PIXELS / float(max(figure.get_size_inches())))


def _saved(figure: Figure, form: str, dpi: float) -> bytes:
    buffer = BytesIO()
    with matplotlib.rc_context({**_AS_TEXT, **_SALT}), _any_character():
        figure.savefig(buffer, format=form, dpi=dpi, metadata=_NO_DATE.get(form))
    return buffer.getvalue()


@contextmanager
def _any_character() -> Iterator[None]:
    """Let names have characters that the font lacks, which are drawn as boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+")
        yield


def write_one(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the suffix of ``path``, at the user's ``savefig.dpi``.

    Raises
    ------
    UserError
        matplotlib does not write such files.
    """
    form = path.suffix.lower().removeprefix(".")
    known = figure.canvas.get_supported_filetypes()
    if form not in known:
        raise UserError(f"{path}: {form or path.name!r} is no format; {suggestion(form, known)}")
    dpi = rcParams["savefig.dpi"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_saved(figure, form, _drawable(figure, 300 if dpi == "figure" else dpi)))


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
