"""After Alain & Bengio (2016, section 5.1): half of a deep network that training leaves behind."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from llmprobe.api import probe_network
from llmprobe.models.devices import resolve_device
from llmprobe.results.folder import Part, claim
from llmprobe.results.results import Results
from llmprobe.sanity.images import Images
from llmprobe.sanity.networks import device_of_probes, train
from llmprobe.sanity.parts import digest

LAYERS, UNITS, EVERY = 128, 128, 4
STEPS = (0, 100, 400, 1600)
"""Of training, before which the layers are probed: every ``EVERY``-th one."""
IMAGES = 4000
"""Of training and of test, that probes see at most."""


class BypassNetwork(nn.Module):
    """128 dense layers of 128 units, of which a connection skips the first 64.

    Training has a way past them to the second half, and little reason to make them useful.
    Leaky ReLUs, and weights by He et al. (2015), which keep the size of states from layer to layer.
    """

    def __init__(self, features: int, classes: int = 10) -> None:
        super().__init__()
        half = LAYERS // 2
        self.entry = nn.Sequential(nn.Flatten(), nn.Linear(features, UNITS))
        self.bypassed = _dense(range(1, half + 1))
        self.rest = _dense(range(half + 1, LAYERS + 1))
        self.logits = nn.Linear(UNITS, classes)

    def forward(self, images: Tensor) -> Tensor:
        """[n, 1, height, width] -> [n, classes]"""
        entered = self.entry(images)
        logits: Tensor = self.logits(self.rest(self.bypassed(entered) + entered))
        return logits


def _dense(numbers: range) -> nn.Sequential:
    layers = OrderedDict[str, nn.Module]()
    for number in numbers:
        layers[f"{number}_preact"] = dense = nn.Linear(UNITS, UNITS)
        layers[f"{number}"] = nn.LeakyReLU()
        nn.init.kaiming_normal_(dense.weight, a=0.01)
        nn.init.zeros_(dense.bias)
    return nn.Sequential(layers)


def run_bypass(
    images: Images, out: Path, *, seed: int = 0, device: str = "auto", progress: bool = True
) -> Results:
    """Probe every fourth layer of the network at some ``STEPS`` of its training by Adam.

    The models of the results are "step 0", "step 100", …. Those of each step are kept in ``out`` as
    soon as they are there; what is found there is not done again, save the training in between.

    Raises
    ------
    UserError
        The device cannot be used, the images do not suffice for probes, or ``out`` cannot be
        written.
    """
    place = resolve_device(device, "--device")
    seen = images.for_probes(IMAGES, IMAGES)
    claim(out)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = BypassNetwork(images.train[0].size, images.classes).to(place)
    ending = digest(images, seed, network=[LAYERS, UNITS, EVERY], probed=IMAGES)
    parts = {step: Part(out / "parts" / f"step-{step}-{ending}") for step in STEPS}
    found = {step: part.load() for step, part in parts.items()}

    def before_step(step: int) -> None:
        if step in found and found[step] is None:
            found[step] = results = probe_network(
                network,
                seen.inputs,
                seen.labels,
                layers=_probed(),
                test=seen.test,
                model=f"step {step}",
                dataset=images.name,
                controls=("majority",),
                permutations=0,
                description_length=False,
                device=device_of_probes(place),
                seed=seed,
                progress=progress,
            )
            parts[step].save(results)

    if None in found.values():
        batch_size = 64
        train(
            network,
            images.train,
            images.train_labels,
            torch.optim.Adam(network.parameters(), lr=1e-4),
            1 + STEPS[-1] // -(-len(images.train) // batch_size),
            batch_size=batch_size,
            seed=seed,
            before_step=before_step,
            progress=False,  # Most of the time is the probes', which show theirs.
        )
    return Results.concatenate([results for results in found.values() if results is not None])


def _probed() -> list[str]:
    """Input, entry, every fourth dense layer, and the logits."""
    half = LAYERS // 2
    return [
        "input",
        "entry",
        *(f"bypassed.{number}" for number in range(EVERY, half + 1, EVERY)),
        *(f"rest.{number}" for number in range(half + EVERY, LAYERS + 1, EVERY)),
        "logits",
    ]
