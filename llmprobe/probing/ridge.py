"""Ridge regression as a scikit-learn estimator; exact leave-one-out errors choose its penalty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from llmprobe.probing.search import PENALTIES
from llmprobe.probing.weighted_rows import (
    distinct_examples,
    moments,
    penalty_grid,
    thin_svd,
    used_rows,
)


class RidgeProbe(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Linear regression with a penalty, for continuous labels; in closed form, in float64.

    Minimises ``sum_i weight_i (y_i - f_i)² + l2 ||w||²``, which is scikit-learn's objective with
    alpha = l2, over a direction and a free intercept.

    Parameters
    ----------
    l2
        The penalty, or "auto": that of ``penalties`` with the least exact leave-one-out error, for
        each target its own. All errors come from one decomposition (Rifkin & Lippert 2007).
    standardize
        Whether ``w`` is penalised in units of the features' standard deviations.
    penalties
        The penalties to choose from, above 0, in any order.

    Attributes
    ----------
    coef_
        Directions in raw feature space. [d], or [T, d] of T targets
    intercept_
        A number, or [T].
    l2_, loo_error_
        The penalty and its mean squared leave-one-out error. Numbers, or [T]
    """

    def __init__(
        self,
        l2: float | str = "auto",
        standardize: bool = True,
        penalties: Sequence[float] = PENALTIES,
    ) -> None:
        self.l2 = l2
        self.standardize = standardize
        self.penalties = penalties

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to X [n, d] and y, [n] or [n, T].

        Raises
        ------
        ValueError
            A parameter or an input is invalid, or there is only one row.
        """
        penalties = penalty_grid(self.l2, self.penalties)
        X, y = validate_data(
            self, X, y, dtype=np.float64, multi_output=True, y_numeric=True, ensure_min_samples=2
        )
        used, weight = used_rows(X, sample_weight)
        single = y.ndim == 1
        Y = y.reshape(len(y), -1).astype(float)[used]
        kept, _, weight = distinct_examples(X[used], Y, weight)
        X, Y = X[used[kept]], Y[kept]
        share = weight / weight.sum()
        level, (mean, unit) = share @ Y, moments(X, share)
        unit = unit if self.standardize else np.where(unit < np.inf, 1.0, np.inf)
        root = np.sqrt(weight)[:, None]
        left, size, right = thin_svd(root * (X - mean) / unit)
        t = root * (Y - level)
        image = left.T @ t
        outside, free = t - left @ image, 1 - share - (left**2).sum(axis=1)
        # A residual divided by 1 - leverage is the residual of a fit without the row. Both are sums
        # of what each direction leaves over, so that no digits are lost near a perfect fit.
        errors = np.empty((len(penalties), Y.shape[1]))
        for i, l2 in enumerate(penalties):
            left_over = l2 / (size**2 + l2)
            residual = outside + left @ (left_over[:, None] * image)
            freedom = np.maximum(free + left**2 @ left_over, np.finfo(float).tiny)
            errors[i] = ((residual / freedom[:, None]) ** 2).sum(axis=0) / weight.sum()
        chosen = np.asarray(penalties)[errors.argmin(axis=0)]
        direction = right @ (size[:, None] / (size[:, None] ** 2 + chosen) * image)
        coef = direction.T / unit
        intercept, error = level - coef @ mean, errors.min(axis=0)
        self.coef_, self.intercept_ = (coef[0], intercept[0]) if single else (coef, intercept)
        self.l2_, self.loo_error_ = (chosen[0], error[0]) if single else (chosen, error)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return predicted numbers. [n, d] -> [n], or [n, T] of T targets"""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        predicted: np.ndarray = X @ self.coef_.T + self.intercept_
        return predicted
