"""Activations on disk: shards that are whole or absent, and a manifest when all are there."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from llmprobe.files import sha256 as file_sha256
from llmprobe.files import whole_file, write_text

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
        in a warning and removed.
        """
        found = {}
        for path in _whole(self.folder.glob("shard-*.safetensors")):
            index = int(path.name.split("-")[1])
            if _stamp_of(path) == _stamp(index, layout):
                found[index] = path
            else:
                _drop(path, "of another extraction")
        return found

    def finish(self, layout: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write the manifest: the extraction is complete."""
        manifest = {
            "layout": layout,
            "shards": [
                {"file": path.name, "bytes": path.stat().st_size, "sha256": _digest_of(path)}
                for path in sorted(self.folder.glob("shard-*.safetensors"))
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
        for path in paths:
            if not path.is_file():
                log.warning("%s is missing; it is made again", path)
        there = {path: _stamp_of(path) for path in _whole(p for p in paths if p.is_file())}
        return dict(manifest) if [there.get(path) for path in paths] == stamps else None

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


def _whole(shards: Iterable[Path]) -> Iterator[Path]:
    """Those of some shards whose bytes are the ones that were written; the others are removed."""
    paths = sorted(shards)
    with ThreadPoolExecutor() as pool:
        for path, digest in zip(paths, pool.map(file_sha256, paths), strict=True):
            if digest == _digest_of(path):
                yield path
            else:
                _drop(path, "damaged")


def _drop(path: Path, why: str) -> None:
    log.warning("%s is %s; it is made again", path, why)
    path.unlink(missing_ok=True)
