"""XOR: a layer of two hidden units makes separable what no line separates.

    results, found = run_xor()
    print(found.text())

Minsky and Papert (1969, "Perceptrons") have the linear half of the story; Goodfellow, Bengio and
Courville (2016, "Deep Learning", section 6.1) the hidden layer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from itertools import product
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from llmprobe.api import probe_network
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import whole_file
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

LEARNED = 1e-4
"""A mean squared error at the corners below this counts as learned."""
SAME = 1e-2
"""Losses and outputs that are closer than this count as the same."""

FRAMES = 6
PERMUTATIONS = 100
SAMPLE, SPREAD = 400, 0.2
"""Points that are probed, since four cannot be cross-validated: so many, uniform in squares that
reach this far to each side of their corners."""
NEARLY_NO_PENALTY = 1e-9
_ASCII = {ord("−"): "-", ord("·"): "*"}

OUTCOMES = {
    "learned": 0.0,
    "one corner": 1 / 4,
    "linear": 1 / 3,
    "silent": 1 / 2,
}
"""Where training ends, and the loss there: XOR; 1 at only one of (1, 0) and (0, 1); (x + y) / 3,
the best without a ReLU; 0 at all corners, with both units dead."""


def best_line(points: np.ndarray) -> tuple[np.ndarray, int]:
    """The line [a, b, c] with a·u + b·v + c > 0 on the side of XOR = 1, and how many are right.

    Points [4, 2] are where the corners went. Logistic regression almost without penalty separates
    whatever a line can separate, so it is given every labelling; among those that it reproduces
    with the most labels right, the one of least loss has the widest margin.
    """
    labellings = np.array([labels for labels in product([0, 1], repeat=4) if 0 < sum(labels) < 4])
    fits = fit_many(points, labellings.T, l2=NEARLY_NO_PENALTY)
    given = (points @ fits.coef + fits.intercept > 0).T
    right = (given == XOR).sum(axis=1)
    best = int(np.lexsort((fits.loss, -right))[0])
    return np.append(fits.coef[:, best], fits.intercept[best]), int(right[best])


@dataclass(frozen=True)
class Xor:
    """What was found; the networks of all seeds, so that all else follows from them."""

    start: np.ndarray
    """Weights before training. [seeds, 3, 2]"""
    trained: np.ndarray
    """And after. [seeds, 3, 2]"""
    linear: np.ndarray
    """After training without the ReLU, from the same start. [seeds, 3, 2]"""
    seed: int
    """The network that is shown: the first that learns."""
    loss_curve: np.ndarray
    """Its loss before each step, and after the last. [STEPS + 1]"""
    frame_steps: np.ndarray
    """Steps, from 0 to the one where it has learned, between which its hidden corners move equally
    far. [FRAMES]"""
    frames: np.ndarray
    """Its weights at those. [FRAMES, 3, 2]"""
    regression: np.ndarray
    """Linear regression on the corners: its slopes in x and y, and its intercept. [3]"""
    lines: np.ndarray
    """The best line in the input plane, the untrained and the trained hidden plane. [3, 3]"""
    right: np.ndarray
    """Corners on the right side of those. [3]"""
    separable: np.ndarray
    """Whether a line separates the hidden corners, before and after training. [2, seeds]"""
    points: np.ndarray
    """The sample that is probed. [SAMPLE, 2]"""
    labels: np.ndarray
    """XOR of their corners. [SAMPLE]"""
    layer_names: np.ndarray
    """What is probed. [layers]"""
    accuracy: np.ndarray
    """Cross-validated, of the untrained and the trained network. [2, layers]"""

    @cached_property
    def losses(self) -> np.ndarray:
        """Of all seeds, after training. [seeds]"""
        return loss(self.trained)

    @cached_property
    def learned(self) -> np.ndarray:
        """[seeds]"""
        return self.losses < LEARNED

    @cached_property
    def outcomes(self) -> np.ndarray:
        """The name of each seed's end, or "unfinished" if its loss is at none of them. [seeds]"""
        ends = np.array(list(OUTCOMES.values()))
        distance = np.abs(self.losses[:, None] - ends)
        named = np.array(list(OUTCOMES))[distance.argmin(axis=1)]
        return np.where(distance.min(axis=1) < SAME, named, "unfinished")

    @cached_property
    def dead(self) -> np.ndarray:
        """Units that are 0 at every corner, after training. [seeds]"""
        units: np.ndarray = (hidden(CORNERS, self.trained) == 0).all(axis=-2).sum(axis=-1)
        return units

    @cached_property
    def count(self) -> dict[str, int]:
        """Seeds of each end."""
        return {end: int((self.outcomes == end).sum()) for end in OUTCOMES}

    @cached_property
    def field_error(self) -> np.ndarray:
        """The largest distance from |x − y| in the unit square, a grid of 101 × 101. [seeds]"""
        axis = np.linspace(0, 1, 101)
        grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
        distance = np.abs(predict(grid, self.trained) - np.abs(grid[:, 0] - grid[:, 1]))
        largest: np.ndarray = distance.max(axis=-1)
        return largest

    def regress(self, points: np.ndarray) -> np.ndarray:
        """Linear regression's prediction. [n, 2] -> [n]"""
        prediction: np.ndarray = points @ self.regression[:2] + self.regression[2]
        return prediction

    @property
    def findings(self) -> list[str]:
        """Sentences, the linear models first."""
        n, count = len(self.losses), self.count
        on_input, untrained_right, trained_right = self.right.tolist()
        read = dict(zip(self.layer_names.tolist(), self.accuracy.T.tolist(), strict=True))
        before, after = self.separable.sum(axis=1).tolist()
        exactly = ", exactly those that learn" if (self.separable[1] == self.learned).all() else ""
        said = sorted({f"{value:.2f}" for value in self.regress(CORNERS)})
        linear = np.abs(predict(CORNERS, self.linear, relu=False) - CORNERS.sum(axis=1) / 3)
        return [
            f"Linear regression predicts {' or '.join(said)} at the four corners.",
            f"Without the ReLU, {(linear.max(axis=1) < SAME).sum()} of {n} networks end as "
            f"(x + y)/3, with a mean squared error of {loss(self.linear, relu=False).mean():.2f} "
            "(0.5 everywhere has 0.25, but takes a bias).",
            f"With the ReLU, seed {self.seed}, the first that learns, is after {STEPS:,} steps of "
            f"gradient descent {rescaled(self.trained[self.seed])}, which is |x − y| to within "
            f"{_rounded_up(self.field_error[self.seed])} in the whole unit square.",
            "At the corners any ReLU(x − βy) + ReLU(y − γx) with β and γ of 1 or more would do; "
            "from these starts, steps this small end close to 1, where (1, 1) no longer activates "
            "a unit.",
            f"On the inputs no line has more than {on_input} of the 4 corners on their right side. "
            f"On the hidden states of this network the best line has {untrained_right} before "
            f"training and {trained_right} after it.",
            f"A probe on {len(self.labels)} points around the corners has an accuracy of "
            f"{read['input'][1]:.2f} on the inputs (chance is 0.50; below it, since with nothing "
            "to read a probe leans to what the scored fold has less of), "
            f"{read['hidden_preact'][1]:.2f} before the trained ReLU and {read['hidden'][1]:.2f} "
            f"after it; after the ReLU of the untrained network it has {read['hidden'][0]:.2f}.",
            f"{count['learned']} of {n} seeds learn, each |x − y| to within "
            f"{_rounded_up(self.field_error[self.learned].max())}. Of the others, "
            f"{count['one corner']} answer 1 at only one of (1, 0) and (0, 1), {count['linear']} "
            f"end as (x + y)/3, as if without the ReLU, and {count['silent']} answer 0 at every "
            f"corner; {(self.dead[~self.learned] > 0).sum()} of these {(~self.learned).sum()} have "
            "a dead unit, or two.",
            f"A line separates the hidden corners of {before} of the {n} networks before training "
            f"and of {after} after it{exactly}.",
        ]

    def text(self, unicode: bool = True) -> str:
        """Weights, predictions and probes, in lines of at most 100 columns.

        Parameters
        ----------
        unicode
            Whether the output can show more than ASCII.
        """
        shown, n, count = self.trained[self.seed], len(self.losses), self.count
        models = {
            "linear regression": self.regress(CORNERS),
            "without the ReLU": predict(CORNERS, self.linear[self.seed], relu=False),
            "with the ReLU": predict(CORNERS, shown),
        }
        corners = "".join(f"{f'({x:.0f}, {y:.0f})':>9}" for x, y in CORNERS)
        lines = [
            f"seed {self.seed}     {formula(shown)}",
            f"rescaled   {rescaled(shown)}",
            "by hand    ReLU(x − y) + ReLU(y − x) = |x − y|",
            "",
            f"{'prediction':<20}{corners}   mean squared error",
            f"{'XOR':<20}" + "".join(f"{label:>9}" for label in XOR),
        ]
        for name, predicted in models.items():
            # Adding 0 turns a −0 that rounding leaves into 0.
            numbers = "".join(f"{value + 0.0:9.2f}" for value in predicted.round(2))
            lines.append(f"{name:<20}{numbers}{((predicted - XOR) ** 2).mean():21.2f}")
        lines += ["", f"{'probe accuracy':<16}" + "".join(f"{x:>15}" for x in self.layer_names)]
        for name, accuracy in zip(("untrained", "trained"), self.accuracy, strict=True):
            lines.append(f"{name:<16}" + "".join(f"{value:15.2f}" for value in accuracy))
        lines += [
            "",
            f"Of {n} seeds, {count['learned']} learn, {count['one corner']} miss one corner, "
            f"{count['linear']} end as (x + y)/3, {count['silent']} answer 0 at every corner.",
        ]
        text = "\n".join(lines)
        return text if unicode else text.translate(_ASCII)

    def save(self, path: Path) -> None:
        """Write all arrays into one NPZ file, whole or not at all."""
        with whole_file(path) as partial, partial.open("wb") as file:
            np.savez(file, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Xor:
        """Read what ``save`` wrote.

        Raises
        ------
        UserError
            There is no such file, or it is another one.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {field.name: file[field.name] for field in fields(cls)}
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; `llmprobe sanity xor` writes it") from None
        except (OSError, ValueError, KeyError, BadZipFile, EOFError):
            raise UserError(f"{path}: not what `llmprobe sanity xor` writes") from None
        return cls(**{**arrays, "seed": int(arrays["seed"])})


def run_xor(progress: bool = True) -> tuple[Results, Xor]:
    """Train, and probe the first network that learns, before and after its training.

    The results are those of a run on two models, ``untrained`` and ``trained``, and one dataset,
    ``xor``. Deterministic; some seconds on two cores.
    """
    start = starts()
    path, linear = train(start), train(start, relu=False)[-1]
    seed = int(np.flatnonzero(loss(path[-1]) < LEARNED)[0])
    own = path[:, seed]
    loss_curve = loss(own)
    way = hidden(CORNERS, own[: int(np.argmax(loss_curve < LEARNED)) + 1])
    frame_steps = _evenly(way)
    points, labels = _sample()
    results = Results.concatenate(
        [
            probe_network(
                network(weights),
                torch.from_numpy(points).float(),
                labels,
                model=model,
                dataset="xor",
                progress=progress,
                permutations=PERMUTATIONS,
                description_length=True,
            )
            for model, weights in (("untrained", own[0]), ("trained", own[-1]))
        ]
    )
    accuracy = results.table.pivot(index="model", columns="layer", values="accuracy")
    best = [best_line(plane) for plane in (CORNERS, *hidden(CORNERS, own[[0, -1]]))]
    found = Xor(
        start=start,
        trained=path[-1],
        linear=linear,
        seed=seed,
        loss_curve=loss_curve,
        frame_steps=frame_steps,
        frames=own[frame_steps],
        regression=np.linalg.lstsq(np.column_stack([CORNERS, np.ones(4)]), XOR, rcond=None)[0],
        lines=np.stack([line for line, _ in best]),
        right=np.array([right for _, right in best]),
        separable=np.array(
            [
                [best_line(plane)[1] == 4 for plane in hidden(CORNERS, path[step])]
                for step in (0, -1)
            ]
        ),
        points=points,
        labels=labels,
        layer_names=np.array(results.table.sort_values("layer")["layer_name"].unique().tolist()),
        accuracy=accuracy.loc[["untrained", "trained"]].to_numpy(float),
    )
    return results, found


def _evenly(states: np.ndarray) -> np.ndarray:
    """Steps between which the points [steps, n, d] go equal parts of their way. [FRAMES]"""
    moves = np.sqrt((np.diff(states, axis=0) ** 2).sum(axis=(1, 2)))
    way = np.append(0, np.cumsum(moves))
    inner = np.searchsorted(way, np.linspace(0, way[-1], FRAMES)[1:-1])
    return np.concatenate([[0], inner, [len(states) - 1]])


def _sample() -> tuple[np.ndarray, np.ndarray]:
    """Points around each corner, equally many, and their labels. [SAMPLE, 2], [SAMPLE]"""
    corner = np.arange(SAMPLE) % len(CORNERS)
    noise = np.random.default_rng(0).uniform(-SPREAD, SPREAD, (SAMPLE, 2))
    return CORNERS[corner] + noise, XOR[corner]


def formula(weights: np.ndarray) -> str:
    """Weights [3, 2] as ``1.16·ReLU(0.86x − 0.86y) + …``."""
    return " + ".join(
        f"{out:.2f}·ReLU({_term(x, 'x')} {'−' if y < 0 else '+'} {_term(abs(y), 'y')})"
        for (x, y), out in zip(weights[:2], weights[2], strict=True)
    )


def rescaled(weights: np.ndarray) -> str:
    """The same function of a network that learned, its units as multiples of ReLU(x − βy)."""
    units = []
    for (x, y), out in zip(weights[:2], weights[2], strict=True):
        (plus, up), (minus, down) = (("x", x), ("y", y)) if x > y else (("y", y), ("x", x))
        units.append(f"{out * up:.2f}·ReLU({plus} − {-down / up:.2f}{minus})")
    return " + ".join(sorted(units, key=lambda unit: "ReLU(y" in unit))


def _term(weight: float, name: str) -> str:
    return f"{weight:.2f}{name}".replace("-", "−")


def _rounded_up(value: float) -> str:
    """To one digit: a bound that holds."""
    unit = 10 ** np.floor(np.log10(value))
    return f"{np.ceil(value / unit) * unit:.1g}"
