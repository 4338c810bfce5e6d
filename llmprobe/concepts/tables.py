"""Datasets from the user's own files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow

from llmprobe.concepts.dataset import ConceptDataset
from llmprobe.config import TABLE_SUFFIXES, DatasetConfig
from llmprobe.errors import UserError, suggestion


def read_table(path: Path) -> pd.DataFrame:
    """A .csv, .tsv, .jsonl or .parquet file; ``UserError`` says what is wrong with it."""
    if path.suffix not in TABLE_SUFFIXES:
        raise UserError(f"{path}: cannot read {path.suffix or 'this'} files; "
                        f"known: {', '.join(TABLE_SUFFIXES)}")  # fmt: skip
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        elif path.suffix == ".jsonl":
            table = _read_json_lines(path)
        else:
            separator = "\t" if path.suffix == ".tsv" else ","
            # Texts such as "None" or "NA" are texts; only an empty cell is a missing value.
            table = pd.read_csv(
                path, sep=separator, keep_default_na=False, na_values=[""], encoding="utf-8-sig"
            )
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except pd.errors.EmptyDataError:
        raise UserError(f"{path}: the file is empty") from None
    except (pd.errors.ParserError, ValueError, pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read: {str(error).strip().splitlines()[0]}") from None
    if table.empty:
        raise UserError(f"{path}: no rows below the header")
    return table


def _read_json_lines(path: Path) -> pd.DataFrame:
    rows = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}: line {number} is not JSON: {error.msg}") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}: line {number} is not a JSON object")
            rows.append(row)
    if not rows:
        raise UserError(f"{path}: the file is empty")
    return pd.DataFrame(rows)


def dataset_from_table(table: pd.DataFrame, config: DatasetConfig, where: str) -> ConceptDataset:
    """The dataset whose columns ``config`` names; ``where`` begins its error messages."""
    columns = [str(c) for c in table.columns]
    table = table.set_axis(columns, axis=1)
    wanted = {"text": config.text, "label": config.label, "group": config.group}
    for key, column in wanted.items():
        if column is not None and column not in columns:
            raise UserError(f"{where}: no column {column!r} ({key}); {suggestion(column, columns)}")
    labels = table[config.label]
    missing = np.flatnonzero(labels.isna())
    if len(missing):
        raise UserError(
            f"{where}: row {missing[0] + 1} has no value in column {config.label!r} "
            f"(of {len(missing)} such rows)"
        )
    if labels.dtype.kind == "f":
        if not (labels == labels.round()).all():
            raise UserError(f"{where}: column {config.label!r} has fractions; labels are classes")
        labels = labels.astype(int)
    empty = np.flatnonzero(table[config.text].isna())
    if len(empty):
        raise UserError(f"{where}: row {empty[0] + 1} has no text in column {config.text!r}")
    groups = None
    if config.group is not None:
        # A row without a group is a group of its own.
        alone = pd.Series([f"row {i + 1}" for i in range(len(table))], index=table.index)
        groups = table[config.group].astype(object).where(table[config.group].notna(), alone)
    return ConceptDataset(
        name=config.title,
        texts=table[config.text].astype(str).to_list(),
        labels=labels.to_numpy()
        if labels.dtype.kind in "iub"
        else labels.astype(str).to_numpy(str),
        groups=None if groups is None else groups.astype(str).to_numpy(str),
        fields=table.drop(columns=[c for c in wanted.values() if c is not None]),
        source=where,
    )
