"""``llmprobe probe CONFIG``: the second stage alone."""

from __future__ import annotations

import argparse

from llmprobe.cli.command import add_config, command, load_run
from llmprobe.cli.output import print_summary


@command("probe", "Only probe what is extracted, and write the tables.", add_config)
def probe(options: argparse.Namespace) -> None:
    """Probe, and print the summary."""
    run = load_run(options)
    if run is not None:
        run.probe()
        print_summary(run.out)
