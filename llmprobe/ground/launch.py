"""The processes of one launch, as accelerate, torchrun and MPI number them in the environment."""

from __future__ import annotations

import os

_PROCESSES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_RANK = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")
_LOCAL_RANK = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID",
               "MV2_COMM_WORLD_LOCAL_RANK")  # fmt: skip


def launched() -> int:
    """Return how many processes were launched together."""
    return _number(_PROCESSES, 1)


def rank() -> int:
    """Return the number of this process, from 0, among those launched together."""
    return _number(_RANK, 0) if launched() > 1 else 0


def local_rank() -> int:
    """Return the number of this process among those on its machine; where unknown, its rank."""
    return _number(_LOCAL_RANK, rank()) if launched() > 1 else 0


def _number(names: tuple[str, ...], default: int) -> int:
    """Return the first of some environment variables that is a number."""
    values = (os.environ.get(name, "") for name in names)
    return next((int(value) for value in values if value.isdecimal()), default)
