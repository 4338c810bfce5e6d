"""The one type that carries a concept: texts with labels, and the groups that splits respect.

``conversions`` reads and writes files and other libraries' tables; it is imported only when a
method here needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from llmprobe.datasets.groups import joined, plain
from llmprobe.datasets.spans import Spans, Turn, ranges
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import digest
from llmprobe.ground.notebook import ShownInNotebooks
from llmprobe.ground.text import elide

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class ConceptDataset(ShownInNotebooks):
    """Labelled texts, one row an example.

    Raises ``UserError`` when it cannot be probed: empty, lengths that differ, a missing label or
    text, fewer than two classes.
    """

    name: str
    """What tables call it."""
    texts: list[str]
    """What the model reads, after the template was filled. [n]"""
    labels: np.ndarray
    """The label of each text: integers or strings are classes, floats are numbers. [n]"""
    groups: np.ndarray | None = None
    """Examples that share one never stand on both sides of a split. [n], or None."""
    spans: Spans = field(default_factory=dict)
    """For each field of the template, where its text stands: first character, and the one after
    the last. Each [n]"""
    fields: pd.DataFrame = field(default_factory=pd.DataFrame)
    """What else is known of each example (template, distractor kind, …). [n, any], or empty."""
    turns: list[list[Turn]] | None = None
    """The turns of each chat, in order. A model reads them in its own chat template, without what
    stands between them in the text. [n][turns], or None."""
    chat: dict[str, Any] = field(default_factory=dict)
    """Options for the chat template, such as ``add_generation_prompt``."""
    words: list[tuple[int, int]] | None = None
    """If labels are of words, where each labelled word stands in its text: first character, and
    the one after the last. [n], or None."""
    concepts: dict[str, np.ndarray] = field(default_factory=dict)
    """If texts are labelled for several concepts, the labels for each by its name; ``labels`` then
    combines them. Each [n]"""
    test: np.ndarray | None = None
    """The examples that are scored, by probes fitted on the others; None if all are scored, in
    folds. [n] bool, or None"""
    variants: dict[str, list[list[str]]] = field(default_factory=dict)
    """Other texts with a row's label and group, for the perturbations "negation" and
    "paraphrase_template"; one or more for each row. Each [n][1 or more]"""
    template: str = ""
    """The default template, which the texts are not in yet; ``load_dataset`` applies it."""
    question: str = ""
    """A template that ends where an answer begins; it replaces the other one on request."""
    answers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Words that say each label, by the label as text, in the order of the classes; empty if no
    question is asked."""
    class_names: dict[str, str] = field(default_factory=dict)
    """What figures and pages call each label, by the label as text, such as
    ``{"0": "false", "1": "true"}``; other labels are shown as they are."""
    filled: str = ""
    """The template that the texts were put into; empty if there was none."""
    perturbation: str = ""
    """The kind of perturbation of the texts before the template; empty if there was none."""
    stem: str = ""
    """The name of the dataset of several concepts from which this one was taken, or empty."""
    source: str = ""
    """Where it comes from."""
    citation: str = ""
    """Whom to cite."""
    licence: str = ""
    """Under which terms it may be used."""
    version: str = ""
    """A commit or number that changes when the content does."""
    description: str = ""
    """What is asked of a text, with the meaning of each label."""

    def __post_init__(self) -> None:
        where = f"dataset {self.name!r}"
        texts: Any = self.texts
        if isinstance(texts, str):
            raise UserError(f"{where}: texts should be a list of texts, not one")
        for part in ("labels", "groups", "test"):
            values = getattr(self, part)
            if values is not None:
                object.__setattr__(self, part, np.asarray(values))
                if np.ndim(values) != 1:
                    raise UserError(f"{where}: {part} should be one for each text, [n]")
        object.__setattr__(self, "fields", pd.DataFrame(self.fields))
        n = len(self.texts)
        if n == 0:
            raise UserError(f"{where}: no examples")
        parts: dict[str, Sized | None] = {"labels": self.labels, "groups": self.groups}
        parts |= {"turns": self.turns, "words": self.words, "test": self.test}
        parts |= {f"labels of {name!r}": labels for name, labels in self.concepts.items()}
        parts |= {f"spans of {name!r}": spans for name, spans in self.spans.items()}
        parts |= {f"variants {kind!r}": texts for kind, texts in self.variants.items()}
        parts["rows of fields"] = self.fields if len(self.fields.columns) else None
        for part, rows in parts.items():
            if rows is not None and len(rows) != n:
                raise UserError(f"{where}: {n} texts but {len(rows)} {part}")
        for row, text in enumerate(self.texts):
            if not isinstance(text, str) or not text.strip():
                raise UserError(f"{where}: example {row} has no text")
        for row, (start, stop) in enumerate(self.words or ()):
            if not 0 <= start < stop <= len(self.texts[row]):
                raise UserError(f"{where}: example {row}: {start} to {stop} is no place in its "
                                f"text of {len(self.texts[row])} characters")  # fmt: skip
        if self.test is not None and self.test.dtype != bool:
            raise UserError(f"{where}: test should be true or false for each text")
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
        """Return the distinct labels, sorted; the last of two is the positive class."""
        return np.unique(self.labels)

    @cached_property
    def plain_texts(self) -> list[str]:
        """Return the texts in the form in which they are compared, see ``groups.plain``. [n]"""
        ends: Iterable[tuple[int, ...]] = repeat(())
        if self.spans:
            stops = ([stop for _, stop in places] for places in self.spans.values())
            ends = zip(*stops, strict=True)
        return [plain(text, places) for text, places in zip(self.texts, ends, strict=False)]

    @property
    def units(self) -> np.ndarray | None:
        """Return what a split must keep whole: rows of one group or with one text. [n] int

        None if there are no groups and no text repeats.
        """
        return joined(self.groups, self.plain_texts)

    @property
    def content_hash(self) -> str:
        """Return a hash of everything that a result depends on: texts, labels, groups, …"""
        groups = None if self.groups is None else [str(group) for group in self.groups]
        concepts = {name: labels.tolist() for name, labels in self.concepts.items()}
        test = None if self.test is None else self.test.tolist()
        more = [part for part in (self.turns, self.words, concepts, test) if part]
        return digest([self.texts, [str(label) for label in self.labels], groups, *more])

    @property
    def surface(self) -> list[str]:
        """Return what is labelled: the texts, or words in them. [n]"""
        if self.words is None:
            return self.texts
        return [text[slice(*place)] for text, place in zip(self.texts, self.words, strict=True)]

    def by_concept(self) -> list[ConceptDataset]:
        """Return a dataset ``NAME:CONCEPT`` for each concept of several; else the dataset alone.

        Their texts are the same, in the same order. A concept with only one label cannot be probed
        and is left out.
        """
        if not self.concepts:
            return [self]
        alone = [
            replace(
                self,
                name=f"{self.name}:{concept}",
                labels=labels,
                concepts={},
                stem=self.name,
                class_names=self.class_names
                or ({"0": f"not {concept}", "1": concept} if {*labels.tolist()} == {0, 1} else {}),
            )
            for concept, labels in self.concepts.items()
            if len(np.unique(labels)) > 1
        ]
        for dataset in alone:
            vars(dataset)["plain_texts"] = self.plain_texts
        return alone

    def __repr__(self) -> str:
        groups = "" if self.groups is None else f" in {len(set(self.groups)):,} groups"
        shown = [elide(str(label), 30) for label in self.classes[:4]]
        labels = ", ".join(shown) + (", …" if len(self.classes) > 4 else "")
        name = elide(self.name, 60)
        return f"ConceptDataset({name!r}: {len(self):,} texts{groups}, labels {labels})"

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for each example: text, label, group (if any), then the fields.

        Each of several concepts has a column. A field called text becomes field_text, and so on.
        """
        labels = self.concepts or {"label": self.labels}
        table = pd.DataFrame({"text": self.texts, **labels})
        if self.groups is not None:
            table["group"] = self.groups
        extra = self.fields.reset_index(drop=True)
        groups = [] if self.groups is None else [str(group) for group in self.groups]
        if "group" in extra and extra["group"].astype(str).tolist() == groups:
            # The column that the groups came from.
            extra = extra.drop(columns="group")
        extra = extra.rename(columns={c: f"field_{c}" for c in table.columns})
        return pd.concat([table, extra], axis=1)

    @classmethod
    def from_pandas(
        cls, table: pd.DataFrame, name: str = "table", **columns: str
    ) -> ConceptDataset:
        """Return the dataset of a table, as ``to_pandas`` makes it.

        Text, label and group are the columns of that name, or those that ``text=``, ``label=`` and
        ``group=`` say; other columns become fields.

        Raises
        ------
        UserError
            As for a file: a column or a value is missing, labels are mixed, …
        """
        from llmprobe.datasets import conversions

        return cls(**conversions.parts_of_pandas(table, name, columns))

    def to_huggingface(self) -> datasets.Dataset:
        """Return the table of ``to_pandas`` as a ``datasets.Dataset``, with source, licence, …"""
        from llmprobe.datasets import conversions

        return conversions.to_huggingface(self)

    @classmethod
    def from_huggingface(
        cls, table: datasets.Dataset, name: str = "table", **columns: str
    ) -> ConceptDataset:
        """Return the dataset of a ``datasets.Dataset``, its class labels by name.

        Columns and errors are those of ``from_pandas``.
        """
        from llmprobe.datasets import conversions

        return cls(**conversions.parts_of_huggingface(table, name, columns))

    def save(self, path: str | Path) -> None:
        """Write everything into one .parquet file, which ``load`` and ``load_dataset`` read."""
        from llmprobe.datasets import conversions

        conversions.save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> ConceptDataset:
        """Return what ``save`` wrote, unchanged; ``UserError`` when it is not that."""
        from llmprobe.datasets import conversions

        return cls(**conversions.saved_parts(Path(path)))

    def ranges(self, position: str, occurrence: str | None = None) -> list[tuple[int, int]] | None:
        """Return the part of each text that a position refers to; None for whole texts. [n]

        Parameters
        ----------
        position
            As ``ExtractConfig.position`` has it.
        occurrence
            ``"first"`` or ``"last"``: which place is meant if a field that is not in the template
            occurs in a text several times.

        Raises
        ------
        UserError
            There is no such field or role, or a text has none of it, or several places.
        """
        return ranges(
            position, self.texts, self.spans, self.fields, turns=self.turns, words=self.words,
            occurrence=occurrence, where=f"dataset {self.name!r}",
        )  # fmt: skip

    def take(self, rows: Sequence[int] | np.ndarray) -> ConceptDataset:
        """Return the examples at ``rows``, in that order."""
        rows = np.asarray(rows, dtype=int)
        return replace(
            self,
            texts=[self.texts[i] for i in rows],
            labels=self.labels[rows],
            concepts={name: labels[rows] for name, labels in self.concepts.items()},
            test=None if self.test is None else self.test[rows],
            groups=None if self.groups is None else self.groups[rows],
            spans={name: [spans[i] for i in rows] for name, spans in self.spans.items()},
            turns=None if self.turns is None else [self.turns[i] for i in rows],
            words=None if self.words is None else [self.words[i] for i in rows],
            variants={kind: [texts[i] for i in rows] for kind, texts in self.variants.items()},
            fields=self.fields.iloc[rows].reset_index(drop=True)
            if len(self.fields)
            else self.fields,
        )

    def sample(self, n: int, seed: int = 0) -> ConceptDataset:
        """Draw about ``n`` examples (never more): whole groups, classes in their proportions.

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
        if self.test is not None:  # Both sides of a split keep their proportions too.
            label_of = 2 * label_of + self.test
        counts = np.zeros((group_of.max() + 1, label_of.max() + 1), dtype=int)
        np.add.at(counts, (group_of, label_of), 1)
        mostly = counts.argmax(axis=1)
        rng = np.random.default_rng(seed)
        draw = rng.permutation(len(counts))
        # Rank of each group in its class, as a fraction: sorting by it interleaves the classes.
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
