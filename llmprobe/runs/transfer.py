"""The transfer of a run: sets of its examples, and a part for each model and position."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from llmprobe.config.schema import ProbeConfig, TransferConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.probing.transfer import TransferPlan, plan_transfer, sets_of_all, transfer
from llmprobe.probing.workers import Arrays, DatasetStates, States
from llmprobe.results.transfer import TransferMatrix
from llmprobe.runs.parts import RESULTS_VERSION, StatesOf, kept_tables, part_of

log = logging.getLogger(__name__)

TABLES = {"transfer": "table", "transfer_layers": "layers"}
"""The file of each table, without its suffix, and the field of the matrix that holds it."""


@dataclass(frozen=True)
class _StatesAt:
    """The states of a dataset at a position, which are read when they are wanted."""

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


def plan_of(
    config: TransferConfig, probe: ProbeConfig, datasets: Sequence[tuple[ConceptDataset, States]]
) -> TransferPlan:
    """Return what the section ``transfer`` asks for, of datasets and their states.

    Raises
    ------
    UserError
        There is no such field or set, or a set is too small.
    """
    sets = sets_of_all(datasets, config.by)
    return plan_transfer(sets, probe, config.train, config.test, config.entity)


def check_transfer(
    config: TransferConfig, probe: ProbeConfig, datasets: Sequence[ConceptDataset]
) -> None:
    """Raise ``UserError`` for what can be seen to be wrong before a model is loaded."""
    if datasets:
        plan_of(config, probe, [(dataset, Arrays({})) for dataset in datasets])


def transfer_part(
    out: Path,
    states: Sequence[StatesOf],
    position: str,
    probe: ProbeConfig,
    config: TransferConfig,
    *,
    compute: bool = True,
) -> TransferMatrix | None:
    """Compute the transfer of one model at one position, or read what was computed before.

    -> None where nothing is kept of these states, and nothing is to be computed

    Raises
    ------
    UserError
        An extraction is missing, and is not to be made.
    """
    of_datasets = {of.dataset.name: of for of in states}
    plan = plan_of(config, probe, [(of.dataset, _StatesAt(of, position)) for of in states])
    extractor = states[0].extractor
    model = extractor.model_config.name
    depends_on = {
        "version": RESULTS_VERSION,
        "names": [model, position],
        "sets": [
            [
                one.name, of_datasets[one.dataset.name].extractor.folder(one.dataset).name,
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
