"""Curves together with those that a study published on the same datasets."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from llmprobe.reporting.charts.panels import Grid, legend
from llmprobe.reporting.charts.style import model_styles, styled
from llmprobe.results.curve import by_dataset, by_model
from llmprobe.results.figures import RUN, Look
from llmprobe.results.published import PublishedStudy
from llmprobe.results.results import Results

_LINES = ("-", "--", ":", "-.")


@styled
def under_published(results: Results, study: PublishedStudy, look: Look = RUN) -> Figure | None:
    """Draw accuracy over relative depth; in grey what ``study`` published on the same datasets.

    A panel for each dataset that both have, a colour for each model, its intervals as a band. None
    if they have no dataset in common.
    """
    datasets = {
        name: group
        for name, group in by_dataset(results.curves).items()
        if group[0].dataset in set(study.curves["dataset"])
    }
    if not datasets:
        return None
    styles, grid = model_styles(by_model(results.curves)), Grid.of(list(datasets), look)
    lines = dict(zip(study.curves["model"].unique(), _LINES, strict=False))
    for ax, group in zip(grid.panels, datasets.values(), strict=True):
        of_set = study.curves[study.curves["dataset"] == group[0].dataset]
        for model, rows in of_set.groupby("model"):
            grey = {"color": "#999999", "linewidth": 0.8, "linestyle": lines[str(model)]}
            ax.plot(rows["depth"], rows["accuracy"], **grey)
        for curve in group:
            low, score, high = (curve.column(f"accuracy{end}") for end in ("_low", "", "_high"))
            style = {**styles[curve.model], "marker": ""}
            ax.fill_between(curve.depths, low, high, color=style["color"], alpha=0.15, linewidth=0)
            ax.plot(curve.depths, score, **style)
    grid.over_depth("accuracy")
    published = [
        Line2D([], [], color="#999999", linewidth=0.8, linestyle=line, label=f"{model}, published")
        for model, line in lines.items()
    ]
    legend(grid.figure, styles, published, look)
    return grid.figure
