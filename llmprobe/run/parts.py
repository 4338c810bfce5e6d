"""The parts of a run, one model on one dataset each: from there it goes on when it was stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmprobe.config.schema import ProbeConfig, file_name
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction.elsewhere import StatesFromElsewhere
from llmprobe.extraction.extract import Extractor
from llmprobe.ground.digests import written_together
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import digest
from llmprobe.monitors.example_traces import trace_examples
from llmprobe.probing.protocol import probe
from llmprobe.results.folder import Part
from llmprobe.results.results import Results
from llmprobe.results.trace import Trace, read_traces, write_traces

log = logging.getLogger(__name__)

RESULTS_VERSION = 6
"""Raise when the same activations and config would give other numbers."""

KEYS_WITHOUT_EFFECT: Mapping[str, set[str]] = {
    "model": {"name", "device", "trust_remote_code"},
    "dataset": {"alias"},
    "extract": {"batch_tokens"},
    "probe": {"device"},
}
"""Settings that say where something happens, or what it is called, by the section they are in."""


def part_of(out: Path, name: str, depends_on: Mapping[str, Any]) -> Part:
    """Return the part of a run folder that is named by all that its results depend on."""
    return Part(out / "parts" / f"{file_name(name)}-{digest(depends_on)[:16]}")


def probed_once(part: Part, compute: Callable[[], Results]) -> tuple[Results, bool]:
    """Read the results of a part, or compute and keep them. -> results, and whether they are new"""
    results = part.load()
    if results is not None:
        return results, False
    results = compute()
    part.save(results)
    return results, True


def probe_part(
    out: Path,
    extractor: Extractor | StatesFromElsewhere,
    dataset: ConceptDataset,
    config: ProbeConfig,
    extract: bool,
) -> tuple[Results, Part, bool]:
    """Probe a model on a dataset, unless that was done before. -> results, part, whether it is new

    Parameters
    ----------
    extract
        Whether to extract what is not in the cache.

    Raises
    ------
    UserError
        An extraction is missing, and ``extract`` is false.
    """
    # The untrained control is a part of its own, and the order of the others says nothing.
    controls = tuple(sorted(set(config.controls) - {"random_weights"}))
    config = config.model_copy(update={"controls": controls})
    name = extractor.model_config.name
    not_extracted = UserError(
        f"{name} on {dataset.name}: not extracted yet; run `llmprobe extract` with the "
        "same config first, or `llmprobe run` for everything"
    )
    if not extract and not extractor.is_local:
        raise not_extracted

    def compute() -> Results:
        embeddings = "token_embeddings" in config.controls
        if not extract:
            activations = extractor.find(dataset, embeddings=embeddings)
        elif embeddings:
            activations = extractor.extract_with_embeddings(dataset)
        else:
            activations = extractor.extract(dataset)
        if activations is None:
            raise not_extracted
        return probe(activations, config)

    depends_on = {
        "version": RESULTS_VERSION,
        "names": [name, dataset.name],
        "activations": extractor.folder(dataset).name,
        "dataset": dataset.content_hash,
        "probe": config.model_dump(mode="json", exclude=KEYS_WITHOUT_EFFECT["probe"]),
    }
    part = part_of(out, f"{name}-{dataset.name}", depends_on)
    results, is_new = probed_once(part, compute)
    if not is_new:
        log.info("%s on %s: already probed", name, dataset.name)
    return results, part, is_new


def trace_part(
    part: Part,
    extractor: Extractor,
    dataset: ConceptDataset,
    results: Results,
    examples: Sequence[int],
    extract: bool,
) -> list[Trace]:
    """Trace some examples of a part's dataset, or read the traces that are kept beside the part.

    Without ``extract`` no model is run, and only traces that are kept are there.
    """
    path = part.folder / f"traces-{digest(examples)[:16]}.json"
    try:
        return read_traces(path)
    except UserError:
        traces = trace_examples(extractor, dataset, results, examples) if extract else []
    if traces:  # What failed may succeed another time.
        with written_together(part.folder) as new:
            write_traces(new(path.name), traces)
    return traces
