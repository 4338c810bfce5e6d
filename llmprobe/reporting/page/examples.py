"""Which examples the page shows, and what every layer says of each, in bytes."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmprobe.results.predictions import LayerScores

POINT_BYTES = 3_300_000
"""The most bytes that the points of all curves take on the page, before base64."""
MOST_DRAWN = 2000
HARDEST = 25
"""Of each kind of hard example, this many are listed even if they are not drawn."""
MOST_CLASSES = 256
"""A byte can tell this many apart."""
REACH = 4.0
"""How many standard deviations out points are drawn; those beyond are at the edge."""
_MINIMUM = 50
"""Fewer points show little."""


@dataclass(frozen=True)
class ExampleSample:
    """The examples of one dataset that the page knows."""

    rows: np.ndarray
    """Their indices among the scored examples; those that are drawn come first. [m]"""
    n_drawn: int
    """How many of them are drawn; the others are only listed."""
    scores: LayerScores
    """The first model's scores of all examples of the dataset."""

    @property
    def examples(self) -> np.ndarray:
        """Return the numbers of the examples. [m]"""
        numbers: np.ndarray = self.scores.examples[self.rows]
        return numbers

    @property
    def labels(self) -> np.ndarray:
        """Return the labels of the examples as text. [m]"""
        labels: np.ndarray = self.scores.labels[self.rows]
        return labels

    @property
    def n(self) -> int:
        """Return how many examples there are."""
        return len(self.scores.examples)

    def fits(self, scores: LayerScores) -> bool:
        """Whether the scores are of the same examples and classes."""
        return (
            len(scores.examples) == self.n
            and scores.classes == self.scores.classes
            and np.array_equal(scores.examples[self.rows], self.examples)
        )


def sample_examples(scores: Mapping[tuple[str, str], LayerScores]) -> dict[str, ExampleSample]:
    """Choose for each dataset a random part, the same for all models, and the hardest examples.

    Parameters
    ----------
    scores
        By model and title of the dataset. The examples are those of the first model on a dataset;
        models with others are left out.
    """
    by_dataset: dict[str, list[LayerScores]] = {}
    for (_, dataset), of_curve in scores.items():
        if len(of_curve.classes) <= MOST_CLASSES:
            by_dataset.setdefault(dataset, []).append(of_curve)
    size = sum(bytes_each(of_curve) for group in by_dataset.values() for of_curve in group)
    room = POINT_BYTES // max(size, 1)
    if room < _MINIMUM:
        return {}
    samples = {}
    for dataset, group in by_dataset.items():
        n = len(group[0].examples)
        if n <= min(MOST_DRAWN, room):
            rows = drawn = np.arange(n)
        else:
            kinds = [
                kind for of_curve in group if len(of_curve.examples) == n
                for kind in _hardest(of_curve)
            ]  # fmt: skip
            # If room is short, take the first of every kind rather than all of one.
            hard = list(dict.fromkeys(np.transpose(kinds).ravel().tolist()))[: room // 4]
            shuffled = np.random.default_rng(0).permutation(n)
            drawn = np.sort(shuffled[: min(MOST_DRAWN, room - len(hard))])
            rows = np.concatenate([drawn, np.setdiff1d(hard, drawn)])
        samples[dataset] = ExampleSample(rows, len(drawn), group[0])
    return samples


def _hardest(scores: LayerScores) -> list[np.ndarray]:
    """Return the rows of each kind of hard example, the hardest first.

    The kinds: the least probability of the truth on average, the least at any layer, and the latest
    to settle.
    """
    right = scores.for_the_truth
    changes = np.diff(scores.is_right if scores.classes else right > 0.5, axis=0)
    # The last layer that differs from the one before it, 0 if none does.
    last = (changes * np.arange(1, len(changes) + 1)[:, None]).max(axis=0, initial=0)
    kinds = right.mean(axis=0), right.min(axis=0), -last
    return [np.argsort(kind, kind="stable")[:HARDEST] for kind in kinds]


def bytes_each(scores: LayerScores) -> int:
    """Return how many bytes one example takes in ``points``, before base64."""
    arrays = 1 + (len(scores.classes) != 2) + 2 * (scores.plane is not None)
    return len(scores.score) * arrays


def points(scores: LayerScores, rows: np.ndarray) -> dict[str, Any]:
    """Return what the page draws of some examples: bytes [layers, m] in base64, and their units."""
    right = _as_written(scores.for_the_truth[:, rows])
    if len(scores.classes) == 2:
        # The script compares with the middle to tell the predicted class, so no byte may cross it.
        is_right = scores.is_right[:, rows]
        right = np.where(is_right, np.maximum(right, 128 / 255), np.minimum(right, 127 / 255))
    drawn: dict[str, Any] = {"right": in_bytes(right)}
    if len(scores.classes) > 2:
        drawn["predicted"] = in_bytes(scores.predicted[:, rows] / 255)
    if not scores.classes:
        values = scores.score[:, rows]
        low, high = float(values.min()), float(values.max())
        drawn["value"] = in_bytes((values - low) / max(high - low, 1e-12))
        drawn["values"] = [low, high]
    if scores.plane is not None:
        for axis, name in enumerate(("along", "across")):
            drawn[name] = in_bytes((scores.plane[:, rows, axis] + REACH) / (2 * REACH))
        drawn["reach"] = REACH
    return drawn


def _as_written(shares: np.ndarray) -> np.ndarray:
    """Round numbers from 0 to 1 to levels of a byte that print with the same two digits."""
    levels = np.rint(shares * 255)
    digits, of_levels = np.rint(shares * 100), np.rint(levels / 255 * 100)
    written: np.ndarray = (levels + np.sign(digits - of_levels)) / 255
    return written


def in_bytes(shares: np.ndarray) -> str:
    """Return numbers from 0 to 1 as a byte each, in base64; what is not finite counts as 0."""
    scaled = np.nan_to_num(shares, posinf=0, neginf=0).clip(0, 1) * 255
    return b64encode(np.rint(scaled).astype(np.uint8).tobytes()).decode()
