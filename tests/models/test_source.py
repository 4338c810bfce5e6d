"""What the config calls a model is found, told apart by its content, or said to be wrong."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmprobe.config.schema import ModelConfig
from llmprobe.ground.errors import UserError
from llmprobe.models.loading import load_model
from llmprobe.models.source import check, expected_size, locate


def test_the_identity_of_a_folder_changes_with_any_file(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model("llama"), copy)
    config = ModelConfig(id=str(copy))
    first = locate(config).identity
    assert first == locate(ModelConfig(id=str(tiny_model("llama")))).identity
    tokenizer = copy / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"Lima"', '"Roma"'))
    second = locate(config).identity
    weights = copy / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    assert len({first, second, locate(config).identity}) == 3


@pytest.mark.parametrize(
    ("id", "said"),
    [
        ("smolm2-135m", "did you mean 'smollm2-135m'"),
        ("./nowhere", "does not exist"),
    ],
)
def test_an_unknown_model_is_the_users_error(
    id: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=said):
        locate(ModelConfig(id=id))


@pytest.mark.parametrize("id", ["smollm2-135m", "an-owner/a-model"])
def test_without_bitsandbytes_a_quantised_model_is_refused_before_any_is_loaded(
    id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    check(ModelConfig(id=id))
    with pytest.raises(UserError, match=r"quantization: nf4 needs .* pip install 'bitsandbytes"):
        check(ModelConfig(id=id, quantization="nf4"))


def test_without_bitsandbytes_a_model_that_was_found_already_is_not_loaded(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ModelConfig(id=str(tiny_model("llama")))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match="quantization: int8 needs bitsandbytes"):
        load_model(ModelConfig(id=plain.id, quantization="int8"), locate(plain))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("google/gemma-2b", "about 4.0 GB, by its name"),
        ("meta-llama/Llama-2-13b-chat-hf", "about 26.0 GB"),
        ("Qwen/Qwen1.5-0.5B", "about 1.0 GB"),
        ("Qwen/Qwen2.5-7B", "about 14.0 GB"),
        ("EleutherAI/pythia-70m", "about 140.0 MB"),
        ("mistralai/Mixtral-8x7B-v0.1", "about 112.0 GB"),
        ("google/gemma-3-1b-pt", "about 2.0 GB"),
        ("openai-community/gpt2", "of unknown size"),
        ("smollm2-135m", "98.4 MB to download"),
    ],
)
def test_the_size_of_a_model_is_told_from_its_name(name: str, size: str) -> None:
    assert size in expected_size(ModelConfig(id=name))
