"""The number of tokens that run at a time, which is halved when memory runs out."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, TypeVar

import torch

from llmprobe.ground.errors import UserError, out_of_memory

log = logging.getLogger(__name__)

T = TypeVar("T")
Part = TypeVar("Part", bound=Sequence[Any])


class Budget:
    """The most tokens of one forward pass, shared by all threads of an extraction."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self._stopped = False

    def stop(self) -> None:
        """Let no further pass begin, since the work is given up."""
        self._stopped = True

    def run_in_parts(
        self,
        parts: Sequence[Part],
        run: Callable[[Part], T],
        size: Callable[[Part], int],
        describe: Callable[[Part], str],
    ) -> Iterator[T]:
        """Yield what ``run`` returns for each part, or for its halves where it exceeds the budget.

        Parameters
        ----------
        size
            Tokens of a part.
        describe
            What a part is called when it does not fit into memory.

        Raises
        ------
        UserError
            A part of one item did not fit into memory.
        """
        left = list(parts)[::-1]
        while left:
            part = left.pop()
            tokens, divisible, result = size(part), len(part) > 1, None
            if tokens <= self.tokens or not divisible:
                result = self.attempt(tokens, partial(run, part), describe(part), divisible)
            if result is None:
                middle = len(part) // 2
                left += [part[middle:], part[:middle]]  # type: ignore[list-item]
            else:
                yield result

    def attempt(self, tokens: int, run: Callable[[], T], what: str, divisible: bool) -> T | None:
        """Return what ``run`` returns; if memory runs out, shrink the budget and return None.

        Raises
        ------
        UserError
            It did not fit into memory and is not divisible.
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
