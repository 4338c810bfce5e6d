"""One process at a time has a folder, whoever dies and whatever the file system can do."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmprobe import UserError
from llmprobe.ground import lease as module
from llmprobe.ground.lease import LEASE, TOKENS, lease

HOLD = """
import sys
from pathlib import Path
from llmprobe.ground.lease import lease
with lease(Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process have a folder until its input ends."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        yield process
        process.kill()


def marker(host: str, pid: int, token: str) -> str:
    """What a lease says of its holder."""
    claim = f"mode=lease\ntoken={token}\nduration={module.EXPIRES!r}"
    return f"filelock/2\npid={pid}\nhost={host}\n{claim}\n"


def test_a_folder_is_one_processs_and_the_other_is_told_whose(tmp_path: Path) -> None:
    with another_process(tmp_path) as process:
        with pytest.raises(UserError) as refused, lease(tmp_path):
            pass
        assert re.fullmatch(
            rf"{tmp_path}: another process works here, since [\d-]+ [\d:]+ .\d{{4}}, on host "
            rf"{socket.gethostname()} \(process {process.pid}\); wait until it is done, or if "
            rf"there is none remove {tmp_path / LEASE}",
            str(refused.value),
        )
        process.communicate("")
        with lease(tmp_path) as waited:
            assert not waited


def test_whoever_waits_has_it_next(tmp_path: Path) -> None:
    with another_process(tmp_path) as process:
        assert process.stdin is not None
        process.stdin.close()
        with lease(tmp_path, wait=True):
            assert process.wait() == 0
            assert os.environ[TOKENS]
    assert not os.environ.get(TOKENS)
    assert not list(tmp_path.iterdir())


def test_of_a_killed_process_nothing_is_left(tmp_path: Path) -> None:
    with another_process(tmp_path) as process:
        process.kill()
        process.wait()
    left = [
        tmp_path / ".results.parquet.0123abcd.partial",
        tmp_path / "parts" / "a-b" / ".summary.parquet.0123abcd.partial",
        tmp_path / "probes" / "a" / ".b.safetensors.0123abcd.partial",
    ]
    mine = tmp_path / "parts" / ".mine.partial"
    for path in [*left, mine]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with lease(tmp_path, tidy=False):
        assert all(path.exists() for path in left)
    with lease(tmp_path):
        assert not any(path.exists() for path in left)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]


def test_processes_of_a_holder_and_of_its_launch_work_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease(tmp_path):
        with lease(tmp_path), another_process(tmp_path):
            assert (tmp_path / LEASE).exists()
        assert (tmp_path / LEASE).exists()
    with another_process(tmp_path):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        with lease(tmp_path):
            pass
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(UserError, match="another process works here"), lease(tmp_path):
            pass


def test_the_lease_of_a_host_that_died_is_taken_and_of_one_that_lives_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXPIRES", 0.5)
    path = tmp_path / LEASE
    path.write_text(marker("elsewhere", os.getpid(), "theirs"))
    with lease(tmp_path) as waited:
        assert waited
    path.write_text(marker("elsewhere", os.getpid(), "theirs"))
    sleep = time.sleep

    def touching(seconds: float) -> None:
        sleep(seconds)
        os.utime(path)

    monkeypatch.setattr(time, "sleep", touching)
    with (
        pytest.raises(UserError, match=r"since a moment ago, on host elsewhere .process \d+."),
        lease(tmp_path),
    ):
        pass
