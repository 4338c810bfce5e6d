"""What probes read elsewhere: train × test, by layer, and across layers."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from llmprobe.ground.errors import UserError
from llmprobe.reporting.charts.colour_scale import CHANCE_MAP
from llmprobe.reporting.charts.style import COLOURS, GREY, label, styled
from llmprobe.results.figures import figure
from llmprobe.results.results import Results
from llmprobe.results.transfer import (
    TRANSFER_MARKS,
    TransferMatrix,
    as_aurocs,
    is_elsewhere,
    leaves_one_out,
)

_MOST_NUMBERS = 16
"""Sets beside each other whose cells have room for a number."""
_ALL_OTHERS = "all others"
"""What probes are fitted on that leave out the set which they are scored on."""


@figure(
    "transfer",
    caption="Does it hold elsewhere? AUROC of probes fitted on the set of a row, at its best "
    "layer, on the set of a column, of which no unit was seen: blue reads the same, orange the "
    "opposite (!); – nothing, ? unclear. The diagonal is out-of-fold.",
    alt="Heatmap: a row for each set that probes were fitted on, a column for each set that they "
    "were scored on, with the AUROC. transfer.csv holds the same numbers.",
    drawn_by_script=True,
)
def transfer_figure(results: Results) -> Figure | None:
    """Draw the train × test heatmap of a run; None where nothing was transferred."""
    matrix = results.transfer_matrix
    return None if matrix is None else transfer_heatmap(matrix)


@figure(
    "transfer_by_layer",
    caption="Elsewhere by layer: the AUROC of probes of each layer at home (out-of-fold), the mean "
    "of all other sets, and the worst of them.",
    alt="Line chart: for each set that probes were fitted on, AUROC over layers at home, the mean "
    "elsewhere and the worst elsewhere. transfer_layers.parquet holds the same numbers.",
)
def transfer_by_layer(results: Results) -> Figure | None:
    """Draw the curves of a run at home and elsewhere; None where nothing was transferred."""
    matrix = results.transfer_matrix
    return None if matrix is None else transfer_curves(matrix)


@figure(
    "transfer_across_layers",
    caption="Where does the direction stay the same? AUROC of probes fitted at the layer of a row, "
    "on the states of the layer of a column.",
    alt="Heatmap: a row for each layer that probes were fitted at, a column for each that they "
    "were scored at. transfer_layers.parquet holds the same numbers.",
)
def across_layers_figure(results: Results) -> Figure | None:
    """Draw layer × layer of the first set of each model; None where layers were not crossed."""
    matrix = results.transfer_matrix
    if matrix is None or not _crossed(matrix.layers).any():
        return None
    return transfer_across_layers(matrix)


@styled
def transfer_heatmap(matrix: TransferMatrix, layer: int | None = None) -> Figure:
    """Draw train × test: a panel for each model and position.

    Colour and number are the AUROC, of numbers the rank correlation r as (1 + r) / 2.

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
    size = 0.55 if sets <= _MOST_NUMBERS else 0.25
    drawn = Figure(figsize=(1.8 + size * sets, len(panels) * (1.1 + size * rows)))
    axes = drawn.subplots(len(panels), squeeze=False)[:, 0]
    for ax, ((model, position), cells) in zip(axes, panels, strict=True):
        several = table["position"].nunique() > 1
        ax.set_title(label(f"{model} @ {position}" if several else str(model), 40))
        score = as_aurocs(cells)
        wide = pd.DataFrame({"train": cells["train"], "test": cells["test"], "score": score})
        wide = wide.pivot_table(index="train", columns="test", values="score", sort=False,
                                dropna=False)  # fmt: skip
        _draw(ax, wide.to_numpy())
        ax.set_xticks(range(len(wide.columns)), [label(str(name), 18) for name in wide.columns],
                      rotation=45, ha="right")  # fmt: skip
        ax.set_yticks(range(len(wide)), [label(str(name), 18) for name in wide.index])
        ax.set(xlabel="scored on", ylabel="fitted on")
        if len(wide.columns) <= _MOST_NUMBERS:
            _write(ax, wide, cells)
    return drawn


@styled
def transfer_curves(matrix: TransferMatrix) -> Figure:
    """Draw AUROC by layer at home, its mean elsewhere and the worst: a panel for each train set."""
    layers = matrix.layers[~_crossed(matrix.layers)]
    layers = layers.assign(score=as_aurocs(layers))
    is_rest = leaves_one_out(layers)
    rest = dict(list(layers[is_rest].groupby(["model", "position", "test"])))
    groups = list(layers[~is_rest].groupby(["model", "position", "train"], sort=False))
    columns = min(len(groups), 4)
    rows = -(-len(groups) // columns)
    drawn = Figure(figsize=(2.1 * columns + 0.4, 1.7 * rows + 0.4))
    axes = drawn.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    several = layers["model"].nunique() > 1
    for ax, ((model, position, train), cells) in zip(axes, groups, strict=False):
        at_home = cells["test"] == train
        elsewhere = cells[is_elsewhere(cells)].groupby("test_layer")["score"]
        home = cells[at_home].set_index("test_layer")["score"]
        lines = [
            (home, "at home", COLOURS[0], "-"),
            (elsewhere.mean(), "mean elsewhere", COLOURS[2], "-"),
            (elsewhere.min(), "worst elsewhere", COLOURS[1], "--"),
        ]
        if cells[is_elsewhere(cells)]["test"].nunique() == 1:  # Then the two are one.
            del lines[1]
        if (model, position, train) in rest:
            others = rest[model, position, train].set_index("test_layer")["score"]
            lines.append((others, f"{_ALL_OTHERS} on it", COLOURS[3], "-"))
        for line, name, colour, style in lines:
            ax.plot(line.index, line, style, color=colour, label=name, linewidth=1.2)
        ax.axhline(0.5, color=GREY, linewidth=0.6, linestyle=":")
        ax.set_title(label(f"{train} in {model}" if several else str(train), 30))
        ax.set_ylim(0, 1)
    for ax in axes[len(groups) :]:
        ax.axis("off")
    drawn.supxlabel("layer")
    drawn.supylabel("AUROC")
    handles, names = axes[0].get_legend_handles_labels()
    drawn.legend(handles, names, loc="outside upper center", ncols=4)
    return drawn


@styled
def transfer_across_layers(
    matrix: TransferMatrix, train: str | None = None, test: str | None = None
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
    drawn = Figure(figsize=(3.2 * len(groups), 3.2))
    axes = drawn.subplots(1, len(groups), squeeze=False)[0]
    for ax, ((model, _), rows) in zip(axes, groups, strict=True):
        wide = rows.pivot_table(index="train_layer", columns="test_layer", values="score")
        _draw(ax, wide.to_numpy())
        ax.invert_yaxis()
        ticks = range(0, len(wide), max(1, len(wide) // 8))
        ax.set_xticks(ticks, [str(wide.columns[i]) for i in ticks])
        ax.set_yticks(ticks, [str(wide.index[i]) for i in ticks])
        ax.set(xlabel="scored at layer", ylabel="fitted at layer")
        title = train if train == test else f"{train} on {test}"
        ax.set_title(label(f"{title}, {model}", 44))
    return drawn


def _at_layer(layers: pd.DataFrame, layer: int) -> pd.DataFrame:
    rows = layers[(layers["train_layer"] == layer) & (layers["test_layer"] == layer)]
    if rows.empty:
        raise UserError(f"transfer: there is no layer {layer}")
    return rows.assign(reads="yes")


def _crossed(layers: pd.DataFrame) -> pd.Series:
    return layers["train_layer"] != layers["test_layer"]


def _draw(ax: Axes, values: np.ndarray) -> None:
    ax.imshow(values, cmap=CHANCE_MAP, norm=Normalize(0, 1), aspect="equal")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def _write(ax: Axes, wide: pd.DataFrame, cells: pd.DataFrame) -> None:
    """Write the number of each cell, with a mark for what is read there."""
    reads = cells.set_index(["train", "test"])["reads"].to_dict()
    for (y, x), value in np.ndenumerate(wide.to_numpy()):
        if not np.isnan(value):
            mark = TRANSFER_MARKS[reads[wide.index[y], wide.columns[x]]]
            colour = "white" if abs(value - 0.5) > 0.3 else "black"
            ax.text(x, y, f"{value:.2f}{mark}", ha="center", va="center", color=colour, fontsize=7)
