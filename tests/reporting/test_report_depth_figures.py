"""Figures of depths show the depths of the summary, and do not claim what they do not show."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from legible import assert_apart, assert_slanted_apart, draw, numbers_at
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from synthetic_runs import results_of

from llmprobe.reporting.charts.depth import (
    depth_against_difficulty,
    depth_against_size,
    depth_scatter,
    family,
    rank_correlation,
)
from llmprobe.reporting.charts.style import COLOURS, paler
from llmprobe.results.curve import curves_of, difficulty

Tables = tuple[pd.DataFrame, pd.DataFrame]
Point = tuple[float, float, str]


def with_starts(tables: Tables) -> Tables:
    results, summary = tables
    depth = np.random.default_rng(1).uniform(0.2, 0.8, len(summary))
    summary["stays_above_half_depth"] = depth
    summary["stays_above_half_depth_low"], summary["stays_above_half_depth_high"] = (
        depth - 0.1,
        depth + 0.15,
    )
    return results, summary


def points(ax: Axes, face: bool = True) -> set[Point]:
    """Places and colours (of the faces, or of the edges) of all markers."""
    return {
        (
            round(float(x), 6),
            round(float(y), 6),
            to_hex(line.get_markerfacecolor() if face else line.get_color()),
        )
        for line in ax.lines
        if line.get_marker() not in ("", "None", None)
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }


def colour(index: int, pale: bool) -> str:
    return to_hex(paler(COLOURS[index])) if pale else COLOURS[index]


def test_depths_are_those_of_the_summary(two_by_two: Tables) -> None:
    results, summary = with_starts(two_by_two)
    summary["falls_below_half_depth"] = [0.9, np.nan, np.nan, 0.9]
    (ax,) = depth_scatter(results_of(results, summary)).axes
    models = list(summary["model"].unique())
    best, ends, spans = set(), set(), set()
    for row in summary.to_dict("records"):
        by_luck = row["peak_p_value"] > 0.05
        own = colour(models.index(row["model"]), by_luck)
        best.add((round(row["peak_layer"] / row["layers"], 6), own))
        if not by_luck:  # the rise of noise has no depth
            span = [round(row[f"{name}_half_depth"], 6) for name in ("stays_above", "falls_below")]
            ends |= {(depth, own) for depth in span if not np.isnan(depth)}
            spans.add((span[0], 1.0 if np.isnan(span[1]) else span[1]))
    assert len(spans) == 2
    lines = [line for line in ax.lines if line.get_marker() == "|"]
    drawn = {tuple(line.get_xdata().round(6)) for line in lines}
    ended = {
        (round(x, 6), to_hex(line.get_color()))
        for line in lines
        for x in line.get_xdata()[: 2 if line.get_markevery() is None else 1]
    }
    dots = {(x, edge) for x, _, edge in points(ax) if (x, edge) in best}
    assert (dots, ended) == (best, ends)
    assert drawn == spans


def test_each_point_of_the_depths_is_in_the_row_of_its_dataset(two_by_two: Tables) -> None:
    _, summary = two_by_two
    (ax,) = depth_scatter(results_of(*two_by_two)).axes
    names = [label.get_text() for label in ax.get_yticklabels()]
    models = list(summary["model"].unique())
    for row in summary.to_dict("records"):
        own = colour(models.index(row["model"]), row["peak_p_value"] > 0.05)
        place = round(row["peak_layer"] / row["layers"], 6)
        assert [names[round(y)] for x, y, face in points(ax) if (x, face) == (place, own)] == [
            row["dataset"]
        ]


def test_difficulty_is_what_the_best_model_misses(tables: Callable[..., Tables]) -> None:
    results, summary = tables({"a": 4, "b": 4}, ["x", "y", "z"], n_classes=4, majority=0.4)
    summary["peak_accuracy"] = [0.7, 0.3, 1.0, 0.5, 0.35, np.nan]
    hardness = difficulty(curves_of(results, summary))
    assert {name: round(hard, 6) for name, hard in hardness.items()} == {"x": 0.5, "y": 1, "z": 0}
    results["majority_accuracy"] = np.nan  # not asked for: one of four classes
    assert difficulty(curves_of(results, summary))["x"] == pytest.approx(0.4)
    summary[["main_score", "peak_r2"]] = ["r2", 0.8]
    assert difficulty(curves_of(results, summary))["x"] == pytest.approx(0.2)


def against_difficulty(tables: Tables) -> tuple[Figure, Axes, dict[str, float]]:
    """The figure, its panel, and the difficulty of each dataset."""
    results = results_of(*tables)
    figure = depth_against_difficulty(results)
    assert figure is not None
    return figure, figure.axes[0], difficulty(results.curves)


def test_depth_is_drawn_against_difficulty_with_intervals(tables: Callable[..., Tables]) -> None:
    drawn_tables = with_starts(tables({"a": 30, "b": 18}, ["x", "y", "z"]))
    _, ax, hardness = against_difficulty(drawn_tables)
    _, summary = drawn_tables
    models = list(summary["model"].unique())
    drawn = {depth: (x, face) for x, depth, face in points(ax)}
    assert len(drawn) == 6
    for row in summary.to_dict("records"):
        x, face = drawn[round(row["stays_above_half_depth"], 6)]
        assert x == pytest.approx(hardness[row["dataset"]], abs=0.01)
        assert face == colour(models.index(row["model"]), row["peak_p_value"] > 0.05)
    ends = {
        tuple(segment[:, 1].round(6))
        for lines in ax.collections
        for segment in lines.get_segments()
    }
    assert ends == {
        tuple(row.round(6))
        for row in summary[["stays_above_half_depth_low", "stays_above_half_depth_high"]].to_numpy()
    }


def test_correlation_with_difficulty_needs_five_datasets_that_are_read(
    tables: Callable[..., Tables],
) -> None:
    for n_datasets, said in ((5, False), (6, True)):  # the last one is not above chance
        drawn = with_starts(tables({"a": 9}, [f"d{number}" for number in range(n_datasets)]))
        figure, _, hardness = against_difficulty(drawn)
        text = figure.legends[0].get_texts()[0].get_text()
        assert ("ρ" in text) == said
    read = drawn[1].iloc[:5]
    hard = np.array([hardness[dataset] for dataset in read["dataset"]])
    rho, p = rank_correlation(hard, read["stays_above_half_depth"].to_numpy())
    assert text == f"a: ρ = {rho:.2f}, p = {p:.2g}, n = 5".replace("-", "−")


def test_rank_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=40).round(1)
    y = x + rng.normal(size=40).round(1)
    rho, p = rank_correlation(x, y)
    expected = spearmanr(x, y)
    assert rho == pytest.approx(expected.statistic)
    assert p == pytest.approx(expected.pvalue, abs=0.002)
    _, exact = rank_correlation(np.arange(5), np.arange(5))
    assert exact == pytest.approx(2 / 120, abs=0.004)  # two of all orders
    assert np.isnan(rank_correlation(np.ones(5), np.arange(5))).all()


@pytest.mark.parametrize("n_datasets", [3, 15, 16, 40])
def test_names_of_datasets_above_their_points_do_not_overlap(
    tables: Callable[..., Tables], n_datasets: int
) -> None:
    names = [
        f"a_dataset_with_a_very_long_name_that_goes_on_{number}" for number in range(n_datasets)
    ]
    results, summary = with_starts(tables({"a": 20, "b": 10}, names))
    summary["peak_accuracy"] = 0.8 + np.arange(len(summary)) / 1e4
    figure, ax, _ = against_difficulty((results, summary))
    assert len(ax.texts) == n_datasets
    assert_slanted_apart(figure, ax.texts)
    (legend,) = figure.legends
    for text in ax.texts:
        box = text.get_window_extent()
        assert not box.overlaps(legend.get_window_extent())
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y0 > ax.get_window_extent().y1


def test_each_name_is_joined_to_the_difficulty_of_its_dataset(
    tables: Callable[..., Tables],
) -> None:
    names = [f"d{number}" for number in range(6)]
    _, ax, hardness = against_difficulty(with_starts(tables({"a": 20}, names)))
    low, high = ax.get_xlim()
    for text in ax.texts:
        (leader,) = (
            line
            for line in ax.lines
            if line.get_transform() == ax.transAxes
            and line.get_ydata()[0] == 1
            and line.get_xdata()[1] == text.get_position()[0]
        )
        place = low + (high - low) * leader.get_xdata()[0]
        assert place == pytest.approx(hardness[text.get_text()])


def test_depth_is_drawn_against_size_with_a_line_for_each_family(
    tables: Callable[..., Tables],
) -> None:
    parameters = {"a/kin-7B": 7e9, "kin-135m": 1.35e8, "kin-1.5b": 1.5e9, "other-1b": 1e9}
    results, summary = with_starts(tables(dict.fromkeys(parameters, 12), ["x", "y"]))
    summary["parameters"] = summary["model"].map(parameters)
    summary["peak_p_value"] = np.where(
        (summary["model"] == "kin-1.5b") & (summary["dataset"] == "y"), 0.3, 0.01
    )
    figure = depth_against_size(results_of(results, summary))
    assert figure is not None
    for ax, dataset in zip(figure.axes, ["x", "y"], strict=True):
        assert ax.get_title(loc="left") == dataset
        assert ax.get_xscale() == "log"
        here = summary[summary["dataset"] == dataset]
        assert points(ax) == {
            (
                row["parameters"],
                round(row["stays_above_half_depth"], 6),
                colour(index, row["peak_p_value"] > 0.05),
            )
            for index, row in enumerate(here.to_dict("records"))
        }
        line, alone = (line for line in ax.lines if to_hex(line.get_color()) == "#aaaaaa")
        assert list(alone.get_xdata()) == [1e9]
        sure = here[here["peak_p_value"] <= 0.05].sort_values("parameters")
        sure = sure[sure["model"] != "other-1b"]
        assert list(line.get_xdata()) == sure["parameters"].tolist()
        assert list(line.get_ydata()) == sure["stays_above_half_depth"].tolist()
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["135M", "1.5B", "7B"]


def test_models_of_one_family_differ_in_their_size_alone() -> None:
    assert family("Qwen/Qwen2.5-0.5B") == family("qwen2.5-7b") == "qwen2.5"
    assert family("gpt2") == family("gpt2-xl") == family("openai-community/gpt2-medium")
    assert family("smollm2-135m") != family("gemma-3-270m")
    assert family("gemma-2-2b") != family("gemma-3-1b")


@pytest.mark.parametrize("n_datasets", [1, 2, 40])
def test_sizes_at_the_axis_do_not_overlap(tables: Callable[..., Tables], n_datasets: int) -> None:
    models = {f"m{number}": 8 + number for number in range(12)}
    results, summary = with_starts(tables(models, [f"d{number}" for number in range(n_datasets)]))
    summary["parameters"] = summary["model"].map(
        {model: 1.35e8 * 1.1**number for number, model in enumerate(models)}
    )
    figure = depth_against_size(results_of(results, summary))
    assert figure is not None
    draw(figure)
    assert_apart(figure, numbers_at(figure.axes))
