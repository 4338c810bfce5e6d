"""From what the config says of a dataset to its texts and labels."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import llmprobe.datasets.comparisons
import llmprobe.datasets.facts
import llmprobe.datasets.published
import llmprobe.datasets.synthetic  # noqa: F401
from llmprobe.config.load import dataset_config
from llmprobe.config.schema import TABLE_SUFFIXES, DatasetConfig
from llmprobe.datasets import registry, storage
from llmprobe.datasets.checks import check
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.from_table import dataset_from_table
from llmprobe.datasets.hub import table_from_disk, table_from_hub
from llmprobe.datasets.perturb import perturbed
from llmprobe.datasets.published.files import may_download
from llmprobe.datasets.tables import read_table
from llmprobe.datasets.templates import templated
from llmprobe.ground.errors import UserError, suggestion
from llmprobe.ground.files import existing

log = logging.getLogger(__name__)


def load_dataset(
    dataset: str | Path | Mapping[str, Any] | DatasetConfig = "",
    *,
    include: Iterable[str | Path] = (),
    **options: Any,
) -> ConceptDataset:
    """A dataset known by name, from a file, or from the Hugging Face Hub.

    ``load_dataset("capitals")``, ``load_dataset("coin_flip", n=500, seed=1,
    options={"people": 6})``, ``load_dataset("my.csv", text="statement", label="label",
    group="city", template="True or False? {text}")``, ``load_dataset(hub="stanfordnlp/imdb",
    split="test")``: the keywords are those of a config mapping.

    What misleads (repeats, imbalance, words or lengths that tell the label) is said in warnings.

    Parameters
    ----------
    include
        Files or folders with datasets of one's own, see ``llmprobe.include``.

    Raises
    ------
    UserError
        An unknown name, option, file or column; rows that cannot be probed.
    """
    from llmprobe.datasets.include import include as register

    for path in include:
        register(path)
    if isinstance(dataset, str | Path):
        config = dataset_config(dataset, **options)
    elif isinstance(dataset, Mapping):
        config = dataset_config(**{**dataset, **options})
    elif not isinstance(dataset, DatasetConfig):
        raise UserError(
            f"load_dataset: {type(dataset).__name__!r} is no name, path or mapping; for a table "
            "there is ConceptDataset.from_pandas"
        )
    elif options:
        raise UserError(f"load_dataset: {min(options)} belongs into the DatasetConfig")
    else:
        config = dataset
    ready = loaded(config)
    tell(ready)
    return ready


def tell(dataset: ConceptDataset, refuse: bool = False) -> None:
    """Log what the checks find in a dataset; with ``refuse``, raise what forbids to probe it."""
    for finding in check(dataset):
        if finding.level == "error" and refuse:
            raise UserError(f"dataset {dataset.name!r}: {finding.message}")
        if finding.level != "note":
            log.warning("%s: %s", dataset.name, finding.message)


def loaded(config: DatasetConfig) -> ConceptDataset:
    """As ``config`` says, unchecked."""
    ready = untemplated(config)
    template = config.template or ready.template
    if template:
        ready = templated(ready, template)
    if config.n is not None and config.n < len(ready):
        ready = ready.sample(config.n, config.seed or 0)
    return ready


def untemplated(config: DatasetConfig) -> ConceptDataset:
    """Perturbed if ``config`` says so, but neither put into a template nor sampled."""
    ready = _own(config) if config.is_own else _known(config)
    return ready if config.perturb is None else perturbed(ready, config.perturb)


def _own(config: DatasetConfig) -> ConceptDataset:
    """From a file, a folder or the Hub."""
    if config.path is None:
        table, where = table_from_hub(config, may_download())
        return dataset_from_table(table, config, where)
    path = existing(config.path) or config.path
    if path.is_dir():
        return dataset_from_table(table_from_disk(path, config.split), config, str(config.path))
    if config.split is not None:
        raise UserError(f"{config.path}: split {config.split!r} belongs to a folder, not to a file")
    if storage.is_saved(path) and not (config.text or config.label or config.group):
        return replace(storage.load(path), name=config.title)
    table = read_table(path, config.encoding, config.delimiter)
    return dataset_from_table(table, config, str(config.path))


def _known(config: DatasetConfig) -> ConceptDataset:
    if config.name not in registry.REGISTRY:
        raise UserError(f"dataset {config.name!r} is not known; {_hint(config.name)}")
    accepted = registry.REGISTRY[config.name].options
    options = dict(config.options)
    # A generated dataset makes as many as are asked for; a shipped one is drawn from.
    for name, value in (("n", config.n), ("seed", config.seed)):
        if name in accepted and value is not None:
            options.setdefault(name, value)
    return replace(registry.build(config.name, **options), name=config.title)


def _hint(name: str) -> str:
    """What may have been meant by a name that is not known."""
    close = suggestion(name, registry.REGISTRY)
    if close.startswith("did you mean"):
        return close
    if existing(name) is not None:
        kinds = ", ".join(TABLE_SUFFIXES)
        return f"for a folder that was saved write ./{name}; files end in {kinds}"
    if name.count("/") == 1:
        return f"for one on the Hugging Face Hub write hub:{name}"
    return "`llmprobe ls datasets` lists the names; files end in " + ", ".join(TABLE_SUFFIXES)
