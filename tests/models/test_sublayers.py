"""The sites inside a block are those whose outputs it adds, on transformers' own classes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny import ARCHITECTURES, BOTH_WAYS, tiny_config
from torch import Tensor, nn

from llmprobe.models.layers import find_blocks
from llmprobe.models.sublayers import Sublayers, find_sublayers

IDS = torch.arange(1, 9)[None]

LLAMA = ("self_attn", "mlp", "post_attention_layernorm", "self_attn.o_proj")
GEMMA = (
    "post_attention_layernorm", "post_feedforward_layernorm", "post_attention_layernorm",
    "self_attn.o_proj",
)  # fmt: skip
BERT = (
    "attention.output.dropout", "output.dropout", "attention.output.LayerNorm",
    "attention.output.dense",
)  # fmt: skip
# What the attention adds, what the MLP adds, the norm after attention, the attention's last weights
PATHS: dict[str, tuple[str, str, str | None, str]] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma2": GEMMA,
    "gemma3": GEMMA,
    "phi3": ("resid_attn_dropout", "resid_mlp_dropout", *LLAMA[2:]),
    "olmo2": GEMMA,
    "gpt2": ("attn", "mlp", "ln_2", "attn.c_proj"),
    "gpt_neo": ("attn", "mlp", "ln_2", "attn.attention.out_proj"),
    "gpt_neox": (
        "post_attention_dropout", "post_mlp_dropout", "post_attention_layernorm",
        "attention.dense",
    ),
    "opt": ("self_attn", "fc2", "final_layer_norm", "self_attn.out_proj"),
    # It adds the residual inside its attention and its MLP: their last projections add, not they.
    "bloom": (
        "self_attention.dense", "mlp.dense_4h_to_h", "post_attention_layernorm",
        "self_attention.dense",
    ),
    "falcon": ("self_attention", "mlp", None, "self_attention.dense"),
    "mixtral": LLAMA,
    "qwen3_moe": LLAMA,
    "gpt_oss": LLAMA,
    "bert": BERT,
    "roberta": BERT,
}  # fmt: skip
WITHOUT_SUBLAYERS = ("mamba",)


def build(config: Any, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, list[nn.Module]]:
    """A model with random weights, and its blocks."""
    from transformers import AutoModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(config).to(dtype).eval()
    return model, find_blocks(model, IDS)


def paths(blocks: list[nn.Module], modules: list[nn.Module] | None) -> list[str] | None:
    """Where each module is in its block."""
    if modules is None:
        return None
    return [
        next(path for path, inner in block.named_modules() if inner is module)
        for block, module in zip(blocks, modules, strict=True)
    ]


@torch.inference_mode()
def outputs(model: nn.Module, modules: list[nn.Module]) -> list[Tensor]:
    """What the modules return in a forward, shaped like the residual stream."""
    caught: dict[nn.Module, Tensor] = {}

    def catch(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
        caught[module] = (output[0] if isinstance(output, tuple) else output).clone()

    handles = [module.register_forward_hook(catch) for module in modules]
    model(input_ids=IDS, use_cache=False)
    for handle in handles:
        handle.remove()
    return [caught[module].reshape(1, IDS.shape[1], -1) for module in modules]


@torch.inference_mode()
def inputs(model: nn.Module, modules: list[nn.Module]) -> list[Tensor]:
    """What the modules read in a forward: their first argument."""
    caught: dict[nn.Module, Tensor] = {}

    def catch(module: nn.Module, args: Any, kwargs: Any) -> None:
        caught[module] = (args[0] if args else kwargs["hidden_states"]).clone()

    handles = [m.register_forward_pre_hook(catch, with_kwargs=True) for m in modules]
    model(input_ids=IDS, use_cache=False)
    for handle in handles:
        handle.remove()
    return [caught[module].reshape(1, IDS.shape[1], -1) for module in modules]


def added(sites: Sublayers) -> tuple[list[nn.Module], list[nn.Module]]:
    """The two sites that add to the stream."""
    assert sites.attention is not None
    assert sites.mlp is not None
    return sites.attention, sites.mlp


def test_the_table_covers_every_architecture() -> None:
    assert sorted([*PATHS, *WITHOUT_SUBLAYERS]) == sorted(ARCHITECTURES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", PATHS)
def test_each_architecture_has_its_sites_where_its_code_adds(
    architecture: str, dtype: torch.dtype
) -> None:
    attention, mlp, norm, _ = PATHS[architecture]
    model, blocks = build(tiny_config(architecture), dtype)
    sites = find_sublayers(model, blocks, IDS)
    assert paths(blocks, sites.attention) == [attention] * 3
    assert paths(blocks, sites.mlp) == [mlp] * 3
    assert paths(blocks, sites.post_attention_norm) == (norm and [norm] * 3)
    assert sites.error == 0, "the model's own additions, repeated in its own dtype"
    assert set(sites.missing) == ({"post_attention_norm"} if norm is None else set())


@pytest.mark.parametrize("architecture", [name for name in PATHS if name not in BOTH_WAYS])
def test_residual_before_plus_attention_plus_mlp_is_residual_after(architecture: str) -> None:
    model, blocks = build(tiny_config(architecture))
    attention, mlp = added(find_sublayers(model, blocks, IDS))
    for x, u, v, y in zip(
        inputs(model, blocks), outputs(model, attention), outputs(model, mlp),
        outputs(model, blocks), strict=True,
    ):  # fmt: skip
        scale = y.abs().max()
        assert (x + u + v - y).abs().max() <= 1e-5 * scale
        # Both are needed, so that the sum says something about each.
        assert u.abs().max() > 1e-3 * scale
        assert v.abs().max() > 1e-3 * scale


@pytest.mark.parametrize("architecture", sorted(BOTH_WAYS))
def test_where_norms_follow_the_sums_each_norm_reads_one(architecture: str) -> None:
    model, blocks = build(tiny_config(architecture))
    attention, mlp = added(find_sublayers(model, blocks, IDS))
    for block, x, u, v, y in zip(
        blocks, inputs(model, blocks), outputs(model, attention), outputs(model, mlp),
        outputs(model, blocks), strict=True,
    ):  # fmt: skip
        middle = block.attention.output.LayerNorm(x + u)
        torch.testing.assert_close(block.output.LayerNorm(middle + v), y, rtol=0, atol=1e-6)


def test_an_opt_that_normalises_after_the_sums_is_found_too() -> None:
    config = tiny_config("opt")
    config.do_layer_norm_before = False
    model, blocks = build(config)
    sites = find_sublayers(model, blocks, IDS)
    assert paths(blocks, sites.attention) == ["self_attn"] * 3
    assert paths(blocks, sites.mlp) == ["fc2"] * 3
    assert paths(blocks, sites.post_attention_norm) == ["self_attn_layer_norm"] * 3


@pytest.mark.parametrize("architecture", PATHS)
def test_without_its_last_projection_the_attention_alone_adds_nothing(architecture: str) -> None:
    model, blocks = build(tiny_config(architecture))
    attention, mlp = added(find_sublayers(model, blocks, IDS))
    with torch.no_grad():
        for block in blocks:
            for weights in block.get_submodule(PATHS[architecture][3]).parameters():
                weights.zero_()
    assert all((u == 0).all() for u in outputs(model, attention))
    assert all((v != 0).any() for v in outputs(model, mlp))


def test_what_gemma_2_adds_is_the_norm_of_its_attention_and_not_the_attention() -> None:
    model, blocks = build(tiny_config("gemma2"))
    sites = find_sublayers(model, blocks, IDS)
    raw = outputs(model, [block.self_attn for block in blocks])
    assert sites.attention == sites.post_attention_norm
    for block, before, u in zip(blocks, raw, outputs(model, added(sites)[0]), strict=True):
        torch.testing.assert_close(block.post_attention_layernorm(before), u)
        assert (before - u).abs().max() > 0.1 * u.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_mamba_has_no_attention_and_the_reason_says_so(dtype: torch.dtype) -> None:
    model, blocks = build(tiny_config("mamba"), dtype)
    sites = find_sublayers(model, blocks, IDS)
    assert sites.attention is sites.mlp is sites.post_attention_norm is None
    assert set(sites.missing) == {"attention", "mlp", "post_attention_norm"}
    assert math.isnan(sites.error)
    for reason in sites.missing.values():
        assert reason.startswith("block 1 adds one thing (mixer) to the residual stream")


def test_falcon_has_no_norm_after_its_attention_and_the_reason_says_so() -> None:
    model, blocks = build(tiny_config("falcon"))
    reason = find_sublayers(model, blocks, IDS).missing["post_attention_norm"]
    assert reason == "block 1 has no norm after its attention: attention and MLP stand side by side"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_outputs_that_are_scaled_before_they_are_added_are_not_taken(dtype: torch.dtype) -> None:
    from transformers import GraniteConfig

    sizes = tiny_config("llama").to_dict() | {"model_type": "granite"}
    model, blocks = build(GraniteConfig.from_dict(sizes | {"residual_multiplier": 0.22}), dtype)
    sites = find_sublayers(model, blocks, IDS)
    assert sites.attention is sites.mlp is None
    assert "scale" in sites.missing["attention"]
    # This one is read, not added, and so needs no sum.
    assert paths(blocks, sites.post_attention_norm) == ["post_attention_layernorm"] * 3
    model, blocks = build(GraniteConfig.from_dict(sizes | {"residual_multiplier": 1.0}), dtype)
    assert paths(blocks, find_sublayers(model, blocks, IDS).attention) == ["self_attn"] * 3


def test_each_block_of_a_hybrid_is_searched_by_itself() -> None:
    from transformers import Lfm2Config

    kinds = ["conv", "full_attention", "conv"]
    sizes = tiny_config("llama").to_dict() | {"model_type": "lfm2", "layer_types": kinds}
    model, blocks = build(Lfm2Config.from_dict(sizes))
    sites = find_sublayers(model, blocks, IDS)
    assert paths(blocks, sites.attention) == ["conv", "self_attn", "conv"]
    assert paths(blocks, sites.mlp) == ["feed_forward"] * 3
    assert paths(blocks, sites.post_attention_norm) == ["ffn_norm"] * 3


def test_one_block_without_a_site_is_named_and_the_site_missing() -> None:
    model, blocks = build(tiny_config("gpt2"))
    blocks[1].ln_2 = nn.Identity()
    sites = find_sublayers(model, blocks, IDS)
    assert paths(blocks, sites.attention) == ["attn"] * 3
    assert sites.post_attention_norm is None
    assert sites.missing["post_attention_norm"].startswith("block 2 has no norm that reads")


def test_a_model_that_overflows_is_told_so() -> None:
    model, blocks = build(tiny_config("llama"), torch.float16)
    with torch.no_grad():
        blocks[1].mlp.down_proj.weight.fill_(torch.inf)
    reason = find_sublayers(model, blocks, IDS).missing["attention"]
    assert reason == "block 2 overflows: what it returns is not finite"


class Mixer(nn.Module):
    """An attention that weighs all tokens alike."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.out(x.mean(1, keepdim=True).expand(x.shape)), None


class Parallel(nn.Module):
    """A block whose MLP runs before its attention, on the same input."""

    def __init__(self, mlp: nn.Module, mixer: nn.Module) -> None:
        super().__init__()
        self.mlp, self.mixer = mlp, mixer

    def forward(self, x: Tensor) -> Tensor:
        mlp, mixed = self.mlp(x), self.mixer(x)
        return x + mlp + (mixed[0] if isinstance(mixed, tuple) else mixed)


class Stack(nn.Module):
    """What no class in transformers does: blocks of one's own."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, input_ids: Tensor, **_: object) -> Tensor:
        x = self.embedding(input_ids)
        for block in self.blocks:
            x = block(x)
        return x


def test_an_mlp_that_runs_before_the_attention_is_not_taken_for_it() -> None:
    model = Stack(*(Parallel(nn.Linear(8, 8), Mixer()) for _ in range(2)))
    sites = find_sublayers(model, list(model.blocks), IDS)
    assert sites.attention == [block.mixer for block in model.blocks]
    assert sites.mlp == [block.mlp for block in model.blocks]


def test_two_outputs_that_mix_no_tokens_are_no_attention() -> None:
    model = Stack(*(Parallel(nn.Linear(8, 8), nn.Linear(8, 8)) for _ in range(2)))
    sites = find_sublayers(model, list(model.blocks), IDS)
    assert sites.attention is sites.mlp is None
    assert "mlp and mixer, but neither depends on other tokens" in sites.missing["mlp"]


class Twice(nn.Sequential):
    """Its one module runs twice."""

    def forward(self, x: Tensor) -> Tensor:
        return self[0](self[0](x)[0])[0] + x


def test_a_module_that_runs_twice_has_no_one_output_and_is_no_site() -> None:
    model = Stack(*(Twice(Mixer()) for _ in range(2)))
    assert "two of its modules" in find_sublayers(model, list(model.blocks), IDS).missing["mlp"]
