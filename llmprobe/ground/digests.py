"""Files that are read back: as they were written, or not at all.

A file that is read by itself has the sha256 of its own bytes inside. Of files that belong together,
``digests.json`` in their folder has that of each, so that one of another run is not taken for its
own. What an earlier version wrote has neither, and is read as it is.
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
"""An entry for a JSON object in a file, which ``signed`` fills in."""
_SIGNATURE = re.compile(rb'"own_sha256": "([0-9a-f]{64})"')


def signed(content: bytes) -> bytes:
    """Put the sha256 of a file's content in the place of the zeros of ``UNSIGNED`` in it."""
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
    """Return the sha256 of each file that was written into a folder together with others.

    Raises
    ------
    ValueError
        ``digests.json`` is damaged; where it is missing, there are none.
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
    """Yield a function that takes the name of a file and returns where to write it for now.

    All take their names when the block ends well. What was written together before stays known.
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
    """Raise ``ValueError`` where a file says of itself that it had other bytes."""
    if b"own_sha256" not in content:
        return
    signature = _SIGNATURE.search(content)
    unsigned = _with_signature(content, UNSIGNED["own_sha256"])
    if signature is None or sha256(unsigned).hexdigest().encode() != signature[1]:
        raise ValueError("it is not as it was written")
