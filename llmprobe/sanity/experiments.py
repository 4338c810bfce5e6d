"""The sanity experiments as run folders: how each is run, and what its report says."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import yaml
from rich.text import Text

from llmprobe.ground.errors import UserError
from llmprobe.models.devices import resolve_device
from llmprobe.reporting.description import Description, Illustrations
from llmprobe.results.folder import claimed, write_results
from llmprobe.results.results import Results
from llmprobe.runs.environment import environment
from llmprobe.runs.report import FOLDER_KINDS, FolderKind
from llmprobe.sanity import xor
from llmprobe.sanity.config import MnistConfig, SanityConfig, XorConfig, load
from llmprobe.sanity.image_findings import image_figures, image_findings, image_text
from llmprobe.sanity.image_networks import plan_of, run_network
from llmprobe.sanity.images import load_images, settled
from llmprobe.sanity.xor_figures import xor_figures


class Experiment(NamedTuple):
    """What a report shows of an experiment's run folder."""

    findings: Callable[[Results], list[str]]
    illustrations: Callable[[Results], Illustrations]
    text: Callable[[Results], str]
    """For the terminal, in lines of at most 100 columns."""


EXPERIMENTS = {
    "xor": Experiment(xor.xor_findings, xor_figures, xor.xor_text),
    "mnist": Experiment(image_findings, image_figures, image_text),
}
OWN_POINTS = {"xor": "hidden", "convnet": "fc1_postact", "bypass": "entry"}
"""For each network, a probe point that only its tables have."""


def run(config: SanityConfig, out: Path, progress: bool = True) -> None:
    """Run an experiment, and write its tables, config and environment into a run folder.

    Raises
    ------
    UserError
        The folder cannot be written, another process works there, the images cannot be read or are
        too few, or the device cannot be used.
    """
    if isinstance(config, XorConfig):
        with claimed(out):
            results = xor.probe_xor(progress)
            data = {
                "name": "xor",
                "source": "the four corners of the unit square",
                "licence": "none",
            }
            _write(out, config, results, "2-2-1, without biases, mean squared error", data)
        return
    # Before the images are read, which may have to be downloaded.
    resolve_device(config.device, "--device")
    config = config.model_copy(update={"data": settled(config.data)})
    images = load_images(config.data)
    plan = plan_of(images, config)
    images.for_probes(*plan.images)  # Wrong images are reported before there is a folder.
    with claimed(out):
        results = run_network(images, config, out, progress)
        data = {
            "name": images.name, "source": images.source, "licence": images.licence, "version": "",
            "content": images.content_hash,
        }  # fmt: skip
        _write(out, config, results, plan.about, data)


def _write(
    out: Path, config: SanityConfig, results: Results, network: str, data: Mapping[str, str]
) -> None:
    models = [
        {"name": str(model), "source": f"{network}, {model}", "licence": "", "precision": "float32"}
        for model in results.summary["model"]
    ]
    text = yaml.safe_dump(
        config.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True
    )
    facts = environment(models, [data])
    write_results(out, replace(results, config=text, environment=facts))


def command(config: SanityConfig, out: Path) -> str:
    """Return the command that runs the experiment again."""
    words = ["llmprobe", "sanity", config.sanity]
    for key, value in config.model_dump(exclude_defaults=True, exclude={"sanity"}).items():
        option = f"--{key.replace('_', '-')}"
        words += [option] if value is True else [option, str(value)]
    return shlex.join([*words, "--out", str(out)])


def _describe(run: Results) -> Description:
    config, experiment = _experiment_of(run)
    what = "XOR"
    if isinstance(config, MnistConfig):
        what = f"{config.network} on {run.summary['dataset'].iloc[0]}"
    return Description(
        title=f"Sanity experiment: {what}",
        command=command(config, run.folder),
        findings=experiment.findings(run),
        illustrations=experiment.illustrations(run),
        held_out=isinstance(config, MnistConfig),
    )


def _text(run: Results, _width: int, unicode: bool) -> Text:
    text = _experiment_of(run)[1].text(run)
    return Text(text if unicode else text.translate({ord("−"): "-", ord("·"): "*"}))


def _experiment_of(run: Results) -> tuple[SanityConfig, Experiment]:
    """Return the config and the experiment of a run folder.

    Raise ``UserError`` if its tables are of another experiment.
    """
    config = load(run.folder)
    network = "xor" if isinstance(config, XorConfig) else config.network
    if OWN_POINTS[network] not in set(run.table.get("layer_name", ())):
        raise UserError(
            f"{run.folder}: results.parquet and summary.parquet are not those of config.yaml; do "
            f"the experiment again: {command(config, run.folder)}"
        )
    return config, EXPERIMENTS[config.sanity]


FOLDER_KINDS.add("sanity", FolderKind(_describe, _text))
