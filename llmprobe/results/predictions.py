"""What every layer of one model says of each example of one dataset, out-of-fold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from llmprobe.results.curve import Curve

BINS = 10
"""Bins of equal width of a calibration curve."""


@dataclass(frozen=True)
class LayerScores:
    """The out-of-fold predictions of all layers of a curve, in the order of its examples."""

    examples: np.ndarray
    """Numbers of the examples. [n]"""
    labels: np.ndarray
    """Labels as text. [n]"""
    classes: list[str]
    """The classes in the order of the probes, the positive of two last; empty for numbers."""
    predicted: np.ndarray
    """Index of the predicted class. [layers, n]; empty for numbers"""
    score: np.ndarray
    """Probability of the last of two classes, or of the predicted one of more; for numbers, the
    prediction. [layers, n]"""
    plane: np.ndarray | None
    """Where the examples lie along the probe and across it, where that is known. [layers, n, 2]"""

    @property
    def truth(self) -> np.ndarray:
        """Return the index of each label among the classes. [n]"""
        return np.array([self.classes.index(label) for label in self.labels], dtype=int)

    @property
    def is_right(self) -> np.ndarray:
        """Whether the class of each example is the predicted one. [layers, n]"""
        is_right: np.ndarray = self.predicted == self.truth
        return is_right

    @property
    def for_the_truth(self) -> np.ndarray:
        """Return the probability of the right class. [layers, n]

        With more than two classes, where another class is predicted, it is the most that it can be:
        what the predicted class leaves, and no more than that has. For numbers it is how close the
        prediction is, from 1 down to 0 at two standard deviations.
        """
        if not self.classes:
            truth = self.labels.astype(float)
            closeness = 1 - np.abs(self.score - truth) / (2 * max(float(truth.std()), 1e-12))
            return np.asarray(closeness.clip(0, 1))
        rest = 1 - self.score
        if len(self.classes) == 2:
            return np.where(self.truth == 1, self.score, rest)
        return np.where(self.is_right, self.score, np.minimum(self.score, rest))

    def confusion(self) -> np.ndarray:
        """Count the examples of each true (rows) and predicted class (columns). [layers, C, C]"""
        C = len(self.classes)
        cells = self.truth * C + self.predicted
        counts = [np.bincount(layer, minlength=C * C).reshape(C, C) for layer in cells]
        return np.array(counts)

    def calibration(self) -> list[list[tuple[float, float, int]]]:
        """Compare probabilities with how often they come true, in bins for each layer.

        The probability is that of the last of two classes, or of the predicted one of more. -> for
        each layer and bin that is not empty: mean probability, share that came true, and count
        """
        truth = self.truth == 1 if len(self.classes) == 2 else self.is_right
        layers = []
        for score, came_true in zip(self.score, np.broadcast_to(truth, self.score.shape),
                                    strict=True):  # fmt: skip
            bin_of = np.clip(score * BINS, 0, BINS - 1).astype(int)
            count, total, true = (
                np.bincount(bin_of, weights, BINS) for weights in (None, score, came_true)
            )
            layers.append(
                [
                    (float(total[i] / count[i]), float(true[i] / count[i]), int(count[i]))
                    for i in np.flatnonzero(count)
                ]
            )
        return layers


def first_repeat(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions in the first repeat of the folds, a row for each layer × example."""
    return predictions[predictions["repeat"] == 0] if "repeat" in predictions else predictions


def scores_by_layer(curve: Curve, predictions: pd.DataFrame) -> LayerScores | None:
    """Return the predictions of a curve by layer and example, of the first repeat of the folds.

    None where layers are not those of the curve or lack examples, and where the classes are not
    known, as in runs of earlier versions.

    Parameters
    ----------
    curve
        The curve of the predictions; it has the order of the classes.
    predictions
        Rows of this curve alone, in any order.
    """
    table = first_repeat(predictions).sort_values(["layer", "example"], kind="stable")
    layers, classes = table["layer"].unique().tolist(), curve.classes
    if not layers or layers != curve.layers or not (classes or curve.metric.target == "numbers"):
        return None
    if len(table) % len(layers) or table["score"].isna().any():
        return None
    shape = len(layers), len(table) // len(layers)
    examples = table["example"].to_numpy().reshape(shape)
    if (examples != examples[0]).any():
        return None
    labels = table["label"].to_numpy(dtype=str).reshape(shape)[0]
    predicted = np.empty((0, 0), dtype=int)
    if classes:
        chosen = pd.Index(classes).get_indexer(pd.Index(table["predicted"].astype(str)))
        if (chosen < 0).any() or not set(labels) <= set(classes):
            return None
        predicted = np.asarray(chosen, dtype=int).reshape(shape)
    plane = None
    if {"along", "across"} <= set(table.columns) and table["along"].notna().all():
        plane = table[["along", "across"]].to_numpy(dtype=float).reshape(*shape, 2)
    score = table["score"].to_numpy(dtype=float).reshape(shape)
    return LayerScores(examples[0], labels, classes, predicted, score, plane)
