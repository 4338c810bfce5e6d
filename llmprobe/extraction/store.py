"""Activations on disk: shards that are whole or absent, and a manifest when all are there."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llmprobe.files import sha256, whole_file, write_text

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"


class Store:
    """One extraction in one folder.

    ``shard-00000.safetensors`` holds a tensor ``[rows, d]`` for each layer, so reading a layer
    touches only its bytes. ``manifest.json`` is written last: without it the extraction is not
    complete, and the next one goes on after the whole shards that it finds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def shard_path(self, index: int) -> Path:
        """Where shard ``index`` is or will be."""
        return self.folder / f"shard-{index:05d}.safetensors"

    def has_shard(self, index: int, fingerprint: str) -> bool:
        """Whether the shard is there, readable, and of this layout."""
        path = self.shard_path(index)
        if not path.exists():
            return False
        try:
            with safe_open(path, framework="pt") as shard:
                found = shard.metadata()
        except (SafetensorError, OSError):
            found = None
        if found == _stamp(index, fingerprint):
            return True
        log.warning("%s is damaged or of another extraction; it is made again", path)
        return False

    def write_shard(self, index: int, fingerprint: str, states: Tensor) -> None:
        """Write the states ``[rows, layers, d]`` of one shard, whole or not at all."""
        layers = {str(i): states[:, i].contiguous() for i in range(states.shape[1])}
        with whole_file(self.shard_path(index)) as partial:
            save_file(layers, partial, _stamp(index, fingerprint))

    def finish(self, n_shards: int, row_of: list[int], facts: Mapping[str, Any]) -> None:
        """Write the manifest: the extraction is complete."""
        shards = [
            {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
            for path in map(self.shard_path, range(n_shards))
        ]
        manifest = {"shards": shards, "row_of": row_of, **facts}
        write_text(self.folder / MANIFEST, json.dumps(manifest))

    def manifest(self) -> dict[str, Any] | None:
        """The manifest of a complete and undamaged extraction, else None.

        A shard whose bytes are not those that were written is named in a warning and removed.
        """
        try:
            manifest = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
            shards = {
                self.folder / s["file"]: (s["bytes"], s["sha256"]) for s in manifest["shards"]
            }
        except (OSError, ValueError, KeyError, TypeError):
            return None
        whole = True
        for path, (n_bytes, digest) in shards.items():
            same_size = path.is_file() and path.stat().st_size == n_bytes
            if not (same_size and sha256(path) == digest):
                log.warning("%s is missing or damaged; it is made again", path)
                path.unlink(missing_ok=True)
                whole = False
        return manifest if whole else None

    def layer(self, index: int, manifest: Mapping[str, Any]) -> np.ndarray:
        """States of one layer in the dataset's order. -> [n, d] float32"""
        parts = []
        for shard in manifest["shards"]:
            with safe_open(self.folder / shard["file"], framework="pt") as opened:
                parts.append(opened.get_tensor(str(index)).float().numpy())
        rows: np.ndarray = np.concatenate(parts)[manifest["row_of"]]
        return rows


def _stamp(index: int, fingerprint: str) -> dict[str, str]:
    """What a shard says of itself; one entry, since the order of several differs between runs."""
    return {"shard": f"{index} of {fingerprint}"}
