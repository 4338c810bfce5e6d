"""Which cache folders running processes read, so that no other process removes them."""

from __future__ import annotations

import atexit
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

import psutil

from llmprobe.ground.files import cache_folder, write_text

USES = "in-use"
"""The folder in the cache that has a marker file for each process."""
_FOREIGN = 7 * 24 * 3600.0
"""Seconds for which a process on another host is assumed to run, since it cannot be seen."""
_marked: dict[Path, set[str]] = {}


def use(folder: Path) -> None:
    """Keep other processes from removing a cache folder while this process runs.

    The folder need not exist yet. A cache that cannot be written gets no marker: nothing can be
    removed from it either.
    """
    with suppress(OSError):
        marker = cache_folder().resolve() / USES / f"{socket.gethostname()}-{os.getpid()}.json"
        if not _marked:
            atexit.register(_remove_markers)
        names = _marked.setdefault(marker, set())
        if str(folder.resolve()) not in names or not marker.exists():
            names.add(str(folder.resolve()))
            began = psutil.Process().create_time()
            write_text(marker, json.dumps({"began": began, "folders": sorted(names)}))
        if folder.is_dir():
            os.utime(folder)  # What `llmprobe cache` calls the last use.


def in_use() -> set[Path]:
    """Return the absolute paths of the cache folders that running processes use.

    Markers that killed processes left are removed.
    """
    folders: set[Path] = set()
    for marker in (cache_folder().resolve() / USES).glob("*.json"):
        try:
            content = json.loads(marker.read_text(encoding="utf-8"))
            if _runs(marker, float(content["began"])):
                folders.update(map(Path, content["folders"]))
                continue
        except (OSError, ValueError, LookupError, TypeError):
            pass  # It was removed meanwhile, or is no marker.
        marker.unlink(missing_ok=True)
    return folders


def _runs(marker: Path, began: float) -> bool:
    """Whether a marker's process runs; on another host, whether it may still run."""
    host, _, number = marker.stem.rpartition("-")
    if host != socket.gethostname():
        return time.time() - marker.stat().st_mtime < _FOREIGN
    try:
        process = psutil.Process(int(number))
        alive = process.status() != psutil.STATUS_ZOMBIE
        return bool(alive and abs(process.create_time() - began) < 2)
    except psutil.Error:
        return False


def _remove_markers() -> None:
    for marker in _marked:
        if marker.stem.endswith(f"-{os.getpid()}"):
            with suppress(OSError):
                marker.unlink(missing_ok=True)
