"""The form of every published dataset: an entry of data, and a small parser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import Parameter, Signature

import pandas as pd

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.options import require_choice
from llmprobe.datasets.published.files import KnownFile, fetch
from llmprobe.datasets.registry import YOURS, dataset

Group = str | Callable[[pd.DataFrame], pd.Series] | None
"""The column, or function of the parser's table, with the group of each text. [n]"""


@dataclass(frozen=True)
class PublishedDataset:
    """A dataset that others published: where its files are, how they are read, whom to cite.

    Calling it with options builds the dataset, and downloads what is not on this disk.
    """

    name: str
    """The name that a config uses, such as "collection/stem"."""
    question: str
    """What is asked of a text, with the label of each answer; the line that lists show."""
    files: tuple[KnownFile, ...]
    """The files that are read by default, each with URL, digest and licence."""
    citation: str
    """Whom to cite."""
    parser: Callable[..., pd.DataFrame]
    """From the paths of the files, and the ``parser_options`` as keywords, to a table with the
    columns text and label; other columns become fields."""
    group: Group = None
    """Which texts no split may tear apart: a column, or a function of the parser's table. [n]"""
    template: str = ""
    """The default template of the texts, with ``{text}`` in it."""
    description: str = ""
    """What ``show`` says is asked; by default the question."""
    family: str = YOURS
    """The heading under which it is listed."""
    splits: Mapping[str, tuple[KnownFile, ...]] = field(default_factory=dict)
    """The files of each value of the option ``split``; those of the default are ``files``."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """The template of each value of the option ``prompts``; that of the default is ``template``."""
    classes: Mapping[str, str] = field(default_factory=dict)
    """What figures and pages call each label, by the label as text."""
    parser_options: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The allowed values of each option that the parser takes, the default first."""

    @property
    def __signature__(self) -> Signature:
        """Return the options with their defaults, which the registry reads from signatures."""
        defaults = {}
        if self.prompts:
            defaults["prompts"] = _key_of(self.template, self.prompts)
        if self.splits:
            defaults["split"] = _key_of(self.files, self.splits)
        defaults |= {option: values[0] for option, values in self.parser_options.items()}
        return Signature(
            [Parameter(k, Parameter.KEYWORD_ONLY, default=v) for k, v in defaults.items()]
        )

    def __call__(self, **options: str) -> ConceptDataset:
        """Build the dataset.

        Raises
        ------
        UserError
            An option has a value that is not allowed, or a file is not of the form it should have.
        NotOnDiskError
            A file is not on this disk and cannot be downloaded.
        """
        allowed = {**self.parser_options, "split": self.splits, "prompts": self.prompts}
        for option, value in options.items():
            require_choice(self.name, option, value, allowed[option])
        files = self.splits[options.pop("split")] if "split" in options else self.files
        template = self.prompts[options.pop("prompts")] if "prompts" in options else self.template
        table = self.parser(*(fetch(file, self.name) for file in files), **options)
        labels = table["label"]
        groups = table[self.group] if isinstance(self.group, str) else None
        if callable(self.group):
            groups = self.group(table)
        return ConceptDataset(
            name=self.name,
            texts=table["text"].tolist(),
            labels=labels.to_numpy() if labels.dtype.kind in "iu" else labels.to_numpy(str),
            groups=None if groups is None else groups.astype(str).to_numpy(str),
            fields=table.drop(columns=["text", "label"]).reset_index(drop=True),
            template=template,
            class_names=dict(self.classes),
            source="; ".join(file.origin for file in files),
            citation=self.citation,
            licence="; ".join(dict.fromkeys(file.licence for file in files)),
            version=" ".join(dict.fromkeys(file.version for file in files)),
            description=self.description or self.question,
        )


def _key_of(value: object, mapping: Mapping[str, object]) -> str:
    return next(key for key, other in mapping.items() if other == value)


def register(entry: PublishedDataset) -> PublishedDataset:
    """Make a published dataset known by its name.

    Raises
    ------
    UserError
        The name is taken by another dataset.
    """
    dataset(entry.name, entry.family, summary=entry.question)(entry)
    return entry
