"""Many penalised logistic regressions on one design matrix, at once.

Folds, penalties and classes are columns: a mask in ``weights``, a number in ``l2``, labels in
``targets``. Every iteration is then a product of matrices, not one of a matrix and a vector for
each problem.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

TOLERANCE = 1e-5
MAX_ITERATIONS = 1000
CONSTANT = 1e-6
"""A feature with a smaller standard deviation (of 1 over all rows) counts as constant."""


@dataclass(frozen=True)
class ManyFits:
    """The optima of K problems, in raw feature space: logits are ``X @ coef + intercept``."""

    coef: np.ndarray
    """[d, K]"""
    intercept: np.ndarray
    """[K]"""
    loss: np.ndarray
    """Value of each objective. [K]"""
    converged: np.ndarray
    """Whether each gradient is below the tolerance. [K]"""


def fit_many(
    X: np.ndarray | Tensor,
    targets: np.ndarray | Tensor,
    weights: np.ndarray | Tensor | None = None,
    l2: float | np.ndarray | Tensor = 1.0,
    standardize: bool = True,
    *,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> ManyFits:
    """Minimise, for every column k, over a direction ``w_k`` and a free intercept,

        sum_i weights_ik log(1 + exp(-(2 t_ik - 1) f_ik)) + l2_k / 2 ||w_k||²

    which is scikit-learn's objective with C = 1 / l2.

    Parameters
    ----------
    X
        Features. [n, d]
    targets
        Classes, 0 or 1, or probabilities between. [n, K]
    weights
        Not negative; 0 leaves a row out of a problem. [n, K], by default all 1
    l2
        Penalties, above 0: one, or [K]
    standardize
        Whether ``w_k`` is penalised in units of column k's own weighted standard deviations (its
        result is that of scaling its rows first); ``coef`` is for raw features either way.
    tolerance
        A column has converged when its largest gradient entry is below this times its weight.

    Raises
    ------
    ValueError
        Shapes do not fit, or a weight or penalty is out of its range.
    """
    problems = Problems(Design(X), targets, weights, standardize)
    return problems.raw(problems.solve(l2, tolerance=tolerance, max_iterations=max_iterations))


class Design:
    """Features shifted and scaled once for all columns, with the eigenbasis of their products.

    The shift and scale use every row but leak nothing: each column's own standardisation is
    applied on top, in exact algebra. They keep float32 from losing digits.
    """

    def __init__(self, X: np.ndarray | Tensor) -> None:
        raw = torch.as_tensor(X).float()
        if raw.ndim != 2:
            raise ValueError(f"X must be [n, d], not {tuple(raw.shape)}")
        self.shift = raw.mean(dim=0)
        spread = raw.std(dim=0, correction=0)
        self.varies = spread > CONSTANT * raw.abs().amax(dim=0).clamp_min(_TINY)
        self.unit = torch.where(self.varies, spread, 1.0)
        self.X = torch.where(self.varies, (raw - self.shift) / self.unit, 0.0)
        self.basis, self.spectrum = _eigenbasis(self.X)


@dataclass(frozen=True)
class Solution:
    """Optima in the solver's coordinates; a start for a neighbouring penalty."""

    direction: Tensor
    """[d, K]"""
    intercept: Tensor
    """[K]"""
    logits: Tensor
    """Of all rows, those of weight 0 too. [n, K]"""
    loss: Tensor
    """[K]"""
    converged: Tensor
    """[K]"""


class Problems:
    """K problems that share ``X``, ready to be solved at one penalty after another.

    Conjugate gradients (Polak-Ribière, restarted when they do not descend) with the curvature of
    the shared design as preconditioner: ``c_k XᵀX + l2_k`` in the eigenbasis of ``XᵀX``, where
    ``c_k`` is the mean curvature of column k. Since logits are linear in the parameters, a line
    search costs no product with ``X``.
    """

    def __init__(
        self,
        design: Design,
        targets: np.ndarray | Tensor,
        weights: np.ndarray | Tensor | None = None,
        standardize: bool = True,
    ) -> None:
        X = design.X
        self.design = design
        self.targets = torch.as_tensor(targets).to(X.device, X.dtype)
        if self.targets.ndim != 2 or len(X) != len(self.targets):
            raise ValueError(f"targets must be [{len(X)}, K], not {tuple(self.targets.shape)}")
        ones = torch.ones_like(self.targets)
        self.weights = ones if weights is None else torch.as_tensor(weights).to(X.device, X.dtype)
        if self.weights.shape != self.targets.shape:
            raise ValueError(f"weights must be {tuple(self.targets.shape)}, like targets")
        self.total = self.weights.sum(dim=0)
        if (self.weights < 0).any() or (self.total <= 0).any():
            raise ValueError("weights must not be negative, nor all zero in a column")
        self.mean = X.T @ self.weights / self.total
        if standardize:
            square = (X**2).T @ self.weights / self.total
            deviation = (square - self.mean**2).clamp_min(0).sqrt()
            self.scale = torch.where(deviation > CONSTANT, 1 / deviation, 0.0)
        else:
            # Directions are then measured, and penalised, in raw features.
            self.scale = (design.unit * design.varies)[:, None] * ones[:1]

    def solve(
        self,
        l2: float | np.ndarray | Tensor,
        start: Solution | None = None,
        *,
        tolerance: float = TOLERANCE,
        max_iterations: int = MAX_ITERATIONS,
    ) -> Solution:
        """The optima at ``l2``, from ``start`` if given. Columns that converge leave the work."""
        n_columns = self.targets.shape[1]
        penalty = torch.as_tensor(l2, dtype=self.targets.dtype, device=self.targets.device)
        penalty = penalty.expand(n_columns) if penalty.ndim == 0 else penalty
        if penalty.shape != (n_columns,) or not (penalty > 0).all():
            raise ValueError(f"l2 must be above 0: one number, or one for each of {n_columns}")
        with _flushed_denormals():
            return _Work(self, penalty, start).run(tolerance, max_iterations)

    def raw(self, solution: Solution) -> ManyFits:
        """All columns' optima in raw feature space."""
        direction = solution.direction * self.scale
        coef = direction / self.design.unit[:, None]
        offset = (direction * self.mean).sum(dim=0) + self.design.shift @ coef
        return ManyFits(
            coef.cpu().numpy(),
            (solution.intercept - offset).cpu().numpy(),
            solution.loss.cpu().numpy(),
            solution.converged.cpu().numpy(),
        )


class _Work:
    """The columns that are still being worked on."""

    def __init__(self, problems: Problems, l2: Tensor, start: Solution | None) -> None:
        design = problems.design
        self.X, self.basis, self.spectrum = design.X, design.basis, design.spectrum
        self.l2 = l2
        self.targets, self.weights = problems.targets, problems.weights
        self.mean, self.scale, self.total = problems.mean, problems.scale, problems.total
        if start is None:
            self.v = torch.zeros_like(self.mean)
            share = (self.weights * self.targets).sum(dim=0) / self.total
            self.b = torch.logit(share.clamp(1e-6, 1 - 1e-6))
        else:
            self.v, self.b = start.direction, start.intercept
        self.logits = self.product(self.v) + self.b

    def product(self, direction: Tensor) -> Tensor:
        """Change of the logits along a direction in each column's own units. -> [n, K]"""
        scaled = direction * self.scale
        change: Tensor = self.X @ scaled - (self.mean * scaled).sum(dim=0)
        return change

    def gradient(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of the objective by direction and intercept, and each row's curvature."""
        probability = torch.sigmoid(self.logits)
        residual = self.weights * (probability - self.targets)
        total = residual.sum(dim=0)
        by_v = (self.X.T @ residual - self.mean * total) * self.scale + self.l2 * self.v
        return by_v, total, self.weights * probability * (1 - probability)

    def precondition(self, gradient: Tensor, curvature: Tensor) -> Tensor:
        """The gradient divided by ``c_k XᵀX + l2_k``, without forming it."""
        strength = curvature.sum(dim=0) / len(self.X)
        inverse = 1 / (strength * self.spectrum[:, None] + self.l2)
        inside = self.basis.T @ gradient
        full: Tensor = self.basis @ (inside * (inverse - 1 / self.l2)) + gradient / self.l2
        return full

    def objective(self, logits: Tensor, v: Tensor) -> Tensor:
        """Value of each column's objective. [K]"""
        loss = self.weights * (softplus(logits) - self.targets * logits)
        return loss.sum(dim=0) + self.l2 / 2 * (v**2).sum(dim=0)

    def step_length(self, slope: Tensor, change: Tensor, d: Tensor, curvature: Tensor) -> Tensor:
        """Two Newton steps along the direction, or the step that is sure to descend. [K]"""
        bend = self.l2 * (d**2).sum(dim=0)
        squared = change**2
        step = -slope / ((curvature * squared).sum(dim=0) + bend).clamp_min(_TINY)
        probability = torch.sigmoid(self.logits + step * change)
        residual = self.weights * (probability - self.targets)
        slope_there = (residual * change).sum(dim=0) + self.l2 * ((self.v + step * d) * d).sum(0)
        there = (self.weights * probability * (1 - probability) * squared).sum(dim=0) + bend
        refined = step - slope_there / there.clamp_min(_TINY)
        here = self.objective(self.logits, self.v)
        for candidate in (refined, step):
            moved = self.objective(self.logits + candidate * change, self.v + candidate * d)
            if bool((moved <= here).all()):
                return candidate
        # Curvature is at most weight / 4: this step overshoots nowhere.
        safe = -slope / ((self.weights * squared).sum(dim=0) / 4 + bend).clamp_min(_TINY)
        return torch.where(moved <= here, candidate, safe)

    def run(self, tolerance: float, max_iterations: int) -> Solution:
        """Iterate to the optima."""
        n_columns = len(self.l2)
        result = Solution(
            torch.empty_like(self.v),
            torch.empty_like(self.b),
            torch.empty_like(self.logits),
            torch.empty_like(self.b),
            torch.zeros(n_columns, dtype=torch.bool, device=self.X.device),
        )
        place = torch.arange(n_columns, device=self.X.device)
        d_v = torch.zeros_like(self.v)
        d_b = torch.zeros_like(self.b)
        before = (torch.zeros_like(self.v), torch.zeros_like(self.b), torch.ones_like(self.b))
        for iteration in range(max_iterations + 1):
            g_v, g_b, curvature = self.gradient()
            largest = torch.maximum(g_v.abs().amax(dim=0), g_b.abs())
            finished = largest <= tolerance * self.total
            last = iteration == max_iterations
            if last or bool(finished.any()):
                out = torch.ones_like(finished) if last else finished
                result.direction[:, place[out]] = self.v[:, out]
                result.intercept[place[out]] = self.b[out]
                result.logits[:, place[out]] = self.logits[:, out]
                result.loss[place[out]] = self.objective(self.logits, self.v)[out]
                result.converged[place[out]] = finished[out]
                if bool(out.all()):
                    break
                keep = ~out
                place, d_b, g_b = place[keep], d_b[keep], g_b[keep]
                d_v, g_v, curvature = d_v[:, keep], g_v[:, keep], curvature[:, keep]
                before = (before[0][:, keep], before[1][keep], before[2][keep])
                self.keep(keep)
            p_v = self.precondition(g_v, curvature)
            p_b = g_b / curvature.sum(dim=0).clamp_min(_TINY)
            agreement = (g_v * p_v).sum(dim=0) + g_b * p_b
            moved = agreement - (before[0] * p_v).sum(dim=0) - before[1] * p_b
            beta = (moved / before[2]).clamp_min(0)
            d_v, d_b = beta * d_v - p_v, beta * d_b - p_b
            slope = (g_v * d_v).sum(dim=0) + g_b * d_b
            uphill = slope >= 0
            d_v, d_b = torch.where(uphill, -p_v, d_v), torch.where(uphill, -p_b, d_b)
            slope = torch.where(uphill, -agreement, slope)
            change = self.product(d_v) + d_b
            step = self.step_length(slope, change, d_v, curvature)
            self.v = self.v + step * d_v
            self.b = self.b + step * d_b
            self.logits = self.logits + step * change
            before = (g_v, g_b, agreement.clamp_min(_TINY))
        return result

    def keep(self, columns: Tensor) -> None:
        """Go on with some of the columns."""
        for name in ("targets", "weights", "mean", "scale", "v", "logits"):
            setattr(self, name, getattr(self, name)[:, columns])
        for name in ("l2", "total", "b"):
            setattr(self, name, getattr(self, name)[columns])


_TINY = torch.finfo(torch.float32).tiny


def _eigenbasis(X: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors ``[d, r]`` and eigenvalues ``[r]`` of ``XᵀX``, r = min(n, d)."""
    n, d = X.shape
    if d <= n:
        spectrum, basis = torch.linalg.eigh(X.T @ X)
        return basis, spectrum.clamp_min(0)
    spectrum, rows = torch.linalg.eigh(X @ X.T)
    held = spectrum > spectrum[-1] * n * torch.finfo(X.dtype).eps
    return X.T @ (rows[:, held] / spectrum[held].sqrt()), spectrum[held]


@contextmanager
def _flushed_denormals() -> Iterator[None]:
    """Numbers below 1e-38 count as zero: arithmetic on them is some 50 times slower."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
