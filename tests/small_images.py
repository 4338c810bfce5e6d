"""Helpers: small images in IDX files, and experiments on them that take a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmprobe.api.networks import probe_network
from llmprobe.sanity import image_networks, networks

NAMES = (
    "train-images-idx3-ubyte", "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte",
)  # fmt: skip


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write an IDX file of unsigned bytes."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes())


def small_images(
    folder: Path, classes: tuple[int, ...] = (0, 1, 2), train: int = 30, test: int = 24,
    side: int = 8,
) -> Path:  # fmt: skip
    """Fill a folder with IDX files: each class is a bright column of its own, in noise."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for n, pixels, labels in ((train, *NAMES[:2]), (test, *NAMES[2:])):
        number = np.arange(n) % len(classes)
        values = random.integers(0, 100, (n, side, side))
        values[np.arange(n), :, number % side] += 100
        write_idx(folder / pixels, values)
        write_idx(folder / labels, np.array(classes)[number])
    return folder


def make_cheap(patch: pytest.MonkeyPatch) -> None:
    """Probe with one penalty, without description lengths, and a bypassed network of 8 layers."""

    def probed(*arguments: Any, **options: Any) -> Any:
        return probe_network(*arguments, **{**options, "description_length": False, "l2": 100.0})

    patch.setattr(image_networks, "probe_network", probed)
    for module in (image_networks, networks):
        patch.setattr(module, "LAYERS", 8)
    patch.setattr(image_networks, "BYPASS_STEPS", (0, 2))
