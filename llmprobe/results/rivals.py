"""Rivals of a curve: what reads the same texts without the trained network, compared in pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from llmprobe.results.differences import difference_interval
from llmprobe.results.metrics import METRICS, Metric, Predictions
from llmprobe.results.resampling import Resamples

INTERVAL = ("", "_low", "_high")
"""Ends of the names of the columns of a number and of its 95 % interval."""


def rival_columns(
    rivals: pd.DataFrame,
    predictions: pd.DataFrame,
    metric: str,
    classes: Sequence[str],
    resamples: Resamples,
) -> dict[str, float]:
    """Return what the summary says of each rival: its score, and how much better the curve is.

    ``gain_over_RIVAL`` is the score of the curve minus that of the rival on the same examples, both
    out-of-fold, with the 95 % interval of `difference_interval` over shared resamples of groups.

    Parameters
    ----------
    rivals
        Out-of-fold answers of one or more rivals on one dataset.
    predictions
        The curve's, at its best layer in the first repeat of the folds, which the rivals share.
    metric
        The name of the main metric.
    classes
        The classes as text, in the order of the probes; empty for labels that are numbers.
    resamples
        Resamples of the examples in their order.
    """
    ours = predictions.sort_values("example")
    b = measured(METRICS[metric], predictions_of(ours, classes, resamples))
    columns: dict[str, float] = {}
    for rival, rows in rivals.groupby("rival", sort=False):
        theirs = rows.sort_values("example").assign(
            **{name: ours[name].to_numpy() for name in ("label", "fold")}
        )
        answers = predictions_of(theirs, classes, resamples)
        a = measured(METRICS[metric], answers)
        if len(classes):
            columns[f"{rival}_accuracy"] = METRICS["accuracy"].estimate(answers)
        low, high = difference_interval(a[0], b[0], a[1], b[1])
        gain = f"gain_over_{rival}"
        columns |= {
            f"{rival}_{metric}": a[0][0],
            gain: b[0][0] - a[0][0],
            f"{gain}_low": low,
            f"{gain}_high": high,
        }
    return columns


def multi_layer_gain(
    several: pd.DataFrame,
    best: pd.DataFrame,
    metric: str,
    classes: Sequence[str],
    resamples: Resamples,
) -> dict[str, float]:
    """Return by how much a probe of several layers beats that of the best one, with its interval.

    Parameters
    ----------
    several, best
        The out-of-fold predictions of both, in the first repeat of the folds.
    metric, classes, resamples
        As in `rival_columns`.
    """
    gains = rival_columns(best.assign(rival="layer"), several, metric, classes, resamples)
    return {f"multi_layer_gain{end}": gains[f"gain_over_layer{end}"] for end in INTERVAL}


def measured(metric: Metric, answers: Predictions) -> tuple[tuple[float, float, float], np.ndarray]:
    """Return a score with the ends of its interval, and the score in each resample [B]."""
    estimate, low, high = (metric.score([answers])[name] for name in metric.columns)
    return (estimate, low, high), metric.resampled([answers])


def predictions_of(
    answers: pd.DataFrame, classes: Sequence[str], resamples: Resamples
) -> Predictions:
    """Return answers in the form from which metrics are computed.

    Of more than two classes, only the probability of the predicted one is known; the others share
    the rest.
    """
    score, fold_of = answers["score"].to_numpy(float), answers["fold"].to_numpy()
    if not len(classes):
        return Predictions(answers["label"].to_numpy(float), score, resamples, fold_of)
    truth, chosen = (
        pd.Index(classes).get_indexer(pd.Index(answers[column].astype(str)))
        for column in ("label", "predicted")
    )
    if len(classes) == 2:
        return Predictions(truth, np.column_stack([1 - score, score]), resamples, fold_of)
    of_others = (1 - score) / (len(classes) - 1)
    probabilities = np.repeat(of_others[:, None], len(classes), axis=1)
    probabilities[np.arange(len(score)), chosen] = score
    return Predictions(truth, probabilities, resamples, fold_of)
