"""``llmprobe run CONFIG``: all stages, from a config (or a dataset and models) to a report."""

from __future__ import annotations

import argparse

from llmprobe.cli.command import add_config, command, load_run
from llmprobe.cli.output import print_report, say


@command("run", "Extract, probe and report, skipping what is already done.", add_config)
def run(options: argparse.Namespace) -> None:
    """Do all stages, and print the summary."""
    from llmprobe.reporting.trackers import log_run

    loaded = load_run(options)
    if loaded is not None:
        loaded.probe(extract=True)
        print_report(loaded.out)
        log_run(loaded.out, loaded.config.report.log_to)
        if options.models:
            say(f"config   {loaded.out / 'config.yaml'} (edit a copy of it to change the run)")
