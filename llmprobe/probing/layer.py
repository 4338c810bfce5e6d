"""One layer: a search for the penalties of every question about it, and the fits at those."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llmprobe.probing.fit_many import Design, ManyFits
from llmprobe.probing.probe_plane import probe_plane
from llmprobe.probing.search import search
from llmprobe.probing.tasks import ProbingTasks


@dataclass(frozen=True)
class LayerFit:
    """The answers of one layer."""

    predicted: np.ndarray
    """Of the scored rows: out-of-fold probabilities of the classes [m, C], or continuous
    predictions [m, 1]."""
    l2: np.ndarray
    """The penalty of each outer fold; NaN where there is none. [folds]"""
    unconverged: int
    """Fits of the outer folds, the learning curve and the probe on all rows."""
    whole_l2: float
    """The penalty of the probe that is kept: for one on all rows, that of the least out-of-fold
    loss."""
    coef: np.ndarray
    """Of the probe on all rows, or on those that a test set leaves, in raw feature space.
    [d, 1 or C]"""
    intercept: np.ndarray
    """[1 or C]"""
    fold0_coef: np.ndarray
    """Of the probe that did not see the first fold. [d, 1 or C]"""
    fold0_intercept: np.ndarray
    """[1 or C]"""
    probe_plane: np.ndarray
    """Of the scored rows: out-of-fold places beside the probe, see ``probe_plane``. [m, 2]"""
    statistic: np.ndarray
    """The observed labels' and then the shuffled ones' score at the penalty with the least
    out-of-fold loss; equal scores are told apart by that loss. [1 + permutations]"""
    control: float
    """Mean score on control labels, or NaN."""
    code_length: float
    """Of the online code, in nats, or NaN."""
    curve: np.ndarray
    """Score after training on each fraction. [fractions]"""


def probe_layer(X: np.ndarray, tasks: ProbingTasks, device: torch.device | str = "cpu") -> LayerFit:
    """Fit everything that is asked of one layer's states X [n, d]."""
    design = Design(torch.as_tensor(X).to(device))
    whole = tasks.scored.all()
    observed = (tasks.observed,) if whole or tasks.shuffled else ()
    kinds_of_task = (tasks.inner, observed, tasks.shuffled, tasks.control, tasks.online)
    found = search(
        design,
        tasks.kind,
        tasks.loss,
        [task for kind in kinds_of_task for task in kind],
        tasks.penalties,
    )
    ends = np.cumsum([len(kind) for kind in kinds_of_task])
    inner, _, _, control, online = (
        slice(end - len(kind), end) for end, kind in zip(ends, kinds_of_task, strict=True)
    )
    l2 = found.l2[inner] if tasks.inner else np.full(tasks.n_folds, tasks.penalties[0])
    n = int(tasks.scored.sum())
    tested = slice(ends[0], ends[2])
    mean_loss = found.loss[tested] / n
    statistic = found.score[tested] - mean_loss / (1 + mean_loss) / n

    masks = np.concatenate([tasks.train, *tasks.subsets])
    penalties = np.concatenate([l2, *[l2] * len(tasks.subsets)])
    if whole:
        masks = np.concatenate([masks, np.ones((1, n), dtype=bool)])
        penalties = np.append(penalties, found.l2[ends[0]])
    targets = torch.as_tensor(tasks.targets, device=design.X.device)
    problems = tasks.kind.problems(
        design, tasks.loss, targets.expand(len(masks), -1, -1),
        torch.as_tensor(masks, device=design.X.device).to(design.X.dtype),
    )  # fmt: skip
    solution = problems.solve(torch.as_tensor(penalties, device=design.X.device))
    of_folds = slice(0, tasks.n_folds)
    of_fold = problems[of_folds].raw(solution[of_folds])
    kept = slice(len(masks) - 1, None) if whole else slice(0, 1)
    fits = problems[kept].raw(solution[kept])
    held_out = _held_out(solution.logits, tasks)
    scored = torch.as_tensor(tasks.scored, device=design.X.device)[None]
    scores = [float(tasks.loss.score(part[None], targets[None], scored)) for part in held_out]
    coef, intercept = _in_units_of_labels(fits, tasks)
    fold0_coef, fold0_intercept = _in_units_of_labels(of_fold, tasks)
    return LayerFit(
        predicted=_predictions(held_out[0], tasks),
        l2=l2 if tasks.kind.has_penalty else np.full(len(l2), np.nan),
        whole_l2=float(penalties[kept][0]) if tasks.kind.has_penalty else np.nan,
        unconverged=int((~solution.converged).sum()),
        coef=coef,
        intercept=intercept,
        fold0_coef=fold0_coef,
        fold0_intercept=fold0_intercept,
        probe_plane=probe_plane(design, of_fold.coef, of_fold.intercept, tasks.fold_of),
        statistic=statistic if observed else np.full(1, np.nan),
        control=float(found.score[control].mean()) if tasks.control else np.nan,
        code_length=_code_length(float(found.loss[online][0]), tasks) if tasks.online else np.nan,
        curve=np.asarray(scores[1:]),
    )


def _in_units_of_labels(fits: ManyFits, tasks: ProbingTasks) -> tuple[np.ndarray, np.ndarray]:
    """Of the first fit: [d, 1 or C] and [1 or C]; labels that are numbers were standardised."""
    coef, intercept = fits.coef[:, 0], fits.intercept[0]
    if len(tasks.classes):
        return coef, intercept
    return coef * tasks.y.std(), intercept * tasks.y.std() + tasks.y.mean()


def _held_out(logits: Tensor, tasks: ProbingTasks) -> Tensor:
    """Logits of each row from the problem of its fold: all training rows, then each fraction.

    -> [1 + fractions, C, n], of rows that are not scored anything
    """
    blocks = logits[: tasks.n_folds * (1 + len(tasks.subsets))]
    blocks = blocks.view(-1, tasks.n_folds, *blocks.shape[1:])
    fold_of = torch.as_tensor(tasks.fold_of, device=logits.device).clamp_min(0)
    index = fold_of.expand(len(blocks), 1, blocks.shape[2], -1)
    held_out: Tensor = blocks.gather(1, index)[:, 0]
    return held_out


def _predictions(logits: Tensor, tasks: ProbingTasks) -> np.ndarray:
    """From logits [C, n] to what ``LayerFit.predicted`` holds."""
    values = logits.double().cpu().T[tasks.scored]
    if not len(tasks.classes):
        values = values * tasks.y.std() + tasks.y.mean()
    elif len(tasks.classes) == 2:
        values = torch.cat([torch.sigmoid(-values), torch.sigmoid(values)], dim=1)
    else:
        values = torch.softmax(values, dim=1)
    predicted: np.ndarray = values.numpy()
    return predicted


def _code_length(loss: float, tasks: ProbingTasks) -> float:
    """The whole code: the penalty's number, a uniform code for the first portion, and the rest."""
    first = int(tasks.online[0].train[0].sum())
    return float(np.log(len(tasks.penalties)) + first * np.log(len(tasks.classes)) + loss)
