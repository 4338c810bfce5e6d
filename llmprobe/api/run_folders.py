"""Whole runs: `llmprobe run`, `compare` and `intervene` from Python, and reading their folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llmprobe.config.load import asked_to, load_config
from llmprobe.config.schema import RunConfig
from llmprobe.ground.errors import UserError
from llmprobe.reporting.trackers import log_run
from llmprobe.results.folder import read_results, whole_config
from llmprobe.results.results import Results
from llmprobe.runs.cluster import run_of
from llmprobe.runs.compare import compare as compare_folders
from llmprobe.runs.pipeline import default_out
from llmprobe.runs.report import report


def run(
    config: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    models: Sequence[str] = (),
    limit: int | None = None,
    include: Sequence[str | Path] = (),
    **columns: Any,
) -> Results:
    """Extract, probe and report, skipping what is already done::

        results = llmprobe.run("quickstart.yaml", limit=200)
        results = llmprobe.run({"models": ["smollm2-135m"], "datasets": ["capitals"], "name": "me"})
        results = llmprobe.run("my.csv", models=["smollm2-135m"], text="statement")

    Parameters
    ----------
    config
        A YAML file, the name of a shipped one, a mapping; or, with ``models``, a dataset.
    out
        The run's folder; by default ``runs/<name>``.
    models
        The models to probe on a dataset: known names, Hub ids or folders.
    limit
        The most examples of each dataset.
    include
        Folders with datasets of your own (.yaml, .py).
    **columns
        Keys of a dataset's mapping, such as ``text``, ``label`` and ``group``.

    Raises
    ------
    UserError
        The config is wrong, a model or dataset is not available, or another process works in the
        folder.
    """
    return _results(load_config(config, (), limit, include, models, columns), out)


def load_run(folder: str | Path) -> Results:
    """Read the results in a run's folder; ``load_probe`` reads its probes.

    Raises
    ------
    UserError
        It is not a run folder, or its results or its summary are missing or damaged.
    """
    return read_results(Path(folder))


def compare(
    runs: Sequence[str | Path | Results], *, out: str | Path | None = None, anyway: bool = False
) -> Results:
    """Compare runs; ``.differences`` has the differences of their curves on the same examples.

    Parameters
    ----------
    runs
        Folders, or what ``run`` and ``load_run`` return.
    out
        A folder for the tables and the page of the comparison; by default nothing is written.
    anyway
        Whether to compare runs of different examples, folds, positions or probes too, with a note.

    Raises
    ------
    UserError
        There are fewer than two runs, the curves are not comparable, or ``out`` holds something
        other than a comparison.
    """
    folders = [_folder(one) for one in runs]
    if out is None:
        with TemporaryDirectory() as folder:
            compare_folders(folders, Path(folder), anyway=anyway)
            return replace(read_results(Path(folder)), folder=Path())
    compare_folders(folders, Path(out), anyway=anyway)
    report(Path(out))
    return read_results(Path(out))


def intervene(
    run: str | Path | Mapping[str, Any] | Results,
    *,
    out: str | Path | None = None,
    limit: int | None = None,
    **options: Any,
) -> Results:
    """Change states along each probe's direction, and measure in ``.interventions`` what they do.

    Parameters
    ----------
    run
        A run's folder, what ``run`` returned, or a config. What is missing of it is done first.
    out
        The run's folder; by default the given one, or ``runs/<name>`` of a config.
    limit
        The most examples of each dataset.
    **options
        Keys of a config's ``intervene`` section: layers, null, n.

    Raises
    ------
    UserError
        An option is wrong, no dataset has a question with answers, or the model cannot be run from
        changed states.
    """
    if isinstance(run, Results) or (isinstance(run, str | Path) and Path(run).is_dir()):
        folder = _folder(run)
        run, out = whole_config(folder), out or folder
    return _results(asked_to(load_config(run, (), limit), "intervene", **options), out)


def _results(config: RunConfig, out: str | Path | None) -> Results:
    """Do a run, write its report, and return its results."""
    folder = default_out(config) if out is None else Path(out)
    results = run_of(config, folder).probe(extract=True)
    report(folder)
    log_run(folder, config.report.log_to)
    return results


def _folder(run: str | Path | Results) -> Path:
    """Return the folder of a run; raise ``UserError`` if it has none."""
    if not isinstance(run, Results):
        return Path(run)
    if run.folder == Path():
        raise UserError(
            "these results are of no run folder; give what llmprobe.run or llmprobe.load_run "
            "returns, or put them together with Results.concatenate"
        )
    return run.folder
