"""One layer: a search for the penalties of all tasks, and the fits at these penalties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llmprobe.probing.design import Design
from llmprobe.probing.online_code import code_lengths
from llmprobe.probing.probe_plane import probe_plane
from llmprobe.probing.search import BestPenalties, ProbingTask, search
from llmprobe.probing.tasks import ProbingTasks, intercept_loss


@dataclass(frozen=True)
class HeldOutLogits:
    """Logits of the probes of a layer for rows that they were not fitted on, on the CPU."""

    choices: Tensor
    """From the choice of each penalty: that of each outer fold, then ``tasks.kept_choices``.
    [R · folds + 1 or 2, C, n]"""
    outer: Tensor
    """From the probes of the outer folds, in each repeat. [R, C, n]"""
    kept: Tensor
    """From the probe that is kept, for all rows, also those it was fitted on. [C, n]"""


@dataclass(frozen=True)
class LayerFit:
    """The out-of-fold predictions, probes and test statistics of one layer."""

    predicted: np.ndarray
    """Out-of-fold probabilities of the classes [R, m, C], or predicted numbers [R, m, 1], for the m
    rows that are scored, in each of R repeats of the folds."""
    l2: np.ndarray
    """The penalty of each outer fold of each repeat; NaN where there is none. [R · folds]"""
    unconverged: int
    """How many fits of the outer folds, the learning curve and all rows did not converge."""
    kept_l2: float
    """The penalty of the probe that is kept; if that is fitted on all rows, the penalty of least
    out-of-fold loss."""
    coef: np.ndarray
    """Directions of the probe that is kept, in raw feature space. It is fitted on all rows, or on
    those that a test set or a calibration leaves. [d, 1 or C]"""
    intercept: np.ndarray
    """Intercepts of that probe. [1 or C]"""
    fold0_coef: np.ndarray
    """Directions of the probe that did not see the first fold. [d, 1 or C]"""
    fold0_intercept: np.ndarray
    """Intercepts of that probe. [1 or C]"""
    probe_plane: np.ndarray
    """Coordinates of the m scored rows on the probe axis and the spread axis. [m, 2]"""
    skill: np.ndarray
    """The share of an intercept's held-out loss that the probe saves at its best penalty, for the
    observed labels and then for each shuffled labelling. [1 + permutations]"""
    control_score: float
    """Mean score on control labels, or NaN."""
    beside_control: float
    """Mean score of the concept on the splits of the control labels, or NaN."""
    code_lengths: np.ndarray
    """Length of the online code in each order of the groups, in nats. [orders]"""
    learning_curve: np.ndarray
    """Score after training on each fraction of the training groups. [fractions]"""
    query: np.ndarray | None = None
    """For attention over tokens, the direction of a token's weight. [d], or None"""
    fold0_query: np.ndarray | None = None
    """The query of the probe that did not see the first fold. [d], or None"""
    kept_skill: float = np.nan
    """Where rows are set aside, the held-out skill on the others, of probes like the kept one."""
    aside: np.ndarray | None = None
    """Probabilities of the classes for the a rows set aside, by the probe that is kept, which has
    not seen them; None where there are no such rows. [a, C]"""
    logits: HeldOutLogits | None = None
    """Held-out logits, from which a probe of several layers is made; None where none is."""


def probe_layer(
    X: np.ndarray,
    tasks: ProbingTasks,
    device: torch.device | str = "cpu",
    *,
    keep_logits: bool = False,
) -> LayerFit:
    """Search the penalties of all tasks on states X [n, d] at once, and fit probes at those."""
    design = Design(torch.as_tensor(X).to(device))
    kind, loss, n = tasks.kind, tasks.loss, int(tasks.scored.sum())
    all_are_scored = n == len(tasks.scored)
    labellings = (tasks.observed, *tasks.shuffled)
    own = () if tasks.calibrated is None else (tasks.calibrated,)
    best, (inner, calibrated, tested, control, beside, online) = _search_each(
        design, tasks, tasks.inner, own, labellings, tasks.control, tasks.beside_control,
        tasks.online, with_logits=len(tasks.inner) + len(own) + 1 if keep_logits else 0,
    )  # fmt: skip
    repeats, train = len(tasks.fold_of), tasks.train
    l2 = inner.l2 if tasks.inner else np.full(len(train), tasks.penalties[0])

    masks = np.concatenate([train, *tasks.subsets])
    penalties = np.append(l2, np.tile(l2[: tasks.n_folds], len(tasks.subsets)))
    kept = slice(0, 1)
    if all_are_scored:
        kept = slice(len(masks), None)
        masks = np.concatenate([masks, tasks.fitted[None]])
        penalties = np.append(penalties, calibrated.l2 if own else tested.l2[0])
    targets = torch.as_tensor(tasks.targets, device=design.X.device)
    weights = torch.as_tensor(masks, device=design.X.device).to(design.X.dtype)
    problems = kind.problems(design, loss, targets.expand(len(masks), -1, -1), weights)
    solution = problems.solve(torch.as_tensor(penalties))
    outer = slice(0, tasks.n_folds)
    of_folds = problems[outer].raw(solution[outer])
    (coef, intercept), (fold0_coef, fold0_intercept) = (
        in_units_of_labels(fits.coef[:, 0], fits.intercept[0], tasks)
        for fits in (problems[kept].raw(solution[kept]), of_folds)
    )
    held_out = _held_out(solution.logits, tasks)
    scored = torch.as_tensor(tasks.scored, device=design.X.device)[None]
    logits = None
    if best.logits is not None:
        logits = HeldOutLogits(
            best.logits, held_out[:repeats].cpu(), solution.logits[kept][0].cpu()
        )
    learning_curve = [
        float(loss.score(logits[None], targets[None], scored)) for logits in held_out[repeats:]
    ]
    return LayerFit(
        predicted=np.stack([predictions(logits, tasks) for logits in held_out[:repeats]]),
        l2=l2 if kind.has_penalty else np.full(len(l2), np.nan),
        kept_l2=float(penalties[kept][0]) if kind.has_penalty else np.nan,
        unconverged=int((~solution.converged).sum()),
        coef=coef,
        intercept=intercept,
        fold0_coef=fold0_coef,
        fold0_intercept=fold0_intercept,
        probe_plane=probe_plane(design, of_folds.coef, of_folds.intercept, tasks.fold_of[0]),
        skill=1 - tested.loss / tasks.intercept_loss,
        control_score=float(control.score.mean()) if tasks.control else np.nan,
        beside_control=float(beside.score.mean()) if tasks.beside_control else np.nan,
        code_lengths=code_lengths(online.loss, tasks) if tasks.online else np.empty(0),
        learning_curve=np.asarray(learning_curve),
        kept_skill=float(1 - calibrated.loss[0] / intercept_loss(own[0], loss)) if own else np.nan,
        aside=None if tasks.aside is None else predictions(solution.logits[-1], tasks, tasks.aside),
        logits=logits,
    )


def _search_each(
    design: Design, tasks: ProbingTasks, *families: Sequence[ProbingTask], with_logits: int
) -> tuple[BestPenalties, list[BestPenalties]]:
    """Search the penalties of several families of tasks in one path. -> of all, and of each"""
    every = [task for family in families for task in family]
    best = search(design, tasks.kind, tasks.loss, every, tasks.penalties, with_logits=with_logits)
    ends = np.cumsum([len(family) for family in families])
    return best, [best[end - len(family) : end] for end, family in zip(ends, families, strict=True)]


def in_units_of_labels(
    coef: np.ndarray, intercept: np.ndarray, tasks: ProbingTasks
) -> tuple[np.ndarray, np.ndarray]:
    """Return directions [d, 1 or C] and intercepts [1 or C] in the units of the given labels.

    For the fit, labels that are numbers were standardised.
    """
    if len(tasks.classes):
        return coef, intercept
    return coef * tasks.y.std(), intercept * tasks.y.std() + tasks.y.mean()


def _held_out(logits: Tensor, tasks: ProbingTasks) -> Tensor:
    """Return each row's logits from the probe of its fold. -> [R + fractions, C, n]

    They are of probes on all training rows, in each repeat, and then of probes on each fraction of
    them. Logits of rows that are not scored have no meaning.
    """
    fold_of = np.concatenate([tasks.fold_of, *[tasks.fold_of[:1]] * len(tasks.subsets)])
    blocks = logits[: tasks.n_folds * len(fold_of)]
    blocks = blocks.view(len(fold_of), tasks.n_folds, *blocks.shape[1:])
    index = torch.as_tensor(fold_of, device=logits.device).clamp_min(0)[:, None, None]
    held_out: Tensor = blocks.gather(1, index.expand(-1, -1, blocks.shape[2], -1))[:, 0]
    return held_out


def predictions(logits: Tensor, tasks: ProbingTasks, rows: np.ndarray | None = None) -> np.ndarray:
    """Return probabilities [m, C] or numbers [m, 1] for some rows, from logits [C, n].

    ``rows`` are [n] bool; by default those that are scored.
    """
    values = logits.double().cpu().T[tasks.scored if rows is None else rows]
    if not len(tasks.classes):
        values = values * tasks.y.std() + tasks.y.mean()
    elif len(tasks.classes) == 2:
        values = torch.cat([torch.sigmoid(-values), torch.sigmoid(values)], dim=1)
    else:
        values = torch.softmax(values, dim=1)
    predicted: np.ndarray = values.numpy()
    return predicted
