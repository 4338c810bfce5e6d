"""The answers of all layers as tables: results, summary and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from llmprobe.config.schema import ProbeConfig
from llmprobe.probing.layer import LayerFit
from llmprobe.probing.online_code import code_lengths_without_states
from llmprobe.probing.tasks import ProbingTasks
from llmprobe.results.columns import CURVE, columns_of, result_columns
from llmprobe.results.depth import concept_depth, half_depths
from llmprobe.results.metrics import METRICS, majority_accuracy
from llmprobe.results.resampling import Resamples

ROUNDING = 1e-10
"""The tolerance of p-values: mirrored labellings are equally good, however losses were rounded."""


def results_table(
    layers: Sequence[int],
    fits: Sequence[LayerFit],
    scores: Sequence[Mapping[str, float]],
    tasks: ProbingTasks,
    resamples: Resamples,
    config: ProbeConfig,
    names: Mapping[str, str],
    blocks: int,
) -> pd.DataFrame:
    """Return the results: a row for each layer of a model with so many blocks."""
    metric, n = tasks.main_metric, len(tasks.truth)
    table = pd.DataFrame(scores).assign(**names, layer=layers)
    table["depth"] = table["layer"] / max(blocks, 1)
    table["probe"] = config.kind
    table["n_examples"] = n
    table["n_classes"] = len(tasks.classes)
    table["n_groups"] = len(resamples.counts)
    table["main_score"] = metric
    table["permutations"] = len(tasks.shuffled)
    table["repeats"] = len(tasks.fold_of)
    table["skill"] = [fit.skill[0] for fit in fits]
    table["l2"] = [float(f"{np.exp(np.log(fit.l2).mean()):.6g}") for fit in fits]
    table["majority_accuracy"] = majority(tasks, config)
    table[f"control_{tasks.search_metric}"] = [fit.control_score for fit in fits]
    table["selectivity"] = [fit.beside_control - fit.control_score for fit in fits]
    table["p_value"] = p_values(np.stack([fit.skill for fit in fits]))
    if tasks.online:
        with_states = np.stack([fit.code_lengths for fit in fits])
        without = code_lengths_without_states(tasks)
        table["code_length"] = with_states.mean(axis=1) / np.log(2) / 1024
        table["compression"] = without.mean() / with_states.mean(axis=1)
        by_order = without / with_states
        table["compression_range_low"] = by_order.min(axis=1)
        table["compression_range_high"] = by_order.max(axis=1)
    return table.reindex(columns=result_columns())


def p_values(statistics: np.ndarray) -> np.ndarray:
    """Return p-values of statistics [m, 1 + permutations], the observed ones first. -> [m]

    NaN without permutations.
    """
    shuffled = statistics[:, 1:]
    if not shuffled.shape[1]:
        return np.full(len(statistics), np.nan)
    as_good = (shuffled >= statistics[:, :1] - ROUNDING).sum(axis=1)
    p: np.ndarray = (1 + as_good) / (1 + shuffled.shape[1])
    return p


def majority(tasks: ProbingTasks, config: ProbeConfig) -> float:
    """Return the share of the most frequent class, NaN where it was not asked for."""
    asked = "majority" in config.controls and len(tasks.classes)
    return majority_accuracy(tasks.truth) if asked else np.nan


def surface(
    tasks: ProbingTasks,
    config: ProbeConfig,
    texts: Sequence[str] | None,
    units: np.ndarray | None,
    embedded: Mapping[str, np.ndarray],
    names: Mapping[str, str],
) -> pd.DataFrame:
    """Return a row for each rival that reads the surface of the texts × scored example.

    Parameters
    ----------
    units
        What no split may separate. [n], or None
    embedded
        Out-of-fold predictions of the rivals that are probes of other features. Each [m, C or 1]
    """
    predicted = {}
    if "bag_of_words" in config.controls and texts is not None:
        from llmprobe.probing.baselines import bag_of_words

        numbers = not len(tasks.classes)
        of_all = bag_of_words(
            texts, tasks.y, tasks.fold_of[0], units, numbers=numbers, seed=config.seed
        )
        predicted["bag_of_words"] = of_all[tasks.scored]
    predicted |= embedded
    rows = [pd.DataFrame(columns=columns_of("rivals"))]
    for rival, values in predicted.items():
        answers = {"example": np.flatnonzero(tasks.scored), **_answers(values, tasks)}
        rows.append(pd.DataFrame(answers).assign(rival=rival, **_of_curve(names)))
    return pd.concat(rows[1:] or rows, ignore_index=True)[columns_of("rivals")]


def _of_curve(names: Mapping[str, str]) -> dict[str, str]:
    return {name: names[name] for name in CURVE}


def _answers(values: np.ndarray, tasks: ProbingTasks) -> dict[str, np.ndarray]:
    """Return what is predicted, as text, and its score, from predictions [..., C or 1]. [...]"""
    if not len(tasks.classes):
        return {"predicted": values[..., 0].astype(str), "score": values[..., 0]}
    score = values[..., 1] if values.shape[-1] == 2 else values.max(axis=-1)
    return {"predicted": tasks.classes.astype(str)[values.argmax(axis=-1)], "score": score}


def depths(table: pd.DataFrame, resampled: np.ndarray, tasks: ProbingTasks) -> dict[str, float]:
    """Return the best layer with its scores, and the depths of the curve.

    ``resampled`` is the main metric in each resample. [layers, B]
    """
    metric = tasks.main_metric
    curve = table[metric].to_numpy()
    place = int(table["skill"].argmax())
    peak = table.iloc[place]
    if metric == "accuracy":
        baseline = majority_accuracy(tasks.truth)
    else:
        baseline = float(METRICS[metric].chance_of(table).iloc[0])
    depth_of = table["depth"].to_list()
    depths = half_depths(curve, resampled.T, depth_of, baseline, place)
    if metric == "accuracy":  # Jin et al. define theirs for accuracies.
        depths |= concept_depth(curve, resampled.T, table["layer"].to_list(), depth_of)
    return {
        "n_examples": int(peak["n_examples"]),
        "peak_layer": int(peak["layer"]),
        **{f"peak_{name}": float(peak[name]) for name in {metric, tasks.search_metric}},
        **{column: float(peak[column]) for column in METRICS["tpr_at_1_fpr"].columns},
        **depths,
    }


def predictions(
    layers: Sequence[int],
    fits: Sequence[LayerFit],
    labels: np.ndarray,
    tasks: ProbingTasks,
    names: Mapping[str, str],
) -> pd.DataFrame:
    """Return a row for each repeat × layer × scored example."""
    n_layers, repeats = len(layers), len(tasks.fold_of)
    rows = np.flatnonzero(tasks.scored)
    n = len(rows)
    values = np.stack([fit.predicted for fit in fits], axis=1)  # [R, layers, n, C or 1]
    answers = _answers(values, tasks)
    # Where there is one direction, its sign says which class is on which side.
    arbitrary = (0, 1) if len(tasks.classes) > 2 else (1,)
    places = np.full((repeats, n_layers, n, 2), np.nan, np.float32)
    places[0] = _turned_alike(np.stack([fit.probe_plane for fit in fits]), arbitrary)
    return pd.DataFrame(
        {
            **_of_curve(names),
            "repeat": np.repeat(np.arange(repeats), n_layers * n),
            "layer": np.tile(np.repeat(layers, n), repeats),
            "example": np.tile(rows, repeats * n_layers),
            "fold": np.tile(tasks.fold_of[:, None, rows], (1, n_layers, 1)).ravel(),
            # As text, so that tables with different kinds of labels can be put together.
            "label": np.tile(labels[rows].astype(str), repeats * n_layers),
            "predicted": answers["predicted"].ravel(),
            "score": answers["score"].ravel(),
            "along": places[..., 0].ravel(),
            "across": places[..., 1].ravel(),
        }
    )[columns_of("predictions")]


def _turned_alike(planes: np.ndarray, arbitrary: Sequence[int]) -> np.ndarray:
    """Give coordinates of arbitrary sign the sign of the layer before. [layers, n, 2]"""
    turned = planes.copy()
    for before, here in pairwise(turned):
        for axis in arbitrary:
            if here[:, axis] @ before[:, axis] < 0:
                here[:, axis] *= -1
    return turned
