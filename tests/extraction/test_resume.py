"""Nothing is lost and nothing is wrong, whoever is killed and whoever else wants the same."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from tiny import WORDS

from llmprobe.cli.main import main
from llmprobe.extraction import plan

REPEATEDLY = Path(__file__).with_name("extract_repeatedly.py")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 texts that begin alike."""
    rng = np.random.default_rng(0)
    rows = [f"{WORDS[i % 7]} is {' '.join(rng.choice(WORDS, size=6))},{i % 2}" for i in range(300)]
    path = tmp_path_factory.mktemp("table") / "words.csv"
    path.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    return path


def store_in(cache: Path) -> Path:
    (folder,) = (cache / "activations").iterdir()
    return folder


def shards_in(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store_in(cache).glob("*.safetensors")}


class Extractions:
    """Extractions in processes of their own, one at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def begin(self, cache: Path) -> int:
        """Begin to extract into a cache, and return the number of the process."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{cache}\n")
        self.process.stdin.flush()
        return int(self._line())

    def end(self) -> None:
        """Wait until it has ended, by itself or killed."""
        assert self._line() == "ended"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def extractions(model: Path, table: Path) -> Iterator[Extractions]:
    command = [sys.executable, str(REPEATEDLY), str(model), str(table)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        yield Extractions(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0


def test_an_extraction_killed_at_any_moment_resumes_to_the_same_bytes(
    tmp_path: Path, table: Path, tiny_model: Callable[..., Path]
) -> None:
    moments, left = random.Random(0), []
    with extractions(tiny_model("llama"), table) as extract:
        extract.begin(tmp_path / "whole")
        extract.end()
        expected = shards_in(tmp_path / "whole")
        assert len(expected) > 15
        for i in range(12):
            cache = tmp_path / f"killed-{i}"
            process = extract.begin(cache)
            # After some of the shards, then anywhere in the work on the next one.
            shards, wait = moments.randrange(len(expected)), moments.uniform(0, 0.02)
            while not cache.exists() or len([*cache.glob("activations/*/shard-*")]) < shards:
                time.sleep(0.001)
            time.sleep(wait)
            with suppress(ProcessLookupError):  # It was done before.
                os.kill(process, signal.SIGKILL)
            extract.end()
            left.append(len(shards_in(cache)))
            assert not (store_in(cache) / "manifest.json").exists() or left[-1] == len(expected)
            extract.begin(cache)
            extract.end()
            assert shards_in(cache) == expected
            manifests = [store_in(c) / "manifest.json" for c in (cache, tmp_path / "whole")]
            resumed, whole = (yaml.safe_load(path.read_text()) for path in manifests)
            timed = {"seconds": 0, "own_sha256": ""}
            assert {**resumed, **timed} == {**whole, **timed}
    assert sum(0 < n < len(expected) for n in left) > 6


@pytest.fixture(scope="module")
def config(table: Path, tiny_model: Callable[..., Path]) -> Path:
    path = table.with_name("c.yaml")
    model = {"id": str(tiny_model("llama")), "dtype": "float32"}
    run = {"models": [model], "datasets": [str(table)], "probe": {"controls": []}}
    path.write_text(yaml.safe_dump(run))
    return path


def start(config: Path, cache: Path, *launcher: str) -> subprocess.Popen[str]:
    code = (
        "from llmprobe.extraction import plan; plan.LEAST_ROWS, plan.LEAST_SHARDS = 16, 1000; "
        "from llmprobe.cli.main import main; raise SystemExit(main())"
    )
    script = config.with_name("small_shards.py")
    script.write_text(code)
    environment = os.environ | {"LLMPROBE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [*(launcher or [sys.executable]), str(script), "extract", str(config)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


TWO = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu",
       "--num_processes", "2", "--main_process_port", "0"]  # fmt: skip


@pytest.fixture(scope="module")
def expected(config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The shards that one process writes."""
    cache = tmp_path_factory.mktemp("one")
    one = start(config, cache)
    _, said = one.communicate()
    assert one.returncode == 0, said
    return shards_in(cache)


def test_two_processes_that_want_the_same_do_not_disturb_each_other(
    config: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    both = [start(config, tmp_path / "both") for _ in range(2)]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert shards_in(tmp_path / "both") == expected
    # One worked; the other waited for it, or came when it was done.
    assert sum("to compute" in errors for _, errors in said) == 1
    assert said[0][0] == said[1][0]


def test_processes_of_one_launch_share_the_work_and_write_the_same_store(
    config: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    launch = start(config, tmp_path / "two", *TWO)
    out, said = launch.communicate()
    assert launch.returncode == 0, said
    assert shards_in(tmp_path / "two") == expected
    # What is common to both is said once.
    assert out.count("300 texts, layers 0 to 3") == 1
    assert said.count("to compute") == 1


def test_a_launch_of_which_one_process_is_killed_ends_and_is_resumed(
    config: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    cache = tmp_path / "two"
    launch = start(config, cache, *TWO)
    while not [*cache.glob("activations/*/shard-*")] and launch.poll() is None:
        time.sleep(0.001)
    workers = subprocess.run(
        ["pgrep", "-f", f"small_shards.py extract {config}"], capture_output=True, text=True
    ).stdout.split()
    second = next(
        int(pid) for pid in workers
        if b"\0RANK=1\0" in b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
    )  # fmt: skip
    os.kill(second, signal.SIGKILL)
    launch.communicate()
    assert launch.returncode != 0
    found = shards_in(cache)
    assert found.items() <= expected.items()
    assert not (store_in(cache) / "manifest.json").exists()
    again = start(config, cache, *TWO)
    _, said = again.communicate()
    assert again.returncode == 0, said
    assert shards_in(cache) == expected


@pytest.fixture(scope="module")
def caches(
    config: Path, tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Return the caches of an extraction, by the model's architecture."""
    caches = {name: tmp_path_factory.mktemp(name) for name in ("llama", "mistral")}
    for architecture, cache in caches.items():
        model = f"models.0.id={tiny_model(architecture)}"
        with small_shards(cache):
            assert main(["extract", str(config), "--set", model]) == 0
    return caches


@contextmanager
def small_shards(cache: Path) -> Iterator[None]:
    """Extract in this process, into a cache, in shards of sixteen texts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "LEAST_ROWS", 16)
        patch.setattr(plan, "LEAST_SHARDS", 1000)
        patch.setenv("LLMPROBE_CACHE", str(cache))
        yield


@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "missing", "foreign", "renamed"])
@pytest.mark.parametrize("complete", [True, False], ids=["complete", "interrupted"])
def test_a_damaged_shard_is_named_and_made_again_and_never_read(
    damage: str, complete: bool, config: Path, tmp_path: Path, caches: dict[str, Path],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    cache = Path(shutil.copytree(caches["llama"], tmp_path / "cache", dirs_exist_ok=True))
    expected = shards_in(cache)
    folder = store_in(cache)
    if not complete:
        (folder / "manifest.json").unlink()
    shard = sorted(folder.glob("shard-*"))[1]
    content = bytearray(shard.read_bytes())
    if damage == "flipped bit":
        content[-1] ^= 1
        shard.write_bytes(content)
    elif damage == "truncated":
        shard.write_bytes(content[:-9])
    elif damage == "missing":
        shard.unlink()
    elif damage == "foreign":
        # Whole, and of the same texts, but of another model.
        shard.unlink()
        stranger = sorted(store_in(caches["mistral"]).glob("shard-*"))[1]
        assert load_file(stranger).keys() == {"0", "1", "2", "3"}
        shard = folder / stranger.name
        shard.write_bytes(stranger.read_bytes())
    else:
        shard = shard.rename(folder / sorted(folder.glob("shard-*"))[0].name)
    with small_shards(cache):
        assert main(["extract", str(config)]) == 0
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    # Of a shard that is missing from an unfinished extraction there was nothing to know.
    assert any(shard.name in said for said in warnings) == (complete or damage != "missing")
    assert shards_in(cache) == expected
