"""Concept depth of hand-made curves, and of the curves that Jin et al. published."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from llmprobe.probing.depth import converging_layer, jump_layer

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "datasets" / "jin2024_published"


@pytest.mark.parametrize(
    ("curve", "layer"),
    [
        ([0.5, 0.5, 0.6, 0.9], 2),
        ([0.5, 0.55, 0.9], 1),  # exactly 1.1 times counts, whatever the rounding
        ([0.33, 0.363, 0.363], 1),
        ([0.5, 0.54, 0.59, 0.64], None),  # a slow rise is no jump
        ([0.9, 0.5, 0.5], None),  # nor is a fall
        ([0.9, 0.5, 0.6], 2),
        ([0.0, 0.0, 0.3], 2),  # nothing after nothing is none either
        ([0.5], None),
    ],
)
def test_the_jump_is_the_first_rise_by_a_tenth(curve: list[float], layer: int | None) -> None:
    assert jump_layer(curve) == layer


@pytest.mark.parametrize(
    ("curve", "layer"),
    [
        ([0.5, 0.6, 0.8, 0.9, 0.9, 0.91], 4),
        ([0.5, 0.6, 0.8, 0.9, 0.9, 0.8], 5),  # never after the last layer
        ([0.5, 0.9, 0.9, 0.87, 0.87, 0.87], 4),  # a fall by 3 % is a change too
        ([0.4, 0.4, 0.4, 0.412, 0.412, 0.412], 4),  # exactly 3 % counts, whatever the rounding
        ([0.7, 0.7, 0.7, 0.679, 0.679, 0.679], 4),
        ([1.0, 1.0, 0.971, 0.971, 0.971], 2),
        ([0.5, 0.5, 0.5, 0.5], 2),  # without a change, the first counts as one
        ([0.0, 0.0, 0.5, 0.5, 0.5], 3),
        ([0.5, 0.9], 1),
        ([0.5], 0),
    ],
)
def test_the_curve_converges_after_its_last_change(curve: list[float], layer: int) -> None:
    assert converging_layer(curve) == layer


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"{PUBLISHED} is not here")
def test_published_curves_converge_where_published() -> None:
    curves = pd.read_csv(PUBLISHED / "layer_curves_7B.csv")
    points = pd.read_csv(PUBLISHED / "converging_point.csv").set_index("model")
    found, published = {}, {}
    for (dataset, model), curve in curves.groupby(["dataset", "model"]):
        accuracies = curve.sort_values("layer0based")["accuracy"].to_list()
        found[dataset, model] = converging_layer(accuracies) + 1
        published[dataset, model] = points.loc[model, f"{dataset}_layer1based"]
    assert len(found) == 27
    assert found == published
