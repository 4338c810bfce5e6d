"""After Alain & Bengio (2016, section 5.1): half of a deep network that training leaves behind."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor, nn

from llmprobe.api import ProbeCallback
from llmprobe.models.devices import resolve_device
from llmprobe.probing.protocol import ProbeResults
from llmprobe.sanity.images import Images
from llmprobe.sanity.networks import CLASSES, train

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

    def __init__(self, features: int) -> None:
        super().__init__()
        half = LAYERS // 2
        self.entry = nn.Sequential(nn.Flatten(), nn.Linear(features, UNITS))
        self.bypassed = _dense(range(1, half + 1))
        self.rest = _dense(range(half + 1, LAYERS + 1))
        self.logits = nn.Linear(UNITS, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """[n, 1, height, width] -> [n, 10]"""
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
    images: Images, *, seed: int = 0, device: str = "auto", progress: bool = True
) -> ProbeResults:
    """Probe every fourth layer of the network at some ``STEPS`` of its training by Adam.

    The models of the results are "step 0", "step 100", ….

    Raises
    ------
    UserError
        The device cannot be used, or the images do not suffice for probes.
    """
    place = resolve_device(device, "--device")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = BypassNetwork(images.train[0].size).to(place)
    half = LAYERS // 2
    n = min(len(images.train), IMAGES)
    labels = np.concatenate([images.train_labels[:n], images.test_labels[:IMAGES]])
    callback = ProbeCallback(
        network,
        np.concatenate([images.train[:n], images.test[:IMAGES]]),
        labels,
        STEPS,
        layers=[
            "input",
            "entry",
            *(f"bypassed.{i}" for i in range(EVERY, half + 1, EVERY)),
            *(f"rest.{i}" for i in range(half + EVERY, LAYERS + 1, EVERY)),
            "logits",
        ],
        test=np.arange(len(labels)) >= n,
        dataset=images.name,
        controls=("majority",),
        permutations=0,
        description_length=False,
        seed=seed,
        progress=progress,
    )
    batch_size = 64
    train(
        network,
        images.train,
        images.train_labels,
        torch.optim.Adam(network.parameters(), lr=1e-4),
        1 + STEPS[-1] // -(-len(images.train) // batch_size),
        batch_size=batch_size,
        seed=seed,
        before_step=callback,
        progress=progress,
    )
    return callback.results
