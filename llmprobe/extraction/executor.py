"""The work of an extraction: the strands of a plan on a model, shard by shard."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

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
        # By the strands of the whole plan, not by those that are left to this process: the number
        # of threads can show in the rounding.
        share = -(-len(self.plan.strands) // self.processes)
        with Workers(self.model, share, self.budget) as workers, self.runner.running():
            workers.submit(self.runner.prepare).result()
            running: list[list[Future[Pending]]] = []
            for i, index in enumerate([*indices, None]):
                if index is not None:
                    rows = (self.plan.strands[strand] for strand in self.plan.shards[index])
                    running.append([workers.submit(self._run_strand, strand) for strand in rows])
                if i:
                    yield indices[i - 1], self._collect(indices[i - 1], running.pop(0), bar)

    def _run_strand(self, rows: range) -> Pending:
        return self.runner(self.plan.texts[rows.start : rows.stop])

    def _collect(self, index: int, futures: list[Future[Pending]], bar: Progress) -> Tensor:
        """Return the states of a shard, [layers, rows, d], when its strands have them."""
        rows = self.plan.rows(index)
        size = (len(self.capture.layers), len(rows), self.model.hidden_size)
        shard = torch.empty(size, dtype=self.model.dtype)
        for strand in self.plan.shards[index]:
            # Taken out of the list, so that its memory is free again.
            states = futures.pop(0).result().result()
            strand_rows = self.plan.strands[strand]
            if not torch.isfinite(states).all():
                self._refuse(states, strand_rows)
            start = strand_rows.start - rows.start
            shard[:, start : start + len(strand_rows)] = states
            bar.advance(len(strand_rows))
        return shard

    def _refuse(self, states: Tensor, rows: range) -> None:
        """Raise ``UserError`` that names layer and example of a state that is NaN or infinite."""
        self.budget.stop()
        alone = PaddedBatches(self.capture, self.plan.reading, Budget(1), masked=False)
        bad = ~torch.isfinite(states).all(dim=2)
        row = int(bad.any(dim=0).int().argmax())
        # What is not finite in one text spoils those beside it, so each is asked alone.
        for suspect in bad.any(dim=0).nonzero()[:, 0].tolist():
            own = alone([self.plan.texts[rows.start + suspect]]).result()
            if not torch.isfinite(own).all():
                row, bad[:, suspect] = suspect, ~torch.isfinite(own).all(dim=2)[:, 0]
                break
        layer = self.capture.layers[int(bad[:, row].int().argmax())]
        example = self.plan.row_of.index(rows.start + row)
        raise UserError(
            f"{self.dataset}: the state of example {example} at layer {layer} is not finite in "
            f"{dtype_name(states.dtype)}; set the model's dtype to float32"
        )
