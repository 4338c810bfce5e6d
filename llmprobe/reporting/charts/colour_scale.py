"""Scores as colours: light at chance, darker the farther from it, another hue below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, FuncNorm, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from llmprobe.reporting.charts.style import em, text_width, wrapped
from llmprobe.results.curve import Curve
from llmprobe.results.metrics import Metric

# Lightness falls in equal steps away from the middle; blue and orange differ for every eye.
_ABOVE = ("#f3f3f3", "#9bc2de", "#4d8fbd", "#005d94", "#002c64")
_BELOW = ("#762904", "#a95219", "#d58249", "#f2b791")
CHANCE_MAP = LinearSegmentedColormap.from_list("chance", [*_BELOW, *_ABOVE])
"""Light at chance (the middle), blue above it, orange below it."""

_ALL_NEAR_ONE = 0.8
_TOP_NEAR_ONE = 0.999


def text_colour(place: float, colours: Colormap = CHANCE_MAP) -> str:
    """Return the colour of text on the colour of a map at ``place``, 0 to 1."""
    red, green, blue, _ = colours(place)
    return "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.55 else "black"


class ColourScale(NamedTuple):
    """The colours of one figure.

    Colour is the share of the way from chance to a perfect score, so datasets of different class
    balance share one scale. If all scores are near 1 and would look the same, it is the
    logarithm of what is missing to 1: equal steps for 90 %, 99 % and 99.9 % of the way.
    """

    metric: Metric
    """What the colours show."""
    norm: Normalize
    """From levels (shares of the way from chance to a perfect score) to colours."""
    lowest: float
    """The least level that is shown."""
    chances: tuple[float, float]
    """The least and the greatest chance of a dataset."""
    near_one: bool
    """Whether colours are the logarithm of what is missing to a perfect score."""
    colours: Colormap = CHANCE_MAP
    """The colour map; its middle is chance."""

    @classmethod
    def of(
        cls, curves: Sequence[Curve], metric: Metric, colours: Colormap = CHANCE_MAP
    ) -> ColourScale:
        """Return the scale for curves that have the metric."""
        levels = np.concatenate([curve.levels(metric) for curve in curves])
        lowest, highest = float(np.nanmin(levels)), float(np.nanmax(levels))
        signed = metric.name == "selectivity"
        near_one = lowest > _ALL_NEAR_ONE and metric.perfect == 1 and not signed
        if near_one:
            below = 1 - 1 / (1 - _TOP_NEAR_ONE)
            norm: Normalize = FuncNorm((_nines, _from_nines), below, _TOP_NEAR_ONE)
        elif signed:
            widest = min(1, max(0.5, abs(lowest), abs(highest)))
            norm = Normalize(-widest, widest)
        else:
            norm = Normalize(-1, 1)
        chances = [curve.chance(metric) for curve in curves]
        return cls(metric, norm, lowest, (min(chances), max(chances)), near_one, colours)

    def written(self, score: float) -> str:
        """Return a score as figures show it, with a third decimal if all are near 1."""
        return f"{score:.{3 if self.near_one else 2}f}".replace("-", "−")

    def text_colour(self, level: float) -> str:
        """Return the colour of text on the colour of ``level``."""
        return text_colour(self.norm(level), self.colours)

    @property
    def _shares_chance(self) -> bool:
        return self.chances[1] - self.chances[0] <= 0.02

    def draw(self, figure: Figure, bar: Axes | None, inches: float, below: Axes) -> None:
        """Draw the colour bar, from the lowest level there is (or chance) to a perfect score.

        Its ticks are scores if the datasets share one chance, else levels.

        Parameters
        ----------
        bar
            The axes to draw it on; by default it takes room from the panel above it.
        inches
            The width of the bar.
        below
            The panel above the bar.
        """
        top, floor = float(self.norm.vmax or 1), float(self.norm.vmin or -1)
        bottom = min(0, max(floor, self.lowest))
        colours = ScalarMappable(self.norm, self.colours)
        cut = "min" if self.lowest < floor else "neither"
        where: dict[str, Any] = {"cax": bar} if bar else {"ax": below, "pad": 0.18, "aspect": 30}
        bar = figure.colorbar(colours, orientation="horizontal", extend=cut, **where).ax
        levels, texts = self._ticks(top - bottom)
        texts = [text.replace("-", "−") for text in texts]
        visible = np.flatnonzero((levels > bottom - 1e-6) & (levels < top + 1e-6))
        shown = _apart(visible, levels * inches / (top - bottom), texts)
        bar.set_xticks(levels[shown], [texts[tick] for tick in shown])
        bar.minorticks_off()
        bar.set_xlim(bottom, top)
        share = f": share of the way from chance to {self.metric.perfect:g}"
        meaning = self.metric.label + ("" if self._shares_chance else share)
        bar.set_xlabel(wrapped(meaning, inches + 4 * em()))
        bar.axvline(0, color="black", linewidth=1)
        low, high = self.chances
        chance = f"{(low + high) / 2:.2f}" if self._shares_chance else f"{low:.2f}–{high:.2f}"
        anchor = self.metric.chance_name
        bar.text(
            0,
            1.1,
            f"chance {chance}" if anchor == "chance" else anchor,
            transform=bar.get_xaxis_transform(),
            ha="left" if bottom > -0.1 * top else "center",
            va="bottom",
            fontsize="small",
        )

    def _ticks(self, span: float) -> tuple[np.ndarray, list[str]]:
        """Return levels and their labels; ``span`` is the range of levels that is shown."""
        chance = self.chances[0]
        way = self.metric.perfect - chance
        if self.near_one:
            ticks = np.array([0, 0.5, 0.9, 0.97, 0.99, 0.997, 0.999])
        elif self._shares_chance and abs(span * way) < 1.05:
            ticks = np.arange(-10, 11) / 10
        else:
            ticks = np.array([-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1])
        if self._shares_chance:
            return (ticks - chance) / way, [f"{score:g}" for score in ticks]
        return ticks, [f"{100 * level:g} %" for level in ticks]


def _apart(shown: np.ndarray, places: np.ndarray, texts: Sequence[str]) -> list[int]:
    """Return which ticks have room, from the last on; ``places`` are in inches."""
    kept: list[int] = []
    for tick in map(int, reversed(shown)):
        room = places[kept[0]] - places[tick] if kept else np.inf
        halves = sum(text_width(texts[one]) for one in (tick, *kept[:1])) / 2
        if room > halves + 0.4 * em():
            kept.insert(0, tick)
    return kept


def _nines(level: np.ndarray) -> np.ndarray:
    """Return how many nines a level has (0.9 -> 1, 0.99 -> 2), at most as many as the top."""
    return np.asarray(-np.log10(np.maximum(1 - np.asarray(level), 1 - _TOP_NEAR_ONE)))


def _from_nines(nines: np.ndarray) -> np.ndarray:
    return np.asarray(1 - 10.0 ** -np.asarray(nines))
