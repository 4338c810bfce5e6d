"""Chats: a row is a list of messages, or a prompt with its response."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from llmprobe.config.schema import DatasetConfig
from llmprobe.datasets.cells import (
    LONGEST,
    Rows,
    cell_error,
    check_cells,
    find_column,
    label_columns,
    list_in,
    too_long,
    usual_columns,
)
from llmprobe.datasets.spans import Turn
from llmprobe.ground.errors import UserError

BETWEEN = "\n\n"
"""What separates the messages in the text of a chat; no model reads it."""

_ROLES = {"human": "user", "gpt": "assistant"}
"""Roles of other programs (ShareGPT), and what chat templates call them."""

_SAID_ELSEWHERE = ("tool_calls", "function_call", "reasoning_content", "thinking")
"""Keys of a message that hold more than its content; messages with them are refused."""

_COLUMNS = {"system": "system", "prompt": "user", "response": "assistant"}
"""Columns of a chat with one prompt, in order, and the role of each."""

Messages = list[tuple[str, str]]
"""Role and content of each message."""


def is_chat(config: DatasetConfig, columns: Sequence[str], where: str) -> bool:
    """Whether texts are chats, by the config or, if it says nothing, by the columns' names."""
    if config.messages or config.prompt:
        return True
    if config.text or not (messages := usual_columns("messages", columns)):
        return False
    if texts := usual_columns("text", columns):
        raise UserError(f"{where}: columns {texts[0]!r} and {messages[0]!r} could each be what is "
                        f"read; say `text: {texts[0]}` or `messages: {messages[0]}`")  # fmt: skip
    return True


def rows_of_chats(table: pd.DataFrame, config: DatasetConfig, where: str) -> Rows:
    """Return a text for each chat, the contents of its messages, and where each turn stands.

    Raises
    ------
    UserError
        A column is missing; a cell is no list of messages with text in them.
    """
    read, used = read_chats(table, config, where)
    labels = label_columns(config.label, list(table.columns), where)
    return Rows(read, table[labels], table.drop(columns=[*used, *labels]))


def read_chats(
    table: pd.DataFrame, config: DatasetConfig, where: str
) -> tuple[pd.DataFrame, list[str]]:
    """Return the text, ``turns`` and ``span NAME`` of each chat, and the columns that they are in.

    Raises
    ------
    UserError
        As for ``rows_of_chats``.
    """
    columns = list(table.columns)
    if config.prompt:
        keys = {key: name for key in _COLUMNS if (name := getattr(config, key)) is not None}
        used = [find_column(key, name, columns, where) for key, name in keys.items()]
        chats = _prompts(table, keys, where)
    else:
        keys = {}
        used = [find_column("messages", config.messages, columns, where)]
        chats = [
            list(_messages(cell, where, row, used[0])) for row, cell in enumerate(table[used[0]])
        ]
    texts, turns = [], []
    for row, messages in enumerate(chats):
        if not any(content.strip() for _, content in messages):
            raise cell_error(where, row, used[0], "a chat without any text")
        turns.append(_turns(messages))
        texts.append(BETWEEN.join(content for _, content in messages))
        if len(texts[-1]) > LONGEST:
            raise too_long(texts[-1], where, row, used[0])
    read = pd.DataFrame({"text": texts, "turns": turns}, index=table.index)
    for key in keys.keys() - {"system"}:  # A row may lack a system message.
        of_role = [{turn.role: turn for turn in said} for said in turns]
        read[f"span {key}"] = [tuple(said[_COLUMNS[key]][1:]) for said in of_role]
    return read, used


def _prompts(table: pd.DataFrame, keys: dict[str, str], where: str) -> list[Messages]:
    """Return the messages of each row, one from each column."""
    for key, column in keys.items():
        if key != "system":
            check_cells(table[column], column, where)
    return [
        [(_COLUMNS[key], str(cell)) for key, cell in zip(keys, cells, strict=True)
         if not pd.isna(cell) and str(cell).strip()]
        for cells in table[[*keys.values()]].itertuples(index=False)
    ]  # fmt: skip


def _messages(cell: Any, where: str, row: int, column: str) -> Iterator[tuple[str, str]]:
    """Yield role and content of each message in a cell."""
    messages = list_in(cell)
    if not messages or not all(isinstance(message, dict) for message in messages):
        form = '[{"role": …, "content": …}]'
        raise cell_error(where, row, column, f"no list of messages, {form}: {cell!r:.40}")
    for number, message in enumerate(messages, start=1):
        role = message.get("role", message.get("from"))
        content = _content(message.get("content", message.get("value")))
        said = [key for key in _SAID_ELSEWHERE if message.get(key)]
        if not isinstance(role, str) or not role.strip():
            problem = f"no role but {role!r:.40}"
        elif said:
            problem = f"has {said[0]}, which is not read; only text in `content` is"
        elif content is None:
            problem = "its content is no text"
        else:
            yield _ROLES.get(role, role), content
            continue
        raise cell_error(where, row, column, f"message {number}: {problem}")


def _content(content: Any) -> str | None:
    """Return the text of a message, also of one in parts; None if anything is not text."""
    if isinstance(content, list) and content:
        texts = [
            part["text"]
            for part in content
            if isinstance(part, dict) and isinstance(part.get("text"), str)
        ]
        return "".join(texts) if len(texts) == len(content) else None
    return content if isinstance(content, str) else None


def _turns(messages: Messages) -> list[Turn]:
    """Return where the content of each message stands in the text of all."""
    turns, start = [], 0
    for role, content in messages:
        turns.append(Turn(role, start, start + len(content)))
        start += len(content) + len(BETWEEN)
    return turns
