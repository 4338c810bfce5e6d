"""Concept depth of hand-made curves, and of the curves that Jin et al. published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llmprobe.results.depth import (
    above_half,
    concept_depth,
    converging_layer,
    half_depths,
    jump_layer,
)

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "datasets" / "jin2024_published"
NONE = np.nan
JUMPS = [
    ([0.5, 0.5, 0.6, 0.9], 2),
    ([0.5, 0.55, 0.9], 1),  # exactly 1.1 times counts, whatever the rounding
    ([0.33, 0.363, 0.363], 1),
    ([0.5, 0.54, 0.59, 0.64], NONE),  # a slow rise is no jump
    ([0.9, 0.5, 0.5], NONE),  # nor is a fall
    ([0.9, 0.5, 0.6], 2),
    ([0.0, 0.0, 0.3], 2),  # nothing after nothing is none either
    ([0.5], NONE),
]
CONVERGENCES = [
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
]


@pytest.mark.parametrize(("curve", "layer"), JUMPS)
def test_the_jump_is_the_first_rise_by_a_tenth(curve: list[float], layer: float) -> None:
    assert jump_layer(curve) == pytest.approx(layer, nan_ok=True)


@pytest.mark.parametrize(("curve", "layer"), CONVERGENCES)
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


@pytest.mark.parametrize(
    ("curve", "start", "end"),
    [
        ([0.5, 0.5, 0.9, 0.9, 0.9], 0.375, NONE),  # halfway between two layers
        ([0.5, 0.7, 0.9, 0.9, 0.9], 0.25, NONE),  # exactly at one
        ([0.8, 0.9, 0.9, 0.9, 0.9], 0.0, NONE),  # the first layer is past the half
        ([0.9, 0.5, 0.5, 0.5, 0.5], 0.0, 0.125),  # and falls at once
        ([0.5, 0.8, 0.5, 0.5, 0.9], 0.875, NONE),  # a rise that is gone again does not count
        ([0.5, 0.5, 0.9, 0.6, 0.8], 0.375, 2 / 3),  # nor does one after the fall
        ([0.5, 0.7, 0.9, 0.7, 0.5], 0.25, 0.75),
        ([0.5, 0.4, 0.3, 0.5, 0.5], NONE, NONE),  # never above the baseline
        ([0.3, 0.3, 0.3, 0.3, 0.7], 0.9375, NONE),  # from the baseline, not the start
    ],
)
def test_the_curve_stays_above_half_around_its_peak(
    curve: list[float], start: float, end: float
) -> None:
    depths = [0, 0.25, 0.5, 0.75, 1]
    found = above_half(curve, depths, 0.5, int(np.argmax(curve)))
    assert found == pytest.approx((start, end), abs=1e-7, nan_ok=True)
    one_layer = above_half(curve[:1], depths[:1], 0.5, 0)
    assert one_layer == pytest.approx((0 if curve[0] > 0.5 else NONE, NONE), nan_ok=True)


def test_a_rise_that_does_not_last_is_no_depth() -> None:
    curve = [0.52, 0.70, 0.60, 0.56, 0.62, 0.67, 0.68, 0.77, 0.83]
    start, end = above_half(curve, np.arange(9) / 8, 0.5, 8)
    assert start == pytest.approx((4 + 0.9) / 8)
    assert np.isnan(end)
    start, end = above_half(curve[::-1], np.arange(9) / 8, 0.5, 0)
    assert (start, end) == (0, pytest.approx(1 - (4 + 0.9) / 8))


def test_many_curves_at_once_have_each_its_depths() -> None:
    curves = np.random.default_rng(0).uniform(0.3, 1, (3, 50, 9)).round(2)
    depths = np.linspace(0.2, 1, 9)
    for many, one in (
        (jump_layer(curves), jump_layer),
        (converging_layer(curves), converging_layer),
        *(
            (
                above_half(curves, depths, 0.5, 3)[i],
                lambda one, i=i: above_half(one, depths, 0.5, 3)[i],
            )
            for i in (0, 1)
        ),
    ):
        each = np.array([[one(curve) for curve in block] for block in curves])
        assert np.array_equal(many, each, equal_nan=True)


def sigmoid(depths: np.ndarray, middle: float = 0.45, low: float = 0.5) -> np.ndarray:
    """Accuracies that rise to 0.9."""
    return low + (0.9 - low) / (1 + np.exp(-(depths - middle) / 0.06))


@pytest.mark.parametrize("middle", [0.2, 0.45, 0.7])
def test_the_depths_do_not_depend_on_the_number_of_layers(middle: float) -> None:
    for layers in (12, 48):
        depths = np.linspace(0, 1, layers)
        risen = above_half(sigmoid(depths, middle), depths, 0.5, layers - 1)
        assert risen == pytest.approx((middle, NONE), abs=0.02, nan_ok=True)
        fallen = above_half(sigmoid(depths, middle)[::-1], depths, 0.5, 0)
        assert fallen == pytest.approx((0, 1 - middle), abs=0.02)


def answers(n: int, layers: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies [L] of n answers, right independently around the curve, and resampled [B, L]."""
    rng = np.random.default_rng(seed)
    correct = rng.random((n, layers)) < sigmoid(np.linspace(0, 1, layers))
    counts = rng.multinomial(n, np.full(n, 1 / n), size=300)
    return correct.mean(axis=0), counts @ correct / n


@pytest.mark.parametrize("falls", [False, True])
def test_noise_moves_the_depth_little_and_the_interval_covers_it(falls: bool) -> None:
    depths, turn = np.linspace(0, 1, 24), -1 if falls else 1
    found = []
    for seed in range(200):
        curve, resampled = (of[..., ::turn] for of in answers(500, 24, seed))
        found.append(half_depths(curve, resampled, depths, 0.5, int(curve.argmax())))
    name = "falls_below_half_depth" if falls else "stays_above_half_depth"
    truth = above_half(sigmoid(depths)[::turn], depths, 0.5, 0 if falls else 23)[int(falls)]
    low, middle, high = (
        np.array([one[f"{name}{end}"] for one in found]) for end in ("_low", "", "_high")
    )
    assert np.abs(middle - truth).max() < 0.06
    assert middle.mean() == pytest.approx(truth, abs=0.01)
    assert ((low <= truth) & (truth <= high)).mean() >= 0.9
    assert (high - low).mean() < 0.06


def test_depths_come_with_layers_and_intervals() -> None:
    curve = np.array([0.5, 0.5, 0.7, 0.9, 0.9])
    later = np.array([0.5, 0.5, 0.5, 0.7, 0.9])
    resampled = np.vstack([[curve] * 50, [later] * 50])
    layers, depths = [4, 8, 12, 16, 20], [0.2, 0.4, 0.6, 0.8, 1.0]
    both = half_depths(curve, resampled, depths, 0.5, 3)
    assert concept_depth(curve, resampled, layers, depths) | both == pytest.approx(
        {
            "converging_layer": 20, "converging_layer_low": 20, "converging_layer_high": 20,
            "converging_depth": 1.0, "converging_depth_low": 1.0, "converging_depth_high": 1.0,
            "jump_layer": 12, "jump_layer_low": 12, "jump_layer_high": 16,
            "jump_depth": 0.6, "jump_depth_low": 0.6, "jump_depth_high": 0.8,
            "stays_above_half_depth": 0.6, "stays_above_half_depth_low": 0.6,
            "stays_above_half_depth_high": 0.7, "falls_below_half_depth": NONE,
            "falls_below_half_depth_low": NONE, "falls_below_half_depth_high": NONE,
        },
        nan_ok=True,
    )  # fmt: skip


def test_a_resample_that_does_not_fall_makes_the_interval_reach_the_last_layer() -> None:
    falls, stays = np.array([0.5, 0.9, 0.5, 0.5]), np.array([0.5, 0.9, 0.9, 0.9])
    found = half_depths(falls, np.vstack([[falls] * 4, [stays] * 6]), [0, 0.2, 0.4, 0.9], 0.5, 1)
    assert found["falls_below_half_depth"] == pytest.approx(0.3)
    assert found["falls_below_half_depth_low"] == pytest.approx(0.3)
    assert found["falls_below_half_depth_high"] == 0.9


def test_a_depth_that_resamples_rarely_have_has_no_interval() -> None:
    jump, none = np.array([0.5, 0.5, 0.56, 0.56]), np.array([0.5, 0.5, 0.54, 0.54])
    layers, depths = range(4), [0, 1 / 3, 2 / 3, 1]
    few, many = np.vstack([[jump] * 4, [none] * 6]), np.vstack([[jump] * 6, [none] * 4])
    rare, often = (concept_depth(jump, resampled, layers, depths) for resampled in (few, many))
    absent = concept_depth(none, many, layers, depths)
    assert (rare["jump_layer"], often["jump_layer_low"]) == (2, 2)
    assert np.isnan([rare["jump_layer_low"], rare["jump_depth_high"]]).all()
    assert np.isnan([absent["jump_layer"], absent["jump_layer_low"]]).all()
    assert np.isnan(list(half_depths(jump, many, depths, 0.6, 2).values())).all()


def test_an_interval_holds_its_estimate() -> None:
    curve = np.array([0.5, 0.9, 0.9, 0.9])
    noisier = np.array([0.5, 0.9, 0.9, 0.8])
    found = concept_depth(curve, np.array([noisier] * 20), range(4), [0, 0.3, 0.6, 1])
    assert (found["converging_layer_low"], found["converging_layer_high"]) == (2, 3)
