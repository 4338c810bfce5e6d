"""How probes that were fitted on one set of examples score on others, as tables of cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from llmprobe.ground.notebook import ShownInNotebooks
from llmprobe.ground.text import elide
from llmprobe.results.columns import MASKED, TRANSFER, TRANSFER_LAYERS, WORST_TRANSFER
from llmprobe.results.curve import SURE
from llmprobe.results.plots import TransferPlots
from llmprobe.results.questions import TRANSFER_MARGIN

TRANSFER_MARKS = {"yes": "", "opposite": "!", "no": "–", "unclear": "?", "not defined": ""}
"""The mark behind a score, by what is read there, in figures and on the page."""


def as_aurocs(cells: pd.DataFrame) -> pd.Series:
    """Return the AUROC of each cell, or what a rank correlation r is about like: (1 + r) / 2."""
    return cells["auroc"].astype(float).fillna((1 + cells["rank_correlation"].astype(float)) / 2)


@dataclass(frozen=True)
class TransferMatrix(ShownInNotebooks):
    """Train sets × test sets: what a probe reads where it was not fitted."""

    table: pd.DataFrame
    """A row for each model × position × train set × test set, at the layer that is best for the
    train set. Columns are those of ``columns.TRANSFER``."""
    layers: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=TRANSFER_LAYERS))
    """The AUROC of each cell at every layer; where layers were crossed, also that of a probe fitted
    at ``train_layer`` and scored at another ``test_layer``."""

    def __repr__(self) -> str:
        models, train, test = (self.table[name].nunique() for name in ("model", "train", "test"))
        elsewhere = self.table[self.table["train"] != self.table["test"]].dropna(subset="auroc")
        worst = ""
        if len(elsewhere):
            cell = elsewhere.sort_values("auroc").iloc[0]
            names = " on ".join(elide(str(cell[of]), 40) for of in ("train", "test"))
            worst = f", worst AUROC {cell['auroc']:.2f}: {names}"
        return f"TransferMatrix({train} × {test} sets, {models} models{worst})"

    @property
    def plot(self) -> TransferPlots:
        """Return the figures, each a method; called itself, it draws the train × test heatmap."""
        return TransferPlots(self)

    @staticmethod
    def concatenate(matrices: Sequence[TransferMatrix]) -> TransferMatrix:
        """Return the rows of several matrices, such as those of several models."""
        return TransferMatrix(
            pd.concat([one.table for one in matrices], ignore_index=True),
            pd.concat([one.layers for one in matrices], ignore_index=True),
        )

    def worst(self) -> pd.DataFrame:
        """Return the worst cell on another set, for each model × dataset × position of a train set.

        It tells what the probe of a curve, which is fitted on the whole dataset, reads on other
        sets. So it is the worst cell of the probe of the whole dataset, where that is a set. Else
        it is the worst of the probes of all values of a field but one, each scored on that one;
        else the worst of the probes of one value, which are different probes. Cells with masked
        texts are left out.

        Columns: model, dataset, position, and those of ``columns.WORST_TRANSFER``, of which the
        p-value is adjusted over the matrix. For numbers it is the least rank correlation.
        """
        elsewhere = self.table[is_elsewhere(self.table)]
        return _extremes(elsewhere, -1, WORST_TRANSFER, "worst_transfer_")

    def masked(self) -> pd.DataFrame:
        """Return the best cell on masked texts, for each model × dataset × position.

        Columns: model, dataset, position, and those of ``columns.MASKED``.
        """
        cells = self.table[self.table["masked"] != ""]
        cells = cells.assign(field=cells["masked"])
        return _extremes(cells, 1, MASKED, "masked_")


def is_elsewhere(cells: pd.DataFrame) -> pd.Series:
    """Whether each cell is scored on another set than the train set, with unmasked texts."""
    elsewhere = cells["train"] != cells["test"]
    if "masked" in cells:  # Earlier versions masked none.
        elsewhere &= cells["masked"].isna() | (cells["masked"] == "")
    return elsewhere


def leaves_one_out(cells: pd.DataFrame) -> pd.Series:
    """Whether each cell is of a probe of all values of a field but the one that it is scored on."""
    if "fitted_on" not in cells:  # Earlier versions left none out.
        return pd.Series(False, index=cells.index)
    return cells["fitted_on"] == "all but one"


_FITTED_ON = ("dataset", "all but one", "part")
"""What probes can be fitted on, from what is most like the probe of a curve to what is least."""


def _extremes(cells: pd.DataFrame, sign: int, columns: Sequence[str], prefix: str) -> pd.DataFrame:
    """Return the extreme cell of each curve, among those whose probes are most like its own.

    Parameters
    ----------
    sign
        -1 for the least score, 1 for the largest.
    """
    cells = cells.assign(score=sign * as_aurocs(cells)).dropna(subset="score")
    curve = ["model", "train_dataset", "position"]
    place = cells["fitted_on"].map(_FITTED_ON.index)
    cells = cells[place == place.groupby([cells[name] for name in curve]).transform("min")]
    rows = cells.loc[cells.groupby(curve, sort=False)["score"].idxmax()].drop(columns="p_value")
    rows = rows.rename(columns={"p_value_adjusted": "p_value"})
    values = {name: rows[name.removeprefix(prefix)] for name in columns}
    named = rows[curve].set_axis(["model", "dataset", "position"], axis=1)
    return named.assign(**values).reset_index(drop=True)


def with_answers(table: pd.DataFrame) -> pd.DataFrame:
    """Return the cells of one matrix with ``p_value_adjusted`` and ``reads``.

    ``reads`` is *yes* or *opposite* where the adjusted p-value is at most 0.05, *no* where
    the interval lies within ``TRANSFER_MARGIN`` of chance, *not defined* where there is no score,
    else *unclear*.
    """
    p = table["p_value"].to_numpy(float)
    adjusted, tested = p.copy(), np.isfinite(p)
    if tested.any():
        from scipy.stats import false_discovery_control  # type: ignore[import-untyped]

        adjusted[tested] = false_discovery_control(p[tested])
    is_number = table["auroc"].isna() & table["rank_correlation"].notna()
    score, low, high = (
        # A rank correlation of r is like an AUROC of about (1 + r) / 2.
        np.where(is_number, (1 + table[f"rank_correlation{end}"]) / 2, table[f"auroc{end}"])
        for end in ("", "_low", "_high")
    )
    sure = adjusted <= SURE
    nothing = (low >= 0.5 - TRANSFER_MARGIN) & (high <= 0.5 + TRANSFER_MARGIN)
    reads = np.select(
        [np.isnan(score), sure & (score > 0.5), sure & (score < 0.5), nothing],
        ["not defined", "yes", "opposite", "no"],
        "unclear",
    )
    return table.assign(p_value_adjusted=adjusted, reads=reads)[list(TRANSFER)]
