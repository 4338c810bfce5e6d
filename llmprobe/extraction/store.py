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
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from llmprobe.ground.files import sha256 as file_sha256
from llmprobe.ground.files import whole_file, write_text

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_SHARD = re.compile(r"shard-(\d{5,})-([0-9a-f]{64})\.safetensors")


class Store:
    """One extraction in one folder.

    A shard holds a tensor ``[rows, d]`` for each layer, so reading a layer touches only its bytes.
    It never changes: the name that it takes when it is whole ends in the sha256 of its bytes, and
    its header says which extraction, layout and place it belongs to. ``manifest.json`` is written
    last: without it the extraction is not complete, and the next one goes on after the whole
    shards that it finds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write_shard(self, index: int, layout: str, states: Tensor, layers: Sequence[int]) -> Path:
        """Write the states ``[layers, rows, d]`` of one shard, whole or not at all."""
        tensors = {str(layer): states[i] for i, layer in enumerate(layers)}
        content = save(tensors, _stamp(index, layout))
        path = self.folder / f"shard-{index:05d}-{sha256(content).hexdigest()}.safetensors"
        with whole_file(path) as partial:
            partial.write_bytes(content)
        return path

    def shards(self, layout: str) -> dict[int, Path]:
        """The whole shards of a layout that are there, by their index.

        One whose bytes are not those that were written, or that is of another extraction, is named
        in a warning and removed, as is what a killed process left. For who has the folder's lock.
        """
        for litter in self.folder.glob(".*.partial"):
            litter.unlink()
        paths = sorted(self.folder.glob("shard-*.safetensors"))
        whole, found = set(_whole(paths)), dict[int, Path]()
        for path in paths:
            index = int(path.name.split("-")[1])
            if path not in whole:
                why = "damaged"
            elif _stamp_of(path) != _stamp(index, layout):
                why = "of another extraction or layout"
            elif index in found:
                why = "there twice"
            else:
                found[index] = path
                continue
            log.warning("%s is %s; it is removed, and made again if needed", path, why)
            path.unlink(missing_ok=True)
        return found

    def finish(self, layout: str, n_shards: int, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write the manifest: the extraction is complete.

        Raises
        ------
        OSError
            It is not: not every shard is there, or one is there twice.
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
                {"file": path.name, "bytes": path.stat().st_size, "sha256": _digest_of(path)}
                for path in paths
            ],
            **facts,
        }
        write_text(self.folder / MANIFEST, json.dumps(manifest))
        return manifest

    def manifest(self) -> dict[str, Any] | None:
        """The manifest of a complete and undamaged extraction, else None.

        A shard that is missing or damaged is named in a warning.
        """
        try:
            manifest = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
            paths = [self.folder / shard["file"] for shard in manifest["shards"]]
            stamps = [_stamp(i, manifest["layout"]) for i in range(len(paths))]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        there = {path: _stamp_of(path) for path in _whole(paths)}
        wrong = [p for p, stamp in zip(paths, stamps, strict=True) if there.get(p) != stamp]
        for path in wrong:
            log.warning("%s is missing or damaged; the extraction is not complete", path)
        return None if wrong else dict(manifest)

    def layer(self, index: int, manifest: Mapping[str, Any]) -> np.ndarray:
        """States of one layer in the dataset's order. -> [n, d] float32"""
        parts = []
        for shard in manifest["shards"]:
            with safe_open(self.folder / shard["file"], framework="pt") as opened:
                parts.append(opened.get_tensor(str(index)))
        states: np.ndarray = torch.cat(parts)[manifest["row_of"]].float().numpy()
        return states


def _stamp(index: int, layout: str) -> dict[str, str]:
    """What a shard says of itself; one entry, since the order of several differs between runs."""
    return {"shard": f"{index} of {layout}"}


def _stamp_of(path: Path) -> dict[str, str] | None:
    try:
        with safe_open(path, framework="pt") as shard:
            stamp: dict[str, str] | None = shard.metadata()
            return stamp
    except (SafetensorError, OSError):
        return None


def _digest_of(path: Path) -> str:
    """The digest that a shard's name claims."""
    match = _SHARD.fullmatch(path.name)
    return match[2] if match else ""


def _whole(paths: Sequence[Path]) -> list[Path]:
    """Those of some shards that are there with the bytes that were written."""
    with ThreadPoolExecutor() as pool:
        right = list(pool.map(_is_whole, paths))
    return [path for path, is_right in zip(paths, right, strict=True) if is_right]


def _is_whole(path: Path) -> bool:
    try:
        return file_sha256(path) == _digest_of(path)
    except OSError:
        return False
