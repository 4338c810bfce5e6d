"""Layers in parallel: states that are read when their turn comes, and a thread for each layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol, TypeVar

import numpy as np
import psutil
import torch
from threadpoolctl import threadpool_limits

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.ground.progress import Progress
from llmprobe.probing.fit_many import CHUNK_BYTES

Answer = TypeVar("Answer")

MOST_WORKERS = 8
"""The most layers that are in memory at a time, if it has room for them."""

LARGE = 2**30
"""Bytes of a layer beyond which its products are large enough to share among all threads."""


class States(Protocol):
    """The hidden states of some layers, each read when its turn comes."""

    @property
    def layers(self) -> list[int]:
        """Return the numbers of the layers, in rising order."""

    def layer(self, index: int) -> np.ndarray:
        """Return the states of a layer, float32 or float64. [n, d]"""

    def n_bytes(self, index: int) -> int:
        """Return how many bytes of memory the states of a layer take."""


class DatasetStates(States, Protocol):
    """The states of a dataset in a model, such as an extraction gives."""

    @property
    def dataset(self) -> ConceptDataset:
        """The dataset whose texts the states are of."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What is known of the extraction: model, site, position, tokens, seconds, …"""

    @property
    def token_embeddings(self) -> np.ndarray | None:
        """The mean of the embeddings of each text's tokens, where it is known. [n, d], or None"""

    @property
    def n_tokens(self) -> np.ndarray | None:
        """The number of rows of each text, where it has one for each token. [n], or None"""


@dataclass(frozen=True)
class Arrays:
    """States that are in memory."""

    of_layer: Mapping[int, np.ndarray]
    """The states of each layer, by its number. [n, d] each"""

    @property
    def layers(self) -> list[int]:
        """Return the numbers of the layers, in rising order."""
        return sorted(self.of_layer)

    @property
    def is_constant(self) -> bool:
        """Whether all rows are the same, in every layer."""
        return all(bool((X[:1] == X).all()) for X in self.of_layer.values())

    def layer(self, index: int) -> np.ndarray:
        """Return the states of a layer in an order and type that torch takes silently. [n, d]"""
        X = self.of_layer[index]
        precise = X.dtype.itemsize > 4 and X.dtype.kind in "fiu"
        return np.require(X, np.float64 if precise else np.float32, ["C", "W"])

    def n_bytes(self, index: int) -> int:
        """Return how many bytes of memory the states of a layer take."""
        X = self.of_layer[index]
        return X.size * max(X.itemsize, 4)


def each_layer(
    states: States,
    fit: Callable[[np.ndarray], Answer],
    label: str,
    progress: bool,
) -> list[Answer]:
    """Apply ``fit`` to each layer's states [n, d], read when its turn comes.

    Each of torch's threads works on a layer; large layers come one at a time, with all threads.
    """
    fits: list[Answer] = []
    with Progress(label, len(states.layers), shown=progress) as bar:
        sized = groupby(states.layers, lambda layer: states.n_bytes(layer) > LARGE)
        for is_large, group in sized:
            layers = list(group)
            workers = 1 if is_large else _workers(max(map(states.n_bytes, layers)), len(layers))
            with threads(torch.get_num_threads() if is_large else 1) as limit:
                # Each worker thread has a count of its own too, hence the initializer.
                pool = ThreadPoolExecutor(
                    workers, initializer=torch.set_num_threads, initargs=(limit,)
                )
                try:
                    for fitted in pool.map(lambda layer: fit(states.layer(layer)), layers):
                        fits.append(fitted)
                        bar.advance(1)
                finally:
                    pool.shutdown(cancel_futures=True)
    return fits


def _workers(n_bytes: int, layers: int) -> int:
    """Return how many layers of ``n_bytes`` are worked on at a time."""
    # Some four copies of a layer, and a chunk each for the search and the solver.
    needed = 4 * n_bytes + 2 * CHUNK_BYTES
    room = int(psutil.virtual_memory().available // needed)
    return max(1, min(torch.get_num_threads(), layers, MOST_WORKERS, room))


@contextmanager
def threads(limit: int) -> Iterator[int]:
    """Limit the threads inside each product of matrices, of torch and of NumPy.

    Threads that share small products wait for each other by spinning. On an idle machine that is
    as fast as one thread for each layer; where another process uses a core, it is many times
    slower (docs/performance.md).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(limit)
    try:
        with threadpool_limits(limit, user_api="blas"):
            yield limit
    finally:
        torch.set_num_threads(before)
