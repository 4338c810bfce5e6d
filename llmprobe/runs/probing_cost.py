"""An estimate of what probing the parts of a run costs, before anything is run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from llmprobe.config.probe_kinds import PROBE_KINDS
from llmprobe.config.schema import RunConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction.estimate import duration, matmul_speed
from llmprobe.extraction.extract import Extractor
from llmprobe.models.devices import resolve_device
from llmprobe.models.loading import text_config
from llmprobe.probing.cost import probing_seconds
from llmprobe.probing.pooling import config_of_pooling


def describe_probing(
    extractor: Extractor, concepts: Sequence[ConceptDataset], config: RunConfig, is_control: bool
) -> str:
    """Return what probing the concepts of a dataset costs: ``probing 31 layers, about 40 s``.

    Parameters
    ----------
    is_control
        Whether the model is an untrained control, which is only probed.
    """
    seconds, names = part_seconds(extractor, concepts, config, is_control)
    layers = len(extractor.layers(extractor.architecture.n_blocks))
    also = f" ({', '.join(names)})" if names else ""
    return f"probing {layers} layers{also}, {duration(seconds)}"


def part_seconds(
    extractor: Extractor, concepts: Sequence[ConceptDataset], config: RunConfig, is_control: bool
) -> tuple[float, list[str]]:
    """Return the seconds for ``describe_probing``, and what they include or leave out, in words."""
    architecture, probe = extractor.architecture, config.probe
    hidden_size = int(text_config(architecture.module.config).hidden_size)
    layers = len(extractor.layers(architecture.n_blocks))
    device = resolve_device(probe.device)
    speed = matmul_speed(device, torch.float32)
    if device.type == "cpu":
        speed /= torch.get_num_threads()
    alone = probe.alone(repeats=probe.n_repeats)
    curves = [p for p in config.positions if config_of_pooling(probe, p) is probe]
    total, names = 0.0, ["without scores of tokens"] * (len(curves) < len(config.positions))
    for dataset in concepts:
        classes = 0 if PROBE_KINDS[probe.kind].for_numbers else len(np.unique(dataset.labels))
        shape = (len(dataset), hidden_size, layers, classes, speed)
        each = probing_seconds(alone if is_control else probe, *shape)
        if config.transfer is not None and not is_control:
            each += probing_seconds(alone, *shape)
        if config.linear is not None and not is_control:
            # The best layer and four more, with curved features beside the states.
            curved = alone.model_copy(update={"permutations": config.linear.null, "repeats": 1})
            width = hidden_size + config.linear.features
            each += probing_seconds(curved, len(dataset), width, min(layers, 5), classes, speed)
        total += len(curves) * each
    if not is_control:
        names += ["with transfer"] * (config.transfer is not None)
        names += ["with linear"] * (config.linear is not None)
        asked = config.said and any(dataset.answers for dataset in concepts)
        names += ["said takes about as long as extraction"] * asked
    return total, names
