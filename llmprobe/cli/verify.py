"""``llmprobe verify PROBE``: whether an engine's states agree with a probe's golden examples."""

from __future__ import annotations

import argparse
from pathlib import Path

from llmprobe.cli.command import add_set, command
from llmprobe.cli.output import say


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "probe", type=Path, metavar="PROBE", help="RUN/probes/MODEL/DATASET.safetensors"
    )
    parser.add_argument(
        "--states", type=Path, metavar="PATH",
        help="another engine's states of the golden token ids: .npz, .npy, .safetensors, .parquet, "
        "Zarr or a folder of vLLM's files; default: run the probe's own model",
    )  # fmt: skip
    add_set(parser, "a key of `activations:` for --states", "layer_offset=1")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="only write the golden examples as JSON"
    )
    parser.add_argument(
        "--model", help="a name, id or folder to use even if its files are not the probe's own"
    )
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="let code that comes with the model run"
    )


@command("verify", "Check whether an engine's states agree with a probe's own.", _add_arguments)
def verify(options: argparse.Namespace) -> None:
    """Print expected and actual logits; raise ``UserError`` if they differ, and say how."""
    from llmprobe.config.load import activations_config
    from llmprobe.ground.errors import UserError

    states = None
    if options.states is not None:
        states = activations_config(options.states, options.overrides)
    elif options.overrides:
        raise UserError("--set: belongs to --states")
    from llmprobe.monitors import verify as monitor
    from llmprobe.monitors.new_texts import ReadingOptions
    from llmprobe.results.saved_probe import load_probe

    probe = load_probe(options.probe)
    if options.write is not None:
        monitor.write_golden(probe, str(options.probe), options.write)
        say(f"golden   {options.write}")
        return
    reading = ReadingOptions(options.model, trust_remote_code=options.trust_remote_code)
    for line in monitor.verify(probe, str(options.probe), reading, states):
        say(line)
