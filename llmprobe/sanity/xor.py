"""XOR: a hidden layer of two units makes separable what no line separates.

    train_all()   # 100 networks
    probe_xor()   # one of them, before and after its training

Minsky and Papert (1969, "Perceptrons") have the linear half of the story; Goodfellow, Bengio and
Courville (2016, "Deep Learning", section 6.1) the hidden layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product

import numpy as np
import pandas as pd
import torch

from llmprobe.api.networks import probe_network
from llmprobe.probing.fit_many import fit_many
from llmprobe.results.results import Results
from llmprobe.sanity.xor_network import (
    CORNERS,
    STEPS,
    XOR,
    hidden,
    loss,
    network,
    predict,
    starts,
    train,
)

POINTS = ("input", "hidden_preact", "hidden", "output")
"""Where the network is probed."""
LEARNED = 1e-4
"""A mean squared error at the corners below this counts as learned."""
SAME = 1e-2
"""Losses and outputs that are closer than this count as the same."""
PERMUTATIONS = 100
SAMPLE, SPREAD = 400, 0.2
"""The number of points that are probed, since four cannot be cross-validated, and how far the
squares around the corners, in which they are uniform, reach to each side."""
NEARLY_NO_PENALTY = 1e-9

OUTCOMES = {"learned": 0.0, "one corner": 1 / 4, "linear": 1 / 3, "silent": 1 / 2}
"""The functions where training ends, and the loss of each: XOR; 1 at only one of (1, 0) and (0, 1);
(x + y) / 3, the best without a ReLU; 0 at all corners, with both units dead."""


@dataclass(frozen=True)
class Xor:
    """The weights of the networks of all seeds, and what follows from them."""

    start: np.ndarray
    """Weights before training. [seeds, 3, 2]"""
    trained: np.ndarray
    """Weights after training. [seeds, 3, 2]"""
    linear: np.ndarray
    """Weights after training without the ReLU, from the same start. [seeds, 3, 2]"""
    seed: int
    """The network that is shown: the first that learns."""
    path: np.ndarray
    """Weights of that network before each step, and after the last. [STEPS + 1, 3, 2]"""

    @cached_property
    def losses(self) -> np.ndarray:
        """Losses of all seeds after training. [seeds]"""
        return loss(self.trained)

    @cached_property
    def learned(self) -> np.ndarray:
        """Which seeds have learned XOR. [seeds] bool"""
        return self.losses < LEARNED

    @cached_property
    def outcomes(self) -> np.ndarray:
        """The name of each seed's outcome, or "unfinished" if its loss is that of none. [seeds]"""
        distance = np.abs(self.losses[:, None] - list(OUTCOMES.values()))
        named = np.array(list(OUTCOMES))[distance.argmin(axis=1)]
        return np.where(distance.min(axis=1) < SAME, named, "unfinished")

    @cached_property
    def count(self) -> dict[str, int]:
        """How many seeds have each outcome."""
        return {end: int((self.outcomes == end).sum()) for end in OUTCOMES}

    @cached_property
    def dead(self) -> np.ndarray:
        """How many units are 0 at every corner after training. [seeds]"""
        units: np.ndarray = (hidden(CORNERS, self.trained) == 0).all(axis=-2).sum(axis=-1)
        return units

    @cached_property
    def field_error(self) -> np.ndarray:
        """The largest distance from |x − y| on a grid of 101 × 101 in the unit square. [seeds]"""
        grid = np.mgrid[0:1:101j, 0:1:101j].reshape(2, -1).T
        distance = np.abs(predict(grid, self.trained) - np.abs(grid[:, 0] - grid[:, 1]))
        largest: np.ndarray = distance.max(axis=-1)
        return largest


@cache
def train_all() -> Xor:
    """Train the networks of all seeds, with and without the ReLU. Deterministic; takes a second."""
    start = starts()
    path, linear = train(start), train(start, relu=False)[-1]
    seed = int(np.flatnonzero(loss(path[-1]) < LEARNED)[0])
    return Xor(start, path[-1], linear, seed, path[:, seed].copy())


def probe_xor(progress: bool = True) -> Results:
    """Probe the first network that learns, before (``untrained``) and after (``trained``)."""
    points, labels = sample()
    inputs, path = torch.from_numpy(points).float(), train_all().path

    def probe(model: str, weights: np.ndarray) -> Results:
        return probe_network(
            network(weights), inputs, labels, model=model, dataset="xor", progress=progress,
            permutations=PERMUTATIONS, description_length=True,
        )  # fmt: skip

    return Results.concatenate([probe("untrained", path[0]), probe("trained", path[-1])])


def sample() -> tuple[np.ndarray, np.ndarray]:
    """Draw points around each corner, equally many, and their labels. [SAMPLE, 2], [SAMPLE]"""
    corner = np.arange(SAMPLE) % len(CORNERS)
    noise = np.random.default_rng(0).uniform(-SPREAD, SPREAD, (SAMPLE, 2))
    return CORNERS[corner] + noise, XOR[corner]


def regress(points: np.ndarray) -> np.ndarray:
    """Predict with linear regression on the corners. [n, 2] -> [n]"""
    x, y, intercept = np.linalg.lstsq(np.column_stack([CORNERS, np.ones(4)]), XOR, rcond=None)[0]
    prediction: np.ndarray = points @ [x, y] + intercept
    return prediction


def best_line(points: np.ndarray) -> tuple[np.ndarray, int]:
    """Find the line with the most corners on their right sides. -> [a, b, c], how many are right

    Points [4, 2] are where the corners went; a·u + b·v + c > 0 on the side of XOR = 1. Logistic
    regression almost without penalty separates whatever a line can separate, so it is fitted to
    every labelling. Of the fits with the most corners right, the one of least loss has the widest
    margin.
    """
    labellings = np.array([labels for labels in product([0, 1], repeat=4) if 0 < sum(labels) < 4])
    fits = fit_many(points, labellings.T, l2=NEARLY_NO_PENALTY)
    right = ((points @ fits.coef + fits.intercept > 0).T == XOR).sum(axis=1)
    best = int(np.lexsort((fits.loss, -right))[0])
    return np.append(fits.coef[:, best], fits.intercept[best]), int(right[best])


def separable(weights: np.ndarray) -> np.ndarray:
    """Whether a line separates the hidden corners of each network. [seeds, 3, 2] -> [seeds]"""
    separated = []
    for plane in hidden(CORNERS, weights):
        fit = fit_many(plane, XOR[:, None], l2=NEARLY_NO_PENALTY)
        separated.append((((plane @ fit.coef + fit.intercept)[:, 0] > 0) == XOR).all())
    return np.array(separated)


def xor_findings(run: Results) -> list[str]:
    """Return the findings as sentences, the linear models first."""
    xor, accuracy = train_all(), _accuracies(run)
    n, count, others = len(xor.losses), xor.count, ~xor.learned
    before, after = separable(xor.start), separable(xor.trained)
    on_input, right_before, right_after = (
        best_line(plane)[1] for plane in (CORNERS, *hidden(CORNERS, xor.path[[0, -1]]))
    )
    linear = np.abs(predict(CORNERS, xor.linear, relu=False) - CORNERS.sum(axis=1) / 3)
    return [
        f"Linear regression predicts {regress(CORNERS).mean():.2f} at each of the four corners.",
        f"Without the ReLU, {(linear.max(axis=1) < SAME).sum()} of {n} networks end as "
        f"(x + y)/3, with a mean squared error of {loss(xor.linear, relu=False).mean():.2f} "
        "(0.5 everywhere has 0.25, but takes a bias).",
        f"With the ReLU, seed {xor.seed}, the first that learns, is after {STEPS:,} steps of "
        f"gradient descent {rescaled(xor.trained[xor.seed])}. In the whole unit square it is at "
        f"most {xor.field_error[xor.seed]:.5f} away from |x − y|.",
        "At the corners any ReLU(x − βy) + ReLU(y − γx) with β and γ of 1 or more would do; "
        "from these starts, steps this small end close to 1, where (1, 1) no longer activates "
        "a unit.",
        f"On the inputs no line has more than {on_input} of the 4 corners on their right side. On "
        f"the hidden states of this network the best line has {right_before} before training and "
        f"{right_after} after it.",
        f"A probe on {SAMPLE} points around the corners has an accuracy of "
        f"{accuracy['trained', 'input']:.2f} on the inputs (chance is 0.50; below it, since a "
        "probe with nothing to read prefers the class that the scored fold has less of), "
        f"{accuracy['trained', 'hidden_preact']:.2f} before the trained ReLU and "
        f"{accuracy['trained', 'hidden']:.2f} after it; after the ReLU of the untrained network it "
        f"has {accuracy['untrained', 'hidden']:.2f}.",
        f"{count['learned']} of {n} seeds learn, each at most "
        f"{xor.field_error[xor.learned].max():.5f} away from |x − y|. Of the others, "
        f"{count['one corner']} answer 1 at only one of (1, 0) and (0, 1), {count['linear']} "
        f"end as (x + y)/3, as if without the ReLU, and {count['silent']} answer 0 at every "
        f"corner; {(xor.dead[others] > 0).sum()} of these {others.sum()} have a dead unit, or two.",
        f"A line separates the hidden corners of {before.sum()} of the {n} networks before "
        f"training and of {after.sum()} after it"
        f"{', exactly those that learn' if (after == xor.learned).all() else ''}.",
    ]


def xor_text(run: Results) -> str:
    """Write weights, predictions and probes in lines of at most 100 columns."""
    xor = train_all()
    shown, count = xor.trained[xor.seed], xor.count
    predictions = pd.DataFrame(
        {
            "linear regression": regress(CORNERS),
            "without the ReLU": predict(CORNERS, xor.linear[xor.seed], relu=False),
            "with the ReLU": predict(CORNERS, shown),
        },
        index=[f"({x:.0f}, {y:.0f})" for x, y in CORNERS],
    ).T
    error = ((predictions - XOR) ** 2).mean(axis=1)
    # Adding 0 turns a −0 that rounding leaves into 0.
    table = predictions.assign(**{"mean squared error": error}).round(2) + 0.0
    return "\n".join(
        [
            f"seed {xor.seed}     {formula(shown)}",
            f"rescaled   {rescaled(shown)}",
            "by hand    ReLU(x − y) + ReLU(y − x) = |x − y|",
            "",
            "prediction (XOR: 0, 1, 1, 0)",
            _lines(table),
            "",
            "probe accuracy",
            _lines(_accuracies(run).unstack()[list(POINTS)].loc[["untrained", "trained"]]),
            "",
            f"Of {len(xor.losses)} seeds, {count['learned']} learn, {count['one corner']} miss one "
            f"corner, {count['linear']} end as (x + y)/3, {count['silent']} answer 0 at every "
            "corner.",
        ]
    )


def _lines(table: pd.DataFrame) -> str:
    """Write a table in columns that are wide enough to tell apart."""
    table = table.rename_axis(index=None, columns=None)
    return table.to_string(float_format="{:.2f}".format, col_space=8)


def _accuracies(run: Results) -> pd.Series[float]:
    """Return accuracies by model and probe point."""
    return run.table.set_index(["model", "layer_name"])["accuracy"]


def formula(weights: np.ndarray) -> str:
    """Write weights [3, 2] as ``1.16·ReLU(0.86x − 0.86y) + …``."""
    units = [
        f"{out:.2f}·ReLU({x:.2f}x {'-' if y < 0 else '+'} {abs(y):.2f}y)"
        for (x, y), out in zip(weights[:2], weights[2], strict=True)
    ]
    return " + ".join(units).replace("-", "−")


def rescaled(weights: np.ndarray) -> str:
    """Write the function of a network that learned, with units as multiples of ReLU(x − βy)."""
    units = []
    for (x, y), out in zip(weights[:2], weights[2], strict=True):
        (plus, up), (minus, down) = (("x", x), ("y", y)) if x > y else (("y", y), ("x", x))
        units.append(f"{out * up:.2f}·ReLU({plus} − {-down / up:.2f}{minus})")
    return " + ".join(sorted(units, key=lambda unit: "ReLU(y" in unit))
