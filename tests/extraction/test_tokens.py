"""Texts become the tokens that the model is used to, and the probed token is never cut off."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import save_tokenizer

from llmprobe.datasets.spans import Turn
from llmprobe.extraction.tokens import (
    TokenisedTexts,
    _fit_window,
    added_tokens,
    special_tokens,
    tokenise,
)
from llmprobe.ground.errors import UserError

CHAT = "{{ bos_token }} {% for m in messages %}{{ m['content'] }} {% endfor %}</s>"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder: Path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder, bos=True, left=True)
    return AutoTokenizer.from_pretrained(folder)


def user(*texts: str) -> list[list[Turn]]:
    """Each text as a user's turn."""
    return [[Turn("user", 0, len(text))] for text in texts]


def words(tokenizer: Any, ids: list[int]) -> list[str]:
    return tokenizer.convert_ids_to_tokens(ids)


def test_the_tokenizers_own_bos_is_there_once(tokenizer: Any) -> None:
    plain, doubled = tokenise(tokenizer, ["red green", "<s> red green"], window=None).ids
    assert words(tokenizer, plain) == ["<s>", "red", "green"]
    assert plain == doubled


def test_a_chat_template_brings_its_own_bos(tokenizer: Any) -> None:
    tokenizer.chat_template = CHAT
    (ids,) = tokenise(tokenizer, ["red"], window=None, turns=user("red")).ids
    tokenizer.chat_template = None
    assert words(tokenizer, ids) == ["<s>", "red", "</s>"]


def test_a_chat_template_that_is_not_there_is_the_users_error(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="no chat template"):
        tokenise(tokenizer, ["red"], window=None, turns=user("red"))


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
    assert words(tokenizer, sorted(special_tokens(tokenizer))) == ["<s>", "</s>", "<pad>"]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=30))
def test_unique_tokens_are_the_distinct_prefixes(ids: list[list[int]]) -> None:
    prefixes = {tuple(t[: i + 1]) for t in ids for i in range(len(t))}
    texts = TokenisedTexts(ids, [[(len(tokens) - 1,)] for tokens in ids])
    assert texts.n_unique_tokens == len(prefixes)
    assert texts.n_tokens == sum(map(len, ids))


def read_words(
    tokenizer: Any, texts: list[str], position: str = "last", **options: Any
) -> list[str]:
    """The tokens whose states would be read; of a mean, the last one."""
    options = {"window": None, "positions": [position]} | options
    tokenised = tokenise(tokenizer, texts, **options)
    for text, places in zip(tokenised.merged(cut=True), tokenised.places, strict=True):
        assert len(text.tokens) == max(place[-1] for place in places) + 1
    read = zip(tokenised.ids, tokenised.places, strict=True)
    return [words(tokenizer, [tokens[place[-1]]])[0] for tokens, (place,) in read]


def part(start: int, stop: int) -> dict[str, Any]:
    """The same part of a text, as a position."""
    return {"position": "span:x", "ranges": {"span:x": [(start, stop)]}}


def test_the_token_that_is_read_is_the_last_one_that_is_run(tokenizer: Any) -> None:
    texts = ["red green", "<s> red green blue", "red"]
    assert read_words(tokenizer, texts) == ["green", "blue", "red"]
    assert read_words(tokenizer, texts, position="first") == ["red", "red", "red"]
    ranges = {"span:x": [(0, 3), (4, 7), (0, 3)]}
    assert read_words(tokenizer, texts, position="span:x", ranges=ranges) == ["red"] * 3


def test_several_positions_are_places_of_one_text(tokenizer: Any) -> None:
    positions = ("last", "first", "mean", "token:1", "token:-2", "mean:x", "first:x", "last:x")
    ranges = {f"{kind}:x": [(4, 13)] for kind in ("mean", "first", "last")}
    options = {"window": None, "positions": positions, "ranges": ranges}
    tokenised = tokenise(tokenizer, ["red green blue one"], **options)
    (text,) = tokenised.whole
    assert words(tokenizer, list(text.tokens)) == ["<s>", "red", "green", "blue", "one"]
    (places,) = tokenised.places
    assert dict(zip(positions, places, strict=True)) == {
        "last": (4,), "first": (1,), "mean": (1, 2, 3, 4), "token:1": (2,), "token:-2": (3,),
        "mean:x": (2, 3), "first:x": (2,), "last:x": (3,),
    }  # fmt: skip
    included = tokenise(tokenizer, ["red green"], window=None, special="include",
                        positions=("first", "mean", "token:-1"))  # fmt: skip
    assert included.places == [[(0,), (0, 1, 2), (2,)]]


def test_a_token_that_a_text_does_not_have_is_the_users_error(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="example 1 has 1 tokens, so none at 'token:-2'"):
        read_words(tokenizer, ["red green", "red"], position="token:-2")


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
    assert read_words(tokenizer, texts, position="mean") == [*last[:2], "two", last[3]]
    first = ["red", "blue", "one" if bos else "<s>", "<unk>"]
    assert read_words(tokenizer, texts, position="first") == first
    options = {"window": 4, "too_long": "cut_left"}
    long = ["one two three four five six"]
    kept = {0: "three", 1: "four", 2: "five"}[bos + eos]
    assert read_words(tokenizer, long, position="first", **options) == [kept]
    assert read_words(tokenizer, long, **options) == ["six"]
    (run,) = tokenise(tokenizer, ["red"], window=None).whole
    assert words(tokenizer, list(run.tokens)) == ["<s>"] * bos + ["red"] + ["</s>"] * eos


def test_a_text_without_tokens_of_its_own_is_the_users_error(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="example 1 gives no tokens: '<s>'"):
        tokenise(tokenizer, ["red", "<s>"], window=None)


def test_the_last_token_of_a_chat_is_the_templates_and_the_first_is_not_bos(tokenizer: Any) -> None:
    tokenizer.chat_template = CHAT
    read = {p: read_words(tokenizer, ["red green"], turns=user("red green"), position=p)
            for p in ("last", "first")}  # fmt: skip
    tokenizer.chat_template = None
    assert read == {"last": ["</s>"], "first": ["red"]}


def test_a_span_is_found_again_in_a_chat(tokenizer: Any) -> None:
    tokenizer.chat_template = CHAT
    turns = user("red green")
    assert read_words(tokenizer, ["red green"], **part(0, 3), turns=turns) == ["red"]
    tokenizer.chat_template = None


def test_a_span_that_no_token_stands_for_is_the_users_error(tokenizer: Any) -> None:
    ranges = {"span:x": [(0, 3), (2, 3)]}
    with pytest.raises(UserError, match=r"example 1: no token stands for 'span:x'"):
        tokenise(tokenizer, ["red", "a  b"], window=None, positions=["span:x"], ranges=ranges)


def test_a_cut_text_keeps_the_token_that_is_read_or_is_refused(tokenizer: Any) -> None:
    text = "one two three four five"
    cut = {"window": 4, "too_long": "cut_left"}
    start = text.index("four")
    assert read_words(tokenizer, [text], **cut, **part(start, start + 4)) == ["four"]
    with pytest.raises(UserError, match="would drop the token that is probed"):
        read_words(tokenizer, [text], **cut, **part(4, 7))


CHATML = "{% for m in messages %}<s> user {{ m['content'] | trim }} </s>{% endfor %}<s> one two"


@pytest.mark.parametrize("text", ["one", "two", "user", " red green\n"])
def test_a_span_in_a_chat_is_the_users_not_the_templates(tokenizer: Any, text: str) -> None:
    tokenizer.chat_template = CHATML
    start, stop = len(text) - len(text.lstrip()), len(text.rstrip())
    options = {"turns": user(text), "window": None, "positions": ["span:x"]}
    ranges = {"span:x": [(start, stop)]}
    (run,) = tokenise(tokenizer, [text], ranges=ranges, **options).merged(cut=True)
    tokenizer.chat_template = None
    # Behind "<s> user", whatever the text is.
    assert len(run.tokens) == 2 + len(text.split())


def test_cutting_away_a_span_at_the_very_beginning_is_refused() -> None:
    def cut(ids: list[int], position: str, place: tuple[int, ...]) -> tuple[int, ...]:
        texts = TokenisedTexts([ids], [[place]])
        fitted = _fit_window(texts, 4, [position], frozenset({1}), "cut_left", "x")
        ((kept,),) = fitted.places
        return tuple(fitted.ids[0][i] for i in kept)

    for position, place in (("span:x", (0,)), ("mean:x", (0, 1)), ("token:0", (0,))):
        with pytest.raises(UserError, match="would drop the token that is probed"):
            cut([5, 6, 7, 8, 9], position, place)
    assert cut([5, 6, 7, 8, 9], "first", (0,)) == (6,)
    assert cut([5, 6, 7, 8, 9], "mean", (0, 1, 2)) == (6, 7)
    assert cut([1, 6, 7, 8, 9], "span:x", (0,)) == (1,)


def test_a_token_that_is_bos_and_unknown_in_one_is_special(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    save_tokenizer(tmp_path, bos=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.unk_token = "<s>"
    assert words(tokenizer, sorted(special_tokens(tokenizer)))[0] == "<s>"


TURNS = (
    "{{ bos_token }}{% for m in messages %} {{ m.role }} {{ m.content | trim }} </s>{% endfor %}"
)


def test_each_turn_is_found_where_the_template_has_put_it(tokenizer: Any) -> None:
    tokenizer.chat_template = TURNS + "{% if add_generation_prompt %} one{% endif %}"
    # What the user says stands in the template, and in what the model says too.
    text = "user two user red two"
    turns = [Turn("user", 0, 4), Turn("two", 5, 8), Turn("user", 9, 17), Turn("assistant", 18, 21)]
    ranges = {f"span:{i}": [(turn.start, turn.stop)] for i, turn in enumerate(turns)}
    options = {"positions": [*ranges, "last"], "ranges": ranges, "turns": [turns], "window": None}
    tokenised = tokenise(tokenizer, [text], **options)
    ids, (places,) = words(tokenizer, tokenised.ids[0]), tokenised.places
    assert [place[0] for place in places] == [2, 5, 9, 12, 13]
    assert ids[-1] == "</s>"
    asked = tokenise(tokenizer, [text], chat={"add_generation_prompt": True}, **options)
    assert words(tokenizer, asked.ids[0]) == [*ids, "one"]
    tokenizer.chat_template = None


def test_a_turn_that_the_template_leaves_out_or_refuses_is_named(tokenizer: Any) -> None:
    turns = [[Turn("user", 0, 3)], [Turn("critic", 0, 3), Turn("user", 4, 7)]]
    only_user = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    refuses = "{% for m in messages %}{% if m.role == 'critic' %}{{ raise_exception('no critic') }}"
    for template, message in (
        (only_user, "x: example 1: .* leaves out, or changes, what 'critic' says: 'red'"),
        (refuses + "{% endif %}{{ m.content }}{% endfor %}", "x: example 1: .*no critic"),
    ):
        tokenizer.chat_template = template
        with pytest.raises(UserError, match=message):
            tokenise(tokenizer, ["red", "red two"], window=None, turns=turns, where="x")
    tokenizer.chat_template = None
