"""What the config calls a model is found, told apart by its content, or said to be wrong."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import save_tokenizer

from llmprobe import ConceptDataset, extract
from llmprobe.config.schema import ModelConfig
from llmprobe.extraction.extract import Extractor
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


def without_tokenizer(folder: Path, target: Path) -> Path:
    """Copy a model's folder without its tokenizer."""
    return Path(shutil.copytree(folder, target, ignore=shutil.ignore_patterns("tokenizer*")))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert"])
def test_a_checkpoint_without_a_tokenizer_takes_one_from_elsewhere(
    tiny_model: Callable[..., Path], tmp_path: Path, architecture: str
) -> None:
    whole = tiny_model(architecture)
    checkpoint = str(without_tokenizer(whole, tmp_path / "checkpoint-500"))
    with pytest.raises(UserError, match=r"has no tokenizer; name another .*with `tokenizer: …`"):
        check(ModelConfig(id=checkpoint))
    texts = ["the capital city of Peru is Lima", "Paris is the capital"]
    dataset = ConceptDataset("two", texts, [0, 1])
    config = ModelConfig(id=checkpoint, tokenizer=str(whole))
    states, expected = (extract(one, dataset, cache=False) for one in (config, str(whole)))
    assert np.array_equal(states.layer(3), expected.layer(3))
    with pytest.raises(UserError, match=r"tokenizer .*the folder has no tokenizer"):
        check(ModelConfig(id=checkpoint, tokenizer=checkpoint))


def test_another_tokenizer_gives_other_states_a_name_in_the_key_and_in_the_probe(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = str(tiny_model("llama"))
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    tokenizer = other / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"Lima"', '"Roma"'))
    dataset = ConceptDataset("two", ["Lima is red", "Paris is blue"], [0, 1])
    plain, changed = (
        Extractor(ModelConfig(id=folder, tokenizer=name)) for name in (None, str(other))
    )
    assert plain.folder(dataset) != changed.folder(dataset)
    assert changed.origin["tokenizer"] == str(other)
    assert changed.origin["tokenizer_revision"]
    assert "tokenizer" not in plain.origin


@pytest.mark.parametrize("words", [10, 200])
def test_a_tokenizer_of_another_vocabulary_is_refused_before_weights_are_read(
    tiny_model: Callable[..., Path], tmp_path: Path, words: int
) -> None:
    folder = without_tokenizer(tiny_model("llama"), tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"not read")
    other = tmp_path / "other"
    save_tokenizer(other)
    path = other / "tokenizer.json"
    described = json.loads(path.read_text())
    described["model"]["vocab"] = {"<unk>": 0} | {f"w{i}": i for i in range(1, words)}
    path.write_text(json.dumps(described))
    with pytest.raises(UserError, match=r"knows \d+ tokens, and the model has embeddings of 40"):
        load_model(ModelConfig(id=str(folder), tokenizer=str(other)))


@pytest.fixture
def hub(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], set[str]]:
    """A Hub with a model, an older one and an adapter; what was downloaded of each."""
    whole, older, adapter = tiny_model("llama"), tmp_path / "older", tmp_path / "adapter"
    shutil.copytree(whole, older)
    torch.save(load_file(older / "model.safetensors"), older / "pytorch_model.bin")
    (older / "model.safetensors").unlink()
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    (adapter / "optimizer.pt").write_bytes(b"not needed")
    origins = {"an/model": whole, "an/older": older, "an/adapter": adapter}

    def snapshot_download(name: str, *, allow_patterns: list[str], **_: object) -> str:
        folder = tmp_path / "hub" / name / f"{len(name):040}"
        folder.mkdir(parents=True, exist_ok=True)
        for file in origins[name].iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, folder)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return lambda name: {file.name for file in (tmp_path / "hub" / name).glob("*/*")}


def test_of_a_tokenizer_and_an_adapter_on_the_hub_only_their_own_files_are_downloaded(
    hub: Callable[[str], set[str]], tiny_model: Callable[..., Path]
) -> None:
    folder = str(tiny_model("llama"))
    source = locate(ModelConfig(id=folder, tokenizer="an/model", adapter="an/adapter"))
    assert hub("an/model") == {"config.json", "tokenizer.json", "tokenizer_config.json"}
    assert hub("an/adapter") == {"adapter_config.json", "adapter_model.safetensors"}
    assert {key: len(identity) for key, identity in source.beside.items()} == {
        "tokenizer": 40, "adapter": 40,
    }  # fmt: skip


def test_bin_files_of_the_hub_are_downloaded_only_where_that_is_asked_for_and_needed(
    hub: Callable[[str], set[str]],
) -> None:
    with pytest.raises(UserError, match=r"has no \.safetensors weights .*`convert: true`"):
        locate(ModelConfig(id="an/older"))
    assert "pytorch_model.bin" not in hub("an/older")
    source = locate(ModelConfig(id="an/older", convert=True))
    assert list(source.folder.glob("*.safetensors"))
    assert load_model(ModelConfig(id="an/older", convert=True)).n_blocks == 3
