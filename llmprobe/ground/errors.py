"""Errors of the user's input, each said in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """The user's input is wrong: the message names what, where, and what would be right.

    The command line prints the message without a traceback and exits with code 2.
    """


class NotOnDiskError(UserError):
    """A known model or dataset is not on this disk, and may not or cannot be downloaded."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``"did you mean 'folds'?"``, or the list of what is known when nothing is close."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
