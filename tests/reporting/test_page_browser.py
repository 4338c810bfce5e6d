"""The page in a browser: what it draws is what the tables say, and every control does its work."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browsing import DRAWN, Opened
from synthetic_runs import MODELS

from llmprobe.reporting.page.examples import REACH
from llmprobe.results.metrics import METRICS
from llmprobe.results.predictions import first_repeat
from llmprobe.results.results import Results

Open = Callable[..., Opened]
both_widths = pytest.mark.parametrize("width", [1400, 400])


@pytest.fixture
def wide(shown: Open, trial_page: Path) -> Opened:
    return shown(trial_page)


def layers_of(trial: Results, model: str, dataset: str = "capitals") -> pd.DataFrame:
    rows = trial.table[(trial.table["model"] == model) & (trial.table["dataset"] == dataset)]
    return rows.set_index("layer")


def for_the_truth(trial: Results, model: str, dataset: str = "capitals") -> pd.DataFrame:
    """Probability of the right answer: a row for each example, a column for each layer."""
    table = first_repeat(trial.predictions)
    table = table[(table["model"] == model) & (table["dataset"] == dataset)]
    right = np.where(table["label"] == "1", table["score"], 1 - table["score"])
    return table.assign(right=right).pivot(index="example", columns="layer", values="right")


def peak(trial: Results, model: str, dataset: str = "capitals") -> int:
    row = trial.summary[(trial.summary["model"] == model) & (trial.summary["dataset"] == dataset)]
    return int(row["peak_layer"].item())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@both_widths
def test_page_opens_and_fits_the_window(
    shown: Open, trial_page: Path, width: int, scheme: Any
) -> None:
    page = shown(trial_page, width)
    page.page.emulate_media(color_scheme=scheme)
    assert page.overflow() == 0
    assert page.page.locator("#clouds canvas").count() == len(MODELS)
    assert page.page.locator("#curve-chart canvas").count() == 1


@both_widths
def test_slider_moves_the_points_to_where_the_predictions_have_them(
    shown: Open, trial_page: Path, trial: Results, width: int
) -> None:
    page = shown(trial_page, width)
    page.choose("model", "0")
    step = 2 * REACH / 255
    for layer in (0, 3, 6):
        page.slide(layer)
        # The other model is shown at the same relative depth.
        for number, (model, its_layer) in enumerate({"small": layer, "large": 2 * layer}.items()):
            points = pd.DataFrame(page.points(number)).set_index("i").sort_index()
            table = (
                first_repeat(trial.predictions)
                .query("model == @model and dataset == 'capitals' and layer == @its_layer")
                .set_index("example")
            )
            assert points["label"].tolist() == table["label"].tolist()
            for shown, wanted in (("x", "along"), ("y", "across")):
                gap = (points[shown] - table[wanted].clip(-REACH, REACH)).abs()
                assert gap.max() <= step / 2 + 1e-6
            assert page.text(f"#cloud-title-{number}").startswith(f"{model} layer {its_layer} of")


def test_points_glide_unless_less_motion_is_asked_for(wide: Opened) -> None:
    places = {}
    for layer in (12, 0):
        wide.slide(layer)
        places[layer] = wide.points(1)
    assert places[0] != places[12]
    wide.page.emulate_media(reduced_motion="no-preference")
    wide.slide(12)
    wide.page.wait_for_function(
        "(wanted) => wanted.every(({ i, x }, k) => Math.abs("
        "document.getElementById('cloud-1').view.data('points')[k].x - x) < 1e-9)",
        arg=places[12],
    )
    on_the_way = wide.page.evaluate(
        """async (wanted) => {
            const slider = document.getElementById("slider");
            slider.value = 0;
            slider.dispatchEvent(new Event("input"));
            const { view } = document.getElementById("cloud-1"), seen = new Set();
            while (!seen.has(wanted)) {
                seen.add(view.data("points")[0].x);
                await new Promise(requestAnimationFrame);
            }
            return seen.size;
        }""",
        places[0][0]["x"],
    )
    assert on_the_way > 2


def test_hovering_a_point_shows_its_text_and_what_is_said_of_it(
    wide: Opened, trial: Results
) -> None:
    number = wide.hover(0)
    shown = wide.text("#tip")
    capitals = trial.examples[trial.examples["dataset"] == "capitals"]
    example = capitals.set_index("example").loc[number]
    assert f"text: {example['text']}" in shown
    assert f"label: {example['label']}" in shown
    assert f"group: {example['group']}" in shown


@both_widths
def test_click_on_a_cell_opens_its_layer(
    shown: Open, trial_page: Path, trial: Results, width: int
) -> None:
    page = shown(trial_page, width)
    for number, dataset, layer in ((1, "coin_flip", 5), (0, "capitals", 2)):
        model = list(MODELS)[number]
        page.page.click(page.cell(number, int(dataset == "coin_flip"), layer))
        assert page.text("#layer-title") == f"{model}, {dataset}: layer {layer} of {MODELS[model]}"
        row = layers_of(trial, model, dataset).loc[layer]
        scores = page.table("#scores")
        low, high = row["accuracy_low"], row["accuracy_high"]
        assert scores["accuracy"] == f"{row['accuracy']:.2f} [{low:.2f}, {high:.2f}]"
        assert scores["AUROC"].startswith(f"{row['auroc']:.2f} [")
        assert scores["p of the layer"] == f"{row['p_value']:.3f}"
        assert page.page.input_value("#slider") == str(layer)
        counts = [int(text) for text in page.texts("#confusion td")]
        table = first_repeat(trial.predictions).query(
            "model == @model and dataset == @dataset and layer == @layer"
        )
        assert counts == pd.crosstab(table["label"], table["predicted"]).to_numpy().ravel().tolist()


@both_widths
def test_arrow_keys_walk_through_the_heatmap(shown: Open, trial_page: Path, width: int) -> None:
    page = shown(trial_page, width)
    page.page.click(page.cell(0, 0, 2))
    for key, title in {
        "ArrowRight": "small, capitals: layer 3 of 6",
        "ArrowDown": "small, coin_flip: layer 3 of 6",
        "End": "small, coin_flip: layer 6 of 6",
        "ArrowLeft": "small, coin_flip: layer 5 of 6",
    }.items():
        page.page.keyboard.press(key)
        assert page.text("#layer-title") == title
    page.page.keyboard.press("ArrowDown")  # Into the deeper model, at the same relative depth.
    assert page.text("#layer-title") == "large, capitals: layer 10 of 12"
    page.page.keyboard.press("Home")
    page.page.keyboard.press("ArrowLeft")  # There is nothing further left.
    assert page.text("#layer-title") == "large, capitals: layer 0 of 12"
    chosen = page.page.locator("#heatmap [aria-selected=true]")
    assert chosen.count() == 1
    assert chosen.evaluate("(cell) => cell === document.activeElement")


@both_widths
def test_metric_menu_colours_the_heatmap_by_that_score(
    shown: Open, trial_page: Path, trial: Results, width: int
) -> None:
    page = shown(trial_page, width)
    colours = page.page.locator("#heatmap [role=gridcell]").evaluate_all(
        "(cells) => cells.map((cell) => cell.style.background)"
    )
    page.choose("metric", "auroc")
    row = layers_of(trial, "large").loc[3]
    assert page.page.locator(page.cell(1, 0, 3)).get_attribute("aria-label") == (
        f"large, capitals, layer 3 of 12: AUROC {row['auroc']:.2f}"
    )
    (curve,) = (c for c in trial.curves if (c.model, c.dataset) == ("large", "capitals"))
    best = curve.best(METRICS["auroc"])
    assert page.text(page.cell(1, 0, 13)) == f"{curve.column('auroc')[best]:.2f} ({best})"
    assert colours != page.page.locator("#heatmap [role=gridcell]").evaluate_all(
        "(cells) => cells.map((cell) => cell.style.background)"
    )
    page.page.wait_for_function("() => document.querySelector('#curve-chart[aria-label^=AUROC]')")


def test_rows_of_the_heatmap_are_ranked_as_asked(wide: Opened, trial: Results) -> None:
    names = "#heatmap .scroll:first-child tbody th"
    assert wide.texts(names) == ["capitals", "coin_flip"]
    wide.choose("order", "score")
    best = trial.summary.query("model == 'small'").sort_values("peak_accuracy", ascending=False)
    assert wide.texts(names) == best["dataset"].tolist()
    wide.choose("order", "peak")
    places = {name: peak(trial, "small", name) for name in ("capitals", "coin_flip")}
    assert wide.texts(names) == sorted(places, key=lambda name: places[name])


def test_examples_are_sorted_by_what_the_predictions_say(wide: Opened, trial: Results) -> None:
    wide.page.click(wide.cell(1, 0, 3))
    right = for_the_truth(trial, "large")
    flips = (right > 0.5).astype(int).diff(axis=1).abs()
    measures = {
        "hardest": right.mean(axis=1),
        "easiest": -right.mean(axis=1),
        "wrong": right[peak(trial, "large")],
        "flips": -(flips * flips.columns.to_numpy()).max(axis=1),
        "number": pd.Series(right.index, right.index),
        "gap": -(
            right[peak(trial, "large")] - for_the_truth(trial, "small")[peak(trial, "small")]
        ).abs(),
    }
    for name, measure in measures.items():
        wide.choose("sort", name)
        listed = measure[wide.listed()]
        # The page has probabilities in steps of 1 / 255, and a gap is of two.
        assert (listed.diff().dropna() >= -4 / 255).all(), name
        assert listed.max() <= measure.nsmallest(len(listed)).max() + 4 / 255, name


def test_examples_show_the_answer_at_the_open_layer(wide: Opened, trial: Results) -> None:
    wide.page.click(wide.cell(1, 0, 3))
    wide.choose("sort", "number")
    right = for_the_truth(trial, "large")[3].sort_index()
    assert wide.texts("#example-rows tbody td:nth-child(6)") == [
        f"{share:.2f}" for share in right.head(20)
    ]
    predicted = first_repeat(trial.predictions).query(
        "model == 'large' and dataset == 'capitals' and layer == 3"
    )
    said = [text.split()[0] for text in wide.texts("#example-rows tbody td:nth-child(5)")]
    assert said == predicted.sort_values("example")["predicted"].head(20).tolist()


@both_widths
def test_search_keeps_the_examples_that_have_the_words(
    shown: Open, trial_page: Path, trial: Results, width: int
) -> None:
    page = shown(trial_page, width)
    texts = trial.examples.query("dataset == 'capitals'").set_index("example")["text"]
    page.page.fill("#search", "OSLO")
    page.choose("sort", "number")
    wanted = texts.index[texts.str.contains("Oslo")].tolist()
    assert page.listed() == wanted[:20]
    assert page.text("#example-count") == f"{len(wanted)} examples, page 1 of 3"
    page.page.fill("#search", "continent: ")  # The name of a field is not its content.
    assert page.listed() == []
    page.page.fill("#search", "africa")
    assert page.text("#example-count") == "40 examples, page 1 of 2"
    page.page.fill("#search", "")
    assert page.text("#example-count") == "120 examples, page 1 of 6"


def test_paging_shows_every_example_once(wide: Opened) -> None:
    seen = wide.listed()
    assert wide.page.is_disabled("#previous")
    while wide.page.is_enabled("#next"):
        wide.page.click("#next")
        seen += wide.listed()
    assert sorted(seen) == list(range(120))
    wide.page.click("#previous")
    assert wide.listed() == seen[80:100]


def test_play_goes_through_the_layers_to_the_last(wide: Opened) -> None:
    wide.choose("model", "0")
    wide.slide(4)
    wide.page.click("#play")
    assert "Pause" in wide.text("#play")
    wide.page.wait_for_function("() => document.getElementById('slider').value === '6'")
    wide.page.wait_for_function(
        "() => document.getElementById('play').textContent.includes('Play')"
    )
    wide.page.click("#play")  # From the end it begins again.
    assert wide.page.input_value("#slider") == "0"
    wide.page.click("#play")
    assert "Play" in wide.text("#play")


@both_widths
def test_click_on_a_finding_opens_its_best_layer(
    shown: Open, trial_page: Path, trial: Results, width: int
) -> None:
    page = shown(trial_page, width)
    for curve, evidence in zip(trial.curves, trial.evidence, strict=True):
        headline = f"{curve.model} on {curve.dataset}: {evidence.line}"
        page.page.click(f'button.plain[data-curve]:has-text("{headline}")')
        assert page.text("#layer-title") == (
            f"{curve.model}, {curve.dataset}: layer {curve.layer} of {curve.blocks}"
        )
        assert page.page.locator("#layer-title").is_visible()


def test_click_on_an_example_marks_its_point(wide: Opened) -> None:
    number = wide.listed()[3]
    button = wide.page.locator(f"#example-rows tr[data-example='{number}'] button")
    button.press("Enter")
    assert wide.page.evaluate(
        "[0, 1].map((model) => document.getElementById(`cloud-${model}`).view.data('points')"
        ".filter((point) => point.chosen).map((point) => point.i))"
    ) == [[number], [number]]
    assert button.get_attribute("aria-pressed") == "true"
    assert button.evaluate("(here) => here === document.activeElement")
    assert wide.page.locator("#example-rows [aria-pressed=true]").count() == 1
    button.press("Enter")
    assert button.get_attribute("aria-pressed") == "false"


def test_downloads_are_the_tables(wide: Opened, trial: Results) -> None:
    for name, table in (("results.csv", trial.table), ("summary.csv", trial.summary)):
        with wide.page.expect_download() as download:
            wide.page.click(f"#downloads >> text={name}")
        assert download.value.suggested_filename == name
        read = pd.read_csv(StringIO(download.value.path().read_text("utf-8")))
        wanted = table.replace("", np.nan).dropna(axis=1, how="all").reset_index(drop=True)
        pd.testing.assert_frame_equal(
            read[wanted.columns], wanted, check_dtype=False, rtol=1e-5, atol=1e-6
        )


def test_reload_begins_anew(wide: Opened) -> None:
    wide.page.reload()
    wide.page.wait_for_function(DRAWN)
    first = wide.text("#layer-title")
    wide.page.click(wide.cell(0, 1, 1))
    wide.choose("sort", "number")
    wide.choose("metric", "auroc")
    wide.page.fill("#search", "city 003")
    wide.page.reload()
    wide.page.wait_for_function(DRAWN)
    assert wide.text("#layer-title") == first
    controls = "metric order dataset model sort search slider".split()
    shown = {name: wide.page.input_value(f"#{name}") for name in controls}
    assert shown == {
        **{"metric": "accuracy", "order": "given", "dataset": "0", "sort": "hardest"},
        **{"model": shown["model"], "search": "", "slider": shown["slider"]},
    }
    assert f"layer {shown['slider']} of" in first
    assert first.startswith(list(MODELS)[int(shown["model"])])


def test_printed_page_is_dark_on_white_and_has_no_controls_to_press(
    opened: Open, trial_page: Path
) -> None:
    page = opened(trial_page, 720)
    schemes: tuple[Any, ...] = ("light", "dark")
    for scheme in schemes:
        page.page.emulate_media(media="print", color_scheme=scheme)
        assert not page.page.is_visible("#play")
        assert page.overflow() == 0
        colours = page.page.evaluate(
            "(({ color, backgroundColor }) => [color, backgroundColor])"
            "(getComputedStyle(document.body))"
        )
        assert colours == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]


def test_without_scripts_the_page_still_has_figures_findings_and_tables(
    opened: Open, trial_page: Path, trial: Results
) -> None:
    page = opened(trial_page, scripted=False)
    for found in page.page.locator(".card").all():
        assert "capitals" in found.inner_text() or "coin_flip" in found.inner_text()
    assert page.page.locator("noscript img").count() == 2
    assert page.page.locator("noscript img").first.is_visible()
    assert not page.page.is_visible("#slider")
    assert len(page.texts("section.names >> nth=0 >> tbody tr")) >= len(trial.summary)
    assert page.overflow() == 0
