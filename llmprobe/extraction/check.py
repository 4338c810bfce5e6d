"""``llmprobe check``: what was found in a model, and every self-check with its number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from llmprobe.config.sites import SITES
from llmprobe.extraction.capture import Capture
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.runner import Sample
from llmprobe.extraction.tokens import added_tokens, tokenise
from llmprobe.ground.errors import UserError
from llmprobe.models.devices import dtype_name
from llmprobe.models.loading import LoadedModel

TEXTS = (
    "The capital of Peru is Lima.",
    "The capital of Peru is Lima, and the capital of Chad is N'Djamena.",
    "The capital of Peru",
    "A coin is heads up. Ann flips the coin. Bo does not flip it. Is the coin still heads up?",
    "A coin is heads up. Ann flips the coin. Bo flips it. Is the coin still heads up?",
    "Yes.",
)
"""Short and long, with and without a beginning in common, one the beginning of another."""


def check_lines(extractor: Extractor) -> Iterator[str]:
    """Yield what ``llmprobe check`` prints, line by line.

    Raises
    ------
    UserError
        The model cannot be loaded, or has no layers to probe.
    """
    model = extractor.model
    missing = dict(_missing_sites(model))
    yield model.name
    for fact, value in _facts(model, missing).items():
        yield f"  {fact:20}  {value}"
    yield ""
    yield from _comparisons(extractor, [site for site in SITES if site not in missing])


def _missing_sites(model: LoadedModel) -> Iterator[tuple[str, str]]:
    """Yield each site that the model does not have, and why."""
    for site in SITES:
        try:
            model.site(site)
        except UserError as error:
            yield site, str(error).removeprefix(f"model {model.name!r}: {site}: ")


def _facts(model: LoadedModel, missing: Mapping[str, str]) -> dict[str, str]:
    """Return what was found in a model."""
    kinds = sorted({type(block).__name__ for block in model.blocks})
    stored = f", {model.quantised:.0%} of them quantised" if model.quantised else ""
    facts = {
        "model": f"{type(model.module).__name__}, {model.parameters:,} parameters{stored}, "
        f"{dtype_name(model.dtype)} on {model.device}{' and others' if model.spread else ''}",
        "blocks": f"{model.n_blocks} × {', '.join(kinds)}, width {model.hidden_size}; "
        "each is the model's own hidden state, bit for bit",
        "then": f"{model.final_norm}, left out of the last layer",
        "tokenizer": f"{type(model.tokenizer).__name__}, "
        f"{_added(model.tokenizer)}",
        "looks ahead": "no: a state depends on nothing to its right" if model.causal
        else "yes: texts are never cut, padding is masked",
    }  # fmt: skip
    for site in SITES:
        if site in missing:
            facts[site] = f"not there: {missing[site]}"
        elif site != "residual":  # Its modules are the blocks.
            facts[site] = ", ".join(sorted({type(m).__name__ for m in model.site(site)}))
    error = model.sublayers.error
    if not math.isnan(error):
        facts["sum"] = f"before + attention + mlp = after, to {error:.1e} at most"
    return facts


def _added(tokenizer: Any) -> str:
    """Return in words which tokens a tokenizer adds to a text."""
    before, after = added_tokens(tokenizer)
    names = tokenizer.convert_ids_to_tokens(tokenizer("a")["input_ids"])
    begins = f"begins a text with {' '.join(names[:before])!r}" if before else "adds no BOS"
    return begins + (f" and ends it with {' '.join(names[-after:])!r}" if after else "")


def _comparisons(extractor: Extractor, sites: Sequence[str]) -> Iterator[str]:
    """Yield how far each way of running texts together is from each text alone."""
    model = extractor.model
    texts = tokenise(model.tokenizer, TEXTS, window=None)
    yield f"{len(TEXTS)} texts together, against each alone (relative difference)"
    yield f"  {'':28}" + "".join(f"{site:>21}" for site in sites)
    usable = []
    with ExitStack() as captures:
        hooked = [captures.enter_context(Capture(model, site)) for site in sites]
        samples = [Sample(texts, capture) for capture in hooked]
        for plan in extractor.planner(texts, model).plans():
            row = [sample.difference(plan) for sample in samples]
            agrees = row[0] <= samples[0].allowed
            usable += [plan.way] * agrees
            numbers = "".join(f"{difference:>21.1e}" for difference in row)
            yield f"  {plan.way:28}{numbers}{'' if agrees else '  not used'}"
    allowed = "".join(f"{sample.allowed:>21.1e}" for sample in samples)
    yield f"  {'allowed in ' + dtype_name(model.dtype):28}{allowed}"
    yield ""
    yield f"extraction can use: {', '.join(usable) or 'none of them'}"
