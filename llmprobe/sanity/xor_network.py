"""The 2-2-1 network on XOR: its output, its training and its initial weights.

XOR of 0 and 1 is |x − y| = ReLU(x − y) + ReLU(y − x), a network of two hidden units without biases.

The weights of a network are one array [3, 2]: those of hidden unit 1, those of hidden unit 2, and
the output's for each unit. Corners of the unit square are always in the order (0, 0), (1, 0),
(0, 1), (1, 1).
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from torch import nn

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
XOR = np.array([0, 1, 1, 0])

SEEDS = 100
STEPS = 5000
# Any ReLU(x − βy) with β ≥ 1 solves the corners. Steps this small end at β = 1, where (1, 1) no
# longer activates the unit; larger ones overshoot it, and the field is no longer |x − y|.
STEP_SIZE = 0.02


def hidden(points: np.ndarray, weights: np.ndarray, relu: bool = True) -> np.ndarray:
    """Compute the hidden states. Points [n, 2], weights [..., 3, 2] -> [..., n, 2]"""
    states: np.ndarray = points @ weights[..., :2, :].swapaxes(-1, -2)
    return np.maximum(states, 0) if relu else states


def predict(points: np.ndarray, weights: np.ndarray, relu: bool = True) -> np.ndarray:
    """Compute the output. Points [n, 2], weights [..., 3, 2] -> [..., n]"""
    output: np.ndarray = (hidden(points, weights, relu) @ weights[..., 2, :, None])[..., 0]
    return output


def loss(weights: np.ndarray, relu: bool = True) -> np.ndarray:
    """Compute the mean squared error at the four corners. Weights [..., 3, 2] -> [...]"""
    error: np.ndarray = ((predict(CORNERS, weights, relu) - XOR) ** 2).mean(axis=-1)
    return error


def gradient(weights: np.ndarray, relu: bool = True) -> np.ndarray:
    """Compute the gradient of the loss. Weights [..., 3, 2] -> [..., 3, 2]"""
    states = hidden(CORNERS, weights, relu)
    error = (predict(CORNERS, weights, relu) - XOR)[..., None] * 2 / len(CORNERS)
    reaching = error * weights[..., 2:, :]
    if relu:
        reaching = reaching * (states > 0)
    of_hidden = reaching.swapaxes(-1, -2) @ CORNERS
    return np.concatenate([of_hidden, error.swapaxes(-1, -2) @ states], axis=-2)


def train(start: np.ndarray, relu: bool = True) -> np.ndarray:
    """Descend the gradient from each start. [seeds, 3, 2] -> [STEPS + 1, seeds, 3, 2]"""
    path = np.empty((STEPS + 1, *start.shape))
    path[0] = start
    for step in range(STEPS):
        path[step + 1] = path[step] - STEP_SIZE * gradient(path[step], relu)
    return path


def network(weights: np.ndarray | None = None) -> nn.Sequential:
    """Build the 2-2-1 network in float32, with these weights [3, 2] or as PyTorch starts it."""
    module = nn.Sequential(
        OrderedDict(
            hidden_preact=nn.Linear(2, 2, bias=False),
            hidden=nn.ReLU(),
            output=nn.Linear(2, 1, bias=False),
        )
    )
    if weights is not None:
        values = torch.from_numpy(weights)
        module.load_state_dict({"hidden_preact.weight": values[:2], "output.weight": values[2:]})
    return module


def starts() -> np.ndarray:
    """Draw the weights of ``network()`` after ``torch.manual_seed(0)``, 1, … [SEEDS, 3, 2]"""
    weights = []
    with torch.random.fork_rng(devices=[]):
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            parts = [parameter.detach().double() for parameter in network().parameters()]
            weights.append(torch.cat(parts).numpy())
    return np.stack(weights)
