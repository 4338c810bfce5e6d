"""Mass-mean probes: the direction from one class mean to the other (Marks & Tegmark 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from llmprobe.probing.fits import ClosedForm


class MeanDifferences(ClosedForm):
    """K mass-mean probes that share a design.

    A row's logits follow from its distances to the class means, in raw features, as if the
    features were normal around the means with one variance: the variance within classes in the
    span of the means (Marks & Tegmark 2023, section 5). It sets how sure the probe is, not which
    of two equally frequent classes it answers.
    """

    def fit(self) -> tuple[Tensor, Tensor]:
        """Return directions [K, C, d] of the design's features, and intercepts [K, C, 1]."""
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
        rows_along = ((span * unit).flatten(0, 1) @ X.T).view(K, span.shape[1], n)
        means_along = means @ span.mT  # [K, C, of the span]
        square = (rows_along.square()[:, None] * member[:, :, None]).sum(dim=(1, 2, 3))
        within = square - (means_along.square() * size).sum(dim=(1, 2))
        variance = within / (size.sum(dim=(1, 2)) * max(C - 1, 1))
        least = 1e-12 * means_along.square().mean(dim=(1, 2)) + 1e-30
        variance = variance.clamp_min(least)[:, None, None]
        direction = means_along @ span * unit / variance
        share = (size / size.sum(dim=1, keepdim=True)).clamp_min(1e-6)
        intercept = share.log() - means_along.square().sum(dim=2, keepdim=True) / (2 * variance)
        if self.targets.shape[1] == 1:
            direction = direction[:, 1:] - direction[:, :1]
            intercept = intercept[:, 1:] - intercept[:, :1]
        return direction, intercept
