"""The last token alone, with other states, is as it is in a forward pass over the whole text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import ARCHITECTURES, BOTH_WAYS

from llmprobe.config.schema import ModelConfig
from llmprobe.extraction.last_token import LastToken, require_parity, run_whole
from llmprobe.ground.errors import UserError
from llmprobe.models.loading import load_model

BY_ORDER = {"bloom", "gpt_neo", "mamba"}
"""They go by the order of keys, or have a state in place of them."""
TEXTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13], [9, 4], [7], [6, 5, 4, 12, 20, 21]]


def _load(folder: Path):
    return load_model(ModelConfig(id=str(folder), dtype="float32"))


@pytest.mark.parametrize("architecture", sorted({*ARCHITECTURES} - BY_ORDER - BOTH_WAYS))
def test_an_edited_last_token_is_as_in_a_full_forward_with_a_hook(
    architecture: str, tiny_model: Callable[..., Path]
) -> None:
    model = _load(tiny_model(architecture))
    runner = LastToken(model)
    kept = runner.keep(TEXTS)
    for layer in range(model.n_blocks + 1):
        states = torch.randn(len(TEXTS), 5, model.hidden_size, generator=torch.manual_seed(layer))
        alone = runner.run(kept, layer, states)
        for row, tokens in enumerate(TEXTS):
            whole = run_whole(model, tokens, layer, states[row])
            torch.testing.assert_close(alone[row], whole, rtol=1e-5, atol=1e-5)


def test_an_edit_leaves_the_model_as_it_was(tiny_model: Callable[..., Path]) -> None:
    model = _load(tiny_model("gemma3"))
    ids = torch.tensor([TEXTS[0]])
    before = model.module(input_ids=ids).last_hidden_state
    runner = LastToken(model)
    runner.run(runner.keep(TEXTS), 2, torch.zeros(4, 1, model.hidden_size))
    assert torch.equal(model.module(input_ids=ids).last_hidden_state, before)


@pytest.mark.parametrize("architecture", sorted(BY_ORDER | BOTH_WAYS))
def test_models_whose_last_token_cannot_run_alone_are_refused(
    architecture: str, tiny_model: Callable[..., Path]
) -> None:
    model = _load(tiny_model(architecture))
    with pytest.raises(UserError, match=r"cannot be|encoder"):
        require_parity(model, TEXTS, torch.randn(len(TEXTS), model.hidden_size))
