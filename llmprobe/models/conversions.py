"""Weights in other formats as plain folders of safetensors: converted once, then read back."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from filelock import FileLock

from llmprobe.ground.digests import DIGESTS, UNSIGNED, recorded, signed
from llmprobe.ground.files import cache_folder, sha256, write_text
from llmprobe.ground.uses import use

log = logging.getLogger(__name__)

CONVERSION = 2
"""Version of what is written; to be raised when that changes, so that older folders are not used.
"""


def converted_folder(name: str, digest: str) -> Path:
    """Return the folder of the weights with this digest, once they are converted."""
    return cache_folder() / "models" / f"{name}-{digest[:12]}-v{CONVERSION}"


def converted(name: str, digest: str, make: Callable[[Path, Path], None]) -> Path:
    """Return the converted folder; ``make(scratch, folder)`` fills it when it is not there.

    One process converts while others wait. The folder takes its name only when it is whole, and
    the next conversion removes what an interrupted one left behind. A folder that is no longer as
    it was written is made again, with a warning.
    """
    folder = converted_folder(name, digest)
    use(folder)
    if folder.is_dir() and _is_whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if folder.is_dir():
            if _is_whole(folder):
                return folder
            log.warning("%s is damaged; it is made again", folder)
            shutil.rmtree(folder)
        for stale in folder.parent.glob(f".{folder.name}.partial-*"):
            shutil.rmtree(stale)
        prefix = f".{folder.name}.partial-"
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=prefix) as scratch:
            plain = Path(scratch) / "plain"
            make(Path(scratch), plain)
            files = {f.relative_to(plain).as_posix(): sha256(f) for f in _files(plain)}
            listed = json.dumps({**UNSIGNED, "files": files}, indent=1)
            write_text(plain / DIGESTS, signed(listed.encode()).decode())
            plain.rename(folder)
    return folder


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _is_whole(folder: Path) -> bool:
    """Whether a folder has the files that were written; True where an older version wrote it."""
    stats = tuple((file, *_stamp(file)) for file in _files(folder))
    return _has_recorded(folder, stats)


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


@cache
def _has_recorded(folder: Path, _: tuple[tuple[Path, int, int], ...]) -> bool:
    """Whether the files have the recorded digests; unchanged ones are read once in a process."""
    try:
        return all(sha256(folder / name) == known for name, known in recorded(folder).items())
    except (OSError, ValueError):
        return False
