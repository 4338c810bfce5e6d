"""``llmprobe export PROBE --to numpy|hub``: a saved probe for use without llmprobe."""

from __future__ import annotations

import argparse
from pathlib import Path

from llmprobe.cli.command import command
from llmprobe.cli.output import say


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "probe", type=Path, metavar="PROBE", help="RUN/probes/MODEL/DATASET.safetensors"
    )
    parser.add_argument(
        "--to", required=True, choices=["numpy", "hub"],
        help="arrays in an .npz file; or a folder with a model card, for huggingface_hub to upload",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder")
    parser.add_argument(
        "--base-model", metavar="OWNER/NAME", help="the Hub id of the probe's model"
    )


@command(
    "export", "Write a saved probe as plain arrays, or as a folder for the Hub.", _add_arguments
)
def export(options: argparse.Namespace) -> None:
    """Write the folder, and print its files. Nothing is uploaded."""
    from llmprobe.ground.errors import UserError
    from llmprobe.reporting.export import export_hub, export_numpy
    from llmprobe.results.folder import require_writable_folder
    from llmprobe.results.saved_probe import load_probe

    probe = load_probe(options.probe)
    if options.to == "numpy" and options.base_model is not None:
        raise UserError("--base-model: belongs to --to hub")
    require_writable_folder(options.out)
    if options.to == "numpy":
        files = export_numpy(probe, options.out)
    else:
        files = export_hub(probe, options.probe, options.out, options.base_model)
    for file in files:
        say(file)
