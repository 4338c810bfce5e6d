"""Figures with options: ``results.plot.heatmap(metric="auroc", width="column")``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from llmprobe.config.schema import file_name
from llmprobe.ground.errors import UserError, suggestion
from llmprobe.ground.text import capitalised, listed
from llmprobe.results.curve import main_metrics
from llmprobe.results.figures import FIGURES, WIDTHS, FigureKind, Look, figure_kind
from llmprobe.results.metrics import METRICS
from llmprobe.results.selection import select

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    from llmprobe.results.results import Results
    from llmprobe.results.transfer import TransferMatrix

_MOST_LISTED = 6
"""The most names that a caption lists; of more, it says how many they are."""
_NARROWEST = 1.5


class LookOptions(TypedDict, total=False):
    """Options of every figure, where they make sense."""

    title: str
    """The title above; a single panel has it in place of its own; ``""`` for none."""
    width: float | str
    """Inches; ``column`` (3.3) or ``two_column`` (6.9)."""
    figsize: tuple[float, float]
    """Width and height in inches."""
    ax: Axes
    """Where a figure of one panel is drawn, in place of a new figure."""
    cmap: str | Colormap
    """Colours of scores."""
    style: Any
    """A style as matplotlib.style takes it, on top of the rcParams that are set."""


class PlotOptions(LookOptions, total=False):
    """Options of every figure of results, where they make sense."""

    models: str | Iterable[str]
    """Draw these models only, in this order."""
    datasets: str | Iterable[str]
    """Draw these datasets only, in this order; also ``cities @ mean``."""
    layers: int | Iterable[int]
    """Draw these layers only."""
    metric: str
    """The metric in place of the main one of each dataset, such as ``auroc``."""


@dataclass(frozen=True)
class Plots:
    """The figures of results. Drawing is a higher layer, imported when a figure is asked for."""

    results: Results
    """What is drawn."""

    def __call__(
        self, name: str, path: str | Path | None = None, **options: Unpack[PlotOptions]
    ) -> Figure:
        """Draw a figure by its name, such as ``difficulty``; with ``path`` into a file too.

        The name is one of `FIGURES`, or that of a file in ``RUN/figures``. The look is that of
        matplotlib's rcParams and ``style`` where the user has set them.

        Raises
        ------
        UserError
            An option is not known or wrong, or these results have nothing to draw.
        """
        kind, part, chosen, asked = _asked(self.results, name, options)
        return _drawn(kind, lambda look: _only(kind, kind.drawn(chosen, look), part), path, asked)

    def heatmap(self, path: str | Path | None = None, **options: Unpack[PlotOptions]) -> Figure:
        """Draw scores as colours: a panel for each model, a row for each dataset."""
        return self("heatmap", path, **options)

    def curves(self, path: str | Path | None = None, **options: Unpack[PlotOptions]) -> Figure:
        """Draw scores over layers: a panel for each dataset, a line for each model."""
        return self("curves", path, **options)

    def depth(self, path: str | Path | None = None, **options: Unpack[PlotOptions]) -> Figure:
        """Draw where each dataset is read best, and between which depths it can be read."""
        return self("depth", path, **options)

    def transfer(self, path: str | Path | None = None, **options: Unpack[PlotOptions]) -> Figure:
        """Draw the train × test heatmap; with one layer in ``layers``, of the probes there."""
        return self("transfer", path, **options)

    def said_used(self, path: str | Path | None = None, **options: Unpack[PlotOptions]) -> Figure:
        """Draw what is readable, said, used and not linear at each layer, a strip each."""
        return self("said_used", path, **options)

    def caption(self, name: str, **options: Unpack[PlotOptions]) -> str:
        """Return a caption for a paper: what the figure shows, and of which data.

        The options are those with which it is drawn.
        """
        kind, _, chosen, asked = _asked(self.results, name, options)
        metric = METRICS[asked["metric"]].label if "metric" in asked else "score"
        shows = kind.caption.replace("{metric}", capitalised(metric))
        if "cmap" in asked:
            shows = shows.replace("Blue is", "One end of the colours is")
            shows = shows.replace("blue reads", "one end of the colours reads")
            shows = shows.replace("orange", "the other end")
        return " ".join([shows, *_data(chosen, asked.get("layers"))]).strip()


@dataclass(frozen=True)
class TransferPlots:
    """The figures of a transfer matrix; every one takes the options of ``LookOptions``."""

    matrix: TransferMatrix
    """What is drawn."""

    def __call__(self, **options: Unpack[LookOptions]) -> Figure:
        """Draw the train × test heatmap, each train set at its own best layer."""
        return self.heatmap(**options)

    def heatmap(
        self,
        path: str | Path | None = None,
        layer: int | None = None,
        **options: Unpack[LookOptions],
    ) -> Figure:
        """Draw the train × test heatmap; with ``path`` into a file too, with ``layer`` at one."""
        return self._drawn("transfer", "transfer_heatmap", path, options, layer=layer)

    def curves(self, path: str | Path | None = None, **options: Unpack[LookOptions]) -> Figure:
        """Draw, by layer, the AUROC at home, its mean elsewhere and the worst elsewhere."""
        return self._drawn("transfer_by_layer", "transfer_curves", path, options)

    def across_layers(
        self,
        path: str | Path | None = None,
        train: str | None = None,
        test: str | None = None,
        **options: Unpack[LookOptions],
    ) -> Figure:
        """Draw the AUROC of a probe fitted at layer i on layer j, for ``train`` and ``test``."""
        name = "transfer_across_layers"
        return self._drawn(name, name, path, options, train=train, test=test)

    def _drawn(
        self, name: str, function: str, path: str | Path | None, options: LookOptions, **of: Any
    ) -> Figure:
        asked = _known(name, options, LookOptions)
        draw = getattr(import_module("llmprobe.reporting.charts.transfer"), function)
        return _drawn(FIGURES[name], lambda look: draw(self.matrix, look=look, **of), path, asked)


def _drawn(
    kind: FigureKind,
    draw: Callable[[Look], Figure],
    path: str | Path | None,
    asked: Mapping[str, Any],
) -> Figure:
    """Draw in the user's style, and write what was drawn into a file where one is named."""
    style = import_module("llmprobe.reporting.charts.style")
    with style.users_style(asked.get("style")):
        figure = draw(_look(kind, asked))
        # Ticks are made when they are first drawn, and should have the style of this moment.
        figure.draw_without_rendering()
        if path is not None:
            style.write_one(figure, Path(path))
    return figure


def _asked(
    results: Results, name: str, options: PlotOptions
) -> tuple[FigureKind, str, Results, dict[str, Any]]:
    """Return the kind of figure, its part of the name, the results to draw, and the options."""
    asked = _known(name, options, PlotOptions)
    kind = FIGURES[name] if name in FIGURES else figure_kind(name) or FIGURES[name]
    part = name.removeprefix(kind.name).removeprefix("_")
    selection = {key: asked[key] for key in ("models", "datasets", "layers") if key in asked}
    chosen = select(results, **selection)
    if kind.name == "heatmap":
        # A run draws all metrics; here one is wanted.
        main = [metric.name for metric in main_metrics(chosen.curves)[:1]]
        asked.setdefault("metric", part or "".join(main))
    return kind, part, chosen, asked


def _known(name: str, options: Mapping[str, Any], known: type) -> dict[str, Any]:
    """Return the options that are given; raise ``UserError`` for one that is not known."""
    for option in options:
        if option not in known.__annotations__ and option not in LookOptions.__annotations__:
            names = {*known.__annotations__, *LookOptions.__annotations__}
            raise UserError(f"{name}: there is no option {option!r}; {suggestion(option, names)}")
    return {option: value for option, value in options.items() if value is not None}


def _look(kind: FigureKind, options: Mapping[str, Any]) -> Look:
    for option in ("ax", "cmap", "metric"):
        if option in options and option not in kind.takes:
            able = sorted(name for name, other in FIGURES.items() if option in other.takes)
            raise UserError(f"{kind.name}: takes no {option}; {listed(able)} do")
    if "figsize" in options and "width" in options:
        raise UserError("figsize has a width already; give one of figsize and width")
    if "metric" in options:
        METRICS[options["metric"]]
    width, height = _width(options.get("width")), None
    if "figsize" in options:
        width, height = map(float, options["figsize"])
    cmap = options.get("cmap")
    if cmap is not None:
        cmap = import_module("llmprobe.reporting.charts.style").colour_map(cmap)
    layer = None
    if "layers" in options and "layer" in kind.takes:
        asked = options["layers"]
        layers = [asked] if isinstance(asked, int) else list(asked)
        if len(layers) != 1:
            raise UserError(f"{kind.name}: layers: {layers}; give one, whose probes it shows")
        layer = layers[0]
    return Look(
        options.get("ax"), width, height, options.get("title"), cmap, options.get("metric"), layer
    )


def _width(width: float | str | None) -> float | None:
    if width is None:
        return None
    try:
        inches = WIDTHS[width] if width in WIDTHS else float(width)  # type: ignore[index]
    except ValueError:
        raise UserError(
            f"width: {width!r} is neither inches nor a preset; {suggestion(str(width), WIDTHS)}"
        ) from None
    if not _NARROWEST <= inches <= 100:
        raise UserError(f"width: {inches:g} inches; give {_NARROWEST} to 100")
    return inches


def _only(kind: FigureKind, drawn: Mapping[str, Figure], part: str) -> Figure:
    """Return the figure that is meant among those that were drawn."""
    if not drawn:
        raise UserError(f"{kind.name}: these results have nothing to draw there")
    by_file = {file_name(of): figure for of, figure in drawn.items()}
    if part in by_file:
        return by_file[part]
    if len(drawn) == 1 and not part:
        return next(iter(drawn.values()))
    known = [f"{kind.name}_{of}" for of in by_file]
    raise UserError(f"{kind.name}: which one of {listed(known)}?")


def _data(results: Results, layers: int | Iterable[int] | None) -> Iterator[str]:
    """Yield sentences about the data that a figure shows."""
    curves = results.curves
    models, datasets = (
        list(dict.fromkeys(getattr(curve, name) for curve in curves)) for name in ("model", "title")
    )
    if not curves:
        models = [str(name) for name in results.transfer["model"].unique()]
    what = _counted(models, "models")
    if datasets:
        what += f" on {_counted(datasets, 'datasets')}"
    sizes = sorted({int(curve.number("n_examples")) for curve in curves})
    if sizes:
        each = " each" if len(datasets) > 1 and len(sizes) == 1 else ""
        among = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
        what += f" ({among} examples{each})"
    yield f"{what}."
    sites = sorted({curve.site for curve in curves} - {""})
    positions = sorted({curve.position for curve in curves} - {""})
    if sites:
        yield f"Site: {listed(sites)}; position: {listed(positions)}."
    if layers is not None:
        numbers = [layers] if isinstance(layers, int) else list(layers)
        yield f"Layers: {listed([str(layer) for layer in numbers])}."
    yield "Scores are of examples on which no probe was fitted; intervals are of 95 %."
    # Imported by name, since the package exports higher layers, such as extraction.
    yield f"Drawn with llmprobe {import_module('llmprobe').__version__}."


def _counted(names: list[str], what: str) -> str:
    return listed(names) if len(names) <= _MOST_LISTED else f"{len(names)} {what}"
