"""A run's folder on disk: tables and probes, and the config and environment they came from."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pandas as pd
import pyarrow

from llmprobe.config.schema import RunConfig, file_name
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import disk_is_full, whole_file, write_text
from llmprobe.probing.tables import RESULT_COLUMNS, SUMMARY_COLUMNS
from llmprobe.results.results import Results
from llmprobe.results.saved_probe import load_probe

TABLES = ("results", "summary", "predictions")
CURVE = "learning_curve"
"""The table that a run has only where it was asked for."""
EXAMPLES = "examples"
"""The table of what predictions are about."""
PROBES, FOLD0_PROBES = "probes.safetensors", "blind_probes.safetensors"
COLUMNS: Mapping[str, Sequence[str]] = {
    "results": RESULT_COLUMNS,
    "summary": SUMMARY_COLUMNS,
    "predictions": "model dataset layer example fold label predicted score".split(),
    CURVE: "model dataset layer fraction accuracy r2".split(),
    EXAMPLES: "dataset example text label group fields".split(),
}
"""What a table of this version has, at least."""
ESSENTIAL = {"results": "layer", "summary": "peak_layer"}
"""A column without which there is nothing to show."""


@dataclass(frozen=True)
class Part:
    """The results of one model on one dataset, in a folder named by all that they depend on."""

    folder: Path

    def load(self) -> Results | None:
        """The results, if they are there, whole and readable."""
        try:
            table, summary, predictions, learning_curve = (
                read_table(self.folder / f"{name}.parquet") for name in (*TABLES, CURVE)
            )
            probes, fold0_probes = (
                (load_probe(self.folder / name),) for name in (PROBES, FOLD0_PROBES)
            )
        except UserError:
            return None
        return Results(table, summary, predictions, learning_curve, probes, fold0_probes)

    def save(self, results: Results) -> None:
        """Write probes and tables; without any of them the part does not count."""
        results.probes[0].save(self.folder / PROBES)
        results.fold0_probes[0].save(self.folder / FOLD0_PROBES)
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
    out: Path,
    results: Results,
    config: str,
    environment: Mapping[str, Any],
    datasets: Sequence[ConceptDataset] = (),
) -> None:
    """Write tables and probes, and what they came from, in place of those of an earlier config.

    Parameters
    ----------
    config
        The resolved config, as YAML.
    environment
        What the results may depend on beside it: versions and hardware, ``models`` (a mapping for
        each) and ``datasets``.
    datasets
        Whose examples the predictions are about, where those are texts.
    """
    write_text(out / "config.yaml", config)
    write_text(out / "environment.json", json.dumps(environment, indent=2))
    for name, table in [*_tables(results), (EXAMPLES, _examples(datasets))]:
        if table.empty:  # One may be left of another config.
            for path in out.glob(f"{name}.*"):
                path.unlink()
            continue
        with whole_file(out / f"{name}.parquet") as partial:
            table.to_parquet(partial, index=False)
        if name not in ("predictions", EXAMPLES):
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


@dataclass(frozen=True)
class RunTables:
    """What can be read of a run folder."""

    out: Path
    results: pd.DataFrame
    summary: pd.DataFrame
    predictions: pd.DataFrame
    """Empty, as are the next two, where it is missing or damaged."""
    examples: pd.DataFrame
    learning_curve: pd.DataFrame
    environment: dict[str, Any]
    """Versions and hardware; ``models`` and ``datasets``, lists of mappings."""
    config: str
    """YAML"""
    notes: tuple[str, ...]
    """What is missing, damaged or of another version, a sentence each."""


def read_run(out: Path, details: bool = True) -> RunTables:
    """Whatever a run folder has to show.

    A table that is damaged is read from its CSV file; columns that another version did not write
    are NaN.

    Parameters
    ----------
    details
        Whether to read more than results and summary; without, the other tables are empty.

    Raises
    ------
    UserError
        It is not a run folder, or it has no readable results.
    """
    notes: list[str] = []
    require_run(out)
    results, summary = (_salvaged(out, name, notes) for name in TABLES[:2])
    results, summary = _of_both(out, results, summary, notes)
    of_examples = {
        name: _detail(out / f"{name}.parquet", details, notes)
        for name in ("predictions", EXAMPLES, CURVE)
    }
    predictions, examples, learning_curve = of_examples.values()
    if len(predictions) and "along" not in predictions:
        notes.append(
            f"{out}: an earlier version of llmprobe made it, so where its examples lie beside the "
            "probes is not known; run the config again to see them"
        )
    try:
        environment = read_environment(out)
    except UserError as error:
        notes.append(str(error))
        environment = {"models": [], "datasets": []}
    path, config = out / "config.yaml", ""
    if path.is_file():
        config = path.read_text(encoding="utf-8", errors="replace")
    else:
        notes.append(f"{path}: missing, so what the run was asked for is not known")
    return RunTables(
        out, results, summary, predictions, examples, learning_curve, environment, config,
        tuple(notes),
    )  # fmt: skip


def lacks(run: RunTables, config: RunConfig) -> Iterator[str]:
    """What the config asks for and the tables lack, a sentence each."""
    wanted = [
        (model.name, dataset.title) for model, dataset in product(config.models, config.datasets)
    ]
    found = set(zip(run.summary["model"], run.summary["dataset"], strict=True))
    missing = [" on ".join(pair) for pair in wanted if pair not in found]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        yield (
            f"{run.out}: not finished: of {len(wanted)} curves, it lacks {missing[0]}{more}; run "
            "the config again to go on"
        )
    for name, asked, shown in (
        (EXAMPLES, True, "the texts of the examples are not shown"),
        (CURVE, bool(config.probe.learning_curve), "learning curves are not shown"),
    ):
        path = run.out / f"{name}.parquet"
        if asked and not path.exists():
            yield f"{path}: missing, so {shown}; run the config again"


def require_run(out: Path) -> None:
    """Raise ``UserError`` unless it is a folder with a config or with results."""
    if not out.is_dir():
        what = "it is a file" if out.exists() else "there is no such folder"
    elif not any(out.iterdir()):
        what = "the folder is empty"
    elif not any((out / name).is_file() for name in ("config.yaml", *_files_of("results"))):
        what = "it has no config.yaml"
        if (out / "parts").is_dir():
            what += ", since the run was stopped before it had results; start it again to go on"
    else:
        return
    raise UserError(f"{out}: not a run folder ({what})")


def _files_of(name: str) -> tuple[str, str]:
    return f"{name}.parquet", f"{name}.csv"


def _detail(path: Path, wanted: bool, notes: list[str]) -> pd.DataFrame:
    """A table that a page can do without; why it is empty goes to the notes."""
    empty = pd.DataFrame(columns=list(COLUMNS[path.stem]))
    if not wanted:
        return empty
    if not path.exists():
        if path.stem == "predictions":  # Not every run has the others.
            notes.append(
                f"{path}: missing, so what probes say of each example is not shown; run the config "
                "again"
            )
        return empty
    try:
        table = read_table(path)
        if not _is_whole(table, path.stem):
            raise _damaged(path, "rows are missing, or are there twice")
    except UserError as error:
        notes.append(str(error))
        return empty
    return table


def _is_whole(table: pd.DataFrame, name: str) -> bool:
    """Whether each example of a dataset is there once, or once for each layer of a curve."""
    if name == EXAMPLES:
        keys = table[["dataset", "example"]]
        return not keys.isna().to_numpy().any() and not keys.duplicated().any()
    if name == "predictions":
        curve = ["model", "dataset"]
        n = table.groupby([*curve, "layer"]).size()
        of_layer, examples = n.groupby(curve), table.groupby(curve)["example"].nunique()
        even = (of_layer.min() == examples) & (of_layer.max() == examples)
        return bool(n.sum() == len(table) and even.all())
    return True


def _of_both(
    out: Path, results: pd.DataFrame, summary: pd.DataFrame, notes: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of those pairs of a model and a dataset that both tables have."""
    pairs = [pd.MultiIndex.from_frame(table[["model", "dataset"]]) for table in (results, summary)]
    kept = [one.isin(other) for one, other in (pairs, reversed(pairs))]
    if all(rows.all() for rows in kept):
        return results, summary
    files = f"{out}: its results and its summary are not of the same run"
    if not kept[0].any():
        raise UserError(f"{files}; run the config again")
    notes.append(f"{files}; shown is what both of them have")
    return results[kept[0]], summary[kept[1]]


def _salvaged(out: Path, name: str, notes: list[str]) -> pd.DataFrame:
    """Results or summary, from whichever file can be read; what is wrong goes to the notes."""
    path = out / f"{name}.parquet"
    try:
        return read_table(path)
    except UserError as error:
        first = error
    for file in _files_of(name):
        try:
            table = _read_csv(out / file) if file.endswith("csv") else pd.read_parquet(out / file)
        except (OSError, ValueError, pyarrow.ArrowException):
            continue
        if table.empty or not {"model", "dataset", ESSENTIAL[name]} <= set(table.columns):
            continue
        wrong = first if path.exists() else f"{path}: missing"
        notes.append(f"{wrong}; shown is what {file} holds")
        absent = [column for column in COLUMNS[name] if column not in table]
        return table.assign(**dict.fromkeys(absent, np.nan))
    raise first


def _read_csv(path: Path) -> pd.DataFrame:
    names = dict.fromkeys(("model", "dataset", "site", "position", "probe", "layer_name"), str)
    table = pd.read_csv(path, dtype=names, keep_default_na=False, na_values=[""])
    return table.fillna({"site": "", "position": ""})


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
        raise UserError(
            f"{path}: missing; the run has no results yet, and the command that started it goes on "
            "from where it was stopped"
        ) from None
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
    """What the results of a run folder may depend on beside the config; ``models`` and
    ``datasets`` are lists of mappings.

    Raises
    ------
    UserError
        It is missing or damaged.
    """
    path = out / "environment.json"
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for kind, given in (("models", facts["models"]), ("datasets", facts.get("datasets", []))):
            facts[kind] = [{**thing, "name": str(thing["name"])} for thing in given]
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


def _tables(results: Results) -> list[tuple[str, pd.DataFrame]]:
    tables = (results.table, results.summary, results.predictions, results.learning_curve)
    return list(zip((*TABLES, CURVE), tables, strict=True))


def _examples(datasets: Sequence[ConceptDataset]) -> pd.DataFrame:
    """A row for each example; labels and groups as text, as in the predictions."""
    tables = [pd.DataFrame(columns=list(COLUMNS[EXAMPLES]))]
    for dataset in datasets:
        fields = dataset.fields.astype(str).where(dataset.fields.notna(), "")
        records = fields.to_dict("records") or [{}] * len(dataset)
        tables.append(
            pd.DataFrame(
                {
                    "dataset": dataset.name,
                    "example": np.arange(len(dataset)),
                    "text": dataset.texts,
                    "label": dataset.labels.astype(str),
                    "group": None if dataset.groups is None else dataset.groups.astype(str),
                    "fields": [json.dumps(record, ensure_ascii=False) for record in records],
                }
            )
        )
    return pd.concat(tables[1:] or tables, ignore_index=True)


def _damaged(path: Path, reason: Exception | str) -> UserError:
    said = (str(reason).strip().splitlines() or ["empty"])[0]
    said = said.removeprefix(f"Could not open Parquet input source '{path}': ")
    return UserError(f"{path}: missing or damaged ({said}); run the config again")
