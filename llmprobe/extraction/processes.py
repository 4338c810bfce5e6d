"""Several processes on one extraction, as ``accelerate launch`` or ``torchrun`` start them."""

from __future__ import annotations

import atexit
import json
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

# Imported before there is a process group: its functions keep the one they find when defined.
import torch.distributed.nn  # noqa: F401

from llmprobe.ground.files import write_first
from llmprobe.ground.launch import launched, rank


def _leave() -> None:
    """End the threads of gloo; one that runs when the interpreter ends can abort the process."""
    if dist.is_initialized():
        dist.destroy_process_group()


class World:
    """The processes of this launch, or one process where no launcher started more.

    Parameters
    ----------
    alone
        Whether this process shares its work with no other, even in a launch of several.
    """

    def __init__(self, alone: bool = False) -> None:
        self.size = 1 if alone else launched()
        self.rank = 0 if alone else rank()
        if self.size > 1 and not dist.is_initialized():
            # Processes exchange only short messages, so gloo is enough on every device. The timeout
            # is long because a shard may be; when a process dies, the launcher ends the others.
            dist.init_process_group(
                "gloo", timeout=timedelta(days=7), rank=self.rank, world_size=self.size
            )
            atexit.register(_leave)

    @property
    def leader(self) -> bool:
        """Whether this process decides and writes what is common to all."""
        return self.rank == 0

    def agree(self, value: Any) -> Any:
        """Return the leader's value in every process, once the leader calls this too."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def checked_way(self, check: Callable[[], tuple[str, float]]) -> tuple[str, float]:
        """Return what the leader's self-check finds: a way of running texts and its difference."""
        way: tuple[str, float] = self.agree(check() if self.leader else None)
        return way

    def ends(self, all_there: Callable[[], bool]) -> bool:  # noqa: ARG002
        """Whether this process writes the manifest; ``all_there`` says if all shards are there."""
        return self.leader

    def share(self, work: Mapping[int, int], done: Collection[int] = ()) -> list[int]:
        """Return this process's share of the work that is left, by the cost of each number."""
        left = {number: cost for number, cost in work.items() if number not in done}
        return _share(left, self.rank, self.size)


class Apart(World):
    """One of several processes that cannot communicate, but see the same folder.

    The share of each depends on the whole work alone, so it does not matter when each one runs.
    """

    WAY = "way.json"

    def __init__(self, folder: Path, share: int, shares: int) -> None:
        super().__init__(alone=True)
        self.path, self.number, self.shares = folder / self.WAY, share, shares

    def checked_way(self, check: Callable[[], tuple[str, float]]) -> tuple[str, float]:
        """Return what the process found whose self-check ended first."""
        if (known := self._known()) is not None:
            return known
        way, difference = check()
        write_first(self.path, json.dumps([way, difference]))
        return self._known() or (way, difference)

    def _known(self) -> tuple[str, float] | None:
        try:
            way, difference = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return str(way), float(difference)

    def ends(self, all_there: Callable[[], bool]) -> bool:
        """Whether all shards are there, whichever process made them."""
        if all_there():
            self.path.unlink(missing_ok=True)
            return True
        return False

    def share(self, work: Mapping[int, int], done: Collection[int] = ()) -> list[int]:
        """Return what is left of this process's share of the whole work."""
        return [n for n in _share(work, self.number, self.shares) if n not in done]


def _share(work: Mapping[int, int], process: int, processes: int) -> list[int]:
    """Return a process's share of some work.

    Numbers are dealt out from the most costly on, each to the process with the least cost so far.
    """
    loads = [0] * processes
    mine = []
    for number in sorted(work, key=lambda number: (-work[number], number)):
        least = loads.index(min(loads))
        loads[least] += work[number]
        if least == process:
            mine.append(number)
    return sorted(mine)
