#!/usr/bin/env python
"""Compare the measured cost of probing with the estimate of a dry run.

    python scripts/bench_dry_run.py                      # made-up states of several shapes
    python scripts/bench_dry_run.py CONFIG [--limit N]   # the datasets and models of a config

Both are processor seconds of one core, at the speed of a matrix product that is measured right
before each, so the ratio also holds on a shared machine. The constants of llmprobe/probing/cost.py
come from this table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

import llmprobe
from llmprobe.config.load import load_config
from llmprobe.config.schema import ProbeConfig
from llmprobe.extraction.extract import Extractor
from llmprobe.probing.cost import probing_seconds

SHAPES: tuple[tuple[int, int, int, dict[str, Any]], ...] = (  # rows, d, classes, options
    (400, 256, 2, {}), (400, 256, 2, {"permutations": 0}), (1500, 576, 2, {}),
    (1500, 576, 2, {"permutations": 0}), (1500, 576, 2, {"kind": "mass_mean"}),
    (4000, 576, 2, {}), (1500, 2048, 2, {}), (1500, 576, 4, {"permutations": 20}),
)  # fmt: skip


def core_speed() -> float:
    """Measure the operations of one core in a processor second, in a float32 matrix product."""
    a, best = torch.ones(1024, 1024), float("inf")
    for _ in range(4):
        began = time.process_time()
        float((a @ a)[0, 0])
        best = min(best, time.process_time() - began)
    return 2 * 1024**3 / best


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Return the processor seconds of ``work``, and the speed of a core right before it."""
    speed, began = core_speed(), time.process_time()
    work()
    return time.process_time() - began, speed


def row(name: str, layers: Mapping[int, np.ndarray], labels: np.ndarray, config: ProbeConfig,
        **beside: object) -> None:  # fmt: skip
    """Print a row of the table."""
    options = config.model_dump(exclude_unset=True) | beside
    taken, speed = measured(
        lambda: llmprobe.probe_layers(layers, labels, progress=False, **options)
    )
    rows, d = next(iter(layers.values())).shape
    classes = len(np.unique(labels))
    # For one layer, since an estimate for several divides them among the cores.
    one = probing_seconds(config, rows, d, 1, classes, speed)
    if "texts" not in beside:
        bare = config.model_copy(update={"controls": tuple(
            c for c in config.controls if c != "bag_of_words")})  # fmt: skip
        one = probing_seconds(bare, rows, d, 1, classes, speed)
    said = len(layers) * one
    print(f"| {name} | {speed / 1e9:.0f} | {taken:.1f} | {said:.1f} | {said / taken:.2f} |",
          flush=True)  # fmt: skip


def main() -> None:
    """Measure the shapes, or the datasets and models of a config."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?")
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| what | Gflop/s of a core | seconds | said | said ÷ taken |\n|---|--:|--:|--:|--:|")
    rng = np.random.default_rng(0)
    llmprobe.probe_layers({0: rng.normal(size=(60, 8))}, np.arange(60) % 2, progress=False)
    if options.config is None:
        for n, d, classes, asked in SHAPES:
            labels = rng.integers(0, classes, n)
            means = 0.5 * rng.normal(size=(classes, d))
            X = rng.normal(size=(n, d)) * np.linspace(2, 0.05, d) + means[labels]
            name = f"{n:,} × {d:,}, {classes} classes, {asked or 'as by default'}"
            row(name, {0: X.astype(np.float32)}, labels, ProbeConfig.model_validate(asked))
        return
    config = load_config(options.config, [], options.limit)
    for model in config.models:
        extractor = Extractor(model, config.extract)
        for entry in config.datasets:
            asked = entry.model_dump(exclude_unset=True)
            dataset = llmprobe.load_dataset(str(asked.pop("name")), **asked)
            states = extractor.extract(dataset)
            # Every fourth layer is enough.
            layers = {layer: states.layer(layer) for layer in states.layers[::4]}
            row(f"{model.name} on {dataset.name}, {len(layers)} layers", layers, dataset.labels,
                config.probe, groups=dataset.groups)  # fmt: skip


if __name__ == "__main__":
    main()
