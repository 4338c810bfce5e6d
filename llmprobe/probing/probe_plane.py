"""Where examples lie beside a probe: on the probe axis, and on the widest axis orthogonal to it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from llmprobe.probing.design import Design


def probe_plane(
    design: Design, coef: np.ndarray, intercept: np.ndarray, fold_of: np.ndarray
) -> np.ndarray:
    """Return each scored row's place in the plane of the probe of its fold, which did not see it.

    For two classes, or labels that are numbers, the place is the signed distance from where the
    probe decides (for numbers, from where it answers their mean), and the coordinate along the
    first principal component that is orthogonal to the probe's direction. Both are of features as
    the design scales them, by their spread over all rows. For more classes, the place is given by
    the first two principal components of the scores of the classes.

    Principal components are those of all rows, since they see no labels. Each coordinate has a mean
    square of 1, or is 0 where nothing varies; signs that no probe determines are arbitrary.

    Parameters
    ----------
    coef, intercept
        Of each fold's probe, in raw feature space. [d, folds, 1 or C], [folds, 1 or C]
    fold_of
        -1 for rows that are not scored. [n]

    Returns
    -------
    Probe axis and spread axis of the scored rows in their order. [m, 2] float32
    """
    device = design.X.device
    directions = torch.as_tensor(coef, device=device).permute(1, 2, 0)
    offsets = torch.as_tensor(intercept, device=device) + directions @ design.shift.double()
    directions = directions * design.unit
    # Folds with different penalties have directions of different lengths; distances must not.
    length = torch.linalg.vector_norm(directions, dim=(1, 2)).clamp_min(_TINY)[:, None]
    directions = directions / length[:, None]
    # Without a direction, rows would differ by the intercepts of their folds alone.
    offsets = torch.where(length > _TINY, offsets / length, 0.0)
    scored = np.flatnonzero(fold_of >= 0)
    fold = torch.as_tensor(fold_of[scored], device=device)
    X = design.X if len(scored) == len(design.X) else design.rows(scored).X
    distances = _of_own_fold(X, directions, fold) + offsets[fold]
    if distances.shape[1] > 1:
        centred = distances - distances.mean(dim=0)
        widest = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -2:].flip(1)
        places = centred @ widest
    else:
        others = _of_own_fold(X, _spread_axis(design, directions[:, 0])[:, None], fold)
        places = torch.cat([distances, others - others.mean(dim=0)], dim=1)
    spread = places.square().mean(dim=0).sqrt()
    places = torch.where(spread > _FLAT, places / spread.clamp_min(_TINY), 0.0)
    coordinates: np.ndarray = places.float().cpu().numpy()
    return coordinates


_TINY = 1e-30
_FLAT = 1e-6
"""A spread of standardised features below this is rounding."""
_COMPONENTS = 32
"""How many principal components the spread axis is made of, beside the probe's own direction."""


def _of_own_fold(X: Tensor, directions: Tensor, fold: Tensor) -> Tensor:
    """Return each row's products with the directions [folds, C, d] of its fold. -> [m, C]"""
    folds, C, d = directions.shape
    products = X @ directions.to(X.dtype).reshape(folds * C, d).T
    index = fold[:, None] * C + torch.arange(C, device=fold.device)
    return products.gather(1, index).double()


def _spread_axis(design: Design, directions: Tensor) -> Tensor:
    """Return the unit vector of most variance orthogonal to each direction. [K, d] -> [K, d]

    It is sought among combinations of the widest principal components and the direction itself,
    in which the covariance is diagonal.
    """
    spectrum, order = design.spectrum.double().sort(descending=True)
    basis = design.basis.double()[order]
    top = min(_COMPONENTS, len(spectrum))
    inside = directions @ basis.T
    beside = directions - inside[:, :top] @ basis[:top]
    length = torch.linalg.vector_norm(beside, dim=1).clamp_min(_TINY)
    of_beside = (inside[:, top:].square() * spectrum[top:]).sum(dim=1) / length.square()
    covariance = torch.diag_embed(
        torch.cat([spectrum[:top].expand(len(directions), -1), of_beside[:, None]], dim=1)
    )
    own = torch.cat([inside[:, :top], length[:, None]], dim=1)
    orthogonal = torch.eye(top + 1).to(covariance) - own[:, :, None] * own[:, None, :]
    widest = torch.linalg.eigh(orthogonal @ covariance @ orthogonal).eigenvectors[:, :, -1]
    spread_axis = widest[:, :top] @ basis[:top] + (widest[:, top] / length)[:, None] * beside
    # One sign for all folds.
    alike: Tensor = spread_axis * torch.where(spread_axis @ spread_axis[0] < 0, -1.0, 1.0)[:, None]
    return alike
