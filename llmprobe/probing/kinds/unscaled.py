"""Logistic regression with scikit-learn's defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmprobe.probing.kinds import ProbeKind, probe_kind

if TYPE_CHECKING:
    from torch import Tensor

    from llmprobe.probing.defaults import DefaultRegressions
    from llmprobe.probing.design import Design
    from llmprobe.probing.losses import Loss


@probe_kind("unscaled")
class UnscaledKind(ProbeKind):
    """Logistic regression with scikit-learn's defaults (C = 1, 100 iterations), states unscaled."""

    has_penalty = False
    estimator = "LogisticRegression"

    def problems(
        self,
        design: Design,
        loss: Loss,  # noqa: ARG002
        targets: Tensor,
        weights: Tensor,
    ) -> DefaultRegressions:
        """Return K probes at the default penalty, which may stop before they converge."""
        from llmprobe.probing.defaults import DefaultRegressions

        return DefaultRegressions(design, targets, weights)
