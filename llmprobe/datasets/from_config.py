"""From what a config says of a dataset to its texts and labels."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from llmprobe.config.schema import TABLE_SUFFIXES, DatasetConfig
from llmprobe.datasets import registry
from llmprobe.datasets.conversions import is_saved
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.from_table import parts_of_table
from llmprobe.datasets.hub import table_from_disk, table_from_hub
from llmprobe.datasets.perturb import perturbed
from llmprobe.datasets.published.files import may_download
from llmprobe.datasets.tables import read_table
from llmprobe.datasets.templates import templated
from llmprobe.datasets.unlabelled import without_label
from llmprobe.ground.errors import UserError, suggestion
from llmprobe.ground.files import existing
from llmprobe.ground.text import shortened

log = logging.getLogger(__name__)


def dataset_from_config(config: DatasetConfig) -> ConceptDataset:
    """Return the dataset that ``config`` asks for, put into its template, unchecked."""
    dataset = untemplated_dataset(config)
    template = config.template or dataset.template
    return sampled(templated(dataset, template) if template else dataset, config)


def untemplated_dataset(config: DatasetConfig) -> ConceptDataset:
    """Return the dataset, perturbed as ``config`` says, but neither in a template nor sampled."""
    dataset = _dataset_of_ones_own(config) if config.is_own else _known_dataset(config)
    if config.drop.unlabelled and len(dataset.classes) > 1:
        dataset = dataset.take(np.flatnonzero(~without_label(dataset.labels)))
    if config.drop.classes_under:
        dataset = _without_rare_classes(dataset, config.drop.classes_under)
    return dataset if config.perturb is None else perturbed(dataset, config.perturb)


def _without_rare_classes(dataset: ConceptDataset, least: int) -> ConceptDataset:
    """Leave out the classes with fewer than ``least`` examples, and log which."""
    classes, of_class, counts = np.unique(dataset.labels, return_inverse=True, return_counts=True)
    rare = counts < least
    if rare.all():
        raise UserError(
            f"{dataset.name}: drop.classes_under {least}: no class has as many examples; the most "
            f"frequent has {counts.max()}"
        )
    if not rare.any():
        return dataset
    log.info("%s: %d examples of %d classes with fewer than %d are left out: %s", dataset.name,
             counts[rare].sum(), rare.sum(), least,
             ", ".join(shortened([str(name) for name in classes[rare]])))  # fmt: skip
    return dataset.take(np.flatnonzero(~rare[of_class]))


def sampled(dataset: ConceptDataset, config: DatasetConfig) -> ConceptDataset:
    """Draw at most as many examples as ``config`` asks for."""
    if config.n is None or config.n >= len(dataset):
        return dataset
    return dataset.sample(config.n, config.seed or 0)


def _dataset_of_ones_own(config: DatasetConfig) -> ConceptDataset:
    """Return the dataset of a file, a folder or the Hub."""
    where = str(config.path)
    if config.path is None:
        table, where = table_from_hub(config, may_download())
    else:
        path = existing(config.path) or config.path
        if path.is_dir():
            table = table_from_disk(path, config.split)
        elif config.split is not None:
            raise UserError(f"{where}: split {config.split!r} belongs to a folder, not to a file")
        elif is_saved(path) and not config.names_columns:
            return replace(ConceptDataset.load(path), name=config.title)
        else:
            table = read_table(path, config.encoding, config.delimiter, config.quoting)
    return ConceptDataset(**parts_of_table(table, config, where))


def _known_dataset(config: DatasetConfig) -> ConceptDataset:
    if config.name not in registry.REGISTRY:
        raise UserError(f"dataset {config.name!r} is not known; {_hint(config.name)}")
    accepted = registry.REGISTRY[config.name].options
    options = dict(config.options)
    # A synthetic dataset makes as many as are asked for; a shipped one is drawn from.
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
