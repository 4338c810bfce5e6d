"""Chats as the model's own template writes them, and where each turn stands in the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llmprobe.datasets.spans import Turn
from llmprobe.ground.errors import UserError, foreign_errors

_CONTENT = "THE TEXT OF TURN {}"
"""Placeholder for what a participant says, to see what the template writes around it."""


class Chat(NamedTuple):
    """One chat as a model reads it."""

    text: str
    """What the template makes of it."""
    shifts: list[int]
    """How many characters the content of each turn has moved, from its place in the example's text
    to that in ``text``. [turns]"""

    def moved(self, turns: Sequence[Turn], start: int, stop: int) -> tuple[int, int] | None:
        """Return where a part of the example's text stands in the chat; None if in no turn."""
        for turn, shift in zip(turns, self.shifts, strict=True):
            if turn.start <= start and stop <= turn.stop:
                return start + shift, stop + shift
        return None


def rendered(
    tokenizer: Any,
    texts: Sequence[str],
    turns: Sequence[Sequence[Turn]],
    options: Mapping[str, Any],
    where: str,
) -> list[Chat]:
    """Put chats into a tokenizer's chat template.

    Parameters
    ----------
    turns
        The turns of each text. [texts][turns]
    options
        Arguments of the template. Unless ``add_generation_prompt`` is among them, a chat that does
        not end with the model's own turn is continued to where its answer would begin.

    Raises
    ------
    UserError
        The tokenizer has no chat template, or one that fails or leaves out what somebody says.
    """
    if not tokenizer.chat_template:
        raise UserError(
            f"{where}: this model's tokenizer has no chat template, which chats and "
            "extract.chat_template need; take a model that was made for chats, or make one text of "
            "each with `template`"
        )
    around: dict[tuple[str, ...], list[str] | None] = {}

    def apply(roles: Sequence[str], contents: Sequence[str]) -> str:
        messages = [{"role": role, "content": content}
                    for role, content in zip(roles, contents, strict=True)]  # fmt: skip
        arguments = {"add_generation_prompt": roles[-1] != "assistant", **options}
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, **arguments)
        return text

    chats = []
    for row, (text, said) in enumerate(zip(texts, turns, strict=True)):
        roles = tuple(turn.role for turn in said)
        example = f"{where}: example {row}"
        with foreign_errors(f"{example}: this model's chat template cannot be used"):
            chat = apply(roles, [text[turn.start : turn.stop] for turn in said])
            if roles not in around:
                contents = [_CONTENT.format(i) for i in range(len(said))]
                around[roles] = _around(apply(roles, contents), len(said))
        chats.append(Chat(chat, _shifts(chat, text, said, around[roles], example)))
    return chats


def _around(chat: str, n: int) -> list[str] | None:
    """Return what a template writes before each of ``n`` contents, None where one is left out."""
    before, end = [], 0
    for i in range(n):
        content = _CONTENT.format(i)
        start = chat.find(content, end)
        if start < 0:
            return None
        before.append(chat[end:start])
        end = start + len(content)
    return before


def _shifts(
    chat: str, text: str, said: Sequence[Turn], around: Sequence[str] | None, where: str
) -> list[int]:
    """Return how far each turn has moved from a text to its chat, where it may be stripped."""
    shifts, end = [], 0
    for i, turn in enumerate(said):
        content = text[turn.start : turn.stop]
        spaces = len(content) - len(content.lstrip())
        # The template's own words may contain what is said, so the search starts after them.
        known = around is not None and chat.startswith(around[i], end)
        behind = end + len(around[i]) if around is not None and known else end
        place = chat.find(content.strip(), behind)
        if place < 0:
            raise UserError(
                f"{where}: this model's chat template leaves out, or changes, what {turn.role!r} "
                f"says: {content!r:.80}"
            )
        shifts.append(place - spaces - turn.start)
        end = place + len(content.strip())
    return shifts
