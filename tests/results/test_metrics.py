"""Scores are scikit-learn's, and intervals cover the truth as often as they say."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn import metrics

from llmprobe.results import metrics as own_metrics
from llmprobe.results import resampling
from llmprobe.results.intervals import unit_interval
from llmprobe.results.metrics import (
    METRICS,
    Predictions,
    majority_accuracy,
    rank_correlation,
    score,
)
from llmprobe.results.resampling import Resamples

SCORES = ("accuracy", "balanced_accuracy", "f1", "auroc", "log_loss", "brier", "ece")


def scores(truth: np.ndarray, predicted: np.ndarray, resamples: Resamples) -> dict[str, float]:
    return score([Predictions(truth, predicted, resamples)])


def guesses(n_classes: int, seed: int = 0, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities that know something of them, with ties."""
    rng = np.random.default_rng(seed)
    y = rng.choice(n_classes, n, p=np.arange(1, n_classes + 1) / sum(range(1, n_classes + 1)))
    odds = np.exp(rng.normal(size=(n, n_classes)).round(1) + np.eye(n_classes)[y])
    return y, odds / odds.sum(axis=1, keepdims=True)


def points(y: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    found = scores(y, probabilities, Resamples(len(y), samples=10))
    return {name: found[name] for name in SCORES}


def calibration_error(y: np.ndarray, probabilities: np.ndarray) -> float:
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == y
    bins = np.digitize(confidence, np.linspace(0, 1, 16)[1:-1])
    return sum(
        (bins == b).mean() * abs(right[bins == b].mean() - confidence[bins == b].mean())
        for b in np.unique(bins)
    )


def test_scores_of_two_classes_are_those_of_the_last() -> None:
    y, probabilities = guesses(2)
    p = probabilities[:, 1]
    assert points(y, probabilities) == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(y, p > 0.5),
            "balanced_accuracy": metrics.balanced_accuracy_score(y, p > 0.5),
            "f1": metrics.f1_score(y, p > 0.5, pos_label=1),
            "auroc": metrics.roc_auc_score(y, p),
            "log_loss": metrics.log_loss(y, p),
            "brier": metrics.brier_score_loss(y, p),
            "ece": calibration_error(y, probabilities),
        },
        rel=1e-12,
    )


@pytest.mark.parametrize("n_classes", [3, 6])
def test_scores_of_more_classes_are_macro_averages(n_classes: int) -> None:
    y, probabilities = guesses(n_classes)
    predicted = probabilities.argmax(axis=1)
    brier = metrics.brier_score_loss(y, probabilities, scale_by_half=True)
    assert points(y, probabilities) == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(y, predicted),
            "balanced_accuracy": metrics.balanced_accuracy_score(y, predicted),
            "f1": metrics.f1_score(y, predicted, average="macro"),
            "auroc": metrics.roc_auc_score(y, probabilities, multi_class="ovr"),
            "log_loss": metrics.log_loss(y, probabilities),
            "brier": brier,
            "ece": calibration_error(y, probabilities),
        },
        rel=1e-12,
    )


def test_a_certain_mistake_costs_what_scikit_learn_says() -> None:
    y, probabilities = np.array([0, 1, 1]), np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert points(y, probabilities)["log_loss"] == pytest.approx(metrics.log_loss(y, probabilities))


def test_scores_of_continuous_targets_are_the_fields() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(1e4, 3, 150).round()
    predicted = y + rng.normal(0, 2, 150).round()
    found = scores(y, predicted, Resamples(150))
    ranks = [np.searchsorted(np.sort(v), v) + np.searchsorted(np.sort(v), v, "right") for v in
             (y, predicted)]  # fmt: skip
    assert found["r2"] == pytest.approx(metrics.r2_score(y, predicted))
    assert found["rank_correlation"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert found["mean_absolute_error"] == pytest.approx(np.abs(y - predicted).mean())
    for name in ("r2", "rank_correlation", "mean_absolute_error"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
    assert found["r2_high"] < 1


def test_the_majority_is_the_largest_class() -> None:
    assert majority_accuracy(np.asarray([0, 1, 1, 2, 1])) == 0.6
    assert majority_accuracy(np.asarray([0, 1, 1, 0])) == 0.5


def test_a_resample_draws_as_many_groups_as_there_are() -> None:
    resamples = Resamples(90, np.repeat(np.arange(30), 3), samples=500)
    assert resamples.counts.shape == (30, 500)
    assert (resamples.counts.sum(axis=0) == 30).all()
    assert resamples.counts.mean(axis=1) == pytest.approx(1, abs=0.2)
    assert resamples.counts.var() == pytest.approx(29 / 30, abs=0.05)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_resampled_scores_are_scikit_learns_with_weights(n_classes: int) -> None:
    y, probabilities = guesses(n_classes)
    resamples = Resamples(200, np.arange(200) // 2, samples=40)
    predictions = Predictions(y, probabilities, resamples)
    found = {name: METRICS[name].compute(predictions) for name in SCORES}
    predicted = probabilities.argmax(axis=1)
    average = "binary" if n_classes == 2 else "macro"
    for b in range(40):
        weight = resamples.counts[resamples.group_of, b].astype(float)
        expected = {
            "accuracy": metrics.accuracy_score(y, predicted, sample_weight=weight),
            "balanced_accuracy": metrics.balanced_accuracy_score(
                y, predicted, sample_weight=weight
            ),
            "f1": metrics.f1_score(y, predicted, average=average, sample_weight=weight),
            "log_loss": metrics.log_loss(y, probabilities, sample_weight=weight),
            "brier": metrics.brier_score_loss(
                y, probabilities, sample_weight=weight, scale_by_half=True
            ),
        }
        positives = [y == 1] if n_classes == 2 else [y == k for k in range(n_classes)]
        scores = probabilities.T[1:] if n_classes == 2 else probabilities.T
        expected["auroc"] = np.mean(
            [
                metrics.roc_auc_score(positive, score, sample_weight=weight)
                for positive, score in zip(positives, scores, strict=True)
            ]
        )
        assert {name: found[name][b] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_resampled_rank_correlations_are_those_of_repeated_examples() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=80).round(1)
    predicted = (y + rng.normal(size=80)).round(1)
    resamples = Resamples(80, samples=20)
    found = rank_correlation(Predictions(y, predicted, resamples))
    for b in range(20):
        again = np.repeat(np.arange(80), resamples.counts[:, b])
        assert found[b] == pytest.approx(spearmanr(y[again], predicted[again])[0], rel=1e-5)


def test_the_size_of_a_part_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    y, probabilities = guesses(3)
    groups = np.arange(200) // 3

    def found() -> tuple[Resamples, dict[str, float], dict[str, float]]:
        resamples = Resamples(200, groups, samples=301)
        continuous = scores(probabilities[:, 0], probabilities[:, 1], resamples)
        return resamples, scores(y, probabilities, resamples), continuous

    whole = found()
    monkeypatch.setattr(resampling, "CHUNK", 1999)
    parts = found()
    assert np.array_equal(parts[0].counts, whole[0].counts)
    assert parts[1] == pytest.approx(whole[1], rel=1e-5, nan_ok=True)
    assert parts[2] == pytest.approx(whole[2], rel=1e-5, nan_ok=True)


def test_means_are_each_layers_accuracies() -> None:
    correct = np.random.default_rng(0).random((40, 3)) < 0.7
    resamples = Resamples(40, np.arange(40) // 4, samples=5)
    weights = resamples.counts[resamples.group_of].astype(float)
    assert resamples.means(correct) == pytest.approx(
        (weights.T @ correct) / weights.sum(axis=0)[:, None]
    )


AGREEMENTS = {"wholly": 1.0, "by half": 0.7, "not": 0.0}
SIZES = {"alone": [1], "pairs": [2], "fives": [5], "unequal": [1, 2, 3, 5, 9]}


def coverage(
    sizes: str, n_groups: int, agreement: str, accuracy: float, ignore_groups: bool = False
) -> float:
    """Of 200 data sets, the share whose interval covers the accuracy that they are drawn with."""
    rng = np.random.default_rng([n_groups, round(1e4 * accuracy)])
    group_of = np.repeat(np.arange(n_groups), np.resize(SIZES[sizes], n_groups))
    n, repeats = len(group_of), 200
    together = rng.random((n, repeats)) < AGREEMENTS[agreement]
    by_group, alone = rng.random((n_groups, repeats)), rng.random((n, repeats))
    correct = np.where(together, by_group[group_of], alone) < accuracy
    resamples = Resamples(n, None if ignore_groups else group_of)
    covered = 0
    for estimate, variance in zip(
        correct.mean(axis=0), resamples.means(correct).var(axis=0), strict=True
    ):
        low, high = unit_interval(estimate, variance, resamples.effective_size())
        covered += low <= accuracy <= high
    return covered / repeats


# Single accuracies jump with n (Brown, Cai & DasGupta 2001), so each value is of many.
RANGES = {"middling": np.linspace(0.5, 0.93, 16), "high": np.linspace(0.945, 0.99, 16)}


@pytest.mark.parametrize("accuracies", RANGES)
@pytest.mark.parametrize(
    ("sizes", "n_groups", "agreement"),
    [
        ("alone", 60, "not"),
        ("alone", 200, "not"),
        ("pairs", 40, "wholly"),
        ("pairs", 300, "by half"),
        ("fives", 60, "wholly"),
        ("fives", 40, "by half"),
        ("unequal", 60, "wholly"),
        ("unequal", 60, "by half"),
    ],
)
def test_intervals_cover_the_truth_95_times_in_100(
    sizes: str, n_groups: int, agreement: str, accuracies: str
) -> None:
    covered = [coverage(sizes, n_groups, agreement, a) for a in RANGES[accuracies]]
    assert 0.93 < np.mean(covered) < 0.975


def test_intervals_that_ignore_groups_would_be_too_narrow() -> None:
    assert coverage("fives", 60, "wholly", 0.7) > 0.92
    assert coverage("fives", 60, "wholly", 0.7, ignore_groups=True) < 0.75


def gaussian(
    n_groups: int, distance: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and calibrated probabilities of Gaussian scores, in pairs that are much alike."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), 2)
    y = rng.integers(2, size=n_groups)[groups]
    noise = 0.9 * rng.normal(size=n_groups)[groups] + np.sqrt(0.19) * rng.normal(size=len(y))
    odds = np.exp(distance * (distance * (y - 0.5) + noise))
    return y, np.column_stack([1 / (1 + odds), odds / (1 + odds)]), groups


@pytest.mark.parametrize("distance", [1, 2, 3.3])
def test_other_metrics_intervals_cover_the_truth_too(distance: float) -> None:
    truth = points(*gaussian(200_000, distance, seed=0)[:2])
    assert truth["auroc"] == pytest.approx((1 + math.erf(distance / 2)) / 2, abs=0.003)
    names = ["balanced_accuracy", "f1", "auroc", "brier"]
    if distance < 3:  # a log loss that hangs on the rarest mistakes: see `positive_interval`
        names.append("log_loss")
    resamples = Resamples(120, np.repeat(np.arange(60), 2))
    covered = []
    for seed in range(1, 251):
        y, probabilities, _ = gaussian(60, distance, seed)
        found = scores(y, probabilities, resamples)
        covered.append([found[f"{m}_low"] <= truth[m] <= found[f"{m}_high"] for m in names])
    assert np.mean(covered, axis=0) == pytest.approx(0.955, abs=0.04)


@pytest.mark.parametrize("unexplained", [0.3, 1.0])
def test_intervals_of_continuous_targets_cover_the_truth(unexplained: float) -> None:
    resamples = Resamples(100, np.repeat(np.arange(50), 2))
    r2 = 1 / (1 + unexplained)
    # Of two Gaussian variables with correlation √r2 (Pearson 1907).
    rank_correlation = 6 / np.pi * np.arcsin(np.sqrt(r2) / 2)
    covered = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        known, noise = 0.8 * rng.normal(size=(2, 50))[:, resamples.group_of] + 0.6 * rng.normal(
            size=(2, 100)
        )
        found = scores(known + np.sqrt(unexplained) * noise, known, resamples)
        truth = {"r2": r2, "rank_correlation": rank_correlation,
                 "mean_absolute_error": np.sqrt(2 * unexplained / np.pi)}  # fmt: skip
        covered.append([found[f"{m}_low"] <= v <= found[f"{m}_high"] for m, v in truth.items()])
    assert np.mean(covered, axis=0) == pytest.approx(0.955, abs=0.04)


def test_intervals_without_groups_are_those_of_a_share() -> None:
    y = np.random.default_rng(0).integers(2, size=300)
    right = np.random.default_rng(1).random(300) < 0.7
    found = scores(y, np.eye(2)[np.where(right, y, 1 - y)], Resamples(300))
    half = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / 300)
    assert found["accuracy_high"] - found["accuracy_low"] == pytest.approx(2 * half, rel=0.05)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_classes", [2, 5])
def test_intervals_hold_the_estimate_and_stay_in_range(seed: int, n_classes: int) -> None:
    rng = np.random.default_rng(seed)
    y, probabilities = guesses(n_classes, seed, n=30)
    probabilities = probabilities**seed  # from ignorance to overconfidence
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    found = scores(y, probabilities, Resamples(30, rng.integers(0, 12, 30), seed))
    names = [*SCORES, "partial_auroc", "tpr_at_1_fpr", "tpr_at_01_fpr"]
    assert set(found) == {m + end for m in names for end in ("", "_low", "_high")}
    for name in SCORES:
        assert 0 <= found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
        assert name == "log_loss" or found[f"{name}_high"] <= 1


def test_intervals_of_flawless_predictions_admit_that_there_are_few() -> None:
    y = np.repeat([0, 1], 30)
    found = scores(y, np.eye(2)[y] * 0.98 + 0.01, Resamples(60, np.arange(60) // 2))
    pairs_only = scores(y[::2], np.eye(2)[y[::2]] * 0.98 + 0.01, Resamples(30))
    for name in ("accuracy", "balanced_accuracy", "f1", "auroc"):
        assert (found[name], found[f"{name}_high"]) == (1, 1)
        assert 0.8 < found[f"{name}_low"] < 0.93
        assert found[f"{name}_low"] == pytest.approx(pairs_only[f"{name}_low"])


def test_one_group_says_next_to_nothing() -> None:
    y, probabilities = guesses(2, n=20)
    found = scores(y, probabilities, Resamples(20, np.zeros(20)))
    assert found["accuracy_low"] < 0.01
    assert found["accuracy_high"] > 0.99


def test_a_metric_without_its_classes_is_undefined_and_not_an_error() -> None:
    found = scores(np.zeros(20, int), np.full((20, 2), 0.5), Resamples(20))
    assert np.isnan([found["auroc"], found["auroc_low"], found["auroc_high"]]).all()
    assert found["accuracy"] == 1
    constant = scores(np.arange(20.0), np.zeros(20), Resamples(20))
    assert np.isnan([constant["rank_correlation"], constant["rank_correlation_high"]]).all()
    assert constant["r2"] < 0


def test_a_seed_fixes_the_resamples() -> None:
    groups = np.arange(60) // 2
    counts = Resamples(60, groups, seed=1).counts
    assert np.array_equal(counts, Resamples(60, groups, seed=1).counts)
    assert not np.array_equal(counts, Resamples(60, groups, seed=2).counts)


def test_names_of_groups_do_not_matter() -> None:
    numbers = np.random.default_rng(0).integers(0, 30, 100)
    names = np.random.default_rng(1).permutation([f"city {i}" for i in range(30)])
    numbered, named = Resamples(100, numbers), Resamples(100, names[numbers])
    assert np.array_equal(numbered.counts, named.counts)
    assert np.array_equal(numbered.group_of, named.group_of)
    assert len(set(zip(numbers, numbered.group_of, strict=True))) == len(set(numbers))


def test_groups_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="groups has 3 entries for n = 4 examples"):
        Resamples(4, np.arange(3))


def test_every_metric_has_its_line_in_the_documentation() -> None:
    docs = Path(__file__).parents[2].joinpath("docs", "probing.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| `(\w+)` \| ([^|]+) \| (\w+) \| (yes|no) \| ([^|]+) \| (yes|no) \|$",
                       docs, re.MULTILINE)  # fmt: skip
    said = {"_majority": "of the majority", "_fair_guess": "1 / classes"}
    assert lines == [
        (
            metric.name,
            metric.label,
            metric.target,
            "yes" if metric.interval else "no",
            "–"
            if metric.chance is None
            else said[metric.chance.__name__]
            if callable(metric.chance)
            else f"{metric.chance:g}",
            "yes" if metric.heatmap else "no",
        )
        for metric in METRICS.values()
    ]


@pytest.mark.parametrize("weighted", [False, True])
def test_operating_points_are_those_of_scikit_learns_roc_curve(weighted: bool) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 900)
    p = 1 / (1 + np.exp(-rng.normal(1.5 * y)))
    resamples = Resamples(900, samples=5)
    resamples = resamples if weighted else resamples.once
    predictions = Predictions(y, np.column_stack([1 - p, p]), resamples)
    found = {name: METRICS[name].compute(predictions) for name in ("partial_auroc", "tpr_at_1_fpr")}
    for b in range(resamples.counts.shape[1]):
        weight = resamples.counts[:, b].astype(float)
        there = weight > 0
        truth, scores, weight = y[there], p[there], weight[there]
        fpr, tpr, _ = metrics.roc_curve(truth, scores, sample_weight=weight,
                                        drop_intermediate=False)  # fmt: skip
        area = metrics.roc_auc_score(truth, scores, sample_weight=weight, max_fpr=0.1)
        assert found["partial_auroc"][b] == pytest.approx(area, abs=1e-9)
        assert found["tpr_at_1_fpr"][b] == pytest.approx(tpr[fpr <= 0.01 + 1e-12].max(), abs=1e-9)


def test_positives_that_tie_with_a_negative_too_many_are_not_above_the_threshold() -> None:
    y = np.repeat([0, 1], 400)
    p = np.concatenate([np.repeat([0.1, 0.8], [390, 10]), np.repeat([0.8, 0.9], [300, 100])])
    found = scores(y, np.column_stack([1 - p, p]), Resamples(800))
    assert found["tpr_at_1_fpr"] == 0.25
    assert found["tpr_at_1_fpr_low"] < 0.25 < found["tpr_at_1_fpr_high"]


def test_operating_points_are_ranked_once_for_all_metrics_that_show_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranked, rank = [], own_metrics._at_low_rates
    monkeypatch.setattr(own_metrics, "_at_low_rates", lambda of: ranked.append(of) or rank(of))
    p = np.random.default_rng(0).random(600)
    found = scores(np.tile([0, 1], 300), np.column_stack([1 - p, p]), Resamples(600, samples=20))
    assert np.isfinite([found["partial_auroc"], found["tpr_at_1_fpr"]]).all()
    assert len(ranked) == 2  # Of the examples as they are, and of their resamples.


def test_too_few_negative_units_give_no_operating_point() -> None:
    y = np.tile([0, 1], 400)
    predicted = np.column_stack([1 - 0.9 * y, 0.9 * y])
    alone = scores(y, predicted, Resamples(800, samples=20))
    in_groups = scores(y, predicted, Resamples(800, np.arange(800) // 4, samples=20))
    assert alone["tpr_at_1_fpr"] == in_groups["partial_auroc"] == 1
    assert np.isnan([alone["tpr_at_01_fpr"], in_groups["tpr_at_1_fpr"]]).all()


def test_more_than_two_classes_have_no_operating_point() -> None:
    y, probabilities = guesses(3, n=2000)
    found = scores(y, probabilities, Resamples(2000, samples=5))
    assert np.isnan([found["tpr_at_1_fpr"], found["partial_auroc"]]).all()
