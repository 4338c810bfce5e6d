"""How a published file gets on this disk: own copy, cache, download, and what can go wrong."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llmprobe.datasets.published import PublishedDataset, files
from llmprobe.datasets.published.files import (
    KnownFile,
    fetch,
    is_here,
    on_github,
    on_hub,
    without_downloads,
)
from llmprobe.datasets.registry import REGISTRY
from llmprobe.ground.errors import NotOnDiskError, UserError

CONTENT = b"statement,label\nOne.,1\nTwo.,0\n"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CLOSED = "http://127.0.0.1:9/"  # the discard port, where nothing listens


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Server:
    """Sends ``content`` for every path."""

    url: str
    content: bytes = CONTENT
    promised: int | None = None
    """The Content-Length that it states, if not the right one."""
    status: int = 200
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on this machine, which also speaks as much of the Hub's protocol as is needed."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(None)

        def do_GET(self) -> None:
            state.asked.append(self.path)
            self.answer(state.content)

        def answer(self, body: bytes | None) -> None:
            self.send_response(state.status)
            length = len(state.content) if state.promised is None else state.promised
            self.send_header("Content-Length", str(length))
            self.send_header("ETag", f'"{digest(state.content)}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Server(f"http://127.0.0.1:{http.server_port}/")
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("LLMPROBE_DATA", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the user's copy of ``known`` goes."""
    monkeypatch.setenv("LLMPROBE_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" / "toy"
    folder.mkdir(parents=True)
    return folder / "toy.csv"


def known(url: str, sha256: str | None = digest(CONTENT)) -> KnownFile:
    return KnownFile("toy", "toy.csv", f"{url}toy.csv", "example.org toy.csv", COMMIT, sha256, 30)


def kept(tmp_path: Path) -> list[str]:
    """What lies in the caches, locks apart."""
    found = [*(tmp_path / "cache").rglob("*"), *(tmp_path / "hub").rglob("*.parquet")]
    return [path.name for path in found if path.is_file() and path.suffix != ".lock"]


def test_a_download_is_kept_and_not_repeated(server: Server, tmp_path: Path) -> None:
    file = known(server.url)
    assert not is_here(file)
    path = fetch(file)
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(tmp_path / "cache" / "datasets" / "toy")
    assert is_here(file)
    assert fetch(file) == path
    assert server.asked == ["/toy.csv"]
    assert kept(tmp_path) == ["toy.csv"]


def test_a_download_is_announced_with_size_source_and_licence(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        fetch(known(server.url), "toy/set")
    assert len(caplog.messages) == 1
    for part in ("'toy/set'", "toy.csv", "30 bytes", f"{server.url}toy.csv", "no licence stated"):
        assert part in caplog.text


def test_many_at_once_download_once(server: Server) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(fetch, [known(server.url)] * 4))
    assert len(paths) == 1
    assert len(server.asked) == 1


def test_a_copy_of_ones_own_comes_first(server: Server, own: Path) -> None:
    file = known(server.url)
    fetch(file)
    own.write_bytes(CONTENT)
    assert fetch(file) == own
    assert len(server.asked) == 1


def test_a_copy_with_other_line_endings_is_refused_with_both_digests(own: Path) -> None:
    other = CONTENT.replace(b"\n", b"\r\n")
    own.write_bytes(other)
    file = known(CLOSED)
    assert not is_here(file)
    with pytest.raises(UserError, match="byte for byte") as caught:
        fetch(file)
    for part in (str(own), digest(other), digest(CONTENT), "example.org toy.csv", COMMIT[:7]):
        assert part in str(caught.value)
    assert not isinstance(caught.value, NotOnDiskError)


def test_a_copy_of_a_file_without_a_known_digest_is_taken_as_it_is(own: Path) -> None:
    own.write_bytes(b"anything")
    assert fetch(known(CLOSED, None)) == own


def test_wrong_content_is_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    server.content = b"<html>log in first</html>"
    with pytest.raises(UserError, match="nothing was kept") as caught:
        fetch(known(server.url), "toy/set")
    for part in ("'toy/set'", digest(server.content), digest(CONTENT), server.url):
        assert part in str(caught.value)
    assert kept(tmp_path) == []


@pytest.mark.parametrize("sha256", [digest(CONTENT), None])
def test_a_download_that_breaks_off_is_not_kept(
    server: Server, tmp_path: Path, sha256: str | None
) -> None:
    server.promised = len(CONTENT) + 1
    with pytest.raises(NotOnDiskError, match="30 bytes read, 1 more expected"):
        fetch(known(server.url, sha256))
    assert kept(tmp_path) == []


def test_an_interrupted_download_is_not_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "_check_sent", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(known(server.url))
    assert server.asked
    assert kept(tmp_path) == []


def test_a_damaged_cached_file_is_downloaded_again(server: Server) -> None:
    file = known(server.url)
    path = fetch(file)
    path.write_bytes(CONTENT[:9])
    assert not is_here(file)
    assert fetch(file).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_without_a_known_digest_the_first_download_is_binding(server: Server) -> None:
    file = known(server.url, None)
    assert "not pinned" in file.origin
    path = fetch(file)
    record = path.with_name("toy.csv.sha256")
    assert record.read_text() == digest(CONTENT) + "\n"
    path.unlink()
    server.content = CONTENT + b"Three.,1\n"
    with pytest.raises(UserError, match="of the first download") as caught:
        fetch(file)
    assert str(record) in str(caught.value)
    assert not path.exists()
    record.unlink()
    assert fetch(file).read_bytes() == server.content


@pytest.mark.parametrize("hub", [False, True])
def test_without_a_network_the_error_says_what_to_put_where(
    hub: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", CLOSED.rstrip("/"))
    file = on_hub("toy", "owner/toy", COMMIT, "toy.csv", None, 30) if hub else known(CLOSED)
    with pytest.raises(NotOnDiskError, match="cannot be reached") as caught:
        fetch(file, "toy/set")
    message = str(caught.value)
    assert message.startswith("dataset 'toy/set': toy.csv is not on this disk")
    assert message.count(file.url) == 1
    assert "LLMPROBE_DATA" in message
    assert "toy/toy.csv" in message
    assert "refused" in message
    assert "\n" not in message


def test_the_error_says_where_it_looked(own: Path) -> None:
    with pytest.raises(NotOnDiskError, match="cannot be reached") as caught:
        fetch(known(CLOSED))
    assert str(own) in str(caught.value)


def test_a_file_that_is_gone_upstream_is_not_on_disk(server: Server) -> None:
    server.status = 404
    with pytest.raises(NotOnDiskError, match="Not Found"):
        fetch(known(server.url))


def test_nothing_is_downloaded_without_downloads(server: Server, own: Path) -> None:
    file = known(server.url)
    with without_downloads():
        with pytest.raises(
            NotOnDiskError, match="is not on this disk and would be downloaded first, from "
        ):
            fetch(file)
        own.write_bytes(CONTENT)
        assert fetch(file) == own
    own.unlink()
    assert server.asked == []
    fetch(file)
    assert server.asked
    with without_downloads():
        assert fetch(file).read_bytes() == CONTENT


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_nothing_is_downloaded_when_the_environment_forbids_it(
    server: Server, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(NotOnDiskError, match=variable):
        fetch(known(server.url))
    assert server.asked == []
    monkeypatch.setenv(variable, "0")
    fetch(known(server.url))


@pytest.fixture
def hub_file(server: Server, monkeypatch: pytest.MonkeyPatch) -> KnownFile:
    """A file on a Hub that runs on this machine."""
    monkeypatch.setenv("HF_ENDPOINT", server.url.rstrip("/"))
    file = on_hub("toy", "owner/toy", COMMIT, "data/toy.parquet", digest(CONTENT), 30)
    assert (
        file.url == f"https://huggingface.co/datasets/owner/toy/resolve/{COMMIT}/data/toy.parquet"
    )
    return file


def test_a_file_of_the_hub_is_kept_in_the_hubs_cache(
    server: Server, hub_file: KnownFile, tmp_path: Path
) -> None:
    assert not is_here(hub_file)
    path = fetch(hub_file)
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(tmp_path / "hub")
    assert server.asked == [f"/datasets/owner/toy/resolve/{COMMIT}/data/toy.parquet"]
    with without_downloads():
        assert fetch(hub_file) == path
    path.resolve().write_bytes(b"damaged")
    assert not is_here(hub_file)
    assert fetch(hub_file).read_bytes() == CONTENT


def test_wrong_content_from_the_hub_is_not_kept(
    server: Server, hub_file: KnownFile, tmp_path: Path
) -> None:
    server.content = b"another file"
    with pytest.raises(UserError, match="nothing was kept"):
        fetch(hub_file)
    assert kept(tmp_path) == []
    assert not any(p.is_file() for p in (tmp_path / "hub").rglob("blobs/*"))
    server.content = CONTENT
    assert fetch(hub_file).read_bytes() == CONTENT


def test_a_full_disk_is_not_taken_for_a_broken_network(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> Callable[..., object]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        fetch(known(server.url))


def test_every_known_file_is_pinned_to_a_commit_or_a_digest() -> None:
    entries = [entry.build for entry in REGISTRY.values()]
    sets = [build for build in entries if isinstance(build, PublishedDataset)]
    assert len(sets) == 28
    groups = [group for one in sets for group in (one.files, *one.splits.values())]
    every = [file for group in groups for file in group]
    for file in every:
        assert file.revision or file.sha256, file
        assert not file.revision or (len(file.revision) == 40 and file.revision in file.url), file
        assert file.sha256 is None or len(file.sha256) == 64, file
        assert file.url.endswith(f"/{file.name}"), file
        assert file.size, file
    places = {(file.collection, file.name): file.url for file in every}
    assert all(places[file.collection, file.name] == file.url for file in every)


def test_a_file_on_github_is_addressed_by_its_commit() -> None:
    file = on_github("toy", "owner/repository", COMMIT, "data/toy.csv")
    assert file.url == f"https://raw.githubusercontent.com/owner/repository/{COMMIT}/data/toy.csv"
    assert file.name == "toy.csv"
    assert file.origin == (
        "github.com/owner/repository data/toy.csv, commit 0123456 (content not pinned)"
    )
    assert "not pinned" not in replace(file, sha256=digest(CONTENT)).origin


def test_the_same_bytes_in_another_collection_will_do_where_there_is_no_own_copy(
    own: Path,
) -> None:
    file = replace(known(CLOSED), twin="other/same.csv")
    twin = own.parents[1] / "other" / "same.csv"
    assert not is_here(file)
    twin.parent.mkdir()
    twin.write_bytes(CONTENT)
    assert fetch(file) == twin
    twin.write_bytes(CONTENT + b"more")
    with pytest.raises(UserError, match=r"same\.csv: has sha256"):
        fetch(file)
    own.write_bytes(CONTENT)
    assert fetch(file) == own
