"""The tables of the page, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from llmprobe.ground.text import elide, interval_text, number_text, p_text
from llmprobe.reporting.terminal import multi_layer_numbers
from llmprobe.results.columns import RIVALS
from llmprobe.results.curve import Curve, titles
from llmprobe.results.metrics import METRICS, Metric
from llmprobe.results.operating import negatives_needed

LONGEST_NAME = 32
_MOST_LAYER_ROWS = 4000


class Table(NamedTuple):
    """A table of text, ready for the page; the first cell of a row is its heading."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]

    def without_empty(self, kept: Sequence[str] = ()) -> Table:
        """Leave out the columns that are empty in all rows, except those that are ``kept``."""
        places = [
            i
            for i, header in enumerate(self.headers)
            if header in kept or any(row[i] != "–" for row in self.rows)
        ]
        rows = [[row[i] for i in places] for row in self.rows]
        return Table(self.caption, [self.headers[i] for i in places], rows)


def summary_table(curves: Sequence[Curve], held_out: bool) -> Table:
    """Return a row for each curve; the header says whether its examples are a test set."""
    labels = {curve.metric.label for curve in curves}
    score = f"{labels.pop() if len(labels) == 1 else 'score'} there"
    headers = (
        *("model", "dataset", "test examples" if held_out else "examples", "best layer", score),
        *("AUROC there", "p", "p, adjusted", "chance"),
        *(rival.replace("_", " ") for rival in RIVALS),
        *("jump layer", "converging layer", "above half from", "above half to"),
        "gain over the best layer",
    )
    rows = []
    for curve in curves:
        rows.append([
            elide(curve.model, LONGEST_NAME),
            elide(curve.title, LONGEST_NAME),
            whole_text(curve.number("n_examples")),
            f"{layer_text(curve)} of {whole_text(curve.blocks)}",
            interval_text(curve.score, curve.low, curve.high),
            number_text(curve.at_best("auroc")),
            p_text(curve.p_value),
            p_text(curve.adjusted_p_value) if len(curves) > 1 else "–",
            number_text(curve.chance()),
            *(number_text(curve.rival(rival)) for rival in RIVALS),
            whole_text(curve.shown("jump_layer")),
            whole_text(curve.shown("converging_layer")),
            number_text(curve.shown("stays_above_half_depth")),
            number_text(curve.shown("falls_below_half_depth")),
            "–",
        ])  # fmt: skip
        if curve.multi_layer is not None:
            numbers = multi_layer_numbers(curve)
            at_once = dict.fromkeys(headers, "–") | {
                "best layer": f"{numbers['layers']} at once", score: numbers["score"],
                "AUROC there": numbers["AUROC"], headers[-1]: numbers["gain"],
            }  # fmt: skip
            rows.append([*rows[-1][:3], *list(at_once.values())[3:]])
    table = Table("The best layer of each model on each dataset", headers, rows)
    return table.without_empty(kept=(*headers[:5], "chance"))


def monitor_table(curves: Sequence[Curve]) -> Table:
    """Return the operating points of each curve of two classes whose thresholds are known.

    If there are too few negatives, a cell says how many are needed.
    """
    headers = (
        *("model", "dataset", "TPR at 1 % FPR", "threshold for 1 %", "TPR at 0.1 % FPR"),
        *("threshold for 0.1 %", "at layer", "guaranteed"),
    )
    rows = [
        [
            elide(curve.model, LONGEST_NAME),
            elide(curve.title, LONGEST_NAME),
            *_operating_point(curve, "1", 0.01, several),
            *_operating_point(curve, "01", 0.001, several),
            str(several["layers_read"]) if several else whole_text(curve.number("threshold_layer")),
            _guarantee(curve),
        ]
        for curve in curves
        if curve.number("threshold_negative_units") > 0
        for several in ([None] if curve.multi_layer is None else [None, curve.multi_layer])
    ]
    return Table("For a monitor: operating points", headers, rows)


def _operating_point(
    curve: Curve, name: str, fpr: float, several: Mapping[Any, Any] | None
) -> tuple[str, str]:
    """Return the out-of-fold TPR of the best layer with its interval, and the saved threshold.

    With ``several``, a row of the results, they are those of that probe of several layers.
    """
    share, low, high = (
        several[column] if several else curve.at_best(column)
        for column in METRICS[f"tpr_at_{name}_fpr"].columns
    )
    tpr = interval_text(share, low, high)
    of_probe = "multi_layer_" if several else ""
    threshold = curve.number(f"{of_probe}threshold_at_{name}_fpr")
    if np.isnan(threshold):
        units = curve.number("threshold_negative_units")
        needed = f"{units:,.0f} units, {negatives_needed(fpr):,} needed"
        return tpr, f"too few negatives to tell: {needed}"
    flagged = curve.number(f"{of_probe}threshold_tpr_at_{name}_fpr")
    flags = "" if np.isnan(flagged) else f" (flags {100 * flagged:.0f} %)"
    return tpr, f"{threshold:.4g}{flags}"


def _guarantee(curve: Curve) -> str:
    if np.isnan([curve.number(f"threshold_at_{name}_fpr") for name in ("1", "01")]).all():
        return "–"
    if curve.summary.get("threshold_origin") == "set aside":
        return "the rate, at 95 % confidence"
    return "nothing (probe.calibrate would)"


def cost_table(summary: pd.DataFrame) -> Table:
    """Return what each model × dataset × position cost, as far as it was counted."""
    columns = ("tokens", "unique_tokens", "seconds_extract", "seconds_probe")
    headers = ("model", "dataset", "tokens", "unique tokens", "seconds reading", "seconds probing")
    rows = [
        [
            *(elide(row[column], LONGEST_NAME) for column in ("model", "dataset")),
            *(whole_text(row[column]) for column in columns),
        ]
        for row in summary.assign(dataset=titles(summary)).to_dict("records")
    ]
    return Table("What it cost", headers, rows).without_empty()


def layer_tables(results: pd.DataFrame) -> tuple[list[Table], list[str]]:
    """Return a table for each curve × probe, and the captions of those that the page leaves out.

    Columns are the metrics that any layer has, with the interval of the main one.
    """
    groups = list(results.groupby(["model", titles(results), "probe"], sort=False))
    sizes = accumulate(len(rows) for _, rows in groups)
    tables, left_out = [], []
    for ((model, dataset, probe), rows), size in zip(groups, sizes, strict=True):
        caption = f"{model}, {dataset}, {probe} probe"
        if size > _MOST_LAYER_ROWS:
            left_out.append(caption)
        else:
            tables.append(_layer_table(caption, rows.sort_values("layer")))
    return tables, left_out


def _layer_table(caption: str, rows: pd.DataFrame) -> Table:
    main = METRICS[rows["main_score"].iloc[0]]
    metrics = [main, *(metric for metric in METRICS.values() if metric.name != main.name)]
    headers = ["layer", "point", *(metric.label for metric in metrics)]
    headers.insert(3, "95 % interval")
    cells = []
    for row in rows.to_dict("records"):
        name = row.get("layer_name")
        interval = " – ".join(metric_text(main, row.get(f"{main.name}_{end}"))
                              for end in ("low", "high"))  # fmt: skip
        scores = [metric_text(metric, row.get(metric.name)) for metric in metrics]
        point = "–" if pd.isna(name) else elide(name, LONGEST_NAME)
        cells.append([whole_text(row["layer"]), point, scores[0], interval, *scores[1:]])
    return Table(caption, headers, cells).without_empty(kept=headers[2:4])


def layer_text(curve: Curve) -> str:
    """Return the number of the best layer, and in a plain network its name."""
    name = curve.layer_name
    return whole_text(curve.layer) + ("" if name is None else f" ({elide(name, LONGEST_NAME)})")


def metric_text(metric: Metric, value: Any) -> str:
    """Return a value in the format of its metric."""
    return p_text(value) if metric.form == "p" else number_text(value, metric.form)


def whole_text(value: float | None) -> str:
    """Return a number without decimals; a dash if there is none."""
    return number_text(value, ",.0f")
