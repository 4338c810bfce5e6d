"""Activations on disk: shards that are whole or absent, and a manifest when all are there."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from llmprobe.ground.digests import UNSIGNED, read_back, signed
from llmprobe.ground.files import sha256 as file_sha256
from llmprobe.ground.files import whole_file, write_text

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_SHARD = re.compile(r"shard-(\d{5,})-([0-9a-f]{64})\.safetensors")


class Store:
    """One extraction in one folder.

    A shard holds a tensor ``[rows, d]`` for each layer, so reading a layer touches only its bytes.
    A shard never changes: its name, which it gets when it is whole, ends in the sha256 of its
    bytes, and its header says which extraction, layout and index it belongs to. ``manifest.json``
    is written last: without it the extraction is not complete, and the next attempt makes only the
    shards that are missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write_shard(self, index: int, layout: str, states: Tensor, layers: Sequence[int]) -> Path:
        """Write the states ``[layers, rows, d]`` of one shard, whole or not at all."""
        tensors = {str(layer): states[i] for i, layer in enumerate(layers)}
        content = save(tensors, _make_stamp(index, layout))
        path = self.folder / f"shard-{index:05d}-{sha256(content).hexdigest()}.safetensors"
        with whole_file(path) as partial:
            partial.write_bytes(content)
        return path

    def shards(self, layout: str) -> dict[int, Path]:
        """Return the whole shards of a layout that are on disk, by their index.

        A shard that is damaged, or of another extraction or layout, is removed with a warning. The
        caller must hold the folder's lease.
        """
        paths = sorted(self.folder.glob("shard-*.safetensors"))
        whole, shards = set(_whole(paths)), dict[int, Path]()
        for path in paths:
            index = int(path.name.split("-")[1])
            is_own = path in whole and _read_stamp(path) == _make_stamp(index, layout)
            if is_own and index not in shards:
                shards[index] = path
                continue
            why = "there twice" if is_own else "damaged, or of another extraction or layout"
            log.warning("%s is %s; it is removed, and made again if needed", path, why)
            path.unlink(missing_ok=True)
        return shards

    def finish(self, layout: str, n_shards: int, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write the manifest of a complete extraction and return it.

        Raises
        ------
        OSError
            A shard is missing, or is there twice.
        """
        paths = sorted(self.folder.glob("shard-*.safetensors"))
        if [int(path.name.split("-")[1]) for path in paths] != list(range(n_shards)):
            raise OSError(
                f"{self.folder}: expected shards 0 to {n_shards - 1}, each once, and found "
                f"{len(paths)} files; do all processes see the same cache folder?"
            )
        manifest = {
            "layout": layout,
            "shards": [
                {"file": path.name, "bytes": path.stat().st_size, "sha256": _claimed_digest(path)}
                for path in paths
            ],
            **facts,
        }
        text = json.dumps(UNSIGNED | manifest)
        write_text(self.folder / MANIFEST, signed(text.encode()).decode())
        return manifest

    def manifest(self) -> dict[str, Any] | None:
        """Return the manifest of a complete and undamaged extraction, else None.

        A warning names a file that is damaged, and a shard that is missing beside the manifest.
        """
        try:
            manifest = json.loads(read_back(self.folder / MANIFEST))
            paths = [self.folder / shard["file"] for shard in manifest["shards"]]
            stamps = [_make_stamp(i, manifest["layout"]) for i in range(len(paths))]
            facts = {key: value for key, value in manifest.items() if key not in UNSIGNED}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is damaged (%s); it is made again", self.folder / MANIFEST, error)
            return None
        on_disk = {path: _read_stamp(path) for path in _whole(paths)}
        damaged = [p for p, stamp in zip(paths, stamps, strict=True) if on_disk.get(p) != stamp]
        for path in damaged:
            log.warning("%s is missing or damaged; the extraction is not complete", path)
        return None if damaged else facts

    def layer(self, index: int, manifest: Mapping[str, Any]) -> np.ndarray:
        """Return the states of one layer in the dataset's order. -> [n, d] float32

        Besides the result, at most one shard's states of the layer are in memory.
        """
        row_of = np.asarray(manifest["row_of"])
        order = row_of.argsort(kind="stable")
        ordered, first, states = row_of[order], 0, np.empty((0, 0), np.float32)
        for shard in manifest["shards"]:
            with safe_open(self.folder / shard["file"], framework="pt") as opened:
                rows = opened.get_tensor(str(index))
            if not states.size:
                states = np.empty((len(row_of), rows.shape[1]), np.float32)
            of_shard = slice(*np.searchsorted(ordered, [first, first + len(rows)]))
            states[order[of_shard]] = rows[ordered[of_shard] - first].float()
            first += len(rows)
        return states


def _make_stamp(index: int, layout: str) -> dict[str, str]:
    """Return a shard's header: one entry, since the order of several would differ between runs."""
    return {"shard": f"{index} of {layout}"}


def _read_stamp(path: Path) -> dict[str, str] | None:
    try:
        with safe_open(path, framework="pt") as shard:
            stamp: dict[str, str] | None = shard.metadata()
            return stamp
    except (SafetensorError, OSError):
        return None


def _claimed_digest(path: Path) -> str:
    """Return the digest that a shard's name claims, ``""`` without one."""
    match = _SHARD.fullmatch(path.name)
    return match[2] if match else ""


def _whole(paths: Sequence[Path]) -> list[Path]:
    """Return the shards that are on disk and whose bytes have the digest in their name."""

    def is_whole(path: Path) -> bool:
        try:
            return file_sha256(path) == _claimed_digest(path)
        except OSError:
            return False

    with ThreadPoolExecutor() as pool:
        return [path for path, whole in zip(paths, pool.map(is_whole, paths), strict=True) if whole]
