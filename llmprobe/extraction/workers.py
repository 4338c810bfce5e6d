"""Threads that run a model side by side."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import torch

from llmprobe.extraction.memory import Budget
from llmprobe.models.loading import LoadedModel

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """Threads for a number of similar ``tasks``, for as long as the ``with`` block lasts.

    On a CPU there are about as many threads as tasks, at most one for each core, and they divide
    the cores. On other devices, and for a model that only one thread may run, a single thread has
    all cores. If an error ends the block, the threads stop after their current pass.
    """

    def __init__(self, model: LoadedModel, tasks: int, budget: Budget | None = None) -> None:
        cores = torch.get_num_threads()
        several = model.device.type == "cpu" and model.reentrant
        self.threads = max(1, cores // max(tasks, 1)) if several else cores
        self.count = max(1, cores // self.threads)
        self.budget = budget

    def __enter__(self) -> Workers:
        self._before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        # torch keeps this number for each thread.
        self._pool = ThreadPoolExecutor(
            self.count, initializer=torch.set_num_threads, initargs=(self.threads,)
        )
        return self

    def submit(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Begin ``call`` as soon as a thread is free, and return its future."""
        return self._pool.submit(call, *args, **kwargs)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> Any:
        if kind is not None and self.budget is not None:
            self.budget.stop()
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._before)
