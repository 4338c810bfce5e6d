"""Logistic regression."""

from __future__ import annotations

from llmprobe.probing.kinds import ProbeKind, probe_kind


@probe_kind("logistic")
class LogisticKind(ProbeKind):
    """Logistic regression on standardised states, L2 penalty, unpenalised intercept."""

    estimator = "LogisticProbe"
