"""Scores as colours: light at chance, darker the farther from it, another hue below it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import FuncNorm, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from llmprobe.results.peaks import chance_accuracy, main_probe

# Lightness falls in equal steps away from the middle; blue and orange differ for every eye.
_ABOVE = ("#f3f3f3", "#9bc2de", "#4d8fbd", "#005d94", "#002c64")
_BELOW = ("#762904", "#a95219", "#d58249", "#f2b791")
CHANCE_MAP = LinearSegmentedColormap.from_list("chance", [*_BELOW, *_ABOVE])
"""Light at chance (the middle), blue above it, orange below it."""

NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "r2": "R²",
    "selectivity": "selectivity",
}
"""Each metric that can be shown as colours, and what it is called."""

_ANCHORS = {"r2": "as the mean", "selectivity": "as random labels"}
"""What a score of 0 is as good as, where that is not called chance."""
_ALL_NEAR_ONE = 0.8
_TOP_NEAR_ONE = 0.999


def scored(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows that a heatmap shows, of models and datasets that have the metric.

    -> the rows of one probe, one for each model, dataset and layer, with the columns ``score``,
    ``chance`` (what a probe that learned nothing scores), ``level`` (the share of the way from
    chance to 1) and ``marked``: whether this is the best layer by ``score``; for selectivity, by
    accuracy or R², since the layer with the highest selectivity may read nothing. Of equals, the
    best has the least loss, as in the summary.
    """
    rows = main_probe(results).drop_duplicates(["model", "dataset", "layer"])
    score = rows[metric].astype(float)
    rows = rows.assign(score=score, chance=_chance(rows, metric))
    rows["level"] = (score - rows["chance"]) / (1 - rows["chance"])
    one_curve = ["model", "dataset"]
    known = rows.groupby(one_curve)["score"].transform("count") > 0
    rows = rows[known].reset_index(drop=True)
    rows["best_by"] = rows["score"]
    if metric == "selectivity":
        rows["best_by"] = rows["accuracy"].fillna(rows.get("r2", np.nan))
    ranked = rows.dropna(subset=["score", "best_by"]).sort_values(
        ["best_by", *(["log_loss"] if "log_loss" in rows else [])],
        ascending=[False, *([True] if "log_loss" in rows else [])],
        kind="stable",
    )
    rows["marked"] = rows.index.isin(ranked.groupby(one_curve).head(1).index)
    return rows


def _chance(rows: pd.DataFrame, metric: str) -> pd.Series:
    if metric == "accuracy":
        return chance_accuracy(rows)
    if metric == "balanced_accuracy":
        return 1 / rows["n_classes"].astype(float)
    return pd.Series({"auroc": 0.5, "selectivity": 0.0, "r2": 0.0}[metric], index=rows.index)


class ColourScale(NamedTuple):
    """The colours of one figure.

    Colour is the share of the way from chance to a perfect score, so datasets of different class
    balance share one scale. Where all scores are near 1 and would look the same, it is the
    logarithm of what is missing to 1: equal steps for 90 %, 99 % and 99.9 % of the way.
    """

    metric: str
    norm: Normalize
    lowest: float
    """Level."""
    chances: tuple[float, float]
    """The least and the greatest."""
    near_one: bool

    @classmethod
    def of(cls, rows: pd.DataFrame, metric: str) -> ColourScale:
        """For the rows that ``scored`` gives."""
        lowest, highest = float(rows["level"].min()), float(rows["level"].max())
        near_one = lowest > _ALL_NEAR_ONE and metric != "selectivity"
        if near_one:
            below = 1 - 1 / (1 - _TOP_NEAR_ONE)
            norm: Normalize = FuncNorm((_nines, _from_nines), below, _TOP_NEAR_ONE)
        elif metric == "selectivity":
            widest = min(1, max(0.5, abs(lowest), abs(highest)))
            norm = Normalize(-widest, widest)
        else:
            norm = Normalize(-1, 1)
        chances = float(rows["chance"].min()), float(rows["chance"].max())
        return cls(metric, norm, lowest, chances, near_one)

    @property
    def decimals(self) -> int:
        """With which scores are written."""
        return 3 if self.near_one else 2

    def text_colour(self, level: float) -> str:
        """Of a number that stands on the colour of ``level``."""
        red, green, blue, _ = CHANCE_MAP(self.norm(level))
        return "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.55 else "black"

    @property
    def _shares_chance(self) -> bool:
        return self.chances[1] - self.chances[0] <= 0.02

    def draw(self, figure: Figure, bar: Axes) -> None:
        """The colour bar, from the lowest level there is (or chance) to a perfect score.

        Its ticks are scores if the datasets share one chance, else levels.
        """
        top, floor = float(self.norm.vmax or 1), float(self.norm.vmin or -1)
        bottom = min(0, max(floor, self.lowest))
        colours = ScalarMappable(self.norm, CHANCE_MAP)
        cut = "min" if self.lowest < floor else "neither"
        figure.colorbar(colours, cax=bar, orientation="horizontal", extend=cut)
        levels, texts = self._ticks(top - bottom)
        shown = np.flatnonzero((levels > bottom - 1e-6) & (levels < top + 1e-6))
        bar.set_xticks(levels[shown], [texts[tick].replace("-", "−") for tick in shown])
        bar.minorticks_off()
        bar.set_xlim(bottom, top)
        of_levels = "" if self._shares_chance else ": share of the way from chance to 1"
        bar.set_xlabel(NAMES[self.metric] + of_levels)
        bar.axvline(0, color="black", linewidth=1)
        low, high = self.chances
        chance = f"{(low + high) / 2:.2f}" if self._shares_chance else f"{low:.2f}–{high:.2f}"
        bar.text(
            0,
            1.1,
            _ANCHORS.get(self.metric, f"chance {chance}"),
            transform=bar.get_xaxis_transform(),
            ha="left" if bottom > -0.02 * top else "center",
            va="bottom",
            fontsize=7,
        )

    def _ticks(self, span: float) -> tuple[np.ndarray, list[str]]:
        """Levels, and what is written there; ``span`` is the range of levels that is shown."""
        chance = self.chances[0]
        if self.near_one:
            ticks = np.array([0, 0.5, 0.9, 0.97, 0.99, 0.997, 0.999])
        elif self._shares_chance and span * (1 - chance) < 1.05:
            ticks = np.arange(-10, 11) / 10
        else:
            ticks = np.array([-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1])
        if self._shares_chance:
            return (ticks - chance) / (1 - chance), [f"{score:g}" for score in ticks]
        return ticks, [f"{100 * level:g} %" for level in ticks]


def _nines(level: np.ndarray) -> np.ndarray:
    """0.9 -> 1, 0.99 -> 2, …; a perfect score is as dark as the top."""
    return np.asarray(-np.log10(np.maximum(1 - np.asarray(level), 1 - _TOP_NEAR_ONE)))


def _from_nines(nines: np.ndarray) -> np.ndarray:
    return np.asarray(1 - 10.0 ** -np.asarray(nines))
