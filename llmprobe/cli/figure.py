"""``llmprobe figure RUN NAME``: one figure of a run for a paper, and its caption."""

from __future__ import annotations

import argparse
from pathlib import Path

from llmprobe.cli.command import command
from llmprobe.cli.output import say


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument(
        "name", metavar="NAME", help="heatmap, curves, depth, … or a file in RUN/figures"
    )
    parser.add_argument("--metric", help="a metric in place of the main one, such as auroc")
    parser.add_argument(
        "--width", help="inches, column (3.3) or two_column (6.9); default: as in RUN/figures"
    )
    parser.add_argument(
        "--format", choices=["pdf", "svg", "png"], help="default: that of --out, else pdf"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: NAME.FORMAT")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="only these, in this order")
    parser.add_argument("--datasets", nargs="+", metavar="NAME", help="only these, in this order")
    parser.add_argument("--layers", nargs="+", type=int, metavar="N", help="only these")
    parser.add_argument("--title", help="above; replaces that of a single panel; '' for none")
    parser.add_argument("--cmap", metavar="NAME", help="a colour map of matplotlib")


@command("figure", "Draw one figure of a run for a paper, and print its caption.", _add_arguments)
def figure(options: argparse.Namespace) -> None:
    """Write the figure, and print its file and its caption."""
    from llmprobe.ground.errors import UserError
    from llmprobe.results.folder import read_results

    out: Path = options.out or Path(f"{options.name}.{options.format or 'pdf'}")
    if options.format and out.suffix.lower() != f".{options.format}":
        raise UserError(f"--format {options.format}: {out} ends otherwise; give one of the two")
    plot = read_results(options.run).plot
    names = ("metric", "width", "models", "datasets", "layers", "title", "cmap")
    asked = {name: getattr(options, name) for name in names}
    plot(options.name, out, **asked)
    say(f"figure   {out}\n\n{plot.caption(options.name, **asked)}")
