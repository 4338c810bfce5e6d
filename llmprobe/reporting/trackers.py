"""Experiment trackers: a run's summary, figures and page, beside those of other programs."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from llmprobe.ground.errors import UserError, first_line
from llmprobe.ground.text import flatten
from llmprobe.results.folder import read_results
from llmprobe.results.results import Results

log = logging.getLogger(__name__)

_METRICS = (
    *("peak_layer", "peak_score", "peak_p_value_adjusted", "stays_above_half_depth"),
    *("majority_accuracy", "bag_of_words_accuracy", "random_weights_accuracy", "tpr_at_1_fpr"),
    *("worst_transfer_auroc", "said_auroc", "used_share", "linearity_gap"),
)
"""Columns of the summary that are a number of each curve; the table has all of them."""
_FILES = ("summary.csv", "results.csv", "evidence.json", "config.yaml", "report.html")
_LONGEST_VALUE = 500


def require_trackers(names: Sequence[str]) -> None:
    """Raise ``UserError`` if a tracker is not installed."""
    for name in names:
        spec = find_spec(name)
        # A tracker's own folder, such as ./wandb, looks like a package without a file.
        if spec is None or spec.origin is None:
            raise UserError(
                f"report.log_to: {name} is not installed: pip install 'llmprobe[{name}]'"
            )


def log_run(out: Path, names: Sequence[str]) -> None:
    """Write what a run folder holds to trackers; if one fails, a warning says so.

    Parameters
    ----------
    out
        The folder of a run that is finished and drawn.
    names
        Of ``trackio``, ``wandb`` and ``mlflow``.
    """
    for name in names:
        try:
            # Some print addresses and advice, which would hide the summary.
            with redirect_stdout(sys.stderr):
                _WRITERS[name](name, read_results(out, details=False), out)
            log.info("%s: has the summary, the figures and the page", name)
        except Exception as error:
            log.warning(
                "%s: not logged (%s); %s has all results, and the same command tries again",
                name, first_line(error), out,
            )  # fmt: skip


def metrics_of(results: Results) -> Iterator[tuple[str, float]]:
    """Yield ``MODEL/DATASET/COLUMN`` and its value for the numbers of each curve that are known."""
    for curve in results.curves:
        for column in _METRICS:
            value = curve.number(column)
            if isfinite(value):
                name = f"{curve.model}/{curve.file_name}/{column}"
                yield re.sub(r"[^\w./ -]+", "-", name), value


def _wandb(tracker: str, results: Results, out: Path) -> None:
    """Log to wandb, or to trackio, which has the same functions."""
    module: Any = import_module(tracker)
    name, parameters = _config(results, out)
    project = os.environ.get(f"{tracker.upper()}_PROJECT", "llmprobe")
    module.init(project=project, name=name, config=parameters)
    try:
        table = results.summary.dropna(axis="columns", how="all")
        logged = dict(metrics_of(results)) | {"summary": module.Table(dataframe=table)}
        for picture in sorted(out.glob("figures/*.png")):
            logged[f"figures/{picture.stem}"] = module.Image(str(picture))
        if (page := out / "report.html").is_file():
            logged["report"] = module.Html(page.read_text("utf-8"), inject=False)
        module.log(logged)
    finally:
        module.finish()


def _mlflow(_: str, results: Results, out: Path) -> None:
    mlflow: Any = import_module("mlflow")
    name, parameters = _config(results, out)
    if not {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"} & os.environ.keys():
        mlflow.set_experiment("llmprobe")
    with mlflow.start_run(run_name=name, nested=True):
        mlflow.log_params(parameters)
        for key, value in metrics_of(results):
            mlflow.log_metric(key, value)
        for file in _FILES:
            if (out / file).is_file():
                mlflow.log_artifact(str(out / file))
        if (out / "figures").is_dir():
            mlflow.log_artifacts(str(out / "figures"), "figures")


def _config(results: Results, out: Path) -> tuple[str, dict[str, str]]:
    """Return the name of a run, and the keys of its config with their values as text."""
    config = yaml.safe_load(results.config) or {}
    values = {key: str(value)[:_LONGEST_VALUE] for key, value in flatten(config)}
    return str(config.get("name") or out.name), values


_WRITERS: Mapping[str, Callable[[str, Results, Path], None]] = {
    "trackio": _wandb,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
