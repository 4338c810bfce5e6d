"""Several processes on one extraction, as ``accelerate launch`` or ``torchrun`` start them."""

from __future__ import annotations

import atexit
import json
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

# Its functions keep the group that is there when they are defined, so before there is one.
import torch.distributed.nn  # noqa: F401

from llmprobe.ground.files import write_first
from llmprobe.ground.launch import launched, rank


def _leave() -> None:
    """End the threads of gloo; one that runs when the interpreter ends can abort the process."""
    if dist.is_initialized():
        dist.destroy_process_group()


class World:
    """The processes of this launch; one, where nothing launched more.

    Parameters
    ----------
    alone
        For work that this process shares with no other.
    """

    def __init__(self, alone: bool = False) -> None:
        self.size = 1 if alone else launched()
        self.rank = 0 if alone else rank()
        if self.size > 1 and not dist.is_initialized():
            # Only words pass between processes, so gloo does on every device. A shard may take
            # long; when a process dies, the launcher ends the others.
            dist.init_process_group(
                "gloo", timeout=timedelta(days=7), rank=self.rank, world_size=self.size
            )
            atexit.register(_leave)

    @property
    def leader(self) -> bool:
        """Whether this process decides and writes what is common to all."""
        return self.rank == 0

    def agree(self, value: Any) -> Any:
        """Return the leader's value in every process; none goes on before the leader is here."""
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
        """Return what the leader's self-check finds: the way of running texts, and a difference."""
        way: tuple[str, float] = self.agree(check() if self.leader else None)
        return way

    def ends(self, all_there: Callable[[], bool]) -> bool:  # noqa: ARG002
        """Whether this process is to end the extraction; ``all_there`` says if it could."""
        return self.leader

    def share(self, work: Mapping[int, int], done: Collection[int] = ()) -> list[int]:
        """Return this process's share of what is left of some work, by the cost of each number."""
        left = {number: cost for number, cost in work.items() if number not in done}
        return _share(left, self.rank, self.size)


class Apart(World):
    """One of several processes that cannot talk to each other, and see one folder.

    Each knows its share of the whole work, so that it does not matter when which of them runs.
    """

    WAY = "way.json"

    def __init__(self, folder: Path, share: int, shares: int) -> None:
        super().__init__(alone=True)
        self.path, self.number, self.shares = folder / self.WAY, share, shares

    def checked_way(self, check: Callable[[], tuple[str, float]]) -> tuple[str, float]:
        """Return what the first of the processes found whose self-check ended."""
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
        """Whether all is there, by whichever process."""
        if all_there():
            self.path.unlink(missing_ok=True)
            return True
        return False

    def share(self, work: Mapping[int, int], done: Collection[int] = ()) -> list[int]:
        """Return what is left of this process's share of the whole work."""
        return [n for n in _share(work, self.number, self.shares) if n not in done]


def _share(work: Mapping[int, int], process: int, processes: int) -> list[int]:
    """Return a process's share of some work.

    The most costly comes first, and each goes to the process that has the least so far.
    """
    loads = [0] * processes
    mine = []
    for number in sorted(work, key=lambda number: (-work[number], number)):
        least = loads.index(min(loads))
        loads[least] += work[number]
        if least == process:
            mine.append(number)
    return sorted(mine)
