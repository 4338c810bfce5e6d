"""The curve of one model on one dataset: its layers, its best one, and what that is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd


def main_probe(results: pd.DataFrame) -> pd.DataFrame:
    """The rows of the probe that figures show: the logistic one, or the first of the table."""
    probes = results["probe"].unique()
    if len(probes) == 0:
        return results
    return results[results["probe"] == ("logistic" if "logistic" in probes else probes[0])]


def main_score(results: pd.DataFrame) -> str:
    """The column that the best layer is the best by: accuracy, or R² of labels that are numbers."""
    return "r2" if "r2" in results and results["accuracy"].isna().all() else "accuracy"


def layer_names(results: pd.DataFrame) -> dict[int, str]:
    """What the layers of plain networks are called; empty where there are language models too.

    Where networks call the same layer differently, its number.
    """
    if "layer_name" not in results or results["layer_name"].isna().any():
        return {}
    found: dict[int, set[str]] = {}
    for layer, name in zip(results["layer"], results["layer_name"], strict=True):
        found.setdefault(int(layer), set()).add(str(name))
    return {layer: str(layer) if len(names) > 1 else names.pop() for layer, names in found.items()}


SCORE_NAMES = {"accuracy": "accuracy", "r2": "R²"}


def chance_accuracy(rows: pd.DataFrame) -> pd.Series:
    """Accuracy of the majority class; 1 / number of classes where that was not asked for."""
    return rows["majority_accuracy"].astype(float).fillna(1 / rows["n_classes"].astype(float))


@dataclass(frozen=True)
class Peak:
    """The best layer of one model on one dataset, and what it has to be compared with.

    A number that was not asked for is NaN, a layer that does not exist None.
    """

    model: str
    dataset: str
    layer: int | None
    blocks: int | None
    """Number of blocks of the model (of probe points after the input, for a plain network), which
    is also its last layer."""
    n_examples: float
    score: float
    """Accuracy, or R² of labels that are numbers."""
    low: float
    """Lower end of the 95 % interval of the score."""
    high: float
    auroc: float
    chance: float
    """Accuracy of always answering the most frequent class (where that was not asked for, 1 /
    number of classes); R² of the mean, 0."""
    bag_of_words: float
    p_value: float
    curve: pd.Series
    """Score of each layer, indexed by layer."""
    permutations: int | None = None
    """Refits behind the p-value; where it is not known, they are taken to be enough."""
    layer_name: str | None = None
    """What the layer is called in a plain network; the layers of language models have no names."""

    @property
    def above_chance(self) -> bool:
        """Whether the best layer is above chance, given that it is the best of many.

        By its p-value if there is one and permutations were enough for it to be 0.05. Otherwise
        the interval's lower half is widened to what covers all layers at once (Bonferroni): the
        best of 30 layers without signal would often have an interval of its own above chance.
        """
        if not np.isnan(self.p_value) and not self._p_value_says_nothing:
            return self.p_value <= 0.05
        if np.isnan(self.low):
            return self.score > self.chance
        normal = NormalDist()
        widened = normal.inv_cdf(0.025 / max(len(self.curve), 1)) / normal.inv_cdf(0.025)
        return self.score - widened * (self.score - self.low) > self.chance

    @property
    def _p_value_says_nothing(self) -> bool:
        """Whether p is above 0.05, and yet as small as so few permutations can make it."""
        smallest = 0.0 if self.permutations is None else 1 / (self.permutations + 1)
        return 0.05 < self.p_value <= smallest


def peaks(
    results: pd.DataFrame, summary: pd.DataFrame, permutations: int | None = None
) -> list[Peak]:
    """One ``Peak`` for each row of ``summary``, in its order."""
    curves = dict(list(main_probe(results).groupby(["model", "dataset"])))
    return [
        _peak(row, curves.get((row["model"], row["dataset"]), results.head(0)), permutations)
        for row in summary.to_dict("records")
    ]


def _peak(row: Mapping[Any, Any], layers: pd.DataFrame, permutations: int | None) -> Peak:
    """The peak that a row of the summary names, completed from the results of its layers."""
    layer = _integer(row["peak_layer"])
    at_peak = layers[layers["layer"] == layer].to_dict("records")
    scores: Mapping[Any, Any] = at_peak[0] if at_peak else {}
    score = main_score(layers)
    chance = chance_accuracy(layers).max() if score == "accuracy" else 0.0
    return Peak(
        model=str(row["model"]),
        dataset=str(row["dataset"]),
        layer=layer,
        blocks=_integer(row["layers"]),
        n_examples=_number(row["n_examples"]),
        score=_number(row[f"peak_{score}"]),
        low=_number(scores.get(f"{score}_low")),
        high=_number(scores.get(f"{score}_high")),
        auroc=_number(scores.get("auroc")),
        chance=_number(chance),
        bag_of_words=_number(row[f"bag_of_words_{score}"]),
        p_value=_number(row["peak_p_value"]),
        curve=layers.set_index("layer")[score].sort_index(),
        permutations=permutations,
        layer_name=layer_names(layers).get(-1 if layer is None else layer),
    )


def _number(value: Any) -> float:
    return float("nan") if pd.isna(value) else float(value)


def _integer(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)
