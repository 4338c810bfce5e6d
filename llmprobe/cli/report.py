"""``llmprobe report RUN_DIR``: the figures and the page of a run folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from llmprobe.cli.command import command
from llmprobe.cli.output import print_report


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN_DIR")


@command("report", "Draw the figures and the page of a run folder again.", _add_arguments)
def report(options: argparse.Namespace) -> None:
    """Draw the folder of a run, a comparison or an experiment, and print its results."""
    print_report(options.run)
