"""Figures and page of a run folder, from its tables alone."""

from __future__ import annotations

import logging
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from llmprobe.config.load import load_config
from llmprobe.config.schema import RunConfig
from llmprobe.ground.errors import UserError
from llmprobe.results.differences import differences
from llmprobe.results.folder import RunTables, lacks, read_run, remove_others
from llmprobe.results.trace import traces_of_run
from llmprobe.run.wordings import wordings

if TYPE_CHECKING:
    from rich.text import Text

log = logging.getLogger(__name__)


def report(out: Path) -> list[Path]:
    """Figures and page of a run folder, from its tables. -> the files written, page last

    What is missing or damaged is said in warnings, and on the page.

    Raises
    ------
    UserError
        ``out`` is not a run folder, or nothing in it can be shown.
    """
    from llmprobe.reporting.charts.figures import draw_figures, write_all
    from llmprobe.reporting.page.compared import Compared
    from llmprobe.reporting.page.page import write_report

    run = read_run(out)
    config, wrong = _config(out)
    run = replace(run, notes=(*run.notes, *wrong, *([] if config is None else lacks(run, config))))
    for note in run.notes:
        log.warning("%s", note)
    figures = draw_figures(run.results, run.summary, run.predictions, run.learning_curve)
    written = write_all(figures, out / "figures")
    for drawn in ("heatmap_*", "projection_*", "difficulty", "size", "learning_curve"):
        for suffix in ("png", "svg"):
            remove_others(out / "figures", f"{drawn}.{suffix}", written)
    if config is not None and not config.report.html:
        (out / "report.html").unlink(missing_ok=True)
        return written
    page = write_report(
        out / "report.html",
        run,
        figures,
        compared=Compared(_differences(run, config)),
        traces=traces_of_run(out),
        title=out.resolve().name if config is None else config.name,
        command=shlex.join(["llmprobe", "run", str(out / "config.yaml"), "--out", str(out)]),
        permutations=None if config is None else config.probe.permutations,
    )
    return [*written, page]


def _differences(run: RunTables, config: RunConfig | None) -> pd.DataFrame:
    """Between the models of a run, and between wordings of its datasets."""
    datasets = [] if config is None else config.datasets
    same = wordings((dataset.title, dataset.model_dump(mode="json")) for dataset in datasets)
    return differences(run.results, run.summary, run.predictions, run.examples, same)


def _config(out: Path) -> tuple[RunConfig | None, list[str]]:
    """The config of a run folder, or what is wrong with it; neither where it is missing."""
    path = out / "config.yaml"
    try:
        return (load_config(path) if path.is_file() else None), []
    except UserError as error:
        return None, ["; ".join(str(error).splitlines())]


def terminal_summary(out: Path, width: int = 100, unicode: bool = True) -> list[Text]:
    """The summary of a run folder as the lines of a short table."""
    from llmprobe.reporting.terminal import summary_lines

    run, (config, _) = read_run(out, details=False), _config(out)
    return summary_lines(
        run.summary,
        run.results,
        run.environment["models"],
        width=width,
        unicode=unicode,
        permutations=None if config is None else config.probe.permutations,
    )
