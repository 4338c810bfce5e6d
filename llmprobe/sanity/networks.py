"""The networks of Alain & Bengio (2016), sections 3.5 and 5.1, and how networks are trained."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR

from llmprobe.ground.progress import Progress
from llmprobe.sanity.images import Images

CONVNET_POINTS = (
    *("input", "conv1_preact", "conv1_postact", "conv1_postpool", "conv2_preact", "conv2_postact"),
    *("conv2_postpool", "fc1_preact", "fc1_postact", "logits"),
)
"""Where the paper probes the convnet."""

LAYERS, UNITS = 128, 128
"""Dense layers of the network with a bypass, and the units of each."""
BATCH = 64
"""Images in a step of training."""


def convnet(height: int, width: int, classes: int = 10) -> nn.Sequential:
    """Build the network of Alain & Bengio (2016, section 3.5), for images [n, 1, height, width].

    It has two stages of convolution, ReLU and pooling, a dense layer with ReLU and dropout, and the
    logits. Weights are drawn from a normal distribution of standard deviation 0.1, cut off at ±0.2;
    biases are 0. Images of fewer than 20 pixels a side, such as scikit-learn's digits, get a
    smaller network of the same kind: kernels of 3 instead of 5, 16 and 32 channels instead of 32
    and 64, 128 units instead of 512.
    """
    small = min(height, width) < 20
    kernel, first, second, units = (3, 16, 32, 128) if small else (5, 32, 64, 512)
    features = second * (height // 4) * (width // 4)
    network = nn.Sequential(
        OrderedDict(
            conv1_preact=nn.Conv2d(1, first, kernel, padding="same"),
            conv1_postact=nn.ReLU(),
            conv1_postpool=nn.MaxPool2d(2),
            conv2_preact=nn.Conv2d(first, second, kernel, padding="same"),
            conv2_postact=nn.ReLU(),
            conv2_postpool=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1_preact=nn.Linear(features, units),
            fc1_postact=nn.ReLU(),
            dropout=nn.Dropout(0.5),
            logits=nn.Linear(units, classes),
        )
    )
    for name, values in network.named_parameters():
        if name.endswith("weight"):
            nn.init.trunc_normal_(values, std=0.1, a=-0.2, b=0.2)
        else:
            nn.init.zeros_(values)
    return network


def section_3_5_schedule(network: nn.Module, learning_rate: float = 0.01) -> ExponentialLR:
    """Build gradient descent with momentum 0.9, and a penalty 5e-4 · ½ ‖w‖² on dense layers.

    After each epoch the learning rate is multiplied by 0.95.
    """
    decayed = {nn.Linear: 5e-4, nn.Conv2d: 0.0}
    parameters: list[dict[str, Any]] = [
        {"params": list(part.parameters()), "weight_decay": decayed[type(part)]}
        for part in network.modules()
        if type(part) in decayed
    ]
    return ExponentialLR(SGD(parameters, lr=learning_rate, momentum=0.9), 0.95)


class BypassNetwork(nn.Module):
    """``LAYERS`` dense layers (Alain & Bengio 2016, section 5.1); a connection skips half of them.

    Training can reach the second half past the first, and has little reason to make the first one
    useful. ReLUs are leaky, and weights start as in He et al. (2015), which keeps the size of
    states from layer to layer.
    """

    def __init__(self, features: int, classes: int = 10) -> None:
        super().__init__()
        half = LAYERS // 2
        self.entry = nn.Sequential(nn.Flatten(), nn.Linear(features, UNITS))
        self.bypassed = _dense(range(1, half + 1))
        self.rest = _dense(range(half + 1, LAYERS + 1))
        self.logits = nn.Linear(UNITS, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits. [n, 1, height, width] -> [n, classes]"""
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


def train(
    network: nn.Module,
    images: Images,
    schedule: ExponentialLR,
    steps: int,
    *,
    seed: int = 0,
    before_step: Callable[[int], object] = lambda _: None,
    progress: bool = True,
) -> None:
    """Minimise the cross-entropy on the training images, on the device that holds the network.

    Parameters
    ----------
    schedule
        The optimizer, and its learning rate from epoch to epoch.
    seed
        The seed of the order of the images, and of dropout.
    before_step
        Is called with the number of each step before the step, and with ``steps`` after the last.
    """
    device, optimizer = next(network.parameters()).device, schedule.optimizer
    x, y = torch.from_numpy(images.train), torch.from_numpy(images.train_labels)
    order = np.random.default_rng(seed)
    # Dropout draws from torch's own stream of random numbers.
    with torch.random.fork_rng(), Progress("training", steps, shown=progress) as bar:
        torch.manual_seed(seed)
        network.train()
        for step in range(steps):
            first = step % -(-len(x) // BATCH) * BATCH
            if first == 0:
                shuffled = torch.from_numpy(order.permutation(len(x)))
                if step:
                    schedule.step()
            before_step(step)
            rows = shuffled[first : first + BATCH]
            loss = cross_entropy(network(x[rows].to(device)), y[rows].to(device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            bar.advance(1)
        before_step(steps)
    network.eval()
