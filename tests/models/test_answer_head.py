"""What a model's head says of a state is what the model itself says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import ARCHITECTURES, BOTH_WAYS
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmprobe import UserError
from llmprobe.config.schema import ModelConfig
from llmprobe.models.answer_head import AnswerHead, AnswerTokens, answer_tokens
from llmprobe.models.loading import load_language_model

TOKENS = AnswerTokens(("no", "yes"), ((5, 9), (7,)))
CAUSAL = [name for name in ARCHITECTURES if name not in BOTH_WAYS]


def head_of(folder: Path, dtype: str = "float32", tokens: AnswerTokens = TOKENS) -> AnswerHead:
    config = ModelConfig.model_validate({"id": str(folder), "dtype": dtype, "device": "cpu"})
    return AnswerHead(*load_language_model(config), tokens)


@pytest.mark.parametrize("architecture", CAUSAL)
@torch.inference_mode()
def test_the_logits_are_the_models_own(tiny_model: Callable[..., Path], architecture: str) -> None:
    folder = tiny_model(architecture, head=True)
    head = head_of(folder)
    ids = torch.tensor([[4, 8, 6, 11, 5]])
    own = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    block = dict(own.named_modules())[_name_of_last_block(head)]
    states: list[torch.Tensor] = []
    hook = block.register_forward_hook(
        lambda _, __, out: states.append(out if isinstance(out, torch.Tensor) else out[0])
    )
    expected = own(input_ids=ids, use_cache=False).logits[0]
    hook.remove()
    logits = head.logits(states[0].reshape(5, -1))
    torch.testing.assert_close(logits, expected[:, TOKENS.ids], rtol=1e-5, atol=1e-5)
    of_labels = torch.stack([logits[:, :2].logsumexp(dim=1), logits[:, 2]], dim=1)
    torch.testing.assert_close(head.label_logits(states[0].reshape(5, -1)), of_labels)
    # The model is left as it was.
    torch.testing.assert_close(head.head(input_ids=ids, use_cache=False).logits[0], expected)
    own_logits, state, token = head.own(ids[0].tolist())
    torch.testing.assert_close(own_logits, expected[-1, TOKENS.ids])
    torch.testing.assert_close(state, states[0].reshape(5, -1)[-1])
    assert token == int(expected[-1].argmax())


def _name_of_last_block(head: AnswerHead) -> str:
    return next(n for n, m in head.head.named_modules() if m is head.model.blocks[-1])


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "olmo2"])
def test_in_bfloat16_they_are_the_models_own_but_for_rounding(
    tiny_model: Callable[..., Path], architecture: str
) -> None:
    head = head_of(tiny_model(architecture, head=True), "bfloat16")
    own, state, _ = head.own([4, 8, 6, 11, 5])
    torch.testing.assert_close(head.logits(state[None])[0], own, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("gemma2", {"final_logit_softcapping": 0.01}), ("cohere", {"logit_scale": 0.3}),
        ("granite", {"logits_scaling": 7.0}), ("llama", {"tie_word_embeddings": True}),
    ],
)  # fmt: skip
@torch.inference_mode()
def test_scaled_capped_and_tied_heads_are_the_models_own(
    architecture: str, options: dict[str, object], tmp_path: Path
) -> None:
    from tiny import save_tokenizer
    from transformers import AutoConfig

    config = AutoConfig.for_model(
        architecture, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=32, head_dim=8, vocab_size=60, pad_token_id=3,
        bos_token_id=1, eos_token_id=2, **options,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    head = head_of(tmp_path)
    own, state, _ = head.own([4, 8, 6, 11, 5])
    torch.testing.assert_close(head.logits(state[None])[0], own, rtol=1e-5, atol=1e-5)
    plain = head.head.get_output_embeddings()(head.model.module.norm(state))[TOKENS.ids]
    assert architecture == "llama" or not torch.allclose(plain, own, rtol=1e-2)


@torch.inference_mode()
def test_a_head_with_a_bias_adds_it(tmp_path: Path) -> None:
    from tiny import save_tokenizer
    from transformers import PhiConfig

    config = PhiConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        vocab_size=60, pad_token_id=3, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    model.lm_head.bias.copy_(torch.arange(60.0))
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    head = head_of(tmp_path)
    own, state, _ = head.own([4, 8, 6, 11, 5])
    torch.testing.assert_close(head.logits(state[None])[0], own, rtol=1e-5, atol=1e-5)


class Letters:
    """A tokenizer of characters, of which a space and what follows are one."""

    unk_token_id = None

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        ids, i = [], 0
        while i < len(text):
            n = 2 if text[i] == " " and i + 1 < len(text) and text[i + 1] != " " else 1
            ids.append(ord(text[i + n - 1]) + 1000 * (n == 2))
            i += n
        return {"input_ids": ids}

    def decode(self, ids: list[int], **_: object) -> str:
        return "".join(" " * (i >= 1000) + chr(i % 1000) for i in ids)


def asked(question: str, **answers: list[str]) -> AnswerTokens:
    letters = Letters()
    return answer_tokens(letters, letters(question)["input_ids"], answers, "toy")


def test_words_are_taken_as_they_follow_the_question() -> None:
    y, n, spaced = ord("y"), ord("n"), 1000
    tokens = asked("Is it? Answer:", no=["no"], yes=["yes"])
    assert tokens.of_label == ((spaced + n, n), (spaced + y, y))
    assert asked("Is it?\n", no=["no"], yes=[" yes"]).of_label[1] == (y, spaced + y)
    assert asked("Is it?", a=["no", "not", "false"], b=["yes"]).of_label[0] == (
        spaced + n, spaced + ord("f"), n, ord("f"),
    )  # fmt: skip


class Words(Letters):
    """A tokenizer to which a word after a space is one token, and without it its letters are."""

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        first, *others = text.split(" ")
        return {"input_ids": [*map(ord, first), *(1000 + len(word) for word in others)]}

    def decode(self, ids: list[int], **_: object) -> str:
        return "".join(" " + "x" * (i - 1000) if i >= 1000 else chr(i) for i in ids)


def test_of_the_other_way_to_begin_what_two_labels_share_is_left_out() -> None:
    tokens = answer_tokens(
        Words(), Words()("Is?")["input_ids"], {"0": ["no"], "1": ["nay", "yes"]}, "toy"
    )
    assert tokens.of_label == ((1002,), (1003, ord("y")))


def test_words_that_begin_with_one_token_are_refused() -> None:
    with pytest.raises(UserError, match="words of 'no' and 'yes' begin with the same token, ' n'"):
        asked("Is it?", no=["no"], yes=["nay"])


def test_words_of_a_real_tokenizer_have_tokens(tiny_model: Callable[..., Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model("llama"))
    question = tokenizer("is Lima the capital")["input_ids"]
    tokens = answer_tokens(tokenizer, question, {"0": ["coin"], "1": ["city"]}, "toy")
    assert [tokenizer.decode([i]) for i in tokens.ids] == ["coin", "city"]
    with pytest.raises(UserError, match="'xyz' has no first token"):
        answer_tokens(tokenizer, question, {"0": ["xyz"], "1": ["city"]}, "toy")
