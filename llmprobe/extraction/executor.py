"""The work of an extraction: the strands of a plan on a model, shard by shard."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import torch
from torch import Tensor

from llmprobe.extraction.capture import Capture, Pending
from llmprobe.extraction.memory import Budget
from llmprobe.extraction.padded import PaddedBatches
from llmprobe.extraction.plan import ExtractionPlan
from llmprobe.extraction.runner import make_runner
from llmprobe.extraction.workers import Workers
from llmprobe.ground.errors import UserError
from llmprobe.ground.progress import Progress
from llmprobe.models.devices import dtype_name


class ShardExecutor:
    """Runs the strands of a plan: on a CPU several at a time, each on cores of its own.

    A core that runs a strand alone waits for no other; ``docs/performance.md`` says what that is
    worth.

    Parameters
    ----------
    dataset
        What errors call the texts.
    processes
        How many processes share the plan.
    """

    def __init__(
        self, plan: ExtractionPlan, capture: Capture, dataset: str, processes: int = 1
    ) -> None:
        self.plan, self.capture, self.model = plan, capture, capture.model
        self.dataset, self.processes = dataset, processes
        self.budget = Budget(plan.budget)
        self.runner = make_runner(plan, capture, self.budget)

    def shards(self, indices: list[int], bar: Progress) -> Iterator[tuple[int, Tensor]]:
        """Yield each shard with its states, [layers, rows, d], while the next one is being made.

        Raises
        ------
        UserError
            A state is not finite, or one text alone does not fit into memory.
        """
        # Counted over the whole plan, not over what is left to this process: the number of threads
        # can change the rounding.
        share = -(-len(self.plan.strands) // self.processes)
        with Workers(self.model, share, self.budget) as workers:
            workers.submit(self.runner.prepare).result()
            running: list[list[Future[Pending]]] = []
            for i, index in enumerate([*indices, None]):
                if index is not None:
                    strands = (self.plan.strands[strand] for strand in self.plan.shards[index])
                    running.append([workers.submit(self._run_strand, texts) for texts in strands])
                if i:
                    yield indices[i - 1], self._collect(indices[i - 1], running.pop(0), bar)

    def _run_strand(self, texts: range) -> Pending:
        return self.runner(self.plan.texts[texts.start : texts.stop])

    def _collect(self, index: int, futures: list[Future[Pending]], bar: Progress) -> Tensor:
        """Wait for the strands of a shard and return its states, [layers, rows, d]."""
        rows = self.plan.rows(index)
        size = (len(self.capture.layers), len(rows), self.model.hidden_size)
        shard = torch.empty(size, dtype=self.model.dtype)
        for strand in self.plan.shards[index]:
            # Removed from the list, so that its memory is freed.
            states = futures.pop(0).result().result()
            texts = self.plan.strands[strand]
            strand_rows = self.plan.rows_of(texts)
            if not torch.isfinite(states).all():
                self._refuse(states, texts)
            start = strand_rows.start - rows.start
            shard[:, start : start + len(strand_rows)] = states
            bar.advance(len(strand_rows))
        return shard

    def _refuse(self, states: Tensor, texts: range) -> None:
        """Raise ``UserError`` that names layer and example of a state that is NaN or infinite."""
        self.budget.stop()
        alone = PaddedBatches(self.capture, Budget(1), masked=False, whole=True)
        bad = ~torch.isfinite(states).all(dim=2)  # [layers, rows]
        of_text = np.repeat(list(texts), np.diff(self.plan.first_row)[texts.start : texts.stop])
        suspects = dict.fromkeys(of_text[bad.any(dim=0).numpy()].tolist())
        text = next(iter(suspects))
        layers = bad[:, of_text == text].any(dim=1)
        # A state that is not finite spoils the texts beside it, so each suspect is run alone.
        for suspect in suspects:
            own = ~torch.isfinite(alone([self.plan.texts[suspect]]).result()).all(dim=2)
            if own.any():
                text, layers = suspect, own.any(dim=1)
                break
        layer = self.capture.layers[int(layers.int().argmax())]
        example = self.plan.text_of.index(text)
        raise UserError(
            f"{self.dataset}: the state of example {example} at layer {layer} is not finite in "
            f"{dtype_name(states.dtype)}; set the model's dtype to float32"
        )
