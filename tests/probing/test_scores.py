"""Scores are scikit-learn's, and intervals cover the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from llmprobe.probing.scores import accuracy_intervals, majority_accuracy, score


def guesses(n_classes: int, seed: int = 0, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities that know something of them."""
    rng = np.random.default_rng(seed)
    y = rng.choice(n_classes, n, p=np.arange(1, n_classes + 1) / sum(range(1, n_classes + 1)))
    odds = np.exp(rng.normal(size=(n, n_classes)) + np.eye(n_classes)[y])
    return y, odds / odds.sum(axis=1, keepdims=True)


def test_scores_of_two_classes_are_those_of_the_last() -> None:
    y, probabilities = guesses(2)
    p = probabilities[:, 1]
    assert score(y, probabilities) == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(y, p > 0.5),
            "balanced_accuracy": metrics.balanced_accuracy_score(y, p > 0.5),
            "f1": metrics.f1_score(y, p > 0.5, pos_label=1),
            "auroc": metrics.roc_auc_score(y, p),
            "log_loss": metrics.log_loss(y, p),
        }
    )


def test_scores_of_three_classes_are_macro_averages() -> None:
    y, probabilities = guesses(3)
    predicted = probabilities.argmax(axis=1)
    found = score(y, probabilities)
    by_class = [metrics.f1_score(y == k, predicted == k) for k in range(3)]
    ranks = [metrics.roc_auc_score(y == k, probabilities[:, k]) for k in range(3)]
    recalls = [(predicted == k)[y == k].mean() for k in range(3)]
    assert found["f1"] == pytest.approx(np.mean(by_class))
    assert found["auroc"] == pytest.approx(np.mean(ranks))
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert found["log_loss"] == pytest.approx(-np.log(probabilities[np.arange(200), y]).mean())


def test_the_majority_is_the_largest_class() -> None:
    assert majority_accuracy(np.asarray([0, 1, 1, 2, 1])) == 0.6
    assert majority_accuracy(np.asarray([0, 1, 1, 0])) == 0.5


def lots(n_groups: int, size: int, repeats: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong with probability 0.7; all of a group together. [n, repeats], groups."""
    rng = np.random.default_rng(seed)
    right = rng.random((n_groups, repeats)) < 0.7
    groups = np.repeat(np.arange(n_groups), size)
    return right[groups], groups


def test_intervals_cover_the_truth_95_times_in_100() -> None:
    correct, groups = lots(n_groups=60, size=5, repeats=400, seed=0)
    low, high = accuracy_intervals(correct, groups)
    assert 0.91 < ((low <= 0.7) & (high >= 0.7)).mean() < 0.98
    low, high = accuracy_intervals(correct, None)
    assert ((low <= 0.7) & (high >= 0.7)).mean() < 0.75  # what ignoring groups would give


def test_intervals_without_groups_are_those_of_a_share() -> None:
    correct, _ = lots(n_groups=300, size=1, repeats=50, seed=1)
    low, high = accuracy_intervals(correct, None)
    share = correct.mean(axis=0)
    half = 1.96 * np.sqrt(share * (1 - share) / 300)
    assert high - low == pytest.approx(2 * half, rel=0.12)


@pytest.mark.parametrize("seed", range(3))
def test_intervals_hold_the_estimate(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 25, 150)
    correct = rng.random((150, 20)) < rng.random(20)
    low, high = accuracy_intervals(correct, groups, seed)
    assert (low <= correct.mean(axis=0)).all()
    assert (correct.mean(axis=0) <= high).all()
    assert (low < high).all()


def test_a_wider_level_is_a_wider_interval_and_a_seed_fixes_both() -> None:
    correct, groups = lots(n_groups=30, size=3, repeats=4, seed=2)
    low, high = accuracy_intervals(correct, groups, seed=1)
    again = accuracy_intervals(correct, groups, seed=1)
    assert (low == again[0]).all()
    assert (high == again[1]).all()
    other = accuracy_intervals(correct, groups, seed=2)
    assert not np.array_equal((low, high), other)
    narrow_low, narrow_high = accuracy_intervals(correct, groups, seed=1, level=0.5)
    assert (narrow_low > low).all()
    assert (narrow_high < high).all()


def test_names_of_groups_do_not_matter() -> None:
    correct, groups = lots(n_groups=30, size=3, repeats=4, seed=2)
    numbered = accuracy_intervals(correct, groups)
    named = accuracy_intervals(correct, np.char.add("city ", np.char.zfill(groups.astype(str), 3)))
    assert np.array_equal(numbered, named)
