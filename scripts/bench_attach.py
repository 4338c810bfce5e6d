"""Measure what an attached probe adds to a forward pass of the packaged model.

    python scripts/bench_attach.py --rounds 10

The cost of one probe is lost in the noise, so passes without a probe alternate with passes with
``COPIES`` of it.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
from bench_common import PACKAGED, best, head, packaged, parsed, parser_of, report, spread
from torch import Tensor, nn

from llmprobe.results.saved_probe import SavedProbe

COPIES = 30
SHAPES = ((1, 32), (16, 64))
"""Texts and tokens of a batch."""


def main() -> None:
    """Print a row for each dtype, batch shape and choice of scored tokens."""
    options = parsed(parser_of(__doc__))
    head(f"A probe attached to {PACKAGED}", options.out)
    rows = (
        "| type | texts × tokens | scored | ms without | added by one, % |\n|---|--:|---|--:|--:|"
    )
    report(rows, options.out)
    for dtype in options.dtype:
        model = packaged(dtype).model
        layer = model.n_blocks // 2
        coef = np.random.default_rng(0).normal(size=(1, model.hidden_size))
        facts = {"model": PACKAGED, "site": "residual", "position": "last"}
        probe = SavedProbe({layer: coef}, {layer: np.zeros(1)}, (0, 1), facts, {"skill": [1.0]})
        for shape in SHAPES:
            tokens = torch.randint(1000, shape)
            run = partial(forward, model.module, tokens, torch.ones_like(tokens))
            for every_token in (False, True):
                plain, added = [], []
                for _ in range(options.rounds):
                    plain.append(best(run, 3))
                    with ExitStack() as stack:
                        for _ in range(COPIES):
                            handle = probe.attach(
                                model.module, every_token=every_token, check=False
                            )
                            stack.enter_context(handle)
                        added.append(100 * (best(run, 3) / plain[-1] - 1) / COPIES)
                report(
                    f"| {dtype} | {shape[0]} × {shape[1]} | {'all' if every_token else 'last'} | "
                    f"{spread([1000 * seconds for seconds in plain], 1)} | {spread(added)} |",
                    options.out,
                )


@torch.inference_mode()
def forward(module: nn.Module, tokens: Tensor, mask: Tensor) -> None:
    """Run a model on a batch of texts."""
    module(input_ids=tokens, attention_mask=mask, use_cache=False)


if __name__ == "__main__":
    main()
