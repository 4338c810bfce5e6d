"""Datasets from the user's own files."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow

from llmprobe.concepts.dataset import ConceptDataset
from llmprobe.config import TABLE_SUFFIXES, DatasetConfig
from llmprobe.errors import UserError, suggestion


def read_table(path: Path) -> pd.DataFrame:
    """A .csv, .tsv, .jsonl or .parquet file; ``UserError`` says what is wrong with it."""
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise UserError(f"{path}: cannot read {suffix or 'this'} files; "
                        f"known: {', '.join(TABLE_SUFFIXES)}")  # fmt: skip
    if not path.is_file():
        raise UserError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    try:
        if suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            text = _text(path)
            table = _json_lines(text, path) if suffix == ".jsonl" else _separated(text, path)
    except (ValueError, pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read: {str(error).strip().splitlines()[0]}") from None
    if table.empty:
        raise UserError(f"{path}: no rows below the header")
    return table


def _text(path: Path) -> str:
    """The content of a text file."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line} is not UTF-8; save the file as UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path}: line {line} has a NUL byte, so this is not a text file")
    if not text.strip():
        raise UserError(f"{path}: the file is empty")
    return text


def _separated(text: str, path: Path) -> pd.DataFrame:
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    # Texts such as "None" or "NA" are texts; only an empty cell is a missing value.
    table = pd.read_csv(StringIO(text), sep=separator, keep_default_na=False, na_values=[""])
    # When all rows are longer than the header, pandas takes the first cells as row names.
    if not isinstance(table.index, pd.RangeIndex):
        raise UserError(
            f"{path}: rows have more cells than the header; put quotation marks around texts with "
            f"a {'tab' if separator == chr(9) else 'comma'}"
        )
    return table


def _json_lines(text: str, path: Path) -> pd.DataFrame:
    rows = []
    # Not splitlines(), which also splits at characters that JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", str(error))
            raise UserError(f"{path}: line {number} is not JSON: {reason}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}: line {number} is not a JSON object")
        rows.append(row)
    return pd.DataFrame(rows)


def dataset_from_table(table: pd.DataFrame, config: DatasetConfig, where: str) -> ConceptDataset:
    """The dataset whose columns ``config`` names; ``where`` begins its error messages."""
    columns = [str(c) for c in table.columns]
    table = table.set_axis(columns, axis=1)
    wanted = {"text": config.text, "label": config.label, "group": config.group}
    for key, column in wanted.items():
        if column is not None and column not in columns:
            raise UserError(f"{where}: no column {column!r} ({key}); {suggestion(column, columns)}")
    labels, texts = table[config.label], table[config.text]
    for column, values in ((config.label, labels), (config.text, texts)):
        missing = np.flatnonzero(_is_missing(values, nan_too=column == config.label))
        if len(missing):
            raise UserError(f"{where}: row {missing[0] + 1} has no value in column {column!r}; "
                            f"rows without one: {len(missing)}")  # fmt: skip
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            raise UserError(f"{where}: column {config.label!r} has values that are not finite")
        # What has fractions stays: numbers for a ridge probe, or a few classes.
        if ((labels == labels.round()) & (labels.abs() < 2**53)).all():
            labels = labels.astype(int)
    groups = None
    if config.group is not None:
        # A row without a group is a group of its own.
        alone = pd.Series([f"row {i + 1}" for i in range(len(table))], index=table.index)
        groups = table[config.group].astype(object).where(table[config.group].notna(), alone)
    return ConceptDataset(
        name=config.title,
        texts=texts.astype(str).to_list(),
        labels=labels.to_numpy()
        if labels.dtype.kind in "iubf"
        else labels.astype(str).to_numpy(str),
        groups=None if groups is None else groups.astype(str).to_numpy(str),
        fields=table.drop(columns=[config.text, config.label]),
        source=where,
    )


def _is_missing(values: pd.Series, nan_too: bool) -> np.ndarray:
    """Which cells hold nothing: no value, blanks, or (in labels) the text "nan". [n]"""
    words = values.astype(str).str.strip().str.lower()
    missing: np.ndarray = (values.isna() | words.isin(["", "nan"] if nan_too else [""])).to_numpy()
    return missing
