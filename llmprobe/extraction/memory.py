"""Out of memory is no end: half as much at a time, from then on."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import TypeVar

import torch

from llmprobe.ground.errors import UserError

log = logging.getLogger(__name__)

T = TypeVar("T")

_SAID_BY_TORCH = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")


class Budget:
    """The most tokens of one forward pass; shared by all that run the same extraction."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._stopped = False

    def stop(self) -> None:
        """Let no pass begin any more: the work is given up."""
        self._stopped = True

    def attempt(self, tokens: int, run: Callable[[], T], what: str, divisible: bool) -> T | None:
        """What ``run`` returns; None when it did not fit, and then the budget is smaller.

        Raises
        ------
        UserError
            It did not fit and is not divisible.
        """
        if self._stopped:
            raise CancelledError
        try:
            return run()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # Outside the handler: the traceback holds the tensors of the failed pass.
        if not divisible:
            raise UserError(
                f"out of memory with {what} alone; close other programs, use a smaller model, "
                "dtype: bfloat16, or a device with more memory"
            )
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.tokens = min(self.tokens, tokens // 2)
        log.warning("out of memory with %s; going on with at most %d tokens at a time", what,
                    self.tokens)  # fmt: skip
        return None


def out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python could not get the memory it asked for, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID_BY_TORCH)
