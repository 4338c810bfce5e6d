"""A probe of several layers: what it reads, how its form is chosen, and what is refused."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import llmprobe
from llmprobe import Results, SavedProbe, UserError, load_probe
from llmprobe.config.schema import ProbeConfig
from llmprobe.probing.layer import LayerFit, probe_layer
from llmprobe.probing.multi_layer import MultiLayerFit, SideBySide, probe_multi_layer
from llmprobe.probing.tasks import ProbingTasks, build_tasks, intercept_loss
from llmprobe.probing.workers import Arrays

QUICK: dict[str, Any] = {
    "controls": (), "permutations": 0, "description_length": False, "progress": False,
}  # fmt: skip


def halves(n: int = 240, seed: int = 0, d: int = 6) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Three layers: 1 and 3 each hold half of what tells the classes, 2 holds nothing."""
    rng = np.random.default_rng(seed)
    layers = {layer: rng.normal(size=(n, d)).astype(np.float32) for layer in (1, 2, 3)}
    return layers, (layers[1][:, 0] + layers[3][:, 0] > 0).astype(int)


@cache
def results(multi_layer: Any = (1, 3), **options: Any) -> Results:
    layers, y = halves()
    return llmprobe.probe_layers(layers, y, **QUICK | options, multi_layer=multi_layer)


def several(of: Results) -> SavedProbe:
    _, probe = of.probes
    return probe


def beside(layers: dict[int, np.ndarray], *which: int) -> np.ndarray:
    return np.hstack([layers[layer] for layer in which])


def test_two_layers_with_half_of_the_evidence_each_read_more_than_either() -> None:
    (curve,) = results().curves
    assert curve.score < 0.85
    row = curve.multi_layer
    assert row is not None
    assert row["accuracy"] > curve.score + 0.1
    gain, low, high = curve.multi_layer_gain
    assert 0 < low < gain < high
    assert gain == pytest.approx(row["accuracy"] - curve.score)


def test_what_is_read_at_once_has_a_row_of_its_own_beside_the_layers() -> None:
    table, (curve,) = results().table, results().curves
    assert table["layer"].tolist() == [1, 2, 3, 3]
    assert table["probe"].tolist() == ["logistic"] * 3 + ["logistic, multi-layer"]
    assert table["layers_read"].tolist()[3] == "1, 3"
    assert table["layers_read"].isna().sum() == 3
    assert curve.layers == [1, 2, 3]
    pd.testing.assert_frame_equal(table.head(3), results(None).table, check_dtype=False)
    (summary,) = results().summary.to_dict("records")
    assert summary["multi_layer"] == "1, 3"
    assert summary["multi_layer_form"] == "states side by side"
    assert summary["multi_layer_score"] == table["accuracy"].iloc[3]
    assert results().predictions.equals(results(None).predictions)


def loss_of(logits: np.ndarray, y: np.ndarray) -> float:
    return float(np.logaddexp(0, -(2 * y - 1) * logits).sum())


def logits_of(X: np.ndarray, y: np.ndarray, train: np.ndarray, l2: float) -> np.ndarray:
    """By scikit-learn, standardised by the rows that it is fitted on."""
    scaler = StandardScaler().fit(X[train])
    fitted = LogisticRegression(C=1 / l2, tol=1e-8, max_iter=5000)
    fitted.fit(scaler.transform(X[train]), y[train])
    return fitted.decision_function(scaler.transform(X))


def by_hand(
    layers: dict[int, np.ndarray], y: np.ndarray, fold_of: np.ndarray, inner: Any, l2: float
) -> tuple[list[bool], np.ndarray]:
    """The form of each fold, chosen by the loss of its inner folds, and out-of-fold logits."""
    X = {layer: states.astype(float) for layer, states in layers.items()}
    wide, forms, out = np.hstack(list(X.values())), [], np.empty(len(y))

    def both(train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        each = [logits_of(states, y, train, l2) for states in X.values()]
        return np.mean(each, axis=0), logits_of(wide, y, train, l2)

    for fold, task in enumerate(inner):
        total = np.zeros(2)
        for part, train in enumerate(task.train):
            rows = task.scored_by == part
            total += [loss_of(logits[rows], y[rows]) for logits in both(train)]
        forms.append(bool(total[1] < total[0]))
        rows = fold_of == fold
        out[rows] = both(fold_of != fold)[forms[-1]][rows]
    return forms, out


def alike(seed: int) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Two layers that say nearly the same in many dimensions, so that both forms are as good."""
    rng = np.random.default_rng(seed)
    y = np.tile([0, 1], 30)
    signal = rng.normal(size=(60, 20)) + y[:, None] * 0.3
    layers = {layer: signal + rng.normal(size=(60, 20)) for layer in (0, 1)}
    return {layer: states.astype(np.float32) for layer, states in layers.items()}, y


def fitted(
    layers: dict[int, np.ndarray], y: np.ndarray, test: np.ndarray | None = None, **options: Any
) -> tuple[ProbingTasks, list[LayerFit], MultiLayerFit]:
    """The tasks, the fits of layers 0 and 1, and that of both at once."""
    config = ProbeConfig().alone(multi_layer=(0, 1), repeats=1, **options)
    tasks = build_tasks(y, None, config, "alike", test)
    fits = [probe_layer(layers[layer], tasks, keep_logits=True) for layer in (0, 1)]
    return tasks, fits, probe_multi_layer(Arrays(layers), [0, 1], fits, tasks, "cpu", "")


def probabilities(of: MultiLayerFit, layers: dict[int, np.ndarray]) -> np.ndarray:
    """What the probe that is kept says of each row."""
    return expit(beside(layers, 0, 1).astype(float) @ of.fit.coef[:, 0] + of.fit.intercept[0])


def test_forms_and_predictions_are_those_of_a_loop_with_scikit_learn() -> None:
    chosen = set()
    for seed in (0, 2):
        layers, y = alike(seed)
        tasks, _, of = fitted(layers, y, l2=10.0)
        forms, logits = by_hand(layers, y, tasks.fold_of[0], tasks.inner, 10.0)
        assert of.side_by_side.tolist() == forms
        expected = 1 / (1 + np.exp(-logits))
        assert of.fit.predicted[0][:, 1] == pytest.approx(expected, abs=2e-4)
        chosen |= set(forms)
    assert chosen == {True, False}


def test_noise_is_read_no_better_than_by_chance() -> None:
    scores = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        layers = {layer: rng.normal(size=(80, 20)) for layer in range(2)}
        y = rng.permutation(np.tile([0, 1], 40))
        of = llmprobe.probe_layers(layers, y, **QUICK, multi_layer=(0, 1), l2=100.0)
        scores.append(of.table["accuracy"].iloc[-1])
    error = np.std(scores) / np.sqrt(len(scores))
    assert abs(np.mean(scores) - 0.5) < 3 * error


def test_labels_of_held_out_rows_move_neither_forms_nor_their_predictions() -> None:
    layers, y = alike(0)
    config = ProbeConfig().alone(multi_layer=(0, 1), repeats=1)
    tasks = build_tasks(y, None, config, "alike")
    other = np.where(tasks.fold_of[0] == 0, 1 - y, y)
    of_both = []
    for labels in (y, other):
        again = build_tasks(labels, None, config, "alike", fold_of=tasks.fold_of[0])
        fits = [probe_layer(layers[layer], again, keep_logits=True) for layer in (0, 1)]
        of_both.append(probe_multi_layer(Arrays(layers), [0, 1], fits, again, "cpu", ""))
    rows = tasks.fold_of[0] == 0
    a, b = (of.fit.predicted[0][rows, 1] for of in of_both)
    assert of_both[0].side_by_side[0] == of_both[1].side_by_side[0]
    assert a == pytest.approx(b, abs=1e-6)


def test_the_saved_probe_is_linear_in_the_states_side_by_side() -> None:
    layers, y = halves()
    probe = several(results(l2=10.0))
    assert probe.reads == {3: (1, 3)}
    assert probe.layers == [3]
    X = beside(layers, 1, 3)
    expected = logits_of(X.astype(float), y, np.ones(len(y), dtype=bool), 10.0)
    assert probe.decision_function(X) == pytest.approx(expected, abs=2e-3)


def test_the_mean_of_logits_is_that_of_the_saved_probes_of_the_layers() -> None:
    layers, y = alike(0)
    of = llmprobe.probe_layers(layers, y, **QUICK, l2=10.0, multi_layer=(0, 1))
    assert of.summary["multi_layer_form"].iloc[0] == "mean of logits"
    single, probe = of.probes
    mean = np.mean([single.decision_function(layers[layer], layer) for layer in (0, 1)], axis=0)
    assert probe.decision_function(beside(layers, 0, 1)) == pytest.approx(mean, abs=1e-9)


def test_of_three_classes_and_of_numbers_several_layers_read_more_too() -> None:
    layers, _ = halves(180)
    total = layers[1][:, 0] + layers[3][:, 0]
    three = np.digitize(total, np.quantile(total, [1 / 3, 2 / 3]))
    for labels, kind, metric in ((three, "logistic", "accuracy"), (total, "ridge", "r2")):
        of = llmprobe.probe_layers(layers, labels, kind=kind, **QUICK, l2=1.0, multi_layer=[3, 1])
        (curve,) = of.curves
        assert curve.multi_layer[metric] > curve.score + 0.2
        probe = several(of)
        assert probe.outputs(beside(layers, 1, 3)).shape == (180, max(len(probe.classes), 1))
    assert probe.predict(beside(layers, 1, 3)) == pytest.approx(total, abs=0.1)


def test_a_probe_without_a_penalty_has_a_form_too() -> None:
    layers, y = halves()
    of = llmprobe.probe_layers(layers, y, kind="mass_mean", **QUICK, multi_layer=(1, 3))
    assert of.curves[0].multi_layer["accuracy"] > of.curves[0].score + 0.1


def test_with_a_test_set_the_saved_probe_is_the_one_that_was_scored() -> None:
    layers, y = halves()
    test = np.arange(len(y)) >= 160
    of = llmprobe.probe_layers(layers, y, test=test, **QUICK, l2=1.0, multi_layer=(1, 3))
    predicted = several(of).predict(beside(layers, 1, 3)[test])
    assert of.curves[0].multi_layer["accuracy"] == (predicted == y[test]).mean()
    test = np.arange(60) >= 30
    for seed, form in ((1, True), (5, False)):  # On the test set the other form has less loss.
        layers, y = alike(seed)
        _, _, both = fitted(layers, y, test)
        assert both.kept_side_by_side == form
        expected = probabilities(both, layers)[test]
        assert both.fit.predicted[0][:, 1] == pytest.approx(expected, abs=1e-5)


def test_penalties_skill_and_what_is_set_aside_are_of_the_form_that_was_chosen() -> None:
    for seed, kept in ((1, False), (7, True)):
        layers, y = alike(seed)
        tasks, fits, of = fitted(layers, y, calibrate=0.4)
        wide = probe_layer(beside(layers, 0, 1), tasks.without_refits, keep_logits=True)
        assert of.kept_side_by_side == kept
        assert set(of.side_by_side) == {True, False}
        l2_of_mean = np.sqrt(fits[0].l2 * fits[1].l2)
        assert of.fit.l2 == pytest.approx(np.where(of.side_by_side, wide.l2, l2_of_mean))
        kept_l2 = wide.kept_l2 if kept else np.sqrt(fits[0].kept_l2 * fits[1].kept_l2)
        assert of.fit.kept_l2 == pytest.approx(kept_l2)
        assert of.fit.aside is not None
        aside = probabilities(of, layers)[tasks.aside]
        assert of.fit.aside[:, 1] == pytest.approx(aside, abs=1e-5)
        skills = []
        for choice, task in zip((-2, -1), tasks.kept_choices, strict=True):
            each = [fit.logits.choices[choice, 0].numpy() for fit in (*fits, wide)]
            rows = task.scored_by >= 0
            losses = [loss_of(of[rows], y[rows]) for of in (np.mean(each[:2], axis=0), each[2])]
            skills.append(1 - min(losses) / intercept_loss(task, tasks.loss))
        assert (of.fit.kept_skill, of.fit.skill[0]) == pytest.approx(skills, abs=1e-5)


def test_thresholds_are_of_the_probe_of_several_layers_and_can_be_guaranteed() -> None:
    layers, y = halves(640)
    of = llmprobe.probe_layers(layers, y, **QUICK, l2=1.0, multi_layer=(1, 3), calibrate=0.4)
    probe, (summary,) = several(of), of.summary.to_dict("records")
    threshold = probe.threshold(0.05)
    assert threshold.guarantee
    assert probe.operating is not None
    assert probe.operating.negative_units == summary["threshold_negative_units"]
    flagged = probe.predict_proba(beside(layers, 1, 3))[:, 1] > threshold.value
    assert 0 < (flagged & (y == 0)).sum() < 0.1 * (y == 0).sum()
    out_of_fold = several(results())
    assert "no guarantee" in out_of_fold.threshold(0.05).sentence
    assert results().summary["multi_layer_threshold_at_1_fpr"].isna().all()  # too few negatives


def test_auto_takes_four_layers_at_the_quarters_of_the_depth() -> None:
    rng = np.random.default_rng(0)
    layers = {layer: rng.normal(size=(60, 3)) for layer in range(9)}
    y = np.tile([0, 1], 30)
    of = llmprobe.probe_layers(layers, y, **QUICK, l2=1.0, multi_layer="auto")
    assert of.summary["multi_layer"].iloc[0] == "2, 4, 6, 8"
    assert several(results("auto", l2=1.0)).reads == {3: (1, 2, 3)}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ((1, 9), "layer 9 is not read; the layers are 1 to 3"),
        ((0, 1), "layer 0 is not read"),
        ((2,), "multi_layer"),
        ((2, 2), "a number occurs twice"),
        ("all", "multi_layer"),
    ],
)
def test_layers_that_cannot_be_read_at_once_are_refused_in_a_sentence(
    asked: Any, words: str
) -> None:
    layers, y = halves(60)
    with pytest.raises(UserError, match=words) as error:
        llmprobe.probe_layers(layers, y, **QUICK, multi_layer=asked)
    assert "\n" not in str(error.value)


def test_one_layer_is_no_several() -> None:
    layers, y = halves(60)
    with pytest.raises(UserError, match="only layer 1 is read"):
        llmprobe.probe_layers({1: layers[1]}, y, **QUICK, multi_layer="auto")


def test_a_single_layer_is_not_asked_of_a_probe_of_several() -> None:
    layers, _ = halves()
    with pytest.raises(UserError, match="reads layers 1 and 3 at once"):
        several(results()).decision_function(beside(layers, 1, 3), layer=1)
    with pytest.raises(UserError, match=r"expected \(n, 12\)"):
        several(results()).decision_function(layers[1])


def test_a_saved_file_has_the_layers(tmp_path: Path) -> None:
    probe, (layers, _) = several(results()), halves()
    again = load_probe(probe.save(tmp_path / "probe.safetensors"))
    assert again.reads == probe.reads
    assert repr(again) == repr(probe)
    X = beside(layers, 1, 3)
    assert (again.decision_function(X) == probe.decision_function(X)).all()


@pytest.mark.parametrize("widths", [(2, 5), (5, 2), (3, 3)])
def test_layers_of_a_network_may_differ_in_width(widths: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    layers = {layer: rng.normal(size=(60, width)) for layer, width in enumerate(widths)}
    y = (layers[0][:, 0] + layers[1][:, 1] > 0).astype(int)
    of = llmprobe.probe_layers(layers, y, **QUICK, l2=1.0, multi_layer=(0, 1))
    predicted = several(of).predict(beside(layers, 0, 1))
    assert (predicted == y).mean() > 0.9


def test_states_stand_side_by_side_once_in_memory() -> None:
    class FromDisk:
        """States of which each read is a new array."""

        layers: ClassVar = [0, 1, 2]
        reads: ClassVar[list[int]] = []

        def layer(self, index: int) -> np.ndarray:
            self.reads.append(index)
            return np.full((5, 2), index, np.float32)

        def n_bytes(self, index: int) -> int:
            return 40 + 0 * index

    states = SideBySide(FromDisk(), (0, 2))
    wide = states.layer(2)
    assert wide.tolist() == [[0, 0, 2, 2]] * 5
    assert wide.dtype == np.float32
    assert FromDisk.reads == [0, 2]
    assert states.layers == [2]
    assert states.n_bytes(2) == 80
