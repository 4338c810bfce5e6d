"""The control of a model: the same architecture with random weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from llmprobe.config.schema import ModelConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.results.columns import columns_of, with_layer_columns
from llmprobe.results.predictions import first_repeat
from llmprobe.results.resampling import Resamples
from llmprobe.results.results import Results
from llmprobe.results.rivals import rival_columns


def untrained_control(model: ModelConfig) -> ModelConfig:
    """Return the control of a model: the same architecture with random weights."""
    name = f"{model.name}-random"
    return model.model_copy(update={"weights": "random", "adapter": None, "name": name})


def with_untrained(part: Results, control: Results, dataset: ConceptDataset, seed: int) -> Results:
    """Add the untrained control to the results of a part: its scores and predictions as a rival.

    Parameters
    ----------
    seed
        The seed of the bootstrap over groups.
    """
    (curve,) = part.curves
    scores = ("random_weights_accuracy", "random_weights_auroc")
    of_control = control.table.assign(
        **{name: control.table[name.removeprefix("random_weights_")] for name in scores}
    )
    ours, theirs = (
        first_repeat(results.predictions[results.predictions["layer"] == results.curves[0].layer])
        for results in (part, control)
    )
    rivals = theirs.assign(rival="random_weights", model=curve.model)[columns_of("rivals")]
    unit_of = dataset.units
    examples = np.sort(ours["example"].to_numpy())
    resamples = Resamples(len(examples), None if unit_of is None else unit_of[examples], seed)
    gains = rival_columns(rivals, ours, curve.metric.name, curve.classes, resamples)
    return replace(
        part,
        table=with_layer_columns(part.table, of_control, scores),
        summary=part.summary.assign(**gains),
        rivals=pd.concat([part.rivals, rivals], ignore_index=True),
    )
