"""The lease of a folder: one process works in it at a time, also on file systems without locks.

The lease is a file, which its holder touches every few seconds and removes at the end. Another
process may take it once the holder has ended, or once the holder's host gives no sign of life.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import OwnerRecord, SoftFileLease, Timeout

from llmprobe.ground.errors import UserError
from llmprobe.ground.files import remove_partials, write_text
from llmprobe.ground.launch import rank

log = logging.getLogger(__name__)

LEASE, SINCE = ".lease", ".lease-since"
EXPIRES = 60.0
"""Seconds after which a lease that is not touched can be taken."""
TOKENS = "LLMPROBE_LEASES"
"""The environment variable with the tokens of a process's leases; child processes inherit it."""


@contextmanager
def lease(folder: Path, wait: bool = False, tidy: bool = True) -> Iterator[bool]:
    """Hold the lease of a folder during the block; yield whether another process was waited for.

    Child processes of the holder work beside it, and so do the processes of one launch beside the
    first of them.

    Parameters
    ----------
    wait
        Whether to wait until another process is done.
    tidy
        Whether to remove temporary files that killed processes left; not where child processes of
        another holder may still be at work.

    Raises
    ------
    UserError
        Another process works in the folder, and ``wait`` is false.
    """
    path, tokens = folder.resolve() / LEASE, os.environ.get(TOKENS, "")
    lock = SoftFileLease(
        path, lease_duration=EXPIRES, poll_interval=0.2,
        on_compromise=lambda lost: log.warning("%s: lost (%s)", path, lost.reason),
    )  # fmt: skip
    holder = lock.owner
    if rank() > 0 or (holder is not None and holder.token in tokens.split()):
        yield False
        return
    waited = _acquire(lock, folder, wait)
    try:
        os.environ[TOKENS] = f"{tokens} {lock.token}".strip()
        write_text(path.with_name(SINCE), time.strftime("%Y-%m-%d %H:%M:%S %z"))
        if tidy:
            remove_partials(path.parent)
        yield waited
    finally:
        os.environ[TOKENS] = tokens
        path.with_name(SINCE).unlink(missing_ok=True)
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a process has, or may have, the lease of a folder."""
    lock = SoftFileLease(folder.resolve() / LEASE, lease_duration=EXPIRES)
    holder = lock.owner
    if holder is not None and _host(holder) == socket.gethostname():
        return _runs_here(holder)
    # A holder on another host is only known by its last touch, and clocks differ.
    return time.time() - _touched(lock) / 1e9 < 10 * EXPIRES


def _acquire(lock: SoftFileLease, folder: Path, wait: bool) -> bool:
    """Take the lease; return whether another process had it.

    Raise ``UserError`` if another process has it, and ``wait`` is false.
    """
    try:
        lock.acquire(timeout=0)
        return False
    except Timeout:
        holder = lock.owner
    if wait:
        log.info("%s: another process is at work here; waiting for it", folder.name)
        lock.acquire()
        return True
    try:
        if _runs_here(holder):
            raise Timeout(lock.lock_file)
        log.info("%s: another process works here, or did; waiting for a sign of life", folder)
        touched = _touched(lock)
        lock.acquire(timeout=2 * EXPIRES, cancel_check=lambda: _touched(lock) not in (0, touched))
        return True
    except Timeout:
        pass
    since = Path(lock.lock_file).with_name(SINCE)
    began = since.read_text() if since.is_file() else "a moment ago"
    host = f", on host {_host(holder)} (process {holder.pid})" if holder else ""
    raise UserError(
        f"{folder}: another process works here, since {began}{host}; wait until it is done, or if "
        f"there is none remove {lock.lock_file}"
    )


def _host(holder: OwnerRecord) -> str:
    """Return the name of a holder's host, without that of a container on it."""
    return holder.hostname.partition("?")[0]


def _runs_here(holder: OwnerRecord | None) -> bool:
    """Whether the holder is a process that runs on this host; False where that cannot be known."""
    if holder is None or _host(holder) != socket.gethostname():
        return False
    try:
        return bool(psutil.Process(holder.pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _touched(lock: SoftFileLease) -> int:
    """Return when a lease was touched, in ns by its file system's clock; 0 where there is none."""
    try:
        return Path(lock.lock_file).stat().st_mtime_ns
    except OSError:
        return 0
