"""What probing found: tables and probes, in memory as on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from llmprobe.results.saved_probe import SavedProbe


@dataclass(frozen=True)
class Results:
    """What probing found; several can be put together with ``Results.concatenate``."""

    table: pd.DataFrame
    """A row for each model × dataset × layer × probe."""
    summary: pd.DataFrame
    """A row for each model × dataset."""
    predictions: pd.DataFrame
    """A row for each layer × scored example: fold, label, predicted, score, along and across, all
    out-of-fold. The score is the probability of the last class when there are two, else of the
    predicted one; for continuous labels it is the prediction. ``along`` and ``across`` are where
    the example lies beside the probe (``probing.probe_plane``)."""
    learning_curve: pd.DataFrame
    """A row for each layer × fraction of the training groups, where those were asked for."""
    probes: tuple[SavedProbe, ...]
    """For each model × dataset, the probes of all layers, fitted on all examples or, with a
    test set, on all others."""
    fold0_probes: tuple[SavedProbe, ...]
    """The same, fitted without the examples of fold 0: for a look at those that no probe saw."""

    def heatmap(self, path: str | Path, metric: str = "accuracy") -> Path:
        """Draw the layer × dataset heatmap; the suffix chooses the format."""
        from llmprobe.reporting.charts.figures import heatmap

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        heatmap(self.table, metric).savefig(path, bbox_inches="tight")
        return path

    @staticmethod
    def concatenate(parts: Sequence[Results]) -> Results:
        """The rows and probes of all parts."""
        table, summary, predictions, learning_curve = (
            pd.concat([getattr(part, name) for part in parts], ignore_index=True)
            for name in ("table", "summary", "predictions", "learning_curve")
        )
        probes, fold0_probes = (
            tuple(probe for part in parts for probe in getattr(part, name))
            for name in ("probes", "fold0_probes")
        )
        return Results(table, summary, predictions, learning_curve, probes, fold0_probes)
