"""Which examples the page shows, and what every layer says of each."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

POINT_BYTES = 3_300_000
"""What the points of all curves take on the page, before base64."""
MOST_DRAWN = 2000
HARDEST = 25
"""Of each kind of hard example, so many are listed though they are not drawn."""
MOST_CLASSES = 12
"""Of a confusion matrix on the page."""
BINS = 10
_MINIMUM = 50
"""Of fewer points one sees little."""


@dataclass(frozen=True)
class LayerScores:
    """What the layers of one model say of each example of one dataset, out-of-fold."""

    dataset: str
    examples: np.ndarray
    """Numbers of the examples. [n]"""
    labels: np.ndarray
    """Text. [n]"""
    classes: list[str]
    """In the order in which probes have them, the positive of two last; empty for numbers."""
    predicted: np.ndarray
    """Index of the class. [layers, n]; empty for numbers"""
    score: np.ndarray
    """Probability of the last of two classes, or of the predicted one of more; for numbers, the
    prediction. [layers, n]"""
    plane: np.ndarray | None
    """along and across. [layers, n, 2]"""

    @property
    def truth(self) -> np.ndarray:
        """Index of each label among the classes. [n]"""
        return np.array([self.classes.index(label) for label in self.labels], dtype=int)

    @property
    def is_right(self) -> np.ndarray:
        """Whether the class of each example is the predicted one. [layers, n] bool"""
        found: np.ndarray = self.predicted == self.truth
        return found

    @property
    def for_the_truth(self) -> np.ndarray:
        """The probability of the right class. [layers, n]

        Of more than two classes, where another is predicted, the most that it can be: what that
        one leaves, and no more than it has. Of numbers, how close the prediction is, from 1 to 0
        at two standard deviations.
        """
        if not self.classes:
            truth = self.labels.astype(float)
            near: np.ndarray = 1 - np.abs(self.score - truth) / (2 * max(float(truth.std()), 1e-12))
            return near.clip(0, 1)
        left = 1 - self.score
        if len(self.classes) == 2:
            return np.where(self.truth == 1, self.score, left)
        return np.where(self.is_right, self.score, np.minimum(self.score, left))

    @property
    def bytes_each(self) -> int:
        """What one example takes of ``points``, before base64."""
        return len(self.score) * (1 + (len(self.classes) != 2) + 2 * (self.plane is not None))

    def points(self, rows: np.ndarray) -> dict[str, Any]:
        """Of some examples, for the page: bytes [layers, m] in base64, and what they stand for."""
        right = self.for_the_truth[:, rows]
        if len(self.classes) == 2:
            # The script tells by the middle which class is predicted, and no byte is at the middle.
            middle = np.array([127, 128]) / 255
            is_right = self.is_right[:, rows]
            right = np.where(is_right, np.maximum(right, middle[1]), np.minimum(right, middle[0]))
        found: dict[str, Any] = {"right": in_bytes(right)}
        if len(self.classes) > 2:
            kinds = self.predicted[:, rows].astype(np.uint8)
            found["predicted"] = b64encode(kinds.tobytes()).decode()
        if not self.classes:
            low, high = float(self.score[:, rows].min()), float(self.score[:, rows].max())
            found["value"] = in_bytes((self.score[:, rows] - low) / max(high - low, 1e-12))
            found["values"] = [low, high]
        if self.plane is not None:
            for axis, name in enumerate(("along", "across")):
                found[name] = in_bytes((self.plane[:, rows, axis] + REACH) / (2 * REACH))
            found["reach"] = REACH
        return found

    def confusion(self) -> list[list[list[int]]] | None:
        """Of each layer: a row for each true class, a column for each predicted one."""
        C = len(self.classes)
        if not 2 <= C <= MOST_CLASSES:
            return None
        cells = self.truth * C + self.predicted
        return [np.bincount(layer, minlength=C * C).reshape(C, C).tolist() for layer in cells]

    def calibration(self) -> list[list[list[float]]] | None:
        """Of each layer, in ten bins of equal width: mean probability, share, count; bins that are
        empty are left out.

        The probability is that of the last of two classes, or of the predicted one of more.
        """
        if not self.classes:
            return None
        hit = self.truth == 1 if len(self.classes) == 2 else self.is_right
        found = []
        for score, hits in zip(self.score, np.broadcast_to(hit, self.score.shape), strict=True):
            bin_of = np.minimum((score * BINS).astype(int), BINS - 1)
            count, total, right = (
                np.bincount(bin_of, weights, BINS) for weights in (None, score, hits)
            )
            found.append(
                [
                    [round(total[i] / count[i], 3), round(right[i] / count[i], 3), int(count[i])]
                    for i in np.flatnonzero(count).tolist()
                ]
            )
        return found


REACH = 4.0
"""Standard deviations to which points are drawn; those beyond are at the edge."""


def scores_by_layer(predictions: pd.DataFrame) -> LayerScores | None:
    """From the predictions of one model on one dataset; None where layers lack examples, or where
    classes are more than a byte can tell apart.
    """
    table = predictions.sort_values(["layer", "example"], kind="stable")
    layers = table["layer"].nunique()
    if not layers or len(table) % layers or table["score"].isna().any():
        return None
    shape = layers, len(table) // layers
    examples = table["example"].to_numpy().reshape(shape)
    if (examples != examples[0]).any():
        return None
    score = table["score"].to_numpy(dtype=float).reshape(shape)
    labels = table["label"].to_numpy(dtype=str).reshape(shape)[0]
    said = table["predicted"].to_numpy(dtype=str)
    classes = _classes(labels, said, score.ravel())
    if len(classes) > 256:
        return None
    predicted = np.empty((0, 0), dtype=int)
    if classes:
        place = {name: i for i, name in enumerate(classes)}
        predicted = np.array([place[name] for name in said], dtype=int).reshape(shape)
    plane = None
    if {"along", "across"} <= set(table.columns) and table["along"].notna().all():
        plane = table[["along", "across"]].to_numpy(dtype=float).reshape(*shape, 2)
    dataset = str(table["dataset"].iloc[0])
    return LayerScores(dataset, examples[0], labels, classes, predicted, score, plane)


def _classes(labels: np.ndarray, predicted: np.ndarray, score: np.ndarray) -> list[str]:
    """The classes, that whose probability is the score last; none where labels are numbers."""
    if _are_numbers(labels, predicted, score):
        return []
    classes = sorted({*labels.tolist(), *predicted.tolist()}, key=_by_number)
    if len(classes) == 2:
        clear = np.abs(score - 0.5).argmax()
        if (predicted[clear] == classes[1]) != (score[clear] > 0.5):
            classes.reverse()
    return classes


def _are_numbers(labels: np.ndarray, predicted: np.ndarray, score: np.ndarray) -> bool:
    """Whether what is predicted is the score itself, and not the name of a class."""
    if set(predicted.tolist()) <= set(labels.tolist()):
        return False
    try:
        return np.allclose(predicted.astype(float), score)
    except ValueError:
        return False


def _by_number(name: str) -> tuple[int, float, str]:
    """10 comes after 9, and words after numbers."""
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name


@dataclass(frozen=True)
class Drawn:
    """The examples of one dataset that the page knows."""

    dataset: str
    rows: np.ndarray
    """Their places among the scored ones: first those that are drawn. [m]"""
    n_drawn: int
    examples: np.ndarray
    """Their numbers. [m]"""
    labels: np.ndarray
    classes: list[str]
    n: int
    """How many there are."""

    def are_of(self, scores: LayerScores) -> bool:
        """Whether those scores are of the same examples."""
        return len(scores.examples) == self.n and np.array_equal(
            scores.examples[self.rows], self.examples
        )


def examples_drawn(scores: Mapping[tuple[str, str], LayerScores]) -> dict[str, Drawn]:
    """For each dataset a random part, the same for all models, and the hardest for any of them.

    Models that were scored on other examples of a dataset than the first one are left out.
    """
    of_dataset: dict[str, list[LayerScores]] = {}
    for its in scores.values():
        of_dataset.setdefault(its.dataset, []).append(its)
    room = POINT_BYTES // max(sum(its.bytes_each for its in scores.values()), 1)
    if room < _MINIMUM:
        return {}
    found = {}
    for dataset, all_of_it in of_dataset.items():
        first = all_of_it[0]
        n = len(first.examples)
        if n <= min(MOST_DRAWN, room):
            rows = drawn = np.arange(n)
        else:
            kinds = [kind for its in all_of_it if len(its.examples) == n for kind in _hardest(its)]
            # Where room is short, the first of every kind rather than all of one.
            hard = list(dict.fromkeys(np.transpose(kinds).ravel().tolist()))[: room // 4]
            shuffled = np.random.default_rng(0).permutation(n)
            drawn = np.sort(shuffled[: min(MOST_DRAWN, room - len(hard))])
            rows = np.concatenate([drawn, np.setdiff1d(hard, drawn)])
        found[dataset] = Drawn(
            dataset, rows, len(drawn), first.examples[rows], first.labels[rows], first.classes, n
        )
    return found


def _hardest(its: LayerScores) -> list[np.ndarray]:
    """Rows of each kind, the hardest first: those with the least probability of the truth on
    average, and at any layer, and those that settle latest.
    """
    right = its.for_the_truth
    changes = np.diff(its.is_right if its.classes else right > 0.5, axis=0)
    last = np.where(
        changes.any(axis=0), len(changes) - changes[::-1].argmax(axis=0), 0
    ) if len(changes) else np.zeros(right.shape[1])  # fmt: skip
    kinds = right.mean(axis=0), right.min(axis=0), -last
    return [np.argsort(kind, kind="stable")[:HARDEST] for kind in kinds]


def in_bytes(shares: np.ndarray) -> str:
    """Numbers from 0 to 1 as one byte each, in base64; those that are not finite count as 0."""
    scaled = np.nan_to_num(shares, posinf=0, neginf=0).clip(0, 1) * 255
    return b64encode(np.rint(scaled).astype(np.uint8).tobytes()).decode()
