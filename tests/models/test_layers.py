"""The blocks are found by running the model, and checked against what it returns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import ARCHITECTURES, BOTH_WAYS
from torch import nn

from llmprobe.config.schema import ModelConfig
from llmprobe.ground.errors import UserError
from llmprobe.models.layers import find_blocks, is_causal, left_out, verify_blocks
from llmprobe.models.loading import load_model

IDS = torch.arange(1, 9)[None]


class Stack(nn.Module):
    """A model with the traps in it: a shorter stack, a longer list of experts, unused modules."""

    def __init__(self, shuffled: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.adapter = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(8))
        self.unused = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))
        self.shuffled = shuffled

    def forward(self, input_ids: torch.Tensor, **_: object) -> torch.Tensor:
        x = self.adapter[1](self.adapter[0](self.embedding(input_ids)))
        if self.shuffled:
            x = self.adapter[0](x)
        for i in (2, 0, 1) if self.shuffled else (0, 1, 2):
            x = self.blocks[i](x)
        return sum(expert(x) for expert in self.experts)


def test_the_blocks_are_the_longest_list_that_the_forward_passes_through_in_order() -> None:
    model = Stack()
    assert find_blocks(model, IDS) == list(model.blocks)


def test_a_model_without_such_a_list_is_refused() -> None:
    with pytest.raises(UserError, match="no layers to probe"):
        find_blocks(Stack(shuffled=True), IDS)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_blocks_of_every_architecture_are_found(
    architecture: str, tiny_model: Callable[..., Path]
) -> None:
    model = load_model(ModelConfig(id=str(tiny_model(architecture)), dtype="float32"))
    assert len(model.blocks) == 3
    assert len({type(block) for block in model.blocks}) == 1
    assert model.hidden_size == 32
    assert model.causal == (architecture not in BOTH_WAYS)


def test_blocks_that_the_model_does_not_return_are_refused(tiny_model: Callable[..., Path]) -> None:
    model = load_model(ModelConfig(id=str(tiny_model("llama")), dtype="float32"))
    backwards = model.blocks[::-1]
    with pytest.raises(UserError, match="cannot be told"):
        verify_blocks(model.module, backwards, IDS)
    with pytest.raises(UserError, match="2 blocks"):
        verify_blocks(model.module, model.blocks[:2], IDS)


def test_blocks_that_pass_on_several_streams_are_refused() -> None:
    import transformers as hf

    torch.manual_seed(0)
    config = hf.Gemma3nTextConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, head_dim=8,
        num_key_value_heads=1, intermediate_size=16, vocab_size_per_layer_input=40,
        hidden_size_per_layer_input=8, laurel_rank=8, num_kv_shared_layers=0,
        layer_types=["full_attention"] * 2, activation_sparsity_pattern=[0.0] * 2,
    )  # fmt: skip
    model = hf.AutoModel.from_config(config).eval()
    with pytest.raises(UserError, match=r"states of shape \[4, 1, 8, 16\] for 8 tokens"):
        verify_blocks(model, find_blocks(model, IDS), IDS)


def test_what_stands_after_the_last_block_is_known(tiny_model: Callable[..., Path]) -> None:
    model = load_model(ModelConfig(id=str(tiny_model("llama")), dtype="float32"))
    assert model.final_norm == "LlamaRMSNorm"
    model.module.norm = nn.Identity()
    assert verify_blocks(model.module, model.blocks, IDS) == "nothing"


def test_a_model_that_looks_back_only_is_causal(tiny_model: Callable[..., Path]) -> None:
    causal = load_model(ModelConfig(id=str(tiny_model("gpt2")), dtype="float32")).module
    both_ways = load_model(ModelConfig(id=str(tiny_model("bert")), dtype="float32")).module
    assert is_causal(causal, IDS)
    assert not is_causal(both_ways, IDS)


def test_blocks_that_are_left_out_pass_on_states_and_come_back_as_they_were() -> None:
    plain, moved = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    own = moved.forward
    moved.forward = lambda states: own(states) + 1  # As accelerate does.
    states = torch.ones(1, 2)
    before = [block(states) for block in (plain, moved)]
    with left_out([plain, moved], in_tuples=False):
        assert moved(plain(states)) is states
    with left_out([plain], in_tuples=True):
        assert plain(states) == (states, None)
    for block, expected in zip((plain, moved), before, strict=True):
        assert torch.equal(block(states), expected)
