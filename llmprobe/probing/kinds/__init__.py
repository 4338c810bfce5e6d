"""Kinds of probes: a file for each, which registers it under its name in ``probe.kind``.

Your own kind is a file outside this package. Import it before use, or name it in the entry point
group ``llmprobe.plugins``:

    @probe_kind("nearest_mean")
    class NearestMean(ProbeKind):
        \"\"\"The nearest class mean.\"\"\"

        has_penalty = False

        def problems(self, design, loss, targets, weights):
            return NearestMeans(design, targets, weights)  # a ClosedForm

Files in this package import torch only inside functions, so that a config is checked without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, TypeVar

from llmprobe.config.probe_kinds import PROBE_KINDS

if TYPE_CHECKING:
    from torch import Tensor

    from llmprobe.probing.design import Design
    from llmprobe.probing.fits import ProbeProblems
    from llmprobe.probing.losses import Loss

K = TypeVar("K", bound="ProbeKind")


class ProbeKind:
    """A kind of linear probe; by default penalised regression that minimises ``loss``.

    The first line of a subclass's docstring is its line in the documentation.
    """

    for_numbers: ClassVar[bool] = False
    """Whether labels are continuous numbers, and not classes."""
    has_penalty: ClassVar[bool] = True
    """Whether there is an L2 penalty to choose."""
    estimator: ClassVar[str] = ""
    """The scikit-learn estimator that fits one such probe, by its name in ``llmprobe``."""

    def loss(self, n_classes: int) -> Loss:
        """Return the loss of a held-out row, by which penalties and shuffled labels are compared.

        ``n_classes`` is 0 for labels that are numbers.
        """
        from llmprobe.probing.losses import Logistic, Softmax, Squared

        if self.for_numbers:
            return Squared()
        return Logistic() if n_classes == 2 else Softmax()

    def problems(
        self, design: Design, loss: Loss, targets: Tensor, weights: Tensor
    ) -> ProbeProblems:
        """Return K probes, to be fitted to ``targets`` [K, C, n] on rows of ``weights`` [K, n].

        C is 1 for two classes (the second one is 1) and for standardised numbers.
        """
        from llmprobe.probing.fit_many import Problems

        return Problems(design, loss, targets, weights)


def probe_kind(name: str) -> Callable[[type[K]], type[K]]:
    """Return a decorator that registers a ``ProbeKind`` under a name for ``probe.kind``.

    Raises
    ------
    UserError
        Another kind has that name.
    """

    def register(kind: type[K]) -> type[K]:
        PROBE_KINDS.add(name, kind())
        return kind

    return register
