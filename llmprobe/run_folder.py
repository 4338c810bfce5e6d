"""A run's folder on disk: tables and probes, and the config and environment they came from."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pandas as pd
import pyarrow

from llmprobe.config import file_name
from llmprobe.errors import UserError
from llmprobe.files import disk_is_full, whole_file, write_text
from llmprobe.probing.protocol import ProbeResults
from llmprobe.probing.saved import load_probe
from llmprobe.probing.tables import RESULT_COLUMNS, SUMMARY_COLUMNS

TABLES = ("results", "summary", "predictions")
CURVE = "learning_curve"
"""The table that a run has only where it was asked for."""
PROBES = "probes.safetensors"
COLUMNS: Mapping[str, Sequence[str]] = {
    "results": RESULT_COLUMNS,
    "summary": SUMMARY_COLUMNS,
    "predictions": "model dataset layer example fold label predicted score".split(),
    CURVE: "model dataset layer fraction accuracy r2".split(),
}
"""What a table of this version has, at least."""


@dataclass(frozen=True)
class Part:
    """The results of one model on one dataset, in a folder named by all that they depend on."""

    folder: Path

    def load(self) -> ProbeResults | None:
        """The results, if they are there, whole and readable."""
        try:
            table, summary, predictions, learning_curve = (
                read_table(self.folder / f"{name}.parquet") for name in (*TABLES, CURVE)
            )
            probes = (load_probe(self.folder / PROBES),)
        except UserError:
            return None
        return ProbeResults(table, summary, predictions, learning_curve, probes)

    def save(self, results: ProbeResults) -> None:
        """Write probes and tables; without any of them the part does not count."""
        results.probes[0].save(self.folder / PROBES)
        for name, table in _tables(results):
            with whole_file(self.folder / f"{name}.parquet") as partial:
                table.to_parquet(partial, index=False)


def claim(out: Path) -> None:
    """Make the folder, and find out that it cannot be written before hours of work, not after.

    Raises
    ------
    UserError
        It cannot be made or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            pass
    except OSError as error:
        if disk_is_full(error):
            raise
        reason = "it is a file" if out.is_file() else error.strerror
        raise UserError(f"--out {out}: cannot be written: {reason}") from None


def write_results(
    out: Path, results: ProbeResults, config: str, environment: Mapping[str, Any]
) -> None:
    """Write tables and probes, and what they came from, in place of those of an earlier config.

    Parameters
    ----------
    config
        The resolved config, as YAML.
    environment
        What the results may depend on beside it: versions and hardware, ``models`` (a mapping for
        each) and ``datasets``.
    """
    write_text(out / "config.yaml", config)
    write_text(out / "environment.json", json.dumps(environment, indent=2))
    for name, table in _tables(results):
        if table.empty:  # One may be left of another config.
            for path in out.glob(f"{name}.*"):
                path.unlink()
            continue
        with whole_file(out / f"{name}.parquet") as partial:
            table.to_parquet(partial, index=False)
        if name != "predictions":
            write_text(out / f"{name}.csv", table.to_csv(index=False))
    probes = {
        out / "probes" / model / f"{file_name(dataset)}.safetensors": probe_of_all
        for probe_of_all in results.probes
        for model, dataset in [(probe_of_all.facts["model"], probe_of_all.facts["dataset"])]
    }
    # Like the tables, they are those of this config that are finished; parts keep the others.
    remove_others(out / "probes", "*/*.safetensors", probes)
    for path, probe_of_all in probes.items():
        probe_of_all.save(path)


def read_table(path: Path) -> pd.DataFrame:
    """A table of a run or of a part.

    Raises
    ------
    UserError
        It is missing, damaged, or of another version (it lacks one of ``COLUMNS``).
    """
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; the run has no results yet") from None
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise _damaged(path, error) from None
    absent = set(COLUMNS.get(path.stem, ())) - set(table.columns)
    if absent:
        raise UserError(
            f"{path}: has no column {min(absent)!r}, so another version of llmprobe made it; run "
            "the config again, which probes again and extracts only what is not in the cache"
        )
    return table


def read_environment(out: Path) -> dict[str, Any]:
    """What the results of a run folder may depend on beside the config; ``models`` is a list.

    Raises
    ------
    UserError
        It is missing or damaged.
    """
    path = out / "environment.json"
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        facts["models"] = [dict(model) for model in facts["models"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _damaged(path, error) from None
    return facts


def remove_others(folder: Path, pattern: str, kept: Collection[Path]) -> None:
    """Remove the files of an earlier config, and folders that are empty then."""
    for path in sorted(folder.glob(pattern)):
        if path not in kept and path.is_file():
            path.unlink()
            if path.parent != folder and not any(path.parent.iterdir()):
                path.parent.rmdir()


def _tables(results: ProbeResults) -> list[tuple[str, pd.DataFrame]]:
    tables = (results.table, results.summary, results.predictions, results.learning_curve)
    return list(zip((*TABLES, CURVE), tables, strict=True))


def _damaged(path: Path, reason: Exception | str) -> UserError:
    said = (str(reason).strip().splitlines() or ["empty"])[0]
    return UserError(f"{path}: missing or damaged ({said}); run the config again")
