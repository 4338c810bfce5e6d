"""Projection strips show the examples where the probe places them, out-of-fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest
from legible import assert_apart
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from llmprobe.reporting.charts.projections import EDGE, projection
from llmprobe.reporting.charts.style import CLASS_COLOURS, png, svg
from llmprobe.results.curve import curves_of

Tables = tuple[pd.DataFrame, pd.DataFrame]


def placed(results: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """Predictions with places that tell model, layer and example apart."""
    rng = np.random.default_rng(0)
    parts = [
        pd.DataFrame(
            {
                "model": row["model"],
                "dataset": row["dataset"],
                "position": row["position"],
                "layer": row["layer"],
                "example": np.arange(len(labels)),
                "label": list(labels),
                "along": rng.uniform(-2, 2, len(labels)).astype("float32"),
                "across": rng.uniform(-2, 2, len(labels)).astype("float32"),
            }
        )
        for row in results.to_dict("records")
    ]
    return pd.concat(parts, ignore_index=True)


def strip(
    results: pd.DataFrame, predictions: pd.DataFrame, classes: str = "", **options: object
) -> Figure:
    """The strip of results whose best layer is the one with the most accuracy, or R²."""
    score = "r2" if "r2" in results else "accuracy"
    best = results.loc[results.groupby("model", sort=False)[score].idxmax()]
    summary = best[["model", "dataset", "position"]].assign(
        main_score=score, peak_layer=best["layer"], classes=classes
    )
    return projection(curves_of(results, summary), predictions, **options)


def titles(axes: Sequence[Axes]) -> list[list[str]]:
    return [ax.get_title(loc="left").split("\n") for ax in axes]


def points(ax: Axes) -> dict[str, set[tuple[float, float]]]:
    """Colour -> where its points are."""
    found: dict[str, set[tuple[float, float]]] = {}
    for drawn in ax.collections:
        for place, face in zip(
            drawn.get_offsets().tolist(), np.resize(drawn.get_facecolor(), (999, 4)), strict=False
        ):
            found.setdefault(to_hex(face), set()).add(tuple(place))
    return found


def places(predictions: pd.DataFrame, **where: object) -> set[tuple[float, float]]:
    for column, value in where.items():
        predictions = predictions[predictions[column] == value]
    return set(predictions[["along", "across"]].astype(float).itertuples(index=False, name=None))


def test_each_panel_shows_the_examples_of_its_layer(tables: Callable[..., Tables]) -> None:
    results, _ = tables({"a": 20, "b": 12}, ["d"])
    predictions = placed(results, ["no", "yes", "yes", "no"] * 5)
    axes = strip(results, predictions).axes
    assert len(axes) == 10
    for model, line in (("a", axes[:5]), ("b", axes[5:])):
        assert line[0].get_ylabel() == model
        for ax, (layer, _) in zip(line, titles(line), strict=True):
            here = {"model": model, "layer": int(layer.split()[1])}
            assert points(ax) == {
                CLASS_COLOURS[0]: places(predictions, label="no", **here),
                CLASS_COLOURS[1]: places(predictions, label="yes", **here),
            }


def test_the_five_depths_are_even_but_for_the_best_layer(tables: Callable[..., Tables]) -> None:
    results, _ = tables({"a": 20}, ["d"])
    for best, expected in (
        (12, [0, 5, 12, 15, 20]),
        (20, [0, 5, 10, 15, 20]),
        (1, [0, 1, 10, 15, 20]),
    ):
        results["accuracy"] = np.where(results["layer"] == best, 0.9, 0.6)
        shown = titles(strip(results, placed(results, ["0", "1"])).axes)
        assert [int(layer.split()[1]) for layer, _ in shown] == expected
        assert [layer.endswith("(best)") for layer, _ in shown] == [x == best for x in expected]
        assert {score for layer, score in shown if "best" not in layer} <= {"accuracy 0.60"}
        assert [score for layer, score in shown if "best" in layer] == ["accuracy 0.90"]


def test_a_model_of_few_layers_shows_them_all(tables: Callable[..., Tables]) -> None:
    results, _ = tables({"a": 2, "b": 9}, ["d"])
    axes = strip(results, placed(results, ["0", "1"])).axes
    assert [ax.get_subplotspec().rowspan.start for ax in axes] == [0, 0, 0, 1, 1, 1, 1, 1]


def test_layers_are_called_by_their_names(network_tables: Callable[..., Tables]) -> None:
    results, _ = network_tables()
    first = strip(results, placed(results, ["0", "1", "2"])).axes[0]
    assert titles([first])[0][0] == "input"


@pytest.mark.parametrize(("n_classes", "lines"), [(2, [0]), (3, [])])
def test_only_two_classes_have_a_threshold(
    tables: Callable[..., Tables], n_classes: int, lines: list[float]
) -> None:
    results, _ = tables({"a": 6}, ["d"], n_classes=n_classes)
    labels = [f"class {number}" for number in range(n_classes)]
    figure = strip(results, placed(results, labels))
    for ax in figure.axes:
        assert [line.get_xdata()[0] for line in ax.lines] == lines
    assert [text.get_text() for text in figure.legends[0].get_texts()] == labels
    assert ("class scores" in figure.get_supxlabel()) == (n_classes > 2)


def test_the_legend_has_the_names_of_classes(tables: Callable[..., Tables]) -> None:
    results, _ = tables({"a": 6}, ["d"])
    drawn = strip(results, placed(results, ["0", "1"]), class_names={"1": "true"})
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["0", "true"]


def test_classes_have_the_colours_of_the_page_in_the_probes_order(
    tables: Callable[..., Tables],
) -> None:
    results, _ = tables({"a": 0}, ["d"])
    predictions = placed(results, ["10", "9", "9"])
    for classes, second in (('["9", "10"]', "10"), ("", "9")):  # As text, 10 comes before 9.
        (ax,) = strip(results, predictions, classes).axes
        assert points(ax)[CLASS_COLOURS[1]] == places(predictions, label=second)


def test_many_examples_are_sampled_alike_everywhere_and_it_is_said(
    tables: Callable[..., Tables],
) -> None:
    results, _ = tables({"a": 8, "b": 8}, ["d"])
    predictions = placed(results, ["0", "1"] * 700)
    figure = strip(results, predictions)
    assert figure.get_supxlabel().endswith("300 of 1,400 examples")
    by_place = predictions.set_index(["along", "across"])["example"].to_dict()
    drawn = [
        {by_place[tuple(np.float32(place))] for place in set.union(*points(ax).values())}
        for ax in figure.axes
    ]
    assert len(drawn[0]) == 300
    assert all(examples == drawn[0] for examples in drawn)
    few = strip(results, predictions[predictions["example"] < 300])
    assert "examples" not in few.get_supxlabel()


def test_an_example_that_is_far_out_stands_at_the_edge(tables: Callable[..., Tables]) -> None:
    results, _ = tables({"a": 0}, ["d"])
    predictions = placed(results, ["0", "1"])
    predictions["along"] = [-90.0, 1.0]
    (ax,) = strip(results, predictions).axes
    (at,) = points(ax)[CLASS_COLOURS[0]]
    assert at[0] == -EDGE
    low, high = ax.get_xlim()
    assert low < -EDGE < EDGE < high


def test_rare_classes_are_one(tables: Callable[..., Tables]) -> None:
    results, _ = tables({"a": 0}, ["d"], n_classes=14)
    labels = [f"class {number:02}" for number in range(14) for _ in range(14 - number)]
    predictions = placed(results, labels)
    figure = strip(results, predictions)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [*(f"class {number:02}" for number in range(10)), "other classes"]
    rare = predictions[predictions["label"] >= "class 10"]
    assert points(figure.axes[0])["#aaaaaa"] == places(rare)


def test_labels_that_are_numbers_are_a_scale_of_colours(tables: Callable[..., Tables]) -> None:
    results, _ = tables({"a": 0}, ["d"])
    results = results.assign(r2=0.5, accuracy=np.nan)
    ax, bar = strip(results, placed(results, ["-20.5", "1000.0", "489.75"])).axes
    assert titles([ax]) == [["layer 0 (best)", "R² 0.50"]]
    lightness = [np.dot(face[:3], [0.3, 0.59, 0.11]) for face in ax.collections[0].get_facecolor()]
    assert lightness[0] < lightness[2] < lightness[1]
    assert bar.get_ylim() == (-20.5, 1000)
    assert not ax.lines


def test_labels_and_names_are_shown_as_they_are(tables: Callable[..., Tables]) -> None:
    results, _ = tables({"_a$1$": 0}, ["d"])
    figure = strip(results, placed(results, ["<script>$x$", "_\u202e" + "9" * 10_000]))
    drawn = svg(figure).decode()
    assert "&lt;script&gt;$x$</text>" in drawn
    assert "_a$1$</text>" in drawn
    assert "\u202e" not in drawn
    assert "9" * 40 not in drawn
    assert figure.legends[0].get_window_extent().x0 >= 0


def test_points_are_pixels_and_words_are_text_in_vector_files(
    tables: Callable[..., Tables],
) -> None:
    results, _ = tables({"a": 12}, ["d"])
    predictions = placed(results, ["0", "1"] * 150)
    drawn = svg(strip(results, predictions))
    assert drawn.count(b"<image") == 5
    assert b"layer 0</text>" in drawn
    assert len(drawn) < 300_000
    assert svg(strip(results, predictions)) == drawn
    assert png(strip(results, predictions)) == png(strip(results, predictions))


def test_no_words_overlap_in_a_strip_of_many_models(tables: Callable[..., Tables]) -> None:
    models = {f"organisation/a-model-with-a-long-name-{number}b": 99 for number in range(6)}
    results, _ = tables(models, ["d"])
    figure = strip(results, placed(results, [f"a long label, number {x}" for x in range(9)]))
    names = [ax.yaxis.label for ax in figure.axes]
    headings = [ax._left_title for ax in figure.axes]  # type: ignore[attr-defined]
    around = [figure._supxlabel, figure._supylabel]  # type: ignore[attr-defined]
    assert_apart(figure, [*names, *headings, *around, *figure.legends[0].get_texts()])
