"""What the models of a run say, stored with each part of its results."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd

from llmprobe.config.schema import ModelConfig, RunConfig
from llmprobe.extraction.extract import Extractor
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import digest
from llmprobe.models.loading import LoadedModel
from llmprobe.monitors.said import Said, said, why_not
from llmprobe.results.folder import Part
from llmprobe.results.results import Results
from llmprobe.runs.parts import StatesOf, kept_tables

log = logging.getLogger(__name__)

LoadHead = Callable[[ModelConfig], tuple[Any, LoadedModel]]
"""A function that loads a model with its head."""


def said_beside(
    part: Part,
    states: StatesOf,
    position: str,
    results: Results,
    config: RunConfig,
    load_head: LoadHead,
) -> Results:
    """Add what the model says to the results of a part, or why it cannot be asked.

    If ``states.extract`` is false, no model is run, and only stored results are added.
    """
    extractor, dataset = states.extractor, states.dataset
    model, extract = extractor.model_config, config.extract
    note = why_not(model, dataset, extract.site, position)
    words = {label: list(words) for label, words in dataset.answers.items()}
    name = f"said-{digest(words)[:16]}"

    def compute() -> list[pd.DataFrame]:
        assert isinstance(extractor, Extractor)
        head, base = load_head(extractor.model_config)
        answered = said(head, base, extractor, dataset, states.at(position), results,
                        config.probe.seed)  # fmt: skip
        return [answered.layers, answered.summary]

    if not note:
        try:
            names = [f"{name}-layers", name]
            tables = kept_tables(part, names, compute if states.extract else None)
            return results if tables is None else Said(*tables).beside(results)
        except UserError as error:
            note = str(error)
    log.warning("%s: what the model says is not known: %s", states.where(position), note)
    return replace(results, summary=results.summary.assign(said_note=note))
