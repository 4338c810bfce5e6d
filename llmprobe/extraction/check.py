"""``llmprobe check``: what was found in a model, and every self-check with its number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack

import torch

from llmprobe.extraction.capture import Capture
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.runner import TOLERANCE, Sample
from llmprobe.extraction.tokens import Reading, tokenise
from llmprobe.models.loading import LoadedModel

SITES = ("residual", "attention", "mlp", "post_attention_norm")

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
    """What ``llmprobe check`` prints, line by line.

    Raises
    ------
    UserError
        The model cannot be loaded, or has no layers to probe.
    """
    model = extractor.model
    yield from _found(model)
    yield from _compared(extractor, model)


def _found(model: LoadedModel) -> Iterator[str]:
    kinds = sorted({type(block).__name__ for block in model.blocks})
    sublayers, quantised = model.sublayers, model.quantised
    stored = f", {quantised:.0%} of them quantised" if quantised else ""
    adds_bos = model.tokenizer("a")["input_ids"][:1] == [model.tokenizer.bos_token_id]
    facts = {
        "model": f"{type(model.module).__name__}, {model.parameters:,} parameters{stored}, "
        f"{_name(model.dtype)} on {model.device}{' and others' if model.spread else ''}",
        "blocks": f"{len(model.blocks)} × {', '.join(kinds)}, width {model.hidden_size}; "
        "each is the model's own hidden state, bit for bit",
        "then": f"{model.final_norm}, left out of the last layer",
        "tokenizer": f"{type(model.tokenizer).__name__}, "
        f"{'begins a text with ' + repr(model.tokenizer.bos_token) if adds_bos else 'adds no BOS'}",
        "looks ahead": "no: a state depends on nothing to its right" if model.causal
        else "yes: texts are never cut, padding is masked",
    }  # fmt: skip
    for site in SITES[1:]:
        modules = getattr(sublayers, site)
        names = sorted({type(m).__name__ for m in modules or ()})
        facts[site] = ", ".join(names) if modules else f"not there: {sublayers.missing[site]}"
    if not math.isnan(sublayers.error):
        facts["sum"] = f"before + attention + mlp = after, to {sublayers.error:.1e} at most"
    yield model.name
    for fact, value in facts.items():
        yield f"  {fact:20}  {value}"


def _compared(extractor: Extractor, model: LoadedModel) -> Iterator[str]:
    """How far each way of running texts together is from each text alone."""
    texts = tokenise(model.tokenizer, TEXTS, window=None)
    sites = [site for site in SITES if site == "residual" or getattr(model.sublayers, site)]
    planner = extractor.planner(texts, model.module, len(model.blocks), model.causal, model.device,
                                model.dtype)  # fmt: skip
    tolerance = TOLERANCE[model.dtype]
    yield ""
    yield f"{len(TEXTS)} texts together, against each alone (relative difference)"
    yield f"  {'':28}" + "".join(f"{site:>21}" for site in sites)
    usable = []
    samples = []
    with ExitStack() as captures:
        for site in sites:
            capture = captures.enter_context(Capture(model, site))
            samples.append(Sample(texts, capture, Reading(mean=False, special=texts.special)))
        for plan in planner.plans():
            row = [sample.difference(plan) for sample in samples]
            right = row[0] <= tolerance
            usable += [plan.way] * right
            numbers = "".join(f"{difference:>21.1e}" for difference in row)
            yield f"  {plan.way:28}{numbers}{'' if right else '  not used'}"
    yield f"  allowed in {_name(model.dtype):17}{tolerance:>21.0e}"
    yield ""
    yield f"extraction can use: {', '.join(usable) or 'none of them'}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
