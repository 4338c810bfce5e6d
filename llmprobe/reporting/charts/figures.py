"""The figures of a run, by name."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from llmprobe.config.schema import file_name
from llmprobe.reporting.charts.curves import curves, learning_curves
from llmprobe.reporting.charts.depth import (
    depth_against_difficulty,
    depth_against_size,
    depth_scatter,
    half_rises,
)
from llmprobe.reporting.charts.heatmaps import heatmap, heatmap_by_model
from llmprobe.reporting.charts.projections import projection
from llmprobe.reporting.charts.style import png, svg, write_all
from llmprobe.results.peaks import main_probe, main_score

__all__ = ["METRICS", "draw_figures", "heatmap", "png", "svg", "write_all"]

METRICS = ("accuracy", "r2", "balanced_accuracy", "auroc", "selectivity")
"""Those that have a heatmap, where they are known."""


def draw_figures(
    results: pd.DataFrame,
    summary: pd.DataFrame,
    predictions: pd.DataFrame | None = None,
    learning_curve: pd.DataFrame | None = None,
) -> dict[str, Figure]:
    """Every figure that the tables have numbers for, by name.

    ``heatmap_<metric>`` for each of ``METRICS``, ``curves`` and ``depth``; of several models
    ``heatmap_by_model``, and of several sizes ``size``; of three datasets or more ``difficulty``;
    and where there are rows for them ``learning_curve`` and ``projection_<dataset>``.

    Parameters
    ----------
    results, summary
        A row for each model × dataset × layer × probe, and for each model × dataset.
    predictions
        A row for each model × dataset × layer × example; in older ones, columns are missing.
    learning_curve
        A row for each model × dataset × layer × fraction of the training groups.
    """
    rows, found = main_probe(results), half_rises(summary)
    main = main_score(rows)
    figures = {
        f"heatmap_{metric}": heatmap(results, metric)
        for metric in METRICS
        if metric in rows and rows[metric].notna().any()
    }
    if (rows.dropna(subset=main).groupby("dataset")["model"].nunique() > 1).any():
        figures["heatmap_by_model"] = heatmap_by_model(results, main)
    figures["curves"] = curves(results, summary)
    figures["depth"] = depth_scatter(summary)
    if found["dataset"].nunique() > 2:
        figures["difficulty"] = depth_against_difficulty(results, summary)
    if found["parameters"].nunique() > 1:
        figures["size"] = depth_against_size(summary)
    if learning_curve is not None and len(learning_curve):
        figures["learning_curve"] = learning_curves(learning_curve, summary)
    if predictions is not None and {"along", "across"} <= set(predictions):
        for dataset, of_dataset in predictions.groupby("dataset", sort=False):
            placed = of_dataset.dropna(subset=["along", "across"])
            scores = rows[(rows["dataset"] == dataset) & rows["model"].isin(placed["model"])]
            if scores[main_score(scores)].notna().any():
                name = f"projection_{file_name(str(dataset))}"
                figures[name] = projection(scores, placed)
    return figures
