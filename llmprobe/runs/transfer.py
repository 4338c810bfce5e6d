"""The transfer in a run: the sets of examples, and a part for each model and position."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from llmprobe.config.schema import ProbeConfig, TransferConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.masking import masked
from llmprobe.ground.errors import UserError
from llmprobe.probing.transfer import transfer
from llmprobe.probing.transfer_plan import TransferPlan, plan_transfer
from llmprobe.probing.transfer_sets import Masked, sets_of_all
from llmprobe.probing.workers import Arrays, DatasetStates, States
from llmprobe.results.transfer import TransferMatrix
from llmprobe.runs.parts import RESULTS_VERSION, StatesOf, kept_tables, part_of

log = logging.getLogger(__name__)

TABLES = {"transfer": "table", "transfer_layers": "layers"}
"""The file of each table, without its suffix, and the field of the matrix that holds it."""


@dataclass(frozen=True)
class _StatesAt:
    """The states of a dataset at a position, read on first use."""

    of: StatesOf
    position: str

    @property
    def states(self) -> DatasetStates:
        return self.of.at(self.position)

    @property
    def layers(self) -> list[int]:
        return self.states.layers

    @property
    def n_tokens(self) -> np.ndarray | None:
        return self.states.n_tokens

    def layer(self, index: int) -> np.ndarray:
        return self.states.layer(index)

    def n_bytes(self, index: int) -> int:
        return self.states.n_bytes(index)


def masked_datasets(config: TransferConfig, dataset: ConceptDataset) -> dict[str, ConceptDataset]:
    """Return the dataset with a field masked, for each field of ``config.mask`` that it has."""
    has = [*dataset.spans, *map(str, dataset.fields.columns)]
    return {field: masked(dataset, field) for field in config.mask if field in has}


def plan_of(
    config: TransferConfig,
    probe: ProbeConfig,
    datasets: Sequence[tuple[ConceptDataset, States]],
    masks: Mapping[str, Sequence[Masked]],
) -> TransferPlan:
    """Return the plan of the transfers that the section ``transfer`` asks for.

    Parameters
    ----------
    datasets
        The datasets with their states.
    masks
        By the name of a dataset, its texts and states with each field masked.

    Raises
    ------
    UserError
        There is no such field or set, or a set is too small.
    """
    for field in config.mask:
        if not any(name == field for of_dataset in masks.values() for name, _, _ in of_dataset):
            known = dict.fromkeys(
                name for one, _ in datasets for name in (*one.spans, *map(str, one.fields.columns))
            )
            raise UserError(f"transfer: mask: no dataset has a field {field!r}; fields: "
                            f"{', '.join(known) or 'none'}")  # fmt: skip
    sets = sets_of_all(datasets, config.by, config.leave_one_out, masks)
    return plan_transfer(sets, probe, config.train, config.test, config.entity)


def check_transfer(
    config: TransferConfig,
    probe: ProbeConfig,
    datasets: Sequence[ConceptDataset],
    has_models: bool = True,
) -> None:
    """Raise ``UserError`` for errors that can be found before a model is loaded.

    Parameters
    ----------
    has_models
        Whether the config has models, not only hidden states of another engine.
    """
    if config.mask and not has_models:
        raise UserError("transfer: mask: the hidden states are from elsewhere (activations), and "
                        "there is no model that could read texts without a field")  # fmt: skip
    if datasets:
        nowhere = Arrays({})
        masks = {
            dataset.name: [(field, texts, nowhere)
                           for field, texts in masked_datasets(config, dataset).items()]
            for dataset in datasets
        }  # fmt: skip
        plan_of(config, probe, [(dataset, nowhere) for dataset in datasets], masks)


def transfer_part(
    out: Path,
    states: Sequence[StatesOf],
    position: str,
    probe: ProbeConfig,
    config: TransferConfig,
    *,
    compute: bool = True,
) -> TransferMatrix | None:
    """Compute the transfer in one model at one position, or read it if it was computed before.

    -> None if it was not computed before and ``compute`` is false

    Raises
    ------
    UserError
        An extraction is missing, and the states must not be extracted.
    """
    datasets = [(of.dataset, _StatesAt(of, position)) for of in states]
    masks = {
        of.dataset.name: [
            (field, texts, _StatesAt(replace(of, dataset=texts), position))
            for field, texts in masked_datasets(config, of.dataset).items()
        ]
        for of in states
    }
    plan = plan_of(config, probe, datasets, masks)
    extractor = states[0].extractor
    model = extractor.model_config.name
    depends_on = {
        "version": RESULTS_VERSION,
        "names": [model, position],
        "sets": [
            [
                one.name, extractor.folder(one.dataset).name,
                one.dataset.content_hash, one.rows.tolist(),
                plan.unit_of[one].tolist(), plan.fold_of[one].tolist(),
            ]
            for one in plan.unit_of
        ],
        "probe": probe.model_dump(mode="json", include={"kind", "folds", "l2", "seed"}),
        "transfer": config.model_dump(mode="json"),
    }  # fmt: skip
    part = part_of(out, f"transfer-{model}", depends_on)

    def computed() -> list[pd.DataFrame]:
        matrix = transfer(plan, across_layers=config.across_layers, model=model, position=position)
        return [getattr(matrix, field) for field in TABLES.values()]

    tables = kept_tables(part, [*TABLES], None)
    if not compute and tables is None:
        return None
    if tables is None:
        tables = kept_tables(part, [*TABLES], computed)
        assert tables is not None
    elif compute:
        log.info("transfer in %s: already computed", model)
    return TransferMatrix(**dict(zip(TABLES.values(), tables, strict=True)))
