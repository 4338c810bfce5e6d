"""``load_dataset``, with which Python code loads a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llmprobe.config.load import dataset_config
from llmprobe.config.schema import DatasetConfig
from llmprobe.datasets.checks import log_findings
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.from_config import dataset_from_config
from llmprobe.datasets.include import include as include_file
from llmprobe.ground.errors import UserError


def load_dataset(
    dataset: str | Path | Mapping[str, Any] | DatasetConfig = "",
    *,
    include: Iterable[str | Path] = (),
    **options: Any,
) -> ConceptDataset:
    """Load a dataset known by name, from a file, or from the Hugging Face Hub.

    ``load_dataset("capitals")``, ``load_dataset("coin_flip", n=500, seed=1,
    options={"people": 6})``, ``load_dataset("my.csv", text="statement", label="label",
    group="city", template="True or False? {text}")``, ``load_dataset(hub="stanfordnlp/imdb",
    split="test")``: the keywords are those of a config mapping.

    Warnings say what may mislead: repeats, imbalance, words or lengths that give the label away.

    Parameters
    ----------
    include
        Files or folders with datasets of one's own, see ``llmprobe.include``.

    Raises
    ------
    UserError
        An unknown name, option, file or column; rows that cannot be probed.
    """
    for path in include:
        include_file(path)
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
        raise UserError(f"load_dataset: {min(options)} belongs in the DatasetConfig")
    else:
        config = dataset
    loaded = dataset_from_config(config)
    log_findings(loaded)
    return loaded
