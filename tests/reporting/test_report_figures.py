"""All figures of a run together: which there are, their files, and what they share."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from legible import draw
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from synthetic_runs import results_of

from llmprobe.reporting.charts.curves import curves, learning_curves
from llmprobe.reporting.charts.depth import (
    depth_against_difficulty,
    depth_against_size,
    depth_scatter,
)
from llmprobe.reporting.charts.heatmaps import heatmap
from llmprobe.reporting.charts.panels import layer_ticks
from llmprobe.reporting.charts.projections import projections
from llmprobe.reporting.charts.style import COLOURS, model_styles, png, save, write_all
from llmprobe.results.figures import FIGURES, draw_figures
from llmprobe.results.results import Results

Tables = tuple[pd.DataFrame, pd.DataFrame]
NOT_ASKED_FOR = {
    "results": ["accuracy_low", "accuracy_high", "auroc", "control_accuracy", "selectivity"],
    "summary": ["bag_of_words_accuracy", "peak_p_value", "jump_layer", "converging_depth"],
}
HEATMAPS = {
    f"heatmap_{metric}" for metric in ("accuracy", "balanced_accuracy", "auroc", "selectivity")
}


OF_MODELS = (curves, depth_scatter, depth_against_difficulty, depth_against_size, learning_curves)


def predictions_of(results: pd.DataFrame) -> pd.DataFrame:
    places = results[["model", "dataset", "position", "layer"]].merge(
        pd.DataFrame({"example": range(6), "label": list("010101")}), how="cross"
    )
    return places.assign(along=np.linspace(-2, 2, len(places)), across=0.5)


def learning_curve_of(summary: pd.DataFrame) -> pd.DataFrame:
    rows = summary.rename(columns={"peak_layer": "layer"})[
        ["model", "dataset", "position", "layer"]
    ]
    return rows.assign(fraction=0.5, accuracy=0.6, r2=np.nan)


def names(*tables: pd.DataFrame) -> set[str]:
    return set(draw_figures(results_of(*tables)))


def test_every_figure_that_there_are_numbers_for_is_drawn(tables: Callable[..., Tables]) -> None:
    results, summary = tables({"a": 8, "b": 5}, ["published/x", "y", "z"])
    few = {*HEATMAPS, "heatmap_by_model", "curves", "depth"}
    assert names(results, summary) == few
    summary["stays_above_half_depth"] = 0.4
    summary["parameters"] = summary["model"].map({"a": 1e8, "b": 2e8})
    assert names(results, summary, predictions_of(results), learning_curve_of(summary)) == {
        *few,
        *("difficulty", "size", "learning_curve"),
        *(f"projection_{name}" for name in ("published-x", "y", "z")),
    }


def test_one_model_on_one_dataset_is_not_compared_with_itself(
    tables: Callable[..., Tables],
) -> None:
    results, summary = tables({"a": 8}, ["x"])
    summary["stays_above_half_depth"] = 0.4
    assert names(results, summary) == {*HEATMAPS, "curves", "depth"}


def test_a_run_without_places_of_examples_has_no_projections(two_by_two: Tables) -> None:
    places = predictions_of(two_by_two[0])
    unplaced = places.assign(along=np.where(places["dataset"] == "capitals", np.nan, 0.3))
    assert set(projections(results_of(*two_by_two, unplaced))) == {"coin_flip"}
    assert not projections(results_of(*two_by_two, places.drop(columns=["along", "across"])))


def test_figures_are_in_the_order_of_the_page() -> None:
    on_page = [name for name, kind in FIGURES.items() if kind.on_page]
    assert [name for name in on_page if FIGURES[name].drawn_by_script] == [
        *("heatmap_accuracy", "heatmap_r2", "curves", "transfer"),
    ]
    assert [name for name in on_page if not FIGURES[name].drawn_by_script] == [
        *("positions", "heatmap_by_model", "depth", "difficulty", "size", "learning_curve"),
        *("said_used", "doses", "transfer_by_layer", "transfer_across_layers"),
    ]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("blocks", [0, 12])
def test_what_was_not_asked_for_is_left_out(
    tables: Callable[..., Tables], tmp_path: Path, blocks: int
) -> None:
    results, summary = tables({"m": blocks}, ["d"])
    results[NOT_ASKED_FOR["results"]] = np.nan
    summary[NOT_ASKED_FOR["summary"]] = np.nan
    figures = draw_figures(results_of(results, summary, predictions_of(results)))
    assert {path.stem for path in write_all(figures, tmp_path)} == {
        *("heatmap_accuracy", "heatmap_balanced_accuracy", "curves", "depth", "projection_d"),
    }


def test_files_are_the_same_each_time_and_show_names_as_they_are(
    tables: Callable[..., Tables], tmp_path: Path
) -> None:
    table, summary = tables({"_m$a$": 3, "b": 2}, ["$x_1$ & <y>", "y", "z"])
    summary["stays_above_half_depth"] = 0.5
    summary["parameters"] = summary["model"].map({"_m$a$": 1e8, "b": 2e8})
    results = results_of(table, summary, learning_curve=learning_curve_of(summary))
    for path in write_all(draw_figures(results), tmp_path):
        if path.suffix == ".svg":
            drawn = path.read_text()
            assert re.search(r"<text[^>]*> ?\$x_1\$ &amp; &lt;y&gt;</text>", drawn)
            assert re.search(r"> ?_m\$a\$</text>", drawn)
            assert "dc:date" not in drawn
    for path in save(curves(results), tmp_path / "again", "curves"):
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


@pytest.mark.filterwarnings("error")
def test_a_name_may_have_characters_that_no_font_has(
    tables: Callable[..., Tables], tmp_path: Path
) -> None:
    results = results_of(*tables({"模型 😀": 3}, ["\x07\u202e\n" + "数" * 10_000]))
    figures = {"curves": curves(results), "heatmap": heatmap(results.curves)}
    for path in write_all(figures, tmp_path):
        assert path.stat().st_size > 1000
    drawn = (tmp_path / "curves.svg").read_text()
    assert "模型 😀</text>" in drawn
    assert ">???数" in drawn


def test_a_model_has_the_same_colour_and_marker_in_every_figure(
    tables: Callable[..., Tables],
) -> None:
    table, summary = tables({"a": 8, "b": 5, "c": 6}, ["x", "y", "z"])
    summary["stays_above_half_depth"] = 0.4
    summary["parameters"] = summary["model"].map({"a": 1e8, "b": 2e8, "c": 4e8})
    # The first model is not the first of every table.
    backwards = table.iloc[::-1]
    learning_curve = learning_curve_of(summary.iloc[1:])
    results = results_of(backwards, summary, learning_curve=learning_curve)
    for draw_one in OF_MODELS:
        figure = draw_one(results)
        assert figure is not None
        legend = figure.legends[0]
        looks = {
            text.get_text().split(":")[0]: (to_hex(line.get_color()), line.get_marker())
            for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)
        }
        assert [looks[model] for model in "abc"] == list(zip(COLOURS, "os^", strict=False))


@pytest.mark.parametrize("draw_one", OF_MODELS[:4])
def test_the_legend_names_every_model_and_covers_no_data(
    tables: Callable[..., Tables], draw_one: Callable[[Results], Figure | None]
) -> None:
    models = {f"organisation/model-{number}": 8 + number for number in range(10)}
    results, summary = tables(models, ["capitals", "_hidden_", "coin_flip"])
    summary["stays_above_half_depth"] = 0.4
    summary["parameters"] = summary["layers"] * 1e7
    figure = draw_one(results_of(results, summary))
    assert figure is not None
    draw(figure)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][:10] == list(models)
    box = legend.get_window_extent()
    assert not any(box.overlaps(ax.get_window_extent()) for ax in figure.axes)
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert box.y1 <= figure.bbox.y1
    looks = {(line.get_color(), line.get_marker()) for line in legend.get_lines()[:10]}
    assert len(looks) == 10
    assert len({line.get_color() for line in legend.get_lines()[:8]}) == 8


def test_sixty_four_models_look_different() -> None:
    styles = model_styles([f"m{number}" for number in range(64)])
    looks = {(style["color"], style["marker"]) for style in styles.values()}
    assert len(looks) == 64


def test_a_figure_that_is_too_tall_for_its_resolution_is_drawn_coarser() -> None:
    height = int.from_bytes(png(Figure(figsize=(0.5, 500)))[20:24], "big")  # as PNG states it
    assert 60_000 < height < 2**16


@pytest.mark.parametrize(
    ("last", "ticks"),
    [
        (0, [0]),
        (12, list(range(13))),
        (30, [0, 5, 10, 15, 20, 25, 30]),
        (32, [0, 5, 10, 15, 20, 25, 32]),
        (99, [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99]),
    ],
)
def test_ticks_are_round_and_end_at_the_last_layer(last: int, ticks: list[int]) -> None:
    assert layer_ticks(0, last) == ticks


def test_figures_need_no_pyplot() -> None:
    code = "import sys, llmprobe.reporting.charts; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
