"""The commands that use saved probes on new texts: ``trace`` and ``score``."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

log = logging.getLogger(__name__)


def add_trace(command: argparse.ArgumentParser) -> None:
    """The options of ``llmprobe trace``."""
    command.add_argument("run", type=Path, metavar="RUN", help="a run folder, or one of its probes")
    command.add_argument(
        "--text", action="append", required=True, dest="texts", metavar="TEXT",
        help="without the template of the probe's own texts, into which it is put; repeatable",
    )  # fmt: skip
    for what in ("model", "dataset"):
        command.add_argument(
            f"--{what}", action="append", default=[], metavar="NAME",
            help=f"only this {what}; repeatable",
        )  # fmt: skip
    command.add_argument("--out", type=Path, metavar="DIR", help="default: RUN/traces")
    _add_reading(command)


def add_score(command: argparse.ArgumentParser) -> None:
    """The options of ``llmprobe score``."""
    command.add_argument(
        "probe", type=Path, metavar="PROBE", help="RUN/probes/MODEL/DATASET.safetensors"
    )
    command.add_argument(
        "--file", type=Path, required=True, metavar="FILE", help=".csv, .tsv, .jsonl or .parquet"
    )
    command.add_argument("--text", metavar="COLUMN", help="default: text, statement or sentence")
    command.add_argument("--label", metavar="COLUMN", help="true labels, to say how right it is")
    command.add_argument("--layer", type=int, metavar="N", help="default: the probe's best one")
    command.add_argument("--out", type=Path, metavar="FILE", help="default: CSV to stdout")
    command.add_argument("--encoding", help="of a text file that is not UTF-8")
    command.add_argument("--delimiter", help="between cells, if neither a comma nor a .tsv's tab")
    command.add_argument(
        "--model", help="a name, id or folder to use although its files are not the probe's own"
    )
    _add_reading(command)


def _add_reading(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--template", help="in place of that of the probe's own texts, e.g. '{text}'"
    )
    command.add_argument(
        "--too-long", choices=["error", "cut_left"],
        help="what to do with a text too long for the model; default: as with the probe's own",
    )  # fmt: skip
    command.add_argument(
        "--trust-remote-code", action="store_true", help="let code that comes with the model run"
    )


def trace(options: argparse.Namespace) -> None:
    """Print each trace as a heatmap, and write its files."""
    from rich.console import Console

    from llmprobe.monitors.tracing import trace_folder, trace_run
    from llmprobe.reporting.terminal import WIDTH
    from llmprobe.reporting.trace.files import write_trace
    from llmprobe.reporting.trace.terminal import trace_lines
    from llmprobe.results.folder import claim

    traces = trace_run(
        options.run, options.texts, models=options.model, datasets=options.dataset,
        template=options.template, too_long=options.too_long,
        trust_remote_code=options.trust_remote_code,
    )  # fmt: skip
    out = options.out or trace_folder(options.run)
    console = Console(file=sys.stdout, highlight=False)
    # On a terminal, each block of tokens on one screen.
    width, most_layers = console.width, max(6, console.height - 10)
    if not console.is_terminal:
        width, most_layers = WIDTH, sys.maxsize
    unicode = console.encoding.startswith("utf")
    for made in traces:
        claim(out)
        page, *_ = write_trace(made, out)
        for line in trace_lines(made, width, most_layers, page.name, unicode):
            console.print(line, soft_wrap=True)
        print(f"\ntrace    {page} (and .json, .png, .svg)\n", flush=True)


def score(options: argparse.Namespace) -> None:
    """Print the scored table or write it, and sum it up on stderr."""
    from llmprobe.monitors.scoring import require_writable, score_file, write_scored
    from llmprobe.results.folder import claim

    if options.out is not None:
        require_writable(options.out, options.file)
        claim(options.out.parent)
    scored = score_file(
        options.probe, options.file, text=options.text, label=options.label,
        template=options.template, layer=options.layer, too_long=options.too_long,
        encoding=options.encoding, delimiter=options.delimiter, model=options.model,
        trust_remote_code=options.trust_remote_code,
    )  # fmt: skip
    if options.out is None:
        print(scored.table.to_csv(index=False), end="")
    else:
        write_scored(scored.table, options.out)
    log.info(scored.summary)
