"""What the models of a run say, kept beside each part of its results."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from llmprobe.config.schema import ModelConfig, RunConfig
from llmprobe.extraction.extract import Extractor
from llmprobe.ground.digests import recorded, written_together
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import digest
from llmprobe.models.loading import LoadedModel
from llmprobe.monitors.said import Said, said, why_not
from llmprobe.results.columns import (
    LINEAR,
    LINEAR_SUMMARY,
    SAID,
    SAID_SUMMARY,
    USED,
    USED_SUMMARY,
)
from llmprobe.results.folder import Part, read_table
from llmprobe.results.results import Results
from llmprobe.run.parts import StatesOf

log = logging.getLogger(__name__)

LoadHead = Callable[[ModelConfig], tuple[Any, LoadedModel]]
"""Loads a model with its head."""


def said_beside(
    part: Part,
    states: StatesOf,
    position: str,
    results: Results,
    config: RunConfig,
    load_head: LoadHead,
) -> Results:
    """Return the results of a part with what the model says, or with why it cannot be asked.

    Where nothing is to be extracted no model is run, and only what is kept is added.
    """
    extractor, dataset = states.extractor, states.dataset
    model, extract = extractor.model_config, config.extract
    note = why_not(model, dataset, extract.site, position)
    name = f"said-{digest({label: list(words) for label, words in dataset.answers.items()})[:16]}"
    if not note:
        kept = _read(part, name)
        if kept is None and not states.extract:
            return results
        try:
            assert isinstance(extractor, Extractor)
            if kept is None:
                head, base = load_head(extractor.model_config)
                kept = said(head, base, extractor, dataset, states.at(position), results,
                            config.probe.seed)  # fmt: skip
                with written_together(part.folder) as new:
                    kept.layers.to_parquet(new(f"{name}-layers.parquet"), index=False)
                    kept.summary.to_parquet(new(f"{name}.parquet"), index=False)
            return kept.beside(results)
        except UserError as error:
            note = str(error)
    log.warning("%s: what the model says is not known: %s", states.where(position), note)
    return replace(results, summary=results.summary.assign(said_note=note))


def with_answers_of(before: Results, results: Results) -> Results:
    """Return results with what was asked of the same states before beside their probes."""
    layers = *SAID, *USED, *LINEAR
    curve = *SAID_SUMMARY, *USED_SUMMARY, *LINEAR_SUMMARY
    return replace(
        results,
        table=results.table.assign(**{name: before.table[name] for name in layers}),
        summary=results.summary.assign(**{name: before.summary[name] for name in curve}),
        interventions=before.interventions,
    )


def _read(part: Part, name: str) -> Said | None:
    """Read what is kept; None unless it is there and whole."""
    try:
        if not {f"{name}.parquet", f"{name}-layers.parquet"} <= set(recorded(part.folder)):
            return None
        return Said(read_table(part.folder, f"{name}-layers"), read_table(part.folder, name))
    except (UserError, ValueError):
        return None
