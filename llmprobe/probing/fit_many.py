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

TOLERANCE = 2e-5
MAX_ITERATIONS = 1000
CONSTANT = 1e-6
"""A feature whose standard deviation is below this times its size counts as constant."""
CERTAIN = 1e-6
"""A mean error of the probabilities below this counts as this in the test for convergence."""


@dataclass(frozen=True)
class ManyFits:
    """The optima of K problems, in raw feature space: logits are ``X @ coef + intercept``.

    In float64, so that features with large means lose no digits.
    """

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
        A column has converged when its largest gradient entry (in standardised features) is below
        this times its sum of weighted errors ``|p_i - t_i|``. The optimum of a column with one
        class lies at an infinite intercept; its fit ends, by the same test, near 26.

    Raises
    ------
    ValueError
        Shapes do not fit, a value is not finite, or a target, weight or penalty is out of its
        range.
    """
    problems = Problems(Design(X, standardize), targets, weights)
    return problems.raw(problems.solve(l2, tolerance=tolerance, max_iterations=max_iterations))


class Design:
    """Features shifted and scaled once for all columns, with the eigenbasis of their products.

    The shift and scale use every row but leak nothing: each column's own standardisation is
    applied on top, in exact algebra. They keep float32 from losing digits. Without ``standardize``
    directions are penalised in raw features, and one scale serves them all.
    """

    def __init__(self, X: np.ndarray | Tensor, standardize: bool = True) -> None:
        raw = torch.as_tensor(X).detach()
        raw = raw if raw.dtype == torch.float64 else raw.float()
        if raw.ndim != 2 or not raw.numel():
            raise ValueError(f"X must be [n, d] and not empty, not {tuple(raw.shape)}")
        if not bool(raw.isfinite().all()):
            raise ValueError("X has values that are not finite")
        self.standardize = standardize
        # Not the mean, which one huge row drags away from where all others then lose digits.
        self.shift = raw.median(dim=0).values
        spread = raw.std(dim=0, correction=0)
        # Below this a spread is the rounding of equal values.
        noise = 10 * torch.finfo(raw.dtype).eps * raw.abs().amax(dim=0)
        self.varies = spread > noise.clamp_min(_TINY)
        if not standardize:
            spread = spread.square().mean().sqrt().expand_as(spread)
        self.unit = torch.where(spread > 0, spread, 1.0)
        self.X = torch.where(self.varies, (raw - self.shift) / self.unit, 0.0).float()
        self.basis, self.spectrum, self.rounding = _eigenbasis(self.X)


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
    search costs no product with ``X``. Directions are those of the design's features; with
    ``standardize`` of features in each column's own standard deviations.
    """

    def __init__(
        self,
        design: Design,
        targets: np.ndarray | Tensor,
        weights: np.ndarray | Tensor | None = None,
    ) -> None:
        X = design.X
        self.design = design
        self.targets = torch.as_tensor(targets).to(X.device, X.dtype)
        if self.targets.ndim != 2 or len(X) != len(self.targets) or not self.targets.numel():
            raise ValueError(f"targets must be [{len(X)}, K], not {tuple(self.targets.shape)}")
        if not bool(((self.targets >= 0) & (self.targets <= 1)).all()):
            raise ValueError("targets must be between 0 and 1")
        ones = torch.ones_like(self.targets)
        self.weights = ones if weights is None else torch.as_tensor(weights).to(X.device, X.dtype)
        if self.weights.shape != self.targets.shape:
            raise ValueError(
                f"weights must be {tuple(self.targets.shape)}, like targets, "
                f"not {tuple(self.weights.shape)}"
            )
        self.total = self.weights.sum(dim=0)
        usable = bool((self.weights >= 0).all()) and bool((self.total > 0).all())
        if not usable or not bool(self.total.isfinite().all()):
            raise ValueError("weights must be finite and not negative, nor all zero in a column")
        # In float64: a feature may be constant in a column's rows and far from its overall mean,
        # and the rounding of a difference of squares would pass for a deviation.
        share = self.weights.double() / self.total
        parts = torch.split(X, 512, dim=1)
        mean = torch.cat([part.double().T @ share for part in parts])
        square = torch.cat([part.double().square().T @ share for part in parts])
        self.mean = mean.float()
        self.scale = torch.ones_like(self.mean)
        if design.standardize:
            deviation = (square - mean.square()).clamp_min(0).sqrt()
            varies = deviation > CONSTANT * mean.abs().clamp_min(1)
            self.scale = torch.where(varies, 1 / deviation, 0.0).float()

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
        if penalty.shape != (n_columns,) or not bool(((penalty > 0) & penalty.isfinite()).all()):
            raise ValueError(f"l2 must be above 0: one number, or one for each of {n_columns}")
        if not self.design.standardize:
            penalty = (penalty / self.design.unit[0].square()).float()
        with _flushed_denormals():
            begin = None if start is None else (start.direction, start.intercept)
            v, b, converged = _Work(self, penalty, begin).run(tolerance, max_iterations)
            # Logits anew: the solver's have added up the rounding of every step.
            end = _Work(self, penalty, (v, b))
            return Solution(v, b, end.logits, end.objective(end.logits, v), converged)

    def raw(self, solution: Solution) -> ManyFits:
        """All columns' optima in raw feature space."""
        direction = solution.direction.double() * self.scale
        coef = direction / self.design.unit.double()[:, None]
        offset = (direction * self.mean).sum(dim=0) + self.design.shift.double() @ coef
        return ManyFits(
            coef.cpu().numpy(),
            (solution.intercept - offset).cpu().numpy(),
            solution.loss.cpu().numpy(),
            solution.converged.cpu().numpy(),
        )


class _Work:
    """The columns that are still being worked on."""

    def __init__(self, problems: Problems, l2: Tensor, start: tuple[Tensor, Tensor] | None) -> None:
        design = problems.design
        self.X, self.basis = design.X, design.basis
        self.spectrum, self.rounding = design.spectrum[:, None], design.rounding
        self.l2 = l2
        self.targets, self.weights = problems.targets, problems.weights
        self.mean, self.scale, self.total = problems.mean, problems.scale, problems.total
        if start is None:
            self.v = torch.zeros_like(self.mean)
            share = (self.weights * self.targets).sum(dim=0) / self.total
            self.b = torch.logit(share.clamp(1e-6, 1 - 1e-6))
        else:
            self.v, self.b = start
        self.logits = self.product(self.v) + self.b

    def product(self, direction: Tensor) -> Tensor:
        """Change of the logits along a direction in each column's own units. -> [n, K]"""
        scaled = direction * self.scale
        change: Tensor = self.X @ scaled - (self.mean * scaled).sum(dim=0)
        return change

    def gradient(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the objective by direction and intercept, and each row's error and curvature."""
        residual, curvature = self.errors(self.logits)
        total = residual.sum(dim=0)
        by_v = (self.X.T @ residual - self.mean * total) * self.scale + self.l2 * self.v
        return by_v, total, residual, curvature

    def errors(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """First and second derivative of the loss by each logit. -> two of [n, K]"""
        # The complement by its own sigmoid: 1 - p has no digits left where p is near 1.
        p, complement = torch.sigmoid(logits), torch.sigmoid(-logits)
        residual = self.weights * ((1 - self.targets) * p - self.targets * complement)
        return residual, self.weights * p * complement

    def precondition(self, gradient: Tensor, curvature: Tensor) -> Tensor:
        """The gradient divided by ``c_k XᵀX + l2_k``, without forming it.

        What the basis does not span is divided by no less than the curvature that may have been
        lost with it: dividing its rounding by a small penalty would drown everything else.
        """
        strength = curvature.sum(dim=0) / len(self.X)
        inverse = 1 / (strength * self.spectrum + self.l2)
        floor = 1 / (strength * self.rounding + self.l2)
        inside = self.basis.T @ gradient
        full: Tensor = self.basis @ (inside * (inverse - floor)) + gradient * floor
        return full

    def objective(self, logits: Tensor, v: Tensor) -> Tensor:
        """Value of each column's objective. [K]"""
        # log(1 + exp(f)) - t f, in the form that keeps the digits of a small loss.
        tail = torch.log1p(torch.exp(-logits.abs()))
        loss = self.weights * (logits.clamp_min(0) - self.targets * logits + tail)
        return loss.sum(dim=0) + self.l2 / 2 * (v**2).sum(dim=0)

    def step_length(self, slope: Tensor, change: Tensor, d: Tensor, curvature: Tensor) -> Tensor:
        """Two Newton steps along the direction, or fewer where that does not descend. [K]"""
        bend = self.l2 * (d**2).sum(dim=0)
        squared = change**2
        step = -slope / ((curvature * squared).sum(dim=0) + bend).clamp_min(_TINY)
        residual, there = self.errors(self.logits + step * change)
        slope_there = (residual * change).sum(dim=0) + self.l2 * ((self.v + step * d) * d).sum(0)
        length = step - slope_there / ((there * squared).sum(dim=0) + bend).clamp_min(_TINY)
        # Curvature is at most weight / 4: this step overshoots nowhere.
        safe = -slope / ((self.weights * squared).sum(dim=0) / 4 + bend).clamp_min(_TINY)
        here = self.objective(self.logits, self.v) * (1 + 4 * _EPS)
        for fallback in (step, safe):
            moved = self.objective(self.logits + length * change, self.v + length * d)
            descends = moved <= here  # never of NaN
            if bool(descends.all()):
                break
            length = torch.where(descends, length, fallback)
        return length

    def run(self, tolerance: float, max_iterations: int) -> tuple[Tensor, Tensor, Tensor]:
        """Iterate to the optima. -> directions [d, K], intercepts [K], whether converged [K]"""
        n_columns = len(self.l2)
        v, b = torch.empty_like(self.v), torch.empty_like(self.b)
        converged = torch.zeros(n_columns, dtype=torch.bool, device=self.X.device)
        place = torch.arange(n_columns, device=self.X.device)
        d_v = torch.zeros_like(self.v)
        d_b = torch.zeros_like(self.b)
        before = (torch.zeros_like(self.v), torch.zeros_like(self.b), torch.ones_like(self.b))
        for iteration in range(max_iterations + 1):
            g_v, g_b, residual, curvature = self.gradient()
            largest = torch.maximum(g_v.abs().amax(dim=0), g_b.abs())
            error = residual.abs().sum(dim=0)
            finished = largest <= tolerance * torch.maximum(error, CERTAIN * self.total)
            last = iteration == max_iterations
            if last or bool(finished.any()):
                out = torch.ones_like(finished) if last else finished
                v[:, place[out]] = self.v[:, out]
                b[place[out]] = self.b[out]
                converged[place[out]] = finished[out]
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
            before = (g_v, g_b, torch.where(agreement > 0, agreement, torch.inf))
        return v, b, converged

    def keep(self, columns: Tensor) -> None:
        """Go on with some of the columns."""
        for name in ("targets", "weights", "mean", "scale", "v", "logits"):
            setattr(self, name, getattr(self, name)[:, columns])
        for name in ("l2", "total", "b"):
            setattr(self, name, getattr(self, name)[columns])


_TINY = torch.finfo(torch.float32).tiny
_EPS = torch.finfo(torch.float32).eps


def _eigenbasis(X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvectors ``[d, r]`` and eigenvalues ``[r]`` of ``XᵀX``, and what is rounding in these.

    r is d, or less than n where there are fewer rows than features.
    """
    n, d = X.shape
    spectrum, vectors = torch.linalg.eigh(X.T @ X if d <= n else X @ X.T)
    spectrum = spectrum.clamp_min(0)
    rounding = spectrum[-1] * n * _EPS
    if d <= n:
        return vectors, spectrum, rounding
    held = spectrum > rounding
    return X.T @ (vectors[:, held] / spectrum[held].sqrt()), spectrum[held], rounding


@contextmanager
def _flushed_denormals() -> Iterator[None]:
    """Numbers below 1e-38 count as zero: arithmetic on them is some 50 times slower."""
    flushed = bool(torch.tensor(_TINY) / 2 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
