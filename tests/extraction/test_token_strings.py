"""The strings of tokens are what its tokens stand for, and together the whole text."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from llmprobe.extraction.token_strings import token_strings

TEXTS = ["The capital of Peru is Lima.", "naïve 🦙 日本\n\tok", "  two spaces, $x$ <b>"]


def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2's, with so few merges that characters beyond ASCII take several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["The capital of Peru is Lima."] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def byte_fallback() -> PreTrainedTokenizerFast:
    """As Llama 2's and Gemma's: words begin with ▁, and unknown characters are bytes."""
    words = ["▁", *(f"<0x{byte:02X}>" for byte in range(256)), *map(chr, range(33, 127))]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(["<unk>", *words]))}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_pieces_together_are_the_text(make, text: str) -> None:
    tokenizer = make()
    tokens = tokenizer(text)["input_ids"]
    found = token_strings(tokenizer, tokens)
    assert len(found) == len(tokens)
    whole = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
    assert "".join(piece for piece in found if piece != "\ufffd") == whole
    assert whole.strip() == text.strip()


def test_a_word_keeps_the_space_before_it() -> None:
    tokenizer = byte_level()
    found = token_strings(tokenizer, tokenizer("The capital of Peru")["input_ids"])
    assert found == ["The", " capital", " of", " Peru"]


def test_a_character_of_several_tokens_stands_at_the_last_of_them() -> None:
    tokenizer = byte_level()
    tokens = tokenizer("a🦙b")["input_ids"]
    half = "\ufffd"
    assert token_strings(tokenizer, tokens) == ["a", half, half, half, "🦙", "b"]
    # A text may end, or a cut one begin, amid a character.
    assert token_strings(tokenizer, tokens[:3]) == ["a", half, half]
    assert token_strings(tokenizer, tokens[3:])[-1] == "b"


def test_special_tokens_are_written_out() -> None:
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokens = [tokenizer.bos_token_id, *tokenizer("of Peru")["input_ids"]]
    assert token_strings(tokenizer, tokens)[0] == "<s>"
    assert "".join(token_strings(tokenizer, tokens)) == "<s>of Peru"
