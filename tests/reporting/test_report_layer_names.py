"""The layers of plain networks have their names in figures, legibly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from synthetic_runs import results_of

from llmprobe.reporting.charts.curves import curves
from llmprobe.reporting.charts.heatmaps import heatmap
from llmprobe.results.curve import curves_of, layer_names

Tables = tuple[pd.DataFrame, pd.DataFrame]


def names_at_ticks(ax: Axes) -> dict[int, str]:
    labels = (label.get_text() for label in ax.get_xticklabels())
    return dict(zip(map(int, ax.get_xticks()), labels, strict=True))


def test_layers_with_names_are_ticks_with_those_names(
    network_tables: Callable[..., Tables],
) -> None:
    results, summary = network_tables()
    names = dict(zip(results["layer"], results["layer_name"], strict=True))
    assert len(names) == 10
    trained, untrained, _ = heatmap(curves_of(results, summary)).axes
    assert names_at_ticks(untrained) == names
    assert names_at_ticks(trained) == {}
    assert untrained.get_xlabel() == "probe point"
    figure = curves(results_of(results, summary))
    assert names_at_ticks(figure.axes[0]) == names
    assert figure.get_supxlabel() == "probe point"


@pytest.mark.parametrize("n_names", [10, 20])
@pytest.mark.parametrize("n_datasets", [1, 2, 10])
@pytest.mark.parametrize("draw", ["heatmap_accuracy", "curves"])
def test_names_of_layers_neither_touch_nor_leave_the_figure(
    network_tables: Callable[..., Tables], draw: str, n_datasets: int, n_names: int
) -> None:
    names = [f"conv{number}_postact" for number in range(10, 10 + n_names)]
    tables = network_tables(names, [f"dataset_{number}" for number in range(n_datasets)])
    results = results_of(*tables)
    figure = curves(results) if draw == "curves" else heatmap(results.curves)
    FigureCanvasAgg(figure).draw()
    panels = figure.axes[:-1] if draw == "heatmap_accuracy" else figure.axes
    named = [ax for ax in panels if any(label.get_visible() for label in ax.get_xticklabels())]
    assert named
    for ax in named:
        labels = ax.get_xticklabels()
        height = labels[0].get_fontsize() * figure.dpi / 72
        places = ax.transData.transform([(x, 0) for x in ax.get_xticks()])[:, 0]
        slant = np.sin(np.radians(labels[0].get_rotation()))
        assert np.diff(places).min() * slant > height
        for label in labels:
            box = label.get_window_extent()
            assert box.x0 >= 0
            assert box.y0 >= 0
    below = figure._supxlabel if draw == "curves" else named[-1].xaxis.label  # type: ignore[attr-defined]
    lowest = min(label.get_window_extent().y0 for label in named[-1].get_xticklabels())
    assert below.get_window_extent().y1 < lowest


def test_names_of_layers_take_no_room_from_the_panels(
    network_tables: Callable[..., Tables],
) -> None:
    results, summary = network_tables()

    def height(figure: Figure) -> float:
        FigureCanvasAgg(figure).draw()
        return float(figure.axes[0].get_window_extent().height)

    numbered = results.assign(layer_name=None)
    assert height(heatmap(curves_of(results, summary))) >= height(
        heatmap(curves_of(numbered, summary))
    )
    height_of_curves = height(curves(results_of(results, summary)))
    assert height_of_curves >= 0.95 * height(curves(results_of(numbered, summary)))


def test_of_many_layers_some_have_their_names_as_ticks(
    network_tables: Callable[..., Tables],
) -> None:
    names = ["input", *(f"dense{number}" for number in range(1, 129))]
    results, summary = network_tables(names)
    for ax in (
        heatmap(curves_of(results, summary)).axes[1],
        curves(results_of(results, summary)).axes[0],
    ):
        shown = names_at_ticks(ax)
        assert 8 <= len(shown) <= 20
        assert {0, 128} <= set(shown)
        assert all(name == names[layer] for layer, name in shown.items())


def test_a_layer_that_networks_call_differently_has_its_number(
    network_tables: Callable[..., Tables],
) -> None:
    results, summary = network_tables()
    of_one = (results["model"] == "trained") & (results["layer"] == 3)
    results.loc[of_one, "layer_name"] = "dropout"
    shown = names_at_ticks(curves(results_of(results, summary)).axes[0])
    assert (shown[2], shown[3]) == ("conv1_postact", "3")


def test_networks_of_different_depths_keep_ticks_of_their_own(
    network_tables: Callable[..., Tables],
) -> None:
    results, summary = network_tables()
    shorter = results[(results["model"] == "trained") | (results["layer"] < 5)]
    trained, untrained, _ = heatmap(curves_of(shorter, summary)).axes
    for ax, last in ((trained, 9), (untrained, 4)):
        assert list(ax.get_xticks()) == list(range(last + 1))
    assert untrained.get_xlabel() == "probe point"


def test_without_names_layers_are_those_of_a_language_model(two_by_two: Tables) -> None:
    results, summary = two_by_two
    for table in (results, results.assign(layer_name=None)):
        ax = heatmap(curves_of(table, summary)).axes[1]
        assert list(ax.get_xticks()) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
        assert ax.get_xlabel() == "layer (0: the embedding)"


def test_beside_a_language_model_layers_have_their_numbers(
    network_tables: Callable[..., Tables], two_by_two: Tables
) -> None:
    networks, models = curves_of(*network_tables()), curves_of(*two_by_two)
    assert layer_names(networks)[0] == "input"
    assert layer_names([*networks, *models]) == {}
