"""Helpers: probes of tiny models, saved where a run would save them."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import toy

import llmprobe
from llmprobe.config.schema import ModelConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction.activations import Activations
from llmprobe.results.results import Results
from llmprobe.results.saved_probe import SavedProbe

QUICK = toy.QUICK | {"progress": False}


def fit(
    model: Path | ModelConfig, dataset: ConceptDataset, kind: str = "logistic", **extract: Any
) -> tuple[SavedProbe, Activations]:
    """The probe of a dataset, and the states that it was fitted on."""
    if not isinstance(model, ModelConfig):
        extract = {"dtype": "float32"} | extract
    activations = llmprobe.extract(model, dataset, cache=False, progress=False, **extract)
    options = QUICK | ({"controls": []} if kind == "ridge" else {})
    (probe,) = llmprobe.probe(activations, kind=kind, **options).probes
    return probe, activations


def save(probe: SavedProbe, run: Path) -> Path:
    """In a run folder, under the names of its model and dataset."""
    names = probe.facts["model"], f"{probe.facts['dataset']}.safetensors"
    return probe.save(run.joinpath("probes", *names))


def at(results: Results, position: str) -> Results:
    """What was probed of arrays, as if they were the states at a position in texts."""
    tables: dict[str, Any] = {
        field.name: table.assign(position=position)
        for field in fields(results)
        if isinstance(table := getattr(results, field.name), pd.DataFrame)
        and field.name != "examples"
    }
    for name in ("probes", "fold0_probes"):
        tables[name] = tuple(
            replace(probe, facts={**probe.facts, "position": position})
            for probe in getattr(results, name)
        )
    return replace(results, **tables)
