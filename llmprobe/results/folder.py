"""A run's folder on disk: tables and probes, and the config and environment they came from."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import product
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pandas as pd
import pyarrow

from llmprobe.config.load import parsed_yaml
from llmprobe.config.schema import RunConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.ground.digests import read_back, recorded, written_together
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import disk_is_full, write_text
from llmprobe.ground.lease import lease
from llmprobe.ground.text import listed
from llmprobe.results.columns import CURVE, columns_of, wrong_column
from llmprobe.results.curve import curve_file_name, curve_title
from llmprobe.results.results import Results
from llmprobe.results.saved_probe import load_probe
from llmprobe.results.transfer import TransferMatrix

TABLES = {
    "results": "table",
    "summary": "summary",
    "predictions": "predictions",
    "learning_curve": "learning_curve",
    "rivals": "rivals",
    "transfer": "transfer",
    "transfer_layers": "transfer_layers",
    "intervene": "interventions",
    "intervene_examples": "intervention_examples",
    "differences": "differences",
    "examples": "examples",
}
"""The file of each table, without its suffix, and the field of `Results` that holds it."""
AS_TEXT = (
    *("results", "summary", "learning_curve", "transfer", "differences"),
    *("intervene", "intervene_examples"),
)
"""Tables that are written as CSV too."""
FEW_ROWS = ("transfer", "differences")
"""Tables that are read, beside results and summary, also where details are not wanted."""
EVIDENCE = "evidence.json"
"""The answers and verdicts of all curves, for other programs. llmprobe itself always makes them
again from the tables, so that they agree."""
OF_A_PART = ("results", "summary", "predictions", "learning_curve", "rivals")
_MOST_DISTINCT = 1 << 30
"""The most bytes of distinct values of which a column of a table stores each once."""
PROBES, FOLD0_PROBES = "probes.safetensors", "blind_probes.safetensors"
MULTI_LAYER_PROBE = "multi_layer_probe.safetensors"


@dataclass(frozen=True)
class Part:
    """The results of one model on one dataset at one position.

    The name of the folder depends on all that the results depend on.
    """

    folder: Path
    """The folder, which need not exist yet."""

    def load(self) -> Results | None:
        """Read the results; None unless they are there, undamaged and of this version."""
        try:
            files = set(recorded(self.folder))
            if not {PROBES, FOLD0_PROBES, *map(_table_file, OF_A_PART)} <= files:
                return None
            tables: dict[str, Any] = {
                TABLES[name]: read_table(self.folder, name) for name in OF_A_PART
            }
            several = [MULTI_LAYER_PROBE] if tables["table"]["layers_read"].notna().any() else []
            probes = tuple(load_probe(self.folder / name) for name in (PROBES, *several))
            fold0 = (load_probe(self.folder / FOLD0_PROBES),)
        except (UserError, ValueError):
            return None
        return Results(**tables, probes=probes, fold0_probes=fold0)

    def save(self, results: Results) -> None:
        """Write probes and tables; a part that lacks any of them does not count."""
        with written_together(self.folder) as new:
            for probe, name in zip(results.probes, (PROBES, MULTI_LAYER_PROBE), strict=False):
                probe.save(new(name))
            results.fold0_probes[0].save(new(FOLD0_PROBES))
            for name in OF_A_PART:
                getattr(results, TABLES[name]).to_parquet(new(_table_file(name)), index=False)


def require_writable_folder(out: Path) -> None:
    """Make a folder, and check that it can be written before hours of work are lost.

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


@contextmanager
def claimed(out: Path, tidy: bool = True) -> Iterator[None]:
    """Make a folder, and hold its lease during the block.

    Parameters
    ----------
    tidy
        As in ``lease``.

    Raises
    ------
    UserError
        It cannot be made or written, or another process works there.
    """
    require_writable_folder(out)
    with lease(out, tidy=tidy):
        yield


def write_results(out: Path, results: Results) -> None:
    """Write all that results hold into a folder, in place of those of an earlier config."""
    with written_together(out) as new:
        write_text(new("config.yaml"), results.config)
        write_text(new("environment.json"), json.dumps(results.environment, indent=2))
        write_text(new(EVIDENCE), evidence_text(results))
        for name, field in TABLES.items():
            table: pd.DataFrame = getattr(results, field)
            if table.empty:  # A file may be left of another config.
                for path in out.glob(f"{name}.*"):
                    path.unlink()
                continue
            # Concepts of one dataset have the same texts, each of which is then stored once.
            table.to_parquet(
                new(_table_file(name)), index=False, dictionary_pagesize_limit=_MOST_DISTINCT
            )
            if name in AS_TEXT:
                write_text(out / f"{name}.csv", table.to_csv(index=False))
        names = {curve.key: curve.file_name for curve in results.curves}
        probes = {}
        for probe in results.probes:
            model, dataset, position = (str(probe.facts[name]) for name in CURVE)
            named = results.class_names(dataset)
            facts = {**probe.facts, "class_names": named} if named else probe.facts
            curve = names[model, dataset, position] + ("@multi-layer" if probe.reads else "")
            probes[_probe_path(out, model, curve)] = replace(probe, facts=facts)
        # Like the tables, these are the finished probes of this config; parts keep the others.
        remove_others(out / "probes", "*/*.safetensors", probes)
        for path, probe in probes.items():
            probe.save(new(path.relative_to(out).as_posix()))


def add_transfer(out: Path, matrix: TransferMatrix, config: str) -> None:
    """Write the tables of a transfer into a folder, and update its summary and evidence.

    Parameters
    ----------
    config
        The config of the folder, which asks for the transfer.

    Raises
    ------
    UserError
        The results of the folder are damaged.
    """
    has_results = (out / _table_file("results")).exists()
    results = read_results(out, details=False) if has_results else None
    tables = {"transfer": matrix.table, "transfer_layers": matrix.layers}
    with written_together(out) as new:
        write_text(new("config.yaml"), config)
        if results is not None:
            results = results.with_transfer(matrix)
            tables["summary"] = results.summary
            write_text(new(EVIDENCE), evidence_text(results))
        for name, table in tables.items():
            table.to_parquet(new(_table_file(name)), index=False)
            if name in AS_TEXT:
                write_text(out / f"{name}.csv", table.to_csv(index=False))


def evidence_text(results: Results) -> str:
    """Return evidence.json: the verdict on each curve, and the answers that it is written from."""
    entries = [evidence.as_json() for evidence in results.evidence]
    return json.dumps(entries, indent=1, ensure_ascii=False, allow_nan=False)


def refresh_evidence(out: Path, results: Results) -> None:
    """Write evidence.json into a folder again, unless it agrees with the tables already."""
    text = evidence_text(results)
    try:
        if read_back(out / EVIDENCE).decode("utf-8") == text:
            return
    except (OSError, ValueError):
        pass
    with written_together(out) as new:
        write_text(new(EVIDENCE), text)


def read_results(out: Path, details: bool = True) -> Results:
    """Read the folder of a run, a comparison or an experiment; probes are left where they are.

    If other tables than results and summary are missing or damaged, they are empty and a note says
    so. Columns that an earlier version did not write are NaN.

    Parameters
    ----------
    details
        Whether to read more than results, summary, transfer and differences; otherwise the other
        tables are empty.

    Raises
    ------
    UserError
        It is not a run folder, or its results or its summary are missing or damaged.
    """
    notes: list[str] = []
    require_run(out)
    table, summary = (read_table(out, name, any_version=True) for name in ("results", "summary"))
    written = [set(rows) for rows in (table, summary)]
    table, summary = _completed(out, table, summary)
    tables: dict[str, Any] = {
        field: _detail(out, name, details or name in FEW_ROWS, table, notes)
        for name, field in TABLES.items()
        if name not in ("results", "summary")
    }
    predictions = tables["predictions"]
    written.append(set(predictions))
    absent = {
        column
        for name, known, rows in zip(
            ("results", "summary", "predictions"),
            written,
            (table, summary, predictions),
            strict=True,
        )
        for column in set(columns_of(name)) - known
        if column not in rows or rows[column].isna().all()
    }
    if absent:
        verb = "is" if len(absent) == 1 else "are"
        first, *others = sorted(absent)
        columns = listed([first, *others] if len(others) < 4 else [first, f"{len(others)} more"])
        notes.append(
            f"{out}: another version of llmprobe made it, so {columns} {verb} not "
            "known; run the config again, which extracts only what is not in the cache"
        )
    table, summary = _of_both(out, table, summary, notes)
    try:
        environment = read_environment(out)
    except UserError as error:
        notes.append(str(error))
        environment = {"models": [], "datasets": []}
    try:
        read_back(out / EVIDENCE)
    except FileNotFoundError:
        pass  # An earlier version wrote none.
    except (OSError, ValueError) as error:
        notes.append(
            f"{out / EVIDENCE}: damaged ({error}); `llmprobe report {out}` makes it again from the "
            "tables"
        )
    path, config = out / "config.yaml", ""
    try:
        config = whole_config(out).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        notes.append(f"{path}: missing, so what the run was asked for is not known")
    except UserError as error:
        notes.append(str(error))
    return Results(
        table,
        summary,
        **tables,
        environment=environment,
        config=config,
        notes=tuple(notes),
        folder=out,
    )


def missing_curves(results: Results, config: RunConfig) -> Iterator[str]:
    """Yield a sentence for each thing that the config of a run folder asks for and it lacks."""
    folder = results.folder
    positions = config.positions
    wanted = [
        (source.name, dataset.title, position)
        for source, dataset, position in product(config.sources, config.datasets, positions)
    ]
    finished = set(zip(*(results.summary[name] for name in CURVE), strict=True))
    # The config does not list the concepts of a dataset; each is called DATASET:CONCEPT.
    finished |= {(model, name.partition(":")[0], place) for model, name, place in finished}
    missing = [
        f"{model} on {curve_title(dataset, position if len(positions) > 1 else '')}"
        for model, dataset, position in wanted
        if (model, dataset, position) not in finished
    ]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        yield (
            f"{folder}: not finished: of {len(wanted)} curves, it lacks {missing[0]}{more}; run "
            "the config again to go on"
        )
    for name, asked, shown in (
        ("examples", True, "the texts of the examples are not shown"),
        ("learning_curve", bool(config.probe.learning_curve), "learning curves are not shown"),
    ):
        path = folder / _table_file(name)
        if asked and not path.exists():
            yield f"{path}: missing, so {shown}; run the config again"


def require_run(out: Path) -> None:
    """Raise ``UserError`` unless a folder has a config or results."""
    if not out.is_dir():
        what = "it is a file" if out.exists() else "there is no such folder"
    elif not any(out.iterdir()):
        what = "the folder is empty"
    elif not any((out / name).is_file() for name in ("config.yaml", "results.parquet")):
        what = "it has no config.yaml"
        if (out / "parts").is_dir():
            what += ", since the run was stopped before it had results; start it again to go on"
    else:
        return
    raise UserError(f"{out}: not a run folder ({what})")


def read_table(folder: Path, name: str, any_version: bool = False) -> pd.DataFrame:
    """Read a table of a run or of a part.

    Parameters
    ----------
    any_version
        Whether it may lack columns that this version writes.

    Raises
    ------
    UserError
        It is missing, damaged, or of another version.
    """
    path = folder / _table_file(name)
    try:
        table = pd.read_parquet(BytesIO(read_back(path)))
    except FileNotFoundError:
        raise UserError(
            f"{path}: missing; the run has no results yet, and the command that started it goes on "
            "from where it was stopped"
        ) from None
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise _damaged(path, error) from None
    wrong = wrong_column(table, name)
    if wrong is not None:
        raise _damaged(path, f"its column {wrong!r:.40} has values of a wrong type")
    absent = set(columns_of(name)) - set(table.columns)
    if absent and not any_version:
        raise UserError(
            f"{path}: has no column {min(absent)!r}, so another version of llmprobe made it; run "
            "the config again, which probes again and extracts only what is not in the cache"
        )
    return table


def whole_config(out: Path) -> Path:
    """Return the path of the config of a run folder, which may be missing but not damaged.

    Raises
    ------
    UserError
        It is not as it was written.
    """
    path = out / "config.yaml"
    try:
        read_back(path)
    except ValueError as error:
        raise _damaged(path, error) from None
    except OSError:
        pass  # The caller, who reads it, reports that it is missing.
    return path


def read_environment(out: Path) -> dict[str, Any]:
    """Read what the results of a run folder may depend on besides the config.

    ``models`` and ``datasets`` are lists of mappings with a ``name``.

    Raises
    ------
    UserError
        It is missing or damaged.
    """
    path = out / "environment.json"
    try:
        facts: dict[str, Any] = json.loads(read_back(path))
        for kind, things in (("models", facts["models"]), ("datasets", facts.get("datasets", []))):
            facts[kind] = [{**thing, "name": str(thing["name"])} for thing in things]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise _damaged(path, error) from None
    return facts


def remove_others(folder: Path, pattern: str, kept: Collection[Path]) -> None:
    """Remove files of an earlier config, all but ``kept``, and folders that become empty."""
    for path in sorted(folder.glob(pattern)):
        if path not in kept and path.is_file():
            path.unlink()
            if path.parent != folder and not any(path.parent.iterdir()):
                path.parent.rmdir()


def examples_of(datasets: Sequence[ConceptDataset]) -> pd.DataFrame:
    """Return a row for each example of some datasets; labels and groups as text."""
    tables = [pd.DataFrame(columns=columns_of("examples"))]
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


def _table_file(name: str) -> str:
    return f"{name}.parquet"


def _completed(
    out: Path, table: pd.DataFrame, summary: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Add the columns that an earlier version did not write, with what is known of them."""
    table = table if "position" in table else table.assign(position="")
    summary = _with_position(summary, table)
    more = [column for column in columns_of("results") if column not in table]
    table = table.reindex(columns=[*table, *more])
    if "main_score" in more:
        table["main_score"] = np.where(table["accuracy"].isna() & table["r2"].notna(),
                                       "r2", "accuracy")  # fmt: skip
    more = [column for column in columns_of("summary") if column not in summary]
    summary = summary.reindex(columns=[*summary, *more])
    if "main_score" in more:
        is_number = summary["peak_accuracy"].isna() & summary["peak_r2"].notna()
        summary["main_score"] = np.where(is_number, "r2", "accuracy")
        summary["peak_score"] = summary["peak_accuracy"].fillna(summary["peak_r2"])
    if "permutations" in more:
        table["permutations"] = summary["permutations"] = _permutations(out)
    if "classes" in more:
        curves = zip(summary["model"], map(curve_file_name, summary["dataset"]), strict=True)
        summary["classes"] = [_classes(_probe_path(out, *curve)) for curve in curves]
    return table, summary


def _with_position(rows: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    """Add the position of the results to a table of an earlier version that has none."""
    if "position" in rows:
        return rows
    curve = ["model", "dataset"]
    known = results.drop_duplicates(curve).set_index(curve)["position"]
    of_rows = known.reindex(pd.MultiIndex.from_frame(rows[curve])).fillna("")
    return rows.assign(position=of_rows.to_numpy())


def _permutations(out: Path) -> float:
    """Return how many shuffles of labels the config of a run asks for, NaN where it has none."""
    try:
        return float(parsed_yaml(out / "config.yaml")["probe"]["permutations"])
    except (UserError, LookupError, TypeError, ValueError):
        return np.nan


def _classes(probe: Path) -> str | float:
    """Return the classes of a saved probe as the summary has them, NaN where it cannot be read."""
    try:
        classes = [str(name) for name in load_probe(probe).classes]
    except UserError:
        return np.nan
    return json.dumps(classes) if classes else ""


def _probe_path(out: Path, model: str, curve: str) -> Path:
    return out / "probes" / model / f"{curve}.safetensors"


def _detail(
    out: Path, name: str, wanted: bool, results: pd.DataFrame, notes: list[str]
) -> pd.DataFrame:
    """Read a table that a page can do without; if it is empty, a note says why."""
    empty = pd.DataFrame(columns=columns_of(name))
    path = out / _table_file(name)
    if not wanted:
        return empty
    if not path.exists():
        if name == "predictions":  # Not every run has the others.
            notes.append(
                f"{path}: missing, so what probes say of each example is not shown; run the config "
                "again"
            )
        return empty
    try:
        table = read_table(out, name, any_version=True)
        if name == "predictions" and "repeat" not in table:
            table["repeat"] = 0
        if name == "differences":  # Columns that an earlier version did not write are empty.
            table = table.reindex(columns=columns_of(name))
        if "model" in table:  # Examples belong to no curve.
            table = _with_position(table, results)
        if not _is_whole(table, name):
            raise _damaged(path, "rows are missing, or are there twice")
    except UserError as error:
        notes.append(str(error))
        return empty
    return table


def _is_whole(table: pd.DataFrame, name: str) -> bool:
    """Whether each example of a dataset is there once, or once for each layer of a curve."""
    if name == "examples":
        keys = table[["dataset", "example"]]
        return not keys.isna().to_numpy().any() and not keys.duplicated().any()
    if name == "predictions":
        curve = list(CURVE)
        n = table.groupby([*curve, "repeat", "layer"]).size()
        of_layer, examples = n.groupby(curve), table.groupby(curve)["example"].nunique()
        even = (of_layer.min() == examples) & (of_layer.max() == examples)
        return bool(n.sum() == len(table) and even.all())
    return True


def _of_both(
    out: Path, table: pd.DataFrame, summary: pd.DataFrame, notes: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep the rows of the curves that both tables have."""
    pairs = [pd.MultiIndex.from_frame(rows[list(CURVE)]) for rows in (table, summary)]
    kept = [one.isin(other) for one, other in (pairs, reversed(pairs))]
    if all(rows.all() for rows in kept):
        return table, summary
    files = f"{out}: its results and its summary are not of the same run"
    if not kept[0].any():
        raise UserError(f"{files}; run the config again")
    notes.append(f"{files}; only what both of them have is shown")
    return table[kept[0]], summary[kept[1]]


def _damaged(path: Path, reason: Exception | str) -> UserError:
    first_line = (str(reason).strip().splitlines() or ["empty"])[0]
    first_line = first_line.removeprefix(f"Could not open Parquet input source '{path}': ")
    return UserError(f"{path}: missing or damaged ({first_line}); run the config again")
