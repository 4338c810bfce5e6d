"""Curves: one model on one dataset at one position, over the layers.

Each is built once, for all code that shows or assesses it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from llmprobe.config.schema import file_name
from llmprobe.ground.notebook import ShownInNotebooks
from llmprobe.ground.text import elide
from llmprobe.results.columns import CURVE
from llmprobe.results.metrics import METRICS, Metric

FEWEST_RELABELLINGS = 20
"""Different labellings without which no p-value could be 0.05."""

SURE = 0.05
"""A p-value of at most this counts as above chance, or as a difference."""
FAR_BELOW = 0.05
"""How far below chance is suspicious. Without signal, cross-validated scores are a little below."""


@dataclass(frozen=True, eq=False)
class Curve(ShownInNotebooks):
    """The scores of one model on one dataset at one position, over layers, and the best of them."""

    rows: pd.DataFrame
    """Rows of the results, one for each layer in rising order, with an index from 0."""
    summary: Mapping[Any, Any]
    """The row of the summary. A number that was not asked for is NaN."""
    among_positions: bool = False
    """Whether its run has the dataset at other positions too."""
    multi_layer: Mapping[Any, Any] | None = None
    """The row of the results of a probe that reads several layers at once; None without one."""

    def __repr__(self) -> str:
        where = f"{elide(self.model, 60)!r} on {elide(self.title, 60)!r}"
        if self.layer is None:
            return f"Curve({where}: no layer was scored)"
        score = f"{self.metric.label} {self.score:.2f} [{self.low:.2f}, {self.high:.2f}]"
        return f"Curve({where}: {score} at layer {self.layer} of {self.blocks})"

    @property
    def model(self) -> str:
        """Return the name of the model."""
        return str(self.summary["model"])

    @property
    def dataset(self) -> str:
        """Return the name of the dataset."""
        return str(self.summary["dataset"])

    @property
    def position(self) -> str:
        """Return which token's states were read; empty for networks that read no text."""
        return str(self.summary["position"])

    @property
    def key(self) -> tuple[str, str, str]:
        """Return model, dataset and position, which identify a curve in its run."""
        return self.model, self.dataset, self.position

    @property
    def title(self) -> str:
        """Return the name of the dataset, with the position if its run has several of them."""
        return curve_title(self.dataset, self.position if self.among_positions else "")

    @property
    def file_name(self) -> str:
        """Return the title as part of file names."""
        return curve_file_name(self.dataset, self.position if self.among_positions else "")

    @property
    def site(self) -> str:
        """Return where in a block the states were read; empty for networks that read no text."""
        return str(self.rows["site"].iloc[0]) if len(self.rows) else ""

    @property
    def metric(self) -> Metric:
        """Return the main metric, which is shown for the dataset."""
        return METRICS[str(self.summary["main_score"])]

    @property
    def layers(self) -> list[int]:
        """Return the layers in rising order."""
        return [int(layer) for layer in self.rows["layer"]]

    @property
    def depths(self) -> np.ndarray:
        """Return layer / number of blocks of each layer. [layers]"""
        depths: np.ndarray = self.rows["depth"].to_numpy(float)
        return depths

    @property
    def names(self) -> list[str]:
        """Return the names of the layers; empty for language models, whose layers have none."""
        if "layer_name" not in self.rows or self.rows["layer_name"].isna().any():
            return []
        return [str(name) for name in self.rows["layer_name"]]

    def column(self, name: str) -> np.ndarray:
        """Return a column of the results as numbers [layers], NaN where it is not there."""
        if name not in self.rows:
            return np.full(len(self.rows), np.nan)
        values: np.ndarray = pd.to_numeric(self.rows[name], errors="coerce").to_numpy(float)
        return values

    def number(self, name: str) -> float:
        """Return a number of the summary, NaN where it is not there."""
        value = self.summary.get(name)
        return float("nan") if value is None or pd.isna(value) else float(value)

    def has(self, metric: Metric) -> bool:
        """Whether any layer has a value of the metric."""
        return bool(np.isfinite(self.column(metric.name)).any())

    def chance(self, metric: Metric | None = None) -> float:
        """Return what a probe that learned nothing scores; NaN where that is not known."""
        chances = (metric or self.metric).chance_of(self.rows)
        return float(chances.max()) if len(chances) else float("nan")

    def levels(self, metric: Metric) -> np.ndarray:
        """Return each layer's share of the way from chance to a perfect score. [layers]"""
        chance = self.chance(metric)
        levels: np.ndarray = (self.column(metric.name) - chance) / (metric.perfect - chance)
        return levels

    def best(self, metric: Metric) -> int | None:
        """Return the index of the best layer by a metric, None where no layer has a value of it.

        For the main metric it is the summary's best layer, which the held-out loss chose. So it is
        for selectivity, since the layer with the highest selectivity may read nothing. Of equal
        layers it is the one with the least loss.
        """
        if metric.name in (self.metric.name, "selectivity") and self.layer in self.layers:
            return self.layers.index(self.layer)
        levels, losses = self.levels(metric), np.nan_to_num(self.column("log_loss"))
        if np.isnan(levels).all():
            return None
        return int(np.lexsort((losses, -np.nan_to_num(levels, nan=-np.inf)))[0])

    @property
    def layer(self) -> int | None:
        """Return the best layer, None where no layer was scored."""
        layer = self.number("peak_layer")
        return None if np.isnan(layer) else int(layer)

    @property
    def highest_elsewhere(self) -> int | None:
        """Return the index of the layer with the highest score, None where it is the best layer."""
        scores = self.column(self.metric.name)
        if self.layer not in self.layers or np.isnan(scores).all():
            return None
        highest = int(np.nanargmax(scores))
        return None if scores[highest] <= self.score else highest

    @property
    def search_metric(self) -> str:
        """Return the metric of control tasks and learning curves: accuracy, or R² of numbers."""
        return "accuracy" if self.metric.target == "classes" else "r2"

    @property
    def layer_name(self) -> str | None:
        """Return the name of the best layer of a plain network; None where layers have no names."""
        if not self.names or self.layer not in self.layers:
            return None
        return self.names[self.layers.index(self.layer)]

    @property
    def blocks(self) -> int | None:
        """Return the number of blocks of the model, which is also its last layer if all are read.

        For a plain network, it is the number of probe points after the input.
        """
        blocks = self.number("layers")
        return None if np.isnan(blocks) else int(blocks)

    def at_best(self, name: str) -> float:
        """Return a column of the results at the best layer, NaN where there is none."""
        if self.layer not in self.layers:
            return float("nan")
        return float(self.column(name)[self.layers.index(self.layer)])

    @property
    def score(self) -> float:
        """Return the main metric at the best layer."""
        return self.number(f"peak_{self.metric.name}")

    @property
    def low(self) -> float:
        """Return the lower end of the 95 % interval of the score."""
        return self.at_best(f"{self.metric.name}_low")

    @property
    def high(self) -> float:
        """Return the upper end of the 95 % interval of the score."""
        return self.at_best(f"{self.metric.name}_high")

    def rival(self, name: str) -> float:
        """Return the score of one of ``columns.RIVALS``, NaN where it was not asked for.

        For ``random_weights`` it is the score of the untrained network's own best layer.
        """
        return self.number(f"{name}_{self.metric.name}")

    def gain_over(self, rival: str) -> tuple[float, float, float]:
        """Return the score minus that of a rival on the same examples, and its 95 % interval.

        NaN where there is no rival. A run of an earlier version has no interval: its ends are the
        difference itself.
        """
        gain, low, high = (self.number(f"gain_over_{rival}{end}") for end in ("", "_low", "_high"))
        if np.isnan(gain):
            gain = self.score - self.rival(rival)
        return gain, gain if np.isnan(low) else low, gain if np.isnan(high) else high

    def is_inverted(self, rival: str) -> bool:
        """Whether a rival is below chance by more than luck, so that it is no floor.

        Its features then go with one label in training, and with the other one in the scored fold.
        """
        if self.metric.target == "numbers":
            return False
        chance, n = self.chance(), self.at_best("n_groups")
        luck = 2 * np.sqrt(chance * (1 - chance) / n)
        return bool(self.rival(rival) < chance - np.nanmax([luck, FAR_BELOW]))

    @property
    def controls(self) -> dict[str, np.ndarray]:
        """Return the scores of each layer's controls, NaN where not known.

        ``random_weights`` are those of the untrained network, ``random_labels`` those of the
        control task, and ``same_splits`` those of the concept on the splits of the control task.
        Selectivity is the difference of the last two; where it is empty, so are they.
        """
        control, beyond = self.column(f"control_{self.metric.name}"), self.column("selectivity")
        return {
            "random_weights": self.column(f"random_weights_{self.metric.name}"),
            "random_labels": np.where(np.isnan(beyond), np.nan, control),
            "same_splits": control + beyond,
        }

    @property
    def multi_layer_gain(self) -> tuple[float, float, float]:
        """Return by how much a probe of several layers beats the best one, and its 95 % interval.

        NaN where there is none.
        """
        gain, low, high = (self.number(f"multi_layer_gain{end}") for end in ("", "_low", "_high"))
        return gain, low, high

    @property
    def p_value(self) -> float:
        """Return the p-value of the best layer against the best one of each shuffle of labels."""
        return self.number("peak_p_value")

    @property
    def adjusted_p_value(self) -> float:
        """Return the p-value that allows for the other curves of its run, where that is known."""
        adjusted = self.number("peak_p_value_adjusted")
        return self.p_value if np.isnan(adjusted) else adjusted

    @property
    def permutations(self) -> int | None:
        """Return how many shuffles of labels the p-value comes from, None where not known."""
        permutations = self.number("permutations")
        return None if np.isnan(permutations) else int(permutations)

    @property
    def classes(self) -> list[str]:
        """Return the classes in the probes' order; empty for numbers, and where not known."""
        return classes_from_text(self.summary.get("classes"))

    @cached_property
    def above_chance(self) -> bool:
        """Whether the best layer is above chance, given that it is the best of many.

        The adjusted p-value decides, if there were enough permutations for 0.05. Otherwise the
        lower half of the interval is widened to cover all layers at once (Bonferroni): without
        signal, the best of 30 layers would often have its own interval above chance.
        """
        p = self.p_value
        smallest = 0.0 if self.permutations is None else 1 / (self.permutations + 1)
        says_nothing = SURE < p <= smallest
        if not np.isnan(p) and not says_nothing:
            return self.adjusted_p_value <= SURE
        if np.isnan(self.low):
            return self.score > self.chance()
        normal = NormalDist()
        widened = normal.inv_cdf(0.025 / max(len(self.rows), 1)) / normal.inv_cdf(0.025)
        return self.score - widened * (self.score - self.low) > self.chance()

    @property
    def falls_again(self) -> bool:
        """Whether the curve is below half of its rise again after its best layer."""
        return not np.isnan(self.number("falls_below_half_depth"))

    def shown(self, depth: str) -> float:
        """Return a depth or layer of the summary where it describes the curve, else NaN.

        A curve that is not above chance has none, since its rise is noise. Where the curve falls
        again, nothing has converged, and the jump may belong to another rise.
        """
        of_jin = depth.startswith(("jump", "converging"))
        hidden = not self.above_chance or (of_jin and self.falls_again)
        return np.nan if hidden else self.number(depth)


def curves_of(table: pd.DataFrame, summary: pd.DataFrame) -> list[Curve]:
    """Return a curve for each row of the summary, in its order.

    Where a model, dataset and position were probed in several ways, its rows are those of the
    logistic probe, or of the first.
    """
    if summary.empty:
        return []
    by_key = dict(list(table.groupby(list(CURVE), sort=False)))
    curves = []
    for row, several in zip(summary.to_dict("records"), _at_several(summary), strict=True):
        rows = by_key.get(tuple(row[name] for name in CURVE), table.head(0))
        at_once = rows[rows["layers_read"].notna()] if "layers_read" in rows else rows.head(0)
        multi_layer = None if at_once.empty else at_once.iloc[0].to_dict()
        rows = rows.drop(at_once.index)
        curves.append(Curve(_of_one_probe(rows), row, bool(several), multi_layer))
    return curves


def titles(rows: pd.DataFrame) -> pd.Series:
    """Return what the dataset of each row of a table is called, as `Curve.title` says it."""
    told = rows["position"].where(_at_several(rows), "")
    return pd.Series(map(curve_title, rows["dataset"], told), rows.index, dtype=object)


def _at_several(rows: pd.DataFrame) -> pd.Series:
    """Whether the table has the dataset of each row at several positions."""
    return rows.groupby("dataset")["position"].transform("nunique") > 1


def curve_title(dataset: str, position: str = "") -> str:
    """Return ``DATASET @ POSITION``, or the dataset alone without a position."""
    return f"{dataset} @ {position}" if position else dataset


def curve_file_name(dataset: str, position: str = "") -> str:
    """Return ``DATASET@POSITION`` as part of file names, or the dataset alone: ``a@span-city``."""
    return file_name(dataset) + (f"@{file_name(position)}" if position else "")


def _of_one_probe(rows: pd.DataFrame) -> pd.DataFrame:
    probes = list(rows["probe"].unique())
    if len(probes) > 1:
        rows = rows[rows["probe"] == ("logistic" if "logistic" in probes else probes[0])]
    return rows.drop_duplicates("layer").sort_values("layer", ignore_index=True)


def by_dataset(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """Return the curves of each dataset at each position, by title, in the order of appearance."""
    return _grouped(curves, "title")


def by_model(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """Return the curves of each model, in the order in which models first appear."""
    return _grouped(curves, "model")


def _grouped(curves: Sequence[Curve], kind: str) -> dict[str, list[Curve]]:
    groups: dict[str, list[Curve]] = {}
    for name, group in groupby(curves, key=lambda curve: str(getattr(curve, kind))):
        groups.setdefault(name, []).extend(group)
    return groups


def layer_names(curves: Sequence[Curve]) -> dict[int, str]:
    """Return the names of the layers of plain networks, by number.

    Empty where there are language models too. A layer that networks name differently is called by
    its number.
    """
    names: dict[int, set[str]] = {}
    for curve in curves:
        if len(curve.rows) and not curve.names:
            return {}
        for layer, name in zip(curve.layers, curve.names, strict=True):
            names.setdefault(layer, set()).add(name)
    return {layer: str(layer) if len(of) > 1 else of.pop() for layer, of in names.items()}


def main_metrics(curves: Sequence[Curve]) -> list[Metric]:
    """Return the metrics that are a curve's main one, in the order in which tables show them."""
    names = {curve.metric.name for curve in curves}
    return [metric for name, metric in METRICS.items() if name in names]


def same_layers(curves: Sequence[Curve]) -> bool:
    """Whether all models have the same number of layers, so that equal layers are equally deep."""
    return len({(curve.blocks, curve.layers[-1]) for curve in curves if len(curve.rows)}) == 1


def difficulty(curves: Sequence[Curve]) -> dict[str, float]:
    """Compute how far the best of the models falls short of a perfect score, by title, 0 … 1.

    It is 1 - (score - chance) / (1 - chance) of the best layer of the best model; for labels that
    are numbers, of R², whose chance is 0. It is measured, not declared, so facts, generated tasks
    and the variants of one task lie on one axis. It allows for the number and the shares of the
    classes. It is one number for all models, so it compares them on equal terms. It says nothing
    outside this set of models, and a concept that none of them reads has difficulty 1.
    """
    hardness = {}
    for dataset, group in by_dataset(curves).items():
        levels = [(curve.score - curve.chance()) / (1 - curve.chance()) for curve in group]
        best = max((level for level in levels if not np.isnan(level)), default=np.nan)
        hardness[dataset] = float(np.clip(1 - best, 0, 1))
    return hardness


def classes_from_text(value: Any) -> list[str]:
    """Return the classes that a cell of the summary holds as a JSON list; empty for none."""
    if not isinstance(value, str) or not value:
        return []
    return [str(name) for name in json.loads(value)]
