"""The sanity experiments as runs: a config, a folder of tables and figures, and one page."""

from __future__ import annotations

import shlex
from pathlib import Path

import pandas as pd
import yaml

from llmprobe.environment import environment
from llmprobe.probing.protocol import ProbeResults
from llmprobe.run_folder import (
    claim,
    read_environment,
    read_table,
    remove_others,
    write_results,
)
from llmprobe.sanity.bypass import run_bypass
from llmprobe.sanity.bypass_figures import bypass_story
from llmprobe.sanity.config import MnistConfig, SanityConfig, XorConfig, load
from llmprobe.sanity.images import load_images
from llmprobe.sanity.mnist import Plan, run_convnet
from llmprobe.sanity.mnist_figures import convnet_story
from llmprobe.sanity.story import Story
from llmprobe.sanity.xor import Xor, run_xor
from llmprobe.sanity.xor_figures import xor_figures

XOR_FILE = "xor.npz"


def run(config: SanityConfig, out: Path, progress: bool = True) -> None:
    """Do an experiment, and write its tables, and what they came from, into a run folder.

    Raises
    ------
    UserError
        The folder cannot be written, the images cannot be read, or the device cannot be used.
    """
    claim(out)
    if isinstance(config, XorConfig):
        results, found = run_xor(progress)
        found.save(out / XOR_FILE)
        network = "2-2-1, without biases, mean squared error"
        data = {"name": "xor", "source": "the four corners of the unit square", "licence": "none"}
    else:
        results, network, data = _run_mnist(config, out, progress)
    models = [
        {"name": str(model), "source": network, "licence": "", "precision": "float32"}
        for model in results.summary["model"]
    ]
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_results(out, results, text, environment(models, [data]))


def _run_mnist(
    config: MnistConfig, out: Path, progress: bool
) -> tuple[ProbeResults, str, dict[str, str]]:
    images = load_images(config.data)
    data = {
        "name": images.name,
        "source": images.source,
        "licence": images.licence,
        "version": "",
        "content": images.content_hash,
    }
    if config.network == "bypass":
        results = run_bypass(images, seed=config.seed, device=config.device, progress=progress)
        return results, "128 dense layers, of which a connection skips 64", data
    plan = Plan.of(images, config.quick)
    results = run_convnet(
        images, plan, out, seed=config.seed, device=config.device, progress=progress
    )
    return results, f"convnet, {plan.epochs} epochs, learning rate {plan.learning_rate:g}", data


def report(out: Path) -> list[Path]:
    """Figures and page of an experiment's folder, from its tables. -> files written, page last

    Raises
    ------
    UserError
        A file is missing or damaged.
    """
    from llmprobe.reporting.figures import draw_all, save
    from llmprobe.reporting.page import write_report

    config, results, summary = _read(out)
    story = _story(config, out, results, summary)
    written = draw_all(results, summary, out / "figures")
    for name, (figure, _, _) in story.illustrations.items():
        written += save(figure, out / "figures", name)
    for figures in ("*.png", "*.svg"):
        remove_others(out / "figures", figures, written)
    facts = read_environment(out)
    models, datasets = facts.pop("models"), facts.pop("datasets")
    facts["images" if config.sanity == "mnist" else "data"] = datasets[0]["source"]
    page = write_report(
        out / "report.html",
        results,
        summary,
        models=models,
        title=f"Sanity experiment: {config.sanity.upper()}",
        config=(out / "config.yaml").read_text(encoding="utf-8"),
        environment=facts,
        command=command(config, out),
        permutations=config.permutations if isinstance(config, XorConfig) else None,
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
        words += [f"--{key}"] if value is True else [f"--{key}", str(value)]
    return shlex.join([*words, "--out", str(out)])


def terminal_text(out: Path, unicode: bool = True) -> str:
    """What an experiment found, in lines of at most 100 columns."""
    config, results, summary = _read(out)
    return _story(config, out, results, summary, unicode).text


def _read(out: Path) -> tuple[SanityConfig, pd.DataFrame, pd.DataFrame]:
    config = load(out)
    return config, read_table(out / "results.parquet"), read_table(out / "summary.parquet")


def _story(
    config: SanityConfig,
    out: Path,
    results: pd.DataFrame,
    summary: pd.DataFrame,
    unicode: bool = True,
) -> Story:
    if isinstance(config, XorConfig):
        found = Xor.load(out / XOR_FILE)
        return Story(found.findings, xor_figures(found), found.text(unicode))
    if config.network == "bypass":
        return bypass_story(results)
    return convnet_story(results, summary)
