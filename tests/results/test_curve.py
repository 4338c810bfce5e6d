"""The best layer of a curve, what it is compared with, and whether it is above chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from llmprobe.results.curve import Curve
from llmprobe.results.metrics import METRICS


def curve(layers: Mapping[str, Any] | None = None, n: int = 31, **summary: Any) -> Curve:
    """A curve of n layers that is best, at 0.53 [0.51, 0.55], at layer 0; with changes."""
    rows = pd.DataFrame({"layer": np.arange(n), "depth": np.arange(n) / max(n - 1, 1)})
    scores = {"accuracy": 0.53, "accuracy_low": 0.51, "accuracy_high": 0.55, "n_classes": 2,
              "majority_accuracy": 0.5, "log_loss": 1.0}  # fmt: skip
    known = {"model": "m", "dataset": "d", "position": "last", "main_score": "accuracy",
             "peak_layer": 0, "peak_accuracy": 0.53}  # fmt: skip
    return Curve(rows.assign(**(scores | dict(layers or {}))), known | summary)


@pytest.mark.parametrize(
    ("low", "p_value", "n", "above"),
    [
        (0.49, np.nan, 1, False),
        (0.51, np.nan, 1, True),
        (0.51, np.nan, 31, False),  # The best of 31 is as high by luck.
        (0.52, np.nan, 31, True),
        (0.51, 0.2, 1, False),
        (0.49, 0.01, 31, True),
        (0.49, 1 / 20, 31, True),
        (0.52, 1 / 10, 31, False),
        (np.nan, np.nan, 31, True),
    ],
)
def test_the_best_of_many_layers_is_above_chance_by_its_p_value_or_a_wider_interval(
    low: float, p_value: float, n: int, above: bool
) -> None:
    assert curve({"accuracy_low": low}, n, peak_p_value=p_value).above_chance is above


@pytest.mark.parametrize(
    ("low", "p_value", "permutations", "above"),
    [
        (0.51, 1 / 10, 9, True),  # As small as it can be: the interval says it.
        (0.49, 1 / 10, 9, False),
        (0.51, 2 / 10, 9, False),
        (0.51, 1 / 19, 18, True),
        (0.49, 1 / 20, 19, True),
        (0.51, 2 / 20, 19, False),
        (0.51, 10 / 100, 99, False),
    ],
)
def test_a_p_value_that_could_not_be_smaller_is_not_held_against_the_best_layer(
    low: float, p_value: float, permutations: int, above: bool
) -> None:
    of_one = curve({"accuracy_low": low}, 1, peak_p_value=p_value, permutations=permutations)
    assert of_one.above_chance is above


DEPTHS = {"jump_layer": 1, "converging_depth": 0.9, "stays_above_half_depth": 0.3}


@pytest.mark.parametrize(
    ("low", "falls", "shown"),
    [
        (0.51, np.nan, {*DEPTHS}),
        (0.51, 0.6, {"stays_above_half_depth", "falls_below_half_depth"}),  # It is gone again.
        (0.49, np.nan, set()),  # The interval reaches chance: without permutations, that decides.
        (0.49, 0.6, set()),
    ],
)
def test_a_depth_is_shown_only_of_a_rise_that_it_fits(
    low: float, falls: float, shown: set[str]
) -> None:
    one = curve({"accuracy_low": low}, 1, **DEPTHS, falls_below_half_depth=falls)
    known = (*DEPTHS, "falls_below_half_depth")
    assert {name for name in known if np.isfinite(one.shown(name))} == shown
    assert [one.number(name) for name in DEPTHS] == list(DEPTHS.values())


def test_chance_without_the_majority_is_that_of_guessing() -> None:
    guessed = {"majority_accuracy": np.nan, "n_classes": 4}
    assert curve(guessed).chance() == 0.25
    for low, above in ((0.3, True), (0.2, False)):
        assert curve(guessed | {"accuracy_low": low}, 1).above_chance is above


def test_of_equal_layers_the_best_has_the_least_loss() -> None:
    layers = {"auroc": [0.7, 0.9, 0.9], "log_loss": [0.1, 0.6, 0.5]}
    assert curve(layers, 3).best(METRICS["auroc"]) == 2


def test_the_best_layer_by_selectivity_is_the_one_that_reads_best() -> None:
    layers = {"accuracy": [0.9, 0.6], "selectivity": [0.2, 0.3]}
    assert curve(layers, 2).best(METRICS["selectivity"]) == 0


def test_a_metric_that_no_layer_has_has_no_best_one() -> None:
    assert curve().best(METRICS["auroc"]) is None


def test_a_curve_is_above_chance_by_the_p_value_that_allows_for_the_other_curves() -> None:
    by_luck = curve(peak_p_value=0.01, peak_p_value_adjusted=0.28, permutations=100)
    assert not by_luck.above_chance
    assert curve(peak_p_value=0.01, peak_p_value_adjusted=0.04, permutations=100).above_chance
    assert curve(peak_p_value=0.01, permutations=100).adjusted_p_value == 0.01
