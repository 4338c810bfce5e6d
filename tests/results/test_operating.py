"""Thresholds of a monitor: which score they are, what is guaranteed, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmprobe
from llmprobe import Results, SavedProbe, UserError
from llmprobe.results.operating import RATES, OperatingPoints, from_held_out, negatives_needed
from llmprobe.results.predictions import first_repeat

QUICK: dict[str, Any] = {
    "controls": (), "permutations": 0, "description_length": False, "progress": False,
}  # fmt: skip


def planted(n: int, seed: int = 0) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Two layers, one of which tells some of the labels."""
    rng = np.random.default_rng(seed)
    y = np.tile([0, 1], n // 2)
    layers = {layer: rng.normal(size=(n, 4)) for layer in (0, 3)}
    layers[3][:, 0] += 2 * y
    return layers, y


@cache
def results(n: int = 640, **options: Any) -> Results:
    layers, y = planted(n)
    return llmprobe.probe_layers(layers, y, **QUICK | options)


def out_of_fold_negatives(of: Results, layer: int) -> np.ndarray:
    rows = first_repeat(of.predictions)
    rows = rows[(rows["layer"] == layer) & (rows["label"] == "0")]
    return rows["score"].to_numpy()


@pytest.mark.parametrize("fpr", [0.1, 0.05, 0.01])
def test_a_threshold_is_the_score_that_so_many_out_of_fold_negatives_exceed(fpr: float) -> None:
    (probe,) = results().probes
    for layer in probe.layers:
        value = probe.threshold(fpr, layer=layer).value
        negatives = out_of_fold_negatives(results(), layer)
        assert (negatives > value).sum() == int(320 * fpr)
        assert value in negatives
    assert probe.threshold(fpr) == probe.threshold(fpr, layer=3)


def test_a_threshold_of_out_of_fold_scores_says_that_nothing_is_guaranteed() -> None:
    threshold = results().probes[0].threshold(0.01)
    assert not threshold.guarantee
    assert threshold.sentence == (
        f"threshold {threshold.value:.6g}, no guarantee: 1 % of the out-of-fold scores of 320 "
        "units with negatives exceed it, but those are scores of other probes than this one, "
        "fitted to parts of its examples"
    )


def test_too_few_negatives_are_said_with_how_many_it_takes() -> None:
    for fpr, needed in ((0.001, "2,995"), (0.01, "299")):
        with pytest.raises(UserError, match=f"^too few negatives .* of {100 * fpr:g} %: 100 units "
                                            f"have one, {needed} needed$"):  # fmt: skip
            results(200).probes[0].threshold(fpr)


def test_negatives_are_counted_in_units() -> None:
    scores = np.linspace(0, 1, 600).reshape(1, 2, 300)
    points = from_held_out(scores, np.arange(300) // 10, "out-of-fold")
    assert points.negative_units == 30
    assert [*points.values] == [0.1]


def test_thresholds_of_all_repeats_are_one() -> None:
    scores = np.stack([np.linspace(0, 0.5, 100), np.linspace(0.5, 1, 100)])[None]
    points = from_held_out(scores, np.arange(100), "out-of-fold")
    assert (scores > points.values[0.1][0]).sum() == 20


def test_a_test_set_has_thresholds_of_the_probe_itself() -> None:
    layers, y = planted(200)
    of = llmprobe.probe_layers(layers, y, test=np.arange(200) >= 100, **QUICK)
    threshold = of.probes[0].threshold(0.1)
    assert not threshold.guarantee
    assert "by which the best layer was chosen too" in threshold.sentence
    scores = of.probes[0].predict_proba(layers[3][100:], 3)[y[100:] == 0, 1]
    assert (scores > threshold.value + 1e-5).sum() == 5


def test_a_probe_keeps_its_thresholds_on_disk(tmp_path: Path) -> None:
    (probe,) = results().probes
    loaded = llmprobe.load_probe(probe.save(tmp_path / "probe.safetensors"))
    assert loaded.operating == probe.operating
    assert loaded.threshold(0.05) == probe.threshold(0.05)


def test_a_probe_of_an_older_version_has_none_and_says_so(tmp_path: Path) -> None:
    old = replace(results().probes[0], operating=None)
    loaded = llmprobe.load_probe(old.save(tmp_path / "probe.safetensors"))
    assert loaded.operating is None
    with pytest.raises(UserError, match="has no thresholds, since an older version made it"):
        loaded.threshold(0.1)
    assert loaded.threshold(value=0.3).value == 0.3


def test_only_two_classes_have_a_threshold() -> None:
    layers, y = planted(240)
    three = llmprobe.probe_layers(layers, np.arange(240) % 3, **QUICK).probes[0]
    numbers = llmprobe.probe_layers(layers, y + layers[0][:, 0], kind="ridge", **QUICK).probes[0]
    for probe, why in ((three, "has 3 classes"), (numbers, "predicts a number")):
        assert probe.operating is None
        for asked in ({"fpr": 0.1}, {"value": 0.5}):
            with pytest.raises(UserError, match=f"two classes, and this one {why}$"):
                probe.threshold(**asked)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"fpr": 0.02}, "fpr 0.02: a probe has thresholds for 0.1, 0.05, 0.01 and 0.001"),
        ({"fpr": "a"}, "fpr a: a probe has thresholds for"),
        ({"fpr": 0.1, "layer": 9}, "has no layer 9"),
        ({"value": 1.5}, "threshold 1.5: should be a probability, from 0 to 1"),
        ({"value": float("nan")}, "threshold nan: should be a probability"),
        ({"value": True}, "threshold True: should be"),
        ({"value": "x"}, "threshold x: should be"),
        ({"fpr": 0.1, "value": 0.5}, "one of the two"),
        ({}, "one of the two"),
    ],
)
def test_what_is_no_operating_point_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        results().probes[0].threshold(**asked)


@pytest.mark.parametrize(
    "damage",
    [
        {"origin": "heaven"},
        {"negative_units": 28},
        {"negative_units": "many"},
        {"values": {"0.1": [0.5]}},
        {"values": {"0.1": [0.5, 1.5]}},
        {"values": {"0.1": [0.5, float("nan")]}},
        {"values": {"0.3": [0.5, 0.5]}},
        {"values": 3},
    ],
)
def test_thresholds_that_are_none_are_refused(damage: dict[str, Any]) -> None:
    probe = results().probes[0]
    assert probe.operating is not None
    entry = probe.operating.as_json() | damage
    with pytest.raises((ValueError, TypeError, AttributeError)):
        OperatingPoints.from_json(json.loads(json.dumps(entry)), 2)


def test_a_stranger_cannot_give_thresholds_to_three_classes(tmp_path: Path) -> None:
    layers, _ = planted(240)
    three = llmprobe.probe_layers(layers, np.arange(240) % 3, **QUICK).probes[0]
    path = replace(three, operating=results().probes[0].operating).save(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="thresholds of 3 classes"):
        llmprobe.load_probe(path)


def test_a_rate_takes_so_many_negatives() -> None:
    assert [negatives_needed(rate) for rate in RATES] == [29, 59, 299, 2995]


def test_a_probe_is_equal_bytes_with_its_thresholds(tmp_path: Path) -> None:
    (probe,) = results().probes
    one, other = (probe.save(tmp_path / f"{name}.safetensors") for name in "ab")
    assert one.read_bytes() == other.read_bytes()
    assert isinstance(llmprobe.load_probe(one), SavedProbe)
