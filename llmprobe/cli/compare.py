"""``llmprobe compare RUN_DIR RUN_DIR…``: several runs in one report."""

from __future__ import annotations

import argparse
from pathlib import Path

from llmprobe.cli.command import command
from llmprobe.cli.output import print_report


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True)
    parser.add_argument(
        "--anyway", action="store_true",
        help="also compare runs of other examples, folds, positions or probes, with a note",
    )  # fmt: skip
    parser.add_argument(
        "--published", choices=["jin2024"],
        help="also draw the curves that a study published for the same datasets",
    )  # fmt: skip


@command(
    "compare", "Put runs side by side: other models, sizes, revisions, perturbations.",
    _add_arguments,
)  # fmt: skip
def compare(options: argparse.Namespace) -> None:
    """Compare runs, draw the comparison, and print how their curves differ."""
    from llmprobe.runs import compare as comparison

    comparison.compare(
        options.runs, options.out, anyway=options.anyway, published=options.published
    )
    print_report(options.out)
