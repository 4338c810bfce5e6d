"""From a table to a dataset: which examples each row gives, and their labels."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmprobe.config.schema import DatasetConfig
from llmprobe.datasets.cells import Rows, check_cells, find_column, label_columns
from llmprobe.datasets.chats import is_chat, read_chats, rows_of_chats
from llmprobe.datasets.labels import concepts_of, joint_labels
from llmprobe.datasets.pairs import rows_of_pairs
from llmprobe.datasets.unlabelled import without_label
from llmprobe.datasets.words import places, rows_of_words
from llmprobe.ground.errors import UserError

log = logging.getLogger(__name__)


def parts_of_table(
    table: pd.DataFrame, config: DatasetConfig, where: str, test: np.ndarray | None = None
) -> dict[str, Any]:
    """Return the arguments of a ``ConceptDataset`` from a table; the rows in ``test`` are scored.

    A row is a text with its label, a chat, a contrast pair or a sentence of labelled words, in the
    columns that ``config`` names or that have the usual names. ``where``, the name of a file or
    dataset, begins error messages.

    Raises
    ------
    UserError
        A column is missing, no row has a label, or a cell cannot be used.
    """
    table = table.set_axis([str(column) for column in table.columns], axis=1)
    table = table.reset_index(drop=True)
    rows = _rows(table, config, where)
    if config.drop.unlabelled:
        rows = _labelled(rows, where)
    read = rows.read
    concepts = concepts_of(rows.labels, where)
    several = len(concepts) > 1 or [*concepts] != [*rows.labels]
    named = [name for name in map(str, read) if name.startswith("span ")]
    groups = read["group"] if "group" in read.columns else None
    if config.group is not None:
        column = find_column("group", config.group, list(table.columns), where)
        values = table[column].astype(object).loc[read.index].reset_index(drop=True)
        # A row without a group is a group of its own.
        alone = pd.Series([f"row {row + 1}" for row in read.index])
        groups = values.where(values.notna(), alone if groups is None else groups.to_numpy())
    return {
        "name": config.title,
        "texts": read["text"].tolist(),
        "labels": joint_labels(concepts) if several else next(iter(concepts.values())),
        "concepts": concepts if several else {},
        "groups": None if groups is None else groups.astype(str).to_numpy(str),
        "spans": {name.removeprefix("span "): read[name].tolist() for name in named},
        "turns": read["turns"].tolist() if "turns" in read else None,
        "words": read["word"].tolist() if "word" in read else None,
        "chat": config.chat,
        "class_names": {"1": config.pairs.positive, "0": config.pairs.negative}
        if config.pairs
        else {},
        "test": None if test is None else test[read.index],
        "fields": rows.fields.reset_index(drop=True),
        "source": where,
    }


def unlabelled(table: pd.DataFrame, text: str | None, where: str) -> pd.DataFrame:
    """Return what can fill a template: the texts in the column ``text``, and the other columns.

    Raises
    ------
    UserError
        The column is missing or not clear, or a row of it has no text.
    """
    table = table.set_axis([str(column) for column in table.columns], axis=1)
    table = table.reset_index(drop=True)
    column = find_column("text", text, list(table.columns), where)
    check_cells(table[column], column, where)
    return table.drop(columns=column).assign(text=[str(value) for value in table[column]])


def unlabelled_chats(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return the text, ``turns`` and ``span NAME`` of each chat in the usual columns.

    The usual columns are messages, or prompt with, if present, response and system.

    Raises
    ------
    UserError
        There are none, or a cell is no list of messages with text in them.
    """
    table = table.set_axis([str(column) for column in table.columns], axis=1)
    table = table.reset_index(drop=True)
    prompt, response, system = (
        name if name in table.columns and "prompt" in table.columns else None
        for name in ("prompt", "response", "system")
    )
    config = DatasetConfig(
        name="chats", path=Path("chats"), prompt=prompt, response=response, system=system
    )
    return read_chats(table, config, where)[0]


def _rows(table: pd.DataFrame, config: DatasetConfig, where: str) -> Rows:
    """Return the examples of a table, by the form of its rows."""
    columns = list(table.columns)
    if config.pairs:
        return rows_of_pairs(table, config.pairs, where)
    if config.tokens:
        return rows_of_words(table, config, where)
    if is_chat(config, columns, where):
        return rows_of_chats(table, config, where)
    text = find_column("text", config.text, columns, where)
    labels = label_columns(config.label, columns, where)
    check_cells(table[text], text, where)
    read = pd.DataFrame({"text": table[text].map(str)})
    used = [text, *labels]
    if config.start and config.end:
        read["word"] = places(table, config, read["text"], where)
        used += [config.start, config.end]
        if read["text"].duplicated().any():
            read["group"] = read["text"]
    return Rows(read, table[labels], table.drop(columns=used))


def _labelled(rows: Rows, where: str) -> Rows:
    """Leave out the rows without a label of some concept, and log how many."""
    none = np.any([without_label(rows.labels[name]) for name in rows.labels], axis=0)
    if none.all():
        names = ", ".join(map(repr, rows.labels))
        raise UserError(f"{where}: column {names}: no row has a label")
    if none.any():
        log.info("%s: %d of %d rows have no label and are left out", where, none.sum(), len(none))
    return Rows(*(part[~none] for part in rows))
