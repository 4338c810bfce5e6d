"""Thresholds of a monitor: which score they are, what is guaranteed, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta

import llmprobe
from llmprobe import Results, SavedProbe, UserError
from llmprobe.config.schema import ProbeConfig
from llmprobe.probing.layer import LayerFit
from llmprobe.probing.pooling import Pooling
from llmprobe.probing.tasks import build_tasks
from llmprobe.probing.token_probes import probe_tokens
from llmprobe.results.operating import (
    RATES,
    THRESHOLD_COLUMNS,
    OperatingPoints,
    from_held_out,
    from_set_aside,
    negatives_needed,
)
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
    assert loaded.threshold(value=np.float32(0.5)).value == 0.5


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
        {"tpr": {"0.1": [0.5]}},
        {"tpr": {"0.1": [0.5, 2]}},
        {"tpr": {"0.001": [0.5, 0.5]}},
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


def test_a_calibrated_threshold_is_the_smallest_whose_interval_stays_below_the_rate() -> None:
    rng = np.random.default_rng(0)
    for n in (29, 100, 299, 700):
        scores = np.sort(rng.random(n))[::-1]
        for fpr, (value,) in from_set_aside(scores[None], np.arange(n)).values.items():
            above = int((scores > value).sum())
            # Clopper & Pearson's upper end, by the beta distribution; one more would be too many.
            assert beta.ppf(0.95, above + 1, n - above) <= fpr
            assert beta.ppf(0.95, above + 2, n - above - 1) > fpr


@pytest.mark.parametrize("rows", [1, 6], ids=["ungrouped", "grouped"])
@pytest.mark.parametrize("fpr", [0.1, 0.05])
def test_a_guarantee_holds_in_at_least_95_of_100_calibrations(rows: int, fpr: float) -> None:
    rng = np.random.default_rng(0)
    units, calibrations = 200, 1000
    # The rows of a unit share most of their score: of them all, too few would be independent.
    shared = rng.normal(size=(calibrations, units, 1))
    scores = 0.9 * shared + 0.3 * rng.normal(size=(calibrations, units, rows))
    unit_of = np.repeat(np.arange(units), rows)
    as_probabilities = 1 / (1 + np.exp(-scores.reshape(calibrations, -1)))
    values = np.array(from_set_aside(as_probabilities, unit_of).values[fpr])
    new = 0.9 * rng.normal(size=(100_000, 1)) + 0.3 * rng.normal(size=(100_000, rows))
    worst = np.sort(1 / (1 + np.exp(-new.max(axis=1))))
    rates = 1 - np.searchsorted(worst, values, side="right") / len(worst)
    kept = float((rates <= fpr).mean())
    assert 0.94 < kept < 0.99
    # Those of rows, as if they were independent, break it.
    if rows > 1:
        naive = from_set_aside(as_probabilities, np.arange(units * rows)).values[fpr]
        exceeded = 1 - np.searchsorted(worst, naive, side="right") / len(worst)
        assert (exceeded <= fpr).mean() < 0.5


def test_ties_at_the_threshold_are_not_above_it() -> None:
    scores = np.repeat([0.2, 0.9], [80, 20])[None]
    assert from_set_aside(scores, np.arange(100)).values[0.1] == [0.9]


def test_a_calibrated_probe_has_not_seen_what_was_set_aside() -> None:
    layers, y = planted(640)
    groups = np.arange(640) // 4
    before = llmprobe.probe_layers(layers, y, groups, calibrate=0.4, **QUICK).probes[0]
    tasks = build_tasks(y, groups, ProbeConfig(calibrate=0.4, permutations=0), "x")
    aside = tasks.aside
    assert aside is not None
    assert 0.3 < aside.mean() < 0.5
    assert not np.intersect1d(groups[aside], groups[~aside]).size
    changed = {layer: np.where(aside[:, None], 100 * X + 7, X) for layer, X in layers.items()}
    after = llmprobe.probe_layers(changed, y, groups, calibrate=0.4, **QUICK).probes[0]
    for layer in before.layers:
        np.testing.assert_allclose(after.coef[layer], before.coef[layer], rtol=1e-4)
    for name in ("skill", "l2"):
        assert after.scores[name] == pytest.approx(before.scores[name], rel=1e-4, abs=1e-5)
    assert after.threshold(0.1) != before.threshold(0.1)
    fitted = llmprobe.probe_layers(
        {layer: X[~aside] for layer, X in layers.items()}, y[~aside], groups[~aside],
        l2=before.scores["l2"][1], **QUICK,
    ).probes[0]  # fmt: skip
    np.testing.assert_allclose(fitted.coef[3], before.coef[3], rtol=1e-3)


def test_calibration_leaves_the_curve_what_it_was() -> None:
    plain, calibrated = results(), results(calibrate=0.4)
    for name in ("table", "predictions"):
        pd.testing.assert_frame_equal(getattr(calibrated, name), getattr(plain, name))
    others = ["seconds_probe", *THRESHOLD_COLUMNS]
    pd.testing.assert_frame_equal(
        calibrated.summary.drop(columns=others), plain.summary.drop(columns=others)
    )


def test_a_calibrated_threshold_is_of_the_saved_probe_and_says_its_guarantee(
    tmp_path: Path,
) -> None:
    layers, y = planted(640)
    (probe,) = results(calibrate=0.4).probes
    threshold = probe.threshold(0.05)
    aside = build_tasks(y, None, ProbeConfig(calibrate=0.4, permutations=0), "x").aside
    assert aside is not None
    scores = probe.predict_proba(layers[3])[:, 1]
    flagged = (scores[aside & (y == 1)] > threshold.value).mean()
    assert 0.2 < flagged < 0.9
    assert threshold.guarantee
    assert threshold.sentence == (
        f"threshold {threshold.value:.6g}, guaranteed at 95 % confidence: of units like the 128 "
        "with negatives that were set aside, at most 5 % have a negative that exceeds it; it flags "
        f"{100 * flagged:.0f} % of the positives set aside"
    )
    assert (scores[aside & (y == 0)] > threshold.value + 1e-5).sum() == 2
    path = probe.save(tmp_path / "probe.safetensors")
    assert llmprobe.load_probe(path).threshold(0.05) == threshold
    assert b'\\"guarantee\\": true' in path.read_bytes()


def test_the_summary_has_the_thresholds_of_the_saved_probes_best_layer() -> None:
    for of in (results(), results(calibrate=0.4)):
        (probe,), row = of.probes, of.summary.iloc[0]
        assert probe.operating is not None
        assert row["threshold_layer"] == probe.best_layer == 3
        assert row["threshold_origin"] == probe.operating.origin
        assert row["threshold_negative_units"] == probe.operating.negative_units
        assert np.isnan(row["threshold_at_01_fpr"])
    assert results().summary["threshold_at_1_fpr"][0] == results().probes[0].threshold(0.01).value
    assert results(calibrate=0.4).summary["threshold_at_1_fpr"].isna().all()


def test_too_few_set_aside_are_said_when_probing_and_when_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    layers, y = planted(200)
    with caplog.at_level("WARNING", logger="llmprobe"):
        (probe,) = llmprobe.probe_layers(layers, y, calibrate=0.3, **QUICK).probes
    few = "too few negatives to tell a false positive rate of 5 %: 30 units set aside have one, 59"
    assert any(few in message for message in caplog.messages)
    assert probe.threshold(0.1).guarantee
    with pytest.raises(UserError, match=few):
        probe.threshold(0.05)


def test_what_cannot_be_calibrated_is_refused_or_fitted_on_all_rows() -> None:
    layers, y = planted(240)
    with pytest.raises(UserError, match="calibrate: there is a test set; leave out one"):
        llmprobe.probe_layers(layers, y, test=np.arange(240) > 99, calibrate=0.3, **QUICK)
    with pytest.raises(UserError, match="calibrate: there are too few units"):
        llmprobe.probe_layers(layers, y, calibrate=0.99, **QUICK)
    with pytest.raises(UserError, match="calibrate"):
        llmprobe.probe_layers(layers, y, calibrate=1.0, **QUICK)
    three, several = (
        llmprobe.probe_layers(layers, np.arange(240) % 3, **QUICK, **options).probes[0]
        for options in ({}, {"calibrate": 0.3})
    )
    np.testing.assert_array_equal(three.coef[3], several.coef[3])


@pytest.mark.parametrize(("pooling", "l2"), [("max", 10), ("attention", "auto")])
def test_a_probe_over_tokens_is_calibrated_too(pooling: str, l2: Any) -> None:
    n, rng = 60, np.random.default_rng(0)
    n_tokens = rng.integers(1, 4, size=n)
    y = np.tile([0, 1], n // 2)
    text_of = np.repeat(np.arange(n), n_tokens)
    X = rng.normal(size=(len(text_of), 4)).astype(np.float32)
    X[:, 0] += 2 * y[text_of]
    config = ProbeConfig(calibrate=0.5, permutations=0, l2=l2, description_length=False)
    tasks = build_tasks(y, None, config, "x")
    assert tasks.aside is not None

    def fit(states: np.ndarray) -> LayerFit:
        of = Pooling.of(f"tokens:{pooling}")
        assert of is not None
        return probe_tokens(states, tasks, n_tokens=n_tokens, pooling=of)

    before = fit(X)
    after = fit(np.where(tasks.aside[text_of][:, None], X + 9, X).astype(np.float32))
    np.testing.assert_allclose(after.coef, before.coef, rtol=1e-3, atol=1e-5)
    assert after.kept_skill == pytest.approx(before.kept_skill, abs=1e-4)
    assert 0 < before.kept_skill < 1
    assert before.aside is not None
    assert before.aside.shape == (tasks.aside.sum(), 2)
