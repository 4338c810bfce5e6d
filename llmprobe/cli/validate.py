"""``llmprobe validate CONFIG``: check a config, and print it with all defaults."""

from __future__ import annotations

import argparse
import logging

from llmprobe.cli.command import add_config, command, load_run

log = logging.getLogger(__name__)


@command("validate", "Resolve and check a config without running it, and print it.", add_config)
def validate(options: argparse.Namespace) -> None:
    """Print the resolved config, and log which datasets were not on this disk to be checked."""
    run = load_run(options, download=False)
    if run is not None:
        print(run.given.to_yaml(), end="")
        for line in run.missing:
            log.warning("not checked: %s", line)
