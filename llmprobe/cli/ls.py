"""``llmprobe ls models`` and ``llmprobe ls datasets``."""

from __future__ import annotations

import argparse

from llmprobe.cli.command import add_include, command
from llmprobe.cli.output import say


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=["models", "datasets"])
    add_include(parser)


@command("ls", "List the models or datasets that are known by name.", _add_arguments)
def ls(options: argparse.Namespace) -> None:
    """Print the models or the datasets that are known by name."""
    if options.kind == "models":
        _print_models()
        return
    from llmprobe.datasets.describe import known_datasets
    from llmprobe.datasets.include import include

    for path in options.include:
        include(path)
    say(known_datasets())


def _print_models() -> None:
    from llmprobe.config.schema import ModelConfig
    from llmprobe.ground.files import size
    from llmprobe.models.packaged import PACKAGED
    from llmprobe.models.source import is_local

    for model in PACKAGED.values():
        here = "on this disk" if is_local(ModelConfig(id=model.name)) else "not downloaded"
        print(
            f"{model.name:18}  {model.parameters:>5}  {size(model.n_bytes):>8}  {here:14}  "
            f"{model.precision}; {model.licence}"
        )
    print("\nBesides these: any Hugging Face Hub id, folder of safetensors, or .gguf file.")
