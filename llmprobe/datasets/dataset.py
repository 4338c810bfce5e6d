"""The one type that carries a concept: texts with labels, and the groups that splits respect."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence, Sized
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from llmprobe.datasets import storage
from llmprobe.datasets.spans import Spans, span_ends
from llmprobe.ground.errors import UserError

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class ConceptDataset:
    """Labelled texts, one row an example.

    Raises ``UserError`` when it cannot be probed: empty, lengths that differ, a missing label or
    text, fewer than two classes.
    """

    name: str
    texts: list[str]
    """What the model reads, after the template was filled. [n]"""
    labels: np.ndarray
    """The class of each text: integers or strings; or numbers with fractions. [n]"""
    groups: np.ndarray | None = None
    """Examples that share one never stand on both sides of a split. [n], or None."""
    spans: Spans = field(default_factory=dict)
    """For each field of the template, where its text stands: first character, and the one after
    the last. Each [n]"""
    fields: pd.DataFrame = field(default_factory=pd.DataFrame)
    """What else is known of each example (template, distractor kind, …). [n, any], or empty."""
    variants: dict[str, list[list[str]]] = field(default_factory=dict)
    """Other texts that would go with a row's label and group, for the perturbations "negation" and
    "paraphrase_template": for each row one or more. Each [n][1 or more]"""
    template: str = ""
    """What the texts are still to be put into, where no other template is asked for;
    ``load_dataset`` does it."""
    filled: str = ""
    """The template that the texts were put into; empty where there was none."""
    perturbation: str = ""
    """The kind of what was done to the texts before that; empty where nothing was."""
    source: str = ""
    citation: str = ""
    licence: str = ""
    version: str = ""
    """A commit or number that changes when the content does."""
    description: str = ""

    def __post_init__(self) -> None:
        where = f"dataset {self.name!r}"
        given: Any = self.texts
        if isinstance(given, str):
            raise UserError(f"{where}: texts should be a list of texts, not one")
        for part in ("labels", "groups"):
            given = getattr(self, part)
            if given is not None:
                object.__setattr__(self, part, np.asarray(given))
                if np.ndim(given) != 1:
                    raise UserError(f"{where}: {part} should be one for each text, [n]")
        object.__setattr__(self, "fields", pd.DataFrame(self.fields))
        n = len(self.texts)
        if n == 0:
            raise UserError(f"{where}: no examples")
        lengths: dict[str, Sized | None] = {"labels": self.labels, "groups": self.groups}
        lengths |= {f"spans of {name!r}": spans for name, spans in self.spans.items()}
        lengths |= {f"variants {kind!r}": texts for kind, texts in self.variants.items()}
        for part, values in lengths.items():
            if values is not None and len(values) != n:
                raise UserError(f"{where}: {n} texts but {len(values)} {part}")
        if len(self.fields.columns) and len(self.fields) != n:
            raise UserError(f"{where}: {n} texts but {len(self.fields)} rows of fields")
        for row, text in enumerate(self.texts):
            if not isinstance(text, str) or not text.strip():
                raise UserError(f"{where}: example {row} has no text")
        missing = np.flatnonzero(pd.isna(pd.Series(self.labels)))
        if len(missing):
            raise UserError(f"{where}: example {missing[0]} has no label (of {len(missing)})")
        if len(self.classes) < 2:
            only = self.classes[0]
            raise UserError(
                f"{where}: every label is {str(only)!r}; a probe needs at least two classes"
            )

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def classes(self) -> np.ndarray:
        """The distinct labels, sorted; the last one is the positive class of a binary dataset."""
        return np.unique(self.labels)

    @property
    def content_hash(self) -> str:
        """A hash of everything that a result depends on: texts, labels and groups, in order."""
        groups = None if self.groups is None else [str(g) for g in self.groups]
        rows = json.dumps([self.texts, [str(label) for label in self.labels], groups])
        return hashlib.sha256(rows.encode()).hexdigest()

    def __repr__(self) -> str:
        groups = "" if self.groups is None else f" in {len(set(self.groups)):,} groups"
        shown = [str(label) for label in self.classes[:4]]
        labels = ", ".join(shown) + (", …" if len(self.classes) > 4 else "")
        return f"ConceptDataset({self.name!r}: {len(self):,} texts{groups}, labels {labels})"

    def to_pandas(self) -> pd.DataFrame:
        """A row for each example: text, label, group (if any), then the fields, of which one
        called text or label becomes field_text or field_label.
        """
        table = pd.DataFrame({"text": self.texts, "label": self.labels})
        if self.groups is not None:
            table["group"] = self.groups
        extra = self.fields.reset_index(drop=True)
        own = [] if self.groups is None else [str(group) for group in self.groups]
        if "group" in extra and extra["group"].astype(str).tolist() == own:
            # The column that the groups came from.
            extra = extra.drop(columns="group")
        extra = extra.rename(columns={c: f"field_{c}" for c in table.columns})
        return pd.concat([table, extra], axis=1)

    @classmethod
    def from_pandas(
        cls, table: pd.DataFrame, name: str = "table", **columns: str
    ) -> ConceptDataset:
        """The reverse of ``to_pandas``: text, label and group by name, or as ``text=``, ``label=``
        and ``group=`` say; other columns become fields.

        Raises
        ------
        UserError
            As for a file: a column or a value is missing, labels are mixed, …
        """
        from llmprobe.config.load import validated
        from llmprobe.config.schema import DatasetConfig
        from llmprobe.datasets.from_table import dataset_from_table

        if not isinstance(table, pd.DataFrame):
            raise UserError(f"from_pandas: {type(table).__name__!r} is no DataFrame")
        if "group" in table.columns:
            columns = {"group": "group", **columns}
        raw = {"path": name, "name": name, **columns}
        made = dataset_from_table(table, validated(DatasetConfig, raw, name), name)
        return replace(made, source="")

    def to_huggingface(self) -> datasets.Dataset:
        """The table of ``to_pandas`` as a ``datasets.Dataset``, with source, licence, …"""
        import datasets

        info = datasets.DatasetInfo(
            description=self.description, citation=self.citation, homepage=self.source,
            license=self.licence,
        )  # fmt: skip
        return datasets.Dataset.from_pandas(self.to_pandas(), info=info, preserve_index=False)

    @classmethod
    def from_huggingface(
        cls, table: datasets.Dataset, name: str = "table", **columns: str
    ) -> ConceptDataset:
        """From a ``datasets.Dataset``, its class labels by name; else like ``from_pandas``."""
        from llmprobe.datasets.hub import as_table

        made = cls.from_pandas(as_table(table), name, **columns)
        info = table.info
        return replace(
            made,
            description=info.description, citation=info.citation,
            source=info.homepage, licence=info.license,
        )  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Write everything into one .parquet file, which ``load`` and ``load_dataset`` read."""
        if Path(path).suffix != ".parquet":
            raise UserError(f"{path}: a dataset is saved as a .parquet file")
        storage.save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> ConceptDataset:
        """What ``save`` wrote, unchanged; ``UserError`` when it is not that."""
        return storage.load(Path(path))

    def span_ends(self, name: str) -> list[int]:
        """In each text, the last character of what filled a field. [n]

        A field that the template lacks is looked for in the text: the last place where its value
        stands, as a word of its own if it does so anywhere.

        Raises
        ------
        UserError
            There is no such field, or a text has nothing of it.
        """
        where = f"dataset {self.name!r}: position 'span:{name}'"
        return span_ends(self.texts, self.spans, self.fields, name, where)

    def take(self, rows: Sequence[int] | np.ndarray) -> ConceptDataset:
        """The examples at ``rows``, in that order."""
        rows = np.asarray(rows, dtype=int)
        return replace(
            self,
            texts=[self.texts[i] for i in rows],
            labels=self.labels[rows],
            groups=None if self.groups is None else self.groups[rows],
            spans={name: [spans[i] for i in rows] for name, spans in self.spans.items()},
            variants={kind: [texts[i] for i in rows] for kind, texts in self.variants.items()},
            fields=self.fields.iloc[rows].reset_index(drop=True)
            if len(self.fields)
            else self.fields,
        )

    def sample(self, n: int, seed: int = 0) -> ConceptDataset:
        """About ``n`` examples (never more): whole groups, classes in their proportions.

        Groups are drawn at random, alternating between the classes that they mostly hold, so a
        sample of a balanced dataset is balanced; rows keep the dataset's order.
        """
        if n >= len(self):
            return self
        groups = np.arange(len(self)) if self.groups is None else self.groups
        _, group_of = np.unique(groups, return_inverse=True)
        label_of = np.zeros(len(self), dtype=int)
        if self.labels.dtype.kind != "f":  # Numbers have no proportions to keep.
            _, label_of = np.unique(self.labels, return_inverse=True)
        counts = np.zeros((group_of.max() + 1, label_of.max() + 1), dtype=int)
        np.add.at(counts, (group_of, label_of), 1)
        mostly = counts.argmax(axis=1)
        rng = np.random.default_rng(seed)
        draw = rng.permutation(len(counts))
        # Rank of each group among those of its class, as a fraction: sorting by it interleaves.
        rank = np.empty(len(counts))
        for label in np.unique(mostly):
            members = draw[mostly[draw] == label]
            rank[members] = (np.arange(len(members)) + 0.5) / len(members)
        order = draw[np.argsort(rank[draw], kind="stable")]
        sizes = counts.sum(axis=1)
        chosen = order[np.cumsum(sizes[order]) <= n]
        if len(chosen) == 0:
            raise UserError(
                f"dataset {self.name!r}: n (or --limit) of {n} is below one group; groups are "
                f"drawn whole, and the first one has {sizes[order[0]]} examples"
            )
        rows = np.flatnonzero(np.isin(group_of, chosen))
        return self.take(rows)
