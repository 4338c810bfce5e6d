"""The cost of an extraction, before anything is run."""

from __future__ import annotations

import time
from functools import cache

import torch

from llmprobe.extraction.plan import ExtractionPlan
from llmprobe.extraction.runner import Planner
from llmprobe.extraction.tokens import TokenisedTexts
from llmprobe.ground.files import size
from llmprobe.models.loading import Architecture, LoadedModel, active_weights, text_config


def describe_cost(planner: Planner, plan: ExtractionPlan, model: LoadedModel | Architecture) -> str:
    """Return one line: tokens, way, disk, and time by this device's speed of matrix products."""
    seconds = seconds_of(planner, plan, model)
    texts, n_bytes = planner.texts, int(plan.first_row[-1]) * planner.shape.row_bytes
    return (
        f"{texts.n_tokens:,} tokens ({texts.n_unique_tokens:,} unique), {plan.way} "
        f"({plan.cost.tokens:,} to compute), {size(n_bytes)} on disk, {duration(seconds)}"
    )


def describe_perplexity(texts: TokenisedTexts, model: LoadedModel | Architecture) -> str:
    """Return one line: the tokens that a perplexity runs through model and head, and the time."""
    tokens = sum(map(len, set(map(tuple, texts.ids))))
    config = text_config(model.module.config)
    weights = active_weights(model.module) + int(config.hidden_size) * int(config.vocab_size)
    seconds = 2 * weights * tokens / matmul_speed(model.device, model.dtype)
    return f"perplexity of {tokens:,} tokens, {duration(seconds)}"


def seconds_of(planner: Planner, plan: ExtractionPlan, model: LoadedModel | Architecture) -> float:
    """Estimate the seconds that a plan takes, by this device's speed of matrix products."""
    nominal = planner.machine.products[min(model.dtype.itemsize, 4)]
    return plan.cost.seconds * nominal / matmul_speed(model.device, model.dtype)


_LONG = 1e-3
"""Seconds of a product beside which the overhead of starting it is negligible."""
_LARGEST = 8192
"""Rows of the matrices in the largest product that is measured."""


@cache
def matmul_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the operations a second of a large matrix product, on all cores together.

    It is measured once in a process, so that the estimates of a run agree with each other.
    """
    size, best = 512, 0.0
    while best < _LONG and size < _LARGEST:
        size *= 2
        a = torch.ones(size, size, dtype=dtype, device=device)
        best = float("inf")
        for _ in range(5):
            began = time.perf_counter()
            float((a @ a)[0, 0])
            best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def duration(seconds: float) -> str:
    """Return a time in words: ``about 40 s``, ``about 12 min``, ``about 3.5 h``."""
    if seconds < 1:
        return "under a second"
    if seconds < 100:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 6000 else f"about {seconds / 3600:.1f} h"
