"""The protocol: folds, a probe per layer, scores with intervals, controls and baselines."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from llmprobe.config.schema import ProbeConfig
from llmprobe.datasets.groups import group_indices, units
from llmprobe.ground.errors import UserError
from llmprobe.models.devices import resolve_device
from llmprobe.probing import tables
from llmprobe.probing.layer import LayerFit, probe_layer
from llmprobe.probing.multi_layer import layers_together, probe_multi_layer
from llmprobe.probing.pooling import Pooling, config_of_pooling
from llmprobe.probing.tasks import ProbingTasks, build_tasks
from llmprobe.probing.token_probes import probe_tokens
from llmprobe.probing.workers import Arrays, DatasetStates, States, each_layer
from llmprobe.results.columns import columns_of
from llmprobe.results.metrics import METRICS, Predictions, score
from llmprobe.results.operating import OperatingPoints, from_held_out, from_set_aside
from llmprobe.results.predictions import first_repeat
from llmprobe.results.resampling import Resamples
from llmprobe.results.results import Results
from llmprobe.results.rivals import multi_layer_gain, rival_columns
from llmprobe.results.saved_probe import HOW_READ, READ_WITH, GoldenExample, SavedProbe

log = logging.getLogger(__name__)

FitLayer = Callable[[np.ndarray, ProbingTasks, torch.device], LayerFit]
"""A function that fits probes on the states of a layer."""

KEPT_SCORES = (
    *(f"{metric}{end}" for metric in ("accuracy", "auroc", "r2") for end in ("", "_low", "_high")),
    *("log_loss", "skill", "control_accuracy", "p_value"),
)
"""The columns of the results that a saved probe keeps."""


def probe(
    activations: DatasetStates,
    config: ProbeConfig | None = None,
    *,
    encoded: np.ndarray | None = None,
    perplexity: np.ndarray | None = None,
    progress: bool = True,
) -> Results:
    """Probe every layer of an extraction.

    Parameters
    ----------
    encoded
        For the control ``text_encoder``, the embedding of each text. [n, d], or None
    perplexity
        For the control of that name, the log-perplexity of each text. [n, 1], or None

    Raises
    ------
    UserError
        Too few examples, groups or members of a class for the folds.
    """
    facts, dataset = activations.facts, activations.dataset
    config = config_of_pooling(config or ProbeConfig(), facts["position"])
    fit_layer: FitLayer | None = None
    pooling = Pooling.of(facts["position"])
    if pooling is not None and activations.n_tokens is not None:
        fit_layer = partial(probe_tokens, n_tokens=activations.n_tokens, pooling=pooling)
    results = probe_states(
        activations,
        dataset.labels,
        dataset.units,
        surface=dataset.surface,
        test=dataset.test,
        config=config,
        names={"model": facts["model"], "dataset": dataset.name,
               "site": facts["site"], "position": facts["position"]},
        origin={**{name: facts[name] for name in (*HOW_READ, *READ_WITH) if name in facts},
                "template": dataset.filled, "perturbation": dataset.perturbation,
                "dataset_sha256": dataset.content_hash, "real_tokens": True},
        embeddings={"token_embeddings": activations.token_embeddings, "text_encoder": encoded,
                    "perplexity": perplexity},
        blocks=facts.get("layers"),
        control_of=None if dataset.words is None else np.array(dataset.surface),
        progress=progress,
        fit_layer=fit_layer,
    )  # fmt: skip
    probes = tuple(_with_golden(one, activations) for one in results.probes)
    results = replace(results, probes=probes)
    results.summary["parameters"] = facts["parameters"]
    results.summary["hidden_size"] = facts["hidden_size"]
    results.summary["seconds_extract"] = facts["seconds"]
    results.summary["tokens"] = facts["tokens"]
    results.summary["unique_tokens"] = facts["unique_tokens"]
    return results


def _with_golden(probe: SavedProbe, activations: DatasetStates) -> SavedProbe:
    """Add golden examples: the probe's logits for texts whose token ids the extraction kept."""
    texts, layer = activations.facts.get("golden"), probe.best_layer
    if not texts:
        return probe
    rows = [text["row"] for text in texts]
    states = np.hstack([activations.layer(one)[rows] for one in probe.layers_of(layer)])
    golden = (
        GoldenExample(
            token_ids=tuple(text["token_ids"]),
            positions=tuple(text["positions"]),
            layer=layer,
            logit=tuple(logit) if isinstance(logit, list) else logit,
        )
        for text, logit in zip(texts, probe.decision_function(states).tolist(), strict=True)
    )
    return replace(probe, golden=tuple(golden))


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
) -> Results:
    """Probe activations from anywhere.

    Parameters
    ----------
    layers
        ``{0: X0, 1: X1, …}``, each [n, d]; the largest key counts as the last layer.
    labels
        The class of each row. [n]
    groups
        Rows that share a group never stand on both sides of a split. [n]
    texts
        For the bag-of-words baseline; rows of the same text are kept in one fold. [n]
    test
        True for the rows to score, with probes that are fitted on the others; by default all rows
        are scored, in folds. [n] bool

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
        units(None if groups is None else one_for_each_row("groups", groups, n), texts),
        surface=texts,
        test=test,
        config=config or ProbeConfig(),
        names={"model": model, "dataset": dataset, "site": "", "position": ""},
        origin={},
        progress=progress,
    )


def one_for_each_row(
    name: str, values: Sequence[Any] | np.ndarray, n: int | None = None
) -> np.ndarray:
    """Return labels or groups as an array [n]; raise ``UserError`` if they cannot be one."""
    given: Any = values
    array = np.asarray(given.cpu() if isinstance(given, torch.Tensor) else given)
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
    surface: Sequence[str] | None = None,
    test: Sequence[bool] | np.ndarray | None = None,
    config: ProbeConfig,
    names: Mapping[str, str],
    origin: Mapping[str, Any],
    embeddings: Mapping[str, np.ndarray | None] | None = None,
    blocks: int | None = None,
    control_of: np.ndarray | None = None,
    progress: bool,
    fit_layer: FitLayer | None = None,
) -> Results:
    """Probe layers as ``probe_layers`` does, with states that need not all be in memory.

    Parameters
    ----------
    surface
        The texts that the bag of words reads, and whose lengths are a rival. [n]
    embeddings
        Features of each row that are rivals of the layers, by the name of their control. Each
        [n, d], or None
    blocks
        The number of the model's blocks; by default the number of the last layer.
    control_of
        As for ``build_tasks``.
    fit_layer
        Fits the probes of a layer; by default ``probe_layer``.
    """
    began = time.monotonic()
    layers = states.layers
    blocks = int(layers[-1]) if blocks is None else blocks
    if groups is not None:
        groups = one_for_each_row("groups", groups, len(labels))
    if test is not None:
        test = one_for_each_row("test", test, len(labels))
        if test.dtype != bool:
            raise UserError(f"test: {test.dtype} numbers; expected true or false for each row")
    unit_of = units(groups, None)
    together = layers_together(config.multi_layer, layers)
    tasks = build_tasks(labels, unit_of, config, names["dataset"], test, control_of=control_of)
    if isinstance(states, Arrays) and states.is_constant:
        raise UserError("layers: all rows are the same, in every layer; nothing tells them apart")
    scored = tasks.scored
    of_scored = None if unit_of is None else unit_of[scored]
    resamples = Resamples(len(tasks.truth), of_scored, config.seed)
    from llmprobe.probing.baselines import lengths

    label = f"probing {names['dataset']} in {names['model']}"
    device = _device(config.device)
    fit_layer = fit_layer or partial(probe_layer, keep_logits=bool(together))
    answer = partial(_fit, fit_layer=fit_layer, tasks=tasks, resamples=resamples, device=device)
    answers = each_layer(states, answer, label, progress)
    fits, scores, resampled = zip(*answers, strict=True)
    features = {**(embeddings or {}), "length": None if surface is None else lengths(surface)}
    bare = partial(probe_layer, tasks=tasks.bare, device=device)
    embedded: dict[str, np.ndarray] = {
        rival: each_layer(Arrays({0: X}), bare, label, False)[0].predicted[0]
        for rival, X in features.items()
        if X is not None and rival in config.controls
    }
    for layer, fit in zip(layers, fits, strict=True):
        if fit.unconverged:
            log.warning("%s: layer %d: %d fits did not converge", label, layer, fit.unconverged)
    n_classes = len(tasks.classes)
    table = tables.results_table(layers, fits, scores, tasks, resamples, config, names, blocks)
    metric = tasks.main_metric
    if n_classes and table["auroc"].isna().all():
        log.warning("%s: no AUROC: no fold has examples of both classes", label)
    summary = {
        **names,
        **tables.depths(table, np.stack(resampled), tasks),
        "classes": json.dumps(tasks.classes.astype(str).tolist()) if n_classes else "",
        "main_score": metric,
        "permutations": len(tasks.shuffled),
        "relabellings": tasks.relabellings,
        "repeats": len(tasks.fold_of),
        "layers": blocks,
        "majority_accuracy": tables.majority(tasks, config),
        "peak_p_value": tables.p_values(np.max([fit.skill for fit in fits], axis=0)[None])[0],
        "seconds_probe": round(time.monotonic() - began, 3),
    }
    summary["peak_p_value_adjusted"] = summary["peak_p_value"]
    summary["peak_score"] = summary[f"peak_{metric}"]
    predictions = tables.predictions(layers, fits, labels, tasks, names)
    rivals = tables.surface(tasks, config, surface, unit_of, embedded, names)
    best = first_repeat(predictions)
    best = best[best["layer"] == summary["peak_layer"]]
    classes = tasks.classes.astype(str).tolist()
    summary |= rival_columns(rivals, best, metric, classes, resamples)
    curve = [
        {**names, "layer": layer, "fraction": fraction, tasks.search_metric: value}
        for layer, fit in zip(layers, fits, strict=True)
        for fraction, value in zip(config.learning_curve, fit.learning_curve, strict=True)
    ]
    saved = partial(
        _saved_probe, tasks=tasks, unit_of=unit_of, has_test=test is not None,
        facts={**names, **origin, "kind": config.kind},
    )  # fmt: skip
    kept = saved(layers, fits, table)
    fold0 = replace(
        kept,
        coef={layer: fit.fold0_coef.T for layer, fit in zip(layers, fits, strict=True)},
        intercept={layer: fit.fold0_intercept for layer, fit in zip(layers, fits, strict=True)},
        query={
            layer: fit.fold0_query
            for layer, fit in zip(layers, fits, strict=True)
            if fit.fold0_query is not None
        },
        scores={**kept.scores, "skill": table["skill"].to_list()},
        operating=None,
    )
    if kept.operating is not None:
        if tasks.aside is not None and (missing := kept.operating.missing):
            log.warning("%s: calibrate: %s", label, kept.operating.too_few(missing[0]))
        best_layer = kept.best_layer
        summary |= kept.operating.columns(best_layer, kept.layers.index(best_layer))
    probes: tuple[SavedProbe, ...] = (kept,)
    if together:
        of_together = [fits[layers.index(layer)] for layer in together]
        of_several = probe_multi_layer(states, together, of_together, tasks, device, label)
        fit, deepest = of_several.fit, together[-1]
        if fit.unconverged:
            log.warning("%s: several layers: %d fits did not converge", label, fit.unconverged)
        narrow = tasks.without_refits
        score_of, _ = _scores(fit, narrow, resamples)
        row = tables.results_table(
            [deepest], [fit], [score_of], narrow, resamples, config, names, blocks
        )
        table = pd.concat([table, of_several.named(row, together)], ignore_index=True)
        answers_of = first_repeat(tables.predictions([deepest], [fit], labels, narrow, names))
        multi_layer = saved([deepest], [fit], row, reads={deepest: tuple(together)})
        summary |= of_several.columns(row, multi_layer.operating, together)
        summary |= multi_layer_gain(answers_of, best, metric, classes, resamples)
        probes = kept, multi_layer
    return Results(
        table,
        pd.DataFrame([summary]).reindex(columns=columns_of("summary")),
        predictions,
        pd.DataFrame(curve, columns=columns_of("learning_curve")),
        probes,
        (fold0,),
        rivals,
    )


def _saved_probe(
    layers: Sequence[int],
    fits: Sequence[LayerFit],
    table: pd.DataFrame,
    *,
    tasks: ProbingTasks,
    unit_of: np.ndarray | None,
    has_test: bool,
    facts: Mapping[str, Any],
    reads: Mapping[int, tuple[int, ...]] | None = None,
) -> SavedProbe:
    """Return the saved probe: the kept probe of each layer, with scores and thresholds.

    Parameters
    ----------
    table
        The results, a row for each of the layers.
    reads
        The layers of a multi-layer probe, by the number of the layer that they stand at.
    """
    scores = {name: table[name].to_list() for name in KEPT_SCORES}
    if tasks.aside is not None:  # The best layer is chosen without the rows set aside.
        scores["skill"] = [fit.kept_skill for fit in fits]
    return SavedProbe(
        coef={layer: fit.coef.T for layer, fit in zip(layers, fits, strict=True)},
        intercept={layer: fit.intercept for layer, fit in zip(layers, fits, strict=True)},
        classes=tuple(tasks.classes.tolist()),
        facts=facts,
        scores=scores | {"l2": [fit.kept_l2 for fit in fits]},
        query={
            layer: fit.query
            for layer, fit in zip(layers, fits, strict=True)
            if fit.query is not None
        },
        operating=_operating(fits, tasks, unit_of, has_test=has_test),
        reads=reads or {},
    )


def _operating(
    fits: Sequence[LayerFit], tasks: ProbingTasks, units: np.ndarray | None, has_test: bool
) -> OperatingPoints | None:
    """Return the thresholds, from the scores of negatives; None unless there are two classes."""
    if len(tasks.classes) != 2:
        return None
    group_of = group_indices(units, len(tasks.y))
    if tasks.aside is not None:
        negative = tasks.y[tasks.aside] == 0
        scores = np.stack([fit.aside[:, 1] for fit in fits if fit.aside is not None])
        unit_of = group_of[tasks.aside][negative]
        return from_set_aside(scores[:, negative], unit_of, scores[:, ~negative])
    negative = tasks.truth == 0
    scores = np.stack([fit.predicted[:, negative, 1] for fit in fits])
    unit_of = group_of[tasks.scored][negative]
    return from_held_out(scores, unit_of, "test set" if has_test else "out-of-fold")


def _device(name: str) -> torch.device:
    """Return a device by name; ``auto`` is CUDA if there is such a device, else the CPU.

    Other accelerators lack float64.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = resolve_device(name, "probe.device")
    if device.type == "mps":
        raise UserError("probe.device 'mps' has no float64, which probes need; use auto or cpu")
    return device


def _fit(
    X: np.ndarray,
    fit_layer: FitLayer,
    tasks: ProbingTasks,
    resamples: Resamples,
    device: torch.device,
) -> tuple[LayerFit, dict[str, float], np.ndarray]:
    """Return the fit of one layer, its scores, and the main score in each resample [B]."""
    fit = fit_layer(X, tasks, device)
    return fit, *_scores(fit, tasks, resamples)


def _scores(
    fit: LayerFit, tasks: ProbingTasks, resamples: Resamples
) -> tuple[dict[str, float], np.ndarray]:
    """Return the scores of out-of-fold predictions, and the main score in each resample [B]."""
    repeats = [
        Predictions(tasks.truth, predicted if len(tasks.classes) else predicted[:, 0],
                    resamples, fold_of[tasks.scored])
        for predicted, fold_of in zip(fit.predicted, tasks.fold_of, strict=True)
    ]  # fmt: skip
    return score(repeats), METRICS[tasks.main_metric].resampled(repeats)
