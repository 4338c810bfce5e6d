"""Which folders of the cache a running process reads, so that no other one removes them."""

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
"""The folder of the cache with a file for each process."""
_FOREIGN = 7 * 24 * 3600.0
"""Seconds for which a process on another host, which cannot be seen, is taken to be running."""
_marked: dict[Path, set[str]] = {}


def use(folder: Path) -> None:
    """Keep a folder of the cache from being removed by others while this process runs.

    It need not be there yet. Where the cache cannot be written, nobody can remove it either.
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
    """Return the folders of the cache that running processes use, by their absolute paths.

    What processes left that were killed is removed.
    """
    folders: set[Path] = set()
    for marker in (cache_folder().resolve() / USES).glob("*.json"):
        try:
            content = json.loads(marker.read_text(encoding="utf-8"))
            if _runs(marker, float(content["began"])):
                folders.update(map(Path, content["folders"]))
                continue
        except (OSError, ValueError, LookupError, TypeError):
            pass  # It was removed meanwhile, or is none.
        marker.unlink(missing_ok=True)
    return folders


def _runs(marker: Path, began: float) -> bool:
    """Whether the process of a marker runs; of one on another host, whether it may."""
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
