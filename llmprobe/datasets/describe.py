"""What the command line prints about datasets: a list of the known ones, a page about one."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from types import MappingProxyType

import numpy as np
import pandas as pd

from llmprobe.config.schema import DatasetConfig
from llmprobe.datasets.checks import check, one_label_column
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.findings import Finding, percent
from llmprobe.datasets.from_config import class_names, sampled, untemplated_dataset
from llmprobe.datasets.perturb import perturbed
from llmprobe.datasets.published.entry import PublishedDataset
from llmprobe.datasets.published.files import is_here
from llmprobe.datasets.registry import REGISTRY, Entry
from llmprobe.datasets.templates import templated
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import size
from llmprobe.ground.text import printable

Surface = Callable[[Sequence[str], np.ndarray, np.ndarray | None], float]

WIDTH = 100
_KEY = 10
"""Width of the column of keys."""
_EXAMPLES = 8
_LONGEST_EXAMPLE = 240
_MOST_READ = 2000
_TOLD = 0.95
"""If a bag of words gets this share of labels right, there is nothing left for a probe to show."""
_BELOW = 0.1
_CONCEPTS = 8
"""Concepts, at most, for which a bag of words is fitted."""
_LABELS = 10
"""Classes, at most, whose sizes are listed."""

_FAMILIES = {
    "facts": "Facts",
    "reasoning": "Reasoning, generated in any number; the dial is the option that makes it harder",
    "jin2024": "Exploring Concept Depth (Jin et al. 2024)",
    "geometry_of_truth": "The Geometry of Truth (Marks and Tegmark 2023)",
    "senteval": "SentEval's sentences to classify (Conneau and Kiela 2018)",
    "hub": "From the Hugging Face Hub",
    "yours": "Yours",
}
"""In the order of the list; other families come last, under their own names."""

_BESIDES = (
    "`llmprobe show NAME` tells more. Besides these: a .csv, .json, .parquet, … file with texts "
    "and labels (`path: my.csv`), any dataset on the Hugging Face Hub (`hub: owner/name`), "
    "and your own by name (`--include FOLDER`)."
)


def known_datasets() -> str:
    """List every dataset known by name, in families: its dial, or whether it is on this disk."""
    families: dict[str, list[tuple[str, ...]]] = {family: [] for family in _FAMILIES}
    for name, entry in sorted(REGISTRY.items()):
        # Without the numbers of the labels, which `show` prints.
        question = re.sub(r" \(\d\)", "", entry.summary)
        state = f"dial: {entry.dial}" if entry.dial else _place(entry)
        families.setdefault(entry.family, []).append((name, state, question))
    blocks = [
        "\n".join([_FAMILIES.get(family, family), *_columns(rows)])
        for family, rows in families.items()
        if rows
    ]
    return "\n\n".join([*blocks, "\n".join(_wrapped(_BESIDES))])


def show(config: DatasetConfig, surface: Surface | None = None) -> str:
    """Return the page about the dataset that ``config`` asks for.

    Parameters
    ----------
    surface
        A function of texts, labels and groups: the accuracy of a bag of words.

    Raises
    ------
    UserError
        As for loading it. What the checks find is only printed, even an error.
    """
    plain = untemplated_dataset(config.model_copy(update={"perturb": None}))
    dataset = plain if config.perturb is None else perturbed(plain, config.perturb)
    dataset = sampled(dataset, config)
    dataset = replace(
        dataset,
        template=config.template or dataset.template,
        class_names=class_names(dataset, config),
    )
    return describe(dataset, config, sorted(plain.variants), surface)


def describe(
    dataset: ConceptDataset,
    config: DatasetConfig | None = None,
    wordings: Sequence[str] = (),
    surface: Surface | None = None,
) -> str:
    """Return what there is to know before probing: origin, size, balance, findings, examples.

    Parameters
    ----------
    dataset
        Not yet put into its template. Examples are shown without it; length, checks and content
        hash are of what a model reads.
    config
        What was asked for: options and perturbation.
    wordings
        The perturbations that the dataset itself offers.
    surface
        As for ``show``.
    """
    read = templated(dataset, dataset.template) if dataset.template else dataset
    known = config is not None and not config.is_own and config.name in REGISTRY
    entry = REGISTRY[config.name] if config and known else None
    words, from_words = _words(read, surface) if surface else ("", [])
    offered = ", ".join([*wordings, "prefix_noise", "typos", "case"])
    if dataset.turns is not None or dataset.words is not None:
        offered = ""
    elif config and config.perturb:
        offered = f"{config.perturb.kind} (done here); offered: {offered}"
    facts = {
        "source": dataset.source,
        "citation": dataset.citation,
        "licence": dataset.licence,
        "version": dataset.version,
        "size": _size(read),
        "labels": _balance(dataset.labels, dataset.class_names) if not dataset.concepts else "",
        "concepts": "; ".join(
            f"{one.name.removeprefix(f'{dataset.name}:')}: {_balance(one.labels)}"
            for one in dataset.by_concept()
            if dataset.concepts
        ),
        "turns": _roles(dataset),
        "words": words,
        "fields": ", ".join(_field(str(c), dataset.fields[c]) for c in dataset.fields.columns),
        "template": dataset.template.replace("\n", "\\n"),
        "question": _question(dataset),
        "options": ", ".join(_options(entry, config)) if entry and config else "",
        "perturb": offered,
        "content": read.content_hash[:12],
    }
    lines = [dataset.name, *_wrapped(dataset.description), ""]
    for key, value in facts.items():
        lines += _wrapped(value, f"{key:<{_KEY}}", _KEY)
    for number, finding in enumerate(_finding_lines([*from_words, *check(read)])):
        lines += _wrapped(finding, f"{'' if number else 'checks':<{_KEY}}", _KEY + 9)
    return "\n".join([*lines, "", *_example_table(dataset)])


def _place(entry: Entry) -> str:
    """Say whether a published dataset is on this disk, or how much there is to download."""
    if not isinstance(entry.build, PublishedDataset):
        return ""
    sizes = [file.size for file in entry.build.files if not is_here(file)]
    if not sizes:
        return "here"
    return "download" if None in sizes else f"download {size(sum(filter(None, sizes)))}"


def _size(dataset: ConceptDataset) -> str:
    lengths = [len(text) for text in dataset.texts]
    what = "texts" if dataset.words is None else "words"
    words = f"{len(dataset):,} {what}"
    if dataset.test is not None:
        words += f", {dataset.test.sum():,} of them to be scored" + "," * (
            dataset.groups is not None
        )
    if dataset.groups is not None:
        sizes = np.unique(dataset.groups, return_counts=True)[1]
        smallest, largest = sizes.min(), sizes.max()
        each = f"{smallest:,}" if smallest == largest else f"{smallest:,} to {largest:,}"
        words += f" in {len(sizes):,} groups of {each}"
    return f"{words}; {np.mean(lengths):,.0f} characters on average, {max(lengths):,} at most"


def _roles(dataset: ConceptDataset) -> str:
    """Say how many turns the participants of chats have."""
    roles = Counter(turn.role for turns in dataset.turns or () for turn in turns)
    return ", ".join(f"{role}: {n:,}" for role, n in roles.items())


def _balance(labels: np.ndarray, names: Mapping[str, str] = MappingProxyType({})) -> str:
    """Say how many texts each class has, or in what range the numbers are."""
    if labels.dtype.kind == "f":
        return f"numbers from {labels.min():g} to {labels.max():g}, mean {labels.mean():g}"
    counts = Counter(labels.tolist())
    largest = counts.most_common(_LABELS)
    shown = sorted(largest) if len(counts) == len(largest) else largest
    listed = [
        f"{_called(str(label), names)}: {n:,} ({percent(n / len(labels))})" for label, n in shown
    ]
    if len(counts) > len(largest):
        listed.append(f"and {len(counts) - len(largest):,} more classes")
    return f"{', '.join(listed)}; majority rate {percent(largest[0][1] / len(labels))}"


def _called(label: str, names: Mapping[str, str]) -> str:
    """Return a label and, where it has one, its name: ``1 = true``."""
    return f"{label} = {names[label]}" if label in names else label


def _words(dataset: ConceptDataset, surface: Surface) -> tuple[str, list[Finding]]:
    """Say how often a bag of words is right, for at most ``_CONCEPTS`` concepts, with findings."""
    if not dataset.concepts:
        return _words_of(dataset, surface)
    told, findings = [], []
    for concept in dataset.by_concept()[:_CONCEPTS]:
        name = concept.name.removeprefix(f"{dataset.name}:")
        said, found = _words_of(concept, surface)
        told += [f"{name}: {said}"] if said else []
        findings += [replace(finding, message=f"{name}: {finding.message}") for finding in found]
    more = len(dataset.by_concept()) - _CONCEPTS
    return "; ".join([*told, *([f"{more:,} more were not read"] if more > 0 else [])]), findings


def _words_of(dataset: ConceptDataset, surface: Surface) -> tuple[str, list[Finding]]:
    """Say how often a bag of words is right, on at most ``_MOST_READ`` texts, with findings."""
    if dataset.labels.dtype.kind == "f":
        return "", []
    try:
        some = dataset.sample(_MOST_READ)
        accuracy = surface(some.surface, some.labels, some.units)
    except UserError:  # Too few to be split.
        return "", []
    of = f" ({len(some):,} of the texts)" if len(some) < len(dataset) else ""
    said = f"a bag of words gets {percent(accuracy)} right, out of fold{of}"
    majority = max(Counter(some.labels.tolist()).values()) / len(some)
    findings = []
    if accuracy >= _TOLD and majority < _TOLD:
        column = one_label_column(dataset)
        remedy = f"use `group: {column}`" if column else "give texts on one subject one group"
        findings.append(Finding("warning", "surface", f"the words alone get {percent(accuracy)} "
                                "right, so a probe as good as that shows no more; if the label "
                                "belongs to the subject of a text, "
                                f"{remedy}"))  # fmt: skip
    elif accuracy < majority - _BELOW:
        findings.append(Finding("warning", "surface", f"the words alone get {percent(accuracy)} "
                                f"right, below the majority rate of {percent(majority)}: texts "
                                "that a split sets apart share words and have opposite labels, so "
                                "words are no floor here"))  # fmt: skip
    return said, findings


def _question(dataset: ConceptDataset) -> str:
    """Return the dataset's own question, and the words that say each label."""
    if not dataset.question:
        return ""
    words = (f"{label}: {', '.join(of)}" for label, of in dataset.answers.items())
    question = dataset.question.replace("\n", "\\n")
    return f"{question} ({'; '.join(words)}), with question: true"


def _field(name: str, values: pd.Series) -> str:
    """Return the name of a field and its values, or how many there are."""
    distinct = sorted(set(values.dropna().astype(str)))
    listed = ", ".join(distinct)
    few = len(distinct) <= 6 and len(listed) <= 50
    return f"{name} ({listed if few else f'{len(distinct):,} values'})"


def _options(entry: Entry, config: DatasetConfig) -> Iterator[str]:
    """Yield each option with its value, and the default if that differs."""
    chosen = {"n": config.n, "seed": config.seed, **config.options}
    for name, default in entry.options.items():
        value = default if chosen.get(name) is None else chosen[name]
        notes = ["the dial"] * (name == entry.dial)
        notes += [f"default {default!r}"] * (value != default)
        yield f"{name}={value!r}" + (f" ({', '.join(notes)})" if notes else "")


def _finding_lines(findings: Sequence[Finding]) -> list[str]:
    """Return a line for each finding except the majority rate, which stands with the labels."""
    listed = [f for f in findings if (f.level, f.check) != ("note", "majority")]
    return [f"{f.level:<9}{f.message}" for f in listed] or ["nothing found"]


def _example_table(dataset: ConceptDataset) -> list[str]:
    """Return label, group (if any) and text of some examples, under a header."""
    rows = _examples(dataset)
    columns = [["label", *(_one_line(str(dataset.labels[row]), 20) for row in rows)]]
    if dataset.groups is not None:
        columns.append(["group", *(_one_line(str(dataset.groups[row]), 30) for row in rows)])
    if dataset.words is not None:
        columns.append(["word", *(_one_line(dataset.surface[row], 30) for row in rows)])
    columns.append(["text", *(_one_line(dataset.texts[row], _LONGEST_EXAMPLE) for row in rows)])
    return list(_columns(zip(*columns, strict=True)))


def _examples(dataset: ConceptDataset) -> list[int]:
    """Choose up to eight rows: equally many of each class, in turn, from all over the dataset."""
    classes = dataset.classes
    if len(classes) > _EXAMPLES:
        classes = classes[np.linspace(0, len(classes) - 1, _EXAMPLES).astype(int)]
    # A class's rows come from equal stretches, at a place that differs by class, so that subjects
    # differ.
    spread = []
    for i, label in enumerate(classes):
        rows = np.flatnonzero(dataset.labels == label)
        turns = np.arange(min(_EXAMPLES // len(classes), len(rows)))
        places = (turns + (i + 0.5) / len(classes)) / len(turns) * len(rows)
        spread.append(rows[places.astype(int)].tolist())
    return [row for turn in zip_longest(*spread) for row in turn if row is not None]


def _one_line(text: str, longest: int) -> str:
    """Make a text printable, and cut out its middle: its end often holds the question."""
    text = printable(" ".join(text.split()))
    if len(text) <= longest:
        return text
    head, tail = text[: longest * 3 // 4 - 2], text[-(longest // 4) :]
    # Between words, where there are any.
    return f"{head.rpartition(' ')[0] or head} … {tail.partition(' ')[2] or tail}"


def _columns(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Yield aligned, indented columns; the last one is wrapped, and empty ones are left out."""
    columns = [column for column in zip(*rows, strict=True) if any(column)]
    widths = [max(map(len, column)) for column in columns[:-1]]
    for *cells, last in zip(*columns, strict=True):
        head = "".join(f"{cell:<{w}}  " for cell, w in zip(cells, widths, strict=True))
        yield from _wrapped(last, f"  {head}", len(head) + 2)


def _wrapped(text: str, head: str = "", indent: int = 0) -> list[str]:
    """Return lines of at most ``WIDTH`` characters after ``head``; none for no text."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=head, subsequent_indent=" " * indent, break_on_hyphens=False
    )
