"""Measure the CPU speeds that llmprobe/extraction/plan.py assumes, on one core.

    python scripts/bench_speeds.py --data FOLDER --out table.md

The model is the packaged one. The first table has the time per token by the size of a pass, the
second the cost of the parts of a forward pass.
The data folder (or ``$LLMPROBE_DATA``) holds ``jin2024/cities.csv``; without it the cities are
made up. Nothing else should be running.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from bench_common import (
    DTYPES,
    PACKAGED,
    best,
    corpus,
    head,
    packaged,
    parsed,
    parser_of,
    planner_of,
    prose,
    report,
    run_plan,
    spread,
    turns,
)

from llmprobe.extraction.estimate import matmul_speed
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.plan import CPU, ExtractionPlan, plan_padded, plan_tree
from llmprobe.models.loading import LoadedModel

SLICES = (128, 256, 512, 1024, 2048)
"""Tokens of a slice of the tree."""
BATCHES = (256, 512, 1024, 2048, 4096)
"""Tokens of a padded batch."""
LENGTHS = (8, 16, 32, 64, 96, 128, 192, 256, 384, 512)
"""Tokens of the passes from which the cost of a pass is fitted."""


def sizes(
    engine: Extractor, dtype: str, corpora: Mapping[str, Sequence[str]], rounds: int
) -> Iterator[str]:
    """Yield rows of time per token by size of a pass: parts of the tree, and padded prose."""
    plans: dict[tuple[str, int], ExtractionPlan] = {}
    jobs: dict[tuple[str, int], Callable[[], object]] = {}
    for title, texts in corpora.items():
        planner = planner_of(engine, texts)
        tokens, shape = planner.texts, planner.shape
        # A machine with one size to choose from gives a plan of that size.
        made = {("tree", size): plan_tree(tokens, shape, replace(CPU, slice_tokens=size))
                for size in SLICES}  # fmt: skip
        made |= {("blocks", size): plan_tree(tokens, shape, replace(CPU, blocks=(size,)))
                 for size in CPU.blocks}  # fmt: skip
        if title == "prose":
            made |= {("padded", size): plan_padded(tokens, shape, replace(CPU, batch_tokens=size))
                     for size in BATCHES}  # fmt: skip
        for (way, size), plan in made.items():
            plans[f"{way}, {title}", size] = plan
            jobs[f"{way}, {title}", size] = partial(run_plan, engine.model, plan)
    took, _ = turns(jobs, rounds, f"one core, {dtype}")
    for (title, size), plan in plans.items():
        each = [1e3 * t / plan.cost.tokens for t in took[title, size]]
        expected = 1e3 * plan.cost.seconds / plan.cost.tokens
        yield f"| {title} | {dtype} | {size} | {spread(each, 3)} | {expected:.3f} |"


def fitted(model: LoadedModel, masked: bool) -> np.ndarray:
    """Fit the seconds of a pass of n tokens, a + b n + c n². -> [3]

    Parameters
    ----------
    masked
        Whether passes have a mask, like slices of the tree; padded batches have none.
    """
    took = []
    for n in LENGTHS:
        options: dict[str, Any] = {"input_ids": torch.arange(n)[None] + 100, "use_cache": False}
        if masked:
            hidden = torch.full((n, n), torch.finfo(model.dtype).min, dtype=model.dtype)
            options["attention_mask"] = hidden.triu(1)[None, None]
        took.append(best(partial(model.module, **options)))
    powers = np.array(LENGTHS, dtype=float)[:, None] ** [0, 1, 2]
    # The weights minimise the relative error, so that short passes count as much as long ones.
    weight = 1 / np.array(took)
    return np.linalg.lstsq(powers * weight[:, None], np.ones(len(took)), rcond=None)[0]


def fused_attention(model: LoadedModel) -> float:
    """Measure the operations a second of masked fused attention, for 256 queries and 512 keys."""
    module: Any = model.module
    heads = int(module.config.num_attention_heads)
    q, k = (torch.ones(1, heads, n, model.hidden_size // heads, dtype=model.dtype)
            for n in (256, 512))  # fmt: skip
    mask = torch.zeros(1, 1, 256, 512, dtype=model.dtype)
    attend = partial(torch.nn.functional.scaled_dot_product_attention, q, k, k, attn_mask=mask)
    return 4 * model.hidden_size * 256 * 512 / best(attend)


@torch.inference_mode()
def constants(engine: Extractor, dtype: str) -> Iterator[str]:
    """Yield rows of the parts of a forward pass, measured and as plan.py has them."""
    model, shape = engine.model, planner_of(engine, ["a", "b"]).shape
    a, b, c = fitted(model, masked=True)
    padded = shape.pair / fitted(model, masked=False)[2]
    weights = torch.ones(2**26 // 4096, 4096)
    read = weights.nbytes / best(lambda: weights @ weights[0])
    block = (a - shape.weight_bytes / read) / shape.blocks
    a_pass = shape.weight_bytes / CPU.memory + shape.blocks * CPU.block
    products, masked = CPU.products[shape.itemsize], CPU.masked_attention[shape.itemsize]
    large = matmul_speed(model.device, model.dtype)
    for what, measured, plan, scale, unit in (
        ("product of 1,024 rows", large, products, 1e-12, "TFLOP/s"),
        ("products in a pass, fitted", 2 * shape.weights / b, products, 1e-12, "TFLOP/s"),
        ("fused attention of 256 to 512, masked", fused_attention(model), masked, 1e-12, "TFLOP/s"),
        ("attention of the tree, fitted", shape.pair / c, masked, 1e-12, "TFLOP/s"),
        ("attention of padded batches, fitted", padded, CPU.attention, 1e-12, "TFLOP/s"),
        ("reading of weights", read, CPU.memory, 1e-9, "GB/s"),
        ("a pass by itself, fitted", a, a_pass, 1e3, "ms"),
        ("a block in each pass, fitted", block, CPU.block, 1e6, "µs"),
    ):
        yield f"| {what} | {dtype} | {scale * measured:.3g} {unit} | {scale * plan:.3g} {unit} |"


def main() -> None:
    """Measure, and print two tables."""
    options = parsed(parser_of(__doc__))
    head(PACKAGED, options.out)
    torch.set_num_threads(1)
    engines = {dtype: packaged(dtype) for dtype in DTYPES if dtype in options.dtype}
    n = min(options.limit or 400, 400)
    corpora = {"cities": corpus("cities", options.data, n)[1], "prose": prose(max(n // 8, 8))}
    lines = ["### One core: ms per computed token, and what plan.py expects\n",
             "| way, texts | dtype | tokens of a pass | measured | expected |",
             "|---|---|--:|--:|--:|"]  # fmt: skip
    for dtype, engine in engines.items():
        lines += sizes(engine, dtype, corpora, options.rounds)
    lines += ["", "### One core: the parts of a forward pass\n",
              "| what | dtype | measured | plan.py |", "|---|---|--:|--:|"]  # fmt: skip
    for dtype, engine in engines.items():
        lines += constants(engine, dtype)
    report("\n".join(lines) + "\n", options.out)


if __name__ == "__main__":
    main()
