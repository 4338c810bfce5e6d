"""The command line: its parser, exit codes and errors in one line."""

from __future__ import annotations

import argparse
import errno
import io
import logging
import os
import sys
from collections.abc import Sequence

import llmprobe
from llmprobe.cli.command import RunCommand, commands
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import disk_is_full

log = logging.getLogger("llmprobe")

_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code.

    0: done; 2: the input is wrong; 130: interrupted; 1: anything else.
    """
    # Before torch loads: its threads then sleep while they wait for each other instead of spinning,
    # which costs nothing on an idle machine and is several times faster on a busy one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Ours from INFO; other libraries only when something is wrong.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal lacks becomes "?", not an error.
        sys.stdout.reconfigure(errors="replace")
    command: RunCommand = options.command
    try:
        command(options)
        sys.stdout.flush()
    except UserError as error:
        return _fail(2, str(error))
    except KeyboardInterrupt:
        return _fail(130, "interrupted; what was finished is kept, and the same command goes on "
                          "from there")  # fmt: skip
    except BrokenPipeError:
        # The reader, such as `head`, has gone; what is still in the buffer has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if disk_is_full(error):
            reason = getattr(error, "strerror", None) or str(error)
            return _fail(1, f"the disk is full: {reason}{_where(error)}; what was finished is kept")
        if isinstance(error, OSError) and error.errno in _NO_ACCESS:
            return _fail(2, f"{error.strerror}{_where(error)}")
        raise
    return 0


def _fail(code: int, message: str) -> int:
    print(f"llmprobe: {message}", file=sys.stderr)
    return code


def _where(error: Exception) -> str:
    file = getattr(error, "filename", None)
    return f" ({file})" if file else ""


def _parser() -> argparse.ArgumentParser:
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
