"""Mass-mean probes: the direction from one class mean to the other (Marks & Tegmark 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from llmprobe.probing.fit_many import Design, ManyFits, Solution, raw_fits


class MeanDifferences:
    """K mass-mean probes that share a design, with the interface of ``Problems``.

    A row's logits follow from its distances to the class means, in raw features, as if the
    features were normal around them with one variance, the one found within classes in the span
    of the means (Marks & Tegmark 2023, section 5; the variance sets how sure the probe is, not
    what it answers between equally frequent classes).
    """

    def __init__(self, design: Design, targets: Tensor, weights: Tensor) -> None:
        """``targets`` [K, C, n] (C = 1: of class 1, else of each class), ``weights`` [K, n]."""
        X = design.X
        self.design = design
        self.targets = targets.to(X.device, X.dtype)
        self.weights = weights.to(X.device, X.dtype)[:, None]

    def __getitem__(self, some: Tensor | slice) -> MeanDifferences:
        return MeanDifferences(self.design, self.targets[some], self.weights[some, 0])

    def solve(
        self,
        l2: float | Tensor = 0.0,  # noqa: ARG002
        start: Solution | None = None,  # noqa: ARG002
        *,
        tolerance: float | Tensor = 0.0,  # noqa: ARG002
    ) -> Solution:
        """The probes; there is no penalty to choose and nothing to iterate."""
        X, unit = self.design.X, self.design.unit.float()
        member = self.targets
        if member.shape[1] == 1:
            member = torch.cat([1 - member, member], dim=1)
        member = self.weights * member
        K, C, n = member.shape
        size = member.sum(dim=-1, keepdim=True)
        means = (member.flatten(0, 1) @ X).view(K, C, -1) / size.clamp_min(1e-12) * unit
        centre = means.mean(dim=1, keepdim=True)
        _, stretch, span = torch.linalg.svd(means - centre, full_matrices=False)
        # C means span C - 1 directions, or as many as there are features.
        span, stretch = span[:, : C - 1], stretch[:, : C - 1, None]
        span = span * (stretch > 1e-6 * stretch.amax(dim=1, keepdim=True))
        # Rows, and means, along each direction of the span.
        along = ((span * unit).flatten(0, 1) @ X.T).view(K, span.shape[1], n)
        at = means @ span.mT  # [K, C, of the span]
        square = (along.square()[:, None] * member[:, :, None]).sum(dim=(1, 2, 3))
        within = square - (at.square() * size).sum(dim=(1, 2))
        variance = within / (size.sum(dim=(1, 2)) * max(C - 1, 1))
        variance = variance.clamp_min(1e-12 * at.square().mean(dim=(1, 2)) + 1e-30)[:, None, None]
        direction = at @ span * unit / variance
        share = (size / size.sum(dim=1, keepdim=True)).clamp_min(1e-6)
        intercept = share.log() - at.square().sum(dim=2, keepdim=True) / (2 * variance)
        if self.targets.shape[1] == 1:
            direction = direction[:, 1:] - direction[:, :1]
            intercept = intercept[:, 1:] - intercept[:, :1]
        logits = (direction.flatten(0, 1) @ X.T).view(K, -1, n) + intercept
        nothing = torch.zeros(K, device=X.device)
        return Solution(direction, intercept[..., 0], logits, nothing, nothing == 0)

    def raw(self, solution: Solution) -> ManyFits:
        """All probes in raw feature space."""
        direction = solution.direction.double()
        return raw_fits(self.design, direction, solution.intercept.double(), solution)
