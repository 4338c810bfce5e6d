"""Heatmaps show the scores of the table, with colours that begin at chance, legibly."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest
from legible import assert_apart
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.patches import Rectangle
from synthetic_runs import results_of

from llmprobe.ground.errors import UserError
from llmprobe.reporting.charts.colour_scale import CHANCE_MAP
from llmprobe.reporting.charts.heatmaps import heatmap, heatmap_by_model, heatmaps
from llmprobe.results.curve import Curve, curves_of
from llmprobe.results.metrics import METRICS, Metric

Tables = tuple[pd.DataFrame, pd.DataFrame]
LONG = [f"a_dataset_with_a_very_long_name_that_goes_on_{number}" for number in range(40)]


def words(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def ticks(ax: Axes) -> list[str]:
    return [tick.get_text() for tick in ax.get_xticklabels()]


def at_accuracies(tables: Tables, accuracies: Sequence[float]) -> list[Curve]:
    results, summary = tables
    results = results.assign(accuracy=accuracies)
    best = results.loc[results.groupby("dataset")["accuracy"].idxmax()].set_index("dataset")
    return curves_of(results, summary.assign(peak_layer=summary["dataset"].map(best["layer"])))


def test_heatmap_shows_the_table(two_by_two: Tables) -> None:
    results, summary = two_by_two
    figure = heatmap(curves_of(results, summary))
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


def test_rows_of_the_concepts_of_one_dataset_are_called_by_the_concept(
    tables: Callable[..., Tables],
) -> None:
    figure = heatmap(curves_of(*tables({"m": 6}, ["moods:joy", "moods:fear"])))
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows == ["joy", "fear"]
    assert figure.axes[0].get_title(loc="left") == "m, moods"
    figure = heatmap(curves_of(*tables({"m": 6}, ["moods:joy", "facts"])))
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows == ["moods:joy", "facts"]


def test_of_layers_that_score_the_same_the_heatmap_marks_the_one_with_the_least_loss(
    tables: Callable[..., Tables],
) -> None:
    results, summary = tables({"m": 6}, ["d"])
    results["auroc"] = [0.5, 0.6, 0.9, 0.9, 0.9, 0.8, 0.7]
    results["log_loss"] = [0.9, 0.8, 0.5, 0.3, 0.4, 0.2, 0.6]
    assert "0.90 (3)" in words(heatmap(curves_of(results, summary), "auroc").axes[0])


def test_heatmap_marks_the_best_layer_with_its_value(two_by_two: Tables) -> None:
    results, summary = two_by_two
    ax = heatmap(curves_of(results, summary)).axes[0]
    for row, line in enumerate(ax.lines):
        peak = summary.iloc[row]
        assert (*line.get_xdata(), *line.get_ydata()) == (peak["peak_layer"], row)
        assert ax.texts[row].get_text() == f"{peak['peak_accuracy']:.2f} ({peak['peak_layer']})"
        assert ax.texts[row].xy[1] == row


def test_selectivity_is_marked_at_the_most_accurate_layer(two_by_two: Tables) -> None:
    results, summary = two_by_two
    results["selectivity"] = np.linspace(0.4, -0.4, len(results))
    ax = heatmap(curves_of(results, summary), "selectivity").axes[0]
    layers = summary["peak_layer"].tolist()[:2]
    assert [int(line.get_xdata()[0]) for line in ax.lines] == layers
    assert "at best layer" in words(ax)
    assert "best (layer)" not in words(ax)


def test_a_best_layer_that_has_a_name_is_called_by_it(
    network_tables: Callable[..., Tables],
) -> None:
    results, summary = network_tables()
    peak = summary.iloc[0]
    name = results.loc[results["layer"] == peak["peak_layer"], "layer_name"].iloc[0]
    assert f"{peak['peak_accuracy']:.2f} ({name})" in words(
        heatmap(curves_of(results, summary)).axes[0]
    )


def test_cells_of_few_layers_hold_their_scores_and_the_best_has_a_frame(
    tables: Callable[..., Tables],
) -> None:
    results, summary = tables({"m": 3}, ["c", "d"])
    ax = heatmap(
        at_accuracies((results, summary), [0.5, 0.55, 0.9, 0.7, 0.45, 0.6, 0.5, 0.95])
    ).axes[0]
    cells = {text.get_position(): text.get_text() for text in ax.texts[:8]}
    assert cells[(2, 0)] == "0.90"
    assert cells[(0, 1)] == "0.45"
    assert len(cells) == 8
    frames = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert [(frame.get_x() + 0.5, round(frame.get_y())) for frame in frames] == [(2, 0), (3, 1)]
    assert not ax.lines


def test_numbers_in_cells_can_be_told_from_their_colours(tables: Callable[..., Tables]) -> None:
    results, summary = tables({"m": 7}, ["d"])
    ax = heatmap(at_accuracies((results, summary), [0, 0.2, 0.4, 0.5, 0.6, 0.75, 0.9, 1])).axes[0]
    (image,) = ax.images
    backgrounds = image.cmap(image.norm(image.get_array()[0]))[:, :3]
    for text, background in zip(ax.texts, backgrounds, strict=False):
        light = background @ [0.3, 0.59, 0.11]
        assert text.get_color() == ("white" if light < 0.55 else "black")
        assert abs(light - (text.get_color() == "white")) > 0.4


def test_many_layers_leave_no_room_for_numbers(two_by_two: Tables) -> None:
    assert len(heatmap(curves_of(*two_by_two)).axes[0].texts) == 3


@pytest.mark.parametrize(
    ("metric", "chance"),
    [("accuracy", 0.6), ("balanced_accuracy", 0.25), ("auroc", 0.5), ("selectivity", 0)],
)
def test_chance_is_the_middle_of_the_colours(
    tables: Callable[..., Tables], metric: str, chance: float
) -> None:
    results, summary = tables({"m": 2}, ["d"], n_classes=4, majority=0.6)
    results[metric] = [chance - 0.1, chance, chance + 0.1]
    image = heatmap(curves_of(results, summary), metric).axes[0].images[0]
    below, at, above = image.cmap(image.norm(image.get_array()[0]))
    assert below[0] > below[2] + 0.05  # orange: more red than blue
    assert above[2] > above[0] + 0.05
    np.testing.assert_allclose(at[:3], at[0], atol=0.02)  # grey


def test_colours_darken_evenly_away_from_chance() -> None:
    levels = CHANCE_MAP(np.linspace(0, 1, 9))[:, :3]
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    steps = np.diff(lightness)
    assert (steps[:4] > 0).all()
    assert (steps[4:] < 0).all()
    for half in (steps[:4], steps[4:]):
        np.testing.assert_allclose(half, half.mean(), rtol=0.2)


def test_scores_that_are_all_near_1_differ_in_colour_by_what_is_missing(
    tables: Callable[..., Tables],
) -> None:
    results, summary = tables({"m": 3}, ["d"])
    figure = heatmap(at_accuracies((results, summary), [0.95, 0.995, 0.9995, 1]))
    (image,) = figure.axes[0].images
    shades = image.norm(image.get_array()[0])
    assert shades[1] - shades[0] == pytest.approx(shades[2] - shades[1])
    assert shades[1] - shades[0] > 0.1
    assert shades[3] == pytest.approx(shades[2])
    assert image.norm(0.0) == pytest.approx(0.5)
    assert "1.000 (3)" in words(figure.axes[0])
    assert ticks(figure.axes[-1])[0] == "0.5"
    assert ticks(figure.axes[-1])[-1] == "0.999"


def test_one_layer_at_chance_keeps_the_colours_linear(tables: Callable[..., Tables]) -> None:
    results, summary = tables({"m": 3}, ["d"])
    image = heatmap(at_accuracies((results, summary), [0.5, 0.95, 0.99, 1])).axes[0].images[0]
    np.testing.assert_allclose(image.norm(image.get_array()[0]), [0.5, 0.95, 0.99, 1])


def test_a_selectivity_far_below_zero_is_not_cut_off(two_by_two: Tables) -> None:
    results, summary = two_by_two
    results["selectivity"] = np.linspace(-0.9, 0.1, len(results))
    image = heatmap(curves_of(results, summary), "selectivity").axes[0].images[0]
    assert image.norm(image.get_array()).min() == pytest.approx(0)
    assert image.norm(0.0) == pytest.approx(0.5)


def test_a_missing_score_is_not_coloured(two_by_two: Tables) -> None:
    results, summary = two_by_two
    results.loc[results["layer"] == 4, "accuracy"] = np.nan
    ax = heatmap(curves_of(results, summary)).axes[0]
    mask = ax.images[0].get_array().mask
    assert mask[:, 4].all()
    assert mask.sum() == 2
    assert ax.patch.get_hatch()


def test_a_dataset_without_the_metric_has_no_row(two_by_two: Tables) -> None:
    results, summary = two_by_two
    results.loc[results["dataset"] == "capitals", "auroc"] = np.nan
    ax = heatmap(curves_of(results, summary), "auroc").axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["coin_flip"]


def test_colour_bar_reads_in_scores_if_datasets_share_their_chance(two_by_two: Tables) -> None:
    results, summary = two_by_two
    bar = heatmap(curves_of(results, summary)).axes[-1]
    np.testing.assert_allclose(bar.get_xticks(), (np.array(ticks(bar), float) - 0.5) / 0.5)
    assert words(bar) == ["chance 0.50"]
    results.loc[results["dataset"] == "coin_flip", "majority_accuracy"] = 0.7
    bar = heatmap(curves_of(results, summary)).axes[-1]
    assert "100 %" in ticks(bar)
    assert words(bar) == ["chance 0.50–0.70"]


def test_colour_bar_begins_at_the_lowest_score_or_at_chance(tables: Callable[..., Tables]) -> None:
    results, summary = tables({"m": 3}, ["d"])
    for lowest, begin in ((0.6, 0), (0.44, -0.12)):
        bar = heatmap(at_accuracies((results, summary), [lowest, 0.7, 0.8, 0.9])).axes[-1]
        np.testing.assert_allclose(bar.get_xlim(), [begin, 1])


def test_zero_selectivity_is_not_called_chance(two_by_two: Tables) -> None:
    bar = heatmap(curves_of(*two_by_two), "selectivity").axes[-1]
    assert words(bar) == ["as random labels"]
    assert "0" in ticks(bar)


@pytest.mark.parametrize("lowest", [-8, -0.9, -0.3, 0.1])
def test_numbers_at_the_colour_bar_do_not_overlap(two_by_two: Tables, lowest: float) -> None:
    results, summary = two_by_two
    for metric in ("r2", "selectivity", "accuracy"):
        least = max(lowest, 0) if metric == "accuracy" else lowest
        results[metric] = np.linspace(least, 0.9, len(results))
        figure = heatmap(curves_of(results, summary), metric)
        assert_apart(figure, figure.axes[-1].get_xticklabels())


def test_nothing_overlaps_with_many_datasets_and_layers(tables: Callable[..., Tables]) -> None:
    results, summary = tables({"organisation/" + "model" * 20: 99}, LONG)
    figure = heatmap(curves_of(results, summary))
    ax, bar = figure.axes
    title = ax._left_title  # type: ignore[attr-defined]
    ticks = [*ax.get_xticklabels(), *ax.get_yticklabels(), *bar.get_xticklabels()]
    assert_apart(figure, [title, *ax.texts, *ticks])
    assert figure.get_tightbbox().width <= figure.get_figwidth() + 0.05


def test_only_one_probe_is_shown(two_by_two: Tables) -> None:
    results, summary = two_by_two
    other = results.assign(probe="mass_mean", accuracy=0.1)
    both = pd.concat([other, results])
    shown, expected = (
        heatmap(curves_of(table, summary)).axes[0].images[0].get_array()
        for table in (both, results)
    )
    np.testing.assert_array_equal(shown, expected)


def test_an_error_of_ones_own_is_darker_the_lower_it_is(two_by_two: Tables) -> None:
    results, summary = two_by_two
    results["error"] = 1 - results["accuracy"]
    METRICS.add("error", Metric("error", "error", chance=0.5, perfect=0.0, heatmap=True))
    try:
        figure = heatmaps(results_of(results, summary))["error"]
    finally:
        METRICS.remove("error")
    shown, expected = (
        one.axes[0].images[0].get_array()
        for one in (figure, heatmap(curves_of(results, summary), "accuracy"))
    )
    np.testing.assert_allclose(shown, expected)
    bar = figure.axes[-1]
    np.testing.assert_allclose(bar.get_xticks(), (np.array(ticks(bar), float) - 0.5) / -0.5)
    assert bar.get_xlabel() == "error"


def test_what_no_layer_has_is_no_heatmap(two_by_two: Tables) -> None:
    with pytest.raises(UserError, match="no layer has a value of the metric 'r2'"):
        heatmap(curves_of(*two_by_two), "r2")
    with pytest.raises(UserError, match="did you mean 'accuracy'"):
        heatmap(curves_of(*two_by_two), "acuracy")


def cells(ax: Axes, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges and levels of a row of the heatmap by model."""
    (mesh,) = (
        mesh
        for mesh in ax.collections
        if isinstance(mesh, QuadMesh) and mesh.get_coordinates()[0, 0, 1] == row - 0.5
    )
    return mesh.get_coordinates()[0, :, 0], mesh.get_array().ravel()


def test_models_stand_beside_each_other_at_relative_depth(two_by_two: Tables) -> None:
    results, summary = two_by_two
    *panels, _ = heatmap_by_model(curves_of(results, summary)).axes
    assert [ax.get_title(loc="left") for ax in panels] == ["capitals", "coin_flip"]
    for ax in panels:
        assert ax.get_xlim() == (0, 1)
        models = [label.get_text() for label in ax.get_yticklabels()]
        assert models == ["smollm2-135m", "gemma-3-270m"]
        for row, (model, blocks) in enumerate(zip(models, [30, 18], strict=True)):
            here = results[
                (results["model"] == model) & (results["dataset"] == ax.get_title(loc="left"))
            ]
            edges, level = cells(ax, row)
            np.testing.assert_allclose(level, (here["accuracy"] - 0.5) / 0.5)
            middle = (np.arange(blocks) + 0.5) / blocks
            np.testing.assert_allclose(edges, [0, *middle, 1])
    for line, row in zip(panels[0].lines, summary.iloc[[0, 2]].to_dict("records"), strict=True):
        assert line.get_xdata()[0] == pytest.approx(row["peak_layer"] / row["layers"])


def test_a_model_that_was_not_probed_on_a_dataset_has_an_empty_row(two_by_two: Tables) -> None:
    results, summary = two_by_two
    curves = curves_of(results, summary)
    assert (curves[1].model, curves[1].dataset) == ("smollm2-135m", "coin_flip")
    first, second, _ = heatmap_by_model([curves[0], *curves[2:]]).axes
    assert [round(line.get_ydata()[0]) for line in second.lines] == [1]
    assert second.patch.get_hatch()
    assert not first.patch.get_hatch()


def test_a_model_of_one_layer_fills_its_row(tables: Callable[..., Tables]) -> None:
    results, summary = tables({"one": 0, "two": 5}, ["d"])
    edges, level = cells(heatmap_by_model(curves_of(results, summary)).axes[0], 0)
    assert list(edges) == [0, 1]
    assert len(level) == 1


def test_nothing_overlaps_with_many_models_and_datasets(tables: Callable[..., Tables]) -> None:
    models = {f"organisation/a-model-with-a-long-name-{number}b": 99 for number in range(12)}
    results, summary = tables(models, LONG[:9])
    figure = heatmap_by_model(curves_of(results, summary))
    *panels, _ = figure.axes
    titles = [ax._left_title for ax in panels]  # type: ignore[attr-defined]
    names = [label for ax in panels for label in ax.get_yticklabels()]
    assert_apart(figure, [*titles, *names, *(text for ax in panels for text in ax.texts)])
