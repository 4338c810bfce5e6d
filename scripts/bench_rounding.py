"""Measure the rounding error of each way of running texts in bfloat16, against float32.

    python scripts/bench_rounding.py --models smollm2-135m gemma-3-270m --limit 24

Texts come in fours that share their first half. The error is the relative error of the state of a
text's last token, averaged over texts and layers; float32 has the same weights.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
from bench_common import PACKAGED, WORDS, head, packaged, parsed, parser_of, planner_of, report
from torch import Tensor

from llmprobe.config.sites import SITES
from llmprobe.extraction.capture import Capture
from llmprobe.extraction.memory import Budget
from llmprobe.extraction.padded import PaddedBatches
from llmprobe.extraction.plan import PADDED, PREFIX_TREE
from llmprobe.extraction.runner import make_runner
from llmprobe.models.private import in_float32


def fours(n: int) -> list[str]:
    """Return texts of 12 to 24 words, in fours that share their first half."""
    draw, texts = random.Random(0), list[str]()
    while len(texts) < n:
        half = draw.randint(6, 12)
        begins = draw.choices(WORDS, k=half)
        texts += [" ".join([*begins, *draw.choices(WORDS, k=half)]) for _ in range(4)]
    return texts[:n]


@torch.inference_mode()
def rows(name: str, n: int) -> Iterator[str]:
    """Yield a row for each site of a model."""
    engine = packaged("bfloat16", name)
    model, planner = engine.model, planner_of(engine, fours(n))
    for site in SITES:
        with Capture(model, site) as capture:
            alone = PaddedBatches(capture, Budget(1), masked=False, whole=True)
            wanted = planner.texts.whole
            with in_float32():
                exact = torch.cat([alone([text]).result() for text in wanted], dim=1)
            ways = {"alone": torch.cat([alone([text]).result() for text in wanted], dim=1)}
            for way in (PADDED, PREFIX_TREE):
                plan = planner.plan(way)
                run = make_runner(plan, capture, Budget(plan.budget))
                run.prepare()
                parts = [run(plan.texts[s.start : s.stop]).result() for s in plan.strands]
                ways[way] = torch.cat(parts, dim=1)[:, [row for (row,) in plan.row_of]]

        def error(states: Tensor, exact: Tensor = exact) -> Tensor:
            relative: Tensor = (states.float() - exact).norm(dim=2) / exact.norm(dim=2)
            return relative.mean(dim=1)

        each = {way: error(states) for way, states in ways.items()}
        single, tree = each["alone"], each[PREFIX_TREE]
        cells = [f"{float(each[way].mean()):.4f}" for way in ("alone", PADDED, PREFIX_TREE)]
        ratio = float(tree.mean() / single.mean())
        worst = float((tree[single > 0] / single[single > 0]).max())
        yield f"| {name} | {site} | {' | '.join(cells)} | {ratio:.2f} | {worst:.2f} |"


def main() -> None:
    """Print a table of models and sites."""
    parser = parser_of(__doc__)
    parser.add_argument("--models", nargs="+", default=[PACKAGED])
    options = parsed(parser)
    head("Rounding", options.out)
    report("| model | site | text alone | padded batches | prefix tree | tree ÷ alone | "
           "worst layer |\n|---|---|--:|--:|--:|--:|--:|", options.out)  # fmt: skip
    for name in options.models:
        for row in rows(name, options.limit or 24):
            report(row, options.out)


if __name__ == "__main__":
    main()
