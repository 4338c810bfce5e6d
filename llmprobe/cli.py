"""The command line: words become one call each."""

from __future__ import annotations

import argparse
import errno
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import llmprobe
from llmprobe.errors import UserError

if TYPE_CHECKING:
    from llmprobe.config import RunConfig
    from llmprobe.pipeline import Run

log = logging.getLogger("llmprobe")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. -> 0 done, 2 the input is wrong, 130 interrupted, 1 anything else"""
    options = _parser().parse_args(arguments)
    # Ours from INFO; other libraries only when something is wrong.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        command(options)
    except UserError as error:
        print(f"llmprobe: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\nllmprobe: interrupted; what was finished is kept, and the same command goes on "
            "from there",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"llmprobe: the disk is full: {error.strerror}{where}; what was finished is kept",
            file=sys.stderr,
        )
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llmprobe",
        description="Shows at which layer of a language model a concept becomes linearly readable.",
    )
    parser.add_argument("--version", action="version", version=llmprobe.__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, call: Callable[[argparse.Namespace], None], text: str) -> _Command:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(command=call)
        return command

    for name, call, text in (
        ("run", _run, "Extract, probe and report, skipping what is already done."),
        ("extract", _extract, "Only extract hidden states, into the cache."),
        ("probe", _probe, "Only probe what is extracted, and write the tables."),
        ("validate", _validate, "Resolve and check a config without running it, and print it."),
    ):
        command = add(name, call, text)
        command.add_argument("config", metavar="CONFIG", help="a YAML file")
        command.add_argument("--out", type=Path, metavar="DIR", help="default: runs/<name>")
        command.add_argument(
            "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE",
            help="override a key, e.g. --set probe.folds=10 --set models.0.dtype=float32",
        )  # fmt: skip
        command.add_argument("--limit", type=int, metavar="N", help="examples per dataset")
        command.add_argument(
            "--dry-run", action="store_true", help="estimate tokens, disk and time; do nothing"
        )
    command = add("report", _report, "Draw the figures and the page of a run folder again.")
    command.add_argument("run", type=Path, metavar="RUN_DIR")
    command = add("ls", _ls, "List the models or datasets that are known by name.")
    command.add_argument("kind", choices=["models", "datasets"])
    command = add("show", _show, "Show a dataset: source, licence, size, balance, examples.")
    command.add_argument("dataset", metavar="DATASET", help="a known name or a file")
    return parser


_Command = argparse.ArgumentParser


def _load(options: argparse.Namespace) -> tuple[RunConfig, Run] | None:
    """The run that the options describe; None after a dry run."""
    from llmprobe.config import load_config
    from llmprobe.pipeline import Run, default_out

    config = load_config(options.config, options.overrides, options.limit)
    run = Run(config, options.out or default_out(config))
    if options.dry_run:
        for line in run.estimates():
            print(line)
        return None
    return config, run


def _run(options: argparse.Namespace) -> None:
    from llmprobe.pipeline import report

    loaded = _load(options)
    if loaded is None:
        return
    _, run = loaded
    run.probe(extract=True)
    written = report(run.out)
    _print_summary(run.out)
    heatmap = next((p for p in written if p.name.startswith("heatmap_accuracy.png")), None)
    print(f"\nheatmap  {heatmap}" if heatmap else "")
    print(f"report   {written[-1]}" if written[-1].suffix == ".html" else f"tables   {run.out}")


def _extract(options: argparse.Namespace) -> None:
    loaded = _load(options)
    if loaded is not None:
        for activations in loaded[1].extract():
            facts = activations.facts
            what = f"{facts['model']} on {activations.dataset.name}"
            shape = f"{len(activations.dataset)} texts, layers 0 to {facts['layers']}"
            print(f"{what}: {shape}, {activations.store.folder}")


def _probe(options: argparse.Namespace) -> None:
    loaded = _load(options)
    if loaded is not None:
        loaded[1].probe()
        _print_summary(loaded[1].out)
        print(f"\ntables   {loaded[1].out}")


def _validate(options: argparse.Namespace) -> None:
    loaded = _load(options)
    if loaded is not None:
        print(loaded[0].to_yaml(), end="")


def _report(options: argparse.Namespace) -> None:
    from llmprobe.pipeline import report

    written = report(options.run)
    _print_summary(options.run)
    print(f"\nreport   {written[-1]}")


def _print_summary(out: Path) -> None:
    from llmprobe.pipeline import terminal_summary

    encoding = sys.stdout.encoding or "ascii"
    print(terminal_summary(out, unicode=encoding.lower().replace("-", "").startswith("utf")))


def _ls(options: argparse.Namespace) -> None:
    if options.kind == "models":
        from llmprobe.config import ModelConfig
        from llmprobe.files import size
        from llmprobe.models.packaged import PACKAGED
        from llmprobe.models.source import is_local

        for model in PACKAGED.values():
            here = "on this disk" if is_local(ModelConfig(id=model.name)) else "not downloaded"
            print(
                f"{model.name:14} {model.parameters:>5}  {size(model.n_bytes):>8}  {here:14} "
                f"{model.licence}; {model.precision}"
            )
        print("\nBesides these: any Hugging Face Hub id, folder of safetensors, or .gguf file.")
        return
    from llmprobe.concepts.load import known_datasets

    for name, summary in known_datasets():
        print(f"{name:14} {summary}")
    print("\nBesides these: any .csv, .tsv, .jsonl or .parquet file with texts and labels.")


def _show(options: argparse.Namespace) -> None:
    from llmprobe.concepts.load import describe

    print(describe(options.dataset))
