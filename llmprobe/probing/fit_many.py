"""Many penalised logistic regressions on one design matrix, at once.

Folds, penalties, permutations and control labels are problems: a mask in ``weights``, a number in
``l2``, labels in ``targets``. Every iteration is then a product of matrices, not one of a matrix
and a vector for each problem.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from llmprobe.models.devices import to_device
from llmprobe.probing.losses import Logistic, Loss, Softmax

TOLERANCE = 2e-5
MAX_ITERATIONS = 1000
CONSTANT = 1e-6
"""A feature whose standard deviation is below this times its size counts as constant."""
CERTAIN = 1e-6
"""A mean error of the probabilities below this counts as this in the test for convergence."""
CHUNK_BYTES = 2**28
"""What the work on the problems of one chunk may take, beside the design and the results."""
FEW_STEPS = 10
"""More steps than these add up rounding, so that logits are computed anew."""
CLOSE = 0.1
"""A step ends close enough to the least along it if the slope there is below this times the first.
"""
DROWNED = 0.1
"""A curvature below this times the penalty hardly matters to the preconditioner."""
BETWEEN_WAITS = 4
"""Steps after which an accelerator is asked which problems have converged."""
WHOLE_BASIS = 1024
"""Up to this many rows or features, the preconditioner knows all their directions; of more, the
``BASIS_RANK`` largest."""
BASIS_RANK = 256


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
    """Minimise, for every column k, over a direction ``w_k`` and a free intercept::

        sum_i weights_ik log(1 + exp(-(2 t_ik - 1) f_ik)) + l2_k / 2 ||w_k||²

    which is scikit-learn's objective with C = 1 / l2.

    Parameters
    ----------
    X
        Features; a tensor's device does the work. [n, d]
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
    design = Design(X, standardize)
    target = torch.as_tensor(targets)
    if target.ndim != 2 or len(target) != len(design.X) or not target.numel():
        raise ValueError(f"targets must be [{len(design.X)}, K], not {tuple(target.shape)}")
    _require_probabilities(target)
    problems = Problems(design, Logistic(), target.T[:, None], _rows(weights))
    fits = problems.raw(problems.solve(l2, tolerance=tolerance, max_iterations=max_iterations))
    return ManyFits(fits.coef[..., 0], fits.intercept[:, 0], fits.loss, fits.converged)


def fit_many_multinomial(
    X: np.ndarray | Tensor,
    targets: np.ndarray | Tensor,
    weights: np.ndarray | Tensor | None = None,
    l2: float | np.ndarray | Tensor = 1.0,
    standardize: bool = True,
    *,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> ManyFits:
    """Minimise, for every column k, over a direction and an intercept for each of C classes::

        sum_i weights_ik (log sum_c exp(f_ikc) - sum_c t_ikc f_ikc) + l2_k / 2 sum_c ||w_kc||²

    which is scikit-learn's multinomial objective. Coefficients and intercepts sum to 0 over the
    classes.

    Parameters
    ----------
    targets
        Probabilities of the classes, which sum to 1. [n, K, C]
    X, weights, l2, standardize, tolerance
        As in ``fit_many``.

    Raises
    ------
    ValueError
        As in ``fit_many``; or the probabilities of a row do not sum to 1.
    """
    design = Design(X, standardize)
    target = torch.as_tensor(targets)
    if target.ndim != 3 or len(target) != len(design.X) or target.shape[-1] < 2:
        raise ValueError(f"targets must be [{len(design.X)}, K, C], not {tuple(target.shape)}")
    _require_probabilities(target)
    if not bool(((target.sum(dim=-1) - 1).abs() < 1e-4).all()):
        raise ValueError("targets must sum to 1 over the classes")
    problems = Problems(design, Softmax(), target.permute(1, 2, 0), _rows(weights))
    return problems.raw(problems.solve(l2, tolerance=tolerance, max_iterations=max_iterations))


def _require_probabilities(targets: Tensor) -> None:
    if not bool(((targets >= 0) & (targets <= 1)).all()):
        raise ValueError("targets must be between 0 and 1")


def _rows(weights: np.ndarray | Tensor | None) -> Tensor | None:
    return None if weights is None else torch.as_tensor(weights).movedim(0, -1)


class Design:
    """Features shifted and scaled once for all problems, with the eigenbasis of their products.

    The shift and scale use every row but leak nothing: each problem's own standardisation is
    applied on top, in exact algebra. They keep float32 from losing digits. Without ``standardize``
    directions are penalised in raw features, and one scale serves them all.
    """

    def __init__(self, X: np.ndarray | Tensor, standardize: bool = True) -> None:
        raw = torch.as_tensor(X).detach()
        raw = raw if raw.dtype == torch.float64 else raw.float()
        if raw.ndim != 2 or not raw.numel():
            raise ValueError(f"X must be [n, d] and not empty, not {tuple(raw.shape)}")
        largest = torch.maximum(raw.amax(dim=0), -raw.amin(dim=0))
        if not bool(largest.isfinite().all()):
            raise ValueError("X has values that are not finite")
        self.standardize = standardize
        self.n = len(raw)
        # Not the mean, which one huge row drags away from where all others then lose digits.
        self.shift = raw[:: max(len(raw) // _SAMPLE, 1)].median(dim=0).values
        # By the largest value first, so that no square is beyond the range of the numbers.
        size = torch.where(largest > 0, largest, 1.0)
        centred = (raw - self.shift).div_(size)
        spread = torch.linalg.vector_norm(centred, dim=0) / len(raw) ** 0.5
        # Below this a spread is the rounding of equal values.
        varies = spread > 10 * torch.finfo(raw.dtype).eps
        self.unit = torch.where(varies, spread.double() * size, 1.0)
        self.common_unit = 1.0
        if not standardize:
            spreads = torch.where(varies, self.unit, 0.0)
            most = spreads.amax().clamp_min(1e-300)
            common = (spreads / most).square().mean().sqrt() * most
            self.unit = torch.where(common > 1e-300, common, 1.0).expand_as(spreads)
            self.common_unit = float(self.unit[0])
        factor = torch.where(varies, size / self.unit, 0.0).to(raw.dtype)
        self.X = centred.mul_(factor).float()
        # An intercept takes up what all rows share.
        self.basis, self.spectrum, rest = _eigenbasis(self.X, self.X.mean(dim=0))
        self.spectrum_on_host, self.rest = self.spectrum.cpu(), float(rest)

    def rows(self, some: np.ndarray) -> Design:
        """Return the design of some rows, by indices [m]; the basis stays that of all rows."""
        part = copy(self)
        part.X = self.X[torch.as_tensor(some, device=self.X.device)]
        return part


@dataclass(frozen=True)
class Solution:
    """Optima in the solver's coordinates; a start for a neighbouring penalty."""

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
    """The gradient of the loss alone, by the directions, as the solver knows it. [K, C, d]"""

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
    """K probes without a penalty, found without iterations: a subclass has only to ``fit`` them.

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

        Finite ones also where a problem's rows lack a class, as an online code begins.
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


class Problems:
    """K problems that share ``X``, ready to be solved at one penalty after another.

    Conjugate gradients (Polak-Ribière, restarted when they do not descend) with the curvature of
    the shared design as preconditioner: ``c_k XᵀX + l2_k`` in the eigenbasis of ``XᵀX``, where
    ``c_k`` is the mean curvature of problem k. Since logits are linear in the parameters, a line
    search costs no product with ``X``. Directions are those of the design's features; with
    ``standardize`` of features in each problem's own standard deviations.

    Problems are rows here, not columns: products of few rows with ``X`` are up to four times
    faster so.
    """

    def __init__(
        self, design: Design, loss: Loss, targets: Tensor, weights: Tensor | None = None
    ) -> None:
        """Prepare ``targets`` [K, C, n], of which ``loss`` says what C is, ``weights`` [K, n]."""
        X = design.X
        self.design, self.loss = design, loss
        self.targets = targets.to(X.device, X.dtype)
        shape = (len(targets), len(X))
        weights = torch.ones(shape) if weights is None else weights
        if weights.shape != shape:
            raise ValueError(
                f"weights must be {shape[::-1]}, a column for each problem, "
                f"not {tuple(weights.shape[::-1])}"
            )
        self.weights = weights.to(X.device, X.dtype)[:, None]
        self.total = self.weights.sum(dim=(1, 2))
        usable = (self.weights >= 0).all() & (self.total > 0).all() & self.total.isfinite().all()
        # NaN where not usable: an accelerator is asked once for both.
        self.heaviest = float(torch.where(usable, self.total.max(), torch.nan))
        if not self.heaviest >= 0:
            raise ValueError("weights must be finite and not negative, nor all zero in a column")
        mean, self.scale = _moments(X, self.weights[:, 0] / self.total[:, None])
        self.mean = mean[:, None]
        self.scale = self.scale[:, None] if design.standardize else torch.ones_like(self.mean)

    def solve(
        self,
        l2: float | np.ndarray | Tensor,
        start: Solution | None = None,
        *,
        tolerance: float | Tensor = TOLERANCE,
        max_iterations: int = MAX_ITERATIONS,
    ) -> Solution:
        """Return the optima at ``l2``, found from ``start`` if given; who converges, leaves."""
        (K, C, n), d = self.targets.shape, self.mean.shape[-1]
        penalty = torch.as_tensor(l2, dtype=torch.float64)
        penalty = penalty.expand(K) if penalty.ndim == 0 else penalty
        least, most = (float(end) for end in torch.aminmax(penalty)) if penalty.numel() else (0, 0)
        if penalty.shape != (K,) or not 0 < least <= most < torch.inf:
            raise ValueError(f"l2 must be above 0: one number, or one for each of {K}")
        device, dtype = self.targets.device, self.targets.dtype
        least = least / self.design.common_unit**2
        penalty = to_device((penalty / self.design.common_unit**2).to(dtype), device)
        bound = to_device(torch.as_tensor(tolerance, dtype=dtype), device).expand(K)
        width = max(CHUNK_BYTES // (4 * _ARRAYS * C * (n + d)), 1)
        parts = []
        with _flushed_denormals():
            for first in range(0, K, width):
                some = slice(first, first + width)
                begin = None if start is None else start[some]
                part, steps = _Descent(self, some, penalty[some], least, begin).run(
                    bound[some], max_iterations
                )
                parts.append(self[some]._finished(part, penalty[some], anew=steps > FEW_STEPS))
        if len(parts) == 1:
            return parts[0]
        fields = Solution.__dataclass_fields__
        return Solution(*(torch.cat([getattr(p, name) for p in parts]) for name in fields))

    def _finished(self, solution: Solution, l2: Tensor, anew: bool) -> Solution:
        """Return the solution with its loss; ``anew`` with logits of its directions.

        Those of the solver have added up the rounding of every step.
        """
        logits, v = solution.logits, solution.direction
        if anew:
            intercept = solution.intercept[..., None]
            logits = _logits(self.design.X, v, intercept, self.mean, self.scale)
        loss = _sum(self.weights * self.loss.value(logits, self.targets))
        loss = (loss + l2[:, None, None] / 2 * _sum(v * v))[:, 0, 0]
        return replace(solution, logits=logits, loss=loss)

    def raw(self, solution: Solution) -> ManyFits:
        """Return all problems' optima in raw feature space."""
        direction = solution.direction.double() * self.scale
        offset = (direction * self.mean).sum(dim=-1)
        return raw_fits(self.design, direction, solution.intercept - offset, solution)

    def __getitem__(self, some: Tensor | slice) -> Self:
        """Return some of the problems, by a mask [K] or a slice."""
        part = copy(self)
        for name in ("targets", "weights", "total", "mean", "scale"):
            setattr(part, name, getattr(self, name)[some])
        return part


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


@dataclass(frozen=True)
class _Slopes:
    """What the loss does about the logits of K problems, its rows weighted."""

    means: tuple[Tensor, Tensor]
    """What the logits predict, and 1 less that. [K, C, n] each"""
    residual: Tensor
    """The first derivative by each logit. [K, C, n]"""
    curvature: Tensor
    """The second derivative by each logit alone. [K, C, n]"""

    def __getitem__(self, some: Tensor) -> _Slopes:
        """Return those of some of the problems, by their indices."""
        p, complement = self.means
        return _Slopes((p[some], complement[some]), self.residual[some], self.curvature[some])

    def put(self, some: Tensor | slice, other: _Slopes) -> None:
        """Replace those of some of the problems."""
        for here, there in zip(self.means, other.means, strict=True):
            here[some] = there
        self.residual[some], self.curvature[some] = other.residual, other.curvature


class _Descent:
    """Conjugate gradients on the problems that have not converged.

    Work on arrays of the size of the logits costs as much as the products do, unless there is
    little of it: so a step whose end lies close to the least along it needs one evaluation of the
    loss, that from which the next step starts.
    """

    def __init__(
        self, problems: Problems, some: slice, l2: Tensor, least_l2: float, start: Solution | None
    ) -> None:
        design, self.loss = problems.design, problems.loss
        self.X, self.n = design.X, design.n
        # Where the penalty drowns the curvature, it is all that the preconditioner needs.
        strongest = self.loss.most_curvature * problems.heaviest / design.n
        drowned = int((strongest * design.spectrum_on_host < DROWNED * least_l2).sum())
        self.basis, self.spectrum = design.basis[drowned:], design.spectrum[drowned:]
        left_out = design.spectrum_on_host[:drowned]
        self.rest = max(design.rest, *left_out[-1:].tolist(), 0.0)
        self.l2 = l2[:, None, None]
        self.targets, self.weights = problems.targets[some], problems.weights[some]
        self.mean, self.scale = problems.mean[some], problems.scale[some]
        self.total = problems.total[some]
        K, C, _ = self.targets.shape
        if start is not None:
            self.v, self.b = start.direction.clone(), start.intercept[..., None].clone()
            self.logits, self.pull = start.logits, start.pull
            return
        self.pull = None
        self.v = self.X.new_zeros(K, C, self.X.shape[1])
        share = (self.weights * self.targets).sum(dim=-1, keepdim=True)
        self.b = self.loss.intercept(share / self.total[:, None, None])
        if C > 1:
            self.b = self.b - self.b.mean(dim=1, keepdim=True)
        self.logits = self.b.expand_as(self.targets)

    def slopes(self, logits: Tensor, some: Tensor | slice = slice(None)) -> _Slopes:
        """Return the derivatives of the loss at the logits of some problems."""
        means, weights = self.loss.means(logits), self.weights[some]
        residual = self.loss.residual(means, self.targets[some]) * weights
        return _Slopes(means, residual, self.loss.curvature(means) * weights)

    def bend(
        self,
        at: _Slopes,
        change: Tensor,
        some: Tensor | slice = slice(None),
    ) -> Tensor:
        """Return the second derivative of the loss along a change of the logits. [K, 1, 1]"""
        if change.shape[1] == 1:
            return _sum(at.curvature * change.square())
        return _sum(self.weights[some] * self.loss.bend(at.means, change))

    def precondition(self, gradient: Tensor, strength: Tensor) -> Tensor:
        """Return the gradient divided by ``c_k XᵀX + l2_k``, without forming it. [K, C, d]

        What the basis does not span is divided by no less than the curvature that may have been
        lost with it: dividing its rounding by a small penalty would drown everything else.
        """
        inverse = 1 / (strength * self.spectrum + self.l2)
        floor = 1 / (strength * self.rest + self.l2)
        flat = gradient.flatten(0, 1)
        inside = (flat @ self.basis.T).view(*gradient.shape[:2], -1).mul_(inverse.sub_(floor))
        return (inside.flatten(0, 1) @ self.basis).view_as(gradient).addcmul_(gradient, floor)

    def move(self, at: _Slopes, slope: Tensor, d_v: Tensor, d_b: Tensor) -> _Slopes:
        """Go about as far as the least along a direction; return the derivatives there."""
        change = _logits(self.X, d_v, d_b, self.mean, self.scale)
        ridge = self.l2 * _sum(d_v * d_v)
        step = -slope / (self.bend(at, change) + ridge).clamp_min(_TINY)
        logits = torch.addcmul(self.logits, step, change)
        there = self.slopes(logits)
        slope_there = _sum(there.residual * change) + self.l2 * _sum(self.v * d_v) + step * ridge
        far = ~(slope_there.abs() <= CLOSE * slope.abs())  # of NaN too
        if _may_be(far):
            some = far.flatten().nonzero()[:, 0] if far.device.type == "cpu" else slice(None)
            change = change[some]
            length = self.step_length(
                some, slope[some], step[some], slope_there[some], there, change, d_v[some]
            )
            # Near the least a value tells less than its rounding: there a step is taken as it is.
            step[some] = torch.where(far[some], length, step[some])
            logits[some] = torch.addcmul(self.logits[some], step[some], change)
            there.put(some, self.slopes(logits[some], some))
        self.v.addcmul_(step, d_v)
        self.b.addcmul_(step, d_b)
        self.logits = logits
        return there

    def step_length(
        self,
        some: Tensor | slice,
        slope: Tensor,
        step: Tensor,
        slope_there: Tensor,
        there: _Slopes,
        change: Tensor,
        d_v: Tensor,
    ) -> Tensor:
        """Return the lengths of steps of some problems whose ``step`` was not close. [K, 1, 1]

        A second step of Newton's from there; or the first, or one that overshoots nowhere, where
        that is no descent.
        """
        logits, v, l2 = self.logits[some], self.v[some], self.l2[some]
        weights, targets = self.weights[some], self.targets[some]
        at = there[some] if isinstance(some, Tensor) else there
        ridge = l2 * _sum(d_v * d_v)
        length = step - slope_there / (self.bend(at, change, some) + ridge).clamp_min(_TINY)
        # Curvature is at most this.
        most = self.loss.most_curvature * _sum(weights * change.square())
        safe = -slope / (most + ridge).clamp_min(_TINY)

        def objective(length: Tensor | float) -> Tensor:
            loss = _sum(weights * self.loss.value(logits + length * change, targets))
            return loss + l2 / 2 * _sum((v + length * d_v).square())

        here = objective(0.0) * (1 + 4 * _EPS)
        for fallback in (step, safe):
            ascends = ~(objective(length) <= here)  # of NaN too
            if not _may_be(ascends):
                break
            length = torch.where(ascends, fallback, length)
        return length

    def run(self, tolerance: Tensor, max_iterations: int) -> tuple[Solution, int]:
        """Return the optima, whose loss is not yet known, and how many steps they took."""
        K, device = len(self.l2), self.X.device
        v, b, logits = (torch.empty_like(x, memory_format=torch.contiguous_format)
                        for x in (self.v, self.b, self.logits))  # fmt: skip
        pull = torch.empty_like(v)
        converged = torch.zeros(K, dtype=torch.bool, device=device)
        place = torch.arange(K, device=device)
        d_v, d_b = torch.zeros_like(self.v), torch.zeros_like(self.b)
        before = (d_v, d_b, torch.ones_like(self.l2))
        at = self.slopes(self.logits)
        for iteration in range(max_iterations + 1):
            g_b = at.residual.sum(dim=-1, keepdim=True)
            if iteration or self.pull is None:
                by_row = (at.residual.flatten(0, 1) @ self.X).view_as(self.v)
                self.pull = by_row.addcmul_(g_b, self.mean, value=-1).mul_(self.scale)
            g_v = torch.addcmul(self.pull, self.l2, self.v)
            last = iteration == max_iterations
            if last or device.type == "cpu" or iteration % BETWEEN_WAITS == 0:
                largest = torch.maximum(g_v.abs().amax(dim=(1, 2)), g_b.abs().amax(dim=(1, 2)))
                error = at.residual.abs().sum(dim=(1, 2))
                finished = largest <= tolerance * torch.maximum(error, CERTAIN * self.total)
                is_done = finished.cpu()
                out, keep = (
                    to_device(mask.nonzero()[:, 0], device) for mask in (is_done | last, ~is_done)
                )
                if len(out):
                    v[place[out]], b[place[out]] = self.v[out], self.b[out]
                    logits[place[out]], pull[place[out]] = self.logits[out], self.pull[out]
                    converged[place[out]] = finished[out]
                    if last or not len(keep):
                        break
                    place, tolerance, at = place[keep], tolerance[keep], at[keep]
                    g_v, g_b, d_v, d_b = (x[keep] for x in (g_v, g_b, d_v, d_b))
                    before = (before[0][keep], before[1][keep], before[2][keep])
                    self.keep(keep)
            curvature = at.curvature.sum(dim=-1, keepdim=True)
            p_v = self.precondition(g_v, curvature / self.n)
            p_b = g_b / curvature.clamp_min(_TINY)
            if p_v.shape[1] > 1:
                # Gradients sum to 0 over classes; what moved all classes alike would only have to
                # be pulled back, by the penalty alone.
                p_v = p_v - p_v.mean(dim=1, keepdim=True)
                p_b = p_b - p_b.mean(dim=1, keepdim=True)
            agreement = _sum(g_v * p_v) + _sum(g_b * p_b)
            moved = agreement - _sum(before[0] * p_v) - _sum(before[1] * p_b)
            beta = (moved / before[2]).clamp_min(0)
            # Back to the gradient where the direction would not descend.
            ahead = beta * (_sum(g_v * d_v) + _sum(g_b * d_b))
            beta = torch.where(ahead < agreement, beta, 0.0)
            slope = torch.where(ahead < agreement, ahead - agreement, -agreement)
            d_v, d_b = (beta * d_v).sub_(p_v), beta * d_b - p_b
            at = self.move(at, slope, d_v, d_b)
            before = (g_v, g_b, torch.where(agreement > 0, agreement, torch.inf))
        return Solution(
            v, b[..., 0], logits, torch.zeros_like(converged), converged, pull
        ), iteration

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the problems, by their indices."""
        names = ("targets", "weights", "mean", "scale", "total", "l2", "v", "b", "logits", "pull")
        for name in names:
            setattr(self, name, getattr(self, name)[rows])


def _logits(X: Tensor, direction: Tensor, intercept: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Return the logits of directions [K, C, d] in problems' own units. [K, C, n]"""
    scaled = direction * scale
    offset = intercept - (scaled * mean).sum(dim=-1, keepdim=True)
    return (scaled.flatten(0, 1) @ X.T).view(*scaled.shape[:2], -1).add_(offset)


def _may_be(mask: Tensor) -> bool:
    """Whether any is true; on an accelerator always true, since to ask would be to wait for it."""
    return mask.device.type != "cpu" or bool(mask.any())


_TINY = torch.finfo(torch.float32).tiny
_EPS = torch.finfo(torch.float32).eps
_ARRAYS = 12
"""Arrays of the size of the logits and directions that an iteration holds."""
_SAMPLE = 128
"""Rows whose median stands for that of all."""
_ROWS = 8192
"""Rows that are squared at a time."""
_COLUMNS = 256
"""Features that are squared in double precision at a time."""


def _sum(values: Tensor) -> Tensor:
    """Return sums over all but the first dimension. [K, …] -> [K, 1, 1]"""
    return values.sum(dim=(1, 2), keepdim=True)


def _moments(X: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Return weighted means of the features and inverse deviations, 0 of constant ones. [K, d]

    ``share`` [K, n] sums to 1 over rows. A feature may be constant in a problem's rows and far
    from its overall mean; so where a variance is small beside the square, it is computed anew in
    float64, lest the rounding of their difference pass for a deviation.
    """
    mean = share @ X
    square = torch.zeros_like(mean)
    for first in range(0, len(X), _ROWS):
        rows = slice(first, first + _ROWS)
        square += share[:, rows] @ X[rows].square()
    doubtful = (square - mean.square() < 0.1 * square).any(dim=0)
    variance = (square - mean.square()).double()
    doubts = doubtful.nonzero()[:, 0]
    if len(doubts):
        share = share.double()
        share = share / share.sum(dim=1, keepdim=True)
    for first in range(0, len(doubts), _COLUMNS):
        some = doubts[first : first + _COLUMNS]
        columns = X[:, some].double()
        exact = share @ columns
        mean[:, some] = exact.float()
        variance[:, some] = share @ columns.square() - exact.square()
    deviation = variance.clamp_min(0).sqrt()
    varies = deviation > CONSTANT * mean.abs().clamp_min(1)
    return mean, torch.where(varies, 1 / deviation, 0.0).float()


def _eigenbasis(X: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest eigenvectors [r, d] and eigenvalues [r] of the products of the centred
    features, and a bound on the rest.

    All of them where that is cheap beside the products with ``X``; else by one step of subspace
    iteration from random vectors (Halko, Martinsson & Tropp 2011, algorithm 4.4).
    """
    n, d = X.shape
    if d <= n and d <= max(WHOLE_BASIS, n // 16):
        # Centred after the product: a copy of X would not fit beside the largest there are.
        spectrum, vectors = torch.linalg.eigh((X.T @ X).sub_(n * torch.outer(mean, mean)))
        return vectors.T.contiguous(), spectrum.clamp_min(0), spectrum[-1] * n * _EPS
    if n <= WHOLE_BASIS:
        centred = X - mean
        spectrum, vectors = torch.linalg.eigh(centred @ centred.T)
        rounding = spectrum[-1] * n * _EPS
        held = spectrum > rounding
        return (vectors[:, held] / spectrum[held].sqrt()).T @ centred, spectrum[held], rounding
    start = torch.randn(d, BASIS_RANK, generator=torch.Generator().manual_seed(0)).to(X.device)
    image = X @ start - mean @ start
    inside = torch.linalg.qr(X.T @ image - torch.outer(mean, image.sum(dim=0))).Q
    image = X @ inside - mean @ inside
    spectrum, vectors = torch.linalg.eigh(image.T @ image)
    spectrum = spectrum.clamp_min(0)
    return (inside @ vectors).T.contiguous(), spectrum, spectrum[0] + spectrum[-1] * n * _EPS


@contextmanager
def _flushed_denormals() -> Iterator[None]:
    """Count numbers below 1e-38 as zero: arithmetic on them is some 50 times slower."""
    flushed = bool(torch.tensor(_TINY) / 2 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
