"""Digests, by which a file is read back exactly as it was written, or not at all.

A file that is read by itself contains the sha256 of its own bytes. For files that belong together,
``digests.json`` in their folder has the sha256 of each, so that a file of another run is not taken
for one of them. Files of earlier versions have neither, and are read unchecked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path

from llmprobe.ground.files import sha256 as file_sha256
from llmprobe.ground.files import whole_file, write_text

DIGESTS = "digests.json"
UNSIGNED = {"own_sha256": "0" * 64}
"""An entry of a JSON object, a placeholder that ``signed`` fills in."""
_SIGNATURE = re.compile(rb'"own_sha256": "([0-9a-f]{64})"')


def signed(content: bytes) -> bytes:
    """Replace the zeros of ``UNSIGNED`` in a file's content by the sha256 of that content."""
    return _with_signature(content, sha256(content).hexdigest())


def read_back(path: Path) -> bytes:
    """Read a file that llmprobe wrote.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        Its bytes are not those that were written.
    """
    content = path.read_bytes()
    folder = path.parents[2] if path.match("probes/*/*") else path.parent
    expected = recorded(folder).get(path.relative_to(folder).as_posix())
    if expected not in (None, sha256(content).hexdigest()):
        raise ValueError(f"it is not as it was written; if the change is yours, remove {DIGESTS}")
    _require_own(content)
    return content


def recorded(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file in a folder's ``digests.json``; empty where that is missing.

    Raises
    ------
    ValueError
        ``digests.json`` is damaged.
    """
    path = folder / DIGESTS
    try:
        content = path.read_bytes()
        _require_own(content)
        digests: dict[str, str] = {**json.loads(content)["files"]}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError):
        raise ValueError(f"{DIGESTS} is damaged; remove it to read files unchecked") from None
    return digests


@contextmanager
def written_together(folder: Path) -> Iterator[Callable[[str], Path]]:
    """Yield a function that takes the name of a file and returns a temporary path to write it to.

    All files get their names when the block succeeds. ``digests.json`` then lists them, beside the
    files that it listed before and that still exist.
    """
    partials: dict[str, Path] = {}
    with ExitStack() as files:

        def new(name: str) -> Path:
            partials[name] = files.enter_context(whole_file(folder / name))
            return partials[name]

        yield new
        try:
            before = {n: digest for n, digest in recorded(folder).items() if (folder / n).exists()}
        except ValueError:
            before = {}
        digests = before | {name: file_sha256(path) for name, path in partials.items()}
        listed = json.dumps({**UNSIGNED, "files": dict(sorted(digests.items()))}, indent=1)
        write_text(folder / DIGESTS, signed(listed.encode()).decode())


def _with_signature(content: bytes, signature: str) -> bytes:
    return _SIGNATURE.sub(f'"own_sha256": "{signature}"'.encode(), content, count=1)


def _require_own(content: bytes) -> None:
    """Raise ``ValueError`` if a file contains a digest of itself that does not match its bytes."""
    if b"own_sha256" not in content:
        return
    signature = _SIGNATURE.search(content)
    unsigned = _with_signature(content, UNSIGNED["own_sha256"])
    if signature is None or sha256(unsigned).hexdigest().encode() != signature[1]:
        raise ValueError("it is not as it was written")
