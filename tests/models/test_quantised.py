"""Weights in 8 and 4 bits: near the model's own states, and each token still by itself."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_tokenizer, tiny_config
from torch import Tensor, nn

from llmprobe.config.schema import ModelConfig
from llmprobe.ground.errors import UserError
from llmprobe.models.layers import same
from llmprobe.models.loading import LoadedModel, load_model
from llmprobe.models.placement import weight_bytes
from llmprobe.models.quantised import Int8Linear, compute_by_token

bnb = pytest.importorskip("bitsandbytes")

IDS = torch.arange(1, 9)[None]
BOTH = pytest.mark.parametrize("quantization", ["int8", "nf4"])


@torch.inference_mode()
def states(model: LoadedModel, ids: Tensor = IDS) -> Tensor:
    """Of every layer. -> [layers, batch, tokens, d]"""
    return torch.stack(model.module(input_ids=ids, output_hidden_states=True).hidden_states)


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Of each layer, relative. -> [layers]"""
    return (a - b).float().flatten(1).norm(dim=1) / b.float().flatten(1).norm(dim=1)


def load(folder: Path, **options: Any) -> LoadedModel:
    return load_model(ModelConfig(id=str(folder), **{"dtype": "float32", **options}))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize(
    ("quantization", "low", "high"), [("int8", 1e-4, 0.03), ("nf4", 0.02, 0.6)]
)
def test_states_are_near_those_of_the_plain_model(
    quantization: str,
    low: float,
    high: float,
    architecture: str,
    dtype: str,
    tiny_model: Callable[..., Path],
) -> None:
    folder = tiny_model(architecture)
    plain = load(folder, dtype=dtype)
    model = load(folder, dtype=dtype, quantization=quantization)
    assert states(model).dtype == model.dtype == plain.dtype
    apart = difference(states(model), states(plain))
    assert apart[0] == 0
    assert low < apart[1:].min()
    assert apart[1:].max() < high
    assert len(model.blocks) == len(plain.blocks)


@BOTH
def test_parameters_are_counted_as_they_are_and_stored_in_fewer_bytes(
    quantization: str, tiny_model: Callable[..., Path]
) -> None:
    plain = load(tiny_model("llama"))
    model = load(tiny_model("llama"), quantization=quantization)
    linear = sum(m.weight.numel() for m in plain.module.modules() if isinstance(m, nn.Linear))
    assert model.parameters == plain.parameters
    assert plain.quantised == 0
    assert model.quantised == linear / plain.parameters
    left = 4 * (plain.parameters - linear)
    stored = sum(p.nbytes for p in model.module.parameters())
    assert stored == left + linear / {"int8": 1, "nf4": 2}[quantization]
    # The scales of nf4 and the tables of the model's positions come on top.
    expected = weight_bytes(plain.module, torch.float32, quantization)
    assert stored <= expected <= 1.1 * stored


@pytest.fixture
def with_outliers(tiny_model: Callable[..., Path], tmp_path: Path) -> Path:
    """A model whose linear layers read values far above 6, which LLM.int8() takes for outliers."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(tiny_model("llama"))
    for layer in model.layers:
        layer.input_layernorm.weight.data.mul_(torch.linspace(1, 9, 32))
    model.save_pretrained(tmp_path / "outliers")
    save_tokenizer(tmp_path / "outliers")
    return tmp_path / "outliers"


@BOTH
def test_a_state_depends_on_no_token_to_its_right(quantization: str, with_outliers: Path) -> None:
    model = load(with_outliers, quantization=quantization)
    other = torch.cat([IDS[:, :4], IDS[:, 4:] + 20], dim=1)
    assert model.causal
    assert same(states(model)[:, :, :4], states(model, other)[:, :, :4])


@BOTH
def test_a_text_has_the_same_states_alone_and_among_others(
    quantization: str, with_outliers: Path
) -> None:
    model = load(with_outliers, quantization=quantization)
    batch = torch.stack([IDS[0], IDS[0] + 10, IDS[0] + 20, IDS[0].flip(0)])
    alone = states(model, batch[:1])
    assert difference(states(model, batch)[:, :1], alone).max() < 1e-5


def test_nf4_computes_in_the_precision_that_was_asked_for(tmp_path: Path) -> None:
    from transformers import AutoModel, LlamaConfig

    # Of this width, some processors have a way of their own.
    config = LlamaConfig(**{**tiny_config("llama").to_dict(), "hidden_size": 64, "head_dim": 16,
                            "intermediate_size": 64})  # fmt: skip
    AutoModel.from_config(config).save_pretrained(tmp_path / "wide")
    save_tokenizer(tmp_path / "wide")
    layer = load(tmp_path / "wide", quantization="nf4").module.layers[0].mlp.up_proj
    weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    given = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(given), given @ weight.T, rtol=1e-5, atol=1e-6)


@BOTH
def test_random_weights_can_be_quantised(
    quantization: str, tiny_model: Callable[..., Path]
) -> None:
    options = {"weights": "random", "seed": 3}
    plain = load(tiny_model("llama"), **options)
    model = load(tiny_model("llama"), quantization=quantization, **options)
    assert model.quantised > 0.5
    assert 0 < difference(states(model), states(plain)).max() < 0.6
    trained = load(tiny_model("llama"), quantization=quantization)
    assert difference(states(model), states(trained)).max() > 1


@pytest.fixture
def stored(tiny_model: Callable[..., Path], tmp_path: Path) -> Callable[[str], Path]:
    """``stored("int8")``: a checkpoint that was quantised before it was saved."""
    from transformers import AutoModel, BitsAndBytesConfig

    def make(quantization: str) -> Path:
        how = {"int8": {"load_in_8bit": True},
               "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
                       "bnb_4bit_compute_dtype": torch.float32}}  # fmt: skip
        AutoModel.from_pretrained(
            tiny_model("llama"), quantization_config=BitsAndBytesConfig(**how[quantization])
        ).save_pretrained(tmp_path / quantization)
        save_tokenizer(tmp_path / quantization)
        return tmp_path / quantization

    return make


@BOTH
def test_a_checkpoint_that_is_quantised_already_is_loaded_as_it_is(
    quantization: str, stored: Callable[[str], Path], tiny_model: Callable[..., Path]
) -> None:
    model = load(stored(quantization))
    fresh = load(tiny_model("llama"), quantization=quantization)
    assert model.parameters == fresh.parameters
    assert model.quantised == fresh.quantised
    assert difference(states(model), states(fresh)).max() < 1e-5


def test_a_checkpoint_that_is_quantised_already_is_not_quantised_again(
    stored: Callable[[str], Path],
) -> None:
    with pytest.raises(UserError, match="quantised already, so leave out quantization: nf4"):
        load(stored("int8"), quantization="nf4")


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_random_weights_of_a_quantised_checkpoint_are_those_of_a_plain_one(
    quantization: str, stored: Callable[[str], Path], tiny_model: Callable[..., Path]
) -> None:
    options = {"weights": "random", "seed": 1, "quantization": quantization}
    models = [load(folder, **options) for folder in (stored("int8"), tiny_model("llama"))]
    assert same(*map(states, models))


@pytest.mark.parametrize(
    ("architecture", "said"),
    [("falcon", "finds nothing to quantise in FalconModel"), ("mamba", "cannot run it with")],
)
@BOTH
def test_what_bitsandbytes_cannot_do_is_said_in_one_line(
    quantization: str, architecture: str, said: str, tiny_model: Callable[..., Path]
) -> None:
    with pytest.raises(UserError, match=f"^model .*: bitsandbytes {said}.*$") as caught:
        load(tiny_model(architecture), quantization=quantization)
    assert "\n" not in str(caught.value)


def test_without_bitsandbytes_the_message_says_what_to_install(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"quantization: int8 needs .* pip install 'bitsandbytes"):
        load(tiny_model("llama"), quantization="int8")
    assert math.isfinite(states(load(tiny_model("llama"))).sum())


def test_a_layer_that_is_moved_while_the_model_runs_still_is() -> None:
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    stack = nn.Sequential(bnb.nn.Linear8bitLt(8, 8, has_fp16_weights=False)).to("cpu")
    given = torch.randn(2, 8)
    hook = AlignDevicesHook(execution_device="cpu")
    add_hook_to_module(stack[0], hook)
    compute_by_token(stack, "model")
    assert isinstance(stack[0], Int8Linear)
    assert stack[0]._hf_hook is hook
    assert stack(given).shape == (2, 8)


@BOTH
def test_a_quantised_model_has_a_name_of_its_own(quantization: Any) -> None:
    assert ModelConfig(id="org/gpt2", quantization=quantization).name == f"gpt2-{quantization}"


def test_a_folder_in_mxfp4_is_read_as_the_weights_that_it_stands_for(tmp_path: Path) -> None:
    import transformers as hf
    from safetensors.torch import load_file, save_file
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    config = tiny_config("gpt_oss")
    config.intermediate_size = 64  # Blocks are of 32 weights.
    packed, plain = tmp_path / "packed", tmp_path / "plain"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = hf.AutoModelForCausalLM.from_config(config)
        for folder in (packed, plain):
            model.save_pretrained(folder)
            save_tokenizer(folder)
        weights = {False: load_file(plain / "model.safetensors")}
        weights[True] = dict(weights[False])
        for name, value in weights[False].items():
            if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
                experts, inputs, outputs = value.shape
                shape = (experts, outputs, inputs // 32)
                blocks = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8)
                scales = torch.randint(118, 124, shape, dtype=torch.uint8)
                del weights[True][name]
                weights[True] |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
                value = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
                weights[False][name] = value.contiguous()
    for folder in (packed, plain):
        file = folder / "model.safetensors"
        save_file(weights[folder == packed], file, metadata={"format": "pt"})
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens"]
    described = json.loads((packed / "config.json").read_text())
    described["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": kept}
    (packed / "config.json").write_text(json.dumps(described))
    own, expected = (
        states(load_model(ModelConfig(id=str(folder), dtype="float32")))
        for folder in (packed, plain)
    )
    assert torch.equal(own, expected)
