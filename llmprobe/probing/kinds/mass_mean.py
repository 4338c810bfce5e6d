"""The difference of class means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmprobe.probing.kinds import ProbeKind, probe_kind

if TYPE_CHECKING:
    from torch import Tensor

    from llmprobe.probing.design import Design
    from llmprobe.probing.losses import Loss
    from llmprobe.probing.mean_difference import MeanDifferences


@probe_kind("mass_mean")
class MassMeanKind(ProbeKind):
    """The difference of the class means."""

    has_penalty = False
    estimator = "MassMeanProbe"

    def problems(
        self,
        design: Design,
        loss: Loss,  # noqa: ARG002
        targets: Tensor,
        weights: Tensor,
    ) -> MeanDifferences:
        """Return K probes that need no penalty and no iteration."""
        from llmprobe.probing.mean_difference import MeanDifferences

        return MeanDifferences(design, targets, weights)
