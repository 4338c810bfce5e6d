"""Several processes on one extraction, as ``accelerate launch`` or ``torchrun`` start them."""

from __future__ import annotations

import atexit
from datetime import timedelta
from typing import Any

import torch.distributed as dist

# Its functions keep the group that is there when they are defined, so before there is one.
import torch.distributed.nn  # noqa: F401

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

    def share(self, work: dict[int, int]) -> list[int]:
        """Return this process's share of some work, of which each number has a cost.

        The most costly comes first, and each goes to the process that has the least so far.
        """
        loads = [0] * self.size
        mine = []
        for number in sorted(work, key=lambda number: (-work[number], number)):
            rank = loads.index(min(loads))
            loads[rank] += work[number]
            if rank == self.rank:
                mine.append(number)
        return sorted(mine)
