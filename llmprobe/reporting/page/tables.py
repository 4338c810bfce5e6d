"""The tables of the page, as text."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from typing import NamedTuple

import pandas as pd

from llmprobe.ground.text import elide
from llmprobe.results.peaks import SCORE_NAMES, Peak, layer_names, main_score

LONGEST_NAME = 32
_MOST_LAYER_ROWS = 4000


class Table(NamedTuple):
    """A table of text, ready for the page; the first cell of a row is its heading."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]

    def without(self, optional: Sequence[str]) -> Table:
        """Without those of the ``optional`` columns that say nothing in any row."""
        keep = [
            i
            for i, header in enumerate(self.headers)
            if header not in optional or any(row[i] != "–" for row in self.rows)
        ]
        return Table(
            self.caption,
            [self.headers[i] for i in keep],
            [[row[i] for i in keep] for row in self.rows],
        )


def summary_table(
    summary: pd.DataFrame, found: Sequence[Peak], metric: str, held_out: bool
) -> Table:
    """One row for each model × dataset; ``metric`` is what the best layer is the best by."""
    headers = (
        *("model", "dataset", "test examples" if held_out else "examples"),
        *("best layer", f"{SCORE_NAMES[metric]} there", "AUROC there", "p"),
        *("chance", "bag of words", "random weights", "jump layer", "converging layer"),
        "half-rise depth",
    )
    rows = [
        [
            elide(peak.model, LONGEST_NAME),
            elide(peak.dataset, LONGEST_NAME),
            whole_text(peak.n_examples),
            f"{layer_text(peak)} of {whole_text(peak.blocks)}",
            number_text(peak.score) + interval_text(peak),
            number_text(peak.auroc),
            p_text(peak.p_value),
            number_text(peak.chance),
            number_text(peak.bag_of_words),
            number_text(row[f"random_weights_{metric}"]),
            whole_text(row["jump_layer"]),
            whole_text(row["converging_layer"]),
            number_text(row.get("half_rise_depth")),
        ]
        for peak, row in zip(found, summary.to_dict("records"), strict=True)
    ]
    table = Table("The best layer of each model on each dataset", headers, rows)
    return table.without(_OPTIONAL)


def cost_table(summary: pd.DataFrame) -> Table:
    """What each model × dataset took, as far as it was counted."""
    columns = ("tokens", "unique_tokens", "seconds_extract", "seconds_probe")
    headers = ("model", "dataset", "tokens", "unique tokens", "seconds reading", "seconds probing")
    rows = [
        [
            *(elide(row[column], LONGEST_NAME) for column in ("model", "dataset")),
            *(whole_text(row[column]) for column in columns),
        ]
        for row in summary.to_dict("records")
    ]
    return Table("What it cost", headers, rows).without(headers)


def layer_tables(results: pd.DataFrame) -> tuple[list[Table], list[str]]:
    """A table for each model × dataset × probe, and the captions of those that are too many."""
    tables, left_out, n_rows = [], [], 0
    score = main_score(results)
    headers = ("layer", "point", SCORE_NAMES[score], "95 % interval", *_LAYER_HEADERS)
    for (model, dataset, probe), layers in results.groupby(
        ["model", "dataset", "probe"], sort=False
    ):
        caption = f"{model}, {dataset}, {probe} probe"
        if n_rows + len(layers) > _MOST_LAYER_ROWS:
            left_out.append(caption)
            continue
        n_rows += len(layers)
        names = layer_names(layers)
        rows = [
            [
                whole_text(row["layer"]),
                elide(names.get(row["layer"], "–"), LONGEST_NAME),
                number_text(row[score]),
                f"{number_text(row[f'{score}_low'])} – {number_text(row[f'{score}_high'])}",
                *(number_text(row.get(column)) for column in _LAYER_COLUMNS),
                p_text(row["p_value"]),
                number_text(row["l2"], ".3g"),
            ]
            for row in layers.sort_values("layer").to_dict("records")
        ]
        tables.append(Table(caption, headers, rows).without(_OPTIONAL))
    return tables, left_out


_LAYER_COLUMNS = (
    *("balanced_accuracy", "f1", "auroc", "log_loss", "brier", "ece", "rank_correlation"),
    *("control_accuracy", "control_r2", "selectivity", "random_weights_accuracy", "code_length"),
    "compression",
)
_LAYER_HEADERS = (
    *("balanced accuracy", "F1", "AUROC", "log loss", "Brier", "ECE", "rank correlation"),
    *("random labels", "random labels’ R²", "selectivity", "random weights"),
    *("description length (kbit)", "compression", "p", "L2 penalty"),
)


_OPTIONAL = (
    "point", *_LAYER_HEADERS, "bag of words", "AUROC there", "jump layer", "converging layer",
    "half-rise depth",
)  # fmt: skip
"""Columns that are left out where they say nothing."""


def layer_text(peak: Peak) -> str:
    """Its number, and in a plain network its name."""
    name = peak.layer_name
    return whole_text(peak.layer) + ("" if name is None else f" ({elide(name, LONGEST_NAME)})")


def interval_text(peak: Peak) -> str:
    return "" if isnan(peak.low) else f" [{peak.low:.2f}, {peak.high:.2f}]"


def number_text(value: float | None, form: str = ".2f") -> str:
    return "–" if pd.isna(value) else format(value, form)


def whole_text(value: float | None) -> str:
    return number_text(value, ",.0f")


def p_text(value: float | None) -> str:
    return "< 0.001" if pd.notna(value) and value < 0.001 else number_text(value, ".3f")
