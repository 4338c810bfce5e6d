"""A gap is found where there is one, and directions are counted as they were planted."""

from __future__ import annotations

import numpy as np
import pytest

from llmprobe.config.schema import ProbeConfig
from llmprobe.probing import linearity
from llmprobe.probing.linearity import LinearityGap, linearity_gap, rank, redundancy
from llmprobe.probing.tasks import ProbingTasks, build_tasks

N = 180


def tasks_of(
    y: np.ndarray, units: np.ndarray | None = None, kind: str = "logistic"
) -> ProbingTasks:
    return build_tasks(y, units, ProbeConfig(kind=kind, folds=3).alone(repeats=1), "toy")


def gap_of(X: np.ndarray, y: np.ndarray, null: int = 0, kind: str = "logistic") -> LinearityGap:
    tasks = tasks_of(y, kind=kind)
    return linearity_gap(X.astype(np.float32), tasks, None, features=64, null=null)


def test_xor_has_a_gap_at_its_input_and_none_after_its_two_hidden_neurons() -> None:
    rng = np.random.default_rng(0)
    corners = rng.integers(2, size=(N, 2))
    X, y = corners + 0.15 * rng.normal(size=(N, 2)), corners[:, 0] ^ corners[:, 1]
    at_input = gap_of(X, y, null=3)
    assert at_input.low > 0.3
    assert at_input.p_value == 0.25
    x, z = X.T
    at_hidden = gap_of(np.maximum(np.column_stack([x - z, z - x]), 0), y)
    assert abs(at_hidden.gap) < 0.03
    assert at_hidden.high < 0.05
    assert at_hidden.detectable > 0.3


def test_without_signal_there_is_no_gap_and_with_many_columns_none_could_be_found() -> None:
    rng = np.random.default_rng(1)
    gap = gap_of(rng.normal(size=(N, 60)), rng.integers(2, size=N), null=3)
    assert gap.low < 0.05
    assert gap.p_value > 0.25
    assert abs(gap.detectable) < 0.15


def test_a_product_of_numbers_has_a_gap_in_r2() -> None:
    X = np.random.default_rng(2).normal(size=(N, 2))
    assert gap_of(X, X[:, 0] * X[:, 1], kind="ridge").low > 0.3
    assert abs(gap_of(X, X[:, 0] + X[:, 1], kind="ridge").gap) < 0.02


def rank_of(X: np.ndarray, y: np.ndarray) -> int:
    return rank(X.astype(np.float32), tasks_of(y), None)


def redundancy_of(X: np.ndarray, y: np.ndarray) -> int:
    return redundancy(X.astype(np.float32), tasks_of(y), None)


def copies(noise: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The class in five of twenty columns, each with noise of its own."""
    rng = np.random.default_rng(3)
    y = rng.integers(2, size=N)
    X = rng.normal(size=(N, 20)) * 0.3
    X[:, :5] = (2 * y - 1)[:, None] + rng.normal(size=(N, 5)) * noise
    return X, y


def test_one_direction_in_five_copies_is_of_rank_one_and_no_other_is_as_good() -> None:
    X, y = copies(0.3)
    assert rank_of(X, y) == 1
    assert redundancy_of(X, y) == 1
    # After a rotation they are one direction with more of it, and nothing can tell the two.
    turned = X @ np.linalg.qr(np.random.default_rng(0).normal(size=(20, 20)))[0]
    assert redundancy_of(turned, y) == 1


def test_two_directions_that_are_both_needed_are_of_rank_two_and_no_other_is_as_good() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, N))
    X = rng.normal(size=(N, 20)) * 0.3
    X[:, 0], X[:, 1] = 3 * a, 3 * b
    both, four = (a + b > 0).astype(int), (a > 0).astype(int) + 2 * (b > 0)
    assert rank_of(X, both) == rank_of(X, four) == 2
    assert redundancy_of(X, both) == redundancy_of(X, four) == 1


def test_of_copies_that_are_noisier_some_are_nearly_as_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, y = copies(0.3 * np.array([0.5, 1, 2, 3, 4]))
    monkeypatch.setattr(linearity, "CLOSE", 0.25)
    assert redundancy_of(X, y) >= 2
    monkeypatch.setattr(linearity, "MOST_ERASED", 1)
    assert redundancy_of(X, y) == 1
    assert redundancy_of(np.random.default_rng(0).normal(size=X.shape), y) == 0


def test_a_test_set_is_what_is_scored() -> None:
    rng = np.random.default_rng(5)
    X = rng.normal(size=(N, 2))
    y = ((X[:, 0] > 0) ^ (X[:, 1] > 0)).astype(int)
    test = np.arange(N) % 3 == 0
    tasks = build_tasks(y, None, ProbeConfig(folds=3).alone(repeats=1), "toy", test)
    gap = linearity_gap(X.astype(np.float32), tasks, None, features=64, null=0)
    assert gap.low > 0.2
    assert np.isnan(gap.p_value)
