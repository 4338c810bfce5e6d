"""Weights in other formats are converted once, and read back as they were written."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmprobe.models.conversions import converted


def make(_: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "weights").write_bytes(b"1234")
    (folder / "config.json").write_bytes(b"{}")


@pytest.mark.parametrize("damage", ["changed", "removed"])
def test_a_conversion_that_is_not_as_it_was_written_is_made_again(
    damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = converted("tiny", "0" * 64, make)
    assert converted("tiny", "0" * 64, lambda *_: pytest.fail("made again")) == folder
    (folder / "weights").unlink()
    if damage == "changed":
        (folder / "weights").write_bytes(b"1235")
    assert converted("tiny", "0" * 64, make) == folder
    assert (folder / "weights").read_bytes() == b"1234"
    assert f"{folder} is damaged; it is made again" in caplog.text


def test_what_an_older_version_converted_is_read_as_it_is() -> None:
    folder = converted("tiny", "0" * 64, make)
    (folder / "digests.json").unlink()
    (folder / "weights").write_bytes(b"1235")
    assert converted("tiny", "0" * 64, lambda *_: pytest.fail("made again")) == folder
