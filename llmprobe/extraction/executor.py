"""The work of an extraction: the strands of a plan on a model, shard by shard."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

import torch
from torch import Tensor

from llmprobe.extraction.capture import Capture, Pending
from llmprobe.extraction.memory import Budget
from llmprobe.extraction.padded import PaddedBatches
from llmprobe.extraction.plan import Plan
from llmprobe.extraction.runner import Way, make_way
from llmprobe.extraction.tokens import Reading
from llmprobe.extraction.workers import Workers
from llmprobe.ground.errors import UserError
from llmprobe.ground.progress import Progress


class Work:
    """The strands of a plan: on a CPU several at a time, each on cores of its own.

    A core that runs a strand alone waits for no other; ``docs/performance.md`` says what that is
    worth.
    """

    def __init__(
        self, plan: Plan, capture: Capture, reading: Reading, dataset: str, processes: int
    ) -> None:
        self.plan, self.model, self.layers = plan, capture.model, capture.layers
        self.dataset, self.processes = dataset, processes
        self.budget = Budget(plan.budget)
        self.way: Way = make_way(plan, capture, reading, self.budget)
        self.alone = PaddedBatches(capture, reading, Budget(1), masked=False)

    def shards(self, indices: list[int], bar: Progress) -> Iterator[tuple[int, Tensor]]:
        """Each shard with its states, [layers, rows, d], while the next one is being made."""
        # By the strands of the whole plan, not by those that are left to this process: the number
        # of threads can show in the rounding.
        share = -(-len(self.plan.strands) // self.processes)
        with Workers(self.model, share, self.budget) as workers, self.way.running():
            workers.submit(self.way.prepare).result()
            running: list[list[Future[Pending]]] = []
            for i, index in enumerate([*indices, None]):
                if index is not None:
                    rows = (self.plan.strands[strand] for strand in self.plan.shards[index])
                    running.append([workers.submit(self._strand, strand) for strand in rows])
                if i:
                    yield indices[i - 1], self._collected(indices[i - 1], running.pop(0), bar)

    def _strand(self, rows: range) -> Pending:
        return self.way(self.plan.texts[rows.start : rows.stop])

    def _collected(self, index: int, futures: list[Future[Pending]], bar: Progress) -> Tensor:
        rows = self.plan.rows(index)
        size = (len(self.layers), len(rows), self.model.hidden_size)
        shard = torch.empty(size, dtype=self.model.dtype)
        for strand in self.plan.shards[index]:
            # Taken out of the list, so that its memory is free again.
            states = futures.pop(0).result().result()
            of_strand = self.plan.strands[strand]
            if not torch.isfinite(states).all():
                self._refuse(states, of_strand)
            start = of_strand.start - rows.start
            shard[:, start : start + len(of_strand)] = states
            bar.advance(len(of_strand))
        return shard

    def _refuse(self, states: Tensor, rows: range) -> None:
        """Raise ``UserError`` that names layer and example of a state that is NaN or infinite."""
        self.budget.stop()
        bad = ~torch.isfinite(states).all(dim=2)
        row = int(bad.any(dim=0).int().argmax())
        # What is not finite in one text spoils those beside it, so each is asked alone.
        for suspect in bad.any(dim=0).nonzero()[:, 0].tolist():
            alone = self.alone([self.plan.texts[rows.start + suspect]]).result()
            if not torch.isfinite(alone).all():
                row, bad[:, suspect] = suspect, ~torch.isfinite(alone).all(dim=2)[:, 0]
                break
        layer = self.layers[int(bad[:, row].int().argmax())]
        example = self.plan.row_of.index(rows.start + row)
        raise UserError(
            f"{self.dataset}: the state of example {example} at layer {layer} is not finite in "
            f"{str(states.dtype).removeprefix('torch.')}; set the model's dtype to float32"
        )
