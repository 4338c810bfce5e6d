"""The choice of penalties: all labellings and splits go down one path of penalties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llmprobe.models.devices import to_device
from llmprobe.probing.design import Design
from llmprobe.probing.fit_many import CHUNK_BYTES
from llmprobe.probing.fits import Solution
from llmprobe.probing.kinds import ProbeKind
from llmprobe.probing.losses import Loss

PENALTIES = (1e5, 1e4, 1e3, 1e2, 1e1, 1e0, 1e-1, 1e-2)
"""The grid of ``l2: auto``, strong to weak (scikit-learn's C = 1/l2)."""

SEARCH_TOLERANCE = 3e-4
"""Tolerance of fits that only tell penalties apart."""

CLEAR_STANDARD_ERRORS = 2.0
"""Standard errors by which a held-out loss must be above the least to end a path."""


@dataclass(frozen=True)
class ProbingTask:
    """Labels, and K problems that each score some of the rows that they were not fitted on."""

    targets: np.ndarray
    """The labels as the loss takes them; C is 1 for two classes and for numbers. [C, n]"""
    train: np.ndarray
    """Which rows each problem is fitted on. [K, n] bool"""
    scored_by: np.ndarray
    """The problem that scores each row; -1 for rows that none does. [n]"""
    doubt: np.ndarray | None = None
    """The share of a uniform guess in each row's prediction. [n], or None"""
    weight: np.ndarray | None = None
    """How much each row counts, in training and in the loss. [n], or None"""

    @property
    def used(self) -> np.ndarray:
        """Return which rows are trained on or scored. [n] bool"""
        used: np.ndarray = self.train.any(axis=0) | (self.scored_by >= 0)
        return used

    def of(self, rows: np.ndarray) -> ProbingTask:
        """Return the task on some of the rows, by indices, which must include all that it uses."""
        doubt, weight = (None if x is None else x[rows] for x in (self.doubt, self.weight))
        return ProbingTask(
            self.targets[:, rows], self.train[:, rows], self.scored_by[rows], doubt, weight
        )

    @staticmethod
    def cross_validated(
        targets: np.ndarray, fold_of: np.ndarray, weight: np.ndarray | None = None
    ) -> ProbingTask:
        """Return a task with a problem for each fold; rows of fold -1 are left out of all."""
        fold = np.arange(fold_of.max() + 1)[:, None]
        return ProbingTask(targets, (fold_of != fold) & (fold_of >= 0), fold_of, weight=weight)


@dataclass(frozen=True)
class BestPenalties:
    """The penalty of each of T tasks, and how well its probes do there."""

    l2: np.ndarray
    """The penalty with the least held-out loss. [T]"""
    score: np.ndarray
    """Accuracy (or R²) of the scored rows at that penalty. [T]"""
    loss: np.ndarray
    """Total held-out loss at that penalty, in nats for classes. [T]"""
    logits: Tensor | None = None
    """The held-out logits at that penalty of the first T' tasks, 0 where a row is not scored; None
    where none were asked for. [T', C, n]"""

    def __getitem__(self, some: slice) -> BestPenalties:
        """Return the penalties of some of the tasks, without logits."""
        return BestPenalties(self.l2[some], self.score[some], self.loss[some])


def search(
    design: Design,
    kind: ProbeKind,
    loss: Loss,
    tasks: Sequence[ProbingTask],
    penalties: Sequence[float] = PENALTIES,
    *,
    with_logits: int = 0,
) -> BestPenalties:
    """Find for each task the penalty with the least held-out loss.

    All problems go from strong to weak penalties together, each from its last solution. A task
    leaves when its held-out loss has turned: when it is above the least so far by more than
    ``CLEAR_STANDARD_ERRORS`` of the difference. (Friedman, Hastie & Tibshirani 2010 stop their
    path early too.) So weak penalties, which take by far the most iterations and are seldom chosen,
    are mostly left out. The result of a task depends on that task alone.

    Parameters
    ----------
    with_logits
        The number of tasks, from the first, whose held-out logits are kept.
    """
    l2, score, total = (np.empty(len(tasks)) for _ in range(3))
    logits = torch.zeros(with_logits, *tasks[0].targets.shape) if with_logits else None
    for indices in _chunks(tasks):
        chunk, part = [tasks[i] for i in indices], design
        rows = _few_rows(chunk[0])
        if rows is not None:
            chunk, part = [task.of(rows) for task in chunk], design.rows(rows)
        n_kept = sum(i < with_logits for i in indices)
        path = PenaltyPath(part, kind, loss, chunk, n_kept)
        for penalty in penalties:
            path.step(penalty)
            if not len(path.active):
                break
        l2[indices], score[indices], total[indices] = path.l2, path.score, path.total
        if logits is not None and n_kept:
            of_rows = slice(None) if rows is None else torch.as_tensor(rows)
            logits[indices[0] : indices[0] + n_kept, :, of_rows] = path.logits.cpu()
    return BestPenalties(l2, score, total, logits)


def _chunks(tasks: Sequence[ProbingTask]) -> list[list[int]]:
    """Return indices of tasks that go together: on the same design, within the memory budget."""
    chunks: list[list[int]] = []
    filled, before = 0, b""
    for i, task in enumerate(tasks):
        size = 4 * 6 * len(task.train) * task.targets.size
        few_rows = _few_rows(task)
        rows = b"" if few_rows is None else few_rows.tobytes()
        if not chunks or filled + size > CHUNK_BYTES or rows != before:
            chunks.append([])
            filled = 0
        chunks[-1].append(i)
        filled, before = filled + size, rows
    return chunks


def _few_rows(task: ProbingTask) -> np.ndarray | None:
    """Return the rows that a task uses, if they are few enough for a design of their own."""
    used = np.flatnonzero(task.used)
    return used if 2 * len(used) <= len(task.used) else None


class PenaltyPath:
    """Tasks that are solved at one penalty after another, from strong to weak.

    ``l2``, ``score`` and ``total`` [T], and the ``logits`` [n_kept, C, n] of the first tasks, are
    those of the least held-out loss so far. ``active`` has the indices of the tasks whose loss has
    not turned.
    """

    def __init__(
        self,
        design: Design,
        kind: ProbeKind,
        loss: Loss,
        tasks: Sequence[ProbingTask],
        n_kept: int = 0,
    ) -> None:
        self.device = device = design.X.device
        self.loss = loss
        self.targets = torch.as_tensor(np.stack([task.targets for task in tasks])).to(device)
        self.targets = self.targets.to(design.X.dtype)
        self.weight = self.by_row([task.weight for task in tasks], 1.0, design.X)
        self.task_of = np.arange(len(tasks)).repeat([len(task.train) for task in tasks])
        of_problem = self.on_device(self.task_of)
        train = torch.as_tensor(np.concatenate([task.train for task in tasks])).to(device)
        self.problems = kind.problems(
            design, loss, self.targets[of_problem], train * self.weight[of_problem]
        )
        self.scored_by = torch.as_tensor(np.stack([task.scored_by for task in tasks])).to(device)
        self.doubt = self.by_row([task.doubt for task in tasks], 0.0, design.X)
        self.solution: Solution | None = None
        self.active = np.arange(len(tasks))
        self.least = torch.full(self.doubt.shape, torch.inf, device=device)
        self.l2, self.score, self.total = (np.full(len(tasks), np.inf) for _ in range(3))
        self.logits = torch.zeros_like(self.targets[:n_kept])

    def on_device(self, numbers: np.ndarray) -> Tensor:
        """Return numbers on the device of the design, without waiting for an accelerator."""
        return to_device(numbers, self.device)

    @staticmethod
    def by_row(values: Sequence[np.ndarray | None], default: float, X: Tensor) -> Tensor:
        """Return a number for each row of each of T tasks, ``default`` for None. -> [T, n]"""
        rows = [np.full(len(X), default) if row is None else row for row in values]
        return to_device(torch.as_tensor(np.stack(rows)).to(X.dtype), X.device)

    def step(self, penalty: float) -> None:
        """Solve the active tasks at the next penalty, and drop those whose loss has turned."""
        self.solution = self.problems.solve(penalty, self.solution, tolerance=SEARCH_TOLERANCE)
        logits = self.held_out(self.solution.logits)
        scored = self.scored_by >= 0
        rows = self.row_losses(logits) * scored
        excess = torch.where(torch.isinf(self.least), 0.0, rows - self.least)
        mean = excess.sum(dim=1, keepdim=True) / scored.sum(dim=1, keepdim=True)
        error = (scored * (excess - mean).square()).sum(dim=1).sqrt()
        score = self.loss.score(logits, self.targets, scored)
        numbers = rows.sum(dim=1, dtype=torch.float64), score, excess.sum(dim=1), error
        # In one transfer, since it waits for the accelerator.
        total, scores, excesses, errors = torch.stack([x.double() for x in numbers]).cpu().numpy()
        better = total < self.total[self.active]
        clearly = excesses > CLEAR_STANDARD_ERRORS * errors
        won = self.active[better]
        self.l2[won], self.total[won], self.score[won] = penalty, total[better], scores[better]
        if (n_kept := len(self.logits)) and (places := np.flatnonzero(won < n_kept)).size:
            of_won = self.on_device(np.flatnonzero(better)[places])
            self.logits[self.on_device(won[places])] = logits[of_won] * scored[of_won, None]
        self.least = torch.where(self.on_device(better[:, None]), rows, self.least)
        leaves = clearly & ~better
        if leaves.any():
            self.keep(~leaves)

    def held_out(self, logits: Tensor) -> Tensor:
        """Return each task's logits by the problem that scores the row. [K, C, n] -> [T, C, n]"""
        first = self.on_device(np.searchsorted(self.task_of, np.arange(len(self.active))))
        index = (first[:, None] + self.scored_by.clamp_min(0))[:, None]
        return logits.gather(0, index.expand(-1, logits.shape[1], -1))

    def row_losses(self, logits: Tensor) -> Tensor:
        """Return each task's loss of each row, from logits [T, C, n]. -> [T, n]"""
        rows = self.loss.value(logits, self.targets)[:, 0]
        guess = self.doubt / max(logits.shape[1], 2)
        mixed = -torch.log((1 - self.doubt) * torch.exp(-rows) + guess)
        return torch.where(self.doubt > 0, mixed, rows) * self.weight

    def keep(self, tasks: np.ndarray) -> None:
        """Keep some of the active tasks, by a mask over them, and drop the others."""
        of_them = tasks[self.task_of]
        problems, rows = (self.on_device(np.flatnonzero(mask)) for mask in (of_them, tasks))
        self.problems = self.problems[problems]
        self.solution = self.solution[problems] if self.solution else None
        self.task_of = (tasks.cumsum() - 1)[self.task_of[of_them]]
        for name in ("targets", "scored_by", "doubt", "weight", "least"):
            setattr(self, name, getattr(self, name)[rows])
        self.active = self.active[tasks]
