"""Progress of long work: a bar on a terminal, a plain line now and then otherwise."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from tqdm import tqdm

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 15


class Progress:
    """Progress of one piece of work, shown until its block ends.

    ``with Progress("probing", total=31) as progress: … progress.advance(1)``.
    """

    def __init__(self, label: str, total: int, shown: bool = True) -> None:
        terminal = shown and sys.stderr.isatty()
        self.label, self.total, self.done = label, total, 0
        self._bar = tqdm(total=total, desc=label, leave=False) if terminal else None
        self._plain = shown and not terminal
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def advance(self, steps: int) -> None:
        """Count ``steps`` more of ``total``."""
        self.done += steps
        if self._bar is not None:
            self._bar.update(steps)
        now = time.monotonic()
        if self._plain and now - self._said > SECONDS_BETWEEN_LINES and self.done < self.total:
            self._said = now
            left = (now - self._began) * (self.total - self.done) / self.done
            log.info("%s: %d of %d, about %.0f s left", self.label, self.done, self.total, left)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
