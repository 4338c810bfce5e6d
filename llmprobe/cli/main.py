"""The command line: its parser, its exit codes, and its one-line errors."""

from __future__ import annotations

import argparse
import errno
import io
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import llmprobe
from llmprobe.cli.command import RunCommand, commands
from llmprobe.ground.errors import UserError, first_line
from llmprobe.ground.files import disk_is_full
from llmprobe.ground.text import printable

log = logging.getLogger("llmprobe")

_NO_ACCESS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG,
    errno.ELOOP,
)  # fmt: skip
_INTERRUPTED = "interrupted; what was finished is kept, and the same command goes on from there"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code.

    0: done; 2: the input is wrong; 130: interrupted; 1: anything else.
    """
    # Set before torch is imported: its threads then sleep instead of spinning while they wait for
    # each other. This costs nothing on an idle machine and is several times faster on a busy one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Our messages from INFO on; those of other libraries only from WARNING on.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_PrintableFormatter())
    handler.addFilter(_not_said_before())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    log.setLevel(logging.INFO)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal lacks becomes "?", not an error.
        sys.stdout.reconfigure(errors="replace")
    with _one_interrupt() as interrupts:
        try:
            options = parser().parse_args(arguments)
            command: RunCommand = options.command
            command(options)
            sys.stdout.flush()
        except BaseException as error:
            # After Ctrl-C any error can come up; it does not mean that the input is wrong.
            code, message = (130, _INTERRUPTED) if interrupts else _ending(error)
            if message:
                print(printable(f"llmprobe: {message}", kept="\n"), file=sys.stderr)
            return code
    return 0


class _PrintableFormatter(logging.Formatter):
    """A formatter that makes messages safe for a terminal: names in them can be a stranger's."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), kept="\n\t")


def _not_said_before() -> Callable[[logging.LogRecord], bool]:
    """Return a filter that drops repeated warnings, which several positions can give alike."""
    given: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        repeated = record.levelno >= logging.WARNING and message in given
        given.add(message)
        return not repeated

    return is_new


@contextmanager
def _one_interrupt() -> Iterator[list[float]]:
    """Raise ``KeyboardInterrupt`` at Ctrl-C, but not a second time within a second.

    A second signal comes from a bouncing key, or from a launcher that passes on what the terminal
    sent already. It would interrupt the saving of finished work. Yields a list of the times at
    which ``KeyboardInterrupt`` was raised.
    """
    raised: list[float] = []

    def interrupt(*_: object) -> None:
        if not raised or time.monotonic() - raised[-1] > 1:
            raised.append(time.monotonic())
            raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield raised  # The signal is ignored, as under nohup, or has another handler.
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield raised
    finally:
        # A second Ctrl-C could interrupt the end of Python itself.
        after = signal.SIG_IGN if raised else signal.default_int_handler
        signal.signal(signal.SIGINT, after)


def _ending(error: BaseException) -> tuple[int, str]:
    """Return exit code and message for an error; raise it again if it is a bug of llmprobe."""
    if isinstance(error, UserError):
        return 2, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, _INTERRUPTED
    if isinstance(error, BrokenPipeError):
        # The reader, such as `head`, is gone: send what is still in the buffer to /dev/null.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1, ""
    if isinstance(error, UnicodeEncodeError):
        return 2, f"{error.object!a:.80} is not valid text: it has half of a surrogate pair"
    if isinstance(error, MemoryError):
        return 1, f"out of memory: {first_line(error)}; what was finished is kept"
    if disk_is_full(error):
        reason = getattr(error, "strerror", None) or str(error)
        return 1, f"the disk is full: {reason}{_where(error)}; what was finished is kept"
    if isinstance(error, OSError) and error.errno in _NO_ACCESS:
        return 2, f"{error.strerror}{_where(error)}"
    raise error


def _where(error: BaseException) -> str:
    file = getattr(error, "filename", None)
    return f" ({file})" if file else ""


def print_help(name: str | None = None) -> None:
    """Print the help of a command, or of the program."""
    parser().parse_args([*([] if name is None else [name]), "--help"])


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llmprobe",
        description="Shows at which layer of a language model a concept becomes linearly readable.",
    )
    parser.add_argument("--version", action="version", version=llmprobe.__version__)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in commands.items():
        summary = command.summary.replace("%", "%%")
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        subparser.set_defaults(command=command.run)
        command.add_arguments(subparser)
    return parser
