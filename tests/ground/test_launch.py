"""Whatever starts several processes, each knows how many there are and which one it is."""

from __future__ import annotations

import pytest

from llmprobe.ground.launch import launched, local_rank, rank

LAUNCHERS = {
    "accelerate, torchrun": ("WORLD_SIZE", "RANK", "LOCAL_RANK"),
    "Open MPI": (
        "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK",
    ),
    "MPICH, Intel MPI": ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID"),
    "MVAPICH": ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_RANK"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _launched_by_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for names in LAUNCHERS.values():
        for name in names:
            monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_tells_each_process_its_numbers(
    launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in zip(LAUNCHERS[launcher], ("8", "5", "1"), strict=True):
        monkeypatch.setenv(name, value)
    assert (launched(), rank(), local_rank()) == (8, 5, 1)


def test_a_process_that_nothing_launched_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (launched(), rank(), local_rank()) == (1, 0, 0)
    # Left over in the environment of a shell, these mean nothing.
    for name, value in (("WORLD_SIZE", ""), ("RANK", "3"), ("LOCAL_RANK", "3")):
        monkeypatch.setenv(name, value)
    assert (launched(), rank(), local_rank()) == (1, 0, 0)


def test_a_process_that_is_not_told_its_place_on_the_machine_takes_that_among_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PMI_SIZE", "8")
    monkeypatch.setenv("PMI_RANK", "5")
    assert local_rank() == 5
