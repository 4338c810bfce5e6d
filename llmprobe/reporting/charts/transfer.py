"""What probes read elsewhere: train × test, by layer, and across layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from llmprobe.ground.errors import UserError
from llmprobe.reporting.charts.colour_scale import CHANCE_MAP, text_colour
from llmprobe.reporting.charts.panels import Grid, legend
from llmprobe.reporting.charts.style import (
    COLOURS,
    GREY,
    em,
    entitle,
    label,
    panels_on,
    sheet,
    styled,
    text_width,
)
from llmprobe.results.figures import RUN, Look, figure
from llmprobe.results.results import Results
from llmprobe.results.transfer import (
    TRANSFER_MARKS,
    TransferMatrix,
    as_aurocs,
    is_elsewhere,
    leaves_one_out,
)

_MOST_NUMBERS = 16
"""Up to this many sets, cells have room for a number, unless the user gave the width."""
_LONGEST_NAME = 18
_ALL_OTHERS = "all others"
"""The train set of probes that leave out the set that they are scored on."""


@figure(
    "transfer",
    caption="Does it hold elsewhere? AUROC of probes fitted on the set of a row, at its best "
    "layer, and scored on the set of a column, of which they saw no unit. Blue reads the same, "
    "orange the opposite (!); – nothing, ? unclear. The diagonal is out-of-fold.",
    alt="Heatmap: a row for each set that probes were fitted on, a column for each set that they "
    "were scored on, with the AUROC. transfer.csv holds the same numbers.",
    drawn_by_script=True,
    takes="ax cmap layer",
)
def transfer_figure(results: Results, look: Look = RUN) -> Figure | None:
    """Draw the train × test heatmap of a run; None if nothing was transferred."""
    matrix = results.transfer_matrix
    return None if matrix is None else transfer_heatmap(matrix, look.layer, look)


@figure(
    "transfer_by_layer",
    caption="Elsewhere by layer: the AUROC of probes of each layer at home (out-of-fold), the mean "
    "of all other sets, and the worst of them.",
    alt="Line chart: for each set that probes were fitted on, AUROC over layers at home, the mean "
    "elsewhere and the worst elsewhere. transfer_layers.parquet holds the same numbers.",
    takes="ax",
)
def transfer_by_layer(results: Results, look: Look = RUN) -> Figure | None:
    """Draw the curves of a run at home and elsewhere; None if nothing was transferred."""
    matrix = results.transfer_matrix
    return None if matrix is None else transfer_curves(matrix, look)


@figure(
    "transfer_across_layers",
    caption="Where does the direction stay the same? AUROC of probes fitted at the layer of a row, "
    "on the states of the layer of a column.",
    alt="Heatmap: a row for each layer that probes were fitted at, a column for each that they "
    "were scored at. transfer_layers.parquet holds the same numbers.",
    takes="ax cmap",
)
def across_layers_figure(results: Results, look: Look = RUN) -> Figure | None:
    """Draw layer × layer of the first set of each model; None if layers were not crossed."""
    matrix = results.transfer_matrix
    if matrix is None or not _crossed(matrix.layers).any():
        return None
    return transfer_across_layers(matrix, look=look)


@styled
def transfer_heatmap(matrix: TransferMatrix, layer: int | None = None, look: Look = RUN) -> Figure:
    """Draw train × test: a panel for each model and position.

    Colour and number are the AUROC, or the rank correlation r of numbers as (1 + r) / 2. Numbers
    are written if cells have room. Columns without room for names have the numbers of the rows.

    Parameters
    ----------
    layer
        The layer of all probes; by default each train set's own best.

    Raises
    ------
    UserError
        There is no such layer.
    """
    table = matrix.table if layer is None else _at_layer(matrix.layers, layer)
    # Each of these sets has one cell, so all are one row.
    rest = table["train"].str.replace("all but .*", _ALL_OTHERS, regex=True)
    table = table.assign(train=table["train"].mask(leaves_one_out(table), rest))
    panels = list(table.groupby(["model", "position"], sort=False))
    sets = max(len(pd.unique(cells["test"])) for _, cells in panels)
    rows = max(len(pd.unique(cells["train"])) for _, cells in panels)
    names = [str(name) for side in ("train", "test") for name in pd.unique(table[side])]
    width = look.inches(1.8 + (0.55 if sets <= _MOST_NUMBERS else 0.25) * sets)
    left = min(0.3 * width, max(text_width(label(name, _LONGEST_NAME)) for name in names))
    side = (width - left - 3.6 * em()) / sets
    cell = _Cell(side, max(side if look.width is None else min(side, 3.2 * em()), 1.3 * em()), left)
    flat = cell.is_numbered or cell.rotation == 0
    below = 2.2 * em() if flat else left * (0.71 if cell.rotation == 45 else 1)
    drawn = sheet(look, width, 0.1 + len(panels) * (rows * cell.height + below + 4.5 * em()))
    axes = panels_on(drawn, look, len(panels))
    several = table["position"].nunique() > 1
    for ax, ((model, position), cells) in zip(axes, panels, strict=True):
        title = f"{model} @ {position}" if several else str(model)
        ax.set_title(label(title, 40, sets * side, weight="bold"))
        score = as_aurocs(cells)
        wide = pd.DataFrame({"train": cells["train"], "test": cells["test"], "score": score})
        wide = wide.pivot_table(index="train", columns="test", values="score", sort=False,
                                dropna=False)  # fmt: skip
        _draw(ax, wide.to_numpy(), look)
        ax.set_aspect("auto")
        cell.name(ax, [str(name) for name in wide.index], [str(name) for name in wide.columns])
        ax.set(xlabel="scored on", ylabel="fitted on")
        if side >= text_width("0.00!", "small") + 0.2 * em():
            _write(ax, wide, cells, look)
    entitle(look, drawn, axes)
    return drawn


class _Cell(NamedTuple):
    """The cells of a matrix, in inches, and the names of rows and columns."""

    width: float
    height: float
    names: float
    """The width of the names beside rows."""

    @property
    def rotation(self) -> int:
        """Return by how many degrees the names of columns are turned."""
        if self.width >= self.names + 0.5 * em():
            return 0
        return 45 if self.width >= 1.75 * em() else 90

    @property
    def is_numbered(self) -> bool:
        """Whether columns have no room for names."""
        return self.width < 1.3 * em()

    def name(self, ax: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
        """Write the names of rows and columns."""
        below = [label(name, _LONGEST_NAME, self.names) for name in columns]
        if self.is_numbered:
            numbers = {name: place + 1 for place, name in enumerate(columns)}
            rows = [f"{name}  {numbers[name]}" if name in numbers else name for name in rows]
            step = max(2, int(np.ceil(1.8 * em() / self.width)))
            places = range(step - 1, len(columns), step)
            ax.set_xticks(places, [str(place + 1) for place in places])
        elif self.rotation == 45:
            ax.set_xticks(range(len(columns)), below, rotation=45, ha="right",
                          rotation_mode="anchor")  # fmt: skip
        else:
            ax.set_xticks(range(len(columns)), below, rotation=self.rotation)
        ax.set_yticks(range(len(rows)), [label(name, _LONGEST_NAME, self.names) for name in rows])


@styled
def transfer_curves(matrix: TransferMatrix, look: Look = RUN) -> Figure:
    """Draw AUROC by layer at home, its mean elsewhere and the worst: a panel for each train set."""
    layers = matrix.layers[~_crossed(matrix.layers)]
    layers = layers.assign(score=as_aurocs(layers))
    is_rest = leaves_one_out(layers)
    rest = dict(list(layers[is_rest].groupby(["model", "position", "test"])))
    groups = dict(list(layers[~is_rest].groupby(["model", "position", "train"], sort=False)))
    several = layers["model"].nunique() > 1
    models = [f"in {model}" for model, _, _ in groups] if several else []
    grid = Grid.of([str(train) for _, _, train in groups], look, models)
    lines: dict[str, Line2D] = {}
    for ax, (place, cells) in zip(grid.panels, groups.items(), strict=True):
        at_home = cells["test"] == place[2]
        elsewhere = cells[is_elsewhere(cells)].groupby("test_layer")["score"]
        home = cells[at_home].set_index("test_layer")["score"]
        drawn = [
            (home, "at home", COLOURS[0], "-"),
            (elsewhere.mean(), "mean elsewhere", COLOURS[2], "-"),
            (elsewhere.min(), "worst elsewhere", COLOURS[1], "--"),
        ]
        if cells[is_elsewhere(cells)]["test"].nunique() == 1:  # Then mean and worst are the same.
            del drawn[1]
        if place in rest:
            others = rest[place].set_index("test_layer")["score"]
            drawn.append((others, f"{_ALL_OTHERS} on it", COLOURS[3], "-"))
        for line, name, colour, style in drawn:
            (lines[name],) = ax.plot(
                line.index, line, style, color=colour, label=name, linewidth=1.2
            )
        ax.axhline(0.5, color=GREY, linewidth=0.6, linestyle=":")
        ax.set_ylim(0, 1)
    grid.name_axes("layer", "AUROC")
    legend(grid.figure, {}, [_sample_of(line) for line in lines.values()], look)
    entitle(look, grid.figure, grid.panels)
    return grid.figure


def _sample_of(line: Line2D) -> Line2D:
    """Return a line of the same look, for a legend."""
    sample = Line2D([], [], label=str(line.get_label()))
    sample.update_from(line)
    return sample


@styled
def transfer_across_layers(
    matrix: TransferMatrix,
    train: str | None = None,
    test: str | None = None,
    look: Look = RUN,
) -> Figure:
    """Draw AUROC by the layer of the probe and that of the states: a panel for each model.

    Parameters
    ----------
    train, test
        The sets; by default the first one, out-of-fold.

    Raises
    ------
    UserError
        Layers were not crossed, or there is no such set.
    """
    if not _crossed(matrix.layers).any():
        raise UserError("transfer: layers were not crossed; ask for across_layers: true")
    layers = matrix.layers.assign(score=as_aurocs(matrix.layers))
    train = layers["train"].iloc[0] if train is None else train
    test = train if test is None and (layers["test"] == train).any() else test
    test = layers["test"].iloc[0] if test is None else test
    cells = layers[(layers["train"] == train) & (layers["test"] == test)]
    if cells.empty:
        known = ", ".join(map(str, pd.unique(layers["train"])))
        raise UserError(f"transfer: no cell of {train!r} and {test!r}; sets: {known}")
    groups = list(cells.groupby(["model", "position"], sort=False))
    width = look.inches(3.2 * min(len(groups), 3))
    columns = max(1, min(len(groups), int(width / 2.2)))
    n_rows, panel = -(-len(groups) // columns), width / columns
    drawn = sheet(look, width, min(panel, 3.4) * n_rows)
    axes = panels_on(drawn, look, *((n_rows, columns) if len(groups) > 1 else (1, 1)))
    for ax in axes[len(groups) :]:
        ax.remove()
    axes = axes[: len(groups)]
    for ax, ((model, _), rows) in zip(axes, groups, strict=True):
        wide = rows.pivot_table(index="train_layer", columns="test_layer", values="score")
        _draw(ax, wide.to_numpy(), look)
        ax.invert_yaxis()
        ticks = range(0, len(wide), max(1, len(wide) // 8))
        ax.set_xticks(ticks, [str(wide.columns[i]) for i in ticks])
        ax.set_yticks(ticks, [str(wide.index[i]) for i in ticks])
        ax.set(xlabel="scored at layer", ylabel="fitted at layer")
        title = train if train == test else f"{train} on {test}"
        ax.set_title(label(f"{title}, {model}", 44, panel - 6 * em(), weight="bold"))
    entitle(look, drawn, axes)
    return drawn


def _at_layer(layers: pd.DataFrame, layer: int) -> pd.DataFrame:
    rows = layers[(layers["train_layer"] == layer) & (layers["test_layer"] == layer)]
    if rows.empty:
        raise UserError(f"transfer: there is no layer {layer}")
    return rows.assign(reads="yes")


def _crossed(layers: pd.DataFrame) -> pd.Series:
    return layers["train_layer"] != layers["test_layer"]


def _draw(ax: Axes, values: np.ndarray, look: Look) -> None:
    ax.imshow(values, cmap=look.cmap or CHANCE_MAP, norm=Normalize(0, 1), aspect="equal")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def _write(ax: Axes, wide: pd.DataFrame, cells: pd.DataFrame, look: Look) -> None:
    """Write the number of each cell, with a mark for what is read there."""
    reads = cells.set_index(["train", "test"])["reads"].to_dict()
    for (y, x), value in np.ndenumerate(wide.to_numpy()):
        if not np.isnan(value):
            mark = TRANSFER_MARKS[reads[wide.index[y], wide.columns[x]]]
            colour = text_colour(value, look.cmap or CHANCE_MAP)
            ax.text(x, y, f"{value:.2f}{mark}", ha="center", va="center", color=colour,
                    fontsize="small")  # fmt: skip
