"""``llmprobe cache ls`` and ``llmprobe cache prune``: list the cache, and remove parts of it."""

from __future__ import annotations

import argparse
import re

from llmprobe.cli.command import command
from llmprobe.cli.output import say
from llmprobe.ground.errors import UserError, suggestion
from llmprobe.ground.files import cache_folder, size

_UNITS = {"h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ls|prune", required=True)
    actions.add_parser("ls", help="list models, activations, conversions: size, last use, purpose")
    prune = actions.add_parser(
        "prune", help="remove what all given options match; never what a running command uses"
    )
    prune.add_argument("--older", metavar="AGE", help="not used for this time: 12h, 30d, 8w")
    prune.add_argument("--model", metavar="NAME", help="weights and activations of this model")
    prune.add_argument(
        "--outdated", action="store_true", help="what this version cannot use, and leftovers"
    )
    prune.add_argument("--dry-run", action="store_true", help="list what would be removed")


@command("cache", "List what fills the cache folder (ls), or remove some of it (prune).",
         _add_arguments)  # fmt: skip
def cache(options: argparse.Namespace) -> None:
    """Print what the cache holds, or remove what the options match."""
    if options.action == "ls":
        _list()
    else:
        _prune(options)


def _list() -> None:
    from llmprobe.runs.cache import contents

    total = 0
    for entry in contents():
        n_bytes = entry.n_bytes
        if not n_bytes:  # A failed extraction; `prune --outdated` removes it.
            continue
        place = f"; lies in {entry.path.resolve()}" if entry.is_elsewhere else ""
        note = "  outdated" if entry.outdated else ""
        say(f"{entry.kind:12} {size(n_bytes):>9}  {_words(entry.age):>4}  {entry.name}  "
            f"({entry.what}{place}){note}")  # fmt: skip
        total += n_bytes
    say(f"\n{size(total)} in {cache_folder()}; the third column is the time since the last use")
    say("Models of the Hugging Face Hub lie in its own cache: `hf cache ls`, `hf cache prune`")


def _prune(options: argparse.Namespace) -> None:
    from llmprobe.runs.cache import contents, remove, used_by_others

    if not (options.older or options.model or options.outdated):
        raise UserError("cache prune: say what to remove: --older 30d, --model NAME, --outdated")
    seconds = _seconds(options.older) if options.older else 0.0
    entries = [entry for entry in contents() if entry.kind != "dataset"]
    if options.model is not None:
        known = {entry.model for entry in entries if entry.model}
        if options.model not in known:
            raise UserError(f"--model {options.model!r}: not in the cache; "
                            f"{suggestion(options.model, known)}")  # fmt: skip
        entries = [entry for entry in entries if entry.model == options.model]
    freed = 0
    for entry in entries:
        if entry.age < seconds or (options.outdated and not entry.outdated):
            continue
        n_bytes, gone = entry.n_bytes, not options.dry_run
        if entry.is_elsewhere or entry.path.is_symlink():
            said, gone = f"kept, since a link leads to {entry.path.resolve()}", False
        elif not (remove(entry) if gone else not used_by_others(entry)):
            said, gone = "kept, since a running command uses it", False
        else:
            said = "would be removed" if options.dry_run else "removed"
            freed += n_bytes
        say(f"{entry.kind:12} {size(n_bytes):>9}  {entry.name}  {said}")
    say(f"{size(freed)} {'would be freed' if options.dry_run else 'freed'} in {cache_folder()}")


def _seconds(age: str) -> float:
    """Return an age in seconds; raise ``UserError`` if it is not one."""
    match = re.fullmatch(r"(\d{1,6})([hdw])", age)
    if match is None:
        raise UserError(f"--older {age!r}: should be a number and h, d or w, as in 30d")
    return float(int(match[1]) * _UNITS[match[2]])


def _words(seconds: float) -> str:
    """Return an age in its largest unit: ``3d``."""
    unit = next((unit for unit in ("w", "d") if seconds >= _UNITS[unit]), "h")
    return f"{seconds / _UNITS[unit]:.0f}{unit}"
