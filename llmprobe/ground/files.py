"""Where files live on disk, and how they are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """Return ``LLMPROBE_CACHE``, or ``llmprobe`` in the user's cache folder (XDG)."""
    chosen = os.environ.get("LLMPROBE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "llmprobe"


def existing(path: str | Path) -> Path | None:
    """Return the absolute path of an existing file or folder (``~`` is home), None without one."""
    try:
        return Path(path).expanduser().resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        return None


def shipped(folder: str) -> Path:
    """Return where ``data`` or ``configs`` is: in an installed package, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / folder
    return inside if inside.is_dir() else package.parent / folder


def sha256(path: Path) -> str:
    """Return the hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Return the hex sha256 of a JSON value; the order of a mapping's keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; its file becomes ``path`` if the block succeeds.

    The content is synced before the rename, so a reader sees the old file or the whole new one,
    also after a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        # Some writers report a full disk without its path.
        error.filename = error.filename or str(path)
        raise
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()


def remove_partials(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder and two levels below it."""
    name = f".*.{8 * '[0-9a-f]'}.partial"
    for places in ("", "*/", "*/*/"):
        for litter in folder.glob(places + name):
            litter.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_first(path: Path, text: str) -> None:
    """Write a text file whole or not at all, unless another process wrote it first."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    partial.write_text(text, encoding="utf-8")
    try:
        os.link(partial, path)
    except OSError:
        # Either another process wrote it first, or the file system has no links.
        if not path.exists():
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def disk_is_full(error: BaseException) -> bool:
    """Whether a write failed for lack of space; safetensors says so only in its message."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in full or f"(os error {errno.ENOSPC})" in str(error)


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Raise ``OSError`` (ENOSPC) when the disk of ``folder`` has less than ``needed`` bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{purpose} needs {size(needed)} and the disk has {size(free)} free",
            str(folder),
        )


def size(n_bytes: float) -> str:
    """Return a number of bytes with about three digits and a unit, as in ``98.4 MB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit in ("bytes", "kB") else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"
