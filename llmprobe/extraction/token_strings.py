"""Tokens as text that a reader can see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_HALF = "\ufffd"
"""What decoding gives for the bytes of an incomplete character."""


def token_strings(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    """Return the text that each token adds to those before it; joined, the whole text. [n]

    Where a character takes several tokens, the last one has it and the others have ``�``.
    Special tokens are written out.
    """

    def decoded(start: int, stop: int) -> str:
        text: str = tokenizer.decode(
            list(tokens[start:stop]), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    # A token decoded alone may lose the space before it, so each is decoded together with the one
    # before, which must not end inside a character.
    strings: list[str] = []
    before = whole = 0
    for stop in range(1, len(tokens) + 1):
        known, text = decoded(before, whole), decoded(before, stop)
        if text.endswith(_HALF) and stop < len(tokens):
            strings.append(_HALF)
            continue
        # Half characters that this token does not complete are in the strings of earlier ones.
        strings.append(text[len(known) :].lstrip(_HALF) or text[len(known) :])
        before, whole = whole, stop
    return strings
