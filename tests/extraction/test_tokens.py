"""Texts become the tokens that the model is used to, and the probed token is never cut off."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import save_tokenizer

from llmprobe.extraction.tokens import TokenisedTexts, _fit_window, added_tokens, tokenise
from llmprobe.ground.errors import UserError

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
    texts = TokenisedTexts(ids, frozenset(), [len(tokens) - 1 for tokens in ids])
    assert texts.n_unique_tokens == len(prefixes)
    assert texts.n_tokens == sum(map(len, ids))


def read_words(tokenizer: Any, texts: list[str], **options: Any) -> list[str]:
    """The tokens whose states would be read."""
    read = tokenise(tokenizer, texts, **({"window": None} | options)).texts(cut=True)
    return [words(tokenizer, [text.tokens[-1]])[0] for text in read]


def test_the_token_that_is_read_is_the_last_one_that_is_run(tokenizer: Any) -> None:
    texts = ["red green", "<s> red green blue", "red"]
    assert read_words(tokenizer, texts) == ["green", "blue", "red"]
    assert read_words(tokenizer, texts, position="first") == ["red", "red", "red"]
    ends = [2, 6, 2]
    span = {"position": "span:x", "span_ends": ends}
    assert read_words(tokenizer, texts, **span) == ["red"] * 3


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("eos", [False, True])
def test_no_token_that_the_tokenizer_added_is_the_first_or_the_last(
    bos: bool, eos: bool, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    save_tokenizer(tmp_path, bos=bos, eos=eos)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert added_tokens(tokenizer) == (bos, eos)
    texts = ["red green", "blue", "<s> one two </s>", "Quito"]
    last = ["green", "blue", "</s>", "<unk>"]
    assert read_words(tokenizer, texts) == last
    assert read_words(tokenizer, texts, position="mean") == last
    first = ["red", "blue", "one" if bos else "<s>", "<unk>"]
    assert read_words(tokenizer, texts, position="first") == first
    options = {"window": 4, "too_long": "cut_left"}
    long = ["one two three four five six"]
    kept = {0: "three", 1: "four", 2: "five"}[bos + eos]
    assert read_words(tokenizer, long, position="first", **options) == [kept]
    assert read_words(tokenizer, long, **options) == ["six"]
    (run,) = tokenise(tokenizer, ["red"], window=None).texts(cut=False)
    assert words(tokenizer, list(run.tokens)) == ["<s>"] * bos + ["red"] + ["</s>"] * eos


def test_a_text_without_tokens_of_its_own_is_the_users_error(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="example 1 gives no tokens: '<s>'"):
        tokenise(tokenizer, ["red", "<s>"], window=None)


def test_the_last_token_of_a_chat_is_the_templates_and_the_first_is_not_bos(tokenizer: Any) -> None:
    tokenizer.chat_template = CHAT
    read = {p: read_words(tokenizer, ["red green"], chat_template=True, position=p)
            for p in ("last", "first")}  # fmt: skip
    tokenizer.chat_template = None
    assert read == {"last": ["</s>"], "first": ["red"]}


def test_a_span_is_found_again_in_a_chat(tokenizer: Any) -> None:
    tokenizer.chat_template = CHAT
    span = {"position": "span:x", "span_ends": [2], "chat_template": True}
    assert read_words(tokenizer, ["red green"], **span) == ["red"]
    tokenizer.chat_template = None


def test_a_span_that_no_token_stands_for_is_the_users_error(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"example 1: no token stands for the end of 'span:x'"):
        tokenise(tokenizer, ["red", "a  b"], window=None, position="span:x", span_ends=[2, 2])


def test_a_cut_text_keeps_the_token_that_is_read_or_is_refused(tokenizer: Any) -> None:
    text = "one two three four five"
    cut = {"window": 4, "too_long": "cut_left", "position": "span:x"}
    assert read_words(tokenizer, [text], **cut, span_ends=[text.index("four")]) == ["four"]
    with pytest.raises(UserError, match="would drop the token that is probed"):
        read_words(tokenizer, [text], **cut, span_ends=[text.index("two")])


CHATML = "{% for m in messages %}<s> user {{ m['content'] | trim }} </s>{% endfor %}<s> one two"


@pytest.mark.parametrize("text", ["one", "two", "user", " red green\n"])
def test_a_span_in_a_chat_is_the_users_not_the_templates(tokenizer: Any, text: str) -> None:
    tokenizer.chat_template = CHATML
    end = len(text.rstrip()) - 1
    options = {"position": "span:x", "span_ends": [end], "chat_template": True, "window": None}
    (run,) = tokenise(tokenizer, [text], **options).texts(cut=True)
    tokenizer.chat_template = None
    # Behind "<s> user", whatever the text is.
    assert len(run.tokens) == 2 + len(text.split())


def test_cutting_away_a_span_at_the_very_beginning_is_refused() -> None:
    texts = TokenisedTexts([[5, 6, 7, 8, 9]], frozenset(), [0])
    with pytest.raises(UserError, match="would drop the token that is probed"):
        _fit_window(texts, 4, "span:x", "cut_left", "x")
    assert _fit_window(texts, 4, "first", "cut_left", "x").texts(cut=True)[0].tokens == (6,)
    with_bos = TokenisedTexts([[1, 6, 7, 8, 9]], frozenset({1}), [0])
    assert _fit_window(with_bos, 4, "span:x", "cut_left", "x").texts(cut=True)[0].tokens == (1,)


def test_a_token_that_is_bos_and_unknown_in_one_is_special(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    save_tokenizer(tmp_path, bos=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.unk_token = "<s>"
    assert words(tokenizer, sorted(tokenise(tokenizer, ["red"], window=None).special))[0] == "<s>"
