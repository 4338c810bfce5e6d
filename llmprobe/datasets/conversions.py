"""Datasets from and to other forms: one parquet file, pandas, Hugging Face's ``datasets``.

Readers return the arguments of a ``ConceptDataset``, so that the class knows no other form and
this module does not import the class.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from llmprobe.config.load import validated
from llmprobe.config.schema import DatasetConfig, check_template
from llmprobe.datasets.from_table import parts_of_table
from llmprobe.datasets.hub import as_table
from llmprobe.datasets.spans import Turn
from llmprobe.ground.digests import UNSIGNED, read_back, signed
from llmprobe.ground.errors import UserError, foreign_errors
from llmprobe.ground.files import whole_file

if TYPE_CHECKING:
    import datasets

    from llmprobe.datasets.dataset import ConceptDataset

_KEY = b"llmprobe"
"""The key of the file's metadata that holds the facts about the dataset as a whole."""

_OWN = next(iter(UNSIGNED)).encode()
"""A word in the metadata by which a file is recognised even if that key is damaged."""

_NESTED = "nested"
"""The key for the names of fields with lists or mappings, which the file keeps as JSON."""

_CHAT = "chat"
"""The key for the options of a chat template: a mapping, while most facts are texts."""

_ANSWERS = "answers"
"""The key for the words that say each label, also a mapping."""

_CLASS_NAMES = "class_names"
"""The key for what each label is called, also a mapping."""

_FACTS = (
    "name", "template", "filled", "perturbation", "source", "citation", "licence", "version",
    "description", "stem", "question",
)  # fmt: skip


def parts_of_pandas(table: pd.DataFrame, name: str, columns: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of a ``ConceptDataset`` from a table and the names of its columns.

    Raises
    ------
    UserError
        It is no table, or one that no dataset can be made of.
    """
    if not isinstance(table, pd.DataFrame):
        raise UserError(f"from_pandas: {type(table).__name__!r} is no DataFrame")
    if "group" in table.columns:
        columns = {"group": "group", **columns}
    config = validated(DatasetConfig, {"path": name, "name": name, **columns}, name)
    return parts_of_table(table, config, name) | {"source": ""}


def parts_of_huggingface(
    table: datasets.Dataset, name: str, columns: Mapping[str, str]
) -> dict[str, Any]:
    """Return the arguments of a ``ConceptDataset`` from a ``datasets.Dataset``."""
    info = table.info
    return parts_of_pandas(as_table(table), name, columns) | {
        "description": info.description,
        "citation": info.citation,
        "source": info.homepage,
        "licence": info.license,
    }


def to_huggingface(dataset: ConceptDataset) -> datasets.Dataset:
    """Return the table of a dataset as a ``datasets.Dataset``, with source, licence, …"""
    import datasets

    info = datasets.DatasetInfo(
        description=dataset.description, citation=dataset.citation, homepage=dataset.source,
        license=dataset.licence,
    )  # fmt: skip
    return datasets.Dataset.from_pandas(dataset.to_pandas(), info=info, preserve_index=False)


def save(dataset: ConceptDataset, path: Path) -> None:
    """Write a parquet file with text, label, group, ``field NAME``, ``span NAME`` and all else.

    Raises
    ------
    UserError
        A field holds values that no column of one type can hold, or ``path`` has another suffix.
    """
    if path.suffix != ".parquet":
        raise UserError(f"{path}: a dataset is saved as a .parquet file")
    columns: dict[str, object] = {"text": dataset.texts, "label": dataset.labels}
    if dataset.groups is not None:
        columns["group"] = dataset.groups
    nested = [c for c in dataset.fields.columns if dataset.fields[c].map(_is_nested).any()]
    columns |= {f"span {name}": places for name, places in dataset.spans.items()}
    columns |= {f"variant {kind}": texts for kind, texts in dataset.variants.items()}
    columns |= {f"concept {name}": labels for name, labels in dataset.concepts.items()}
    if dataset.turns is not None:
        columns["turns"] = [json.dumps(turns) for turns in dataset.turns]
    columns |= {
        name: values
        for name, values in (("word", dataset.words), ("test", dataset.test))
        if values is not None
    }
    try:
        for name, values in dataset.fields.items():
            # As a column of one type, each mapping would get the keys of all.
            columns[f"field {name}"] = values.map(_as_json) if name in nested else values.array
        table = pa.Table.from_pandas(pd.DataFrame(columns), preserve_index=False)
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise UserError(f"{path}: cannot be saved: {' '.join(str(error).split())}") from None
    known = {fact: getattr(dataset, fact) for fact in _FACTS}
    facts = json.dumps({**UNSIGNED, **known, _NESTED: nested, _CHAT: dataset.chat,
                        _ANSWERS: dataset.answers, _CLASS_NAMES: dataset.class_names})  # fmt: skip
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _KEY: facts})
    with whole_file(path) as partial:
        pq.write_table(table, partial)
        partial.write_bytes(signed(partial.read_bytes()))


def is_saved(path: Path) -> bool:
    """Whether ``path`` is a file that ``save`` wrote."""
    try:
        with foreign_errors(f"{path}: no parquet file"):
            metadata = pq.read_schema(path).metadata or {}
            return _KEY in metadata or any(_OWN in value for value in metadata.values())
    except UserError:
        return False


def saved_parts(path: Path) -> dict[str, Any]:
    """Return the arguments of the ``ConceptDataset`` that ``save`` wrote.

    Raises
    ------
    UserError
        It is not such a file, or it is damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if not is_saved(path):
        raise UserError(f"{path}: not a dataset that llmprobe saved")
    with foreign_errors(f"{path}: damaged"):
        table = pq.read_table(BytesIO(read_back(path)))
        table.validate(full=True)
        facts = json.loads(table.schema.metadata[_KEY])
        for entry in UNSIGNED:  # Files of earlier versions have none.
            facts.pop(entry, None)
        nested, chat = facts.pop(_NESTED), dict(facts.pop(_CHAT, {}))
        answers = {str(label): tuple(map(str, words))
                   for label, words in dict(facts.pop(_ANSWERS, {})).items()}  # fmt: skip
        names = {str(label): str(name)
                 for label, name in dict(facts.pop(_CLASS_NAMES, {})).items()}  # fmt: skip
        # Integers with missing values stay integers.
        frame = table.to_pandas(integer_object_nulls=True)
        for name in nested:
            frame[f"field {name}"] = frame[f"field {name}"].map(json.loads)
        more = {"chat": chat, "answers": answers, "class_names": names}
        return {**_parts_of_frame(frame), **_checked(facts), **more}


def _checked(facts: dict[str, Any]) -> dict[str, str]:
    """Return the facts about a dataset as a whole; raise ``ValueError`` for one that is no text."""
    for fact in ("name", *facts):
        if fact not in _FACTS or not isinstance(facts.get(fact), str):
            raise ValueError(f"{fact!r:.40} is no text, or not known")
    for template in filter(None, map(facts.get, ("template", "filled", "question"))):
        check_template(template)
    return facts


def _is_nested(value: object) -> bool:
    return isinstance(value, list | tuple | dict | set)


def _as_json(value: object) -> str:
    text = json.dumps(value)
    if json.loads(text) != value:
        raise TypeError(f"{value!r:.40} is not the same in JSON")
    return text


def _places(places: pd.Series) -> list[tuple[int, int]]:
    return [(int(start), int(stop)) for start, stop in places]


def _parts_of_frame(frame: pd.DataFrame) -> dict[str, Any]:
    def part(kind: str) -> dict[str, pd.Series]:
        names = [column for column in frame.columns if column.startswith(f"{kind} ")]
        return {name.removeprefix(f"{kind} "): frame[name] for name in names}

    def plain(values: pd.Series) -> np.ndarray:
        words = values.dtype.kind not in "biuf"
        return values.to_numpy(dtype=str) if words else values.to_numpy()

    return {
        "texts": frame["text"].tolist(),
        "labels": plain(frame["label"]),
        "groups": plain(frame["group"]) if "group" in frame else None,
        "fields": pd.DataFrame(part("field"), index=frame.index),
        "spans": {name: _places(places) for name, places in part("span").items()},
        "concepts": {name: plain(labels) for name, labels in part("concept").items()},
        "turns": None
        if "turns" not in frame
        else [
            [Turn(str(role), int(start), int(stop)) for role, start, stop in json.loads(turns)]
            for turns in frame["turns"]
        ],
        "words": _places(frame["word"]) if "word" in frame else None,
        "test": frame["test"].to_numpy(bool) if "test" in frame else None,
        "variants": {
            kind: [list(texts) for texts in rows] for kind, rows in part("variant").items()
        },
    }
