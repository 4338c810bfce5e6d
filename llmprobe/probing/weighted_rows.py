"""Weighted rows for the estimators: which ones count, their moments and their decomposition."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils import check_array


def penalty_grid(l2: Any, penalties: Any) -> tuple[float, ...]:
    """Return the penalties to choose from, from strong to weak; only ``l2`` where it is a number.

    Raises
    ------
    ValueError
        A penalty is not a number above 0.
    """
    auto = isinstance(l2, str) and l2 == "auto"
    try:
        grid = np.sort(np.asarray(penalties if auto else [l2], dtype=float))[::-1]
    except (TypeError, ValueError):
        grid = np.empty(0)
    if grid.ndim != 1 or not len(grid) or not (np.isfinite(grid) & (grid > 0)).all():
        name, wrong = ("penalties", penalties) if auto else ("l2", l2)
        right = "a list of numbers above 0" if auto else '"auto" or a number above 0'
        raise ValueError(f"{name} is {wrong!r}; it must be {right}")
    return tuple(grid.tolist())


def used_rows(X: np.ndarray, sample_weight: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the rows of positive weight, and their weights.

    Raises
    ------
    ValueError
        The weights are not one for each row of X, finite and not negative, or they are all zero.
    """
    if sample_weight is None or isinstance(sample_weight, Real):
        sample_weight = np.full(len(X), 1.0 if sample_weight is None else float(sample_weight))
    weight = check_array(
        sample_weight, dtype=float, ensure_2d=False, ensure_non_negative=True,
        input_name="sample_weight",
    )  # fmt: skip
    if weight.shape != (len(X),):
        raise ValueError(f"sample_weight has shape {weight.shape}; it must be ({len(X)},)")
    used = np.flatnonzero(weight)
    if not len(used):
        raise ValueError("sample_weight is zero for every row")
    return used, weight[used]


def distinct_examples(
    X: np.ndarray, y: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the index of one row of each distinct example, the example of each row, and weights.

    The weight of an example is the sum over its rows. Examples are sorted, so that those with the
    same X follow each other. -> [m], [n], [m]
    """
    table = np.ascontiguousarray(np.column_stack([X, y]) + 0.0)  # -0 and 0 are the same
    rows = table.view(f"V{table.itemsize * table.shape[1]}")[:, 0]
    _, first, of_row = np.unique(rows, return_index=True, return_inverse=True)
    return first, of_row, np.bincount(of_row, weight)


def moments(X: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return weighted means and standard deviations of the features, infinite of constant ones."""
    mean = share @ X
    deviation = np.sqrt(share @ (X - mean) ** 2)
    noise = 10 * np.finfo(float).eps * np.abs(X).max(axis=0)
    return mean, np.where(deviation > noise, deviation, np.inf)


def thin_svd(Z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return left vectors [n, r], singular values [r] and right vectors [d, r] of Z [n, d].

    It comes from the smaller of ZZᵀ and ZᵀZ, several times faster than from LAPACK's decomposition.
    Singular values below the rounding of the products are left out.
    """
    wide = Z.shape[0] < Z.shape[1]
    square, vectors = np.linalg.eigh(Z @ Z.T if wide else Z.T @ Z)
    held = square > square[-1] * max(Z.shape) * np.finfo(float).eps
    size, vectors = np.sqrt(square[held]), vectors[:, held]
    if wide:
        return vectors, size, Z.T @ vectors / size
    return Z @ vectors / size, size, vectors
