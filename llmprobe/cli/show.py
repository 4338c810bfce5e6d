"""``llmprobe show DATASET``: what a dataset contains, and what in it can mislead a probe."""

from __future__ import annotations

import argparse

from llmprobe.cli.command import add_include, add_set, command
from llmprobe.cli.output import say


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="DATASET", help="a known name, or a file")
    add_set(parser, "a key of the dataset's mapping", "text=statement --set options.people=6")
    add_include(parser)


@command("show", "Show a dataset: source, size, balance, pitfalls, examples.", _add_arguments)
def show(options: argparse.Namespace) -> None:
    """Print a description of a dataset."""
    from llmprobe.config.load import dataset_config
    from llmprobe.datasets import describe
    from llmprobe.datasets.include import include
    from llmprobe.probing.baselines import surface_accuracy

    for path in options.include:
        include(path)
    say(describe.show(dataset_config(options.dataset, options.overrides), surface_accuracy))
