"""Processes of one launch divide the work among themselves, all of it and evenly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprobe.extraction.processes import World


def share_of(rank: int, size: int, work: dict[int, int]) -> list[int]:
    environment = {"WORLD_SIZE": str(size), "RANK": str(rank)}
    with patch.dict("os.environ", environment), patch("torch.distributed.init_process_group"):
        return World().share(work)


@given(st.dictionaries(st.integers(0, 99), st.integers(1, 50)), st.integers(2, 5))
def test_each_piece_is_one_processs_and_none_has_much_more(work: dict[int, int], size: int) -> None:
    shares = [share_of(rank, size, work) for rank in range(size)]
    assert sorted(piece for share in shares for piece in share) == sorted(work)
    loads = [sum(work[piece] for piece in share) for share in shares]
    assert max(loads) - min(loads) <= max(work.values(), default=0)


@pytest.mark.parametrize("names", [("WORLD_SIZE", "RANK"),
                                   ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
                                   ("PMI_SIZE", "PMI_RANK")])  # fmt: skip
def test_launchers_name_the_processes_each_in_their_own_way(names: tuple[str, str]) -> None:
    with (
        patch.dict("os.environ", {names[0]: "3", names[1]: "2"}),
        patch("torch.distributed.init_process_group") as joined,
    ):
        world = World()
    assert (world.size, world.rank, world.leader) == (3, 2, False)
    assert joined.call_args.kwargs["world_size"] == 3


def test_without_a_launcher_a_process_is_alone_and_waits_for_none() -> None:
    with patch("torch.distributed.init_process_group") as joined:
        world = World()
    assert not joined.called
    assert (world.size, world.leader, world.agree("x")) == (1, True, "x")
    world.wait()
    assert world.share({3: 1, 1: 5}) == [1, 3]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_no_thread_of_a_launch_outlives_it() -> None:
    """Such a thread aborted one launch in ten, when all its work was done."""
    code = """
from pathlib import Path
import torch.distributed as dist
from llmprobe.extraction import processes
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
from transformers import LlamaModel
def threads():
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    return sum("gloo" in name for name in names)
before = threads()
processes._leave()
print(before > 0, threads())
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["True", "0"]
