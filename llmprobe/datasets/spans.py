"""Where the values of fields end in the texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from llmprobe.ground.errors import UserError, suggestion

Spans = dict[str, list[tuple[int, int]]]
"""For each field of a template, where its value stands in each text: first character, and the one
after the last. Each [n]"""


class Turn(NamedTuple):
    """What one participant of a chat says: ``text[start:stop]`` of the example's text."""

    role: str
    """Who speaks, in the words of the chat template: system, user, assistant, …"""
    start: int
    stop: int


def span_ends(
    texts: Sequence[str], spans: Spans, fields: pd.DataFrame, name: str, where: str
) -> list[int]:
    """Return, for each text, the place of the last character of what filled a field. [n]

    A field that is not in ``spans`` is looked for in the text: the last place where its value
    stands, as a word of its own if it does so anywhere.

    Raises
    ------
    UserError
        There is no such field, or a text has nothing of it; ``where`` begins the message.
    """
    spans = spans or {"text": [(0, len(text)) for text in texts]}
    if name in spans:
        until = [text[:stop].rstrip() for text, (_, stop) in zip(texts, spans[name], strict=True)]
        starts = [start for start, _ in spans[name]]
    elif name in fields.columns:
        until, starts = [], []
        for row, (text, value) in enumerate(zip(texts, fields[name], strict=True)):
            words = re.finditer(rf"(?<!\w){re.escape(str(value))}(?!\w)", text)
            start = max((word.start() for word in words), default=text.rfind(str(value)))
            if start < 0 or not str(value):
                raise UserError(
                    f"{where}: example {row} does not contain {str(value)!r}: {text!r:.80}"
                )
            until.append(text[: start + len(str(value))].rstrip())
            starts.append(start)
    else:
        known = [*spans, *map(str, fields.columns)]
        raise UserError(f"{where}: no such field; {suggestion(name, known)}")
    for row, (text, start) in enumerate(zip(until, starts, strict=True)):
        if len(text) <= start:
            raise UserError(f"{where}: example {row} has nothing there")
    return [len(text) - 1 for text in until]
