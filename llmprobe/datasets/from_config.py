"""Datasets as a config asks for them: from the entry in the config to texts and labels."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from llmprobe.config.schema import TABLE_SUFFIXES, DatasetConfig, HeldOutConfig
from llmprobe.datasets import registry
from llmprobe.datasets.cells import find_column
from llmprobe.datasets.conversions import is_saved
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.findings import quoted_text
from llmprobe.datasets.from_table import parts_of_table
from llmprobe.datasets.hub import table_from_disk, table_from_hub
from llmprobe.datasets.labels import joint_labels
from llmprobe.datasets.perturb import perturbed
from llmprobe.datasets.published.files import may_download
from llmprobe.datasets.tables import read_table
from llmprobe.datasets.templates import templated
from llmprobe.datasets.unlabelled import without_label
from llmprobe.ground.errors import UserError, suggestion
from llmprobe.ground.files import existing
from llmprobe.ground.text import listed, shortened

log = logging.getLogger(__name__)


def dataset_from_config(config: DatasetConfig) -> ConceptDataset:
    """Return the dataset that ``config`` asks for, put into its template, unchecked."""
    dataset = untemplated_dataset(config)
    names = class_names(dataset, config)
    dataset = replace(_asked(dataset, config), class_names=names)
    template = dataset.question or config.template or dataset.template
    dataset = replace(dataset, question="")
    return sampled(templated(dataset, template) if template else dataset, config)


def untemplated_dataset(config: DatasetConfig) -> ConceptDataset:
    """Return the dataset, perturbed as ``config`` says, but neither in a template nor sampled."""
    dataset = _dataset_of_ones_own(config) if config.is_own else _known_dataset(config)
    if config.drop.unlabelled:
        none = [without_label(labels) for labels in dataset.concepts.values() or [dataset.labels]]
        dataset = dataset.take(np.flatnonzero(~np.any(none, axis=0)))
    if config.drop.classes_under:
        dataset = _without_rare_classes(dataset, config.drop.classes_under)
    return dataset if config.perturb is None else perturbed(dataset, config.perturb)


def class_names(dataset: ConceptDataset, config: DatasetConfig) -> dict[str, str]:
    """Return what each label is called, by the label as text, unless that is the label itself.

    Raises
    ------
    UserError
        ``config`` names a class that is not there.
    """
    each = dataset.concepts.values() or [dataset.labels]
    labels = {str(label) for values in each for label in np.unique(values)}
    for label in config.classes:
        if label not in labels:
            known = listed(shortened(sorted(labels)))
            raise UserError(f"dataset {dataset.name!r}: classes: no label {label!r}; the labels "
                            f"are {known}")  # fmt: skip
    answers = config.answers or dataset.answers
    first_answers = {label: words[0].strip() for label, words in answers.items()}
    names = config.classes or dataset.class_names or first_answers
    return {label: name for label, name in names.items() if name != label}


def _asked(dataset: ConceptDataset, config: DatasetConfig) -> ConceptDataset:
    """Return the dataset with the question and the answers that are asked for, or without any.

    Raises
    ------
    UserError
        It has no question of its own, or there is not one answer for each label.
    """
    own, where = dataset.question, f"dataset {dataset.name!r}"
    question = own if config.question is True else config.question or ""
    # A chat needs no question: it ends where an answer begins.
    if config.question is False and not (config.answers and dataset.turns is not None):
        if config.answers:
            raise UserError(f"{where}: answers need a question, a template that ends where an "
                            'answer begins, e.g. question: "{text} Answer:"')  # fmt: skip
        # A saved dataset has its answers, and is in its question already.
        return replace(dataset, question="", answers={}) if own else dataset
    if config.question is True and not own:
        raise UserError(f"{where}: has no question of its own; give a template that ends where an "
                        'answer begins, e.g. question: "{text} Answer:"')  # fmt: skip
    if dataset.concepts or dataset.words is not None or dataset.labels.dtype.kind == "f":
        kind = "several concepts" if dataset.concepts else "words"
        kind = "numbers" if dataset.labels.dtype.kind == "f" else kind
        raise UserError(f"{where}: its labels are of {kind}, and a question has an answer for each "
                        "class of texts")  # fmt: skip
    answers, classes = config.answers or dataset.answers, [str(label) for label in dataset.classes]
    if set(answers) != set(classes):
        other = next((one for one in answers if one not in classes), None)
        problem = (
            f"no label {other!r}; the labels are {listed(classes)}" if other is not None
            else f"no words for {next(one for one in classes if one not in answers)!r}"
        )  # fmt: skip
        raise UserError(f"{where}: answers: {problem}")
    ordered = {label: tuple(answers[label]) for label in classes}
    return replace(dataset, question=question, answers=ordered)


def _without_rare_classes(dataset: ConceptDataset, least: int) -> ConceptDataset:
    """Leave out the classes with fewer than ``least`` examples, and log which.

    Of several concepts, leave out those that have such a class.
    """
    if dataset.concepts:
        return _without_rare_concepts(dataset, least)
    classes, of_class, counts = np.unique(dataset.labels, return_inverse=True, return_counts=True)
    rare = counts < least
    if rare.all():
        raise UserError(
            f"{dataset.name}: drop.classes_under {least}: no class has as many examples; the most "
            f"frequent has {counts.max()}"
        )
    if not rare.any():
        return dataset
    _log_rare(dataset, f"{counts[rare].sum():,} examples of {rare.sum():,} classes", least,
              classes[rare])  # fmt: skip
    return dataset.take(np.flatnonzero(~rare[of_class]))


def _without_rare_concepts(dataset: ConceptDataset, least: int) -> ConceptDataset:
    """Leave out the concepts that have a class with fewer than ``least`` examples; log which."""
    kept = {
        name: labels
        for name, labels in dataset.concepts.items()
        if labels.dtype.kind == "f" or np.unique(labels, return_counts=True)[1].min() >= least
    }
    rare = [name for name in dataset.concepts if name not in kept]
    if not kept:
        raise UserError(
            f"{dataset.name}: drop.classes_under {least}: each of the {len(rare):,} concepts has a "
            "class with fewer examples"
        )
    if not rare:
        return dataset
    _log_rare(dataset, f"{len(rare):,} concepts with a class", least, rare)
    return replace(dataset, concepts=kept, labels=joint_labels(kept))


def _log_rare(dataset: ConceptDataset, what: str, least: int, names: Iterable[object]) -> None:
    listed = ", ".join(shortened([str(name) for name in names]))
    log.info("%s: %s with fewer than %d are left out: %s", dataset.name, what, least, listed)


def sampled(dataset: ConceptDataset, config: DatasetConfig) -> ConceptDataset:
    """Draw at most as many examples as ``config`` asks for, after ``without_leaks``.

    Raises
    ------
    UserError
        Nothing is left to fit probes on.
    """
    dataset = without_leaks(dataset)
    if config.n is None or config.n >= len(dataset):
        return dataset
    return dataset.sample(config.n, config.seed or 0)


def _dataset_of_ones_own(config: DatasetConfig) -> ConceptDataset:
    """Return the dataset of a file, a folder or the Hub."""
    path = None if config.path is None else existing(config.path)
    is_file = config.path is not None and not (path and path.is_dir())
    if path and is_file and not config.names_columns and is_saved(path):
        return replace(ConceptDataset.load(path), name=config.title)
    if is_file and config.split is not None:
        if config.test is not None:
            raise UserError(f"{config.path}: split and test both say what is scored; say one")
        held_out = HeldOutConfig(column=config.split)
        config = config.model_copy(update={"split": None, "test": held_out})
    table, where = _table(config)
    test = None
    if isinstance(config.test, str):
        key, other = ("path", Path(config.test)) if is_file else ("split", config.test)
        more, of_test = _table(config.model_copy(update={key: other}))
        parts_of_table(more, config, of_test)  # Only for its errors, which name its own rows.
        test = np.repeat([False, True], [len(table), len(more)])
        table = pd.concat([table, more], ignore_index=True)
    elif config.test is not None:
        test = _held_out(table, config.test, where)
    return ConceptDataset(**parts_of_table(table, config, where, test))


def _table(config: DatasetConfig) -> tuple[pd.DataFrame, str]:
    """Return the table of a file, a folder or the Hub, and what errors call it."""
    if config.path is None:
        return table_from_hub(config, may_download())
    path = existing(config.path) or config.path
    if path.is_dir():
        return table_from_disk(path, config.split), str(config.path)
    table = read_table(path, config.encoding, config.delimiter, config.quoting)
    return table, str(config.path)


def _held_out(table: pd.DataFrame, config: HeldOutConfig, where: str) -> np.ndarray:
    """Return which rows are to be scored. [n] bool"""
    columns = [str(column) for column in table.columns]
    column = find_column("test", config.column, columns, where)
    values = table.iloc[:, columns.index(column)].astype(str)
    test = (values == str(config.value)).to_numpy()
    if not test.any():
        known = ", ".join(shortened(sorted(set(values))))
        raise UserError(f"{where}: column {column!r}: no row has {str(config.value)!r}, so there "
                        f"is nothing to score; it has {known}")  # fmt: skip
    if test.all():
        raise UserError(f"{where}: column {column!r}: every row has {str(config.value)!r}, so "
                        "there is nothing to fit probes on")  # fmt: skip
    return test


def without_leaks(dataset: ConceptDataset) -> ConceptDataset:
    """Leave out examples to be fitted on whose text or group is in the test set; log them."""
    units = dataset.units
    if dataset.test is None or units is None:
        return dataset
    leaks = np.flatnonzero(~dataset.test & np.isin(units, units[dataset.test]))
    if not len(leaks):
        return dataset
    kept = np.setdiff1d(np.arange(len(dataset)), leaks)
    of_group = "" if dataset.groups is None else f" (group {str(dataset.groups[leaks[0]])!r:.40})"
    message = (
        f"{len(leaks):,} of {(~dataset.test).sum():,} examples outside the test set have a text or "
        f"group that is in it, such as {quoted_text(dataset, leaks[0])}{of_group}"
    )
    if dataset.test[kept].all():
        raise UserError(f"dataset {dataset.name!r}: {message}; nothing is left to fit probes on")
    log.warning("%s: %s; they are left out", dataset.name, message)
    return dataset.take(kept)


def _known_dataset(config: DatasetConfig) -> ConceptDataset:
    if config.name not in registry.REGISTRY:
        raise UserError(f"dataset {config.name!r} is not known; {_hint(config.name)}")
    accepted = registry.REGISTRY[config.name].options
    options = dict(config.options)
    # A synthetic dataset makes ``n`` texts; others are sampled later.
    for option, value in (("n", config.n), ("seed", config.seed)):
        if option in accepted and value is not None:
            options.setdefault(option, value)
    return replace(registry.build(config.name, **options), name=config.title)


def _hint(name: str) -> str:
    """Say what may have been meant by a name that is not known."""
    close = suggestion(name, registry.REGISTRY)
    if close.startswith("did you mean"):
        return close
    if existing(name) is not None:
        kinds = ", ".join(TABLE_SUFFIXES)
        return f"for a folder that was saved write ./{name}; files end in {kinds}"
    if name.count("/") == 1:
        return f"for one on the Hugging Face Hub write hub:{name}"
    return "`llmprobe ls datasets` lists the names; files end in " + ", ".join(TABLE_SUFFIXES)
