"""Where layers know nothing, p-values are uniform and the best layer is seldom "above chance"."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from scipy.stats import kstest

from llmprobe.config.schema import ProbeConfig
from llmprobe.probing.layer import probe_layer
from llmprobe.probing.protocol import probe_layers
from llmprobe.probing.tasks import build_tasks
from llmprobe.probing.workers import threads

DATASETS = 400
SEED = 0
PERMUTATIONS = 39
"""So that a p-value can be 0.05 exactly, as 2 / 40."""
BARE = ProbeConfig(permutations=PERMUTATIONS, controls=(), description_length=False, device="cpu")
"""The penalty is chosen, as by default; nothing is left out that p-values depend on."""
KINDS = (
    "per row, equal groups",
    "per row, mixed groups",
    "per group, equal groups",
    "per group, mixed groups",
    "one of each in pairs",
)
"""How labels are random, and in what groups."""


def draw(
    kind: str, rng: np.random.Generator, n: int = 300, d: int = 200, depth: int = 3
) -> tuple[dict[int, np.ndarray], np.ndarray, np.ndarray]:
    """Layers that resemble the one before, labels that have nothing to do with them, groups.

    Half of the variance is shared in groups, so that shuffling rows, or folds that cut groups,
    would be noticed.
    """
    if "equal" in kind:
        groups = np.arange(n) // 3
    elif "mixed" in kind:
        groups = np.repeat(np.arange(n), rng.integers(1, 6, size=n))[:n]
    else:
        groups = np.arange(n) // 2

    def states() -> np.ndarray:
        shared = rng.normal(size=(n, d))[groups]
        return shared + rng.normal(size=(n, d))

    layers = {0: states()}
    for layer in range(1, depth):
        layers[layer] = 0.8 * layers[layer - 1] + 0.6 * states()
    if kind.startswith("per row"):
        y = rng.integers(2, size=n)
    elif kind.startswith("per group"):
        y = rng.integers(2, size=n)[groups]
    else:
        y = (np.arange(n) + rng.integers(2, size=n)[groups]) % 2
    order = rng.permutation(n)
    return (
        {layer: X[order].astype(np.float32) for layer, X in layers.items()},
        y[order],
        groups[order],
    )


def exact_p(statistic: np.ndarray) -> float:
    """The share of all labellings, the observed one too, that do as well as the observed.

    [1 + permutations], the observed first.
    """
    return float((statistic >= statistic[0]).mean())


def p_values(seed: int, index: int) -> tuple[float, float]:
    """Of the first layer, spread evenly over its step of 1 / 40, and of the best layer."""
    rng = np.random.default_rng([seed, index])
    kind = KINDS[index % len(KINDS)]
    layers, y, groups = draw(kind, rng)
    tasks = build_tasks(y, groups, BARE, kind)
    with threads(1):
        statistics = np.stack([probe_layer(X, tasks).statistic for X in layers.values()])
    first, peak = exact_p(statistics[0]), exact_p(statistics.max(axis=0))
    return first - rng.random() / (PERMUTATIONS + 1), peak


def many(seed: int, datasets: int = DATASETS) -> np.ndarray:
    """Both p-values of every data set. [datasets, 2]"""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        found = pool.map(p_values, [seed] * datasets, range(datasets), chunksize=10)
        return np.array(list(found))


@pytest.fixture(scope="module")
def null() -> np.ndarray:
    return many(SEED)


def test_p_values_of_a_layer_that_knows_nothing_are_uniform(null: np.ndarray) -> None:
    assert kstest(null[:, 0], "uniform").pvalue > 0.01


def test_the_best_of_several_layers_is_above_chance_by_luck_once_in_twenty(
    null: np.ndarray,
) -> None:
    assert 0.03 <= (null[:, 1] <= 0.05).mean() <= 0.07


@pytest.mark.parametrize("kind", KINDS)
def test_the_tables_p_values_are_those_that_are_calibrated_here(kind: str) -> None:
    layers, y, groups = draw(kind, np.random.default_rng(SEED), n=90, d=30)
    results = probe_layers(layers, y, groups, config=BARE, progress=False)
    tasks = build_tasks(y, groups, BARE, kind)
    with threads(1):
        statistics = np.stack([probe_layer(X, tasks).statistic for X in layers.values()])
    assert results.table["p_value"].to_list() == [exact_p(layer) for layer in statistics]
    assert results.summary["peak_p_value"].item() == exact_p(statistics.max(axis=0))


def test_controls_and_the_online_code_do_not_change_the_p_values() -> None:
    layers, y, groups = draw(KINDS[1], np.random.default_rng(SEED), n=90, d=30)
    full = ProbeConfig(permutations=PERMUTATIONS, learning_curve=(0.5,), device="cpu")
    bare, asked = (
        probe_layers(layers, y, groups, config=config, progress=False) for config in (BARE, full)
    )
    assert asked.table["control_accuracy"].notna().all()
    assert asked.table["p_value"].to_list() == bare.table["p_value"].to_list()
    assert asked.summary["peak_p_value"].item() == bare.summary["peak_p_value"].item()


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_signal_has_the_smallest_p_value_there_is(kind: str) -> None:
    """In one of three layers: it is found in spite of the others."""
    layers, y, groups = draw(kind, np.random.default_rng(SEED))
    layers[1][:, :5] += 2 * y[:, None]
    results = probe_layers(layers, y, groups, config=BARE, progress=False)
    smallest = 1 / (PERMUTATIONS + 1)
    assert results.table["p_value"][1] == smallest
    assert results.summary["peak_p_value"].item() == smallest
    assert results.summary["peak_layer"].item() == 1
