"""Run folders for the page: probed from synthetic states, or tables of any size without probing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure
from probes import at

from llmprobe.config.schema import ProbeConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.probing.protocol import probe_layers
from llmprobe.reporting.description import Description
from llmprobe.reporting.page.page import write_report
from llmprobe.results.curve import Curve
from llmprobe.results.folder import examples_of, read_results, write_results
from llmprobe.results.results import Results

MODELS = {"small": 6, "large": 12}
"""Name of a model -> its number of blocks."""
WIDTH = 8
"""Of a synthetic hidden state."""


def states(
    labels: np.ndarray, blocks: int, strength: float = 2.0, seed: int = 0
) -> dict[int, np.ndarray]:
    """Hidden states in which classes come apart from layer to layer. -> layer -> [n, WIDTH]"""
    rng = np.random.default_rng(seed)
    classes, index = np.unique(labels, return_inverse=True)
    centres = rng.normal(size=(len(classes), WIDTH))
    if len(classes) == 2:
        centres[1] = -centres[0]
    noise = rng.normal(size=(len(labels), WIDTH))
    found = {}
    for layer in range(blocks + 1):
        share = strength / (1 + np.exp(-10 * (layer / max(blocks, 1) - 0.5)))
        found[layer] = share * centres[index] + noise + 0.3 * rng.normal(size=noise.shape)
    return found


def probed_run(
    out: Path, models: Mapping[str, int], datasets: Sequence[ConceptDataset], **options: Any
) -> Results:
    """A run of models, given with their number of blocks, as its folder gives it back.

    The last dataset of several is noise; options go to the config's ``probe`` section.
    """
    config = ProbeConfig(**({"folds": 3, "l2": 1.0, "permutations": 20} | options))
    parts = []
    for seed, (model, blocks) in enumerate(models.items()):
        for number, dataset in enumerate(datasets):
            last_of_many = 0 < number == len(datasets) - 1
            results = probe_layers(
                states(dataset.labels, blocks, 0 if last_of_many else 2.0, seed),
                dataset.labels,
                dataset.groups,
                texts=dataset.texts,
                model=model,
                dataset=dataset.name,
                config=config,
                progress=False,
            )
            results.summary["parameters"] = 100_000_000 * (seed + 1)
            parts.append(at(results, "last"))
    names = [one.name for one in datasets]
    results = replace(
        Results.concatenate(parts),
        examples=examples_of(datasets),
        environment=environment([*models], names),
        config=yaml.safe_dump({"name": "trial", "models": [*models], "datasets": names}),
    )
    write_results(out, results)
    return read_results(out)


def results_of(
    table: pd.DataFrame,
    summary: pd.DataFrame,
    predictions: pd.DataFrame | None = None,
    learning_curve: pd.DataFrame | None = None,
) -> Results:
    """The results that tables of one's own are."""
    none = pd.DataFrame()
    return Results(
        table,
        summary,
        none if predictions is None else predictions,
        none if learning_curve is None else learning_curve,
    )


def write_page(path: Path, run: Results, figures: Mapping[str, Figure] | None = None) -> Path:
    """The page of a run, with few figures or none: drawing them all takes longer than a test."""
    command = "llmprobe run trial.yaml"
    return write_report(path, run, figures or {}, Description(title="trial", command=command))


def environment(models: Sequence[str], datasets: Sequence[str]) -> dict[str, Any]:
    """As a run writes it, with a warning about the first dataset."""
    warning = {"level": "warning", "check": "length", "message": "length alone reaches 0.71"}
    return {
        "llmprobe": "0.1.0",
        "python": "3.11.7",
        "models": [{"name": name, "source": name, "licence": "Apache-2.0"} for name in models],
        "datasets": [
            {"name": name, "source": "made", "findings": [] if number else [warning]}
            for number, name in enumerate(datasets)
        ],
    }


def capitals(name: str = "capitals", n: int = 120) -> ConceptDataset:
    """Statements in pairs of a city, which is their group; every other one is right."""
    cities = [f"city {number:03}" for number in range(n // 2)]
    rows = [(city, label) for city in cities for label in (1, 0)]
    return ConceptDataset(
        name,
        [
            f"The capital of country {city[5:]} is {city if label else 'Oslo'}."
            for city, label in rows
        ],
        np.array([label for _, label in rows]),
        np.array([city for city, _ in rows]),
        fields=pd.DataFrame({"continent": ["Asia" if i % 3 else "Africa" for i in range(n)]}),
    )


def curve_of(layers: Mapping[str, Any] | None = None, n_layers: int = 19, **summary: Any) -> Curve:
    """A curve of 0.90 [0.88, 0.92] at layer 13 of 18, with changes to its rows and its summary.

    ``low``, ``score`` and ``chance`` are those of the best layer.
    """
    best = min(13, n_layers - 1)
    score, chance = summary.pop("score", 0.9), summary.pop("chance", 0.5)
    accuracy = np.full(n_layers, min(0.85, score))
    accuracy[best] = score
    low = np.where(np.arange(n_layers) == best, summary.pop("low", score - 0.02), accuracy - 0.02)
    rows = pd.DataFrame({"layer": np.arange(n_layers), "site": "residual"})
    rows = rows.assign(
        depth=rows["layer"] / max(n_layers - 1, 1), accuracy=accuracy, accuracy_low=low,
        accuracy_high=accuracy + 0.02, majority_accuracy=chance, n_classes=2, n_groups=500,
        auroc=0.95, log_loss=0.3,
    ).assign(**(layers or {}))  # fmt: skip
    known = {
        **{"model": "gemma-3-270m", "dataset": "capitals", "position": "last"},
        **{"layers": 18, "peak_layer": best},
        **{"main_score": "accuracy", "peak_score": score, "peak_accuracy": score},
        **{"classes": '["0", "1"]', "bag_of_words_accuracy": 0.51},
    }
    return Curve(rows, known | summary)


def large_run(
    out: Path, models: Mapping[str, int], datasets: int, n: int, n_classes: int = 2
) -> Results:
    """The tables of a run that would take hours to probe."""
    rng = np.random.default_rng(0)
    names = [f"dataset-{number:02}" for number in range(datasets)]
    curves, summary, predictions = [], [], []
    for model, blocks in models.items():
        for name in names:
            curve, row, its = _large_curve(rng, model, name, blocks, n, n_classes)
            curves.append(curve)
            summary.append(row)
            predictions.append(its)
    examples = pd.concat([_large_examples(name, n, n_classes) for name in names])
    return Results(
        pd.concat(curves, ignore_index=True),
        pd.DataFrame(summary),
        pd.concat(predictions, ignore_index=True),
        examples=examples,
        environment=environment([*models], names),
        config=yaml.safe_dump({"models": [*models], "datasets": names}),
        folder=out,
    )


def _large_curve(
    rng: np.random.Generator, model: str, dataset: str, blocks: int, n: int, n_classes: int
) -> tuple[pd.DataFrame, dict[str, Any], pd.DataFrame]:
    layers = np.arange(blocks + 1)
    depth = layers / max(blocks, 1)
    chance = 1 / n_classes
    rise = 1 / (1 + np.exp(-12 * (depth - rng.uniform(0.3, 0.7))))
    accuracy = chance + (0.97 - chance) * rng.uniform(0.3, 1) * rise
    truth = np.arange(n) % n_classes
    settled = np.sort(rng.uniform(size=n))[rng.permutation(n)]
    right = (settled < accuracy[:, None]) | (rng.uniform(size=(len(layers), n)) < 0.02)
    predicted = np.where(right, truth, (truth + 1) % n_classes)
    sure = rng.uniform(0.55, 0.95, size=predicted.shape)
    score = np.where(predicted == n_classes - 1, sure, 1 - sure) if n_classes == 2 else sure
    curve = pd.DataFrame(
        {
            **{"model": model, "dataset": dataset, "site": "residual", "position": "last"},
            **{"layer": layers, "depth": depth, "probe": "logistic", "n_examples": n},
            **{"n_classes": n_classes, "n_groups": n // 2, "l2": 10.0},
            **{"main_score": "accuracy", "permutations": 20},
            **{"accuracy": accuracy, "accuracy_low": accuracy - 0.02},
            **{"accuracy_high": accuracy + 0.02, "balanced_accuracy": accuracy},
            **{"f1": accuracy, "auroc": (accuracy + 1) / 2, "log_loss": 1.2 - accuracy},
            **{"majority_accuracy": chance, "control_accuracy": chance + 0.01},
            **{"selectivity": accuracy - chance - 0.01, "p_value": 0.01},
        }
    )
    peak = int(accuracy.argmax())
    row = {
        **{"model": model, "parameters": 1e8 * (blocks + 1), "layers": blocks, "hidden_size": 576},
        **{"dataset": dataset, "position": "last", "n_examples": n, "peak_layer": peak},
        "peak_p_value": 0.01,
        **{"main_score": "accuracy", "peak_score": accuracy[peak], "permutations": 20},
        "classes": json.dumps([str(label) for label in range(n_classes)]),
        **{"peak_accuracy": accuracy[peak], "converging_layer": peak // 2, "jump_layer": peak // 3},
        **{"converging_depth": 0.4, "jump_depth": 0.3, "stays_above_half_depth": 0.35},
        **{
            "stays_above_half_depth_low": 0.3,
            "stays_above_half_depth_high": 0.4,
            "majority_accuracy": chance,
        },
        **{"bag_of_words_accuracy": chance + 0.05, "random_weights_accuracy": np.nan},
        **{"seconds_extract": 41.2, "seconds_probe": 7.5, "tokens": 12000, "unique_tokens": 3100},
    }
    predictions = pd.DataFrame(
        {
            **{"model": model, "dataset": dataset, "position": "last"},
            "layer": np.repeat(layers, n),
            **{"example": np.tile(np.arange(n), len(layers)), "fold": 0},
            "label": np.tile(truth, len(layers)).astype(str),
            **{"predicted": predicted.ravel().astype(str), "score": score.ravel()},
            "along": ((score - 0.5) * 4 + rng.normal(0, 0.4, score.shape)).ravel(),
            "across": rng.normal(size=score.size),
        }
    )
    return curve, row, predictions


def _large_examples(dataset: str, n: int, n_classes: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    words = "the of capital river answer people under seven market never".split()
    texts = [f"{i} " + " ".join(rng.choice(words, 20)) for i in range(n)]
    return pd.DataFrame(
        {
            **{"dataset": dataset, "example": np.arange(n)},
            "text": [text[:120].ljust(120, ".") for text in texts],
            "label": (np.arange(n) % n_classes).astype(str),
            "group": [f"group {i // 2}" for i in range(n)],
            "fields": [json.dumps({"kind": "easy" if i % 2 else "hard"}) for i in range(n)],
        }
    )
