"""What the script of the page gets is the run's tables, harmless as text and small."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import capitals, large_run, probed_run

from llmprobe.config.schema import ProbeConfig
from llmprobe.probing.protocol import probe_layers
from llmprobe.reporting.page import examples as drawn
from llmprobe.reporting.page import payload
from llmprobe.reporting.page.payload import as_json
from llmprobe.results.metrics import METRICS, Metric
from llmprobe.results.results import Results

Tables = tuple[pd.DataFrame, pd.DataFrame]
MODELS = {"small": 2, "large": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Results:
    out = tmp_path_factory.mktemp("run")
    return probed_run(out, MODELS, [capitals(n=60), capitals("coin_flip", 40)], permutations=0)


def data_of(run: Results) -> dict[str, Any]:
    """As the script reads it."""
    data: dict[str, Any] = json.loads(as_json(payload.payload(run)))
    return data


def of_curve(table: pd.DataFrame, data: dict[str, Any], curve: dict[str, Any]) -> pd.DataFrame:
    model, dataset = (data[f"{kind}s"][curve[kind]]["name"] for kind in ("model", "dataset"))
    return table[(table["model"] == model) & (table["dataset"] == dataset)]


def bare(table: pd.DataFrame, summary: pd.DataFrame) -> Results:
    """Results without predictions and examples."""
    return Results(table, summary, pd.DataFrame(columns=["model", "dataset", "example"]))


def octets(text: str) -> np.ndarray:
    return np.frombuffer(b64decode(text), dtype=np.uint8)


def test_labels_are_called_by_the_names_of_their_dataset(run: Results) -> None:
    named = {"name": "capitals", "classes": {"0": "false", "1": "true"}}
    environment = {**run.environment, "datasets": [named, {"name": "coin_flip"}]}
    before, after = data_of(run), data_of(replace(run, environment=environment))
    first, other = after["datasets"]
    assert first["classes"] == ["false", "true"]
    plain = before["datasets"][0]["examples"]["label"]
    assert first["examples"]["label"] == [named["classes"][label] for label in plain]
    assert other == before["datasets"][1] | {"about": ""}
    assert [curve["points"] for curve in after["curves"]] == [
        curve["points"] for curve in before["curves"]
    ]


EVIL = "</script><!-- <script>alert(1)</script> & \"'\u2028\u2029 \U0001f600 \u202eabc"


def test_no_text_can_end_the_element_that_holds_the_data() -> None:
    mapping = {EVIL: [EVIL, {"deep": EVIL}]}
    text = as_json(mapping)
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text) == mapping


def test_a_number_that_json_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        as_json({"score": float("nan")})


def test_curves_hold_the_scores_of_the_results(run: Results) -> None:
    data = data_of(run)
    assert [model["name"] for model in data["models"]] == list(MODELS)
    assert [dataset["name"] for dataset in data["datasets"]] == ["capitals", "coin_flip"]
    assert len(data["curves"]) == 4
    for curve in data["curves"]:
        rows, row = (of_curve(table, data, curve) for table in (run.table, run.summary))
        assert curve["layers"] == rows["layer"].to_list()
        assert curve["depths"] == pytest.approx(rows["depth"].to_list())
        for score in ("accuracy", "accuracy_low", "auroc", "log_loss"):
            assert curve["scores"][score] == pytest.approx(rows[score].to_list(), rel=1e-4)
        assert curve["layers"][curve["best"]["accuracy"]] == row["peak_layer"].item()
        assert curve["chances"]["accuracy"] == row["majority_accuracy"].item()
        places = {mark["mark"]: mark["place"] for mark in curve["marks"]}
        read, stays = curve["readable"], row["falls_below_half_depth"].isna().item()
        for name, mark, there in (
            ("stays_above_half_depth", "above half from here", read),
            ("falls_below_half_depth", "below half from here", read),
            ("jump_layer", "jump", read and stays),
            ("converging_layer", "converged", read and stays),
        ):
            value = row[name].item()
            place = f"depth {value:.2f}" if name.endswith("depth") else f"layer {value:.0f}"
            assert places.get(mark) == (place if there and np.isfinite(value) else None)


def test_marks_stand_on_the_curve(run: Results) -> None:
    data = data_of(run)
    assert any(curve["marks"] for curve in data["curves"])
    for curve in data["curves"]:
        for mark in curve["marks"]:
            on_it = np.interp(mark["depth"], curve["depths"], curve["scores"]["accuracy"])
            assert mark["score"] == pytest.approx(on_it, abs=1e-4)


def test_bytes_are_what_the_predictions_say_of_each_example(run: Results) -> None:
    data = data_of(run)
    for curve in data["curves"]:
        dataset = data["datasets"][curve["dataset"]]
        table = of_curve(run.predictions, data, curve).set_index(["layer", "example"])
        places = [
            (layer, example)
            for layer in curve["layers"]
            for example in dataset["examples"]["number"]
        ]
        table = table.loc[places]
        of_truth = table["score"].where(table["label"] == "1", 1 - table["score"])
        assert octets(curve["points"]["right"]) / 255 == pytest.approx(of_truth, abs=0.004)
        for name in ("along", "across"):
            reach = curve["points"]["reach"]
            found = (octets(curve["points"][name]) / 255 * 2 - 1) * reach
            assert found == pytest.approx(table[name].clip(-reach, reach), abs=0.02)


def test_examples_have_their_label_text_group_and_fields(run: Results) -> None:
    dataset = data_of(run)["datasets"][0]
    assert dataset["classes"] == ["0", "1"]
    assert (dataset["n"], dataset["examples"]["drawn"]) == (60, 60)
    examples = run.examples.query("dataset == 'capitals'").set_index("example")
    listed = dataset["examples"]
    for column in ("label", "text", "group"):
        assert listed[column] == examples.loc[listed["number"], column].to_list()
    assert set(listed["fields"]) == {"continent"}
    assert listed["fields"]["continent"] == [
        json.loads(fields)["continent"] for fields in examples["fields"]
    ]


def test_without_its_texts_an_example_has_its_number_and_label(run: Results) -> None:
    dataset = data_of(replace(run, examples=run.examples.head(0)))["datasets"][0]
    assert set(dataset["examples"]) == {"number", "label", "drawn"}


def test_without_predictions_there_are_curves_and_no_examples(run: Results) -> None:
    data = data_of(replace(run, predictions=run.predictions.head(0)))
    assert all("points" not in curve for curve in data["curves"])
    assert all(dataset["examples"] is None for dataset in data["datasets"])


def test_predictions_of_other_layers_than_the_results_are_not_drawn(run: Results) -> None:
    later = replace(run, predictions=run.predictions[run.predictions["layer"] > 0])
    assert not [curve for curve in data_of(later)["curves"] if "points" in curve]
    assert [curve for curve in data_of(run)["curves"] if "points" in curve]


def test_any_text_is_listed_and_long_ones_are_cut_in_the_middle(run: Results) -> None:
    long = "start" + "x" * 10_000 + "end"
    texts = [EVIL, long] + ["a"] * 58
    examples = run.examples.query("dataset == 'capitals'").assign(
        text=texts,
        group=None,
        fields=[json.dumps({EVIL: EVIL, "long": long, "half": "\ud800"})] + ["{}"] * 59,
    )
    listed = data_of(replace(run, examples=examples))["datasets"][0]["examples"]
    assert listed["text"][0] == EVIL
    cut = listed["text"][1]
    assert len(cut) < payload.MOST_CHARACTERS + 40
    assert cut.startswith("startxxx")
    assert cut.endswith("xxxend")
    assert f"[{len(long) - payload.MOST_CHARACTERS:,} more characters]" in cut
    assert "group" not in listed
    assert listed["fields"]["half"][0] == "?"
    assert listed["fields"][EVIL] == [EVIL] + [""] * 59
    assert len(listed["fields"]["long"][0]) < payload.MOST_CHARACTERS + 40


def test_what_is_not_known_is_null(tables: Callable[..., Tables]) -> None:
    results, summary = tables({"m": 3}, ["d"])
    results["accuracy"] = [0.5, np.nan, np.inf, 0.7]
    results["auroc"] = np.nan
    unknown = summary.assign(parameters=np.nan, jump_layer=np.nan, bag_of_words_accuracy=np.nan)
    data = data_of(bare(results, unknown))
    (curve,) = data["curves"]
    assert curve["scores"]["accuracy"] == [0.5, None, None, 0.7]
    assert "auroc" not in curve["scores"]
    assert data["models"] == [{"name": "m", "parameters": None}]
    assert {mark["mark"] for mark in curve["marks"]} == {"converged", "best layer", "highest score"}
    assert curve["stays_above_half"] is curve["bag_of_words"] is None


def test_a_curve_without_layers_is_left_out(two_by_two: Tables) -> None:
    results, summary = two_by_two
    assert len(data_of(bare(results[results["dataset"] == "capitals"], summary))["curves"]) == 2


def test_layers_of_a_network_have_names(network_tables: Callable[..., Tables]) -> None:
    results, summary = network_tables()
    for curve in data_of(bare(results, summary))["curves"]:
        assert curve["names"] == results["layer_name"].unique().tolist()
    assert data_of(bare(results.assign(layer_name=None), summary))["curves"][0]["names"] == []


def test_the_metric_of_numbers_is_r2(tables: Callable[..., Tables]) -> None:
    results, summary = tables({"m": 3}, ["d"])
    results = results.assign(r2=0.4, r2_low=0.3, r2_high=0.5, accuracy=np.nan)
    (curve,) = data_of(bare(results, summary.assign(main_score="r2", peak_r2=0.4)))["curves"]
    assert curve["metric"] == "r2"
    assert curve["scores"]["r2"] == [0.4] * 4
    assert curve["chances"]["r2"] == 0


def test_labels_that_are_numbers_have_points_and_no_classes() -> None:
    rng = np.random.default_rng(0)
    X, noise = rng.normal(size=(2, 60, 4))
    years = 1900 + 100 * rng.random(60)
    layers = {0: noise, 1: X + years[:, None] / 30}
    results = probe_layers(
        layers, years, model="m", dataset="years", progress=False,
        config=ProbeConfig(kind="ridge", permutations=0, controls=(), folds=3),
    )  # fmt: skip
    run = replace(bare(results.table, results.summary), predictions=results.predictions)
    data = data_of(run)
    assert data["datasets"][0]["classes"] == []
    (curve,) = data["curves"]
    assert not {"confusion", "calibration"} & set(curve)
    low, high = curve["points"]["values"]
    values = low + octets(curve["points"]["value"]) / 255 * (high - low)
    assert values == pytest.approx(results.predictions["score"], abs=0.003 * (high - low))


def test_a_metric_of_ones_own_is_there_with_its_chance_and_best_layer(
    run: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = Metric("toy", "Toy", "classes", chance=2.0, chance_name="as a toy", perfect=10.0,
                 heatmap=True, form=".1f")  # fmt: skip
    monkeypatch.setitem(METRICS._entries, "toy", toy)
    data = data_of(replace(run, table=run.table.assign(toy=run.table["layer"] * 1.5)))
    assert data["metrics"][-1] == {
        "name": "toy", "label": "Toy", "form": ".1f", "heatmap": True, "chance_name": "as a toy",
        "perfect": 10,
    }  # fmt: skip
    for curve in data["curves"]:
        assert curve["scores"]["toy"] == [1.5 * layer for layer in curve["layers"]]
        assert curve["chances"]["toy"] == 2
        assert curve["best"]["toy"] == len(curve["layers"]) - 1


def test_metrics_that_no_curve_has_are_not_there(run: Results) -> None:
    names = [metric["name"] for metric in data_of(run)["metrics"]]
    assert names == [name for name in METRICS if run.table.get(name, pd.Series()).notna().any()]
    assert "r2" not in names


def test_a_confusion_of_many_classes_is_not_shown(tmp_path: Path) -> None:
    for n_classes, shown in ((payload.MOST_CONFUSED + 1, False), (payload.MOST_CONFUSED, True)):
        (curve,) = data_of(large_run(tmp_path, {"m": 2}, 1, 60, n_classes))["curves"]
        assert ("confusion" in curve) is shown
        assert "calibration" in curve


def test_without_classes_there_are_no_points(run: Results) -> None:
    earlier = replace(run, summary=run.summary.assign(classes=np.nan))
    data = data_of(earlier)
    assert all("points" not in curve for curve in data["curves"])
    assert all(dataset["examples"] is None for dataset in data["datasets"])


def test_many_curves_have_their_main_scores_alone(
    run: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = data_of(run)["curves"][0]
    assert {"confusion", "calibration", "points"} <= set(full)
    assert "log_loss" in full["scores"]
    monkeypatch.setattr(payload, "MOST_CELLS", len(run.table) - 1)
    short = data_of(run)["curves"][0]
    assert not {"confusion", "calibration"} & set(short)
    assert "points" in short
    assert set(full["scores"]) > set(short["scores"]) >= {"accuracy", "accuracy_low", "auroc"}


def test_of_many_examples_models_draw_the_same_ones(tmp_path: Path) -> None:
    run = large_run(tmp_path, {"a": 2, "b": 3}, datasets=1, n=drawn.MOST_DRAWN + 500)
    data = data_of(run)
    (dataset,) = data["datasets"]
    listed = dataset["examples"]
    assert listed["drawn"] == drawn.MOST_DRAWN < len(listed["number"]) < dataset["n"]
    for curve in data["curves"]:
        assert len(octets(curve["points"]["right"])) == len(curve["layers"]) * len(listed["number"])


def test_the_data_of_a_large_run_is_small(tmp_path: Path) -> None:
    run = large_run(tmp_path, {"a": 39, "b": 39, "c": 39}, datasets=10, n=2000)
    data = data_of(run)
    assert len(as_json(data)) < 7_500_000
    assert all("points" in curve and "confusion" in curve for curve in data["curves"])


def test_a_model_that_was_scored_on_other_examples_has_no_points(run: Results) -> None:
    last = run.predictions["model"].unique()[-1]
    other = run.predictions["model"] == last
    moved = run.predictions.assign(example=run.predictions["example"] + other * 1)
    assert all("points" in curve for curve in data_of(run)["curves"])
    data = data_of(replace(run, predictions=moved))
    named = {data["models"][curve["model"]]["name"]: "points" in curve for curve in data["curves"]}
    assert not named.pop(last)
    assert all(named.values())
