"""Texts become the tokens that the model is used to, and the probed token is never cut off."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import save_tokenizer

from llmprobe.errors import UserError
from llmprobe.extraction.tokens import TokenisedTexts, tokenise

CHAT = "{{ bos_token }} {% for m in messages %}{{ m['content'] }} {% endfor %}</s>"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder: Path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder, bos=True, left=True)
    return AutoTokenizer.from_pretrained(folder)


def words(tokenizer: Any, ids: list[int]) -> list[str]:
    return tokenizer.convert_ids_to_tokens(ids)


def test_the_tokenizers_own_bos_is_there_once(tokenizer: Any) -> None:
    plain, doubled = tokenise(tokenizer, ["red green", "<s> red green"], window=None).ids
    assert words(tokenizer, plain) == ["<s>", "red", "green"]
    assert plain == doubled


def test_a_chat_template_brings_its_own_bos(tokenizer: Any) -> None:
    tokenizer.chat_template = CHAT
    (ids,) = tokenise(tokenizer, ["red"], window=None, chat_template=True).ids
    tokenizer.chat_template = None
    assert words(tokenizer, ids) == ["<s>", "red", "</s>"]


def test_a_chat_template_that_is_not_there_is_the_users_error(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="no chat template"):
        tokenise(tokenizer, ["red"], window=None, chat_template=True)


def test_a_text_longer_than_the_window_is_an_error_by_default(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"1 of 2 texts .* window of 4 .*example 1 has 6"):
        tokenise(tokenizer, ["red", "one two three four five"], window=4)


def test_a_cut_text_keeps_its_bos_and_its_end(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        ids = tokenise(
            tokenizer, ["red", "one two three four five"], window=4, too_long="cut_left"
        ).ids
    assert words(tokenizer, ids[0]) == ["<s>", "red"]
    assert words(tokenizer, ids[1]) == ["<s>", "three", "four", "five"]
    assert "1 of 2 texts" in caplog.text


def test_special_tokens_stand_for_no_text_but_unknown_words_do(tokenizer: Any) -> None:
    special = tokenise(tokenizer, ["red"], window=None).special
    assert words(tokenizer, sorted(special)) == ["<s>", "</s>", "<pad>"]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=30))
def test_unique_tokens_are_the_distinct_prefixes(ids: list[list[int]]) -> None:
    prefixes = {tuple(t[: i + 1]) for t in ids for i in range(len(t))}
    texts = TokenisedTexts(ids, frozenset())
    assert texts.n_unique_tokens == len(prefixes)
    assert texts.n_tokens == sum(map(len, ids))
