"""The losses that the solver minimises: of logits and targets, both [K, C, n]."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Loss(ABC):
    """A loss of each row, with its derivatives by the row's logits."""

    most_curvature: float
    """An upper bound of the second derivative along a change of the logits of unit length."""

    @abstractmethod
    def value(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each row. -> [K, 1, n]"""

    @abstractmethod
    def means(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means p that the logits predict and, for probabilities, 1 - p with all digits.

        -> two of [K, C, n]; the squared error, whose means are no probabilities, returns p twice
        """

    @abstractmethod
    def intercept(self, means: Tensor) -> Tensor:
        """Return the logits that predict these means of the targets. [K, C, 1] -> [K, C, 1]"""

    @abstractmethod
    def score(self, logits: Tensor, targets: Tensor, scored: Tensor) -> Tensor:
        """Return accuracy or R² over the rows where ``scored`` [K, n] is true. -> [K]

        It is for the search, which scores many problems at once on the device. The metrics that are
        reported are those of ``results``.
        """

    def residual(self, means: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        """Return the first derivative of the loss by each logit. -> [K, C, n]"""
        return torch.lerp(means[0], -means[1], targets)

    def curvature(self, means: tuple[Tensor, Tensor]) -> Tensor:
        """Return the second derivative of the loss by each logit alone. -> [K, C, n]"""
        return means[0] * means[1]

    def bend(self, means: tuple[Tensor, Tensor], change: Tensor) -> Tensor:
        """Return the second derivative of the loss along a change of the logits. -> [K, 1, n]"""
        return self.curvature(means) * change.square()


class Logistic(Loss):
    """-log p of the class, from the logit of class 1; C = 1."""

    most_curvature = 0.25

    def value(self, logits: Tensor, targets: Tensor) -> Tensor:
        # log(1 + exp(f)) - t f, in the form that keeps the digits of a small loss.
        return logits.clamp_min(0) - targets * logits + (-logits.abs()).exp().log1p()

    def means(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(logits), torch.sigmoid(-logits)

    def intercept(self, means: Tensor) -> Tensor:
        return means.clamp(1e-6, 1 - 1e-6).logit()

    def score(self, logits: Tensor, targets: Tensor, scored: Tensor) -> Tensor:
        right = ((logits > 0) == (targets > 0.5))[:, 0]
        return (right & scored).sum(dim=-1).double() / scored.sum(dim=-1)


class Softmax(Loss):
    """-log p of the class, from a logit of each class."""

    most_curvature = 0.5

    def value(self, logits: Tensor, targets: Tensor) -> Tensor:
        p, complement = self.means(logits)
        # Where p is near 1, log p has no digits left, but log(1 - complement) has.
        sure = -torch.log1p(-complement.clamp_max(0.75))
        loss = torch.where(p > 0.5, sure, -torch.log_softmax(logits, dim=1))
        return (targets * loss).sum(dim=1, keepdim=True)

    def means(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        p = torch.softmax(logits, dim=1)
        C = logits.shape[1]
        return p, (1 - torch.eye(C, dtype=p.dtype, device=p.device)) @ p

    def intercept(self, means: Tensor) -> Tensor:
        return means.clamp_min(1e-6).log()

    def score(self, logits: Tensor, targets: Tensor, scored: Tensor) -> Tensor:
        right = logits.argmax(dim=1) == targets.argmax(dim=1)
        return (right & scored).sum(dim=-1).double() / scored.sum(dim=-1)

    def bend(self, means: tuple[Tensor, Tensor], change: Tensor) -> Tensor:
        # Centred first: where the classes are certain, a difference of squares has no digits left.
        centre = (means[0] * change).sum(dim=1, keepdim=True)
        return (means[0] * (change - centre).square()).sum(dim=1, keepdim=True)


class Squared(Loss):
    """Half the squared error; C = 1."""

    most_curvature = 1.0

    def value(self, logits: Tensor, targets: Tensor) -> Tensor:
        return (logits - targets).square() / 2

    def means(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        return logits, logits

    def intercept(self, means: Tensor) -> Tensor:
        return means

    def residual(self, means: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        return means[0] - targets

    def curvature(self, means: tuple[Tensor, Tensor]) -> Tensor:
        return torch.ones_like(means[0])

    def score(self, logits: Tensor, targets: Tensor, scored: Tensor) -> Tensor:
        weight = scored.double()
        t = targets[:, 0].double()
        mean = (weight * t).sum(dim=-1, keepdim=True) / weight.sum(dim=-1, keepdim=True)
        error = (weight * (logits[:, 0].double() - t).square()).sum(dim=-1)
        return 1 - error / (weight * (t - mean).square()).sum(dim=-1)
