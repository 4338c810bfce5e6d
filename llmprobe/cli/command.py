"""The registry of commands, and the options that several of them share.

    @command("greet", "Say hello.", add_arguments)
    def greet(options: argparse.Namespace) -> None: ...

registers a command, in a module of this package or of the entry point group ``llmprobe.plugins``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmprobe.cli.output import say
from llmprobe.ground.memory_cycles import no_search_for_garbage
from llmprobe.ground.registry import Registry

if TYPE_CHECKING:
    from llmprobe.runs.pipeline import Run

AddArguments = Callable[[argparse.ArgumentParser], None]
RunCommand = Callable[[argparse.Namespace], None]


@dataclass(frozen=True)
class Command:
    """A command of the command line."""

    summary: str
    """One sentence for ``--help``."""
    add_arguments: AddArguments
    """The function that adds the command's arguments to its parser."""
    run: RunCommand
    """The function that does the work; it raises ``UserError`` if the user's input is wrong."""


_ORDER = (
    "run extract probe transfer intervene validate sanity answer trace score verify export report "
    "figure compare check path cache ls show help"
)

commands: Registry[Command] = Registry(
    "command", homes=[*(f"llmprobe.cli.{name}" for name in _ORDER.split()), "llmprobe.cli"]
)
"""All commands by name, in the order of ``--help``."""


def command(
    name: str, summary: str, add_arguments: AddArguments | None = None
) -> Callable[[RunCommand], RunCommand]:
    """Return a decorator that registers a function as ``llmprobe NAME``.

    The function takes the parsed options. Its module should import torch and other heavy packages
    inside functions, so that ``llmprobe --help`` stays quick.

    Parameters
    ----------
    summary
        One sentence for ``--help``.
    add_arguments
        A function that adds the arguments to the command's ``argparse.ArgumentParser``; by default
        there are none.

    Raises
    ------
    UserError
        There is another command of that name.
    """

    def register(run: RunCommand) -> RunCommand:
        commands.add(name, Command(summary, add_arguments or (lambda _: None), run))
        return run

    return register


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the commands that take a config file."""
    parser.add_argument(
        "config", metavar="CONFIG", help="a YAML file; or, with --model, a dataset such as my.csv"
    )
    parser.add_argument(
        "--model", action="append", default=[], dest="models",
        help="a model to probe on a dataset; repeatable",
    )  # fmt: skip
    parser.add_argument("--text", metavar="COLUMN", help="the texts of a dataset")
    parser.add_argument(
        "--label", action="append", metavar="COLUMN", help="the labels of a dataset; repeatable"
    )
    parser.add_argument("--group", metavar="COLUMN", help="the groups of a dataset")
    add_out(parser, "runs/<name>")
    add_set(parser, "a key", "probe.folds=10 --set models.0.dtype=float32")
    parser.add_argument("--limit", type=int, metavar="N", help="the most examples of each dataset")
    add_include(parser)
    parser.add_argument(
        "--engine", metavar="KIND",
        help="where the work is done: local, slurm or dask (docs/cluster.md)",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="only estimate tokens, disk and time"
    )


def add_out(parser: argparse.ArgumentParser, default: str) -> None:
    """Add ``--out DIR``."""
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"default: {default}")


def add_set(parser: argparse.ArgumentParser, what: str, example: str) -> None:
    """Add ``--set KEY=VALUE``, which can be repeated."""
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE",
        help=f"{what}, e.g. --set {example}",
    )  # fmt: skip


def add_include(parser: argparse.ArgumentParser) -> None:
    """Add ``--include PATH``, which can be repeated."""
    parser.add_argument(
        "--include", type=Path, action="append", default=[], metavar="PATH",
        help="a folder with datasets of your own (.yaml, .py)",
    )  # fmt: skip


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how new texts are read."""
    parser.add_argument(
        "--template", help="in place of the template of the probe's own texts, e.g. '{text}'"
    )
    parser.add_argument(
        "--too-long", choices=["error", "cut_left"],
        help="what to do with a text too long for the model; default: as for the probe's own texts",
    )  # fmt: skip
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="let code that comes with the model run"
    )


def load_run(
    options: argparse.Namespace, download: bool = True, section: str = "", **keys: Any
) -> Run | None:
    """Return the run that the options describe; for a dry run, print its estimates and return None.

    Parameters
    ----------
    section, keys
        An optional section to add to the config if it is missing, and keys to set in it.

    Raises
    ------
    UserError
        Any error that can be found before a model is loaded.
    """
    from llmprobe.config.load import asked_to, load_config

    # Errors in the config are reported before torch is imported.
    columns = {key: getattr(options, key) for key in ("text", "label", "group")}
    overrides = [*options.overrides, *([f"engine.kind={options.engine}"] if options.engine else [])]
    if options.engine and options.engine != "slurm":
        overrides.insert(0, "engine.options={}")  # The options in the file are those of sbatch.
    config = load_config(
        options.config, overrides, options.limit, options.include, options.models, columns
    )
    if section:
        config = asked_to(config, section, **keys)
    with no_search_for_garbage():
        from llmprobe.runs.cluster import run_of
        from llmprobe.runs.pipeline import default_out

    run = run_of(config, options.out or default_out(config), download and not options.dry_run)
    if not options.dry_run:
        return run
    for line in run.estimates():
        say(line)
    return None
