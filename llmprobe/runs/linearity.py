"""Whether what the probes of a run read is linear, kept beside each part of its results."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace

import numpy as np
import pandas as pd

from llmprobe.config.schema import LinearConfig, ProbeConfig
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import digest
from llmprobe.ground.progress import Progress
from llmprobe.probing.linearity import linearity_gap, rank
from llmprobe.probing.tasks import build_tasks
from llmprobe.results.columns import LINEAR
from llmprobe.results.folder import Part
from llmprobe.results.results import Results
from llmprobe.runs.parts import StatesOf, kept_tables

log = logging.getLogger(__name__)

_SPREAD = 4
"""Layers from the first to the last beside the best one."""


def linearity_beside(
    part: Part,
    states: StatesOf,
    position: str,
    results: Results,
    config: LinearConfig,
    probe: ProbeConfig,
) -> Results:
    """Return the results of a part with how much more curved probes read of the same states."""
    note = ""
    if probe.kind not in ("logistic", "ridge"):
        note = f"The probe is {probe.kind}; a gap is that of a logistic or a ridge probe."
    elif position.startswith("tokens:") and position != "tokens:mean":
        note = "The probe pools scores of tokens, so it is not linear in one state."
    name = f"linear-{digest(config.model_dump(mode='json'))[:16]}"

    def compute() -> list[pd.DataFrame]:
        return [_computed(states, position, results, config, probe)]

    tables = None
    if not note:
        try:
            tables = kept_tables(part, [name], compute)
        except UserError as error:
            note = str(error)
    if tables is None:
        log.warning("%s: whether it is linear is not known: %s", states.where(position), note)
        return replace(results, summary=results.summary.assign(linearity_note=note))
    (rows,) = tables
    table = results.table.drop(columns=list(LINEAR)).merge(
        rows[["layer", *LINEAR]], on="layer", how="left"
    )
    best = rows[rows["layer"] == results.summary["peak_layer"].iloc[0]].iloc[0]
    known = {column: float(best[column]) for column in (*LINEAR, "rank")}
    return replace(results, table=table[list(results.table)],
                   summary=results.summary.assign(**known))  # fmt: skip


def _computed(
    states: StatesOf, position: str, results: Results, config: LinearConfig, probe: ProbeConfig
) -> pd.DataFrame:
    """Return a row for each layer: ``columns.LINEAR``, and at the best one the directions.

    Raises
    ------
    UserError
        There is no such layer, or the folds have too few examples to choose anything inside them.
    """
    at, dataset = states.at(position), states.dataset
    units, best = dataset.units, int(results.summary["peak_layer"].iloc[0])
    layers = _layers(config, at.layers, best)
    tasks = build_tasks(
        dataset.labels, units, probe.alone(repeats=1, l2="auto"), dataset.name, dataset.test
    )
    rows = []
    with Progress(f"linear? {states.where(position)}", len(layers)) as bar:
        for layer in layers:
            X = at.layer(layer)
            gap = linearity_gap(
                X, tasks, units, features=config.features, null=config.null, seed=probe.seed
            )
            row = {"layer": layer, **dict(zip(LINEAR, asdict(gap).values(), strict=True))}
            asked = layer == best and config.rank
            row["rank"] = rank(X, tasks, units, probe.seed) if asked else np.nan
            rows.append(row)
            bar.advance(1)
    return pd.DataFrame(rows)


def _layers(config: LinearConfig, layers: list[int], best: int) -> list[int]:
    """Return the layers that are asked about, the best one among them."""
    if config.layers == "auto":
        places = np.linspace(0, len(layers) - 1, min(_SPREAD, len(layers))).round().astype(int)
        return sorted({best, *(layers[place] for place in places)})
    unknown = set(config.layers) - set(layers)
    if unknown:
        raise UserError(f"linear.layers: there is no layer {min(unknown)}; they are {layers[0]} to "
                        f"{layers[-1]}")  # fmt: skip
    return sorted({best, *config.layers})
