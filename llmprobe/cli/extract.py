"""``llmprobe extract CONFIG``: the first stage alone, which several processes can share."""

from __future__ import annotations

import argparse
import logging

from llmprobe.cli.command import add_config, command, load_run
from llmprobe.cli.output import say


@command("extract", "Only extract hidden states, into the cache.", add_config)
def extract(options: argparse.Namespace) -> None:
    """Extract, and print where the states of each model and dataset are."""
    run = load_run(options)
    if run is None:
        return
    from llmprobe.extraction.processes import World

    leads = World().leader
    logging.getLogger("llmprobe").setLevel(logging.INFO if leads else logging.WARNING)
    for activations in run.extract():
        if leads:
            facts, dataset = activations.facts, activations.dataset
            shape = f"{len(dataset)} texts, layers 0 to {facts['layers']}"
            say(f"{facts['model']} on {dataset.name}: {shape}, {activations.store.folder}")
