"""``llmprobe transfer CONFIG``: fit probes on some examples, score them on others."""

from __future__ import annotations

import argparse

from llmprobe.cli.command import add_config, command, load_run
from llmprobe.cli.output import print_transfer


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--by", metavar="FIELD", help="make a set of each value of a field")
    parser.add_argument(
        "--train", action="append", metavar="SET", help="fit on this set; repeatable; default: all"
    )
    parser.add_argument(
        "--test", action="append", metavar="SET", help="score this set; repeatable; default: all"
    )
    parser.add_argument(
        "--leave-one-out", action="store_true", default=None,
        help="also fit on all values of the field except one, and score that one",
    )  # fmt: skip
    parser.add_argument(
        "--mask", action="append", metavar="FIELD",
        help='also score texts in which "something" replaces this field; repeatable',
    )  # fmt: skip
    parser.add_argument(
        "--across-layers", action="store_true", default=None,
        help="also score probes of each layer on the states of every other layer",
    )  # fmt: skip
    parser.add_argument("--entity", metavar="FIELD", help="a field that names a text's subject")


@command("transfer", "Fit probes on some examples, score them on others.", _add_arguments)
def transfer(options: argparse.Namespace) -> None:
    """Extract what is missing, write the tables, and print the matrix."""
    from llmprobe.config.schema import TransferConfig

    keys = {name: getattr(options, name) for name in TransferConfig.model_fields}
    asked = {name: value for name, value in keys.items() if value is not None}
    run = load_run(options, section="transfer", **asked)
    if run is not None:
        print_transfer(run.transfer(), run.out)
