"""Models load from folders and seeds, in the right precision, or say why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import save_tokenizer

from llmprobe.config import ModelConfig
from llmprobe.errors import UserError
from llmprobe.models.loading import (
    active_weights,
    load_architecture,
    load_model,
    resolve_device,
    resolve_dtype,
)
from llmprobe.models.source import locate

CPU = torch.device("cpu")


def test_the_base_model_is_loaded_without_its_vocabulary_projection(
    tiny_model: Callable[..., Path],
) -> None:
    model = load_model(ModelConfig(id=str(tiny_model("llama"))))
    assert not any("lm_head" in name for name, _ in model.module.named_modules())


def test_random_weights_are_those_of_their_seed_and_not_the_trained_ones(
    tiny_model: Callable[..., Path],
) -> None:
    folder = str(tiny_model("llama"))

    def embedding(**options: object) -> torch.Tensor:
        config = ModelConfig(id=folder, dtype="float32", **options)
        return load_model(config).module.get_input_embeddings().weight.detach()

    first = embedding(weights="random", seed=1)
    assert torch.equal(first, embedding(weights="random", seed=1))
    assert not torch.equal(first, embedding(weights="random", seed=2))
    assert not torch.equal(first, embedding())


def test_making_random_weights_leaves_the_callers_random_state_alone(
    tiny_model: Callable[..., Path],
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load_model(ModelConfig(id=str(tiny_model("llama")), weights="random"))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16),
     ({"avx2": True, "avx512_bf16": False}, torch.float32), ({}, torch.float32)],
)  # fmt: skip
def test_auto_is_bfloat16_where_the_processor_computes_it(
    capabilities: dict[str, bool], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_dtype("auto", CPU) == expected
    assert resolve_dtype("float16", CPU) == torch.float16


def test_a_torch_without_the_public_query_is_asked_by_its_older_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for supported, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda s=supported: s)
        assert resolve_dtype("auto", CPU) == expected


def test_a_device_that_is_not_here_is_the_users_error() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(UserError, match="cuda"):
        resolve_device("cuda")
    with pytest.raises(UserError, match="toaster"):
        resolve_device("toaster")


def test_the_identity_of_a_folder_changes_with_any_file(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    import shutil

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


def test_the_shape_of_a_model_is_known_without_its_weights(
    tiny_model: Callable[..., Path],
) -> None:
    config = ModelConfig(id=str(tiny_model("llama")))
    model = load_model(config)
    shape = load_architecture(config, locate(config))
    embeddings = model.module.get_input_embeddings().weight.numel()
    assert (shape.layers, shape.hidden_size) == (3, 32)
    assert active_weights(shape.module) == model.parameters - embeddings


@pytest.fixture
def t5(tmp_path: Path) -> Callable[[str], str]:
    def make(kind: str) -> str:
        import transformers as hf

        config = hf.T5Config(d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=40)
        getattr(hf, kind)(config).save_pretrained(tmp_path / kind)
        save_tokenizer(tmp_path / kind)
        return str(tmp_path / kind)

    return make


def test_an_encoder_decoder_is_refused(t5: Callable[[str], str]) -> None:
    with pytest.raises(UserError, match="encoder-decoder"):
        load_model(ModelConfig(id=t5("T5Model")))


def test_weights_that_the_files_lack_are_not_made_up(t5: Callable[[str], str]) -> None:
    with pytest.raises(UserError, match=r"lack \d+ weights of T5Model, such as decoder"):
        load_model(ModelConfig(id=t5("T5EncoderModel")))


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
