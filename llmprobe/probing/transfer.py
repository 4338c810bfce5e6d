"""Transfer: probes of one set of examples, scored on others that they have not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch

from llmprobe.ground.errors import UserError
from llmprobe.probing.design import Design
from llmprobe.probing.labels import relabellings, shuffled_labels
from llmprobe.probing.search import search
from llmprobe.probing.tasks import ProbingTasks
from llmprobe.probing.transfer_plan import Cell, Pair, TransferPlan, classes_as_text
from llmprobe.probing.transfer_scores import (
    probabilities,
    separation,
    statistics,
    two_sided,
    with_refitted_thresholds,
)
from llmprobe.probing.transfer_sets import TransferSet
from llmprobe.probing.workers import each_layer
from llmprobe.results.columns import TRANSFER_LAYERS
from llmprobe.results.curve import FEWEST_RELABELLINGS
from llmprobe.results.metrics import METRICS, Predictions
from llmprobe.results.resampling import Resamples
from llmprobe.results.transfer import TransferMatrix, with_answers

PERMUTATIONS = 1999
"""Permutations of the test labels. They cost next to nothing, since scores are fixed."""


@dataclass(frozen=True, eq=False)
class _Trained:
    """The probes of one train set: one for each layer and fold."""

    coef: Mapping[int, np.ndarray]
    """Directions in raw space, by layer. [F, d, C]"""
    intercept: Mapping[int, np.ndarray]
    """Intercepts, by layer. [F, C]"""
    classes: tuple[str, ...]
    """The classes as text, in the order of the probes; empty for labels that are numbers."""
    best: int
    """The layer with the least out-of-fold loss."""


def transfer(
    plan: TransferPlan,
    *,
    across_layers: bool = False,
    model: str = "model",
    position: str = "",
    progress: bool = True,
) -> TransferMatrix:
    """Fit probes on each train set, and score them on each test set.

    The units of all sets together are dealt out to folds (`datasets.shared_units`). Each example is
    scored by the probe of its fold, which has not seen its unit in any set. So the diagonal is
    out-of-fold, and a probe that has memorised units gains nothing elsewhere. The layer of a cell
    is the best layer of its train set.

    Parameters
    ----------
    across_layers
        Whether probes of every layer are scored on the states of every other one too.

    Raises
    ------
    UserError
        The sets have states of different layers.
    """
    layers = _common_layers(list(plan.unit_of))
    trained = {one: _fit(one, plan, layers, progress) for one in plan.train}
    names = {"model": model, "position": position}
    by_layer, answers = _scored(trained, plan.shared, plan.fold_of, layers, across_layers)
    labels = _ShuffledLabels(plan.unit_of, plan.seed)
    rows = []
    for (one, other), cell in plan.shared.items():
        best = trained[one].best
        row = {
            **names, "train": one.name, "test": other.name,
            "train_layer": best, "test_layer": best, "note": cell.note,
            "n_examples": len(cell.rows),
            "shared_units": len(np.intersect1d(plan.unit_of[one], plan.unit_of[other])),
            **_origin(one, other),
        }  # fmt: skip
        if not cell.note:
            row |= _cell(cell, answers[one, other], other, plan, labels)
        rows.append(row)
    table = pd.DataFrame(rows).reindex(columns=[*dict.fromkeys([*_MEASURED, *rows[0]])])
    return TransferMatrix(
        with_answers(table),
        pd.DataFrame(by_layer).assign(**names).reindex(columns=list(TRANSFER_LAYERS)),
    )


_MEASURED = (
    *("accuracy", "accuracy_refitted_threshold", "auroc", "auroc_low", "auroc_high", "p_value"),
    *("rank_correlation", "rank_correlation_low", "rank_correlation_high"),
)


def _common_layers(sets: Sequence[TransferSet]) -> list[int]:
    first = sets[0]
    for other in sets:
        if other.states.layers != first.states.layers:
            raise UserError(
                f"transfer: {first.name} and {other.name} are states of different layers"
            )
    return first.states.layers


def _origin(one: TransferSet, other: TransferSet) -> dict[str, str]:
    """Return the datasets of a train set and a test set, and what part of them the sets are."""
    return {
        "train_dataset": one.original.dataset.name, "test_dataset": other.original.dataset.name,
        "fitted_on": one.fitted_on, "masked": other.field,
    }  # fmt: skip


def _fit(one: TransferSet, plan: TransferPlan, layers: Sequence[int], progress: bool) -> _Trained:
    """Fit a probe for each layer and fold, with penalties chosen inside the training folds."""
    tasks = plan.tasks[one]
    label = f"fitting on {one.name}"
    fits = each_layer(one.states, partial(_fit_layer, rows=one.rows, tasks=tasks), label, progress)
    coef, intercept, skill = zip(*fits, strict=True)
    best = layers[int(np.argmax(skill))]
    return _Trained(
        dict(zip(layers, coef, strict=True)), dict(zip(layers, intercept, strict=True)),
        classes_as_text(tasks), best,
    )  # fmt: skip


def _fit_layer(
    X: np.ndarray, rows: np.ndarray, tasks: ProbingTasks
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return each fold's direction [F, d, C] and intercept [F, C] on some rows, and the skill."""
    design = Design(torch.as_tensor(X[rows]))
    chosen = search(design, tasks.kind, tasks.loss, [*tasks.inner, tasks.observed], tasks.penalties)
    folds = len(tasks.train)
    l2 = chosen.l2[:folds] if tasks.inner else np.full(folds, tasks.penalties[0])
    targets = torch.as_tensor(tasks.targets)
    weights = torch.as_tensor(tasks.train).to(design.X.dtype)
    problems = tasks.kind.problems(design, tasks.loss, targets.expand(folds, -1, -1), weights)
    fits = problems.raw(problems.solve(torch.as_tensor(l2)))
    skill = 1 - chosen.loss[-1] / tasks.intercept_loss[0]
    return fits.coef.transpose(1, 0, 2), fits.intercept, float(skill)


def _scored(
    trained: Mapping[TransferSet, _Trained],
    shared: Mapping[Pair, Cell],
    fold_of: Mapping[TransferSet, np.ndarray],
    layers: Sequence[int],
    across_layers: bool,
) -> tuple[list[dict[str, object]], dict[Pair, np.ndarray]]:
    """Score every probe on every test set, one product for each layer of the states.

    -> a row for each cell and pair of layers; and each cell's logits [m, C] at its best layer
    """
    rows: list[dict[str, object]] = []
    answers = {}
    of_states: dict[int, list[TransferSet]] = {}
    for other in dict.fromkeys(other for _, other in shared):
        of_states.setdefault(id(other.states), []).append(other)
    for group in of_states.values():
        for test_layer in layers:
            X = group[0].states.layer(test_layer)
            for other in group:
                fitted = [
                    (one, layer)
                    for one, scored in shared
                    if scored is other
                    for layer in (layers if across_layers else [test_layer])
                    if trained[one].coef[layer].shape[1] == X.shape[1]
                ]
                if not fitted:
                    continue
                stacked = [trained[one].coef[layer].transpose(1, 0, 2) for one, layer in fitted]
                columns = np.cumsum([coef[0].size for coef in stacked])[:-1]
                directions = np.concatenate(
                    [coef.reshape(len(coef), -1) for coef in stacked], axis=1
                )
                products = np.split(X[other.rows].astype(float) @ directions, columns, axis=1)
                for (one, layer), values in zip(fitted, products, strict=True):
                    cell, probes = shared[one, other], trained[one]
                    if cell.note:
                        continue
                    logits = _of_own_fold(values, probes.intercept[layer], fold_of[other])
                    logits = _of_classes(logits[cell.rows], probes, cell)
                    if layer == test_layer == probes.best:
                        answers[one, other] = logits
                    score = "auroc" if probes.classes else "rank_correlation"
                    rows.append(
                        {"train": one.name, "test": other.name, "train_layer": layer,
                         "test_layer": test_layer,
                         **_origin(one, other),
                         score: separation(cell.truth, logits, fold_of[other][cell.rows])}
                    )  # fmt: skip
    return rows, answers


def _of_own_fold(values: np.ndarray, intercept: np.ndarray, fold_of: np.ndarray) -> np.ndarray:
    """Return each example's logits by the probe of its fold. [n, F · C], [F, C] -> [n, C]"""
    by_fold = values.reshape(len(values), *intercept.shape) + intercept
    own: np.ndarray = by_fold[np.arange(len(values)), fold_of]
    return own


def _of_classes(logits: np.ndarray, probes: _Trained, cell: Cell) -> np.ndarray:
    """Return the logits of the shared classes [m, C], or predicted numbers [m, 1]."""
    if not probes.classes:
        return logits
    if len(probes.classes) == 2:
        logits = np.column_stack([np.zeros(len(logits)), logits])
    of_classes: np.ndarray = logits[:, cell.columns]
    return of_classes


class _ShuffledLabels:
    """The labels of test sets, permuted by unit: drawn once, for all probes that are scored."""

    def __init__(self, unit_of: Mapping[TransferSet, np.ndarray], seed: int) -> None:
        self.unit_of, self.seed = unit_of, seed
        self.drawn: dict[tuple[TransferSet, bytes], np.ndarray | None] = {}

    def of(self, other: TransferSet, cell: Cell) -> np.ndarray | None:
        """Return permuted labels [m, B]; None where too few differ for a p-value."""
        key = other, cell.rows.tobytes() + cell.truth.tobytes()
        if key not in self.drawn:
            units = self.unit_of[other][cell.rows]
            few = relabellings(cell.truth, units) < FEWEST_RELABELLINGS
            self.drawn[key] = (
                None if few else shuffled_labels(cell.truth, units, PERMUTATIONS, self.seed)
            )
        return self.drawn[key]


def _cell(
    cell: Cell,
    logits: np.ndarray,
    other: TransferSet,
    plan: TransferPlan,
    labels: _ShuffledLabels,
) -> dict[str, float]:
    """Return the scores of one cell, from logits [m, C] at the train set's best layer."""
    folds, units = plan.fold_of[other][cell.rows], plan.unit_of[other][cell.rows]
    is_number = logits.shape[1] == 1
    predicted = logits[:, 0] if is_number else probabilities(logits)
    answers = Predictions(cell.truth, predicted, Resamples(len(cell.rows), units, plan.seed), folds)
    metric = METRICS["rank_correlation" if is_number else "auroc"]
    scores = metric.score([answers])
    shuffled = labels.of(other, cell)
    if shuffled is not None:
        observed = separation(cell.truth, logits, folds)
        scores["p_value"] = two_sided(observed, statistics(shuffled, logits, folds))
    if is_number:
        return scores
    scores["accuracy"] = METRICS["accuracy"].estimate(answers)
    refitted = with_refitted_thresholds(cell.truth, logits, folds)
    return scores | {"accuracy_refitted_threshold": refitted}
