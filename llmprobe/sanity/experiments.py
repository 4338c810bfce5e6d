"""The sanity experiments as runs: a config, a folder of tables and figures, and one page."""

from __future__ import annotations

import logging
import shlex
from itertools import product
from pathlib import Path

import pandas as pd
import yaml

from llmprobe.ground.errors import UserError
from llmprobe.models.devices import resolve_device
from llmprobe.results.folder import (
    claim,
    read_run,
    read_table,
    remove_others,
    write_results,
)
from llmprobe.results.results import Results
from llmprobe.run.environment import environment
from llmprobe.sanity.bypass import run_bypass
from llmprobe.sanity.bypass_figures import bypass_story, bypass_text
from llmprobe.sanity.config import MnistConfig, SanityConfig, XorConfig, load
from llmprobe.sanity.images import MNIST_CONTENT, load_images, settled
from llmprobe.sanity.mnist import Plan, run_convnet
from llmprobe.sanity.mnist_figures import convnet_story, convnet_text
from llmprobe.sanity.story import Story
from llmprobe.sanity.xor import PERMUTATIONS, Xor, run_xor
from llmprobe.sanity.xor_figures import xor_figures

log = logging.getLogger(__name__)

XOR_FILE = "xor.npz"
POINT = {"xor": "hidden", "convnet": "fc1_postact", "bypass": "entry"}
"""One that only the tables of this experiment have."""
FIGURES = (
    *("heatmap_*", "projection_*", "size", "errors", "fields", "hidden_plane", "training"),
    "seeds",
)
"""Those that some experiments have and others lack."""


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
    write_results(out, results, text, environment(models, [data]))
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


def report(out: Path) -> list[Path]:
    """Figures and page of an experiment's folder, from its tables. -> files written, page last

    Raises
    ------
    UserError
        A file is missing or damaged.
    """
    from llmprobe.reporting.charts.figures import draw_figures, write_all
    from llmprobe.reporting.page.page import write_report

    config, results, summary = _read(out)
    run = read_run(out)
    try:
        data = run.environment["datasets"][0]
    except LookupError:
        raise UserError(
            f"{out / 'environment.json'}: does not say where the data came from; do the experiment "
            f"again: {command(config, out)}"
        ) from None
    for note in run.notes:
        log.warning("%s", note)
    story = _story(config, out, results, summary, data.get("content", ""))
    dataset = summary["dataset"].iloc[0]
    what = "XOR" if isinstance(config, XorConfig) else f"{config.network} on {dataset}"
    figures = draw_figures(results, summary, run.predictions)
    told = {name: figure for name, (figure, _, _) in story.illustrations.items()}
    written = write_all(figures | told, out / "figures")
    for name, suffix in product(FIGURES, ("png", "svg")):
        remove_others(out / "figures", f"{name}.{suffix}", written)
    page = write_report(
        out / "report.html",
        run,
        figures,
        title=f"Sanity experiment: {what}",
        command=command(config, out),
        permutations=PERMUTATIONS if isinstance(config, XorConfig) else None,
        findings=story.findings,
        illustrations=story.illustrations,
        held_out=config.sanity == "mnist",
    )
    return [*written, page]


def command(config: SanityConfig, out: Path) -> str:
    """What to type to do the experiment again."""
    words = ["llmprobe", "sanity", config.sanity]
    changed = config.model_dump(exclude_defaults=True, exclude={"sanity"})
    for key, value in changed.items():
        option = f"--{key.replace('_', '-')}"
        words += [option] if value is True else [option, str(value)]
    return shlex.join([*words, "--out", str(out)])


def terminal_text(out: Path, unicode: bool = True) -> str:
    """What an experiment found, in lines of at most 100 columns."""
    config, results, _ = _read(out)
    if isinstance(config, XorConfig):
        return Xor.load(out / XOR_FILE).text(unicode)
    if config.network == "bypass":
        return bypass_text(results)
    return convnet_text(results, digits=config.data == "digits")


def _read(out: Path) -> tuple[SanityConfig, pd.DataFrame, pd.DataFrame]:
    config = load(out)
    results, summary = (read_table(out / f"{name}.parquet") for name in ("results", "summary"))
    kind = "xor" if isinstance(config, XorConfig) else config.network
    belong = set(results["model"]) == set(summary["model"]) and POINT[kind] in set(
        results.get("layer_name", ())
    )
    if not belong or (kind == "convnet" and "network_accuracy" not in summary):
        raise UserError(
            f"{out}: results.parquet and summary.parquet are not those of config.yaml; do the "
            f"experiment again: {command(config, out)}"
        )
    return config, results, summary


def _story(
    config: SanityConfig, out: Path, results: pd.DataFrame, summary: pd.DataFrame, content: str
) -> Story:
    """``content`` is the hash of what the probes read."""
    if isinstance(config, XorConfig):
        found = Xor.load(out / XOR_FILE)
        return Story(found.findings, xor_figures(found))
    if config.network == "bypass":
        return bypass_story(results)
    return convnet_story(
        results,
        summary,
        read_table(out / "predictions.parquet"),
        mnist=content == MNIST_CONTENT,
        digits=config.data == "digits",
    )
