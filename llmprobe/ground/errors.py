"""What a user can get wrong, said in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """The user's input is wrong: the message names what, where, and what would be right.

    The command line prints the message without a traceback and exits with code 2.
    """


class NotOnDiskError(UserError):
    """Something that is known but would have to be downloaded, and was not to be or could not."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """``"did you mean 'folds'?"``, or the list of what is known when nothing is close."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
