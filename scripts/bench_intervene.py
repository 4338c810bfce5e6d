"""Compare the cost of a changed state with that of a token in a full batch of whole texts.

    python scripts/bench_intervene.py --dtype float32

A state changed at layer 0 goes through all blocks, like a token of a whole text, and attends to the
kept keys and values of the text before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from bench_attach import forward
from bench_common import head, packaged, parsed, parser_of, report, spread

from llmprobe.extraction.rerun import Rerun
from llmprobe.extraction.tokens import Text

TOKENS = 2048
"""Tokens of a batch, as many as `llmprobe intervene` takes at a time on a CPU."""
LENGTH = 40
"""Tokens of a text."""
STATES = 1 + 2 + 3 + 2 * 50
"""Changed states of a text: its own, two reflected, three removed, and two for each null draw."""


def cpu_seconds(run: Callable[[], object]) -> float:
    """Return the processor seconds of all threads, which other processes hardly change."""
    began = time.process_time()
    run()
    return time.process_time() - began


@torch.inference_mode()
def main() -> None:
    """Print a row for each model and dtype."""
    parser = parser_of(__doc__)
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", "gemma-3-270m"])
    options = parsed(parser)
    head("A changed state beside a token of whole texts", options.out)
    report("| model | type | CPU µs a token | CPU µs a changed state | ratio |\n"
           "|---|---|--:|--:|--:|", options.out)  # fmt: skip
    for name in options.models:
        for dtype in options.dtype:
            model = packaged(dtype, name).model
            runner = Rerun(model)
            whole = torch.randint(1000, (TOKENS // LENGTH, LENGTH))
            texts = torch.randint(1000, (TOKENS // STATES, LENGTH)).tolist()
            states = torch.randn(len(texts), STATES, model.hidden_size)
            kept = runner.keep([Text(tuple(ids), ((LENGTH - 1,),)) for ids in texts])
            whole_texts = partial(forward, model.module, whole, torch.ones_like(whole))
            changed = partial(runner.run, kept, 0, states)
            a_token, a_state = [], []
            for _ in range(options.rounds):
                a_token.append(1e6 * cpu_seconds(whole_texts) / whole.numel())
                a_state.append(1e6 * cpu_seconds(changed) / (len(texts) * STATES))
            ratios = [state / token for state, token in zip(a_state, a_token, strict=True)]
            report(f"| {name} | {dtype} | {spread(a_token, 0)} | {spread(a_state, 0)} | "
                   f"{spread(ratios)} |", options.out)  # fmt: skip


if __name__ == "__main__":
    main()
