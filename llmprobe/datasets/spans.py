"""Where the values of fields, turns and words stand in the texts."""

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


def ranges(
    position: str,
    texts: Sequence[str],
    spans: Spans,
    fields: pd.DataFrame,
    *,
    turns: Sequence[Sequence[Turn]] | None = None,
    words: Sequence[tuple[int, int]] | None = None,
    occurrence: str | None = None,
    where: str,
) -> list[tuple[int, int]] | None:
    """Return the part of each text that a position refers to; None for whole texts. [n]

    Parameters
    ----------
    position
        As ``ExtractConfig.position`` has it.
    occurrence
        ``"first"`` or ``"last"``: which place is meant if a field that is not in the template
        occurs in a text several times.

    Raises
    ------
    UserError
        There is no such field or role, or a text has none of it, or several places; ``where``
        begins the message.
    """
    kind, _, name = position.partition(":")
    where = f"{where}: position {position!r}"
    if position == "tokens" and words is not None:
        raise UserError(
            f"{where}: labels are of words; take mean, first or last of a word's tokens"
        )
    if kind in ("token", "tokens"):
        return None
    if not name:
        return None if words is None else list(words)
    roles = {turn.role for said in turns or () for turn in said}
    if kind == "turn" or (name in roles and name not in spans):
        if turns is None:
            raise UserError(f"{where}: its texts are no chats, so there is no turn")
        return turn_ranges(texts, turns, name, where)
    if turns is not None and name not in {*spans, *fields.columns}:
        turns_of = ", ".join(f"turn:{role}" for role in sorted(roles))
        raise UserError(f"{where}: no such field; its chats have {turns_of}, and {kind}:ROLE reads "
                        "the same turn")  # fmt: skip
    return field_ranges(texts, spans, fields, name, where, occurrence)


def field_ranges(
    texts: Sequence[str],
    spans: Spans,
    fields: pd.DataFrame,
    name: str,
    where: str,
    occurrence: str | None = None,
) -> list[tuple[int, int]]:
    """Return where the value of a field stands in each text, without spaces around it. [n]

    A field that is not in ``spans`` is searched for in the text: as a whole word if it occurs as
    one.

    Parameters
    ----------
    occurrence
        ``"first"`` or ``"last"``: which place of several is meant.

    Raises
    ------
    UserError
        There is no such field, a text has nothing of it, or has it in several places of which none
        is said to be meant; ``where`` begins the message.
    """
    spans = spans or {"text": [(0, len(text)) for text in texts]}
    if name in spans:
        ranges = list(spans[name])
    elif name in fields.columns:
        values = fields[name].astype(str)
        ranges = [
            _place(text, value, occurrence, f"{where}: example {row}")
            for row, (text, value) in enumerate(zip(texts, values, strict=True))
        ]
    else:
        known = [*spans, *map(str, fields.columns)]
        raise UserError(f"{where}: no such field; {suggestion(name, known)}")
    return [
        _stripped(text, *place, f"{where}: example {row}")
        for row, (text, place) in enumerate(zip(texts, ranges, strict=True))
    ]


def turn_ranges(
    texts: Sequence[str], turns: Sequence[Sequence[Turn]], role: str, where: str
) -> list[tuple[int, int]]:
    """Return where the last turn of a role stands in the text of each chat. [n]

    Raises
    ------
    UserError
        A chat has no such turn, or one that is empty; ``where`` begins the message.
    """
    ranges = []
    for row, (text, said) in enumerate(zip(texts, turns, strict=True)):
        own = [turn for turn in said if turn.role == role]
        if not own:
            roles = ", ".join(dict.fromkeys(turn.role for turn in said))
            raise UserError(f"{where}: example {row} has no turn of {role!r}; it has {roles}")
        ranges.append(_stripped(text, own[-1].start, own[-1].stop, f"{where}: example {row}"))
    return ranges


def _place(text: str, value: str, occurrence: str | None, where: str) -> tuple[int, int]:
    """Return where a value stands in a text."""
    starts = [word.start() for word in re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", text)]
    starts = starts or [place.start() for place in re.finditer(re.escape(value), text)]
    if not starts or not value:
        raise UserError(f"{where} does not contain {value!r}: {text!r:.80}")
    if len(starts) > 1 and occurrence is None:
        raise UserError(
            f"{where} contains {value!r} {len(starts)} times; say which is meant with "
            f"extract.occurrence: first or last: {text!r:.80}"
        )
    start = starts[0 if occurrence == "first" else -1]
    return start, start + len(value)


def _stripped(text: str, start: int, stop: int, where: str) -> tuple[int, int]:
    """Return a part of a text without the spaces around it."""
    part = text[start:stop]
    if not part.strip():
        raise UserError(f"{where} has nothing there")
    return start + len(part) - len(part.lstrip()), stop - len(part) + len(part.rstrip())
