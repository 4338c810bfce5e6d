"""Files that others published: where each comes from, and how it gets on this disk.

A file is looked for in ``LLMPROBE_DATA/<collection>/<name>`` (for machines that cannot download),
then in the cache; else it is downloaded from the commit it is pinned to and checked by sha256.
"""

from __future__ import annotations

import http.client
import logging
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from llmprobe.ground.errors import NotOnDiskError, UserError, first_line
from llmprobe.ground.files import cache_folder, sha256, size, whole_file, write_text

log = logging.getLogger(__name__)

NO_LICENCE = "no licence stated; cite the paper"
_SECONDS = 60
"""How long a server may be silent."""
_UNREACHABLE = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)
_downloads: ContextVar[bool] = ContextVar("downloads", default=True)


@dataclass(frozen=True)
class KnownFile:
    """Where a published file is, and what its bytes must be.

    ``on_github``, ``on_hub`` and ``on_web`` make one.
    """

    collection: str
    """The folder of ``LLMPROBE_DATA``, and of the cache."""
    name: str
    """As upstream calls it."""
    url: str
    """Of exactly this version, where the server keeps versions."""
    upstream: str
    """For people: repository and path."""
    revision: str = ""
    """The commit in ``url``; empty where the server keeps no versions."""
    sha256: str | None = None
    """Of its bytes; None where it is not known: then the first download is trusted."""
    size: int | None = None
    """About how many bytes; only shown, never compared."""
    licence: str = NO_LICENCE
    hub: tuple[str, str] | None = None
    """Dataset and path on the Hugging Face Hub, whose own cache then keeps the file."""
    twin: str = ""
    """The same bytes in another collection, such as "jin2024/cities.csv"."""

    @property
    def version(self) -> str:
        """Return what changes when the content does: the commit, or the digest's beginning."""
        return self.revision or (self.sha256 or "")[:12]

    @property
    def origin(self) -> str:
        """Return ``"github.com/Luckfort/CD dataset/cities.csv, commit 4902d58"``."""
        commit = f", commit {self.revision[:7]}" if self.revision else ""
        return f"{self.upstream}{commit}" + ("" if self.sha256 else " (content not pinned)")


def on_github(
    collection: str, repository: str, commit: str, path: str, sha256: str | None = None,
    size: int | None = None, *, licence: str = NO_LICENCE, twin: str = "",
) -> KnownFile:  # fmt: skip
    """Describe a file of a repository at a commit."""
    url = f"https://raw.githubusercontent.com/{repository}/{commit}/{path}"
    return KnownFile(
        collection, path.split("/")[-1], url, f"github.com/{repository} {path}", commit, sha256,
        size, licence, twin=twin,
    )  # fmt: skip


def on_hub(
    collection: str, dataset: str, commit: str, path: str, sha256: str | None = None,
    size: int | None = None, *, licence: str = NO_LICENCE,
) -> KnownFile:  # fmt: skip
    """Describe a file of a dataset on the Hugging Face Hub."""
    page = f"huggingface.co/datasets/{dataset}"
    return KnownFile(
        collection, path.split("/")[-1], f"https://{page}/resolve/{commit}/{path}",
        f"{page} {path}", commit, sha256, size, licence, hub=(dataset, path),
    )  # fmt: skip


def on_web(
    collection: str, url: str, sha256: str, size: int | None = None, *, licence: str = NO_LICENCE
) -> KnownFile:
    """Describe a file of a server without versions, hence with a digest."""
    name, upstream = url.split("/")[-1], url.split("://")[-1]
    return KnownFile(collection, name, url, upstream, "", sha256, size, licence)


@contextmanager
def without_downloads() -> Iterator[None]:
    """Raise ``NotOnDiskError`` for a file that is not on this disk, inside the block."""
    token = _downloads.set(False)
    try:
        yield
    finally:
        _downloads.reset(token)


def may_download() -> bool:
    """Return False inside ``without_downloads``, else True."""
    return _downloads.get()


def is_here(file: KnownFile) -> bool:
    """Whether ``fetch`` would find the file, with the right content, without the network."""
    try:
        return _path_on_disk(file) is not None
    except UserError:
        return False


def fetch(file: KnownFile, dataset: str = "") -> Path:
    """Return the file's path on this disk, and download it when it is not there yet.

    Parameters
    ----------
    dataset
        Whose file it is, for messages.

    Raises
    ------
    NotOnDiskError
        It would have to be downloaded, and cannot or must not be.
    UserError
        A copy, or what the server sent, has other content than upstream's file.
    OSError
        The cache cannot be written.
    """
    if path := _path_on_disk(file):
        return path
    where = f"dataset {dataset or file.collection!r}"
    if not may_download():
        about = "" if file.size is None else f" (about {size(file.size)})"
        raise NotOnDiskError(
            f"{where}: {file.name}{about} is not on this disk and would be downloaded first, from "
            f"{file.upstream}"
        )
    # huggingface_hub reads these too, but only when it is first imported.
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE"):
            raise _not_on_disk(file, where, f"{variable} forbids to download it")
    folder = _cache(file).parent
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{file.name}.lock"):
        # By now another process may have downloaded it.
        return _path_on_disk(file) or _download(file, where)


def _users_copy(file: KnownFile) -> Path | None:
    """Return where the user's copy is or would be; None without ``LLMPROBE_DATA``."""
    data = os.environ.get("LLMPROBE_DATA")
    if not data:
        return None
    own, twin = (
        Path(data).expanduser() / name for name in (f"{file.collection}/{file.name}", file.twin)
    )
    return twin if twin.is_file() and not own.is_file() else own


def _cache(file: KnownFile) -> Path:
    """Return where a download goes; a Hub file's folder holds only its lock and record."""
    return cache_folder() / "datasets" / file.collection / (file.version[:12] or "any") / file.name


def _record(file: KnownFile) -> Path:
    """Return the file that keeps the first download's digest where none is published."""
    return _cache(file).with_name(f"{file.name}.sha256")


def _expected(file: KnownFile) -> tuple[str | None, str]:
    """Return the digest that the file must have, if any, and where that digest comes from."""
    if file.sha256 is not None:
        return file.sha256, f"of upstream {file.origin}"
    record = _record(file)
    known = record.read_text(encoding="utf-8").strip() if record.is_file() else None
    return known, f"of the first download (delete {record} to accept the change)"


def _path_on_disk(file: KnownFile) -> Path | None:
    """Return the user's copy or the cached one; None without either, or if that is damaged."""
    copy = _users_copy(file)
    if copy is not None and copy.is_file():
        digest = sha256(copy)
        if file.sha256 not in (None, digest):
            raise UserError(
                f"{copy}: has sha256 {digest}, expected {file.sha256} {_expected(file)[1]}; it "
                "must be that file byte for byte, line endings included"
            )
        return copy
    cached = _hub_cache(file) if file.hub else _cache(file)
    if cached is None or not cached.is_file():
        return None
    return cached if _expected(file)[0] in (None, sha256(cached)) else None


def _hub_cache(file: KnownFile) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    assert file.hub is not None
    dataset, path = file.hub
    cached = try_to_load_from_cache(dataset, path, revision=file.revision, repo_type="dataset")
    return Path(cached) if isinstance(cached, str) else None


def _download(file: KnownFile, where: str) -> Path:
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled

    about = f"about {size(file.size)}" if file.size else "of unknown size"
    log.info(
        "%s: downloading %s (%s) from %s; licence: %s",
        where, file.name, about, file.url, file.licence,
    )  # fmt: skip
    errors = (EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled, ValueError, *_UNREACHABLE)
    try:
        if file.hub:
            path = _from_hub(*file.hub, file.revision)
            _check_sent(file, path, where)
        else:
            path = _cache(file)
            with whole_file(path) as partial:
                with urllib.request.urlopen(file.url, timeout=_SECONDS) as answer:
                    partial.write_bytes(answer.read())
                _check_sent(file, partial, where)
    except errors as error:
        # huggingface_hub's own words are a paragraph about its cache.
        reason = first_line(error.__cause__ or error)
        raise _not_on_disk(file, where, f"its server cannot be reached ({reason})") from None
    if file.sha256 is None:
        write_text(_record(file), f"{sha256(path)}\n")
    return path


def _from_hub(dataset: str, path: str, revision: str) -> Path:
    from huggingface_hub import hf_hub_download

    # Forced, since the cache lacks the file or has a damaged one; and without force, it retries
    # for half a minute when there is no network. With force it raises ValueError from the cause.
    downloaded = hf_hub_download(
        dataset, path, repo_type="dataset", revision=revision,
        endpoint=os.environ.get("HF_ENDPOINT"), force_download=True,
    )  # fmt: skip
    return Path(downloaded)


def _check_sent(file: KnownFile, path: Path, where: str) -> None:
    """Delete what was sent, and raise ``UserError``, when it has other content than expected."""
    expected, whose = _expected(file)
    digest = sha256(path)
    if expected not in (None, digest):
        # In the Hub's cache: the link in the snapshot, and the content that it points to.
        for part in (path.resolve(), path):
            part.unlink(missing_ok=True)
        raise UserError(
            f"{where}: what {file.url} sent has sha256 {digest}, expected {expected} {whose}; "
            "nothing was kept"
        )


def _not_on_disk(file: KnownFile, where: str, why: str) -> NotOnDiskError:
    copy = _users_copy(file)
    place = f"{file.collection}/{file.name} in a folder that LLMPROBE_DATA names"
    if copy is not None:
        place = f"{copy}, where there is none"
    return NotOnDiskError(
        f"{where}: {file.name} is not on this disk and {why}; a copy of {file.url} can be put at "
        f"{place}"
    )
