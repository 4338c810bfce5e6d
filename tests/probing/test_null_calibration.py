"""Where layers know nothing, p-values are uniform and the best layer is seldom "above chance"."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest

from llmprobe.config.schema import ProbeConfig
from llmprobe.probing.layer import probe_layer
from llmprobe.probing.protocol import probe_layers
from llmprobe.probing.tasks import build_tasks
from llmprobe.probing.workers import threads

N, D, SHARED = 90, 20, 0.5
"""Rows and features of the states, and the share of the variance that is a group's."""
DRAWS, LABELLINGS = 4, 20
"""Of each kind so many states, and of each states so many labellings: 480 in all."""
SEED = 0
PERMUTATIONS = 19
"""So that a p-value can be 0.05 exactly, as 1 / 20."""
BARE = ProbeConfig(permutations=PERMUTATIONS, controls=(), description_length=False, device="cpu")
"""The penalty is chosen, as by default; nothing is left out that p-values depend on."""
KINDS = (
    "per row, equal groups",
    "per row, mixed groups",
    "per group, equal groups",
    "per group, mixed groups",
    "per group, geometric groups",
    "one of each in pairs",
)
"""How labels are random, and in what groups."""


def labels(kind: str, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two classes that have nothing to do with any states. [n]"""
    by_group = rng.integers(2, size=groups.max() + 1)[groups]
    if kind.startswith("per row"):
        return rng.integers(2, size=len(groups))
    if kind.startswith("per group"):
        return by_group
    order = np.argsort(groups, kind="stable")
    first = np.empty(len(groups), dtype=int)
    first[order] = np.arange(len(groups)) % 2
    return (first + by_group) % 2


def draw(
    kind: str, rng: np.random.Generator, n: int = N, d: int = D, depth: int = 3
) -> tuple[dict[int, np.ndarray], np.ndarray, np.ndarray]:
    """Layers that resemble the one before, labels that have nothing to do with them, groups.

    Much of the variance is shared in groups, so that shuffling rows, or folds that cut groups,
    would be noticed.
    """
    if "equal" in kind:
        groups = np.arange(n) // 3
    elif "mixed" in kind:
        groups = np.repeat(np.arange(n), rng.integers(1, 6, size=n))[:n]
    elif "geometric" in kind:
        groups = np.repeat(np.arange(n), rng.geometric(1 / 4, size=n))[:n]
    else:
        groups = np.arange(n) // 2
    groups = rng.permutation(groups)

    def states() -> np.ndarray:
        shared = rng.normal(size=(n, d))[groups]
        return SHARED**0.5 * shared + (1 - SHARED) ** 0.5 * rng.normal(size=(n, d))

    layers = {0: states()}
    for layer in range(1, depth):
        layers[layer] = 0.8 * layers[layer - 1] + 0.6 * states()
    layers = {layer: X.astype(np.float32) for layer, X in layers.items()}
    return layers, labels(kind, groups, rng), groups


def exact_p(statistic: np.ndarray) -> float:
    """The share of all labellings, the observed one too, that do as well as the observed.

    [1 + permutations], the observed first.
    """
    return float((statistic >= statistic[0]).mean())


def p_values(kind: str, rng: np.random.Generator) -> np.ndarray:
    """P-values of labellings of the same states, independent given those. [labellings, 2]

    Of the first layer, spread evenly over its step of 1 / 20, and of the best layer.
    """
    layers, _, groups = draw(kind, rng)
    tasks = [build_tasks(labels(kind, groups, rng), groups, BARE, kind) for _ in range(LABELLINGS)]
    # What one labelling gives depends on it alone, so all can be searched at once.
    together = tuple(task for one in tasks for task in (one.observed, *one.shuffled))
    every = replace(tasks[0], inner=(), shuffled=together)
    with threads(1):
        statistics = np.stack([probe_layer(X, every).skill[1:] for X in layers.values()])
    statistics = statistics.reshape(len(layers), LABELLINGS, 1 + PERMUTATIONS)
    first, peak = (
        [exact_p(row) for row in rows] for rows in (statistics[0], statistics.max(axis=0))
    )
    return np.column_stack([first - rng.random(LABELLINGS) / (PERMUTATIONS + 1), peak])


def many(seed: int) -> np.ndarray:
    """Both p-values of every labelling. [kinds × draws × labellings, 2]"""
    rng = np.random.default_rng(seed)
    return np.concatenate([p_values(kind, rng) for kind in KINDS for _ in range(DRAWS)])


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
    layers, y, groups = draw(kind, np.random.default_rng(SEED))
    results = probe_layers(layers, y, groups, config=BARE, progress=False)
    tasks = build_tasks(y, groups, BARE, kind)
    with threads(1):
        statistics = np.stack([probe_layer(X, tasks).skill for X in layers.values()])
    assert results.table["p_value"].to_list() == [exact_p(layer) for layer in statistics]
    assert results.summary["peak_p_value"].item() == exact_p(statistics.max(axis=0))


def test_controls_and_the_online_code_do_not_change_the_p_values() -> None:
    layers, y, groups = draw(KINDS[1], np.random.default_rng(SEED))
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
    layers, y, groups = draw(kind, np.random.default_rng(SEED), n=2 * N)
    layers[1][:, :5] += 2 * y[:, None]
    results = probe_layers(layers, y, groups, config=BARE, progress=False)
    smallest = 1 / (PERMUTATIONS + 1)
    assert results.table["p_value"][1] == smallest
    assert results.summary["peak_p_value"].item() == smallest
    assert results.summary["peak_layer"].item() == 1
