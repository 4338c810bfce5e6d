"""Files are put on disk whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from llmprobe.ground.files import cache_folder, disk_is_full, size, whole_file


def test_a_full_disk_is_known_by_its_number_or_its_words() -> None:
    assert disk_is_full(OSError(errno.ENOSPC, "No space left on device"))
    assert disk_is_full(SafetensorError("I/O error: No space left on device (os error 28)"))
    assert not disk_is_full(OSError(errno.ENOENT, "No such file or directory"))


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "table"
    target.write_text("old")
    with whole_file(target) as partial:
        partial.write_text("ne")
        assert target.read_text() == "old"
        partial.write_text("new")
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_interrupted_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "table"
    target.write_text("old")

    def interrupted() -> None:
        with whole_file(target) as partial:
            partial.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMPROBE_CACHE", "~/models")
    assert cache_folder() == Path.home() / "models"
    monkeypatch.delenv("LLMPROBE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "llmprobe"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "llmprobe"


def test_sizes_are_short() -> None:
    assert [size(n) for n in (17, 98_362_432, 1.5e12)] == ["17 bytes", "98.4 MB", "1.5 TB"]
