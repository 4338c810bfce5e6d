"""Runs of every size and kind have a page that opens, fits and reacts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browsing import Opened
from synthetic_runs import capitals, large_run, probed_run, write_page

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.results.predictions import first_repeat

Open = Callable[..., Opened]


@pytest.fixture(scope="module")
def large_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 3 models × 10 datasets × 41 layers × 2,000 examples."""
    out = tmp_path_factory.mktemp("large")
    run = large_run(out, dict.fromkeys(("a", "b", "c"), 40), 10, 2000)
    return write_page(out / "report.html", run)


def test_page_of_a_large_run_is_small_and_says_what_it_left_out(
    shown: Open, large_page: Path
) -> None:
    assert large_page.stat().st_size < 10_000_000
    page = shown(large_page)
    drawn = len(page.points(0))
    assert 500 < drawn < 2000
    assert f"{drawn} of 2,000 examples, drawn at random" in page.text("#legend")
    assert "of 2,000 examples are on this page" in page.text("#example-note")
    page.choose("dataset", "7")
    before = page.points(2)
    page.slide(3)
    assert page.points(2) != before
    page.page.click(page.cell(1, 4, 20))
    assert page.text("#layer-title") == "b, dataset-04: layer 20 of 40"
    page.choose("sort", "flips")
    assert len(page.listed()) == 20


@pytest.mark.parametrize("width", [1400, 400])
def test_page_of_a_large_run_fits_the_window(shown: Open, large_page: Path, width: int) -> None:
    assert shown(large_page, width).overflow() == 0


def test_page_of_a_run_too_large_for_points_shows_the_rest(opened: Open, tmp_path: Path) -> None:
    run = large_run(tmp_path, {f"model-{number}": 100 for number in range(6)}, 40, 4)
    page = opened(write_page(tmp_path / "report.html", run), 400)
    assert page.overflow() == 0
    assert page.page.is_visible("#no-clouds")
    assert not page.page.is_visible("#example-part")
    page.page.click(page.cell(5, 39, 50))
    assert page.text("#layer-title") == "model-5, dataset-39: layer 50 of 100"
    assert "accuracy" in page.table("#scores")


def test_page_of_one_layer_has_nothing_to_slide_through(opened: Open, tmp_path: Path) -> None:
    run = probed_run(tmp_path, {"embedding": 0}, [capitals("one", 60)])
    page = opened(write_page(tmp_path / "report.html", run))
    assert page.text("#layer-title") == "embedding, one: layer 0 of 0"
    page.page.click("#play")
    page.page.click("#peak")
    page.page.click(page.cell(0, 0, 0))
    assert len(page.points(0)) == 60
    assert page.listed()


@pytest.mark.parametrize("width", [1400, 400])
def test_page_of_five_classes_shows_each(opened: Open, tmp_path: Path, width: int) -> None:
    labels = np.array(["red", "green", "blue", "black", "white"] * 30)
    texts = [f"{label} number {i}" for i, label in enumerate(labels)]
    run = probed_run(tmp_path, {"m": 4}, [ConceptDataset("colours", texts, labels)])
    page = opened(write_page(tmp_path / "report.html", run), width)
    page.slide(3)
    assert page.texts("#confusion thead th")[1:] == sorted(set(labels))
    assert {point["label"] for point in page.points(0)} == set(labels)
    table = first_repeat(run.predictions).query("layer == 3")
    counts = [int(text) for text in page.texts("#confusion td")]
    assert counts == pd.crosstab(table["label"], table["predicted"]).to_numpy().ravel().tolist()
    page.choose("sort", "number")
    said = [text.split()[0] for text in page.texts("#example-rows tbody td:nth-child(4)")]
    assert said == table.sort_values("example")["predicted"].head(20).tolist()
    assert page.overflow() == 0


def test_page_of_labels_that_are_numbers_shows_predictions(opened: Open, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ages = np.round(rng.uniform(1, 90, 100), 1)
    dataset = ConceptDataset("ages", [f"person {i} is {age}" for i, age in enumerate(ages)], ages)
    run = probed_run(tmp_path, {"m": 4}, [dataset], kind="ridge", controls=("bag_of_words",))
    page = opened(write_page(tmp_path / "report.html", run))
    assert page.page.input_value("#metric") == "r2"
    page.slide(4)
    row = run.table.query("layer == 4").iloc[0]
    assert page.table("#scores")["R²"].startswith(f"{row['r2']:.2f}".replace("-", "−"))
    page.choose("sort", "number")
    shown = [float(text) for text in page.texts("#example-rows tbody td:nth-child(4)")]
    table = first_repeat(run.predictions).query("layer == 4").sort_values("example")
    spread = float(np.ptp(first_repeat(run.predictions)["score"]))
    assert shown == pytest.approx(table["score"].head(20).tolist(), abs=spread / 255 + 0.1)
    assert page.hover(0) >= 0
    assert "predicted: " in page.text("#tip")


def test_page_of_named_layers_names_them(opened: Open, tmp_path: Path) -> None:
    run = probed_run(tmp_path, {"net": 4}, [capitals("digits", 60)])
    names = ["input", "conv1_preact", "conv1_postact", "fc1_a_rather_long_name", "logits"]
    run = replace(run, table=run.table.assign(layer_name=names))
    page = opened(write_page(tmp_path / "report.html", run), 400)
    page.slide(2)
    assert page.text("#layer-title") == "net, digits: layer 2 (conv1_postact) of 4"
    heads = page.page.locator("#heatmap thead th span").all_text_contents()
    assert heads[:3] == names[:3]
    assert page.overflow() == 0


@pytest.mark.parametrize(
    ("missing", "examples"),
    [
        ({"predictions": pd.DataFrame(columns=["model", "dataset", "layer", "example"])}, False),
        ({"examples": pd.DataFrame(columns=["dataset", "example", "text", "group"])}, True),
    ],
    ids=["predictions", "examples"],
)
def test_page_shows_what_is_left_where_tables_are_missing(
    opened: Open, tmp_path: Path, missing: Mapping[str, pd.DataFrame], examples: bool
) -> None:
    run = replace(probed_run(tmp_path, {"m": 4}, [capitals("one", 60)]), **missing)
    page = opened(write_page(tmp_path / "report.html", run))
    assert page.page.is_visible("#example-part") == examples
    assert page.page.is_visible("#clouds canvas") == examples
    page.page.click(page.cell(0, 0, 1))
    assert page.text("#layer-title") == "m, one: layer 1 of 4"


def test_page_of_an_earlier_version_lists_examples_without_points(
    opened: Open, tmp_path: Path
) -> None:
    run = probed_run(tmp_path, {"m": 4}, [capitals("one", 60)])
    run = replace(run, predictions=run.predictions.drop(columns=["along", "across"]))
    page = opened(write_page(tmp_path / "report.html", run))
    assert page.page.is_visible("#no-clouds")
    assert len(page.listed()) == 20
