"""What an extraction will cost, before anything is run."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from llmprobe.extraction.plan import Plan
from llmprobe.extraction.runner import Planner
from llmprobe.ground.files import size


@dataclass(frozen=True)
class Estimate:
    """Of one model on one dataset."""

    tokens: int
    """Of all texts."""
    unique_tokens: int
    way: str
    budget: int
    """Tokens of a forward pass."""
    computed_tokens: int
    operations: float
    n_bytes: int
    """On disk."""
    seconds: float


def estimate_of(planner: Planner, plan: Plan, device: torch.device, dtype: torch.dtype) -> Estimate:
    """Tokens, disk and time of a plan, by the speed at which this device multiplies matrices."""
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
    """One line: tokens, way, disk, time."""
    tokens = f"{estimate.tokens:,} tokens ({estimate.unique_tokens:,} unique)"
    way = f"{estimate.way} ({estimate.computed_tokens:,} to compute)"
    return f"{tokens}, {way}, {size(estimate.n_bytes)} on disk, {_duration(estimate.seconds)}"


def matmul_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large product of matrices, measured, all cores together."""
    size = 1024 if device.type == "cpu" else 8192
    a = torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        float((a @ a)[0, 0])
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def _duration(seconds: float) -> str:
    """``about 40 s``, ``about 12 min``, ``about 3.5 h``."""
    if seconds < 1:
        return "under a second"
    if seconds < 100:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 6000 else f"about {seconds / 3600:.1f} h"
