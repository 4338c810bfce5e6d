"""Words and names as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from typing import Any
from unicodedata import category


def printable(text: object, kept: str = "") -> str:
    """Return a text that is safe for a terminal, with ``?`` for each invisible character.

    Such characters could move the cursor, change colours, or reverse the direction of writing.
    Spaces of any width stay.

    Parameters
    ----------
    kept
        Characters that stay too, such as line breaks.
    """
    return "".join(
        c if c.isprintable() or c in kept or category(c) == "Zs" else "?" for c in str(text)
    )


def elide(text: str, width: int, ellipsis: str = "…") -> str:
    """Return ``text`` in at most ``width`` printable characters, cut in the middle.

    Names share their beginnings (``meta-llama/…``) and differ at their ends, so both ends stay.
    """
    text = printable(text)
    if len(text) <= width:
        return text
    kept = width - len(ellipsis)
    return text[: (kept + 1) // 2] + ellipsis + text[len(text) - kept // 2 :]


def capitalised(text: str) -> str:
    """Return a text with a capital as its first letter, the others as they are."""
    return text[:1].upper() + text[1:]


def listed(words: Sequence[str]) -> str:
    """Join words as in a sentence: ``a``, ``a and b``, ``a, b and c``."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def shortened(lines: Sequence[str], most: int = 10) -> list[str]:
    """Return at most ``most`` lines, and after them how many more there are."""
    more = [f"and {len(lines) - most:,} more"] if len(lines) > most else []
    return [*lines[:most], *more]


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings: ``{"a": {"b": 2}}`` gives ``("a.b", 2)``."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def number_text(value: float | None, form: str = ".2f") -> str:
    """Return a number in a format, a dash where there is none."""
    return "–" if value is None or isnan(value) else format(value, form)


def interval_text(value: float, low: float, high: float, form: str = ".2f") -> str:
    """Return ``0.87 [0.75, 0.94]``, or the number alone where an end of the interval is NaN."""
    interval = "" if isnan(low) else f" [{low:{form}}, {high:{form}}]"
    return number_text(value, form) + interval


def signed_text(value: float, low: float, high: float) -> str:
    """Return a difference, ``+0.19 [+0.16, +0.22]``, with no interval where its ends are equal."""
    return interval_text(value, float("nan") if low == high else low, high, "+.2f")


def gain_text(value: float, low: float, high: float) -> str:
    """Return a gain over a rival from the rival's side: ``0.33 [0.30, 0.36] less``, or ``more``."""
    if value < 0:
        value, low, high, word = -value, -high, -low, "more"
    else:
        word = "less"
    return f"{interval_text(value, float('nan') if low == high else low, high)} {word}"


def equals_text(p: float) -> str:
    """Return a p-value with its relation sign: ``= 0.010`` or ``< 0.001``."""
    return p_text(p) if p < 0.001 else f"= {p_text(p)}"


def p_text(value: float | None) -> str:
    """Return a p-value, a dash where there is none."""
    return "< 0.001" if value is not None and value < 0.001 else number_text(value, ".3f")
