"""Probes as scikit-learn estimators, with directions in raw activation space.

    probe = LogisticProbe().fit(X, y)  # X [n, d]; l2 chosen inside
    direction = probe.coef_[0]         # [d]: X @ direction + intercept_[0] are the logits

In every ``fit``, copies of an example count as one example with their summed weight. So no split
separates copies, ``sample_weight`` is the same as repeating rows, and the order of rows does not
matter.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from scipy.special import log_softmax, softmax  # type: ignore[import-untyped]
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from llmprobe.config.probe_kinds import PROBE_KINDS
from llmprobe.datasets.groups import joined
from llmprobe.ground.errors import UserError
from llmprobe.probing.design import Design
from llmprobe.probing.fit_many import Problems
from llmprobe.probing.fits import TOLERANCE
from llmprobe.probing.losses import Logistic, Loss, Softmax
from llmprobe.probing.mean_difference import MeanDifferences
from llmprobe.probing.search import PENALTIES, ProbingTask, search
from llmprobe.probing.splits import assign_folds
from llmprobe.probing.weighted_rows import (
    distinct_examples,
    moments,
    penalty_grid,
    thin_svd,
    used_rows,
)

TIGHT, POLISHING = TOLERANCE / 100, 100
"""Tolerance that the last fit aims at once it is at ``TOLERANCE``, and the most iterations for it,
since float32 does not always get there."""
NO_FOLDS_L2 = 1.0
"""The penalty where not even two folds can be made to choose one: scikit-learn's default."""


class _LinearClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A linear classifier: predictions from ``coef_`` and ``intercept_``, and checks of inputs."""

    def decision_function(self, X: Any) -> np.ndarray:
        """Return logits: of class 1, or of each of C > 2 classes. [n, d] -> [n] or [n, C]"""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        logits: np.ndarray = X @ self.coef_.T + self.intercept_
        return logits[:, 0] if logits.shape[1] == 1 else logits

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class. [n, d] -> [n]"""
        best = self._logits(X).argmax(axis=1)
        predicted: np.ndarray = self.classes_[best]
        return predicted

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return probabilities of the classes, in the order of ``classes_``. [n, d] -> [n, C]"""
        probabilities: np.ndarray = softmax(self._logits(X), axis=1)
        return probabilities

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return logarithms of the probabilities of the classes. [n, d] -> [n, C]"""
        logarithms: np.ndarray = log_softmax(self._logits(X), axis=1)
        return logarithms

    def _logits(self, X: Any) -> np.ndarray:
        """Return a logit for each class, of two classes too. [n, d] -> [n, C]"""
        logits = self.decision_function(X)
        return np.column_stack([np.zeros_like(logits), logits]) if logits.ndim == 1 else logits

    def _examples(
        self, X: Any, y: Any, sample_weight: Any, groups: Any = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return distinct examples: X, class indices, weights, units that no split separates."""
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        used, weight = used_rows(X, sample_weight)
        self.classes_, y = np.unique(y[used], return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("y has one class only among rows of positive weight; a probe needs 2")
        kept, of_row, weight = distinct_examples(X[used], y, weight)
        rows = X[used[kept]]
        unit = np.append(0, (rows[1:] != rows[:-1]).any(axis=1).cumsum())
        if groups is not None:
            check_consistent_length(X, groups)
            unit_of_row = joined(np.asarray(groups)[used], unit[of_row].astype(str).tolist())
            unit = unit if unit_of_row is None else unit_of_row[kept]
        return rows, y[kept], weight, unit

    def _set(self, coef: np.ndarray, intercept: np.ndarray) -> None:
        """Keep directions [1 or C, d] and intercepts [1 or C]."""
        if len(coef) > 1:  # What all classes share changes no probability.
            coef, intercept = coef - coef.mean(axis=0), intercept - intercept.mean()
        self.coef_, self.intercept_ = coef, intercept


class LogisticProbe(_LinearClassifier):
    """Logistic regression, multinomial for more than two classes, by the solver of ``fit_many``.

    Minimises ``- sum_i weight_i log p_i + l2 / 2 ||w||²``, where ``p_i`` is the probability of the
    label: scikit-learn's objective with C = 1 / l2.

    Parameters
    ----------
    l2
        The penalty, or "auto": that of ``penalties`` with the least held-out log loss in
        cross-validation inside ``fit``. Folds are stratified and keep groups and copies whole;
        weights count in training and in the loss. Every training set must have all classes: if that
        is impossible with ``folds``, fewer are made; if not even two are possible, a warning says
        so and the penalty is 1.
    folds
        The number of folds of that cross-validation, at least 2.
    standardize
        Whether ``w`` is penalised in units of the features' standard deviations.
    random_state
        The seed of the folds.
    penalties
        The penalties to choose from, above 0, in any order.

    Attributes
    ----------
    classes_
        Sorted labels of rows with positive weight. [C]
    coef_
        Directions in raw feature space: of the second of two classes [1, d], or [C, d].
    intercept_
        [1] or [C]
    l2_
        The penalty of the fit.
    """

    def __init__(
        self,
        l2: float | str = "auto",
        folds: int = 5,
        standardize: bool = True,
        random_state: Any = 0,
        penalties: Sequence[float] = PENALTIES,
    ) -> None:
        self.l2 = l2
        self.folds = folds
        self.standardize = standardize
        self.random_state = random_state
        self.penalties = penalties

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> Self:
        """Fit to X [n, d] and labels [n]; rows that share one of ``groups`` [n] share a fold.

        Raises
        ------
        ValueError
            A parameter or an input is invalid, or there is only one class.
        """
        penalties = penalty_grid(self.l2, self.penalties)
        if not isinstance(self.folds, (int, np.integer)) or self.folds < 2:
            raise ValueError(f"folds is {self.folds!r}; it must be an integer of at least 2")
        X, y, weight, unit = self._examples(X, y, sample_weight, groups)
        design = Design(torch.from_numpy(X), self.standardize)
        loss: Loss = Logistic() if len(self.classes_) == 2 else Softmax()
        targets = _targets(y, len(self.classes_))
        self.l2_ = penalties[0]
        if len(penalties) > 1:
            fold_of = self._folds(y, unit)
            if fold_of is None:
                self.l2_ = NO_FOLDS_L2
            else:
                task = ProbingTask.cross_validated(targets, fold_of, weight)
                logistic = PROBE_KINDS["logistic"]
                self.l2_ = float(search(design, logistic, loss, [task], penalties).l2[0])
        problem = Problems(design, loss, _one(targets), _one(weight))
        solution = problem.solve(self.l2_)
        if not bool(solution.converged.all()):
            message = f"LogisticProbe did not converge at l2={self.l2_:g}; use a larger l2"
            warnings.warn(message, ConvergenceWarning, stacklevel=2)
        fits = problem.raw(
            problem.solve(self.l2_, solution, tolerance=TIGHT, max_iterations=POLISHING)
        )
        self._set(fits.coef[:, 0].T, fits.intercept[0])
        return self

    def _folds(self, y: np.ndarray, unit: np.ndarray) -> np.ndarray | None:
        """Return as many folds as can be made, up to ``folds``; None if not even two. -> [n]"""
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        for folds in range(int(self.folds), 1, -1):
            try:
                return assign_folds(y, unit, folds, seed)
            except UserError as error:
                reason = error
        warnings.warn(
            f"the penalty is {NO_FOLDS_L2:g}, not chosen ({reason}); set l2 to a number",
            stacklevel=3,
        )
        return None


class MassMeanProbe(_LinearClassifier):
    """The direction from one class mean to the other (Marks & Tegmark 2023, section 5).

    Logits are those of a model in which each class is normal around its mean, and as frequent as in
    the data. The classes share one variance along the means or, with ``covariance``, the covariance
    within classes: the direction is then ``Sigma⁻¹ (mu_1 - mu_0)``, linear discriminant analysis.

    Parameters
    ----------
    covariance
        Whether to divide by the covariance within classes.
    shrinkage
        How far the covariance is shrunk to the mean variance, 0 to 1, in units of the features'
        deviations within classes; or "auto": by the formula of Chen et al. 2010 (eq. 23, oracle
        approximating shrinkage). At 0, directions without variance are left out.

    Attributes
    ----------
    classes_, coef_, intercept_
        As of ``LogisticProbe``.
    shrinkage_
        The shrinkage that was used; 0 without ``covariance``.
    """

    def __init__(self, covariance: bool = False, shrinkage: float | str = "auto") -> None:
        self.covariance = covariance
        self.shrinkage = shrinkage

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to X [n, d] and labels [n].

        Raises
        ------
        ValueError
            A parameter or an input is invalid, or there is only one class.
        """
        given = self.shrinkage
        if given != "auto" and (isinstance(given, str) or not 0 <= given <= 1):
            raise ValueError(f'shrinkage is {given!r}; it must be "auto" or between 0 and 1')
        X, y, weight, _ = self._examples(X, y, sample_weight)
        targets = _targets(y, len(self.classes_))
        if self.covariance:
            self._discriminate(X.astype(float), y, weight)
            return self
        self.shrinkage_ = 0.0
        probe = MeanDifferences(Design(torch.from_numpy(X)), _one(targets), _one(weight))
        fits = probe.raw(probe.solve())
        self._set(fits.coef[:, 0].T, fits.intercept[0])
        return self

    def _discriminate(self, X: np.ndarray, y: np.ndarray, weight: np.ndarray) -> None:
        """Fit the discriminant, without ever forming the covariance [d, d] where n < d."""
        share = weight / weight.sum()
        member = share * (y == np.arange(len(self.classes_))[:, None])
        size = member.sum(axis=1)
        means = member @ X / size[:, None]
        centre, overall = moments(X, share)
        rows = X - means[y]
        within = np.sqrt(share @ rows**2)
        # A feature may vary between classes only.
        unit = np.where((within > 1e-6 * overall) & (overall < np.inf), within, overall)
        _, root, axes = thin_svd(np.sqrt(share)[:, None] * rows / unit)
        variance, d = root**2, np.isfinite(unit).sum()
        # The effective number of examples (Kish 1965), less those that the means use up.
        n = max(1 / (share @ share) - len(size), 1.0)
        auto = self.shrinkage == "auto"
        self.shrinkage_ = _oas(variance, n, d) if auto else float(self.shrinkage)
        floor = self.shrinkage_ * (variance.sum() / d if variance.any() else 1.0)
        contrast = (means - centre) / unit
        inside = contrast @ axes
        solved = inside / ((1 - self.shrinkage_) * variance + floor) @ axes.T
        if floor > 0:
            solved += (contrast - inside @ axes.T) / floor
        coef = solved / unit
        intercept = np.log(size) - (contrast * solved).sum(axis=1) / 2 - coef @ centre
        if len(size) == 2:
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        self._set(coef, intercept)


def _targets(y: np.ndarray, n_classes: int) -> np.ndarray:
    """Return targets of class indices [n]: [1, n] of two classes, [C, n] of more."""
    one_hot: np.ndarray = y == np.arange(n_classes)[:, None]
    return (one_hot[1:] if n_classes == 2 else one_hot).astype(np.float32)


def _one(values: np.ndarray) -> Tensor:
    """Return values as those of one problem. [...] -> [1, ...]"""
    return torch.from_numpy(values)[None]


def _oas(variance: np.ndarray, n: float, d: int) -> float:
    """Return the shrinkage of a covariance with d eigenvalues (Chen et al. 2010, eq. 23)."""
    if not variance.any():
        return 1.0
    squares, square = float((variance**2).sum()), float(variance.sum() ** 2)
    above = (1 - 2 / d) * squares + square
    below = (n + 1 - 2 / d) * (squares - square / d)
    return min(above / below, 1.0) if below > 0 else 1.0
