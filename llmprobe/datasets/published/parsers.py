"""Parsers of published files: from paths to a table with text and label, in the file's order."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmprobe.datasets.tables import read_table
from llmprobe.ground.errors import UserError


def rows(path: Path, text: str = "text", drop: Sequence[str] = ()) -> pd.DataFrame:
    """Read all rows of a .csv, .tsv or .parquet file, or of the list ``examples`` of a .json file.

    What pandas makes of quotation marks inside tweets is part of the published datasets, so they
    are not read by the stricter reader for the user's files. A text such as "NA" stays a text.

    Parameters
    ----------
    text
        The column of the texts.
    drop
        Columns to leave out; some may be missing.
    """
    if path.suffix == ".parquet":
        table = read_table(path)
    elif path.suffix == ".json":
        table = pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))["examples"])
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        table = pd.read_csv(path, sep=separator, keep_default_na=False)
    return table.rename(columns={text: "text"}).drop(columns=list(drop), errors="ignore")


def classes(
    path: Path, column: str, zero: object, one: object, first: int | None = None, text: str = "text"
) -> pd.DataFrame:
    """Read rows with ``zero`` in a column (label 0), then those with ``one`` (1).

    Parameters
    ----------
    first
        How many of each to keep; all by default.
    text
        The column of the texts.
    """
    # The column without a name is an index that pandas wrote.
    return _in_classes(rows(path, text, drop=["Unnamed: 0"]), column, zero, one, first)


def lines(*paths: Path, pattern: str, form: str, encoding: str = "utf-8") -> pd.DataFrame:
    """Read a row from each line that is not blank: the named groups of a regular expression.

    A label of digits becomes a number. If the expression has no group ``label``, the lines of the
    first file are class 0, and those of the second class 1.

    Parameters
    ----------
    pattern
        Must match the whole line, without the space around it.
    form
        The same in words.

    Raises
    ------
    UserError
        There are no lines, or one does not match.
    """
    expression = re.compile(pattern)

    def parse(line: str) -> dict[str, Any]:
        match = expression.fullmatch(line)
        if match is None:
            raise ValueError(line)
        return {name: value.strip() for name, value in match.groupdict().items()}

    tables = [_read_lines(path, parse, form, encoding) for path in paths]
    if "label" not in expression.groupindex:
        tables = [table.assign(label=label) for label, table in enumerate(tables)]
    table = pd.concat(tables, ignore_index=True)
    numbers = table["label"].astype(str).str.isdecimal().all()
    return table.astype({"label": "int64"}) if numbers else table


def common_claim(path: Path, slice: str = "paper") -> pd.DataFrame:
    """Read the true claims, then the false ones; the paper's slice has the first 3,000 of each."""
    first = 3000 if slice == "paper" else None
    return classes(path, "label", "True", "False", first, "examples")


def stsa(path: Path) -> pd.DataFrame:
    """Read a label and a text from each line, class 0 first."""
    form = "'0' or '1', a space and a text"
    return _in_classes(
        lines(path, pattern="(?P<label>[01]) (?P<text>.*)", form=form), "label", 0, 1
    )


def sarcasm(path: Path) -> pd.DataFrame:
    """Read a headline from each line of JSON: the first 3,000 sarcastic ones, then 3,000 others."""

    def parse(line: str) -> dict[str, object]:
        row = json.loads(line)
        link = row.get("article_link", "")
        return {"text": row["headline"], "label": int(row["is_sarcastic"]), "article_link": link}

    table = _read_lines(path, parse, "JSON with headline and is_sarcastic")
    return _in_classes(table, "label", 1, 0, 3000)


def strategyqa(path: Path) -> pd.DataFrame:
    """Read questions whose answer is yes, then those with no, each with its explanation."""
    table = rows(path, text="input")
    # The explanation goes into the text, but not the answer before it.
    reason = table["target"].str.replace(r"^(?:Yes|No)\.(.*)$", lambda m: m[1].strip(), regex=True)
    return _in_classes(
        pd.DataFrame(
            {
                "text": table["text"] + " " + reason,
                "yes": [scores["Yes"] for scores in table["target_scores"]],
                "question": table["text"],
            }
        ),
        "yes", 1, 0,
    )  # fmt: skip


def trec(*paths: Path) -> pd.DataFrame:
    """Read a question from each line; its finer class is the field ``kind``."""
    pattern = r"(?P<label>ABBR|DESC|ENTY|HUM|LOC|NUM):(?P<kind>\S*) (?P<text>.*)"
    tables = [
        lines(path, pattern=pattern, form="CLASS:kind, a space and a question", encoding="latin-1")
        .assign(split="train" if path.name.startswith("train") else "test")
        for path in paths
    ]  # fmt: skip
    return pd.concat(tables, ignore_index=True)


PARSERS: dict[str, Callable[..., pd.DataFrame]] = {
    parser.__name__: parser
    for parser in (rows, classes, lines, common_claim, stsa, sarcasm, strategyqa, trec)
}
"""The functions that ``parser`` of an entry in ``sets.yaml`` can name."""


def _in_classes(
    table: pd.DataFrame, column: str, zero: object, one: object, first: int | None = None
) -> pd.DataFrame:
    """Return the rows with ``zero`` in a column (label 0), then those with ``one`` (1).

    Compared as text, since pandas takes a column of True and False for truth values.
    """
    values = table[column].astype(str)
    parts = [table[values == str(value)].head(first or len(table)) for value in (zero, one)]
    labels = np.repeat([0, 1], [len(part) for part in parts])
    return pd.concat(parts, ignore_index=True).drop(columns=column).assign(label=labels)


def _read_lines(
    path: Path, parse: Callable[[str], Mapping[str, Any]], form: str, encoding: str = "utf-8"
) -> pd.DataFrame:
    """Read a row from each line that is not blank, as ``parse`` returns it."""
    parsed = []
    # Not splitlines(), which also splits at characters that may stand inside a text.
    for number, content in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            if line := content.decode(encoding).strip():
                parsed.append(parse(line))
        except (ValueError, KeyError, TypeError) as error:
            expected = encoding.upper() if isinstance(error, UnicodeDecodeError) else form
            raise UserError(f"{path}: line {number} is not {expected}") from None
    if not parsed:
        raise UserError(f"{path}: no lines, expected {form}")
    return pd.DataFrame(parsed)
