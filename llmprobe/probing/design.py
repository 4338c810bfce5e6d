"""The features that all problems share, scaled once."""

from __future__ import annotations

from copy import copy

import numpy as np
import torch
from torch import Tensor

CONSTANT = 1e-6
"""A feature whose standard deviation is below this times its size counts as constant."""
WHOLE_BASIS = 1024
"""Up to this many rows or features, the preconditioner knows all their directions; of more, the
``BASIS_RANK`` largest."""
BASIS_RANK = 256
_EPS = torch.finfo(torch.float32).eps
_SAMPLE = 128
"""About how many rows are sampled for the median that stands for that of all."""
_ROWS = 8192
"""Rows that are squared at a time."""
_COLUMNS = 256
"""Features that are squared in double precision at a time."""


class Design:
    """Features shifted and scaled once for all problems, with the eigenbasis of their products.

    Shift and scale keep float32 from losing digits. They are computed from held-out rows too, but
    leak nothing: each problem's own standardisation is applied on top, in exact algebra. Without
    ``standardize``, directions are penalised in raw features, and one scale serves all features.
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
        # Not the mean: one huge row would drag it away from all others, which would lose digits.
        self.shift = raw[:: max(len(raw) // _SAMPLE, 1)].median(dim=0).values
        # Divided by the largest value first, so that no square overflows.
        size = torch.where(largest > 0, largest, 1.0)
        centred = (raw - self.shift).div_(size)
        spread = torch.linalg.vector_norm(centred, dim=0) / len(raw) ** 0.5
        # A smaller spread is the rounding of equal values.
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
        self.basis, self.spectrum, rest = eigenbasis(self.X, self.X.mean(dim=0))
        self.spectrum_on_host, self.rest = self.spectrum.cpu(), float(rest)

    def rows(self, some: np.ndarray) -> Design:
        """Return the design of some rows, by indices [m]; the basis stays that of all rows."""
        part = copy(self)
        part.X = self.X[torch.as_tensor(some, device=self.X.device)]
        return part


def moments(X: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Return weighted means of the features and inverse deviations, 0 for constant ones. [K, d]

    ``share`` [K, n] sums to 1 over rows. A feature may be constant in a problem's rows and yet far
    from its overall mean. So where the variance is small beside the mean square, it is computed
    again in float64: otherwise the rounding of a difference would look like a deviation.
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


def eigenbasis(X: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the largest eigenvectors [r, d] and eigenvalues [r] of the products of features less
    their ``mean`` [d], and a bound on the rest.

    It is all of them where that is cheap beside the products with ``X``. Else the largest come from
    one step of subspace iteration from random vectors (Halko, Martinsson & Tropp 2011, algorithm
    4.4).
    """
    n, d = X.shape
    if d <= n and d <= max(WHOLE_BASIS, n // 16):
        # Centred after the product, since memory may have no room for a copy of X.
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
