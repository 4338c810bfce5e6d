"""The convnet of the experiment on images, and the training of networks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ExponentialLR

from llmprobe.ground.progress import Progress

POINTS = (
    *("input", "conv1_preact", "conv1_postact", "conv1_postpool", "conv2_preact", "conv2_postact"),
    *("conv2_postpool", "fc1_preact", "fc1_postact", "logits"),
)
"""Where the paper probes the convnet."""


def convnet(height: int, width: int, classes: int = 10) -> nn.Sequential:
    """The network of Alain & Bengio (2016, section 3.5), for images [n, 1, height, width].

    Two of convolution, ReLU and pooling, a dense layer with ReLU and dropout, and the logits;
    weights are drawn from a normal distribution of deviation 0.1, cut off at 0.2, biases are 0.
    Images of fewer than 20 pixels a side, such as scikit-learn's digits, get a smaller one of the
    same kind: kernels of 3 instead of 5, 16 and 32 channels instead of 32 and 64, 128 units
    instead of 512.
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


def section_3_5_optimizer(network: nn.Module, learning_rate: float = 0.01) -> Optimizer:
    """Gradient descent with momentum 0.9, and 5e-4 · ½ ‖w‖² over the parameters of dense layers."""
    of_dense = {
        id(values)
        for part in network.modules()
        if isinstance(part, nn.Linear)
        for values in part.parameters()
    }
    parameters: list[dict[str, Any]] = [
        {"params": [values], "weight_decay": 5e-4 if id(values) in of_dense else 0.0}
        for values in network.parameters()
    ]
    return SGD(parameters, lr=learning_rate, momentum=0.9)


def device_of_probes(place: torch.device) -> str:
    """That of their network, or the CPU where it lacks the float64 that probes compute in."""
    return "cpu" if place.type == "mps" else str(place)


def train(
    network: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    optimizer: Optimizer,
    epochs: int,
    *,
    decay: float = 1.0,
    batch_size: int = 64,
    seed: int = 0,
    before_step: Callable[[int], None] | None = None,
    progress: bool = True,
) -> None:
    """Minimise the cross-entropy, on the device that holds the network.

    Parameters
    ----------
    images
        [n, 1, height, width]
    labels
        Class numbers, each with an output of the network. [n]
    decay
        What the learning rate is multiplied with after each epoch.
    seed
        Of the order of the images, and of dropout.
    before_step
        Is told the number of each step before it, and of the one that would come after the last.
    """
    device = next(network.parameters()).device
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    schedule = ExponentialLR(optimizer, decay)
    order = np.random.default_rng(seed)
    step, steps = 0, -(-len(x) // batch_size) * epochs
    # Dropout draws from torch's own stream of random numbers.
    with torch.random.fork_rng(), Progress("training", steps, shown=progress) as bar:
        torch.manual_seed(seed)
        network.train()
        for _ in range(epochs):
            shuffled = torch.from_numpy(order.permutation(len(x)))
            for first in range(0, len(x), batch_size):
                if before_step is not None:
                    before_step(step)
                rows = shuffled[first : first + batch_size]
                loss = cross_entropy(network(x[rows].to(device)), y[rows].to(device))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                step += 1
                bar.advance(1)
            schedule.step()
        if before_step is not None:
            before_step(step)
    network.eval()
