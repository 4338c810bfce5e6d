"""The results of probing: one type in memory and on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd

from llmprobe.ground.notebook import ShownInNotebooks
from llmprobe.results.columns import CURVE, MASKED, WORST_TRANSFER
from llmprobe.results.curve import Curve, curves_of
from llmprobe.results.evidence import all_evidence
from llmprobe.results.plots import Plots
from llmprobe.results.questions import Evidence
from llmprobe.results.saved_probe import SavedProbe
from llmprobe.results.transfer import TransferMatrix


@dataclass(frozen=True)
class Results(ShownInNotebooks):
    """What probing found; several can be put together with ``Results.concatenate``."""

    table: pd.DataFrame
    """A row for each model × dataset × position × layer × probe. A probe that reads several layers
    stands at the deepest of them, and ``layers_read`` says which."""
    summary: pd.DataFrame
    """A row for each model × dataset × position."""
    predictions: pd.DataFrame
    """A row for each repeat of the folds × layer × scored example: fold, label, predicted, score,
    along and across, all out-of-fold. The score is the probability of the last class when there are
    two, else of the predicted one; for continuous labels it is the prediction. ``along`` and
    ``across`` are where the example lies beside the probe (``probing.probe_plane``), in the first
    repeat."""
    learning_curve: pd.DataFrame = field(default_factory=pd.DataFrame)
    """A row for each layer × fraction of the training groups, where those were asked for."""
    probes: tuple[SavedProbe, ...] = ()
    """For each model × dataset × position, the probes of all layers, and with ``multi_layer`` one
    that reads several at once; fitted on all examples or, with a test set or ``calibrate``, on all
    others. Not read back with a run folder: ``load_probe`` reads each."""
    fold0_probes: tuple[SavedProbe, ...] = ()
    """The same probes fitted without the examples of fold 0, which they can be tried on."""
    rivals: pd.DataFrame = field(default_factory=pd.DataFrame)
    """A row for each rival of a curve × scored example: what it answers out-of-fold, as in the
    predictions. Rivals are, for example, a bag of words, the mean of the token embeddings and the
    best layer of the untrained network."""
    transfer: pd.DataFrame = field(default_factory=pd.DataFrame)
    """A row for each model × position × train set × test set, where that was asked for; see
    ``transfer_matrix``."""
    transfer_layers: pd.DataFrame = field(default_factory=pd.DataFrame)
    """The same cells at every layer."""
    interventions: pd.DataFrame = field(default_factory=pd.DataFrame)
    """A row for each curve × layer × direction × edit × dose, where states were changed."""
    differences: pd.DataFrame = field(default_factory=pd.DataFrame)
    """A row for each two curves of a comparison on the same examples, each at its best layer."""
    intervention_examples: pd.DataFrame = field(default_factory=pd.DataFrame)
    """A row for each curve × some of the texts: the model's next tokens before and after the change
    with the largest effect, the likeliest first, each with its probability."""
    examples: pd.DataFrame = field(default_factory=pd.DataFrame)
    """A row for each dataset × example that predictions are about, with its text, label, group and
    fields; empty where examples are no texts."""
    environment: Mapping[str, Any] = field(default_factory=lambda: {"models": [], "datasets": []})
    """What results may depend on beside the config: versions and hardware; ``models`` and
    ``datasets``, lists of mappings."""
    config: str = ""
    """The resolved config, as YAML."""
    notes: tuple[str, ...] = ()
    """What is missing, damaged or of another version in a run folder, a sentence each."""
    folder: Path = Path()
    """The folder that they were read from."""

    def __repr__(self) -> str:
        curves = self.curves
        models = len({curve.model for curve in curves})
        datasets = len({curve.title for curve in curves})
        counted = f"{len(curves)} curves, of {models} models on {datasets} datasets"
        scores = [curve.score for curve in curves if not isnan(curve.score)]
        best = f", best scores {min(scores):.2f} to {max(scores):.2f}" if scores else ""
        return f"Results({counted}{best})"

    @cached_property
    def curves(self) -> list[Curve]:
        """Return the curve of each model, dataset and position, in the order of the summary."""
        return curves_of(self.table, self.summary)

    def class_names(self, dataset: str) -> Mapping[str, str]:
        """Return the names of a dataset's labels, by the label as text; empty where not known."""
        datasets = self.environment.get("datasets", [])
        known = {facts.get("name"): facts.get("classes") for facts in datasets}.get(dataset)
        if not isinstance(known, dict) or len({*map(str, known.values())}) < len(known):
            return {}
        return {label: str(name) for label, name in known.items()}

    @property
    def transfer_matrix(self) -> TransferMatrix | None:
        """Return what probes read on other sets, with figures; None if that was not asked for."""
        if self.transfer.empty:
            return None
        return TransferMatrix(self.transfer, self.transfer_layers)

    def with_transfer(self, matrix: TransferMatrix) -> Results:
        """Return the results with those of a transfer, and the worst of them in the summary."""
        summary = self.summary.drop(columns=[*WORST_TRANSFER, *MASKED], errors="ignore")
        for found in (matrix.worst(), matrix.masked()):
            summary = summary.merge(found, on=[*CURVE], how="left")
        return replace(
            self,
            summary=summary[list(self.summary)],
            transfer=matrix.table,
            transfer_layers=matrix.layers,
        )

    @cached_property
    def evidence(self) -> list[Evidence]:
        """Return for each curve which questions were asked of it, the answers, and the verdict."""
        return all_evidence(self.curves, self.environment.get("datasets", []))

    @property
    def plot(self) -> Plots:
        """Return the figures, each a method: ``heatmap``, ``curves``, ``depth``, …"""
        return Plots(self)

    def heatmap(self, path: str | Path, metric: str = "accuracy") -> Path:
        """Draw the layer × dataset heatmap into a file; the suffix chooses the format."""
        self.plot.heatmap(path, metric=metric)
        return Path(path)

    @staticmethod
    def concatenate(parts: Sequence[Results]) -> Results:
        """Return the rows and probes of all parts."""
        names = (
            *("table", "summary", "predictions", "learning_curve", "rivals"),
            *("transfer", "transfer_layers", "interventions", "intervention_examples"),
        )
        tables: dict[str, Any] = {
            name: pd.concat([getattr(part, name) for part in parts], ignore_index=True)
            for name in names
        }
        probes, fold0_probes = (
            tuple(probe for part in parts for probe in getattr(part, name))
            for name in ("probes", "fold0_probes")
        )
        return Results(**tables, probes=probes, fold0_probes=fold0_probes)
