"""Readers of published files, whose errors name file and line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmprobe.ground.errors import UserError


def read_lines(
    path: Path, parse: Callable[[str], Mapping[str, Any]], form: str, encoding: str = "utf-8"
) -> pd.DataFrame:
    """Read a row from each line that is not blank, as ``parse`` returns it.

    Raises
    ------
    UserError
        The file is not text, or a line is not of the ``form`` that the message says.
    """
    rows = []
    # Not splitlines(), which also splits at characters that may stand inside a text.
    for number, line in enumerate(_text(path, encoding).split("\n"), start=1):
        if line.strip():
            try:
                rows.append(parse(line.strip()))
            except (ValueError, KeyError, TypeError, IndexError):
                raise UserError(f"{path}: line {number} is not {form}") from None
    if not rows:
        raise UserError(f"{path}: no lines, expected {form}")
    return pd.DataFrame(rows)


def read_separated(path: Path) -> pd.DataFrame:
    """Read a .csv or .tsv file with a header, quoted as pandas takes it by default.

    What pandas makes of quotation marks inside tweets is part of the published datasets, hence
    not the stricter reader for files of one's own. Only here, a text such as "NA" is a text.
    """
    separator = "\t" if path.suffix == ".tsv" else ","
    try:
        return pd.read_csv(path, sep=separator, keep_default_na=False)
    except ValueError as error:
        raise UserError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None


def read_examples(path: Path) -> list[dict[str, Any]]:
    """Read the list ``examples`` of a JSON file."""
    try:
        examples = json.loads(_text(path, "utf-8"))["examples"]
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {error.lineno} is not JSON: {error.msg}") from None
    except (KeyError, TypeError):
        raise UserError(f"{path}: has no list 'examples'") from None
    return list(examples)


def in_classes(
    table: pd.DataFrame, column: str, zero: object, one: object, first: int | None = None
) -> pd.DataFrame:
    """Keep rows with ``zero`` in a column (label 0), then those with ``one`` (1), in file order.

    Compared as text, since pandas takes a column of True and False for truth values.

    Parameters
    ----------
    first
        How many of each to keep; all by default.
    """
    values = table[column].astype(str)
    parts = [table[values == str(value)].head(first or len(table)) for value in (zero, one)]
    labels = np.repeat([0, 1], [len(part) for part in parts])
    return pd.concat(parts, ignore_index=True).drop(columns=column).assign(label=labels)


def _text(path: Path, encoding: str) -> str:
    content = path.read_bytes()
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line} is not {encoding.upper()}") from None
    return text.replace("\r\n", "\n")
