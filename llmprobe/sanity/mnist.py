"""Alain & Bengio (2016, section 3.5): a convnet on MNIST, probed after every operation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from llmprobe.api import probe_network
from llmprobe.ground.files import whole_file
from llmprobe.models.devices import resolve_device
from llmprobe.results.folder import Part, claim
from llmprobe.results.intervals import unit_interval
from llmprobe.results.results import Results
from llmprobe.sanity.images import ForProbes, Images
from llmprobe.sanity.networks import (
    POINTS,
    convnet,
    device_of_probes,
    section_3_5_optimizer,
    train,
)
from llmprobe.sanity.parts import digest

PROBE_IMAGES = 20_000
"""Training images that probes are fitted on at most, unless more are asked for."""
QUICK_IMAGES = 1500, 1000
"""Of training and of test, for the probes of a quick run."""


@dataclass(frozen=True)
class Plan:
    """How long the network is trained, and how many images its probes see."""

    epochs: int
    learning_rate: float
    probe_train: int
    """Training images that probes are fitted on."""
    probe_test: int
    """Test images that they are scored on."""

    @staticmethod
    def of(images: Images, quick: bool, probe_images: int | None = None) -> Plan:
        """Section 3.5's; small sets are gone through more often and faster."""
        n, m = len(images.train), len(images.test)
        few = n < 10_000
        epochs, learning_rate = (40, 0.05) if few else (10, 0.01)
        if quick:
            epochs, m = epochs // 4, min(m, QUICK_IMAGES[1])
        fitted = probe_images or (QUICK_IMAGES[0] if quick else PROBE_IMAGES)
        return Plan(epochs, learning_rate, min(n, fitted), m)


def run_convnet(
    images: Images, plan: Plan, out: Path, *, seed: int = 0, device: str = "auto",
    progress: bool = True,
) -> Results:  # fmt: skip
    """Probe the convnet before training (``untrained``) and after it (``trained``).

    The results of each, and the trained weights, are kept in ``out`` as soon as they are there;
    what is found there is not done again. The summary has the network's own accuracy too, with its
    interval (``network_accuracy``).

    Raises
    ------
    UserError
        The device cannot be used, the images do not suffice for probes, or ``out`` cannot be
        written.
    """
    place = resolve_device(device, "--device")
    seen = images.for_probes(plan.probe_train, plan.probe_test)
    claim(out)
    ending = digest(images, seed, plan=asdict(plan))
    height, width = images.train.shape[2:]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = convnet(height, width, images.classes).to(place)
    weights = out / "parts" / f"weights-{ending}.safetensors"
    parts = []
    for model in ("untrained", "trained"):
        part = Part(out / "parts" / f"{model}-{ending}")
        found = part.load()
        if found is None:
            if model == "trained":
                _trained(network, images, plan, weights, seed, progress)
            found = _probe(network, images, seen, model, seed, progress)
            part.save(found)
        parts.append(found)
    return Results.concatenate(parts)


def _trained(
    network: nn.Module, images: Images, plan: Plan, weights: Path, seed: int, progress: bool
) -> None:
    if weights.is_file():
        network.load_state_dict(load_file(weights))
        return
    train(
        network,
        images.train,
        images.train_labels,
        section_3_5_optimizer(network, plan.learning_rate),
        plan.epochs,
        decay=0.95,
        seed=seed,
        progress=progress,
    )
    with whole_file(weights) as partial:
        save_file(network.state_dict(), partial)


def _probe(
    network: nn.Module, images: Images, seen: ForProbes, model: str, seed: int, progress: bool
) -> Results:
    results = probe_network(
        network,
        seen.inputs,
        seen.labels,
        POINTS,
        test=seen.test,
        model=model,
        dataset=images.name,
        controls=("majority",),
        permutations=0,
        description_length=True,
        device=device_of_probes(next(network.parameters()).device),
        seed=seed,
        progress=progress,
    )
    accuracy, low, high = _accuracy(network, images)
    results.summary["network_accuracy"] = accuracy
    results.summary["network_accuracy_low"], results.summary["network_accuracy_high"] = low, high
    return results


@torch.no_grad()
def _accuracy(network: nn.Module, images: Images) -> tuple[float, float, float]:
    """Of the network itself, on all test images, with its 95 % interval."""
    device = next(network.parameters()).device
    network.eval()
    right, n = 0.0, len(images.test)
    for first in range(0, n, 256):
        some = slice(first, first + 256)
        predicted = network(torch.from_numpy(images.test[some]).to(device)).argmax(dim=1)
        right += (predicted.cpu().numpy() == images.test_labels[some]).sum() / n
    return right, *unit_interval(right, right * (1 - right) / n, n)
