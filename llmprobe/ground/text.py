"""Words and names as text."""

from __future__ import annotations


def elide(text: str, width: int, ellipsis: str = "…") -> str:
    """``text`` in at most ``width`` characters, cut in the middle; control characters become ``?``.

    Names share their beginnings (``meta-llama/…``) and differ at their ends, so both ends stay.
    """
    text = "".join(character if character.isprintable() else "?" for character in str(text))
    if len(text) <= width:
        return text
    kept = width - len(ellipsis)
    return text[: (kept + 1) // 2] + ellipsis + text[len(text) - kept // 2 :]
