"""The command line: words become one call each."""

from __future__ import annotations

import argparse
import errno
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import llmprobe
from llmprobe.cli import probes
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import disk_is_full

if TYPE_CHECKING:
    from llmprobe.config.schema import RunConfig
    from llmprobe.run.pipeline import Run

log = logging.getLogger("llmprobe")

_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. -> 0 done, 2 the input is wrong, 130 interrupted, 1 anything else"""
    options = _parser().parse_args(arguments)
    # Before torch loads: its threads then sleep while they wait for each other instead of spinning,
    # which costs nothing on an idle machine and is several times faster on a busy one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Ours from INFO; other libraries only when something is wrong.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal lacks becomes "?", not an error.
        sys.stdout.reconfigure(errors="replace")
    command: Callable[[argparse.Namespace], None] = options.command
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
        _add_include(command)
        command.add_argument(
            "--dry-run", action="store_true", help="estimate tokens, disk and time; do nothing"
        )
    experiments = commands.add_parser(
        "sanity",
        help="See small networks make their classes separable: XOR, and a convnet on MNIST.",
        description="See small networks make their classes linearly separable.",
    ).add_subparsers(metavar="EXPERIMENT", required=True)
    xor = experiments.add_parser("xor", help="a 2-2-1 network on XOR; ten seconds")
    mnist = experiments.add_parser(
        "mnist", help="a convnet on scikit-learn's digits (a minute) or MNIST (--quick: minutes)"
    )
    for experiment in (xor, mnist):
        experiment.set_defaults(command=_sanity)
        name = experiment.prog.split()[-1]
        experiment.add_argument(
            "--out", type=Path, metavar="DIR", help=f"default: runs/sanity-{name}"
        )
    xor.set_defaults(sanity="xor")
    mnist.set_defaults(sanity="mnist")
    mnist.add_argument(
        "--data", default="auto", metavar="DATA",
        help="digits, mnist, a folder of IDX files, or an image dataset on the Hub; default: "
        "MNIST where LLMPROBE_DATA has it, else digits",
    )  # fmt: skip
    mnist.add_argument(
        "--quick", action="store_true", help="fewer epochs, and fewer images for the probes"
    )
    mnist.add_argument(
        "--network", choices=["convnet", "bypass"], default="convnet",
        help="the convnet of Alain & Bengio's section 3.5 (default), or the deep network with a "
        "bypass of their section 5.1",
    )  # fmt: skip
    mnist.add_argument(
        "--probe-images", type=int, metavar="N",
        help="training images for the convnet's probes, if there are so many (default: 20,000, "
        "or 1,500 with --quick)",
    )  # fmt: skip
    mnist.add_argument("--device", default="auto", help="auto (default), cpu, cuda, …")
    mnist.add_argument("--seed", type=int, default=0, metavar="N")
    probes.add_trace(
        add("trace", probes.trace, "Show what saved probes say at each token of a new text.")
    )
    probes.add_score(
        add("score", probes.score, "Use a saved probe as a classifier of the texts in a file.")
    )
    command = add("report", _report, "Draw the figures and the page of a run folder again.")
    command.add_argument("run", type=Path, metavar="RUN_DIR")
    command = add(
        "compare", _compare, "Put runs side by side: other models, sizes, revisions, perturbations."
    )
    command.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR")
    command.add_argument("--out", type=Path, metavar="DIR", required=True)
    command.add_argument(
        "--anyway", action="store_true",
        help="also runs of other examples, folds, positions or probes, with a note",
    )  # fmt: skip
    command = add("check", _check, "Test a model: its layers and sites, each way to run texts.")
    command.add_argument("model", metavar="MODEL", help="a known name, a Hub id, or a folder")
    command.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="a key of the model's mapping, e.g. --set dtype=float32",
    )  # fmt: skip
    command = add("ls", _ls, "List the models or datasets that are known by name.")
    command.add_argument("kind", choices=["models", "datasets"])
    _add_include(command)
    command = add("show", _show, "Show a dataset: source, size, balance, what misleads, examples.")
    command.add_argument("dataset", metavar="DATASET", help="a known name, or a file")
    command.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="a key of the dataset's mapping, e.g. --set text=statement --set options.people=6",
    )  # fmt: skip
    _add_include(command)
    return parser


def _add_include(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--include", type=Path, action="append", default=[], metavar="PATH",
        help="a folder with datasets of your own (.yaml, .py)",
    )  # fmt: skip


_Command = argparse.ArgumentParser


def _load(options: argparse.Namespace) -> tuple[RunConfig, Run] | None:
    """The run that the options describe; None after a dry run."""
    from llmprobe.config.load import load_config

    # A wrong config is said before torch is loaded.
    config = load_config(options.config, options.overrides, options.limit, options.include)
    from llmprobe.run.pipeline import Run, default_out

    run = Run(config, options.out or default_out(config), download=not _only_looks(options))
    if options.dry_run:
        for line in run.estimates():
            print(line)
        return None
    return config, run


def _only_looks(options: argparse.Namespace) -> bool:
    return bool(options.dry_run) or options.command is _validate


def _run(options: argparse.Namespace) -> None:
    from llmprobe.run.report import report

    loaded = _load(options)
    if loaded is None:
        return
    _, run = loaded
    run.probe(extract=True)
    _print_results(run.out, report(run.out))


def _extract(options: argparse.Namespace) -> None:
    loaded = _load(options)
    if loaded is not None:
        from llmprobe.extraction.processes import World

        speaks = World().leader
        log.setLevel(logging.INFO if speaks else logging.WARNING)
        for activations in loaded[1].extract():
            if not speaks:
                continue
            facts = activations.facts
            what = f"{facts['model']} on {activations.dataset.name}"
            shape = f"{len(activations.dataset)} texts, layers 0 to {facts['layers']}"
            print(f"{what}: {shape}, {activations.store.folder}")


def _probe(options: argparse.Namespace) -> None:
    loaded = _load(options)
    if loaded is not None:
        loaded[1].probe()
        _print_results(loaded[1].out)


def _validate(options: argparse.Namespace) -> None:
    loaded = _load(options)
    if loaded is not None:
        config, run = loaded
        print(config.to_yaml(), end="")
        for line in run.missing:
            log.warning("not checked: %s", line)


def _sanity(options: argparse.Namespace) -> None:
    from llmprobe.config.load import validated
    from llmprobe.sanity.config import KINDS

    kind = KINDS[options.sanity]
    given = {key: value for key, value in vars(options).items() if key in kind.model_fields}
    config = validated(kind, given, f"sanity {options.sanity}")
    out = options.out or Path("runs") / f"sanity-{options.sanity}"
    from llmprobe.sanity import experiments

    experiments.run(config, out)
    _print_experiment(out)


def _print_experiment(out: Path) -> None:
    """Draw it, say what it found, and where the rest is."""
    from llmprobe.sanity import experiments

    written = experiments.report(out)
    print(experiments.terminal_text(out, unicode=_unicode()))
    _print_places(out, written)


def _compare(options: argparse.Namespace) -> None:
    from llmprobe.run.compare import compare

    compare(options.runs, options.out, anyway=options.anyway)
    _print_comparison(options.out)


def _print_comparison(out: Path) -> None:
    """Draw it, say how its curves differ, and where the rest is."""
    from llmprobe.run import compare as comparison

    written = comparison.report(out)
    print(comparison.terminal_text(out, unicode=_unicode()))
    _print_places(out, written)


def _report(options: argparse.Namespace) -> None:
    from llmprobe.run.comparison_config import is_comparison
    from llmprobe.sanity.config import is_sanity

    if is_sanity(options.run):
        _print_experiment(options.run)
        return
    if is_comparison(options.run):
        _print_comparison(options.run)
        return
    from llmprobe.run.report import report

    _print_results(options.run, report(options.run))


def _print_results(out: Path, written: Sequence[Path] = ()) -> None:
    """The summary, and where the rest is."""
    from rich.console import Console

    from llmprobe.reporting.terminal import WIDTH
    from llmprobe.run.report import terminal_summary

    console = Console(file=sys.stdout, highlight=False)
    width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    for line in terminal_summary(out, width, _unicode()):
        console.print(line, soft_wrap=True)
    _print_places(out, written)


def _unicode() -> bool:
    """Whether the output can show more than ASCII."""
    return (sys.stdout.encoding or "ascii").lower().replace("-", "").startswith("utf")


def _print_places(out: Path, written: Sequence[Path]) -> None:
    print(f"\ntables   {out}")
    for what, names in (
        ("heatmap", ("heatmap_accuracy.png", "heatmap_r2.png")),
        ("figure", ("hidden_plane.png", "errors.png")),
        ("report", ("report.html",)),
    ):
        for path in written:
            if path.name in names:
                print(f"{what:7}  {path}")


def _check(options: argparse.Namespace) -> None:
    from llmprobe.config.load import model_config

    model = model_config(options.model, options.overrides)
    from llmprobe.extraction.check import check_lines
    from llmprobe.extraction.extract import Extractor

    for line in check_lines(Extractor(model)):
        print(line, flush=True)


def _ls(options: argparse.Namespace) -> None:
    if options.kind == "models":
        from llmprobe.config.schema import ModelConfig
        from llmprobe.ground.files import size
        from llmprobe.models.packaged import PACKAGED
        from llmprobe.models.source import is_local

        for model in PACKAGED.values():
            here = "on this disk" if is_local(ModelConfig(id=model.name)) else "not downloaded"
            print(
                f"{model.name:14}  {model.parameters:>5}  {size(model.n_bytes):>8}  {here:14}  "
                f"{model.licence:18}  {model.precision}"
            )
        print("\nBesides these: any Hugging Face Hub id, folder of safetensors, or .gguf file.")
        return
    from llmprobe.datasets.describe import known_datasets
    from llmprobe.datasets.include import include

    for path in options.include:
        include(path)
    print(known_datasets())


def _show(options: argparse.Namespace) -> None:
    from llmprobe.config.load import dataset_config
    from llmprobe.datasets.describe import show
    from llmprobe.datasets.include import include
    from llmprobe.probing.baselines import surface_accuracy

    for path in options.include:
        include(path)
    print(show(dataset_config(options.dataset, options.overrides), surface_accuracy))
