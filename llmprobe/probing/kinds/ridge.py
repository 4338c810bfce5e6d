"""Linear regression for labels that are numbers."""

from __future__ import annotations

from llmprobe.probing.kinds import ProbeKind, probe_kind


@probe_kind("ridge")
class RidgeKind(ProbeKind):
    """Linear regression with an L2 penalty, for labels that are numbers."""

    for_numbers = True
    estimator = "RidgeProbe"
