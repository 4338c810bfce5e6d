"""Figures, page and terminal text of any run folder: a run, a comparison, an experiment."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmprobe.config.load import load_config, parsed_yaml
from llmprobe.ground.errors import UserError
from llmprobe.ground.lease import lease
from llmprobe.ground.registry import Registry
from llmprobe.reporting.description import Description
from llmprobe.results.differences import differences
from llmprobe.results.figures import draw_figures
from llmprobe.results.folder import (
    missing_curves,
    read_results,
    refresh_evidence,
    require_run,
    whole_config,
)
from llmprobe.results.results import Results
from llmprobe.results.trace import traces_of_run
from llmprobe.runs.wordings import wordings

if TYPE_CHECKING:
    from rich.text import Text

log = logging.getLogger(__name__)

RUN = "run"


@dataclass(frozen=True)
class FolderKind:
    """A kind of run folder: how the report and the terminal show it."""

    describe: Callable[[Results], Description]
    text: Callable[[Results, int, bool], Text]
    """Makes the terminal text of tables without details, for a width and with Unicode or not."""


FOLDER_KINDS: Registry[FolderKind] = Registry(
    "kind of run folder", homes=["llmprobe.runs.compare", "llmprobe.sanity.experiments"]
)
"""The kinds by the key that marks them in config.yaml; ``run`` is the kind without such a key."""


def kind_of(out: Path) -> str:
    """Return the key of ``FOLDER_KINDS`` for a folder; ``run`` if its config cannot be read."""
    try:
        config = parsed_yaml(out / "config.yaml")
    except UserError:
        return RUN
    return next((kind for kind in FOLDER_KINDS if isinstance(config, dict) and kind in config), RUN)


def report(out: Path) -> list[Path]:
    """Draw the figures and the page of a run folder of any kind. -> the files written, page last

    ``evidence.json`` is written again if it does not agree with the tables. Figures of an earlier
    report are removed. Missing and damaged files are named in warnings and on the page.

    Raises
    ------
    UserError
        ``out`` is not a run folder, nothing in it can be shown, or another process works there.
    """
    require_run(out)
    with lease(out):
        return _report(out)


def _report(out: Path) -> list[Path]:
    from llmprobe.reporting.charts.style import write_all
    from llmprobe.reporting.page.page import write_report

    run = read_results(out)
    for note in run.notes:
        log.warning("%s", note)
    refresh_evidence(out, run)
    about = FOLDER_KINDS[kind_of(out)].describe(run)
    figures = draw_figures(run)
    own = {name: figure for name, (figure, _, _) in about.illustrations.items()}
    written = write_all(figures | own, out / "figures")
    _remove_other_figures(out / "figures", written)
    if not about.page:
        (out / "report.html").unlink(missing_ok=True)
        return written
    run = replace(run, notes=(*run.notes, *about.notes))
    page = write_report(out / "report.html", run, figures, about)
    return [*written, page]


def terminal_text(out: Path, width: int = 100, unicode: bool = True) -> Text:
    """Return the results in a run folder of any kind, in a few lines for the terminal.

    Raises
    ------
    UserError
        ``out`` is not a run folder, or nothing in it can be shown.
    """
    return FOLDER_KINDS[kind_of(out)].text(read_results(out, details=False), width, unicode)


def summary_text(run: Results, width: int, unicode: bool) -> Text:
    """Return the best layer of each model on each dataset, and the transfer matrices."""
    from rich.text import Text

    from llmprobe.reporting.terminal import summary_lines
    from llmprobe.reporting.terminal_transfer import transfer_lines

    models = run.environment["models"]
    lines = summary_lines(run.curves, run.evidence, models, width=width, unicode=unicode)
    if run.transfer_matrix is not None:
        lines += [Text(), Text("Elsewhere, in units that no probe has seen"), Text()]
        lines += transfer_lines(run.transfer_matrix.table, width, unicode)
    return Text("\n").join(lines)


def _remove_other_figures(folder: Path, written: Sequence[Path]) -> None:
    """Remove the figures that an earlier report drew: .png files with an .svg beside them."""
    for picture in sorted(folder.glob("*.png")):
        both = picture, picture.with_suffix(".svg")
        if picture not in written and both[1].is_file():
            for path in both:
                path.unlink()


def _describe_run(run: Results) -> Description:
    from llmprobe.reporting.page.compared import Compared

    out, path, config = run.folder, run.folder / "config.yaml", None
    notes: list[str] = []
    try:
        if path.is_file():
            config = load_config(whole_config(out))
            notes += missing_curves(run, config)
    except UserError as error:
        notes.append("; ".join(str(error).splitlines()))
    notes = [note for note in notes if note not in run.notes]
    for note in notes:
        log.warning("%s", note)
    datasets = [] if config is None else config.datasets
    same = wordings((dataset.title, dataset.model_dump(mode="json")) for dataset in datasets)
    return Description(
        title=out.resolve().name if config is None else config.name,
        command=shlex.join(["llmprobe", "run", str(path), "--out", str(out)]),
        compared=Compared(differences(run, same)),
        traces=traces_of_run(out),
        notes=notes,
        page=config is None or config.report.html,
    )


FOLDER_KINDS.add(RUN, FolderKind(_describe_run, summary_text))
