"""Errors of the user's input, each said in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from llmprobe.ground.files import disk_is_full

_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
"""Parts of torch's messages when memory runs out."""

_LONGEST_REASON = 300
"""The most characters of another library's message that one of ours quotes."""


class UserError(Exception):
    """The user's input is wrong: the message names what, where, and what would be right.

    The command line prints the message without a traceback and exits with code 2.
    """


class NotOnDiskError(UserError):
    """A known model or dataset is not on this disk, and may not or cannot be downloaded."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if that is empty.

    A line that ends with a colon is joined with the next one, and a long line is cut.
    """
    line, *more = (str(error).strip() or type(error).__name__).splitlines()
    if more and line.endswith(":"):
        line = f"{line} {more[0].strip()}"
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}…"


def out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python could not get the memory that it asked for, on any device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


@contextmanager
def foreign_errors(
    problem: str, unless: Callable[[BaseException], bool] = disk_is_full
) -> Iterator[None]:
    """Turn whatever a library raises on damaged or hostile input into a ``UserError``.

    No library promises what it raises: besides ``OSError`` and ``ValueError`` there are errors of
    its own, of Python's arithmetic and attributes, and panics of Rust, which are no ``Exception``.

    Parameters
    ----------
    problem
        The beginning of the message: the name of what was read, and what could not be done with it.
    unless
        Tells which errors are not the input's fault; these are raised unchanged.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        if unless(error):
            raise
        raise UserError(f"{problem}: {first_line(error)}") from error


MOST_KNOWN = 100
"""The most names that a message lists: all datasets and models, but not each of 180 colour maps."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``"did you mean 'folds'?"``, or the list of what is known when nothing is close."""
    names = sorted(known)
    by_small_letters = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), by_small_letters, n=1, cutoff=0.6)
    if close:
        return f"did you mean {by_small_letters[close[0]]!r}?"
    more = f", … ({len(names)} in all)" if len(names) > MOST_KNOWN else ""
    return f"known: {', '.join(names[:MOST_KNOWN])}{more}"
