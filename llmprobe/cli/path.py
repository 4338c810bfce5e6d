"""``llmprobe path MODEL``: the folder of a model."""

from __future__ import annotations

import argparse

from llmprobe.cli.command import add_set, command
from llmprobe.cli.output import say


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a known name, a Hub id, or a folder")
    add_set(parser, "a key of the model's mapping", "revision=main")


@command("path", "Print the folder of a model, downloading it if needed.", _add_arguments)
def path(options: argparse.Namespace) -> None:
    """Print the folder that transformers, vLLM and others load as this model."""
    from llmprobe.config.load import model_config

    model = model_config(options.model, options.overrides)
    from llmprobe.models.source import locate

    say(locate(model).folder)
