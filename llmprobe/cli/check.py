"""``llmprobe check MODEL``: whether the hidden states of a model are read correctly."""

from __future__ import annotations

import argparse

from llmprobe.cli.command import add_set, command
from llmprobe.cli.output import say


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a known name, a Hub id, or a folder")
    add_set(parser, "a key of the model's mapping", "dtype=float32")


@command("check", "Test a model: its layers and sites, each way to run texts.", _add_arguments)
def check(options: argparse.Namespace) -> None:
    """Print what is found in a model, and how far each way of running texts is from one alone."""
    from llmprobe.config.load import model_config

    model = model_config(options.model, options.overrides)
    from llmprobe.extraction.check import check_lines
    from llmprobe.extraction.extract import Extractor

    for line in check_lines(Extractor(model)):
        say(line)
