"""From what the config says of a dataset to its texts and labels."""

from __future__ import annotations

import inspect
import logging
import string
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import llmprobe.concepts.builders  # noqa: F401  (registers the known datasets)
from llmprobe.concepts import registry
from llmprobe.concepts.dataset import ConceptDataset
from llmprobe.concepts.tables import dataset_from_table, read_table
from llmprobe.config import TABLE_SUFFIXES, DatasetConfig, is_table, template_fields
from llmprobe.config_file import validated
from llmprobe.errors import UserError, suggestion
from llmprobe.files import existing

log = logging.getLogger(__name__)


def load_dataset(dataset: str | Path | DatasetConfig, **options: Any) -> ConceptDataset:
    """A dataset known by name, or from a file.

    ``load_dataset("capitals")``, ``load_dataset("coin_flip", n=500, seed=1,
    options={"people": 6})``, ``load_dataset("my.csv", text="statement", label="label",
    group="city", template="True or False? {text}")``: the keywords are those of a config mapping.

    Raises
    ------
    UserError
        An unknown name, option, file or column; rows that cannot be probed.
    """
    if isinstance(dataset, DatasetConfig):
        config = dataset
    else:
        key = "path" if is_table(dataset) else "name"
        config = validated(DatasetConfig, {key: str(dataset), **options}, f"dataset {dataset}")
    loaded = _from_file(config) if config.path is not None else _known(config)
    if config.template is not None:
        loaded = _templated(loaded, config.template)
    if config.n is not None and config.n < len(loaded):
        loaded = loaded.sample(config.n, config.seed)
    _warn_of_repeats(loaded)
    return loaded


def _from_file(config: DatasetConfig) -> ConceptDataset:
    assert config.path is not None
    path = existing(config.path) or config.path
    return dataset_from_table(read_table(path), config, str(config.path))


def _known(config: DatasetConfig) -> ConceptDataset:
    if config.name not in registry.REGISTRY:
        raise UserError(
            f"dataset {config.name!r} is not known (a file ends in {', '.join(TABLE_SUFFIXES)}); "
            f"{suggestion(config.name, registry.REGISTRY)}"
        )
    accepted = inspect.signature(registry.REGISTRY[config.name].build).parameters
    options = dict(config.options)
    # A generated dataset makes as many as are asked for; a shipped one is drawn from.
    for name, value in (("n", config.n), ("seed", config.seed)):
        if name in accepted and value is not None:
            options.setdefault(name, value)
    return replace(registry.build(config.name, **options), name=config.title)


def _templated(dataset: ConceptDataset, template: str) -> ConceptDataset:
    """The texts put into ``template``, whose fields are text and the dataset's other fields."""
    where = f"dataset {dataset.name!r}: template field"
    names = list(dict.fromkeys(template_fields(template)))
    values = dataset.fields.assign(text=dataset.texts)
    for name in names:
        if name not in values.columns:
            known = [str(column) for column in values.columns]
            raise UserError(f"{where} {{{name}}}: {suggestion(name, known)}")
        missing = np.flatnonzero(values[name].isna())
        if len(missing):
            raise UserError(f"{where} {{{name}}}: row {missing[0] + 1} has no value in that column")
    rows = values[names].astype(object).to_dict("records")
    parts = list(string.Formatter().parse(template))
    spans: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
    texts = []
    try:
        for row in rows:
            text, places = "", {}
            for literal, field, spec, conversion in parts:
                text += literal
                if field is not None:
                    kind = f"!{conversion}" if conversion else ""
                    filled = f"{{{field}{kind}:{spec}}}".format_map(row)
                    places[field] = (len(text), len(text) + len(filled))
                    text += filled
            texts.append(text)
            for name, place in places.items():
                spans[name].append(place)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(
            f"dataset {dataset.name!r}: template {template!r} cannot be filled: {error}"
        ) from None
    return replace(dataset, texts=texts, spans=spans)


def _warn_of_repeats(dataset: ConceptDataset) -> None:
    """Say when a text occurs twice, perhaps with another label: copies count as one unit."""
    labels: dict[str, set[str]] = {}
    for text, label in zip(dataset.texts, dataset.labels, strict=True):
        labels.setdefault(text, set()).add(str(label))
    repeats = len(dataset) - len(labels)
    if repeats:
        contradictory = sum(len(kinds) > 1 for kinds in labels.values())
        text, times = Counter(dataset.texts).most_common(1)[0]
        log.warning(
            "%s: %d of %d texts are repeats (%d with two labels), %r occurs %d times; copies, "
            "and the groups they are in, stay in one fold",
            dataset.name, repeats, len(dataset), contradictory, text[:60], times,
        )  # fmt: skip


def known_datasets() -> list[tuple[str, str]]:
    """Name and first line of what each known dataset is."""
    return [(name, entry.summary) for name, entry in sorted(registry.REGISTRY.items())]


def describe(name: str) -> str:
    """What ``llmprobe show`` prints: source, licence, size, balance, options, examples."""
    dataset = load_dataset(name)
    lines = [f"{dataset.name}  {dataset.description}".rstrip()]
    lines += [f"source   {dataset.source}"] if dataset.source else []
    lines += [f"licence  {dataset.licence}"] if dataset.licence else []
    size = f"{len(dataset):,} texts"
    if dataset.groups is not None:
        size += f" in {len(set(dataset.groups)):,} groups"
    lines.append(f"size     {size}")
    lines.append(f"labels   {_balance(dataset)}")
    if len(dataset.fields.columns):
        lines.append(f"fields   {', '.join(map(str, dataset.fields.columns))}")
    if name in registry.REGISTRY:
        options = registry.REGISTRY[name].options.items()
        lines.append(f"options  {', '.join(f'{key}={value!r}' for key, value in options)}")
    lines.append("examples")
    width = min(20, max(len(str(label)) for label in dataset.classes))
    for row in _examples(dataset):
        label = f"{dataset.labels[row]!s:.20}"
        lines.append(f"  {label:>{width}}  {_shortened(dataset.texts[row])}")
    return "\n".join(lines)


def _balance(dataset: ConceptDataset) -> str:
    """How many of each class, or between what numbers with fractions lie."""
    labels = dataset.labels
    if labels.dtype.kind == "f":
        return f"numbers from {labels.min():g} to {labels.max():g}, mean {labels.mean():g}"
    counts = sorted(Counter(labels.tolist()).items())
    return ", ".join(f"{label}: {n:,} ({n / len(labels):.1%})" for label, n in counts)


def _examples(dataset: ConceptDataset, n: int = 8) -> list[int]:
    """About ``n`` rows: as many of each class, from all over the dataset, classes in turn."""
    classes = dataset.classes[:n]
    of_class = [np.flatnonzero(dataset.labels == label) for label in classes]
    each = n // len(classes)
    # From equal stretches of its rows; each class elsewhere in them, so that subjects differ.
    return [
        int(rows[int((turn + (i + 0.5) / len(classes)) / min(each, len(rows)) * len(rows))])
        for turn in range(each)
        for i, rows in enumerate(of_class)
        if turn < len(rows)
    ]


def _shortened(text: str, width: int = 160) -> str:
    """One line of at most ``width`` characters; the end, which often holds the question, stays."""
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 41]}…{text[-40:]}"
