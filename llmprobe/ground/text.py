"""Words and names as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def elide(text: str, width: int, ellipsis: str = "…") -> str:
    """Return ``text`` in at most ``width`` characters, cut in the middle.

    Names share their beginnings (``meta-llama/…``) and differ at their ends, so both ends stay.
    Control characters become ``?``.
    """
    text = "".join(character if character.isprintable() else "?" for character in str(text))
    if len(text) <= width:
        return text
    kept = width - len(ellipsis)
    return text[: (kept + 1) // 2] + ellipsis + text[len(text) - kept // 2 :]


def listed(words: Sequence[str]) -> str:
    """Return words as they stand in a sentence: ``a``, ``a and b``, ``a, b and c``."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings: ``{"a": {"b": 2}}`` gives ``("a.b", 2)``."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
