"""``llmprobe intervene RUN``: what a model would say if its states stood elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from llmprobe.cli.command import add_config, command, load_run
from llmprobe.cli.output import say


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)


@command("intervene", "Change states along a direction: does the model use it?", _add_arguments)
def intervene(options: argparse.Namespace) -> None:
    """Do what is missing of a run, whose folder or config is given, and change its states."""
    folder = Path(options.config)
    if folder.is_dir() and (folder / "config.yaml").is_file():
        options.config, options.out = str(folder / "config.yaml"), options.out or folder
    path = Path(options.config)
    if not (path.is_file() and "\nintervene:" in path.read_text(encoding="utf-8")):
        options.overrides.insert(0, "intervene=true")
    run = load_run(options)
    if run is None:
        return
    results = run.probe(extract=True)
    columns = ["model", "dataset", "used_layer", "used_direction", "used_share", "used_p_value"]
    say(results.summary[columns].to_string(index=False))
    for evidence in results.evidence:
        say(f"{evidence.model} on {evidence.dataset}: {evidence.questions['used'].sentence}")
    if not results.interventions.empty:
        say(f"{run.out / 'intervene.csv'}")
