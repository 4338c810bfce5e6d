"""What is read elsewhere is drawn and printed, with what it is called."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llmprobe.ground.errors import UserError
from llmprobe.reporting.terminal_transfer import transfer_lines
from llmprobe.results.columns import TRANSFER, TRANSFER_LAYERS
from llmprobe.results.transfer import TransferMatrix, with_answers


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
        {**cell, "train_layer": i, "test_layer": j}
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


def test_curves_are_at_home_and_elsewhere() -> None:
    figure = matrix_of(["a", "b", "c"]).plot.curves()
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert np.asarray(lines["at home"]) == pytest.approx([0.9] * 3)
    assert np.asarray(lines["mean elsewhere"]) == pytest.approx([0.55] * 3)
    assert np.asarray(lines["worst elsewhere"]) == pytest.approx([0.2] * 3)


def test_layers_are_crossed_where_they_were_asked_for() -> None:
    figure = matrix_of(["a", "b"], is_crossed=True).plot.across_layers(train="a", test="b")
    assert figure.axes[0].images[0].get_array().shape == (3, 3)
    with pytest.raises(UserError, match="across_layers: true"):
        matrix_of(["a", "b"]).plot.across_layers()


def test_many_sets_are_printed_by_the_worst_of_the_others() -> None:
    few = "\n".join(line.plain for line in transfer_lines(matrix_of(["a", "b"]).table, 100))
    assert "0.20!" in few
    names = [f"the wording number {number}" for number in range(20)]
    lines = [line.plain for line in transfer_lines(matrix_of(names).table, 100)]
    assert max(map(len, lines)) <= 100
    assert len(lines) == 20 + 4
    assert "0.90" in lines[2]
    assert lines[2].endswith("0.20!  the wording number 1")
