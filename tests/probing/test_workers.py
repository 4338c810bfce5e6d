"""Layers are worked on by as many threads as torch may use, each in one thread."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Barrier, Lock

import numpy as np
import pytest
import torch

from llmprobe.probing.workers import Arrays, each_layer

LAYERS = Arrays({layer: np.full((2, 1), layer, dtype=np.float32) for layer in range(3)})


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_three_threads_work_on_three_layers_at_a_time() -> None:
    torch.set_num_threads(3)
    together = Barrier(3, timeout=30)

    def fit(states: np.ndarray) -> tuple[float, int]:
        together.wait()
        return float(states[0, 0]), torch.get_num_threads()

    assert each_layer(LAYERS, fit, "", progress=False) == [(0, 1), (1, 1), (2, 1)]
    assert torch.get_num_threads() == 3


def test_one_thread_works_on_one_layer_at_a_time() -> None:
    torch.set_num_threads(1)
    lock, working, most = Lock(), 0, list[int]()

    def fit(_: np.ndarray) -> None:
        nonlocal working
        with lock:
            working += 1
            most.append(working)
        time.sleep(0.05)
        with lock:
            working -= 1

    each_layer(LAYERS, fit, "", progress=False)
    assert most == [1, 1, 1]
