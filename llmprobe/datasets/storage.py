"""A dataset as one parquet file, with nothing lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from llmprobe.ground.errors import UserError
from llmprobe.ground.files import whole_file

if TYPE_CHECKING:
    from llmprobe.datasets.dataset import ConceptDataset

_KEY = b"llmprobe"
"""Under which the file keeps what is known of the dataset as a whole."""

_NESTED = "nested"
"""Fields of lists and mappings, which the file keeps as JSON."""

FACTS = (
    "name", "template", "filled", "perturbation", "source", "citation", "licence", "version",
    "description",
)  # fmt: skip


def save(dataset: ConceptDataset, path: Path) -> None:
    """Columns text, label, group, and ``field NAME``, ``span NAME``, ``variant KIND``.

    Raises
    ------
    UserError
        A field holds values that no column of one type can hold.
    """
    columns: dict[str, object] = {"text": dataset.texts, "label": dataset.labels}
    if dataset.groups is not None:
        columns["group"] = dataset.groups
    nested = [c for c in dataset.fields.columns if dataset.fields[c].map(_is_nested).any()]
    columns |= {f"span {name}": places for name, places in dataset.spans.items()}
    columns |= {f"variant {kind}": texts for kind, texts in dataset.variants.items()}
    try:
        for name, values in dataset.fields.items():
            # One type for a column would give each mapping the keys of all.
            columns[f"field {name}"] = values.map(_as_json) if name in nested else values.array
        table = pa.Table.from_pandas(pd.DataFrame(columns), preserve_index=False)
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise UserError(f"{path}: cannot be saved: {' '.join(str(error).split())}") from None
    known = {fact: getattr(dataset, fact) for fact in FACTS}
    facts = json.dumps({**known, _NESTED: nested})
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _KEY: facts})
    with whole_file(path) as partial:
        pq.write_table(table, partial)


def is_saved(path: Path) -> bool:
    """Whether ``path`` is a file that ``save`` wrote."""
    try:
        return _KEY in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def load(path: Path) -> ConceptDataset:
    """What ``save`` wrote.

    Raises
    ------
    UserError
        It is not such a file, or it is damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if not is_saved(path):
        raise UserError(f"{path}: not a dataset that llmprobe saved")
    try:
        table = pq.read_table(path)
        facts = json.loads(table.schema.metadata[_KEY])
        nested = facts.pop(_NESTED)
        # Whole numbers with gaps stay whole.
        frame = table.to_pandas(integer_object_nulls=True)
        for name in nested:
            frame[f"field {name}"] = frame[f"field {name}"].map(json.loads)
        return _from_frame(frame, facts)
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
        raise UserError(f"{path}: damaged: {' '.join(str(error).split())}") from None


def _is_nested(value: object) -> bool:
    return isinstance(value, list | tuple | dict | set)


def _as_json(value: object) -> str:
    text = json.dumps(value)
    if json.loads(text) != value:
        raise TypeError(f"{value!r:.40} is not the same in JSON")
    return text


def _from_frame(frame: pd.DataFrame, facts: dict[str, str]) -> ConceptDataset:
    from llmprobe.datasets.dataset import ConceptDataset

    def part(kind: str) -> list[str]:
        return [c for c in frame.columns if c.startswith(f"{kind} ")]

    def plain(values: pd.Series) -> np.ndarray:
        words = values.dtype.kind not in "biuf"
        return values.to_numpy(dtype=str) if words else values.to_numpy()

    fields = frame[part("field")].rename(columns=lambda name: name.removeprefix("field "))
    return ConceptDataset(
        texts=frame["text"].tolist(),
        labels=plain(frame["label"]),
        groups=plain(frame["group"]) if "group" in frame else None,
        fields=fields,
        spans={
            name.removeprefix("span "): [(int(start), int(stop)) for start, stop in frame[name]]
            for name in part("span")
        },
        variants={
            name.removeprefix("variant "): [list(texts) for texts in frame[name]]
            for name in part("variant")
        },
        **facts,
    )
