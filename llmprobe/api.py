"""The verbs of the Python interface; their keywords are those of the config file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmprobe.concepts.dataset import ConceptDataset
from llmprobe.config import ExtractConfig, ModelConfig, ProbeConfig
from llmprobe.config_file import validated
from llmprobe.errors import UserError
from llmprobe.extraction.activations import Activations
from llmprobe.extraction.extract import Extractor
from llmprobe.probing import protocol
from llmprobe.probing.protocol import ProbeResults


def extract(
    model: str | Path | ModelConfig,
    dataset: ConceptDataset,
    *,
    dtype: str = "auto",
    cache: bool = True,
    progress: bool = True,
    **options: Any,
) -> Activations:
    """Hidden states of every layer of ``model`` for every text of ``dataset``.

    ``llmprobe.extract("smollm2-135m", dataset).layer(12)`` is a float32 array [n, d].

    Parameters
    ----------
    model
        A known name, a Hub id, a folder, or a ``ModelConfig``.
    dtype
        Of the computation: auto, float32, bfloat16 or float16.
    cache
        Whether to keep the states on disk (``LLMPROBE_CACHE``) and find them again.
    **options
        Of the config's ``extract`` section: site, position, batch_tokens, chat_template, too_long.

    Raises
    ------
    UserError
        The model cannot be found or loaded, an option is wrong, a text is too long.
    """
    if not isinstance(dataset, ConceptDataset):
        raise UserError(
            f"extract: the dataset is {type(dataset).__name__!r}; give what load_dataset returns, "
            "or ConceptDataset(name, texts, labels)"
        )
    if not isinstance(model, ModelConfig):
        model = validated(ModelConfig, {"id": str(model), "dtype": dtype}, f"model {model}")
    elif dtype != "auto":
        model = validated(ModelConfig, {**model.model_dump(), "dtype": dtype}, f"model {model.id}")
    config = validated(ExtractConfig, options, "extract")
    return Extractor(model, config).extract(dataset, cache=cache, progress=progress)


def probe(activations: Activations, *, progress: bool = True, **options: Any) -> ProbeResults:
    """Probe every layer: ``.table``, ``.summary``, ``.predictions`` and ``.heatmap(path)``.

    Parameters
    ----------
    **options
        Of the config's ``probe`` section: kind, folds, l2, controls, permutations,
        description_length, learning_curve, device, seed.

    Raises
    ------
    UserError
        An option is wrong, or there are too few examples or groups for the folds.
    """
    return protocol.probe(activations, _config(options, "probe"), progress=progress)


def probe_layers(
    layers: Mapping[int, np.ndarray],
    labels: Sequence[Any] | np.ndarray,
    groups: Sequence[Any] | np.ndarray | None = None,
    *,
    texts: Sequence[str] | None = None,
    progress: bool = True,
    **options: Any,
) -> ProbeResults:
    """Probe activations from anywhere: ``probe_layers({0: X0, 1: X1}, labels)``.

    Parameters
    ----------
    layers
        Each [n, d]; the largest key counts as the last layer.
    labels
        The class of each row. [n]
    groups
        Rows that share one never stand on both sides of a split. [n]
    texts
        For the bag-of-words baseline; rows of the same text are kept in one fold. [n]
    **options
        Of the config's ``probe`` section.

    Raises
    ------
    UserError
        Shapes differ, a value is not finite, or there are too few examples for the folds.
    """
    config = _config(options, "probe_layers")
    return protocol.probe_layers(
        layers, labels, groups, texts=texts, config=config, progress=progress
    )


def _config(options: dict[str, Any], where: str) -> ProbeConfig:
    config = validated(ProbeConfig, options, where)
    if "random_weights" in config.controls:
        raise UserError(
            f"{where}: controls: random_weights needs states of its own, which `llmprobe run` "
            'makes; here, probe those of ModelConfig(id=…, weights="random")'
        )
    return config
