"""The protocol: folds, a probe per layer, scores with intervals and baselines."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from llmprobe.config import ProbeConfig
from llmprobe.errors import UserError
from llmprobe.probing.baselines import bag_of_words_accuracy
from llmprobe.probing.depth import converging_layer, jump_layer
from llmprobe.probing.logistic import inner_folds, out_of_fold
from llmprobe.probing.scores import accuracy_intervals, majority_accuracy, score
from llmprobe.probing.splits import assign_folds
from llmprobe.progress import Progress

if TYPE_CHECKING:
    from llmprobe.extraction.activations import Activations


MOST_WORKERS = 8
"""Layers that are in memory at a time."""


@dataclass(frozen=True)
class ProbeResults:
    """What probing found; several can be put together with ``ProbeResults.concatenate``."""

    table: pd.DataFrame
    """A row for each model × dataset × layer × probe."""
    summary: pd.DataFrame
    """A row for each model × dataset."""
    predictions: pd.DataFrame
    """A row for each layer × example: fold, label, predicted and score, all out-of-fold. The
    score is the probability of the last class when there are two, else of the predicted one."""

    def heatmap(self, path: str | Path, metric: str = "accuracy") -> Path:
        """Draw the layer × dataset heatmap; the suffix chooses the format."""
        from llmprobe.reporting.figures import heatmap

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        heatmap(self.table, metric).savefig(path, bbox_inches="tight")
        return path

    @staticmethod
    def concatenate(parts: Sequence[ProbeResults]) -> ProbeResults:
        """The rows of all parts."""
        return ProbeResults(
            *(
                pd.concat([getattr(part, name) for part in parts], ignore_index=True)
                for name in ("table", "summary", "predictions")
            )
        )


def probe(
    activations: Activations, config: ProbeConfig | None = None, *, progress: bool = True
) -> ProbeResults:
    """Probe every layer of an extraction.

    Raises
    ------
    UserError
        Too few examples, groups or members of a class for the folds.
    """
    facts, dataset = activations.facts, activations.dataset
    results = _probe(
        activations.layers,
        activations.layer,
        activations.labels,
        activations.groups,
        texts=dataset.texts,
        config=config or ProbeConfig(),
        names={"model": facts["model"], "dataset": dataset.name,
               "site": facts["site"], "position": facts["position"]},
        progress=progress,
    )  # fmt: skip
    results.summary["parameters"] = facts["parameters"]
    results.summary["hidden_size"] = facts["hidden_size"]
    results.summary["seconds_extract"] = facts["seconds"]
    results.summary["tokens"] = facts["tokens"]
    results.summary["unique_tokens"] = facts["unique_tokens"]
    return results


def probe_layers(
    layers: Mapping[int, np.ndarray],
    labels: Sequence[Any] | np.ndarray,
    groups: Sequence[Any] | np.ndarray | None = None,
    *,
    texts: Sequence[str] | None = None,
    model: str = "model",
    dataset: str = "dataset",
    config: ProbeConfig | None = None,
    progress: bool = True,
) -> ProbeResults:
    """Probe activations from anywhere.

    Parameters
    ----------
    layers
        ``{0: X0, 1: X1, …}``, each [n, d]; the largest key counts as the last layer.
    labels
        The class of each row. [n]
    groups
        Rows that share one never stand on both sides of a split. [n]
    texts
        For the bag-of-words baseline. [n]

    Raises
    ------
    UserError
        Shapes differ, a value is not finite, or there are too few examples for the folds.
    """
    labels = _one_for_each_row("labels", labels)
    n = len(labels)
    if groups is not None:
        groups = _one_for_each_row("groups", groups, n)
    if texts is not None and len(texts) != n:
        raise UserError(f"texts: {len(texts)} for {n} labels")
    if not layers:
        raise UserError("layers: none given")
    arrays = {}
    for key, X in layers.items():
        if not isinstance(key, int | np.integer) or key < 0:
            raise UserError(f"layers: key {key!r}, expected the number of a layer, 0 or more")
        arrays[int(key)] = X = np.asarray(X)
        if X.ndim != 2 or len(X) != n or not X.shape[1]:
            raise UserError(f"layers[{key}]: shape {X.shape}, expected ({n}, d)")
        if X.dtype.kind not in "fiub" or not np.isfinite(X).all():
            raise UserError(f"layers[{key}]: has values that are not finite numbers")
    return _probe(
        sorted(arrays),
        arrays.__getitem__,
        labels,
        groups,
        texts=texts,
        config=config or ProbeConfig(),
        names={"model": model, "dataset": dataset, "site": "", "position": ""},
        progress=progress,
    )


def _one_for_each_row(
    name: str, values: Sequence[Any] | np.ndarray, n: int | None = None
) -> np.ndarray:
    """Labels or groups as an array [n]."""
    array = np.asarray(values)
    expected = "(n,)" if n is None else f"({n},)"
    if array.ndim != 1 or n not in (None, len(array)):
        raise UserError(f"{name}: shape {array.shape}, expected {expected}")
    if missing := int(pd.isna(array).sum()):
        raise UserError(f"{name}: {missing} are missing")
    return array


def _probe(
    layers: Sequence[int],
    states: Callable[[int], np.ndarray],
    labels: np.ndarray,
    groups: np.ndarray | None,
    *,
    texts: Sequence[str] | None,
    config: ProbeConfig,
    names: Mapping[str, str],
    progress: bool,
) -> ProbeResults:
    began = time.monotonic()
    classes, y = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise UserError(f"{names['dataset']}: one class only; a probe needs at least two")
    fold_of = assign_folds(labels, groups, config.folds, config.seed, names["dataset"])
    label = f"probing {names['dataset']} in {names['model']}"
    fits = _fit_layers(layers, states, y, groups, fold_of, config, label, progress)
    probabilities = np.stack([fit[0] for fit in fits])  # [layers, n, classes]
    predicted = probabilities.argmax(axis=2)
    low, high = accuracy_intervals((predicted == y).T, groups, config.seed)
    majority = majority_accuracy(y)
    rows = [
        {
            **names,
            "layer": layer,
            "depth": layer / max(layers[-1], 1),
            "probe": config.kind,
            "n_examples": len(y),
            "n_classes": len(classes),
            "n_groups": len(y) if groups is None else len(np.unique(groups)),
            "l2": float(f"{10 ** np.log10(penalties.astype(float)).mean():.6g}"),
            **score(y, layer_probabilities),
            "accuracy_low": low[i],
            "accuracy_high": high[i],
            "majority_accuracy": majority if "majority" in config.controls else np.nan,
            "control_accuracy": np.nan,
            "selectivity": np.nan,
            "p_value": np.nan,
        }
        for i, (layer, layer_probabilities, (_, penalties)) in enumerate(
            zip(layers, probabilities, fits, strict=True)
        )
    ]
    table = pd.DataFrame(rows)[RESULT_COLUMNS]
    surface = np.nan
    if "bag_of_words" in config.controls and texts is not None:
        surface = bag_of_words_accuracy(texts, y, fold_of)
    summary = _summary(table, names, surface, time.monotonic() - began)
    n_layers, n = len(layers), len(y)
    confidence = probabilities[..., 1] if len(classes) == 2 else probabilities.max(axis=2)
    predictions = pd.DataFrame(
        {
            "model": names["model"],
            "dataset": names["dataset"],
            "layer": np.repeat(layers, n),
            "example": np.tile(np.arange(n), n_layers),
            "fold": np.tile(fold_of, n_layers),
            # As text, so that tables of datasets with different kinds of labels go together.
            "label": np.tile(labels.astype(str), n_layers),
            "predicted": classes.astype(str)[predicted].ravel(),
            "score": confidence.ravel(),
        }
    )
    return ProbeResults(table, summary, predictions)


def _fit_layers(
    layers: Sequence[int],
    states: Callable[[int], np.ndarray],
    y: np.ndarray,
    groups: np.ndarray | None,
    fold_of: np.ndarray,
    config: ProbeConfig,
    label: str,
    progress: bool,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Out-of-fold probabilities and penalties of each layer, a layer for each core at a time."""
    inner = inner_folds(y, groups, fold_of, config.seed) if config.l2 == "auto" else None

    def fit(layer: int) -> tuple[np.ndarray, np.ndarray]:
        return out_of_fold(states(layer), y, fold_of, inner, config.l2)

    workers = min(os.cpu_count() or 1, len(layers), MOST_WORKERS)
    fits = []
    with Progress(label, len(layers), shown=progress) as bar, one_torch_thread():
        # The count is also each worker thread's own, hence the initializer.
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
        try:
            for fitted in pool.map(fit, layers):
                fits.append(fitted)
                bar.advance(1)
        finally:
            pool.shutdown(cancel_futures=True)
    return fits


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """One thread inside each product of matrices.

    Threads that split such small work wait for each other by spinning: as fast as a layer a
    thread on an idle machine, and 40 times slower where another process has a core.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


RESULT_COLUMNS = [
    "model", "dataset", "site", "position", "layer", "depth", "probe", "n_examples", "n_classes",
    "n_groups", "l2", "accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "f1",
    "auroc", "log_loss", "majority_accuracy", "control_accuracy", "selectivity", "p_value",
]  # fmt: skip

SUMMARY_COLUMNS = [
    "model", "parameters", "layers", "hidden_size", "dataset", "n_examples", "peak_layer",
    "peak_accuracy", "peak_p_value", "converging_layer", "jump_layer", "converging_depth",
    "jump_depth", "majority_accuracy", "bag_of_words_accuracy", "random_weights_accuracy",
    "seconds_extract", "seconds_probe", "tokens", "unique_tokens",
]  # fmt: skip


def _summary(
    table: pd.DataFrame, names: Mapping[str, str], bag_of_words: float, seconds: float
) -> pd.DataFrame:
    """The one row of a model on a dataset; NaN for what was not asked for or does not exist."""
    accuracies = table["accuracy"].to_list()
    peak = table.iloc[int(np.argmax(accuracies))]
    converging = table.iloc[converging_layer(accuracies)]
    jump = jump_layer(accuracies)
    facts: dict[str, Any] = {
        **dict.fromkeys(SUMMARY_COLUMNS, np.nan),
        "model": names["model"],
        "dataset": names["dataset"],
        "layers": int(table["layer"].iloc[-1]),
        "n_examples": int(peak["n_examples"]),
        "peak_layer": int(peak["layer"]),
        "peak_accuracy": float(peak["accuracy"]),
        "converging_layer": int(converging["layer"]),
        "converging_depth": float(converging["depth"]),
        "jump_layer": np.nan if jump is None else float(table["layer"].iloc[jump]),
        "jump_depth": np.nan if jump is None else float(table["depth"].iloc[jump]),
        "majority_accuracy": float(peak["majority_accuracy"]),
        "bag_of_words_accuracy": bag_of_words,
        "seconds_probe": round(seconds, 3),
    }
    return pd.DataFrame([facts])[SUMMARY_COLUMNS]
