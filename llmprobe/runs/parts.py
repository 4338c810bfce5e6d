"""The parts of a run, one model on one dataset at one position each.

A run that was stopped goes on from the parts that are finished.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmprobe.config.schema import ModelConfig, ProbeConfig, file_name
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction.activations import Activations
from llmprobe.extraction.elsewhere import ActivationsFromElsewhere, StatesFromElsewhere
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.perplexity import log_perplexities
from llmprobe.extraction.text_encoder import TextEncoder
from llmprobe.ground.digests import recorded, written_together
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import digest
from llmprobe.models.loading import LoadedModel
from llmprobe.monitors.example_traces import trace_examples
from llmprobe.probing.pooling import Pooling, pooled
from llmprobe.probing.protocol import probe
from llmprobe.probing.workers import DatasetStates
from llmprobe.results.columns import (
    LINEAR,
    LINEAR_SUMMARY,
    SAID,
    SAID_SUMMARY,
    USED,
    USED_SUMMARY,
)
from llmprobe.results.curve import curve_file_name, curve_title
from llmprobe.results.folder import Part, read_table
from llmprobe.results.results import Results
from llmprobe.results.trace import Trace, read_traces, write_traces

log = logging.getLogger(__name__)

RESULTS_VERSION = 12
"""The version of the results: raise it when the same activations and config give other numbers."""

KEYS_WITHOUT_EFFECT: Mapping[str, set[str]] = {
    "model": {"name", "device", "trust_remote_code"},
    "dataset": {"alias", "classes"},
    "extract": {"batch_tokens"},
    "probe": {"device", "pooling"},
}
"""Settings without effect on the numbers of a part, by section."""


def part_of(out: Path, name: str, depends_on: Mapping[str, Any]) -> Part:
    """Return the part of a run folder whose name has a digest of all that its results depend on."""
    return Part(out / "parts" / f"{file_name(name)}-{digest(depends_on)[:16]}")


def probed_once(part: Part, compute: Callable[[], Results]) -> tuple[Results, bool]:
    """Read the results of a part, or compute and save them. -> results, and whether they are new"""
    results = part.load()
    if results is not None:
        return results, False
    results = compute()
    part.save(results)
    return results, True


def kept_tables(
    part: Part, names: Sequence[str], compute: Callable[[], Sequence[pd.DataFrame]] | None
) -> Sequence[pd.DataFrame] | None:
    """Read tables from the folder of a part, or compute and save them.

    -> None if they are missing, damaged or of another version, and ``compute`` is None
    """
    try:
        if {f"{name}.parquet" for name in names} <= set(recorded(part.folder)):
            return [read_table(part.folder, name) for name in names]
    except (UserError, ValueError):
        pass
    if compute is None:
        return None
    tables = compute()
    with written_together(part.folder) as new:
        for name, table in zip(names, tables, strict=True):
            table.to_parquet(new(f"{name}.parquet"), index=False)
    return tables


def with_answers_of(before: Results, results: Results) -> Results:
    """Add the columns of said, used and linear from earlier results of the same states."""
    layers = *SAID, *USED, *LINEAR
    curve = *SAID_SUMMARY, *USED_SUMMARY, *LINEAR_SUMMARY
    return replace(
        results,
        table=results.table.assign(**{name: before.table[name] for name in layers}),
        summary=results.summary.assign(**{name: before.summary[name] for name in curve}),
        interventions=before.interventions,
        intervention_examples=before.intervention_examples,
    )


@dataclass(frozen=True)
class StatesOf:
    """The hidden states of a dataset in a model, read once, on first use."""

    extractor: Extractor | StatesFromElsewhere
    """The source of the states."""
    dataset: ConceptDataset
    """The dataset with the texts."""
    extract: bool
    """Whether to extract what is not in the cache."""
    embeddings: bool
    """Whether to read the mean token embeddings too."""
    encoder: TextEncoder | None = None
    """The encoder of the rival ``text_encoder``, if the config asks for it."""
    load_head: Callable[[ModelConfig], tuple[Any, LoadedModel]] | None = None
    """The function that loads the model with its head, if the config asks for perplexity."""

    @cached_property
    def activations(self) -> Activations | ActivationsFromElsewhere:
        """Return the activations at all positions.

        Raises
        ------
        UserError
            They are not in the cache, and ``extract`` is false.
        """
        extractor, dataset = self.extractor, self.dataset
        if self.extract:
            if self.embeddings:
                return extractor.extract_with_embeddings(dataset)
            return extractor.extract(dataset)
        found = extractor.find(dataset, embeddings=self.embeddings) if extractor.is_local else None
        if found is None:
            raise self.not_extracted
        return found

    @property
    def encoded(self) -> np.ndarray | None:
        """Return the sentence embeddings of the texts, if the config asks for them. [n, d] or None

        Raises
        ------
        UserError
            They are not in the cache, and ``extract`` is false.
        """
        if self.encoder is None:
            return None
        encoder, dataset = self.encoder, self.dataset
        found = encoder.extract(dataset) if self.extract else encoder.find(dataset)
        if found is None:
            raise replace(self, extractor=encoder).not_extracted
        return encoder.normalised(found)

    @cached_property
    def perplexity(self) -> np.ndarray | None:
        """Return the log-perplexity of each text, if asked for and possible. [n, 1] or None

        Raises
        ------
        UserError
            ``extract`` is false, so the model must not be run.
        """
        extractor, dataset = self.extractor, self.dataset
        if self.load_head is None:
            return None
        name = extractor.model_config.name
        if not isinstance(extractor, Extractor):
            log.warning("%s: no perplexity: the states are from elsewhere", name)
            return None
        if not self.extract:
            raise UserError(f"{name} on {dataset.name}: probe.controls: perplexity runs the model "
                            "again; use `llmprobe run`")  # fmt: skip
        try:
            head, base = self.load_head(extractor.model_config)
        except UserError as error:
            log.warning("%s: no perplexity: %s", name, error)
            return None
        tokens = extractor.tokens(dataset, base.tokenizer, base.module)
        return log_perplexities(head, base, tokens)[:, None]

    @property
    def not_extracted(self) -> UserError:
        """Return the error for a missing extraction."""
        return UserError(
            f"{self.extractor.model_config.name} on {self.dataset.name}: not extracted yet; run "
            "`llmprobe extract` with the same config first, or `llmprobe run` for everything"
        )

    def where(self, position: str) -> str:
        """Return ``MODEL on DATASET``, with the position if there are several."""
        title = curve_title(self.dataset.name, position if self.several else "")
        return f"{self.extractor.model_config.name} on {title}"

    @property
    def several(self) -> bool:
        """Whether there may be several curves, one for each position or pooling of tokens."""
        positions = self.extractor.config.positions
        return len(positions) > 1 or "tokens" in positions

    def at(self, position: str) -> DatasetStates:
        """Return the states at the position of a curve, such as ``last`` or ``tokens:max``."""
        read = "tokens" if Pooling.of(position) else position
        return pooled(self.activations.at(read), position)


def probe_part(
    out: Path, states: StatesOf, position: str, config: ProbeConfig
) -> tuple[Results, Part, bool]:
    """Probe a model on a dataset at a position, or read the results if they are there.

    -> results, part, and whether the results are new

    Raises
    ------
    UserError
        An extraction is missing, and ``states.extract`` is false.
    """
    extractor, dataset = states.extractor, states.dataset
    # The untrained control is a part of its own; the order of the other controls has no effect.
    controls = tuple(sorted(set(config.controls) - {"random_weights"}))
    config = config.model_copy(update={"controls": controls})
    name = extractor.model_config.name
    if not states.extract and not extractor.is_local:
        raise states.not_extracted
    # The folder of an encoder's embeddings, added below, identifies it better than its name.
    exclude = KEYS_WITHOUT_EFFECT["probe"] | {"text_encoder"}
    depends_on = {
        "version": RESULTS_VERSION,
        "names": [name, dataset.name, position],
        "activations": extractor.folder(dataset).name,
        "dataset": dataset.content_hash,
        "probe": config.model_dump(mode="json", exclude=exclude),
    }
    if states.encoder is not None:
        depends_on["text_encoder"] = states.encoder.folder(dataset).name
    file = curve_file_name(dataset.name, position if states.several else "")
    part = part_of(out, f"{name}-{file}", depends_on)
    results, is_new = probed_once(
        part,
        lambda: probe(
            states.at(position), config, encoded=states.encoded, perplexity=states.perplexity
        ),
    )
    if not is_new:
        log.info("%s: already probed", states.where(position))
    return results, part, is_new


def trace_part(
    part: Part, states: StatesOf, results: Results, examples: Sequence[int]
) -> list[Trace]:
    """Trace some examples of a part's dataset, or read the traces in the folder of the part.

    If ``states.extract`` is false, no model is run, and only stored traces are returned.
    """
    extractor = states.extractor
    if not isinstance(extractor, Extractor):
        return []
    shown = [*examples, states.dataset.class_names]
    path = part.folder / f"traces-{digest(shown)[:16]}.json"
    try:
        return read_traces(path)
    except UserError:
        if not states.extract:
            return []
        traces = trace_examples(extractor, states.dataset, results, examples)
    if traces:  # An empty list is not stored, since the next try may succeed.
        with written_together(part.folder) as new:
            write_traces(new(path.name), traces)
    return traces
