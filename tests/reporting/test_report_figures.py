"""The figures show the numbers of the tables, legibly, and the same bytes each time."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from llmprobe.reporting import figures

Tables = tuple[pd.DataFrame, pd.DataFrame]
NOT_ASKED_FOR = {
    "results": ["accuracy_low", "accuracy_high", "auroc", "control_accuracy", "selectivity"],
    "summary": ["bag_of_words_accuracy", "peak_p_value", "jump_layer", "converging_depth"],
}


def line_at(ax: Axes, color: str, style: str) -> Line2D:
    (line,) = (
        line
        for line in ax.lines
        if to_hex(line.get_color()) == color and line.get_linestyle() == style
    )
    return line


def assert_apart(figure: Figure, texts: Iterable[Text]) -> None:
    """No two of the texts overlap once the figure is drawn."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    assert len(boxes) > 1
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))


def test_heatmap_shows_the_table(two_by_two: Tables) -> None:
    results, _ = two_by_two
    figure = figures.heatmap(results)
    for ax, model, blocks in zip(
        figure.axes, ["smollm2-135m", "gemma-3-270m"], [30, 18], strict=False
    ):
        (image,) = ax.images
        rows = results[results["model"] == model]
        accuracy = [rows[rows["dataset"] == name]["accuracy"] for name in ("capitals", "coin_flip")]
        np.testing.assert_allclose(image.get_array(), (np.array(accuracy) - 0.5) / 0.5)
        assert list(image.get_extent()) == [-0.5, blocks + 0.5, 1.5, -0.5]
        assert [label.get_text() for label in ax.get_yticklabels()] == ["capitals", "coin_flip"]
        assert ax.get_title(loc="left") == model


def test_of_layers_that_score_the_same_the_heatmap_marks_the_one_with_the_least_loss(
    tables: Callable[..., Tables],
) -> None:
    results, _ = tables({"m": 6}, ["d"])
    results["accuracy"] = [0.5, 0.6, 0.9, 0.9, 0.9, 0.8, 0.7]
    results["log_loss"] = [0.9, 0.8, 0.5, 0.3, 0.4, 0.2, 0.6]
    texts = [text.get_text() for text in figures.heatmap(results).axes[0].texts]
    assert "0.90 (3)" in texts


def test_heatmap_marks_the_best_layer_with_its_value(two_by_two: Tables) -> None:
    results, summary = two_by_two
    ax = figures.heatmap(results).axes[0]
    for row, line in enumerate(ax.lines):
        peak = summary.iloc[row]
        assert (*line.get_xdata(), *line.get_ydata()) == (peak["peak_layer"], row)
        assert ax.texts[row].get_text() == f"{peak['peak_accuracy']:.2f} ({peak['peak_layer']})"
        assert ax.texts[row].get_position()[1] == row


@pytest.mark.parametrize(
    ("metric", "chance"),
    [("accuracy", 0.6), ("balanced_accuracy", 0.25), ("auroc", 0.5), ("selectivity", 0)],
)
def test_chance_is_the_middle_of_the_colours(
    tables: Callable[..., Tables], metric: str, chance: float
) -> None:
    results, _ = tables({"m": 2}, ["d"], n_classes=4, majority=0.6)
    results[metric] = [chance - 0.1, chance, chance + 0.1]
    image = figures.heatmap(results, metric).axes[0].images[0]
    below, at, above = image.cmap(image.norm(image.get_array()[0]))
    assert below[0] > below[2] + 0.05  # orange: more red than blue
    assert above[2] > above[0] + 0.05
    np.testing.assert_allclose(at[:3], at[0], atol=0.02)  # grey


def test_colours_darken_evenly_away_from_chance() -> None:
    levels = figures.CHANCE_MAP(np.linspace(0, 1, 9))[:, :3]
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    steps = np.diff(lightness)
    assert (steps[:4] > 0).all()
    assert (steps[4:] < 0).all()
    for half in (steps[:4], steps[4:]):
        np.testing.assert_allclose(half, half.mean(), rtol=0.2)


def test_a_missing_score_is_not_coloured(two_by_two: Tables) -> None:
    results, _ = two_by_two
    results.loc[results["layer"] == 4, "accuracy"] = np.nan
    image = figures.heatmap(results).axes[0].images[0]
    assert image.get_array().mask[:, 4].all()
    assert image.get_array().mask.sum() == 2


def test_colour_bar_reads_in_scores_if_datasets_share_their_chance(two_by_two: Tables) -> None:
    results, _ = two_by_two
    bar = figures.heatmap(results).axes[-1]
    ticks = [float(label.get_text()) for label in bar.get_xticklabels()]
    np.testing.assert_allclose(bar.get_xticks(), (np.array(ticks) - 0.5) / 0.5)
    assert bar.texts[0].get_text() == "chance 0.50"
    results.loc[results["dataset"] == "coin_flip", "majority_accuracy"] = 0.7
    bar = figures.heatmap(results).axes[-1]
    assert "100%" in [label.get_text() for label in bar.get_xticklabels()]
    assert bar.texts[0].get_text() == "chance 0.50–0.70"


def test_nothing_overlaps_with_many_datasets_and_layers(tables: Callable[..., Tables]) -> None:
    names = [f"a_dataset_with_a_very_long_name_that_goes_on_{number}" for number in range(40)]
    results, _ = tables({"organisation/" + "model" * 20: 99}, names)
    figure = figures.heatmap(results)
    ax, bar = figure.axes
    assert_apart(figure, ax.get_xticklabels())
    assert_apart(figure, ax.get_yticklabels())
    assert_apart(figure, bar.get_xticklabels())
    assert_apart(figure, [*ax.texts[:-1]])
    title, header = ax._left_title, ax.texts[-1]  # type: ignore[attr-defined]
    assert title.get_window_extent().x1 < header.get_window_extent().x0
    assert figure.get_tightbbox().width <= figure.get_figwidth() + 0.05


def test_only_one_probe_is_shown(two_by_two: Tables) -> None:
    results, _ = two_by_two
    other = results.assign(probe="mass_mean", accuracy=0.1)
    both = pd.concat([other, results])
    shown = figures.heatmap(both).axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown, figures.heatmap(results).axes[0].images[0].get_array())


def test_curves_show_the_table_and_its_intervals(two_by_two: Tables) -> None:
    results, summary = two_by_two
    for ax, dataset in zip(
        figures.curves(results, summary).axes, ["capitals", "coin_flip"], strict=True
    ):
        assert ax.get_title(loc="left") == dataset
        for index, model in enumerate(["smollm2-135m", "gemma-3-270m"]):
            rows = results[(results["model"] == model) & (results["dataset"] == dataset)]
            line = ax.lines[index]
            np.testing.assert_array_equal(line.get_xdata(), rows["depth"])
            np.testing.assert_array_equal(line.get_ydata(), rows["accuracy"])
            band = ax.collections[index].get_paths()[0].vertices
            for ends in ("accuracy_low", "accuracy_high"):
                expected = rows[["depth", ends]].to_numpy()
                assert all((np.isclose(band, point).all(axis=1)).any() for point in expected)
            assert to_hex(line.get_color()) == to_hex(ax.collections[index].get_facecolor()[0])
        known = summary[summary["dataset"] == dataset].iloc[0]
        majority, words = line_at(ax, "#555555", "--"), line_at(ax, "#000000", ":")
        assert set(majority.get_ydata()) == {known["majority_accuracy"]}
        assert set(words.get_ydata()) == {known["bag_of_words_accuracy"]}


def test_curves_of_equally_deep_models_are_over_layers(tables: Callable[..., Tables]) -> None:
    results, summary = tables({"one": 12, "two": 12}, ["capitals"])
    figure = figures.curves(results, summary)
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xdata(), range(13))
    assert figure.get_supxlabel().startswith("layer")


def test_a_control_that_was_not_asked_for_is_not_drawn(two_by_two: Tables) -> None:
    results, summary = two_by_two
    summary["bag_of_words_accuracy"] = np.nan
    figure = figures.curves(results, summary)
    assert all(line.get_linestyle() != ":" for ax in figure.axes for line in ax.lines)
    assert "bag of words" not in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("draw", ["curves", "depth"])
def test_the_legend_names_every_model_and_covers_no_data(
    tables: Callable[..., Tables], draw: str
) -> None:
    models = {f"organisation/model-{number}": 8 + number for number in range(10)}
    results, summary = tables(models, ["capitals", "_hidden_", "coin_flip"])
    figure = figures.draw_figures(results, summary)[draw]
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][:10] == list(models)
    box = legend.get_window_extent()
    assert not any(box.overlaps(ax.get_window_extent()) for ax in figure.axes)
    assert box.x0 >= 0
    assert box.y1 <= figure.bbox.y1
    looks = {(line.get_color(), line.get_marker()) for line in legend.get_lines()[:10]}
    assert len(looks) == 10
    assert len({line.get_color() for line in legend.get_lines()[:8]}) == 8


def test_depths_are_those_of_the_summary(two_by_two: Tables) -> None:
    _, summary = two_by_two
    (ax,) = figures.depth_scatter(summary).axes
    points = {
        (round(float(x), 6), line.get_markerfacecolor() != "white", line.get_alpha() == 1)
        for line in ax.lines
        for x in line.get_xdata()
    }
    best = {
        (round(row["peak_layer"] / row["layers"], 6), True, row["peak_p_value"] <= 0.05)
        for _, row in summary.iterrows()
    }
    converged = {
        (round(row["converging_depth"], 6), False, row["peak_p_value"] <= 0.05)
        for _, row in summary.iterrows()
    }
    assert points == best | converged


def test_each_point_of_the_depths_is_in_the_row_of_its_dataset(two_by_two: Tables) -> None:
    _, summary = two_by_two
    (ax,) = figures.depth_scatter(summary).axes
    names = [label.get_text() for label in ax.get_yticklabels()]
    for _, row in summary.iterrows():
        colour = to_rgba(["#0072b2", "#d55e00"][row["model"] == "gemma-3-270m"])
        rows = [
            names[round(float(y))]
            for line in ax.lines
            if to_rgb(line.get_color()) == colour[:3]
            for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
            if np.isclose(x, row["peak_layer"] / row["layers"])
        ]
        assert row["dataset"] in rows


def test_files_are_the_same_each_time_and_keep_text(two_by_two: Tables, tmp_path: Path) -> None:
    first = figures.draw_all(*two_by_two, tmp_path / "first")
    second = figures.draw_all(*two_by_two, tmp_path / "second")
    assert {path.name for path in first} == {
        f"{name}.{ending}"
        for name in (
            *(f"heatmap_{metric}" for metric in figures.METRICS if metric != "r2"),
            "curves",
            "depth",
        )
        for ending in ("png", "svg")
    }
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    svg = (tmp_path / "first" / "curves.svg").read_text()
    assert re.search(r"<text[^>]*>capitals</text>", svg)
    assert "dc:date" not in svg


def test_names_are_shown_as_they_are(tables: Callable[..., Tables], tmp_path: Path) -> None:
    results, summary = tables({"_m$a$": 3}, ["$x_1$ & <y>"])
    figures.draw_all(results, summary, tmp_path)
    for name in ("heatmap_accuracy", "curves"):
        svg = (tmp_path / f"{name}.svg").read_text()
        assert "$x_1$ &amp; &lt;y&gt;</text>" in svg
        assert "_m$a$</text>" in svg


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("blocks", [0, 1, 12])
def test_what_was_not_asked_for_is_left_out(
    tables: Callable[..., Tables], tmp_path: Path, blocks: int
) -> None:
    results, summary = tables({"m": blocks}, ["d"])
    results[NOT_ASKED_FOR["results"]] = np.nan
    summary[NOT_ASKED_FOR["summary"]] = np.nan
    names = {path.stem for path in figures.draw_all(results, summary, tmp_path)}
    assert names == {"heatmap_accuracy", "heatmap_balanced_accuracy", "curves", "depth"}


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
    assert figures.layer_ticks(0, last) == ticks


def test_figures_need_no_pyplot() -> None:
    code = (
        "import sys, llmprobe.reporting.figures as f; sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
