"""Whether what a run's probes read is linear, stored with each part of its results."""

from __future__ import annotations

import logging
from dataclasses import replace

import pandas as pd

from llmprobe.config.schema import LinearConfig, ProbeConfig
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import digest
from llmprobe.probing.linearity import linearity_of_layers, with_linearity
from llmprobe.probing.tasks import build_tasks
from llmprobe.results.folder import Part
from llmprobe.results.results import Results
from llmprobe.runs.parts import StatesOf, kept_tables

log = logging.getLogger(__name__)


def linearity_beside(
    part: Part,
    states: StatesOf,
    position: str,
    results: Results,
    config: LinearConfig,
    probe: ProbeConfig,
) -> Results:
    """Add to the results of a part how much more curved probes read from the same states."""
    note = ""
    if probe.kind not in ("logistic", "ridge"):
        note = f"The probe is {probe.kind}; only logistic and ridge probes have a linearity gap."
    elif position.startswith("tokens:") and position != "tokens:mean":
        note = "The probe pools scores of tokens, so it is not linear in one state."
    name = f"linear-{digest(config.model_dump(mode='json'))[:16]}"

    def compute() -> list[pd.DataFrame]:
        dataset = states.dataset
        tasks = build_tasks(
            dataset.labels, dataset.units, probe.alone(repeats=1, l2="auto"), dataset.name,
            dataset.test,
        )  # fmt: skip
        best = int(results.summary["peak_layer"].iloc[0])
        return [
            linearity_of_layers(
                states.at(position), tasks, dataset.units, best, config,
                seed=probe.seed, label=states.where(position),
            )
        ]  # fmt: skip

    tables = None
    if not note:
        try:
            tables = kept_tables(part, [name], compute)
        except UserError as error:
            note = str(error)
    if tables is None:
        log.warning("%s: whether it is linear is not known: %s", states.where(position), note)
        return replace(results, summary=results.summary.assign(linearity_note=note))
    return with_linearity(results, *tables)
