"""The types of fits: K probes of one design at a time, and their solutions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from llmprobe.probing.design import Design

TOLERANCE = 2e-5
"""How near to its optimum a problem is solved, as ``fit_many`` says."""


@dataclass(frozen=True)
class ManyFits:
    """The optima of K problems, in raw feature space: logits are ``X @ coef + intercept``.

    In float64, so that features with large means lose no digits.
    """

    coef: np.ndarray
    """Directions. [d, K]; of classes [d, K, C]"""
    intercept: np.ndarray
    """Intercepts. [K]; of classes [K, C]"""
    loss: np.ndarray
    """Value of each objective. [K]"""
    converged: np.ndarray
    """Whether each gradient is below the tolerance. [K]"""


@dataclass(frozen=True)
class Solution:
    """Optima in the solver's coordinates, from which the next penalty can start."""

    direction: Tensor
    """Directions of the design's features. [K, C, d]"""
    intercept: Tensor
    """Intercepts of the logits. [K, C]"""
    logits: Tensor
    """Logits of all rows, those of weight 0 too. [K, C, n]"""
    loss: Tensor
    """Value of each objective. [K]"""
    converged: Tensor
    """Whether each problem has converged. [K] bool"""
    pull: Tensor | None = None
    """The gradient of the loss alone by the directions, where the solver knows it. [K, C, d]"""

    def __getitem__(self, problems: Tensor | slice) -> Solution:
        """Return the optima of some of the problems, by a mask [K], indices or a slice."""
        names = (name for name in self.__dataclass_fields__ if getattr(self, name) is not None)
        return Solution(**{name: getattr(self, name)[problems] for name in names})


class ProbeProblems(Protocol):
    """K probes of one design, to be fitted."""

    def solve(
        self,
        l2: float | Tensor,
        start: Solution | None = None,
        *,
        tolerance: float | Tensor = TOLERANCE,
    ) -> Solution:
        """Return the probes at penalties ``l2``, one or [K], found from ``start`` if given."""

    def raw(self, solution: Solution) -> ManyFits:
        """Return all probes in raw feature space."""

    def __getitem__(self, some: Tensor | slice) -> Self:
        """Return some of the problems, by a mask [K] or a slice."""


class ClosedForm(ABC):
    """K probes that have no penalty to choose; a subclass only has to ``fit`` them.

    Parameters
    ----------
    targets
        [K, C, n], where C = 1 for two classes (the second one is 1) and for numbers.
    weights
        How much each row counts in each problem, 0 to leave it out. [K, n]
    """

    def __init__(self, design: Design, targets: Tensor, weights: Tensor) -> None:
        self.design = design
        self.targets = targets.to(design.X.device, design.X.dtype)
        self.weights = weights.to(design.X.device, design.X.dtype)[:, None]

    @abstractmethod
    def fit(self) -> tuple[Tensor, Tensor]:
        """Return directions [K, C, d] of the design's features, and intercepts [K, C, 1].

        They have to be finite also where a problem's rows lack a class, as the first portions of an
        online code may.
        """

    def solve(
        self,
        l2: float | Tensor = 0.0,  # noqa: ARG002
        start: Solution | None = None,  # noqa: ARG002
        *,
        tolerance: float | Tensor = 0.0,  # noqa: ARG002
    ) -> Solution:
        """Return the probes, whatever the penalty, and their logits of all rows."""
        X = self.design.X
        direction, intercept = self.fit()
        logits = (direction.flatten(0, 1) @ X.T).view(*direction.shape[:2], -1) + intercept
        nothing = torch.zeros(len(direction), device=X.device)
        return Solution(direction, intercept[..., 0], logits, nothing, nothing == 0)

    def raw(self, solution: Solution) -> ManyFits:
        """Return all probes in raw feature space."""
        direction = solution.direction.double()
        return raw_fits(self.design, direction, solution.intercept.double(), solution)

    def __getitem__(self, some: Tensor | slice) -> Self:
        """Return some of the problems, by a mask [K] or a slice."""
        return type(self)(self.design, self.targets[some], self.weights[some, 0])


def raw_fits(design: Design, direction: Tensor, intercept: Tensor, solution: Solution) -> ManyFits:
    """Return fits in raw feature space, from directions [K, C, d] of the design's features."""
    coef = direction / design.unit.double()
    intercept = intercept - coef @ design.shift.double()
    if intercept.shape[1] > 1:  # What all classes share changes no probability.
        coef = coef - coef.mean(dim=1, keepdim=True)
        intercept = intercept - intercept.mean(dim=1, keepdim=True)
    return ManyFits(
        coef.permute(2, 0, 1).cpu().numpy(),
        intercept.cpu().numpy(),
        solution.loss.cpu().numpy(),
        solution.converged.cpu().numpy(),
    )
