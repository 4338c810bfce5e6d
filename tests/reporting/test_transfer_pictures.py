"""What is read elsewhere is drawn and printed, with what it is called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browsing import Opened
from synthetic_runs import write_page

from llmprobe.ground.errors import UserError
from llmprobe.reporting.terminal_transfer import transfer_lines
from llmprobe.results.columns import TRANSFER, TRANSFER_LAYERS
from llmprobe.results.results import Results
from llmprobe.results.transfer import TransferMatrix, with_answers
from llmprobe.runs.report import summary_text


def matrix_of(names: Sequence[str], layers: int = 3, is_crossed: bool = False) -> TransferMatrix:
    """Return a matrix in which every other set reads the opposite of the first ones."""
    sides = {name: number % 2 for number, name in enumerate(names)}
    cells = []
    for train, test in product(names, names):
        area = 0.9 if sides[train] == sides[test] else 0.2
        cells.append(
            {"model": "m", "train": train, "test": test, "position": "last", "train_layer": 1,
             "test_layer": 1, "auroc": area, "auroc_low": area - 0.05, "auroc_high": area + 0.05,
             "p_value": 0.001, "note": ""}
        )  # fmt: skip
    by_layer = [
        {**cell, "train_layer": i, "test_layer": j} | ({} if i else {"auroc": 0.5})
        for cell in cells
        for i, j in product(range(layers), range(layers))
        if i == j or is_crossed
    ]
    table = with_answers(pd.DataFrame(cells).reindex(columns=list(TRANSFER)))
    return TransferMatrix(table, pd.DataFrame(by_layer).reindex(columns=list(TRANSFER_LAYERS)))


def test_the_heatmap_writes_each_cell_and_marks_the_opposite(tmp_path: Path) -> None:
    figure = matrix_of(["affirmed", "negated"]).plot.heatmap(tmp_path / "matrix.png")
    written = [text.get_text() for text in figure.axes[0].texts]
    assert written == ["0.90", "0.20!", "0.20!", "0.90"]
    assert (tmp_path / "matrix.png").stat().st_size > 0
    with pytest.raises(UserError, match="there is no layer 7"):
        matrix_of(["a", "b"]).plot.heatmap(layer=7)
    column = matrix_of(["a", "b"]).plot.heatmap(width="column", title="", cmap="viridis")
    assert column.get_figwidth() == 3.3
    assert column.axes[0].images[0].get_cmap().name == "viridis"
    with pytest.raises(UserError, match="no option 'models'"):
        matrix_of(["a", "b"]).plot.heatmap(models="m")


def test_curves_are_at_home_and_elsewhere() -> None:
    figure = matrix_of(["a", "b", "c"]).plot.curves()
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert np.asarray(lines["at home"]) == pytest.approx([0.5, 0.9, 0.9])
    assert np.asarray(lines["mean elsewhere"]) == pytest.approx([0.5, 0.55, 0.55])
    assert np.asarray(lines["worst elsewhere"]) == pytest.approx([0.5, 0.2, 0.2])


def test_the_page_has_the_matrix_at_the_best_layers_and_at_each(
    shown: Callable[..., Opened], trial: Results, tmp_path: Path
) -> None:
    matrix = matrix_of(["affirmed", "negated"])
    run = replace(trial, transfer=matrix.table, transfer_layers=matrix.layers)
    opened = shown(write_page(tmp_path / "report.html", run))
    cells = opened.page.locator("#transfer-matrix tbody td")
    assert cells.all_inner_texts() == ["1", "0.90", "0.20!", "1", "0.20!", "0.90"]
    slider = opened.page.locator("#transfer-layer")
    slider.focus()
    slider.press("ArrowRight")
    assert cells.all_inner_texts() == ["0", "0.50", "0.50", "0", "0.50", "0.50"]
    assert opened.page.locator("#transfer-at").inner_text() == "layer 0"
    slider.press("End")
    assert cells.all_inner_texts() == ["2", "0.90", "0.20", "2", "0.20", "0.90"]
    assert not opened.complaints


def test_the_first_screen_has_the_heatmap_the_evidence_and_the_matrix(
    opened: Callable[..., Opened], trial: Results, tmp_path: Path
) -> None:
    matrix = matrix_of(["affirmed", "negated"])
    run = replace(trial, transfer=matrix.table, transfer_layers=matrix.layers)
    path = write_page(tmp_path / "report.html", run)
    page = opened(path, 1280, viewport={"width": 1280, "height": 800}).page
    for name in ("#heatmap", "#transfer-matrix table", ".evidence"):
        box = page.locator(name).first.bounding_box()
        assert box is not None, name
        assert box["y"] + box["height"] <= 800, name
    heads = page.locator(".evidence thead th").all_inner_texts()
    assert heads == ["above chance", "beyond text", "stable"]
    assert page.locator(".evidence tbody").count() == 4


def test_a_number_of_the_page_is_rounded_once_as_python_does(
    shown: Callable[..., Opened], trial: Results, tmp_path: Path
) -> None:
    values = [0.544998, 0.125, 0.375, 0.625, 0.084999, 0.0625, 0.9949999, 0.9999999]
    matrix = matrix_of(["a", "b"], layers=len(values))
    layers = matrix.layers.assign(auroc=[values[i] for i in matrix.layers["train_layer"]])
    run = replace(trial, transfer=matrix.table, transfer_layers=layers)
    page = shown(write_page(tmp_path / "report.html", run)).page
    page.locator("#transfer-layer").focus()
    for value in values:
        page.locator("#transfer-layer").press("ArrowRight")
        assert page.locator("#transfer-matrix tbody td").nth(1).inner_text() == f"{value:.2f}"


def test_a_run_prints_its_matrix(trial: Results) -> None:
    matrix = matrix_of(["affirmed", "negated"])
    printed = summary_text(replace(trial, transfer=matrix.table), 100, unicode=True).plain
    assert "0.20!" in printed
    assert "0.20!" not in summary_text(trial, 100, unicode=True).plain


def test_layers_are_crossed_where_they_were_asked_for() -> None:
    figure = matrix_of(["a", "b"], is_crossed=True).plot.across_layers(train="a", test="b")
    assert figure.axes[0].images[0].get_array().shape == (3, 3)
    with pytest.raises(UserError, match="across_layers: true"):
        matrix_of(["a", "b"]).plot.across_layers()


def test_what_is_left_without_a_field_stands_beside_the_worst_and_is_no_transfer() -> None:
    matrix = matrix_of([f"the wording number {number}" for number in range(20)])
    first = matrix.table.iloc[:1]
    blank = first.assign(test="it:without city", masked="city", auroc=0.1, reads="opposite")
    alone = blank.assign(train="it", train_layer=2)
    table = pd.concat([matrix.table, blank, alone], ignore_index=True)
    lines = [line.plain for line in transfer_lines(table, 100)]
    assert lines[2].endswith("0.20!  the wording number 1")
    assert lines[3].endswith("0.10!  it:without city")
    assert lines[3].split() == ["the", "wording", "number", "0", "1", "0.90", "0.10!",
                                "it:without", "city"]  # fmt: skip
    assert [line for line in lines if line.startswith("  it ")]
    few = matrix_of(["a", "b"]).table
    wide = pd.concat([few, few.iloc[:1].assign(train="all but a")], ignore_index=True)
    drawn = transfer_lines(wide, 100)
    assert drawn[-3].plain.split() == ["all", "but", "a", "1", "0.90"]
    layers = matrix_of(["a", "b"]).layers
    more = layers[layers["test"] == "b"].assign(test="a:without x", masked="x", auroc=0.0)
    figure = TransferMatrix(few, pd.concat([layers, more])).plot.curves()
    worst = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}["worst elsewhere"]
    assert np.asarray(worst).min() > 0


def test_probes_of_all_other_sets_are_one_row_and_a_line_in_the_panel_of_the_set() -> None:
    matrix = matrix_of(["a", "b", "c"])

    def more(cells: pd.DataFrame) -> pd.DataFrame:
        home = cells[cells["train"] == cells["test"]]
        rest = home.assign(train="all but " + home["test"], fitted_on="all but one", auroc=0.7)
        return pd.concat([cells, rest], ignore_index=True)

    both = TransferMatrix(more(matrix.table), more(matrix.layers))
    for layer in (None, 1):
        ax = both.plot.heatmap(layer=layer).axes[0]
        assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c", "all others"]
        assert [text.get_text()[:4] for text in ax.texts[-3:]] == ["0.70"] * 3
    panels = [ax for ax in both.plot.curves().axes if ax.get_title("left")]
    assert [ax.get_title("left") for ax in panels] == ["a", "b", "c"]
    for ax in panels:
        lines = {line.get_label(): line.get_ydata() for line in ax.lines}
        assert np.asarray(lines["all others on it"]) == pytest.approx([0.7, 0.7, 0.7])


def test_many_sets_are_printed_by_the_worst_of_the_others() -> None:
    few = "\n".join(line.plain for line in transfer_lines(matrix_of(["a", "b"]).table, 100))
    assert "0.20!" in few
    names = [f"the wording number {number}" for number in range(20)]
    lines = [line.plain for line in transfer_lines(matrix_of(names).table, 100)]
    assert max(map(len, lines)) <= 100
    assert len(lines) == 20 + 4
    assert "0.90" in lines[2]
    assert lines[2].endswith("0.20!  the wording number 1")
