"""Conjugate gradients on many problems of one design."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmprobe.models.devices import to_device
from llmprobe.probing.design import WHOLE_BASIS, eigenbasis
from llmprobe.probing.fits import Solution

if TYPE_CHECKING:
    from llmprobe.probing.fit_many import Problems

CERTAIN = 1e-6
"""In the test for convergence, a mean error of the probabilities below this counts as this."""
CLOSE = 0.1
"""A step ends close enough to the minimum along its direction if the slope at its end is below this
times the slope at its start."""
DROWNED = 0.1
"""A curvature below this times the penalty hardly matters to the preconditioner."""
REWEIGHTED_AFTER = 8
"""Steps after which, in a fit from nothing, rows count in the preconditioner as in the loss."""
PAYS_FOR = 40
"""Rows are reweighted with at most this many features for each direction still sought: that costs
as much as about twenty steps then."""
BETWEEN_WAITS = 4
"""Steps after which an accelerator is asked which problems have converged."""
_TINY = torch.finfo(torch.float32).tiny
_EPS = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Slopes:
    """The derivatives of the loss at the logits of K problems, times the weights of the rows."""

    means: tuple[Tensor, Tensor]
    """As ``Loss.means`` returns them. [K, C, n] each"""
    residual: Tensor
    """The first derivative by each logit. [K, C, n]"""
    curvature: Tensor
    """The second derivative by each logit alone. [K, C, n]"""

    def __getitem__(self, some: Tensor) -> Slopes:
        """Return the derivatives of some of the problems, by their indices."""
        p, complement = self.means
        return Slopes((p[some], complement[some]), self.residual[some], self.curvature[some])

    def put(self, some: Tensor | slice, other: Slopes) -> None:
        """Replace the derivatives of some of the problems."""
        for here, there in zip(self.means, other.means, strict=True):
            here[some] = there
        self.residual[some], self.curvature[some] = other.residual, other.curvature


class Descent:
    """Conjugate gradients on the problems that have not converged.

    Elementwise work on arrays as large as the logits can cost as much as the products with ``X``.
    So a step that ends close to the minimum along its direction evaluates the loss once, at its
    end, and the next step starts from this evaluation.
    """

    def __init__(
        self, problems: Problems, some: slice, l2: Tensor, least_l2: float, start: Solution | None
    ) -> None:
        design, self.loss = problems.design, problems.loss
        self.X, self.n = design.X, design.n
        # Where the penalty drowns the curvature, the preconditioner needs the penalty alone.
        strongest = self.loss.most_curvature * problems.heaviest / design.n
        drowned = int((strongest * design.spectrum_on_host < DROWNED * least_l2).sum())
        self.basis, self.spectrum = design.basis[drowned:], design.spectrum[drowned:]
        left_out = design.spectrum_on_host[:drowned]
        self.rest = max(design.rest, *left_out[-1:].tolist(), 0.0)
        self.l2 = l2[:, None, None]
        self.targets, self.weights = problems.targets[some], problems.weights[some]
        self.mean, self.scale = problems.mean[some], problems.scale[some]
        self.total = problems.total[some]
        self.from_nothing = False
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
        self.from_nothing = True

    def slopes(self, logits: Tensor, some: Tensor | slice = slice(None)) -> Slopes:
        """Return the derivatives of the loss at the logits of some problems."""
        means, weights = self.loss.means(logits), self.weights[some]
        residual = self.loss.residual(means, self.targets[some]) * weights
        return Slopes(means, residual, self.loss.curvature(means) * weights)

    def bend(
        self,
        at: Slopes,
        change: Tensor,
        some: Tensor | slice = slice(None),
    ) -> Tensor:
        """Return the second derivative of the loss along a change of the logits. [K, 1, 1]"""
        if change.shape[1] == 1:
            return sum_of_each(at.curvature * change.square())
        return sum_of_each(self.weights[some] * self.loss.bend(at.means, change))

    def reweight(self, at: Slopes) -> None:
        """Weight the rows of the preconditioner by their curvature, the mean over the problems.

        Far from zero, few rows still bend the loss, about the same ones in all folds and penalties.
        It is done once, since each time conjugate gradients lose what they know of the directions
        before.
        """
        curvature = at.curvature / at.curvature.sum(dim=-1, keepdim=True).clamp_min(_TINY)
        share = curvature.mean(dim=(0, 1))
        rows = (self.X - share[None] @ self.X).mul_(self.scale.mean(dim=0))
        rows.mul_((self.n * share).sqrt()[:, None])
        self.basis, self.spectrum, rest = eigenbasis(rows, torch.zeros_like(rows[0]))
        self.rest = float(rest)

    def precondition(self, gradient: Tensor, strength: Tensor) -> Tensor:
        """Return the gradient divided by ``c_k XᵀX + l2_k``, without forming it. [K, C, d]

        What the basis does not span is divided by a bound on the curvature that was left out with
        it: dividing its rounding by a small penalty would drown everything else.
        """
        inverse = 1 / (strength * self.spectrum + self.l2)
        floor = 1 / (strength * self.rest + self.l2)
        flat = gradient.flatten(0, 1)
        inside = (flat @ self.basis.T).view(*gradient.shape[:2], -1).mul_(inverse.sub_(floor))
        return (inside.flatten(0, 1) @ self.basis).view_as(gradient).addcmul_(gradient, floor)

    def move(self, at: Slopes, slope: Tensor, d_v: Tensor, d_b: Tensor) -> Slopes:
        """Step to about the minimum along a direction; return the derivatives there."""
        change = logits_of(self.X, d_v, d_b, self.mean, self.scale)
        ridge = self.l2 * sum_of_each(d_v * d_v)
        step = -slope / (self.bend(at, change) + ridge).clamp_min(_TINY)
        logits = torch.addcmul(self.logits, step, change)
        there = self.slopes(logits)
        slope_there = (
            sum_of_each(there.residual * change)
            + self.l2 * sum_of_each(self.v * d_v)
            + step * ridge
        )
        far = ~(slope_there.abs() <= CLOSE * slope.abs())  # of NaN too
        if _may_be(far):
            some = far.flatten().nonzero()[:, 0] if far.device.type == "cpu" else slice(None)
            change = change[some]
            length = self.step_length(
                some, slope[some], step[some], slope_there[some], there, change, d_v[some]
            )
            # Near the minimum, values of the loss differ by rounding alone: keep the step there.
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
        there: Slopes,
        change: Tensor,
        d_v: Tensor,
    ) -> Tensor:
        """Return new step lengths for problems whose ``step`` was not close enough. [K, 1, 1]

        That is a second Newton step from there. Where the loss would rise, it is the first step;
        where it would still rise, a step that is too short to overshoot.
        """
        logits, v, l2 = self.logits[some], self.v[some], self.l2[some]
        weights, targets = self.weights[some], self.targets[some]
        at = there[some] if isinstance(some, Tensor) else there
        ridge = l2 * sum_of_each(d_v * d_v)
        length = step - slope_there / (self.bend(at, change, some) + ridge).clamp_min(_TINY)
        # An upper bound of the curvature along the change.
        most = self.loss.most_curvature * sum_of_each(weights * change.square())
        safe = -slope / (most + ridge).clamp_min(_TINY)

        def objective(length: Tensor | float) -> Tensor:
            loss = sum_of_each(weights * self.loss.value(logits + length * change, targets))
            return loss + l2 / 2 * sum_of_each((v + length * d_v).square())

        here = objective(0.0) * (1 + 4 * _EPS)
        for fallback in (step, safe):
            ascends = ~(objective(length) <= here)  # of NaN too
            if not _may_be(ascends):
                break
            length = torch.where(ascends, fallback, length)
        return length

    def run(self, tolerance: Tensor, max_iterations: int) -> tuple[Solution, int]:
        """Return the optima, with their losses still to be filled in, and the number of steps."""
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
            if iteration == REWEIGHTED_AFTER and self.from_nothing:
                _, C, d = self.v.shape
                if d <= min(self.n, WHOLE_BASIS, PAYS_FOR * C * len(self.v)):
                    self.reweight(at)
            curvature = at.curvature.sum(dim=-1, keepdim=True)
            p_v = self.precondition(g_v, curvature / self.n)
            p_b = g_b / curvature.clamp_min(_TINY)
            if p_v.shape[1] > 1:
                # Gradients sum to 0 over classes. A step that moved all classes alike would change
                # no prediction, and the penalty would have to pull it back.
                p_v = p_v - p_v.mean(dim=1, keepdim=True)
                p_b = p_b - p_b.mean(dim=1, keepdim=True)
            agreement = sum_of_each(g_v * p_v) + sum_of_each(g_b * p_b)
            moved = agreement - sum_of_each(before[0] * p_v) - sum_of_each(before[1] * p_b)
            beta = (moved / before[2]).clamp_min(0)
            # Back to the gradient where the direction would not descend.
            ahead = beta * (sum_of_each(g_v * d_v) + sum_of_each(g_b * d_b))
            beta = torch.where(ahead < agreement, beta, 0.0)
            slope = torch.where(ahead < agreement, ahead - agreement, -agreement)
            d_v, d_b = (beta * d_v).sub_(p_v), beta * d_b - p_b
            at = self.move(at, slope, d_v, d_b)
            before = (g_v, g_b, torch.where(agreement > 0, agreement, torch.inf))
        return Solution(
            v, b[..., 0], logits, torch.zeros_like(converged), converged, pull
        ), iteration

    def keep(self, rows: Tensor) -> None:
        """Keep some of the problems, by their indices, and drop the others."""
        names = ("targets", "weights", "mean", "scale", "total", "l2", "v", "b", "logits", "pull")
        for name in names:
            setattr(self, name, getattr(self, name)[rows])


def logits_of(
    X: Tensor, direction: Tensor, intercept: Tensor, mean: Tensor, scale: Tensor
) -> Tensor:
    """Return the logits of directions [K, C, d] that are in each problem's own units. [K, C, n]"""
    scaled = direction * scale
    offset = intercept - (scaled * mean).sum(dim=-1, keepdim=True)
    return (scaled.flatten(0, 1) @ X.T).view(*scaled.shape[:2], -1).add_(offset)


def _may_be(mask: Tensor) -> bool:
    """Whether any is true; on an accelerator always True, since asking it would mean waiting."""
    return mask.device.type != "cpu" or bool(mask.any())


def sum_of_each(values: Tensor) -> Tensor:
    """Return sums over all but the first dimension. [K, …] -> [K, 1, 1]"""
    return values.sum(dim=(1, 2), keepdim=True)
