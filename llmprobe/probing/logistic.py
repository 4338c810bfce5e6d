"""Logistic regression probes of one layer: the protocol as columns of few solver calls."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from llmprobe.probing.fit_many import Design, Problems
from llmprobe.probing.splits import assign_folds

log = logging.getLogger(__name__)

PENALTIES = (1e5, 1e4, 1e3, 1e2, 1e1, 1e0)
"""The grid of ``l2: auto``, strong to weak (scikit-learn's C = 1/l2)."""

INNER_FOLDS = 4
CHOOSING = 1e-4
"""Tolerance of the fits that only compare penalties a factor of 10 apart."""


def inner_folds(
    y: np.ndarray, groups: np.ndarray | None, fold_of: np.ndarray, seed: int
) -> np.ndarray:
    """Folds inside each outer training set, for choosing the penalty. -> [n, outer folds] int

    -1 marks the rows of the outer fold itself, which nothing inside may see.
    """
    inner = np.full((len(y), int(fold_of.max()) + 1), -1)
    for fold in range(inner.shape[1]):
        train = fold_of != fold
        train_groups = None if groups is None else groups[train]
        where = f"choosing the penalty (l2: auto) in the training set of fold {fold}"
        inner[train, fold] = assign_folds(y[train], train_groups, INNER_FOLDS, seed, where)
    return inner


def out_of_fold(
    X: np.ndarray,
    y: np.ndarray,
    fold_of: np.ndarray,
    inner: np.ndarray | None,
    l2: float | Literal["auto"] = "auto",
) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities of every example from probes that never saw its fold.

    Standardisation, penalty and probe are fitted on the training rows alone. More than two
    classes: a probe for each against the rest, probabilities scaled to sum to 1.

    Parameters
    ----------
    X
        Hidden states of one layer. [n, d]
    y
        Class indices 0 … C-1. [n]
    fold_of
        The fold of each example. [n]
    inner
        From ``inner_folds``; needed when ``l2`` is ``"auto"``. [n, folds]

    Returns
    -------
    probabilities : [n, C]
    penalties
        The l2 of each fold. [folds]
    """
    n_folds = int(fold_of.max()) + 1
    y_column = torch.as_tensor(y)[:, None]
    n_classes = int(y.max()) + 1
    # Columns run over folds, then over classes; two classes need one column.
    truth = y_column == torch.arange(1 if n_classes == 2 else 0, n_classes)
    design = Design(X)
    if l2 == "auto":
        assert inner is not None
        penalties = _choose_penalties(design, truth, torch.as_tensor(y), torch.as_tensor(inner))
    else:
        penalties = torch.full((n_folds,), float(l2))
    train = torch.as_tensor(fold_of)[:, None] != torch.arange(n_folds)
    problems = Problems(design, *_columns(truth, train))
    per_column = penalties.repeat_interleave(truth.shape[1])
    solution = problems.solve(per_column)
    if not bool(solution.converged.all()):
        log.warning(
            "%d of %d probes did not converge", (~solution.converged).sum(), len(per_column)
        )
    logits = solution.logits.reshape(len(y), n_folds, -1)
    held_out = logits[torch.arange(len(y)), torch.as_tensor(fold_of)]
    return _probabilities(held_out).numpy(), penalties.numpy()


def _columns(truth: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Targets and weights for every mask [n, M] × class [n, C]. -> two of [n, M * C]"""
    targets = truth[:, None, :].expand(-1, mask.shape[1], -1).flatten(1)
    weights = mask[:, :, None].expand(-1, -1, truth.shape[1]).flatten(1)
    return targets, weights


def _probabilities(logits: Tensor) -> Tensor:
    """From logits [..., 1] of class 1, or [..., C] of each class against the rest. -> [..., C]"""
    each = torch.sigmoid(logits.double())
    if each.shape[-1] == 1:
        return torch.cat([1 - each, each], dim=-1)
    return each / each.sum(dim=-1, keepdim=True)


def _choose_penalties(design: Design, truth: Tensor, y: Tensor, inner: Tensor) -> Tensor:
    """For each outer fold the penalty with the least held-out log loss inside it. [folds]

    All inner problems go from strong to weak penalties together, each from its last solution.
    The held-out loss falls and then rises along the path, so the weak penalties, which take by
    far the most iterations, are left out once it has risen twice in a row in every fold.
    """
    n_folds = inner.shape[1]
    part = torch.arange(INNER_FOLDS)
    is_held_out = inner[:, :, None] == part  # [n, folds, inner]
    train = (inner[:, :, None] >= 0) & ~is_held_out
    problems = Problems(design, *_columns(truth, train.flatten(1)))
    rows = torch.arange(len(y))
    losses = torch.empty(0, n_folds)
    solution = None
    for l2 in PENALTIES:
        solution = problems.solve(l2, solution, tolerance=CHOOSING)
        logits = solution.logits.reshape(len(y), n_folds, INNER_FOLDS, -1)
        likelihood = _probabilities(logits)[rows, :, :, y]  # [n, folds, inner]
        loss = -likelihood.clamp_min(1e-12).log() * is_held_out
        mean = loss.sum(dim=(0, 2)) / is_held_out.sum(dim=(0, 2))
        losses = torch.cat([losses, mean[None].float()])
        if len(losses) > 2 and bool((losses.argmin(dim=0) <= len(losses) - 3).all()):
            break
    return torch.tensor(PENALTIES)[losses.argmin(dim=0)]
