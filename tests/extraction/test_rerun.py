"""Texts run again with other states are as they are in a forward pass over the whole text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import ARCHITECTURES, BOTH_WAYS

from llmprobe.config.schema import ModelConfig
from llmprobe.extraction.rerun import Rerun, require_parity, run_whole
from llmprobe.extraction.tokens import Text
from llmprobe.ground.errors import UserError
from llmprobe.models.loading import load_model

BY_ORDER = {"bloom", "gpt_neo", "mamba"}
"""They go by the order of keys, or have a state in place of them."""
IDS = [(5, 6, 7, 8, 9, 10, 11, 12, 13), (9, 4), (7,), (6, 5, 4, 12, 20, 21)]
TEXTS = [Text(ids, ((len(ids) - 1,),)) for ids in IDS]
IN_THE_MIDDLE = [Text(ids, (place,)) for ids, place in
                 zip(IDS, [(2,), (0,), (0,), (1, 2, 4)], strict=True)]  # fmt: skip


def _load(folder: Path):
    return load_model(ModelConfig(id=str(folder), dtype="float32"))


@pytest.mark.parametrize("texts", [TEXTS, IN_THE_MIDDLE], ids=["last token", "in the middle"])
@pytest.mark.parametrize("architecture", sorted({*ARCHITECTURES} - BY_ORDER - BOTH_WAYS))
def test_edited_states_are_as_in_a_full_forward_with_a_hook(
    architecture: str, texts: list[Text], tiny_model: Callable[..., Path]
) -> None:
    model = _load(tiny_model(architecture))
    runner = Rerun(model)
    kept = runner.keep(texts)
    for layer in range(model.n_blocks + 1):
        states = torch.randn(len(texts), 5, model.hidden_size, generator=torch.manual_seed(layer))
        again = runner.run(kept, layer, states)
        for row, text in enumerate(texts):
            whole = run_whole(model, text, layer, states[row])
            torch.testing.assert_close(again[row], whole, rtol=1e-5, atol=1e-5)


def test_many_changed_texts_are_run_some_at_a_time(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _load(tiny_model("mistral"))
    runner, states = Rerun(model), torch.randn(4, 7, model.hidden_size)
    kept = runner.keep(IN_THE_MIDDLE)
    at_once = runner.run(kept, 1, states)
    monkeypatch.setattr("llmprobe.extraction.rerun._BESIDE", 15)
    torch.testing.assert_close(runner.run(kept, 1, states), at_once, rtol=1e-5, atol=1e-5)


def test_a_text_whose_states_are_its_own_is_as_it_was(tiny_model: Callable[..., Path]) -> None:
    model = _load(tiny_model("gemma3"))
    runner = Rerun(model)
    kept = runner.keep(IN_THE_MIDDLE)
    plain = kept.last(kept.states[-1][:, None])
    for layer in range(model.n_blocks + 1):
        own = (kept.states[layer] * kept.share[..., None]).sum(dim=1)
        torch.testing.assert_close(runner.run(kept, layer, own[:, None]), plain)
    for row, text in enumerate(IN_THE_MIDDLE):
        out = model.module(input_ids=torch.tensor([text.tokens])).last_hidden_state[0, -1]
        torch.testing.assert_close(model.module.norm(plain[row, 0]), out)


def test_what_is_beside_a_long_text_stands_at_no_position_beyond_the_last(
    tiny_model: Callable[..., Path],
) -> None:
    model = _load(tiny_model("gpt2"))
    long = (5, 6, 7, 8) * (model.module.config.n_positions // 4)
    texts = [Text(IDS[0], ((0,),)), Text(long, ((len(long) - 1,),))]
    runner, states = Rerun(model), torch.randn(2, 1, model.hidden_size)
    again = runner.run(runner.keep(texts), 1, states)
    for row, text in enumerate(texts):
        whole = run_whole(model, text, 1, states[row])
        torch.testing.assert_close(again[row], whole, rtol=1e-5, atol=1e-5)


def test_an_edit_leaves_the_model_as_it_was(tiny_model: Callable[..., Path]) -> None:
    model = _load(tiny_model("gemma3"))
    ids = torch.tensor([IDS[0]])
    before = model.module(input_ids=ids).last_hidden_state
    runner = Rerun(model)
    runner.run(runner.keep(TEXTS), 2, torch.zeros(4, 1, model.hidden_size))
    assert torch.equal(model.module(input_ids=ids).last_hidden_state, before)


@pytest.mark.parametrize("architecture", sorted(BY_ORDER | BOTH_WAYS))
def test_models_whose_last_token_cannot_run_alone_are_refused(
    architecture: str, tiny_model: Callable[..., Path]
) -> None:
    model = _load(tiny_model(architecture))
    with pytest.raises(UserError, match=r"cannot be|encoder"):
        require_parity(model, TEXTS, torch.randn(len(TEXTS), model.hidden_size))


def test_a_model_that_goes_by_the_order_of_keys_is_refused_where_texts_are_of_one_length(
    tiny_model: Callable[..., Path],
) -> None:
    model = _load(tiny_model("gpt_neo"))
    states = torch.randn(1, model.hidden_size, generator=torch.manual_seed(0))
    with pytest.raises(UserError, match="differs by"):
        require_parity(model, TEXTS[:1], states, beside=20)
