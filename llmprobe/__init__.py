"""Shows at which layer of a language model a concept becomes linearly readable.

    dataset = llmprobe.load_dataset("capitals")
    activations = llmprobe.extract("smollm2-135m", dataset)
    results = llmprobe.probe(activations)
    results.heatmap("capitals.png")

torch and transformers are imported on first use, so ``import llmprobe`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmprobe.api.networks import ProbeCallback as ProbeCallback
    from llmprobe.api.networks import probe_network as probe_network
    from llmprobe.api.new_texts import score as score
    from llmprobe.api.new_texts import trace as trace
    from llmprobe.api.run_folders import compare as compare
    from llmprobe.api.run_folders import intervene as intervene
    from llmprobe.api.run_folders import load_run as load_run
    from llmprobe.api.run_folders import run as run
    from llmprobe.api.states import extract as extract
    from llmprobe.api.states import probe as probe
    from llmprobe.api.states import probe_layers as probe_layers
    from llmprobe.api.states import transfer as transfer
    from llmprobe.cli.command import command as command
    from llmprobe.config.sites import site as site
    from llmprobe.datasets.dataset import ConceptDataset as ConceptDataset
    from llmprobe.datasets.include import include as include
    from llmprobe.datasets.load import load_dataset as load_dataset
    from llmprobe.datasets.registry import dataset as dataset
    from llmprobe.extraction.activations import Activations as Activations
    from llmprobe.ground.errors import UserError as UserError
    from llmprobe.probing.estimators import LogisticProbe as LogisticProbe
    from llmprobe.probing.estimators import MassMeanProbe as MassMeanProbe
    from llmprobe.probing.fit_many import fit_many as fit_many
    from llmprobe.probing.fit_many import fit_many_multinomial as fit_many_multinomial
    from llmprobe.probing.fits import ManyFits as ManyFits
    from llmprobe.probing.kinds import probe_kind as probe_kind
    from llmprobe.probing.ridge import RidgeProbe as RidgeProbe
    from llmprobe.results.figures import figure as figure
    from llmprobe.results.metrics import metric as metric
    from llmprobe.results.results import Results as Results
    from llmprobe.results.saved_probe import SavedProbe as SavedProbe
    from llmprobe.results.saved_probe import load_probe as load_probe
    from llmprobe.results.trace import Trace as Trace
    from llmprobe.results.transfer import TransferMatrix as TransferMatrix

__version__ = "0.1.0"

_NAMES_IN = {
    "llmprobe.api.networks": "ProbeCallback probe_network",
    "llmprobe.api.new_texts": "score trace",
    "llmprobe.api.run_folders": "compare intervene load_run run",
    "llmprobe.api.states": "extract probe probe_layers transfer",
    "llmprobe.cli.command": "command",
    "llmprobe.config.sites": "site",
    "llmprobe.datasets.dataset": "ConceptDataset",
    "llmprobe.datasets.include": "include",
    "llmprobe.datasets.load": "load_dataset",
    "llmprobe.datasets.registry": "dataset",
    "llmprobe.extraction.activations": "Activations",
    "llmprobe.ground.errors": "UserError",
    "llmprobe.probing.estimators": "LogisticProbe MassMeanProbe",
    "llmprobe.probing.fit_many": "ManyFits fit_many fit_many_multinomial",
    "llmprobe.probing.kinds": "probe_kind",
    "llmprobe.probing.ridge": "RidgeProbe",
    "llmprobe.results.figures": "figure",
    "llmprobe.results.metrics": "metric",
    "llmprobe.results.results": "Results",
    "llmprobe.results.saved_probe": "SavedProbe load_probe",
    "llmprobe.results.trace": "Trace",
    "llmprobe.results.transfer": "TransferMatrix",
}
_MODULE_OF = {name: module for module, names in _NAMES_IN.items() for name in names.split()}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'llmprobe' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
