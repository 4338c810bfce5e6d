"""Shows at which layer of a language model a concept becomes linearly readable.

    dataset = llmprobe.load_dataset("capitals")
    activations = llmprobe.extract("smollm2-135m", dataset)
    results = llmprobe.probe(activations)
    results.heatmap("capitals.png")

torch and transformers load on first use, so ``import llmprobe`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmprobe.api import ProbeCallback, extract, probe, probe_layers, probe_network, trace
    from llmprobe.concepts.dataset import ConceptDataset
    from llmprobe.concepts.include import include
    from llmprobe.concepts.load import load_dataset
    from llmprobe.concepts.registry import dataset
    from llmprobe.errors import UserError
    from llmprobe.extraction.activations import Activations
    from llmprobe.probing.estimators import LogisticProbe, MassMeanProbe
    from llmprobe.probing.fit_many import ManyFits, fit_many, fit_many_multinomial
    from llmprobe.probing.protocol import ProbeResults
    from llmprobe.probing.ridge import RidgeProbe
    from llmprobe.probing.saved import SavedProbe, load_probe
    from llmprobe.probing.trace import Trace

__version__ = "0.1.0"

_HOMES = {
    "extract": "llmprobe.api",
    "probe": "llmprobe.api",
    "probe_layers": "llmprobe.api",
    "probe_network": "llmprobe.api",
    "trace": "llmprobe.api",
    "ProbeCallback": "llmprobe.api",
    "ConceptDataset": "llmprobe.concepts.dataset",
    "dataset": "llmprobe.concepts.registry",
    "include": "llmprobe.concepts.include",
    "load_dataset": "llmprobe.concepts.load",
    "UserError": "llmprobe.errors",
    "Activations": "llmprobe.extraction.activations",
    "LogisticProbe": "llmprobe.probing.estimators",
    "MassMeanProbe": "llmprobe.probing.estimators",
    "RidgeProbe": "llmprobe.probing.ridge",
    "ManyFits": "llmprobe.probing.fit_many",
    "fit_many": "llmprobe.probing.fit_many",
    "fit_many_multinomial": "llmprobe.probing.fit_many",
    "ProbeResults": "llmprobe.probing.protocol",
    "SavedProbe": "llmprobe.probing.saved",
    "load_probe": "llmprobe.probing.saved",
    "Trace": "llmprobe.probing.trace",
}

__all__ = [
    "Activations",
    "ConceptDataset",
    "LogisticProbe",
    "ManyFits",
    "MassMeanProbe",
    "ProbeCallback",
    "ProbeResults",
    "RidgeProbe",
    "SavedProbe",
    "Trace",
    "UserError",
    "dataset",
    "extract",
    "fit_many",
    "fit_many_multinomial",
    "include",
    "load_dataset",
    "load_probe",
    "probe",
    "probe_layers",
    "probe_network",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'llmprobe' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
