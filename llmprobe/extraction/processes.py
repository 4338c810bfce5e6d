"""Several processes on one extraction, as ``accelerate launch`` or ``torchrun`` start them."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch.distributed as dist

_SIZE = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_RANK = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")


def launched() -> int:
    """How many processes were launched together."""
    return _number(_SIZE, 1)


def _number(names: tuple[str, ...], default: int) -> int:
    """The first of some environment variables that is a number."""
    values = (os.environ.get(name, "") for name in names)
    return next((int(value) for value in values if value.isdecimal()), default)


class World:
    """The processes of this launch; one, where nothing launched more.

    Parameters
    ----------
    alone
        For work that this process shares with no other.
    """

    def __init__(self, alone: bool = False) -> None:
        self.size = 1 if alone else launched()
        self.rank = _number(_RANK, 0) if self.size > 1 else 0
        if self.size > 1 and not dist.is_initialized():
            # Only words pass between processes, so gloo does on every device. A shard may take
            # long; when a process dies, the launcher ends the others.
            dist.init_process_group(
                "gloo", timeout=timedelta(days=7), rank=self.rank, world_size=self.size
            )

    @property
    def leader(self) -> bool:
        """Whether this process decides, speaks and writes what is common to all."""
        return self.rank == 0

    def agree(self, value: Any) -> Any:
        """What the leader has, in every process; none goes on before the leader is here."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Go on when all are here."""
        if self.size > 1:
            dist.barrier()

    def share(self, work: dict[int, int]) -> list[int]:
        """Of some pieces of work, given what each costs, those of this process.

        The largest first, each to the process that has the least so far.
        """
        loads = [0] * self.size
        mine = []
        for piece in sorted(work, key=lambda piece: (-work[piece], piece)):
            rank = loads.index(min(loads))
            loads[rank] += work[piece]
            if rank == self.rank:
                mine.append(piece)
        return sorted(mine)
