"""``llmprobe trace RUN --text …``: scores of saved probes at each token of a new text."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

from llmprobe.cli.command import add_out, add_reading, command
from llmprobe.cli.output import say


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, or one of its probes")
    parser.add_argument(
        "--text", action="append", required=True, dest="texts", metavar="TEXT",
        help="a text, which is put into the template of the probe's own texts; repeatable",
    )  # fmt: skip
    for what in ("model", "dataset", "position"):
        parser.add_argument(
            f"--{what}", action="append", default=[], metavar="NAME",
            help=f"only this {what}; repeatable" + "; default: the first" * (what == "dataset"),
        )  # fmt: skip
    add_out(parser, "RUN/traces")
    add_reading(parser)


@command("trace", "Show what saved probes say at each token of a new text.", _add_arguments)
def trace(options: argparse.Namespace) -> None:
    """Print each trace as a heatmap, and write its files."""
    from rich.console import Console

    from llmprobe.ground.lease import lease
    from llmprobe.monitors.new_texts import ReadingOptions
    from llmprobe.monitors.tracing import probes_of_run, trace_folder, trace_probes
    from llmprobe.reporting.terminal import WIDTH
    from llmprobe.reporting.trace.files import write_trace
    from llmprobe.reporting.trace.terminal import trace_lines
    from llmprobe.results.folder import require_writable_folder

    reading = ReadingOptions(
        template=options.template,
        too_long=options.too_long,
        trust_remote_code=options.trust_remote_code,
    )
    probes = probes_of_run(options.run, options.model, options.dataset, options.position)
    out = options.out or trace_folder(options.run)
    console = Console(file=sys.stdout, highlight=False)
    # On a terminal, each block of tokens fits on one screen.
    width, most_layers = console.width, max(6, console.height - 10)
    if not console.is_terminal:
        width, most_layers = WIDTH, sys.maxsize
    unicode = console.encoding.startswith("utf")
    with nullcontext() if options.out else lease(out.parent):
        for made in trace_probes(probes, options.texts, reading):
            require_writable_folder(out)
            page, *_ = write_trace(made, out)
            for line in trace_lines(made, width, most_layers, page.name, unicode):
                console.print(line, soft_wrap=True)
            say(f"\ntrace    {page} (and .json, .png, .svg)\n")
