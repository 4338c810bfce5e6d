"""Two networks on images, trained, and probed at some moments of their training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load, save_file
from torch import nn
from torch.optim import Adam
from torch.optim.lr_scheduler import ExponentialLR

from llmprobe.api.networks import probe_network
from llmprobe.extraction.network import NetworkStates
from llmprobe.ground.digests import read_back, written_together
from llmprobe.models.devices import resolve_device
from llmprobe.results.intervals import unit_interval
from llmprobe.results.results import Results
from llmprobe.runs.parts import RESULTS_VERSION, part_of, probed_once
from llmprobe.sanity.config import MnistConfig
from llmprobe.sanity.images import Images
from llmprobe.sanity.networks import (
    BATCH,
    CONVNET_POINTS,
    LAYERS,
    UNITS,
    BypassNetwork,
    convnet,
    section_3_5_schedule,
    train,
)  # fmt: skip

VERSION = 2
"""Raise when the same images and settings would give other numbers."""

PROBE_IMAGES = 20_000
"""The most training images that the convnet's probes are fitted on, unless more are asked for."""
QUICK_IMAGES = 1500, 1000
"""Training and test images for the probes of a quick run."""

WEIGHTS = "network.safetensors"
"""The file of a part with the network's weights at that moment."""

LINEAR = {"features": 512, "null": 0, "rank": False}
"""Options of the curved probe: fewer features and no p-value, since it is fitted at every point."""

EVERY = 4
"""The step, in layers, from one probed layer to the next in the network with a bypass."""
BYPASS_STEPS = (0, 100, 400, 1600)
"""Steps of that network's training before which it is probed."""
BYPASS_IMAGES = 4000
"""The most training images, and the most test images, that its probes see."""


@dataclass(frozen=True)
class Plan:
    """A network, how it is trained, and when and where it is probed."""

    about: str
    """The network in words."""
    build: Callable[[], nn.Module]
    schedule: Callable[[nn.Module], ExponentialLR]
    """The optimizer, and its learning rate from epoch to epoch."""
    moments: Mapping[int, str]
    """The number of a step before which the network is probed -> its name in the tables."""
    points: Sequence[str]
    """Where it is probed."""
    images: tuple[int, int]
    """Training and test images for the probes, at most."""
    description_length: bool


def plan_convnet(images: Images, config: MnistConfig) -> Plan:
    """Plan what section 3.5 describes; small sets get more epochs and a higher learning rate."""
    n, m = len(images.train), len(images.test)
    epochs, learning_rate = (40, 0.05) if n < 10_000 else (10, 0.01)
    epochs = epochs // 4 if config.quick else epochs
    fitted = config.probe_images or (QUICK_IMAGES[0] if config.quick else PROBE_IMAGES)
    height, width = images.train.shape[2:]
    return Plan(
        about=f"convnet (training: {epochs} epochs, learning rate {learning_rate:g})",
        build=lambda: convnet(height, width, images.classes),
        schedule=lambda network: section_3_5_schedule(network, learning_rate),
        moments={0: "untrained", epochs * -(-n // BATCH): "trained"},
        points=CONVNET_POINTS,
        images=(min(n, fitted), min(m, QUICK_IMAGES[1]) if config.quick else m),
        description_length=True,
    )


def plan_bypass(images: Images) -> Plan:
    """Plan what section 5.1 describes, with Adam, in some 1,600 steps."""
    features, numbers = images.train[0].size, range(EVERY, LAYERS + 1, EVERY)
    dense = [f"{'bypassed' if number <= LAYERS // 2 else 'rest'}.{number}" for number in numbers]
    return Plan(
        about=f"{LAYERS} dense layers, of which a connection skips {LAYERS // 2}",
        build=lambda: BypassNetwork(features, images.classes),
        schedule=lambda network: ExponentialLR(Adam(network.parameters(), lr=1e-4), 1.0),
        moments={step: f"step {step}" for step in BYPASS_STEPS},
        points=["input", "entry", *dense, "logits"],
        images=(BYPASS_IMAGES, BYPASS_IMAGES),
        description_length=False,
    )


def run_network(images: Images, config: MnistConfig, out: Path, progress: bool = True) -> Results:
    """Train a network on images, and probe it at the moments of its plan.

    Weights and results of each moment are kept in ``out``, a folder whose lease the caller holds;
    those that are there already are not computed again. The summary also has the network's own
    accuracy on all test images, with its 95 % interval (``network_accuracy``).

    Raises
    ------
    UserError
        The device cannot be used, or there are too few images for probes.
    """
    device = resolve_device(config.device, "--device")
    plan = plan_of(images, config)
    inputs, labels, test = images.for_probes(*plan.images)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = plan.build().to(device)
    key = {
        "version": [VERSION, RESULTS_VERSION], "torch": torch.__version__, "seed": config.seed,
        "images": images.content_hash, "probed": plan.images, "network": [plan.about, UNITS],
        "moments": list(plan.moments), "points": list(plan.points),
    } | ({"linear": True} if config.linear else {})  # fmt: skip
    parts = {model: part_of(out, model, key) for model in plan.moments.values()}
    files = {model: part.folder / WEIGHTS for model, part in parts.items()}

    def keep(step: int) -> None:
        if step in plan.moments:
            with written_together(parts[plan.moments[step]].folder) as new:
                weights = {name: values.cpu() for name, values in network.state_dict().items()}
                save_file(weights, new(WEIGHTS))

    if not all(map(_is_whole, files.values())):
        train(
            network, images, plan.schedule(network), max(plan.moments),
            seed=config.seed, before_step=keep, progress=progress,
        )  # fmt: skip

    def probe(model: str) -> Results:
        network.load_state_dict(load(read_back(files[model])))
        # Probes compute in float64, which MPS lacks.
        probe_device = "cpu" if device.type == "mps" else str(device)
        results = probe_network(
            network, inputs, labels, plan.points,
            test=test, model=model, dataset=images.name, controls=("majority",), permutations=0,
            description_length=plan.description_length, device=probe_device, seed=config.seed,
            linear={**LINEAR, "layers": range(len(plan.points))} if config.linear else False,
            progress=progress,
        )  # fmt: skip
        accuracy = _accuracy(network, images)
        for end, value in zip(("", "_low", "_high"), accuracy, strict=True):
            results.summary[f"network_accuracy{end}"] = value
        return results

    return Results.concatenate(
        [probed_once(part, partial(probe, model))[0] for model, part in parts.items()]
    )


def _is_whole(path: Path) -> bool:
    try:
        read_back(path)
    except (OSError, ValueError):
        return False
    return True


def plan_of(images: Images, config: MnistConfig) -> Plan:
    """Return the plan that a config asks for."""
    return plan_bypass(images) if config.network == "bypass" else plan_convnet(images, config)


def _accuracy(network: nn.Module, images: Images) -> tuple[float, float, float]:
    """Compute a network's own accuracy on all test images, with its 95 % interval."""
    logits = NetworkStates(network, images.test, ["logits"]).layer(0)
    right = float((logits.argmax(axis=1) == images.test_labels).mean())
    n = len(images.test)
    return right, *unit_interval(right, right * (1 - right) / n, n)
