"""``llmprobe intervene RUN``: what a model says after its hidden states are changed."""

from __future__ import annotations

import argparse
from pathlib import Path

from llmprobe.cli.command import add_config, command, load_run
from llmprobe.cli.output import say
from llmprobe.ground.text import elide


@command("intervene", "Change states along a direction: does the model use it?", add_config)
def intervene(options: argparse.Namespace) -> None:
    """Complete a run, given by its folder or config, change its states, and print the effect."""
    folder = Path(options.config)
    if folder.is_dir() and (folder / "config.yaml").is_file():
        options.config, options.out = str(folder / "config.yaml"), options.out or folder
    run = load_run(options, section="intervene")
    if run is None:
        return
    results = run.probe(extract=True)
    for evidence in results.evidence:
        answer = evidence.questions["used"]
        say(f"{evidence.model} on {evidence.dataset}: {answer.answer}. {answer.sentence}")
    for row in results.intervention_examples.to_dict("records"):
        name = results.class_names(row["dataset"]).get(row["label"], row["label"])
        say(f"  {name}: {elide(row['text'], 60)}\n    {row['says']} -> {row['says_after']}")
    if not results.interventions.empty:
        say(f"\ntables   {run.out / 'intervene.csv'}")
