"""What the estimators share: which rows count, their moments and their decomposition."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import _check_sample_weight


def penalty_grid(l2: Any, penalties: Any) -> tuple[float, ...]:
    """From strong to weak; one alone is not chosen but given."""
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
    """Indices of the rows of positive weight, and their weights."""
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    used = np.flatnonzero(weight)
    if not len(used):
        raise ValueError("sample_weight is zero for every row")
    return used, weight[used]


def distinct_examples(
    X: np.ndarray, y: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A row of each distinct example, of each row its example, and the examples' weights.

    Examples are sorted, those with the same X one after another.
    """
    table = np.ascontiguousarray(np.column_stack([X, y]) + 0.0)  # -0 and 0 are the same
    rows = table.view(f"V{table.itemsize * table.shape[1]}")[:, 0]
    _, first, of_row = np.unique(rows, return_index=True, return_inverse=True)
    return first, of_row, np.bincount(of_row, weight)


def moments(X: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted means and standard deviations of the features, infinite of constant ones."""
    mean = share @ X
    deviation = np.sqrt(share @ (X - mean) ** 2)
    noise = 10 * np.finfo(float).eps * np.abs(X).max(axis=0)
    return mean, np.where(deviation > noise, deviation, np.inf)


def thin_svd(Z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thin singular value decomposition of Z [n, d], from its smaller matrix of products.

    Several times faster than LAPACK's; what is below the rounding of the products is left out.
    -> left [n, r], singular values [r], right [d, r]
    """
    wide = Z.shape[0] < Z.shape[1]
    square, vectors = np.linalg.eigh(Z @ Z.T if wide else Z.T @ Z)
    held = square > square[-1] * max(Z.shape) * np.finfo(float).eps
    size, vectors = np.sqrt(square[held]), vectors[:, held]
    if wide:
        return vectors, size, Z.T @ vectors / size
    return Z @ vectors / size, size, vectors
