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
    from llmprobe.config.sites import site
    from llmprobe.datasets.dataset import ConceptDataset
    from llmprobe.datasets.include import include
    from llmprobe.datasets.load import load_dataset
    from llmprobe.datasets.registry import dataset
    from llmprobe.extraction.activations import Activations
    from llmprobe.ground.errors import UserError
    from llmprobe.probing.estimators import LogisticProbe, MassMeanProbe
    from llmprobe.probing.fit_many import ManyFits, fit_many, fit_many_multinomial
    from llmprobe.probing.ridge import RidgeProbe
    from llmprobe.results.results import Results
    from llmprobe.results.saved_probe import SavedProbe, load_probe
    from llmprobe.results.trace import Trace

__version__ = "0.1.0"

_HOMES = {
    "extract": "llmprobe.api",
    "probe": "llmprobe.api",
    "probe_layers": "llmprobe.api",
    "probe_network": "llmprobe.api",
    "trace": "llmprobe.api",
    "ProbeCallback": "llmprobe.api",
    "ConceptDataset": "llmprobe.datasets.dataset",
    "dataset": "llmprobe.datasets.registry",
    "include": "llmprobe.datasets.include",
    "load_dataset": "llmprobe.datasets.load",
    "UserError": "llmprobe.ground.errors",
    "Activations": "llmprobe.extraction.activations",
    "LogisticProbe": "llmprobe.probing.estimators",
    "MassMeanProbe": "llmprobe.probing.estimators",
    "RidgeProbe": "llmprobe.probing.ridge",
    "ManyFits": "llmprobe.probing.fit_many",
    "fit_many": "llmprobe.probing.fit_many",
    "fit_many_multinomial": "llmprobe.probing.fit_many",
    "Results": "llmprobe.results.results",
    "SavedProbe": "llmprobe.results.saved_probe",
    "load_probe": "llmprobe.results.saved_probe",
    "Trace": "llmprobe.results.trace",
    "site": "llmprobe.config.sites",
}

__all__ = [
    "Activations",
    "ConceptDataset",
    "LogisticProbe",
    "ManyFits",
    "MassMeanProbe",
    "ProbeCallback",
    "Results",
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
    "site",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'llmprobe' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
