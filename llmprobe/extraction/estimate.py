"""What an extraction will cost, before anything is run."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from llmprobe.extraction.plan import ExtractionPlan
from llmprobe.extraction.runner import Planner
from llmprobe.ground.files import size


@dataclass(frozen=True)
class Estimate:
    """What the extraction of one dataset from one model will cost."""

    tokens: int
    """Number of tokens of all texts."""
    unique_tokens: int
    """Number of nodes of their prefix tree."""
    way: str
    """How texts will be run: ``"prefix tree"``, …"""
    budget: int
    """Most tokens of a forward pass."""
    computed_tokens: int
    """Tokens to compute, padding included."""
    operations: float
    """Operations in all products of matrices."""
    n_bytes: int
    """Bytes on disk."""
    seconds: float
    """Time on this device."""


def estimate_of(
    planner: Planner, plan: ExtractionPlan, device: torch.device, dtype: torch.dtype
) -> Estimate:
    """Return what a plan will cost, by the speed at which this device multiplies matrices."""
    nominal = planner.machine.products[min(dtype.itemsize, 4)]
    return Estimate(
        tokens=planner.texts.n_tokens,
        unique_tokens=planner.texts.n_unique_tokens,
        way=plan.way,
        budget=plan.budget,
        computed_tokens=plan.cost.tokens,
        operations=plan.cost.operations,
        n_bytes=len(plan.texts) * planner.shape.row_bytes,
        seconds=plan.cost.seconds * nominal / matmul_speed(device, dtype),
    )


def describe(estimate: Estimate) -> str:
    """Return one line: tokens, way, disk, time."""
    tokens = f"{estimate.tokens:,} tokens ({estimate.unique_tokens:,} unique)"
    way = f"{estimate.way} ({estimate.computed_tokens:,} to compute)"
    return f"{tokens}, {way}, {size(estimate.n_bytes)} on disk, {_duration(estimate.seconds)}"


def matmul_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the operations a second of a large product of matrices, all cores together."""
    size = 1024 if device.type == "cpu" else 8192
    a = torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        float((a @ a)[0, 0])
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def _duration(seconds: float) -> str:
    """Return a time in words: ``about 40 s``, ``about 12 min``, ``about 3.5 h``."""
    if seconds < 1:
        return "under a second"
    if seconds < 100:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 6000 else f"about {seconds / 3600:.1f} h"
