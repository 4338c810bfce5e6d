"""Probing finds the layer where a concept was planted, and its tables agree with each other."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, roc_auc_score

import llmprobe
from llmprobe import Results, UserError
from llmprobe.config.schema import ExtractConfig, ModelConfig
from llmprobe.extraction.extract import Extractor
from llmprobe.probing import protocol, workers

RESULTS = (
    "model, dataset, site, position, layer, depth, probe, n_examples, n_classes, n_groups, l2, "
    "accuracy, accuracy_low, accuracy_high, balanced_accuracy, f1, auroc, log_loss, "
    "majority_accuracy, control_accuracy, selectivity, p_value"
).split(", ")
SUMMARY = (
    "model, parameters, layers, hidden_size, dataset, n_examples, peak_layer, peak_accuracy, "
    "peak_p_value, converging_layer, jump_layer, converging_depth, jump_depth, majority_accuracy, "
    "bag_of_words_accuracy, random_weights_accuracy, seconds_extract, seconds_probe, tokens, "
    "unique_tokens"
).split(", ")
PREDICTIONS = "model dataset repeat layer example fold label predicted score along across".split()


def planted(
    n_classes: int = 2, n: int = 120, seed: int = 0
) -> tuple[dict[int, np.ndarray], np.ndarray, np.ndarray]:
    """Layers without the concept (0, 2) and with it (4, 6, 8); class indices; groups of two."""
    rng = np.random.default_rng(seed)
    y = np.tile(np.arange(n_classes), n // n_classes)
    layers = {layer: rng.normal(size=(n, 12)) for layer in (0, 2, 4, 6, 8)}
    for layer, strength in {4: 2, 6: 4, 8: 4}.items():
        layers[layer][:, :n_classes] += strength * np.eye(n_classes)[y]
    return layers, y, np.arange(n) // 2


def probe(layers: object, labels: object, groups: object = None, **options: object) -> Results:
    return llmprobe.probe_layers(layers, labels, groups, progress=False, **options)


@pytest.fixture(scope="module")
def results() -> Results:
    layers, y, groups = planted()
    return probe(layers, y, groups)


def test_the_planted_layers_are_found(results: Results) -> None:
    accuracy = results.table.set_index("layer")["accuracy"]
    assert accuracy[[0, 2]].max() < 0.65
    assert accuracy[4] > 0.85
    assert accuracy[[6, 8]].min() > 0.97
    summary = results.summary.iloc[0]
    assert summary["peak_layer"] in (6, 8)
    assert summary["peak_accuracy"] == accuracy.max()
    assert (summary["jump_layer"], summary["jump_depth"]) == (4, 0.5)
    assert (summary["converging_layer"], summary["converging_depth"]) == (8, 1.0)


def test_tables_have_the_columns_they_promise(results: Results) -> None:
    assert list(results.table)[: len(RESULTS)] == RESULTS
    assert list(results.summary)[: len(SUMMARY)] == SUMMARY
    assert list(results.predictions) == [*PREDICTIONS, "position"]
    assert results.table["layer"].to_list() == [0, 2, 4, 6, 8]
    assert results.table["depth"].to_list() == [0, 0.25, 0.5, 0.75, 1]
    assert len(results.summary) == 1
    assert len(results.predictions) == 3 * 5 * 120
    row = results.table.iloc[0]
    assert (row["n_examples"], row["n_classes"], row["n_groups"]) == (120, 2, 60)
    assert row["probe"] == "logistic"
    assert results.summary.iloc[0]["layers"] == 8


@pytest.mark.parametrize(
    "classes",
    [["no", "yes"], [False, True], [3, 7], [0.0, 0.5], ["a", "b", "c"]],
    ids=["text", "bool", "int", "float", "three"],
)
def test_the_table_follows_from_the_predictions(classes: list[object]) -> None:
    layers, y, groups = planted(len(classes))
    labels = np.asarray(classes)[y]
    results = probe(layers, labels, groups, folds=3, repeats=1)
    table = results.table.set_index("layer")
    assert table["n_classes"].eq(len(classes)).all()
    for layer, rows in results.predictions.groupby("layer"):
        row = table.loc[layer]
        assert rows["example"].to_list() == list(range(120))
        assert rows["label"].to_list() == [str(label) for label in labels.tolist()]
        assert set(rows["predicted"]) <= {str(label) for label in classes}
        assert (rows["label"] == rows["predicted"]).mean() == pytest.approx(row["accuracy"])
        assert row["balanced_accuracy"] == pytest.approx(
            balanced_accuracy_score(rows["label"], rows["predicted"])
        )
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
        assert row["majority_accuracy"] == pytest.approx(1 / len(classes))
        if len(classes) == 2:
            last = str(classes[-1])
            is_last = rows["label"] == last
            assert ((rows["score"] > 0.5) == (rows["predicted"] == last)).all()
            areas = [
                roc_auc_score(is_last[of.index], of["score"]) for _, of in rows.groupby("fold")
            ]
            pairs = [of.groupby("label").size().prod() for _, of in rows.groupby("fold")]
            assert row["auroc"] == pytest.approx(np.average(areas, weights=pairs))
            assert row["log_loss"] == pytest.approx(log_loss(is_last, rows["score"]))
            assert row["f1"] == pytest.approx(f1_score(is_last, rows["predicted"] == last))
        else:
            assert (rows["score"] > 1 / len(classes)).all()
    assert table.loc[8, "accuracy"] > 0.9


def test_no_group_is_in_two_folds(results: Results) -> None:
    rows = results.predictions.query("layer == 0")
    of_pair = rows.groupby(["repeat", rows["example"] // 2])["fold"]
    assert of_pair.nunique().eq(1).all()
    in_repeat = results.predictions.groupby(["repeat", "example"])["fold"]
    assert in_repeat.nunique().eq(1).all()


def test_scores_are_means_over_repeats_of_the_folds(results: Results) -> None:
    right = results.predictions.eval("label == predicted")
    repeats = right.groupby([results.predictions["repeat"], results.predictions["layer"]]).mean()
    assert results.table["accuracy"].to_list() == pytest.approx(repeats.groupby("layer").mean())
    folds = results.predictions.query("layer == 0").pivot(columns="repeat", index="example")["fold"]
    assert all((folds[0] != folds[repeat]).any() for repeat in (1, 2))


def test_probing_twice_gives_the_same_numbers(results: Results) -> None:
    layers, y, groups = planted()
    again = probe(layers, y, groups)
    pd.testing.assert_frame_equal(results.table, again.table)
    pd.testing.assert_frame_equal(results.predictions, again.predictions)
    other = probe(layers, y, groups, seed=1)
    assert (other.predictions["fold"] != results.predictions["fold"]).any()


def test_the_order_and_type_of_the_arrays_do_not_matter(results: Results) -> None:
    layers, y, groups = planted()
    turned = {layer: layers[layer].astype(np.float32) for layer in reversed(layers)}
    again = probe(turned, y.tolist(), pd.Series(groups + 1000))
    pd.testing.assert_series_equal(results.table["accuracy"], again.table["accuracy"])
    assert again.table["log_loss"].to_numpy() == pytest.approx(results.table["log_loss"], abs=1e-4)


def test_options_are_those_of_the_config() -> None:
    layers, y, groups = planted()
    results = probe(layers, y, groups, folds=4, l2=10.0, controls=())
    assert results.predictions["fold"].nunique() == 4
    assert results.table["l2"].to_numpy() == pytest.approx(10)
    assert results.table["majority_accuracy"].isna().all()
    assert results.summary["bag_of_words_accuracy"].isna().all()


def test_selectivity_is_empty_and_says_why_where_groups_hold_opposite_labels(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rng = np.random.default_rng(0)
    y, cities = np.tile([0, 1], 60), np.repeat(np.arange(60), 2)
    X = rng.normal(size=(60, 30))[cities] + 0.1 * rng.normal(size=(120, 30))
    options = {"permutations": 0, "description_length": False, "progress": False}
    row = llmprobe.probe_layers({0: X}, y, cities, **options).table.iloc[0]
    assert row["control_accuracy"] > 0.75
    assert np.isnan(row["selectivity"])
    assert "selectivity is empty: groups hold opposite labels" in caplog.text


def test_the_bag_of_words_reads_the_texts_and_only_them() -> None:
    layers, y, groups = planted()
    told = [f"number {i} is {'odd' if i % 2 else 'even'}" for i in range(120)]
    words = np.random.default_rng(0).choice(list("abcdefghij"), (120, 8))
    silent = ["".join(word) for word in words]
    accuracy = [
        probe({0: layers[0]}, y, groups, texts=texts).summary["bag_of_words_accuracy"].item()
        for texts in (told, silent)
    ]
    assert accuracy[0] > 0.95
    assert accuracy[1] < 0.65


@pytest.mark.parametrize("d", [5, 300])
def test_a_constant_layer_is_at_chance(d: int) -> None:
    layers, y, groups = planted()
    results = probe({0: np.full((120, d), 0.1), 1: layers[8]}, y, groups)
    constant = results.table.iloc[0]
    assert constant["accuracy"] == pytest.approx(0.5, abs=0.05)
    assert constant["log_loss"] == pytest.approx(np.log(2), abs=0.01)
    assert results.summary["peak_layer"].item() == 1


def test_a_twin_with_the_other_label_takes_nothing_from_its_pair() -> None:
    rng = np.random.default_rng(0)
    pair = np.repeat(rng.normal(size=(80, 30)), 2, axis=0)
    X = {0: pair + 0.1 * rng.normal(size=(160, 30))}
    y, groups = np.arange(160) % 2, np.arange(160) // 2
    apart = probe(X, y, groups, l2=1.0).table["accuracy"].item()
    torn = probe(X, y, None, l2=1.0).table["accuracy"].item()
    assert abs(apart - 0.5) < 0.12
    assert torn < apart - 0.1


RIGHT = {
    "layers": {0: np.zeros((40, 3)), 1: np.ones((40, 3))},
    "labels": np.arange(40) % 2,
    "groups": None,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": {}}, "layers: none given"),
        ({"layers": {0: np.zeros((39, 3))}}, "layers[0]: shape (39, 3), expected (40, d)"),
        ({"layers": {1: np.zeros(40)}}, "layers[1]: shape (40,), expected (40, d)"),
        ({"layers": {1: np.zeros((40, 0))}}, "layers[1]: shape (40, 0), expected (40, d)"),
        ({"layers": {2: np.full((40, 3), np.nan)}}, "layers[2]: has values that are not finite"),
        ({"layers": {2: np.full((40, 3), "x")}}, "layers[2]: has values that are not finite"),
        ({"layers": {"last": np.zeros((40, 3))}}, "layers: key 'last'"),
        ({"layers": {-1: np.zeros((40, 3))}}, "layers: key -1"),
        ({"labels": np.zeros((40, 1))}, "labels: shape (40, 1), expected (n,)"),
        ({"labels": [0.0, 1.0, np.nan, 1.0] * 10}, "labels: 10 are missing"),
        ({"labels": ["a", "b", None, "a"] * 10}, "labels: 10 are missing"),
        ({"labels": np.zeros(40)}, "one class only"),
        ({"groups": np.zeros(39)}, "groups: shape (39,), expected (40,)"),
        ({"groups": [None, "a"] * 20}, "groups: 20 are missing"),
        ({"groups": np.arange(40) % 3}, "3 groups are too few for 5 folds"),
        ({"texts": ["a"] * 39}, "texts: 39 for 40 labels"),
        ({"texts": ["a", 3] * 20}, "texts: number 1 is no text: 3"),
        ({"layers": [np.zeros((40, 3))]}, "layers: expected arrays by the number of their layer"),
        ({"layers": {True: np.zeros((40, 3))}}, "layers: key True"),
        ({"labels": np.asarray(["a", 1] * 20, dtype=object)}, "labels: of types that have no"),
        ({"groups": np.asarray(["a", 1] * 20, dtype=object)}, "groups: of types that have no"),
        ({}, "layers: all rows are the same, in every layer"),
        ({"folds": 1}, "folds"),
        ({"fold": 3}, "folds"),
    ],
)
def test_wrong_input_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        probe(**{**RIGHT, **change})


def test_where_memory_is_short_one_layer_is_read_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    layers, y, groups = planted()
    together = probe(layers, y, groups)
    in_memory, most = 0, 0
    fit = protocol.probe_layer

    def counted(*arguments: object, **options: object) -> object:
        nonlocal in_memory, most
        in_memory += 1
        most = max(most, in_memory)
        try:
            return fit(*arguments, **options)
        finally:
            in_memory -= 1

    monkeypatch.setattr(protocol, "probe_layer", counted)
    monkeypatch.setattr(workers.psutil, "virtual_memory", lambda: SimpleNamespace(available=1))
    alone = probe(layers, y, groups)
    assert most == 1
    pd.testing.assert_frame_equal(alone.table, together.table)


def test_of_layers_that_score_the_same_the_peak_is_the_surer_one() -> None:
    rng = np.random.default_rng(0)
    y = (np.arange(600) % 20 == 0).astype(int)
    layers = {layer: rng.normal(size=(600, 10)) for layer in range(4)}
    layers[2][:, 0] += 1.2 * y
    results = probe(layers, y, permutations=19, l2=1e3)
    assert results.table["accuracy"].nunique() == 1
    assert results.summary["peak_layer"].item() == 2
    assert results.probes[0].best_layer == 2
    assert results.summary["peak_p_value"].item() == 0.05


def test_numbers_that_are_mostly_zero_have_finite_intervals() -> None:
    rng = np.random.default_rng(0)
    y = np.zeros(200)
    y[:6] = rng.normal(size=6)
    # All in one group, which a third of the resamples lack.
    results = probe({0: rng.normal(size=(200, 10))}, y, np.arange(200) // 20, kind="ridge")
    columns = ["r2", "r2_low", "r2_high", "control_r2", "selectivity"]
    assert np.isfinite(results.table[columns].to_numpy()).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda X: X[::-1][::-1],
        lambda X: np.asfortranarray(X),
        lambda X: X.astype(">f8"),
        lambda X: X.astype(np.longdouble),
        lambda X: torch.tensor(X, requires_grad=True),
        lambda X: pd.DataFrame(X),
    ],
    ids=["reversed", "fortran", "big-endian", "long double", "tensor", "table"],
)
def test_layers_may_be_arrays_of_any_kind(
    change: Callable[[np.ndarray], object], results: Results
) -> None:
    layers, y, groups = planted()
    for X in layers.values():
        X.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = probe({layer: change(X) for layer, X in layers.items()}, y, groups)
    pd.testing.assert_frame_equal(found.table, results.table, rtol=1e-4)


def test_controls_that_need_another_model_are_refused_by_name() -> None:
    with pytest.raises(UserError, match="random_weights needs states of its own"):
        probe(**RIGHT, controls=["random_weights"])


def test_auroc_without_signal_is_about_a_half_with_few_groups() -> None:
    """Pooled over folds, which have probes of their own, it was .39."""
    areas = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(10), 8)
        y = rng.permutation(np.tile([0, 1], 40))
        X = rng.normal(size=(10, 6))[groups] + rng.normal(size=(80, 6))
        found = probe({0: X}, y, groups, permutations=0, controls=[], description_length=False)
        areas.append(found.table["auroc"].item())
    assert np.mean(areas) == pytest.approx(0.5, abs=0.03)


def rare(effect: float, seed: int = 0) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Five layers of 200 rows, 8 % of class 1, which the third one shows; and the classes."""
    rng = np.random.default_rng(seed)
    y = (np.arange(200) < 16).astype(int)
    layers = {layer: rng.normal(size=(200, 12)) for layer in range(5)}
    layers[2][:, 0] += effect * y
    return layers, y


def test_a_rare_class_is_found_where_it_is_and_shown_by_its_auroc() -> None:
    layers, y = rare(2.0)
    results = probe(layers, y, permutations=39, controls=[], description_length=False)
    summary = results.summary.iloc[0]
    assert summary["main_score"] == "auroc"
    assert summary["peak_layer"] == 2
    assert summary["peak_score"] == summary["peak_auroc"] == results.table["auroc"][2] > 0.75
    assert summary["peak_p_value"] == 1 / 40
    assert results.probes[0].best_layer == 2


def test_of_three_classes_one_of_which_is_frequent_the_balanced_accuracy_is_shown() -> None:
    layers, y = rare(2.0)
    y = np.where((y == 0) & (np.arange(200) % 4 == 0), 2, y)
    texts = [f"text {i} of {'ab'[i % 2]}" for i in range(200)]
    results = probe(layers, y, texts=texts, permutations=0, description_length=False,
                    controls=["bag_of_words"], repeats=1)  # fmt: skip
    summary = results.summary.iloc[0]
    assert summary["main_score"] == "balanced_accuracy"
    best = results.table.set_index("layer").loc[summary["peak_layer"]]
    assert summary["peak_score"] == best["balanced_accuracy"]
    rival = results.rivals.sort_values("example")["predicted"]
    expected = balanced_accuracy_score(y.astype(str), rival)
    assert summary["bag_of_words_balanced_accuracy"] == pytest.approx(expected)
    gain = best["balanced_accuracy"] - expected
    assert summary["gain_over_bag_of_words"] == pytest.approx(gain)
    assert summary["stays_above_half_depth"] >= 0


def test_the_layer_that_is_tested_is_the_one_with_the_least_held_out_loss() -> None:
    layers, y = rare(1.0, seed=3)
    table = probe(layers, y, permutations=0, controls=[], description_length=False).table
    assert (table["skill"] < 1).all()
    summary = probe(layers, y, permutations=0, controls=[], description_length=False).summary
    assert summary["peak_layer"].item() == table["layer"][table["skill"].argmax()]


def test_without_enough_labellings_there_is_no_p_value(caplog: pytest.LogCaptureFixture) -> None:
    groups = np.repeat(np.arange(40), [2] * 20 + [3] * 20)
    y = (groups < 20).astype(int)
    X = np.random.default_rng(0).normal(size=(len(y), 6))
    results = probe({0: X}, y, groups, permutations=19, controls=[], description_length=False)
    assert results.summary["peak_p_value"].isna().all()
    assert results.summary["relabellings"].item() == 1
    assert "only 1 different labellings" in caplog.text


def test_folds_are_dealt_out_three_times_where_permutations_cost_far_more() -> None:
    layers, y, groups = planted()
    for options, repeats in (({"permutations": 20}, 3), ({"permutations": 0}, 1),
                             ({"permutations": 0, "repeats": 2}, 2)):  # fmt: skip
        found = probe({0: layers[0]}, y, groups, controls=[], description_length=False, **options)
        assert found.summary["repeats"].item() == repeats
        assert found.predictions["repeat"].nunique() == repeats


def test_depth_is_that_in_the_model_where_some_layers_alone_were_read(
    tiny_model: Callable[..., Path],
) -> None:
    data = llmprobe.load_dataset("coin_flip", n=60, options={"people": 2})
    activations = Extractor(
        ModelConfig(id=str(tiny_model("llama"))), ExtractConfig(layers=(0, 1))
    ).extract(data, cache=False, progress=False)
    results = llmprobe.probe(activations, permutations=0, progress=False)
    assert results.table["depth"].tolist() == [0, pytest.approx(1 / 3)]
    assert results.summary["layers"].tolist() == [3]


def test_the_control_task_of_labelled_words_is_of_word_types(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    colours, things = ["red", "green", "blue"], ["coin", "city", "capital", "statement"]
    texts = [f"the {colour} {thing}" for colour in colours for thing in things for _ in (0, 1)]
    words, labels, sentences = [], [], []
    for i, text in enumerate(texts):
        start = text.index(" ") + 1
        stop = text.index(" ", start)
        words += [(start, stop), (stop + 1, len(text))]
        labels += ["colour", "thing"]
        sentences += [i, i]
    data = llmprobe.ConceptDataset(
        "words", [text for text in texts for _ in (0, 1)], np.array(labels),
        np.array(sentences), words=words,
    )  # fmt: skip
    activations = Extractor(ModelConfig(id=str(tiny_model("llama")))).extract(
        data, cache=False, progress=False
    )
    drawn = []
    build = protocol.build_tasks
    monkeypatch.setattr(
        protocol, "build_tasks", lambda *a, **k: drawn.append(build(*a, **k)) or drawn[-1]
    )
    config = {"permutations": 0, "controls": ["random_labels"], "l2": 1.0}
    llmprobe.probe(activations, progress=False, **config)
    for task in drawn[0].control:
        by_word = pd.Series(task.targets[0]).groupby(np.array(data.surface)).nunique()
        assert (by_word == 1).all()
