"""The sanity experiments as runs: a config, a folder of tables and figures, and one page."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from llmprobe.ground.errors import UserError
from llmprobe.models.devices import resolve_device
from llmprobe.results.folder import claim, write_results
from llmprobe.results.results import Results
from llmprobe.run.environment import environment
from llmprobe.run.report import KINDS, Description, Kind
from llmprobe.sanity.bypass import run_bypass
from llmprobe.sanity.bypass_figures import bypass_story, bypass_text
from llmprobe.sanity.config import MnistConfig, SanityConfig, XorConfig, load
from llmprobe.sanity.images import MNIST_CONTENT, load_images, settled
from llmprobe.sanity.mnist import Plan, run_convnet
from llmprobe.sanity.mnist_figures import convnet_story, convnet_text
from llmprobe.sanity.story import Story
from llmprobe.sanity.xor import PERMUTATIONS, Xor, run_xor
from llmprobe.sanity.xor_figures import xor_figures

if TYPE_CHECKING:
    from rich.text import Text

XOR_FILE = "xor.npz"
POINT = {"xor": "hidden", "convnet": "fc1_postact", "bypass": "entry"}
"""One that only the tables of this experiment have."""


def run(config: SanityConfig, out: Path, progress: bool = True) -> None:
    """Do an experiment, and write its tables, and what they came from, into a run folder.

    Raises
    ------
    UserError
        The folder cannot be written, the images cannot be read or do not suffice, or the device
        cannot be used.
    """
    if isinstance(config, XorConfig):
        claim(out)
        results, found = run_xor(progress)
        found.save(out / XOR_FILE)
        network = "2-2-1, without biases, mean squared error"
        data = {"name": "xor", "source": "the four corners of the unit square", "licence": "none"}
    else:
        config = config.model_copy(update={"data": settled(config.data)})
        results, network, data = _run_mnist(config, out, progress)
    models = [
        {"name": str(model), "source": f"{network}, {model}", "licence": "", "precision": "float32"}
        for model in results.summary["model"]
    ]
    text = yaml.safe_dump(
        config.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True
    )
    write_results(out, replace(results, config=text, environment=environment(models, [data])))
    if config.sanity != "xor":
        (out / XOR_FILE).unlink(missing_ok=True)


def _run_mnist(
    config: MnistConfig, out: Path, progress: bool
) -> tuple[Results, str, dict[str, str]]:
    # Before the images, which may have to be downloaded.
    resolve_device(config.device, "--device")
    images = load_images(config.data)
    data = {
        "name": images.name,
        "source": images.source,
        "licence": images.licence,
        "version": "",
        "content": images.content_hash,
    }
    if config.network == "bypass":
        results = run_bypass(images, out, seed=config.seed, device=config.device, progress=progress)
        return results, "128 dense layers, of which a connection skips 64", data
    plan = Plan.of(images, config.quick, config.probe_images)
    results = run_convnet(
        images, plan, out, seed=config.seed, device=config.device, progress=progress
    )
    training = f"{plan.epochs} epochs, learning rate {plan.learning_rate:g}"
    return results, f"convnet (training: {training})", data


def _describe(run: Results) -> Description:
    config = _config_of(run)
    story = _story(config, run)
    dataset = run.summary["dataset"].iloc[0]
    what = "XOR" if isinstance(config, XorConfig) else f"{config.network} on {dataset}"
    return Description(
        title=f"Sanity experiment: {what}",
        command=command(config, run.folder),
        permutations=PERMUTATIONS if isinstance(config, XorConfig) else None,
        findings=story.findings,
        illustrations=story.illustrations,
        held_out=config.sanity == "mnist",
    )


def command(config: SanityConfig, out: Path) -> str:
    """What to type to do the experiment again."""
    words = ["llmprobe", "sanity", config.sanity]
    changed = config.model_dump(exclude_defaults=True, exclude={"sanity"})
    for key, value in changed.items():
        option = f"--{key.replace('_', '-')}"
        words += [option] if value is True else [option, str(value)]
    return shlex.join([*words, "--out", str(out)])


def _text(run: Results, _width: int, unicode: bool) -> Text:
    """Return what an experiment found, in lines of at most 100 columns."""
    from rich.text import Text

    config = _config_of(run)
    if isinstance(config, XorConfig):
        return Text(Xor.load(run.folder / XOR_FILE).text(unicode))
    if config.network == "bypass":
        return Text(bypass_text(run.table))
    return Text(convnet_text(run.table, digits=config.data == "digits"))


def _config_of(run: Results) -> SanityConfig:
    """Return the config of an experiment, whose tables are in ``run``."""
    config = load(run.folder)
    kind = "xor" if isinstance(config, XorConfig) else config.network
    if POINT[kind] not in set(run.table.get("layer_name", ())):
        raise UserError(
            f"{run.folder}: results.parquet and summary.parquet are not those of config.yaml; do "
            f"the experiment again: {command(config, run.folder)}"
        )
    return config


def _story(config: SanityConfig, run: Results) -> Story:
    if isinstance(config, XorConfig):
        found = Xor.load(run.folder / XOR_FILE)
        return Story(found.findings, xor_figures(found))
    if config.network == "bypass":
        return bypass_story(run.table)
    contents = [data.get("content") for data in run.environment["datasets"]]
    return convnet_story(
        run.table,
        run.summary,
        run.predictions,
        mnist=MNIST_CONTENT in contents,
        digits=config.data == "digits",
    )


KINDS.add("sanity", Kind(_describe, _text))
