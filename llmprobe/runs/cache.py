"""What the cache folder holds, and how an entry is removed."""

from __future__ import annotations

import json
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llmprobe.extraction.extract import STORE_VERSION
from llmprobe.extraction.store import MANIFEST
from llmprobe.ground.files import cache_folder
from llmprobe.ground.lease import is_held
from llmprobe.ground.uses import in_use
from llmprobe.models.conversions import CONVERSION
from llmprobe.models.packaged import PACKAGED

_PRUNED = ".pruned-"
_MODEL = re.compile(r"(?P<name>.+)-(?P<digest>[0-9a-f]{12})-v(?P<version>\d+)")


@dataclass(frozen=True)
class Cached:
    """One folder of the cache."""

    path: Path
    kind: str
    """``model`` (of a package), ``conversion``, ``activations``, ``dataset`` or ``left over``."""
    name: str
    """The folder's name without digests."""
    model: str
    """The name in tables of the model it belongs to; "" if unknown."""
    what: str
    """A description of its content."""
    outdated: bool
    """Whether this version of llmprobe cannot use it."""

    @property
    def n_bytes(self) -> int:
        """Its size on the cache's disk in bytes, without what symbolic links lead to."""
        files = (file for file in self.path.rglob("*") if file.is_file() or file.is_symlink())
        return sum(file.lstat().st_size for file in files)

    @property
    def age(self) -> float:
        """Seconds since its last use."""
        return max(0.0, time.time() - self.path.stat().st_mtime)

    @property
    def is_elsewhere(self) -> bool:
        """Whether it lies outside the cache folder, behind a symbolic link."""
        return not self.path.resolve().is_relative_to(cache_folder().resolve())


def contents() -> list[Cached]:
    """List what the cache holds, by kind and then by name."""
    cache = cache_folder()
    found = [
        *map(_model, _folders(cache / "models")),
        *map(_activations, _folders(cache / "activations")),
        *(
            Cached(f, "dataset", f.name, "", "downloads", False)
            for f in _folders(cache / "datasets")
        ),
        *_left_over(cache),
    ]
    kinds = ("model", "conversion", "activations", "dataset", "left over")
    return sorted(found, key=lambda one: (kinds.index(one.kind), one.name))


def used_by_others(entry: Cached) -> bool:
    """Whether a running command uses an entry."""
    if entry.path.resolve() in in_use() or is_held(entry.path):
        return True
    if entry.path.name.startswith(".") and ".partial-" in entry.path.name:
        lock = entry.path.with_name(f"{entry.path.name.partition('.partial-')[0]}.lock")
        try:
            with FileLock(lock, timeout=0):
                return False
        except Timeout:
            return True
    return False


def remove(entry: Cached) -> bool:
    """Remove an entry unless a running command uses it. -> whether it was removed

    The entry is renamed first, so that no process finds half of it. If a process has begun to use
    it in the meantime, it gets its name back.

    Raises
    ------
    ValueError
        The entry is a symbolic link, or lies outside the cache folder.
    """
    if entry.is_elsewhere or entry.path.is_symlink():
        raise ValueError(f"{entry.path} lies elsewhere")
    if used_by_others(entry):
        return False
    aside = entry.path.with_name(f"{_PRUNED}{uuid.uuid4().hex[:8]}")
    entry.path.rename(aside)
    if entry.path.resolve() in in_use() and not entry.path.exists():
        aside.rename(entry.path)
        return False
    shutil.rmtree(aside)
    return True


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return [path for path in parent.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _model(path: Path) -> Cached:
    match = _MODEL.fullmatch(path.name)
    if match is None:
        return Cached(path, "conversion", path.name, path.name, "not made by this version", True)
    name, packaged = match["name"], PACKAGED.get(match["name"])
    outdated = int(match["version"]) != CONVERSION
    if packaged is None:
        what = "weights of a .gguf or .bin file, as safetensors"
        return Cached(path, "conversion", name, name, what, outdated)
    outdated = outdated or not packaged.sha256.startswith(match["digest"])
    what = f"{packaged.parameters} parameters, {packaged.precision}"
    return Cached(path, "model", name, name, what, outdated)


def _activations(path: Path) -> Cached:
    name = re.sub("-[0-9a-f]{16}$", "", path.name)
    facts: dict[str, Any] = {}
    try:
        facts = dict(json.loads((path / MANIFEST).read_text(encoding="utf-8")))
        version = facts["key"]["version"]
    except FileNotFoundError:
        # Without a shard, its command failed before it wrote the first states.
        return Cached(path, "activations", name, "", "unfinished", not any(path.glob("shard-*")))
    except (OSError, ValueError, LookupError, TypeError):
        return Cached(path, "activations", name, str(facts.get("model", "")), "damaged", True)
    model = str(facts.get("model", ""))
    # Older versions read one position at a time.
    positions = facts.get("positions") or [facts.get("position")]
    what = f"{facts.get('site')} at {', '.join(map(str, positions))}, {facts.get('dtype')}"
    outdated = version != STORE_VERSION
    old = f"; of store version {version}, now {STORE_VERSION}" if outdated else ""
    return Cached(path, "activations", name, model, f"{what}{old}", outdated)


def _left_over(cache: Path) -> Iterator[Cached]:
    """Yield what killed processes left behind, and temporary folders of running ones."""
    for pattern, what in (
        ("offload-*", "parts of a model that did not fit into memory"),
        ("models/.*.partial-*", "a conversion that did not end, or is being made"),
        (f"*/{_PRUNED}*", "something that was being removed"),
    ):
        for path in cache.glob(pattern):
            if path.is_dir():
                yield Cached(path, "left over", path.name, "", what, True)
