"""Many penalised logistic regressions on one design matrix, at once.

Folds, penalties, permutations and control labels are problems: a mask in ``weights``, a number in
``l2``, labels in ``targets``. Every iteration is then a product of matrices, not one of a matrix
and a vector for each problem.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from llmprobe.models.devices import to_device
from llmprobe.probing.descent import Descent, logits_of, sum_of_each
from llmprobe.probing.design import Design, moments
from llmprobe.probing.fits import TOLERANCE, ManyFits, Solution, raw_fits
from llmprobe.probing.losses import Logistic, Loss, Softmax

MAX_ITERATIONS = 1000
CHUNK_BYTES = 2**28
"""The memory that work on the problems of one chunk may take, beside the design and the results."""
FEW_STEPS = 10
"""After more steps than these, too much rounding has added up, so logits are computed again."""
_ARRAYS = 12
"""Arrays of the size of the logits and directions that an iteration holds."""


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
        Whether ``w_k`` is penalised in units of column k's own weighted standard deviations, as if
        its rows were standardised first; ``coef`` is for raw features either way.
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


class Problems:
    """K problems that share ``X``, ready to be solved at one penalty after another.

    Conjugate gradients (Polak-Ribière, restarted when they do not descend) with the curvature of
    the shared design as preconditioner: ``c_k XᵀX + l2_k`` in the eigenbasis of ``XᵀX``, where
    ``c_k`` is the mean curvature of problem k. Since logits are linear in the parameters, a line
    search costs no product with ``X``. Directions are of the design's features; with
    ``standardize``, of features in each problem's own standard deviations.

    Problems are rows here, not columns, which makes products of few problems with ``X`` up to four
    times faster.
    """

    def __init__(
        self, design: Design, loss: Loss, targets: Tensor, weights: Tensor | None = None
    ) -> None:
        """Prepare ``targets`` [K, C, n], whose C depends on ``loss``, and ``weights`` [K, n]."""
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
        # NaN where weights are not usable, so that an accelerator is asked once, not twice.
        self.heaviest = float(torch.where(usable, self.total.max(), torch.nan))
        if not self.heaviest >= 0:
            raise ValueError("weights must be finite and not negative, nor all zero in a column")
        mean, self.scale = moments(X, self.weights[:, 0] / self.total[:, None])
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
        """Return the optima at ``l2``, found from ``start`` if given."""
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
                part, steps = Descent(self, some, penalty[some], least, begin).run(
                    bound[some], max_iterations
                )
                parts.append(self[some]._finished(part, penalty[some], anew=steps > FEW_STEPS))
        if len(parts) == 1:
            return parts[0]
        fields = Solution.__dataclass_fields__
        return Solution(*(torch.cat([getattr(p, name) for p in parts]) for name in fields))

    def _finished(self, solution: Solution, l2: Tensor, anew: bool) -> Solution:
        """Return the solution with its loss; with ``anew``, its logits are computed again.

        The logits of the solver have added up the rounding of every step.
        """
        logits, v = solution.logits, solution.direction
        if anew:
            intercept = solution.intercept[..., None]
            logits = logits_of(self.design.X, v, intercept, self.mean, self.scale)
        loss = sum_of_each(self.weights * self.loss.value(logits, self.targets))
        loss = (loss + l2[:, None, None] / 2 * sum_of_each(v * v))[:, 0, 0]
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


@contextmanager
def _flushed_denormals() -> Iterator[None]:
    """Count numbers below 1e-38 as zero: arithmetic on them is some 50 times slower."""
    flushed = bool(torch.tensor(torch.finfo(torch.float32).tiny) / 2 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
