"""``llmprobe cache``: what fills the disk is listed, and what can go is removed, no more."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmprobe import ConceptDataset, extract
from llmprobe.cli.main import main
from llmprobe.ground.files import cache_folder
from llmprobe.models.conversions import CONVERSION, converted
from llmprobe.models.packaged import PACKAGED

DATASET = ConceptDataset("pair", ["Lima is red", "Paris is blue"], [0, 1])
USE = """
import sys
from pathlib import Path
from llmprobe.ground.uses import use
use(Path(sys.argv[1]))
print("used", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process use a folder of the cache until it is killed or its input ends."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", USE, str(folder)], stdin=pipe, stdout=pipe, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "used\n"
        yield process
        process.kill()


def make(_: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "weights").write_bytes(bytes(1000))


@pytest.fixture(scope="module")
def template(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with a packaged model, an outdated conversion and activations of two models."""
    cache = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LLMPROBE_CACHE", str(cache))
        converted("minilm", PACKAGED["minilm"].sha256, make)
        conversion = converted("mine", "a" * 64, make)
        conversion.rename(conversion.with_name(conversion.name.replace(f"-v{CONVERSION}", "-v0")))
        for architecture in ("llama", "gpt2"):
            extract(str(tiny_model(architecture)), DATASET, progress=False)
    # As when the commands have ended.
    shutil.rmtree(cache / "in-use")
    return cache


@pytest.fixture
def filled(template: Path) -> dict[str, Path]:
    """A copy of the template as the cache."""
    cache = Path(shutil.copytree(template, cache_folder()))
    (llama, _) = sorted((cache / "activations").glob("tiny-llama-*"))
    (packaged,) = (cache / "models").glob("minilm-*")
    return {"packaged": packaged, "llama": llama}


def run(*arguments: str, code: int = 0) -> None:
    assert main(["cache", *arguments]) == code


def test_each_thing_is_listed_with_its_size_age_and_purpose(
    filled: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    then = time.time() - 3 * 24 * 3600
    os.utime(filled["packaged"], (then, then))
    run("ls")
    lines = capsys.readouterr().out.splitlines()
    (model,) = [line for line in lines if line.startswith("model")]
    assert model.split()[:5] == ["model", "1", "kB", "3d", "minilm"]
    assert "22M parameters" in model
    (conversion,) = [line for line in lines if line.startswith("conversion")]
    assert conversion.endswith("outdated")
    activations = [line for line in lines if line.startswith("activations")]
    assert [line.split()[4] for line in activations] == 2 * ["tiny-gpt2-pair"] + 2 * [
        "tiny-llama-pair"
    ]
    assert "residual at last" in activations[2] + activations[3]


@pytest.mark.usefixtures("filled")
def test_what_came_to_nothing_is_not_listed_and_is_litter(
    capsys: pytest.CaptureFixture[str],
) -> None:
    empty = cache_folder() / "activations" / f"tiny-none-{'0' * 16}"
    begun = cache_folder() / "activations" / f"tiny-begun-{'0' * 16}"
    for folder in (empty, begun):
        folder.mkdir()
    (begun / f"shard-00000-{'0' * 64}.safetensors").write_bytes(bytes(1000))
    run("ls")
    listed = capsys.readouterr().out
    assert "tiny-begun  (unfinished)" in listed
    assert "tiny-none" not in listed
    run("prune", "--outdated")
    assert begun.exists()
    assert not empty.exists()


def names() -> set[str]:
    """What is in the cache, without digests."""
    folders = [*(cache_folder() / "models").iterdir(), *(cache_folder() / "activations").iterdir()]
    return {folder.name.rsplit("-", 1)[0] for folder in folders if folder.is_dir()}


@pytest.mark.parametrize(
    ("arguments", "gone"),
    [
        (["--model", "tiny-llama"], {"tiny-llama-pair"}),
        (["--model", "minilm"], {"minilm-0872f5d7d0e8"}),
        (["--outdated"], {"mine-aaaaaaaaaaaa", "tiny-gpt2-pair"}),
        (["--older", "30d"], {"minilm-0872f5d7d0e8"}),
        (["--older", "30d", "--model", "tiny-llama"], set()),
        (["--outdated", "--model", "mine"], {"mine-aaaaaaaaaaaa"}),
    ],
)
def test_what_all_options_describe_is_removed_and_nothing_else(
    filled: dict[str, Path], arguments: list[str], gone: set[str]
) -> None:
    then = time.time() - 31 * 24 * 3600
    os.utime(filled["packaged"], (then, then))
    for manifest in cache_folder().glob("activations/tiny-gpt2-*/manifest.json"):
        facts = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(facts | {"key": {"version": 1}}))
    before = names()
    run("prune", *arguments, "--dry-run")
    assert names() == before
    run("prune", *arguments)
    assert before - names() == gone


def test_what_a_running_command_uses_stays_and_what_a_killed_one_used_does_not(
    filled: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with another_process(filled["llama"]) as process:
        run("prune", "--model", "tiny-llama")
        assert "tiny-llama-pair  kept, since a running command uses it" in capsys.readouterr().out
        assert filled["llama"].is_dir()
        process.kill()
        process.wait()
        run("prune", "--model", "tiny-llama")
    assert not filled["llama"].exists()


def test_an_extraction_uses_the_model_and_the_activations_until_its_process_ends(
    tiny_model: Callable[..., Path],
) -> None:
    states = extract(str(tiny_model("llama")), DATASET, progress=False)
    run("prune", "--model", "tiny-llama")
    assert states.layer(1).shape == (2, 32)


def test_a_command_that_began_to_use_it_while_it_was_removed_gets_it_back(
    filled: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([set(), {filled["llama"]}])
    others = {path for path in cache_folder().glob("activations/*") if path != filled["llama"]}
    monkeypatch.setattr(
        "llmprobe.runs.cache.in_use", lambda: next(answers, {filled["llama"]}) | others
    )
    run("prune", "--model", "tiny-llama")
    assert (filled["llama"] / "manifest.json").is_file()
    assert not list(cache_folder().glob("*/.pruned-*"))


def test_what_lies_elsewhere_behind_a_link_is_never_removed(
    filled: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    filled["llama"].rename(elsewhere)
    filled["llama"].symlink_to(elsewhere)
    (filled["packaged"] / "link").symlink_to(elsewhere)
    run("prune", "--older", "0h")
    assert f"kept, since a link leads to {elsewhere}" in capsys.readouterr().out
    assert (elsewhere / "manifest.json").is_file()
    assert not filled["packaged"].exists()


def test_litter_of_killed_processes_is_removed_with_what_is_outdated() -> None:
    cache = cache_folder()
    for name in ("offload-x", "models/.m-0123456789ab-v1.partial-x", "activations/.pruned-x"):
        (cache / name).mkdir(parents=True)
        (cache / name / "file").write_text("x")
    run("prune", "--outdated")
    assert not [path for path in cache.rglob("*") if path.name == "file"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say what to remove"),
        (["--older", "30"], "should be a number and h, d or w"),
        (["--model", "tiny-lama"], "did you mean 'tiny-llama'?"),
    ],
)
@pytest.mark.usefixtures("filled")
def test_without_a_clear_wish_nothing_is_removed(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = names()
    run("prune", *arguments, code=2)
    assert said in capsys.readouterr().err
    assert names() == before


def test_an_empty_cache_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    run("ls")
    assert "0 bytes in" in capsys.readouterr().out


def test_the_path_of_a_model_is_printed(
    tiny_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_model("llama")
    assert main(["path", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}\n"
