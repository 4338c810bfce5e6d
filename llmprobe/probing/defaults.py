"""Logistic regressions with scikit-learn's defaults, as Jin et al. (2024) fitted them."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from llmprobe.probing.fits import ClosedForm


class DefaultRegressions(ClosedForm):
    """K logistic regressions on unscaled features: C = 1, at most 100 iterations of L-BFGS.

    Stopping before the optimum is part of what is reproduced, so there is no warning of it.
    """

    def fit(self) -> tuple[Tensor, Tensor]:
        """Return directions [K, C, d] of the design's features, and intercepts [K, C, 1]."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        design = self.design
        unit, shift = design.unit.float(), design.shift.float()
        raw = (design.X * unit + shift).cpu().numpy()
        K, C, _ = self.targets.shape
        coef, intercept = np.zeros((K, C, raw.shape[1])), np.zeros((K, C))
        for k in range(K):
            rows = self.weights[k, 0].cpu().numpy() > 0
            targets = self.targets[k].cpu().numpy()
            y = targets[0] if C == 1 else targets.argmax(axis=0)
            classes = np.unique(y[rows]).astype(int)
            if len(classes) < 2:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                fitted = LogisticRegression().fit(raw[rows], y[rows])
            of = [0] if C == 1 else classes if len(classes) > 2 else classes[1:]
            coef[k, of], intercept[k, of] = fitted.coef_, fitted.intercept_
        both = torch.as_tensor(coef).to(unit), torch.as_tensor(intercept).to(unit)
        return both[0] * unit, (both[1] + both[0] @ shift)[..., None]
