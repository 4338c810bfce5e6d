"""The protocol: folds, a probe per layer, scores with intervals, controls and baselines."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import psutil
import torch
from threadpoolctl import threadpool_limits

from llmprobe.concepts.groups import units
from llmprobe.config import ProbeConfig
from llmprobe.errors import UserError
from llmprobe.models.devices import resolve_device
from llmprobe.probing.baselines import bag_of_words_accuracy, bag_of_words_r2
from llmprobe.probing.depth import concept_depth, peak_index
from llmprobe.probing.fit_many import CHUNK_BYTES
from llmprobe.probing.layer import LayerFit, probe_layer
from llmprobe.probing.questions import Questions, ask
from llmprobe.probing.saved import SavedProbe
from llmprobe.probing.scores import (
    Resamples,
    majority_accuracy,
    resampled_r2,
    score,
    score_continuous,
)
from llmprobe.progress import Progress

if TYPE_CHECKING:
    from llmprobe.extraction.activations import Activations


log = logging.getLogger(__name__)

ROUNDING = 1e-10
"""Labellings that are each other's mirror image are as good, however their losses were rounded."""

MOST_WORKERS = 8
"""Layers that are in memory at a time, where memory has room for them."""

LARGE = 2**30
"""Bytes of a layer whose products are long enough for all threads to share."""


class States(Protocol):
    """The states of some layers, each read when its turn comes."""

    @property
    def layers(self) -> list[int]:
        """In rising order."""

    def layer(self, index: int) -> np.ndarray:
        """[n, d], of float32 or float64"""

    def n_bytes(self, index: int) -> int:
        """What ``layer`` takes in memory."""


@dataclass(frozen=True)
class ProbeResults:
    """What probing found; several can be put together with ``ProbeResults.concatenate``."""

    table: pd.DataFrame
    """A row for each model × dataset × layer × probe."""
    summary: pd.DataFrame
    """A row for each model × dataset."""
    predictions: pd.DataFrame
    """A row for each layer × scored example: fold, label, predicted and score, all out-of-fold. The
    score is the probability of the last class when there are two, else of the predicted one; for
    continuous labels it is the prediction."""
    learning_curve: pd.DataFrame
    """A row for each layer × fraction of the training groups, where those were asked for."""
    probes: tuple[SavedProbe, ...]
    """For each model × dataset, the probes of all layers, fitted on all examples."""

    def heatmap(self, path: str | Path, metric: str = "accuracy") -> Path:
        """Draw the layer × dataset heatmap; the suffix chooses the format."""
        from llmprobe.reporting.figures import heatmap

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        heatmap(self.table, metric).savefig(path, bbox_inches="tight")
        return path

    @staticmethod
    def concatenate(parts: Sequence[ProbeResults]) -> ProbeResults:
        """The rows and probes of all parts."""
        table, summary, predictions, learning_curve = (
            pd.concat([getattr(part, name) for part in parts], ignore_index=True)
            for name in ("table", "summary", "predictions", "learning_curve")
        )
        probes = tuple(probe for part in parts for probe in part.probes)
        return ProbeResults(table, summary, predictions, learning_curve, probes)


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
    results = probe_states(
        activations,
        activations.labels,
        activations.groups,
        texts=dataset.texts,
        config=config or ProbeConfig(),
        names={"model": facts["model"], "dataset": dataset.name,
               "site": facts["site"], "position": facts["position"]},
        origin={"model_id": facts.get("model_id", ""), "revision": facts.get("revision", ""),
                "dtype": facts["dtype"], "dataset_sha256": dataset.content_hash},
        progress=progress,
    )  # fmt: skip
    results.summary["parameters"] = facts["parameters"]
    results.summary["hidden_size"] = facts["hidden_size"]
    results.summary["seconds_extract"] = facts["seconds"]
    results.summary["tokens"] = facts["tokens"]
    results.summary["unique_tokens"] = facts["unique_tokens"]
    return results


def probe_layers(
    layers: Mapping[int, Any],
    labels: Sequence[Any] | np.ndarray,
    groups: Sequence[Any] | np.ndarray | None = None,
    *,
    texts: Sequence[str] | None = None,
    test: Sequence[bool] | np.ndarray | None = None,
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
        For the bag-of-words baseline; rows of the same text are kept in one fold. [n]
    test
        True for the rows to score, with probes that are fitted on the others; by default all are,
        in folds. [n] bool

    Raises
    ------
    UserError
        Shapes differ, a value is not finite, or there are too few examples for the folds.
    """
    labels = one_for_each_row("labels", labels)
    n = len(labels)
    if texts is not None and len(texts) != n:
        raise UserError(f"texts: {len(texts)} for {n} labels")
    given: object = layers
    if not isinstance(given, Mapping):
        raise UserError("layers: expected arrays by the number of their layer, as {0: X0, 1: X1}")
    if not layers:
        raise UserError("layers: none given")
    for row, text in enumerate(texts or ()):
        if not isinstance(text, str):
            raise UserError(f"texts: number {row} is no text: {text!r:.40}")
    arrays = {}
    for key, X in layers.items():
        if not isinstance(key, int | np.integer) or isinstance(key, bool) or key < 0:
            raise UserError(f"layers: key {key!r}, expected the number of a layer, 0 or more")
        if isinstance(X, torch.Tensor):
            X = X.detach().cpu()
            X = X if X.dtype == torch.float64 else X.float()
        arrays[int(key)] = X = np.asarray(X)
        if X.ndim != 2 or len(X) != n or not X.shape[1]:
            raise UserError(f"layers[{key}]: shape {X.shape}, expected ({n}, d)")
        if X.dtype.kind not in "fiub" or not np.isfinite(X).all():
            raise UserError(f"layers[{key}]: has values that are not finite numbers")
    return probe_states(
        Arrays(arrays),
        labels,
        groups,
        texts=texts,
        test=test,
        config=config or ProbeConfig(),
        names={"model": model, "dataset": dataset, "site": "", "position": ""},
        origin={},
        progress=progress,
    )


@dataclass(frozen=True)
class Arrays:
    """States that are in memory."""

    of_layer: Mapping[int, np.ndarray]
    """[n, d] each"""

    @property
    def layers(self) -> list[int]:
        """In rising order."""
        return sorted(self.of_layer)

    def layer(self, index: int) -> np.ndarray:
        """In an order and type of numbers that torch takes without a warning."""
        X = self.of_layer[index]
        precise = X.dtype.itemsize > 4 and X.dtype.kind in "fiu"
        return np.require(X, np.float64 if precise else np.float32, ["C", "W"])

    def n_bytes(self, index: int) -> int:
        """What ``layer`` takes in memory."""
        X = self.of_layer[index]
        return X.size * max(X.itemsize, 4)


def one_for_each_row(
    name: str, values: Sequence[Any] | np.ndarray, n: int | None = None
) -> np.ndarray:
    """Labels or groups as an array [n]."""
    array = np.asarray(values)
    expected = "(n,)" if n is None else f"({n},)"
    if array.ndim != 1 or n not in (None, len(array)):
        raise UserError(f"{name}: shape {array.shape}, expected {expected}")
    if missing := int(pd.isna(array).sum()):
        raise UserError(f"{name}: {missing} are missing")
    try:
        np.unique(array)
    except TypeError:
        raise UserError(f"{name}: of types that have no common order; make them all text") from None
    return array


def probe_states(
    states: States,
    labels: np.ndarray,
    groups: Sequence[Any] | np.ndarray | None,
    *,
    texts: Sequence[str] | None = None,
    test: Sequence[bool] | np.ndarray | None = None,
    config: ProbeConfig,
    names: Mapping[str, str],
    origin: Mapping[str, Any],
    progress: bool,
) -> ProbeResults:
    """What ``probe_layers`` does, of states that need not all be in memory."""
    began = time.monotonic()
    layers = states.layers
    if groups is not None:
        groups = one_for_each_row("groups", groups, len(labels))
    if test is not None:
        test = one_for_each_row("test", test, len(labels))
        if test.dtype != bool:
            raise UserError(f"test: {test.dtype} numbers; expected true or false for each row")
    unit_of = units(groups, texts)
    questions = ask(labels, unit_of, config, names["dataset"], test)
    scored = questions.scored
    of_scored = None if unit_of is None else unit_of[scored]
    resamples = Resamples(len(questions.truth), of_scored, config.seed)
    label = f"probing {names['dataset']} in {names['model']}"
    answer = partial(_fit, questions=questions, resamples=resamples, device=_device(config.device))
    answers = _each_layer(states, answer, label, progress)
    fits, scores = [answer[0] for answer in answers], [answer[1] for answer in answers]
    for layer, fit in zip(layers, fits, strict=True):
        if fit.unconverged:
            log.warning("%s: layer %d: %d fits did not converge", label, layer, fit.unconverged)
    table = _table(layers, fits, scores, questions, resamples, config, names)
    summary = {
        **_depths(table, fits, questions, resamples),
        "layers": int(layers[-1]),
        **_baselines(questions, config, texts),
        "peak_p_value": _p_values(np.max([fit.statistic for fit in fits], axis=0)[None])[0],
        "seconds_probe": round(time.monotonic() - began, 3),
    }
    curve = [
        {**names, "layer": layer, "fraction": fraction, _metric(questions): value}
        for layer, fit in zip(layers, fits, strict=True)
        for fraction, value in zip(config.learning_curve, fit.curve, strict=True)
    ]
    probes = SavedProbe(
        coef={layer: fit.coef.T for layer, fit in zip(layers, fits, strict=True)},
        intercept={layer: fit.intercept for layer, fit in zip(layers, fits, strict=True)},
        classes=tuple(questions.classes.tolist()),
        facts={**names, **origin, "kind": config.kind},
        scores={name: table[name].to_list() for name in _KEPT_SCORES}
        | {"l2": [fit.whole_l2 for fit in fits]},
    )
    return ProbeResults(
        table,
        pd.DataFrame([{**dict.fromkeys(SUMMARY_COLUMNS, np.nan), **names, **summary}])[
            SUMMARY_COLUMNS
        ],
        _predictions(layers, fits, labels, questions, names),
        pd.DataFrame(curve, columns=[*names, "layer", "fraction", "accuracy", "r2"]),
        (probes,),
    )


def _device(name: str) -> torch.device:
    """``auto``: CUDA if there is; elsewhere the CPU, since other accelerators lack float64."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = resolve_device(name, "probe.device")
    if device.type == "mps":
        raise UserError("probe.device 'mps' has no float64, which probes need; use auto or cpu")
    return device


def _metric(questions: Questions) -> str:
    """What the best layer is the best by."""
    return "accuracy" if len(questions.classes) else "r2"


def _fit(
    X: np.ndarray, questions: Questions, resamples: Resamples, device: torch.device
) -> tuple[LayerFit, dict[str, float]]:
    """The answers of one layer and the scores of its out-of-fold predictions."""
    fit = probe_layer(X, questions, device)
    if len(questions.classes):
        return fit, score(questions.truth, fit.predicted, resamples)
    return fit, score_continuous(questions.truth, fit.predicted[:, 0], resamples)


def _each_layer(
    states: States,
    fit: Callable[[np.ndarray], tuple[LayerFit, dict[str, float]]],
    label: str,
    progress: bool,
) -> list[tuple[LayerFit, dict[str, float]]]:
    """``fit`` of each layer's states, read when its turn comes.

    A layer for each core at a time, one thread each; of large layers one, with all threads.
    """
    fits = []
    with Progress(label, len(states.layers), shown=progress) as bar:
        sized = groupby(states.layers, lambda layer: states.n_bytes(layer) > LARGE)
        for is_large, layers in ((is_large, list(layers)) for is_large, layers in sized):
            workers = 1 if is_large else _workers(max(map(states.n_bytes, layers)), len(layers))
            with threads(torch.get_num_threads() if is_large else 1) as limit:
                # The count is also each worker thread's own, hence the initializer.
                pool = ThreadPoolExecutor(
                    workers, initializer=torch.set_num_threads, initargs=(limit,)
                )
                try:
                    for fitted in pool.map(lambda layer: fit(states.layer(layer)), layers):
                        fits.append(fitted)
                        bar.advance(1)
                finally:
                    pool.shutdown(cancel_futures=True)
    return fits


def _workers(n_bytes: int, layers: int) -> int:
    """How many layers of this size are worked on at a time."""
    # Some four copies of a layer, and a chunk each for the search and the solver.
    needed = 4 * n_bytes + 2 * CHUNK_BYTES
    room = int(psutil.virtual_memory().available // needed)
    return max(1, min(os.cpu_count() or 1, layers, MOST_WORKERS, room))


@contextmanager
def threads(limit: int) -> Iterator[int]:
    """So many threads inside each product of matrices, of torch and of NumPy.

    Threads that split small work wait for each other by spinning: as fast as a layer a
    thread on an idle machine, and many times slower where another process has a core
    (docs/performance.md).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(limit)
    try:
        with threadpool_limits(limit, user_api="blas"):
            yield limit
    finally:
        torch.set_num_threads(before)


def _table(
    layers: Sequence[int],
    fits: Sequence[LayerFit],
    scores: Sequence[Mapping[str, float]],
    questions: Questions,
    resamples: Resamples,
    config: ProbeConfig,
    names: Mapping[str, str],
) -> pd.DataFrame:
    """The results: a row for each layer."""
    metric, n = _metric(questions), len(questions.truth)
    table = pd.DataFrame(scores)
    table["layer"] = layers
    table["depth"] = table["layer"] / max(layers[-1], 1)
    table["probe"] = config.kind
    table["n_examples"] = n
    table["n_classes"] = len(questions.classes)
    table["n_groups"] = len(resamples.counts)
    table["l2"] = [float(f"{np.exp(np.log(fit.l2).mean()):.6g}") for fit in fits]
    table["majority_accuracy"] = _majority(questions, config)
    table[f"control_{metric}"] = [fit.control for fit in fits]
    table["selectivity"] = table[metric] - table[f"control_{metric}"]
    table["p_value"] = _p_values(np.stack([fit.statistic for fit in fits]))
    if questions.online:
        table["code_length"] = [fit.code_length / np.log(2) / 1024 for fit in fits]
        coded = questions.online[0].used.sum()
        uniform = coded * np.log2(len(questions.classes)) / 1024
        table["compression"] = uniform / table["code_length"]
    for name, value in names.items():
        table[name] = value
    return table.reindex(columns=RESULT_COLUMNS)


def _p_values(statistics: np.ndarray) -> np.ndarray:
    """From [m, 1 + permutations], the observed first; NaN without permutations. -> [m]"""
    shuffled = statistics[:, 1:]
    if not shuffled.shape[1]:
        return np.full(len(statistics), np.nan)
    as_good = (shuffled >= statistics[:, :1] - ROUNDING).sum(axis=1)
    p: np.ndarray = (1 + as_good) / (1 + shuffled.shape[1])
    return p


def _majority(questions: Questions, config: ProbeConfig) -> float:
    asked = "majority" in config.controls and len(questions.classes)
    return majority_accuracy(questions.truth) if asked else np.nan


def _baselines(
    questions: Questions, config: ProbeConfig, texts: Sequence[str] | None
) -> dict[str, float]:
    """What needs no layer."""
    found = {"majority_accuracy": _majority(questions, config)}
    if "bag_of_words" in config.controls and texts is not None:
        name, baseline = (
            ("bag_of_words_accuracy", bag_of_words_accuracy)
            if len(questions.classes)
            else ("bag_of_words_r2", bag_of_words_r2)
        )
        found[name] = baseline(texts, questions.y, questions.fold_of)
    return found


def _depths(
    table: pd.DataFrame, fits: Sequence[LayerFit], questions: Questions, resamples: Resamples
) -> dict[str, float]:
    """The best layer, and at which depths the curve gets there."""
    metric = _metric(questions)
    curve = table[metric].to_numpy()
    peak = table.iloc[peak_index(curve, table["log_loss"].to_numpy())]
    predicted = np.stack([fit.predicted for fit in fits], axis=1)  # [n, layers, C or 1]
    if len(questions.classes):
        baseline = majority_accuracy(questions.truth)
        resampled = resamples.means(predicted.argmax(axis=2) == questions.truth[:, None])
    else:
        baseline = 0.0
        resampled = resampled_r2(questions.truth, predicted[..., 0], resamples)
    depths = concept_depth(
        curve, resampled, table["layer"].to_list(), table["depth"].to_list(), baseline
    )
    if metric != "accuracy":  # Jin et al. define theirs for accuracies.
        depths = {name: value for name, value in depths.items() if "rise" in name}
    return {
        "n_examples": int(peak["n_examples"]),
        "peak_layer": int(peak["layer"]),
        f"peak_{metric}": float(peak[metric]),
        **depths,
    }


def _predictions(
    layers: Sequence[int],
    fits: Sequence[LayerFit],
    labels: np.ndarray,
    questions: Questions,
    names: Mapping[str, str],
) -> pd.DataFrame:
    n_layers, rows = len(layers), np.flatnonzero(questions.scored)
    n = len(rows)
    values = np.stack([fit.predicted for fit in fits])  # [layers, n, C or 1]
    if len(questions.classes):
        predicted = questions.classes.astype(str)[values.argmax(axis=2)]
        score = values[..., 1] if values.shape[2] == 2 else values.max(axis=2)
    else:
        score = values[..., 0]
        predicted = score.astype(str)
    return pd.DataFrame(
        {
            "model": names["model"],
            "dataset": names["dataset"],
            "layer": np.repeat(layers, n),
            "example": np.tile(rows, n_layers),
            "fold": np.tile(questions.fold_of[rows], n_layers),
            # As text, so that tables of datasets with different kinds of labels go together.
            "label": np.tile(labels[rows].astype(str), n_layers),
            "predicted": predicted.ravel(),
            "score": score.ravel(),
        }
    )


def _with_intervals(*metrics: str) -> list[str]:
    return [f"{metric}{end}" for metric in metrics for end in ("", "_low", "_high")]


RESULT_COLUMNS = [
    "model", "dataset", "site", "position", "layer", "depth", "probe", "n_examples", "n_classes",
    "n_groups", "l2", "accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "f1",
    "auroc", "log_loss", "majority_accuracy", "control_accuracy", "selectivity", "p_value",
    "balanced_accuracy_low", "balanced_accuracy_high", "f1_low", "f1_high", "auroc_low",
    "auroc_high", "log_loss_low", "log_loss_high", *_with_intervals("brier", "ece"),
    "code_length", "compression", "random_weights_accuracy",
    *_with_intervals("r2", "rank_correlation", "mean_absolute_error"), "control_r2",
]  # fmt: skip

SUMMARY_COLUMNS = [
    "model", "parameters", "layers", "hidden_size", "dataset", "n_examples", "peak_layer",
    "peak_accuracy", "peak_p_value", "converging_layer", "jump_layer", "converging_depth",
    "jump_depth", "majority_accuracy", "bag_of_words_accuracy", "random_weights_accuracy",
    "seconds_extract", "seconds_probe", "tokens", "unique_tokens",
    *(f"{name}{end}" for name in ("converging_layer", "jump_layer", "converging_depth",
      "jump_depth") for end in ("_low", "_high")),
    *_with_intervals("half_rise_depth", "full_rise_depth"), "peak_r2", "bag_of_words_r2",
    "random_weights_r2",
]  # fmt: skip

_KEPT_SCORES = [
    *_with_intervals("accuracy", "auroc", "r2"), "log_loss", "control_accuracy", "p_value",
]  # fmt: skip
