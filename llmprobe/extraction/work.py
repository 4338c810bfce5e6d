"""The work of an extraction: the strands of a plan on a model, shard by shard."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from llmprobe.errors import UserError
from llmprobe.extraction.capture import Capture, Pending
from llmprobe.extraction.memory import Budget
from llmprobe.extraction.padded import PaddedBatches
from llmprobe.extraction.plan import Plan
from llmprobe.extraction.tokens import Reading
from llmprobe.extraction.ways import Way, make_way
from llmprobe.progress import Progress


class Work:
    """The strands of a plan on a model: on a CPU several at a time, each on cores of its own.

    A core that runs a strand alone waits for no other; cores that share each small product spend
    a third of the time, and more on a busy machine, waiting for each other.
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
        cores, threads = torch.get_num_threads(), torch.get_num_threads()
        if self.model.device.type == "cpu" and self.model.reentrant:
            # By the strands of the whole plan, not by those that are left to this process: the
            # number of threads can show in the rounding.
            threads = max(1, cores * self.processes // len(self.plan.strands))
        workers = max(1, cores // threads)
        with _threads(threads), self._pool(workers, threads) as pool:
            pool.submit(self.way.prepare).result()
            running: list[list[Future[Pending]]] = []
            for i, index in enumerate([*indices, None]):
                if index is not None:
                    strands_of = map(self.plan.strands.__getitem__, self.plan.shards[index])
                    running.append([pool.submit(self._strand, rows) for rows in strands_of])
                if i:
                    yield indices[i - 1], self._collected(indices[i - 1], running.pop(0), bar)

    def _strand(self, rows: range) -> Pending:
        return self.way(self.plan.texts[rows.start : rows.stop])

    def _collected(self, index: int, futures: list[Future[Pending]], bar: Progress) -> Tensor:
        parts = []
        for strand, future in zip(self.plan.shards[index], futures, strict=True):
            states = future.result().result()
            self._require_finite(states, self.plan.strands[strand])
            parts.append(states)
            bar.advance(states.shape[1])
        return torch.cat(parts, dim=1)

    def _require_finite(self, states: Tensor, rows: range) -> None:
        """Raise ``UserError`` that names layer and example when a state is NaN or infinite."""
        if torch.isfinite(states).all():
            return
        # What is not finite in one text spoils those beside it, so each is asked alone.
        for row in rows:
            states = self.alone([self.plan.texts[row]]).result()
            bad = ~torch.isfinite(states).all(dim=2)
            if bad.any():
                break
        layer = self.layers[int(bad.any(dim=1).int().argmax())]
        raise UserError(
            f"{self.dataset}: the state of example {self.plan.row_of.index(row)} at layer "
            f"{layer} is not finite in {str(states.dtype).removeprefix('torch.')}; set the model's "
            "dtype to float32"
        )

    @contextmanager
    def _pool(self, workers: int, threads: int) -> Iterator[ThreadPoolExecutor]:
        """Threads that, when the block is left early, stop after the pass they are in."""
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,))
        try:
            yield pool
        except BaseException:
            self.budget.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """``n`` threads inside each operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
