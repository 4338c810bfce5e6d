"""Curves show the scores, intervals, baselines and marks of the tables, legibly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from legible import assert_apart, draw, numbers_at
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from synthetic_runs import results_of

from llmprobe.reporting.charts.curves import curves, learning_curves
from llmprobe.reporting.charts.style import COLOURS

Tables = tuple[pd.DataFrame, pd.DataFrame]
MODELS = ("smollm2-135m", "gemma-3-270m")


def marked(table: pd.DataFrame, model: str, dataset: str) -> pd.DataFrame:
    return table[(table["model"] == model) & (table["dataset"] == dataset)]


def line_at(ax: Axes, colour: str, **looks: Any) -> Line2D:
    """The only line of that colour with the given properties."""
    (line,) = (
        line
        for line in ax.lines
        if to_hex(line.get_color()) == colour
        and all(getattr(line, f"get_{name}")() == value for name, value in looks.items())
    )
    return line


def curve_of(ax: Axes, colour: str) -> Line2D:
    return line_at(ax, colour, linestyle="-", linewidth=1.2)


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_curves_show_the_table_and_its_intervals(two_by_two: Tables) -> None:
    results, summary = two_by_two
    figure = curves(results_of(results, summary))
    for ax, dataset in zip(figure.axes, ["capitals", "coin_flip"], strict=True):
        assert ax.get_title(loc="left") == dataset
        for index, (model, colour) in enumerate(zip(MODELS, COLOURS, strict=False)):
            rows = marked(results, model, dataset)
            line = curve_of(ax, colour)
            np.testing.assert_array_equal(line.get_xdata(), rows["depth"])
            np.testing.assert_array_equal(line.get_ydata(), rows["accuracy"])
            band = ax.collections[index].get_paths()[0].vertices
            for ends in ("accuracy_low", "accuracy_high"):
                expected = rows[["depth", ends]].to_numpy()
                assert all((np.isclose(band, point).all(axis=1)).any() for point in expected)
            assert to_hex(ax.collections[index].get_facecolor()[0]) == colour
        known = summary[summary["dataset"] == dataset].iloc[0]
        majority = line_at(ax, "#555555", linestyle="--")
        words = line_at(ax, "#000000", linestyle=":")
        assert set(majority.get_ydata()) == {known["majority_accuracy"]}
        assert set(words.get_ydata()) == {known["bag_of_words_accuracy"]}


def test_controls_are_thin_lines_of_the_colour_of_their_model(two_by_two: Tables) -> None:
    results, summary = two_by_two
    results["random_weights_accuracy"] = 0.5 + results["layer"] / 100
    results["control_accuracy"] = 0.6 - results["layer"] / 100
    figure = curves(results_of(results, summary))
    for model, colour in zip(MODELS, COLOURS, strict=False):
        rows = marked(results, model, "capitals")
        thin = [line for line in figure.axes[0].lines if line.get_linewidth() == 0.6]
        of_model = [line for line in thin if to_hex(line.get_color()) == colour]
        expected = (
            rows["random_weights_accuracy"],
            rows["control_accuracy"],
            rows["control_accuracy"] + rows["selectivity"],
        )
        for line, scores in zip(of_model, expected, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), rows["depth"])
            np.testing.assert_array_equal(line.get_ydata(), scores)
    assert {
        "random weights",
        "a random label for each group, groups split",
        "the concept on the same splits",
    } <= set(legend_texts(figure))


def test_a_control_without_its_concept_is_not_drawn(two_by_two: Tables) -> None:
    results, summary = two_by_two
    results["selectivity"] = np.nan
    figure = curves(results_of(results, summary))
    assert not [line for line in figure.axes[0].lines if line.get_linewidth() == 0.6]


def test_each_curve_bears_its_marks(two_by_two: Tables) -> None:
    results, summary = two_by_two
    summary["stays_above_half_depth"] = 0.21 + 0.1 * summary.index
    summary["falls_below_half_depth"] = np.nan
    ax = curves(results_of(results, summary)).axes[0]
    for model, colour, shape in zip(MODELS, COLOURS, "os", strict=False):
        rows, row = marked(results, model, "capitals"), marked(summary, model, "capitals").iloc[0]
        accuracy = rows.set_index("layer")["accuracy"]
        hollow = {"marker": shape, "markerfacecolor": "white"}
        for looks, layer in (
            ({"marker": shape, "markerfacecolor": colour}, row["peak_layer"]),
            (hollow, row["converging_layer"]),
            ({"marker": "x"}, row["jump_layer"]),
        ):
            point = line_at(ax, colour, **looks)
            assert point.get_xdata()[0] == pytest.approx(layer / row["layers"])
            assert point.get_ydata()[0] == pytest.approx(accuracy[layer])
        span = line_at(ax, colour, marker="|")
        assert span.get_xdata() == pytest.approx([row["stays_above_half_depth"], 1])
        assert span.get_markevery() == [0]  # It has no end where the curve does not fall.
        assert span.get_transform() == ax.get_xaxis_transform()


def test_a_curve_that_comes_down_has_no_layers_of_jin_and_one_by_luck_no_depths(
    two_by_two: Tables,
) -> None:
    results, summary = two_by_two
    summary["stays_above_half_depth"], summary["falls_below_half_depth"] = 0.3, 0.6
    read, by_luck = curves(results_of(results, summary)).axes
    for colour in COLOURS[:2]:
        assert line_at(read, colour, marker="|").get_xdata() == pytest.approx([0.3, 0.6])
    shapes = [{line.get_marker() for line in ax.lines} - {"None", ""} for ax in (read, by_luck)]
    assert shapes == [{"|", "o", "s"}, {"o", "s"}]
    assert not [line for line in read.lines if line.get_markerfacecolor() == "white"]


def test_marks_are_at_layers_where_the_axis_is_in_layers(tables: Callable[..., Tables]) -> None:
    results, summary = tables({"one": 12, "two": 12}, ["capitals"])
    summary["stays_above_half_depth"] = 0.25
    figure = curves(results_of(results, summary))
    ax = figure.axes[0]
    np.testing.assert_array_equal(curve_of(ax, COLOURS[0]).get_xdata(), range(13))
    assert figure.get_supxlabel().startswith("layer")
    peak = line_at(ax, COLOURS[0], marker="o", markerfacecolor=COLOURS[0])
    assert peak.get_xdata()[0] == pytest.approx(summary["peak_layer"].iloc[0])
    assert line_at(ax, COLOURS[0], marker="|").get_xdata()[0] == pytest.approx(3)


def test_what_is_not_known_is_neither_drawn_nor_explained(two_by_two: Tables) -> None:
    results, summary = two_by_two
    results["control_accuracy"] = np.nan
    summary[["bag_of_words_accuracy", "jump_depth"]] = np.nan
    figure = curves(results_of(results, summary))
    assert all(line.get_linestyle() != ":" for ax in figure.axes for line in ax.lines)
    assert all(line.get_marker() != "x" for ax in figure.axes for line in ax.lines)
    assert legend_texts(figure) == [*MODELS, "majority class", "best layer", "converging layer"]


def test_controls_of_many_models_do_not_hide_the_curves(tables: Callable[..., Tables]) -> None:
    for n_models, shown in ((4, True), (5, False)):
        models = {f"m{number}": 6 for number in range(n_models)}
        figure = curves(results_of(*tables(models, ["d"])))
        assert ("the concept on the same splits" in legend_texts(figure)) == shown
        assert any(line.get_linewidth() == 0.6 for line in figure.axes[0].lines) == shown


def test_labels_that_are_numbers_are_drawn_by_their_score(two_by_two: Tables) -> None:
    results, summary = two_by_two
    numbers = results["dataset"] == "coin_flip"
    results.loc[numbers, "r2"] = np.where(results["layer"] == 1, -40, 0.3)[numbers]
    results.loc[numbers, "accuracy"] = np.nan
    summary.loc[summary["dataset"] == "coin_flip", "main_score"] = "r2"
    figure = curves(results_of(results, summary))
    first, second = figure.axes
    expected = marked(results, MODELS[0], "coin_flip")["r2"]
    np.testing.assert_array_equal(curve_of(second, COLOURS[0]).get_ydata(), expected)
    assert first.get_ylabel() == "accuracy or R²"
    assert first.get_ylim()[0] == -1


def test_a_layer_without_a_score_is_a_gap(two_by_two: Tables) -> None:
    results, summary = two_by_two
    results.loc[results["layer"] == 4, "accuracy"] = np.nan
    drawn = curve_of(curves(results_of(results, summary)).axes[0], COLOURS[0]).get_ydata()
    assert np.isnan(drawn).nonzero()[0].tolist() == [4]


def test_forty_panels_are_legible(tables: Callable[..., Tables]) -> None:
    names = [f"a_dataset_with_a_very_long_name_that_goes_on_{number}" for number in range(40)]
    results, summary = tables({"organisation/" + "model" * 20: 99, "b": 60}, names)
    figure = curves(results_of(results, summary))
    titles = [ax._left_title for ax in figure.axes]  # type: ignore[attr-defined]
    draw(figure)
    assert_apart(figure, [*titles, *figure.legends[0].get_texts(), *numbers_at(figure.axes)])
    axes = [ax.get_window_extent() for ax in figure.axes]
    assert min(box.width for box in axes) > 1.1 * figure.dpi
    assert min(box.height for box in axes) > 0.7 * figure.dpi


def test_learning_curves_end_at_the_score_with_all_groups(two_by_two: Tables) -> None:
    results, summary = two_by_two
    curve = pd.DataFrame(
        [
            {
                **row,
                "layer": layer,
                "fraction": fraction,
                "accuracy": 0.5 + fraction / 4 + layer / 1e4,
            }
            for row in summary[["model", "dataset", "position"]].to_dict("records")
            for layer in range(31)
            for fraction in (0.5, 0.1)
        ]
    ).assign(r2=np.nan)
    figure = learning_curves(results_of(results, summary, learning_curve=curve))
    assert figure is not None
    for ax, dataset in zip(figure.axes, ["capitals", "coin_flip"], strict=True):
        for model, colour in zip(MODELS, COLOURS, strict=False):
            line, peak = curve_of(ax, colour), marked(summary, model, dataset).iloc[0]
            at = peak["peak_layer"] / 1e4
            assert list(line.get_xdata()) == [0.1, 0.5, 1]
            expected = [0.525 + at, 0.625 + at, peak["peak_accuracy"]]
            np.testing.assert_allclose(line.get_ydata(), expected)
        assert set(line_at(ax, "#555555", linestyle="--").get_ydata()) == {0.5}
    assert_apart(figure, numbers_at(figure.axes))
