"""What two curves of the same examples differ by, and how sure that is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, norm

from llmprobe.config.schema import ProbeConfig
from llmprobe.probing.protocol import probe_layers
from llmprobe.results.columns import DIFFERENCES
from llmprobe.results.depth import above_half
from llmprobe.results.differences import (
    difference_interval,
    differences,
    sign_flip_p_value,
)
from llmprobe.results.intervals import unit_interval
from llmprobe.results.resampling import Resamples
from llmprobe.results.results import Results

BARE = ProbeConfig(
    l2=1.0, folds=3, controls=(), permutations=0, description_length=False, device="cpu"
)
N, SIZE = 60, 3
"""Examples, and how many of them are a group."""
Tables = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]


def compared(
    table: pd.DataFrame,
    summary: pd.DataFrame,
    predictions: pd.DataFrame,
    examples: pd.DataFrame,
    wordings: dict[str, str] | None = None,
) -> pd.DataFrame:
    return differences(Results(table, summary, predictions, examples=examples), wordings)


def groups(n: int = N) -> np.ndarray:
    return np.array([f"group {i // SIZE}" for i in range(n)])


def probed(model: str, dataset: str, signal: float, seed: int, numbers: bool = False):
    """Five layers, of which the later ones know more of the label, the more signal there is."""
    rng = np.random.default_rng(seed)
    y = np.random.default_rng(0).normal(size=N // SIZE)[np.arange(N) // SIZE].round(3)
    labels = y if numbers else (y > np.median(y)).astype(int)
    layers = {
        layer: rng.normal(size=(N, 3)) + signal * layer * y[:, None] / 4 for layer in range(5)
    }
    config = BARE.model_copy(update={"kind": "ridge"}) if numbers else BARE
    return probe_layers(
        layers, labels, groups(), model=model, dataset=dataset, config=config, progress=False
    )


def tables(*parts: Results, texts: dict[str, list[str]] | None = None) -> Tables:
    """Those of all parts, and the examples of their datasets."""
    found = Results.concatenate(parts)
    datasets = dict.fromkeys(found.summary["dataset"])
    examples = [
        pd.DataFrame(
            {
                "dataset": dataset,
                "example": np.arange(N),
                "text": (texts or {}).get(dataset) or [f"{dataset}: {i}" for i in range(N)],
                "group": groups(),
            }
        )
        for dataset in datasets
    ]
    return found.table, found.summary, found.predictions, pd.concat(examples)


@pytest.fixture(scope="module")
def two_models() -> Tables:
    return tables(probed("small", "cities", 0.8, 1), probed("large", "cities", 1.6, 2))


def right_at_best(two: Tables, model: str) -> np.ndarray:
    """Is each example's answer right at the best layer. [n]"""
    _, summary, predictions, _ = two
    best = summary.set_index("model").loc[model, "peak_layer"]
    rows = predictions[(predictions["model"] == model) & (predictions["layer"] == best)]
    rows = rows.sort_values("example")
    return (rows["label"] == rows["predicted"]).to_numpy()


def test_a_row_counts_what_one_gets_right_and_the_other_does_not(two_models: Tables) -> None:
    _, summary, _, _ = two_models
    found = compared(*two_models)
    assert list(found.columns) == list(DIFFERENCES)
    (row,) = found.to_dict("records")
    a, b = (right_at_best(two_models, model) for model in ("small", "large"))
    assert (row["model_a"], row["dataset_a"]) == ("small", "cities")
    assert (row["model_b"], row["dataset_b"]) == ("large", "cities")
    assert row["n_examples"] == N
    assert (row["accuracy_a"], row["accuracy_b"]) == pytest.approx((a.mean(), b.mean()))
    assert row["difference"] == pytest.approx(b.mean() - a.mean())
    assert (row["only_a"], row["only_b"]) == ((a & ~b).sum(), (b & ~a).sum())
    assert row["agreement"] == pytest.approx((a == b).mean())
    assert [row["stays_above_half_depth_a"], row["stays_above_half_depth_b"]] == list(
        summary["stays_above_half_depth"]
    )
    assert (
        row["stays_above_half_depth_difference"]
        == row["stays_above_half_depth_b"] - row["stays_above_half_depth_a"]
    )
    assert row["difference_low"] < row["difference"] < row["difference_high"]


def test_both_curves_are_resampled_alike_and_by_group(two_models: Tables) -> None:
    """The interval is narrower by what the two have in common, which these resamples show."""
    results, summary, predictions, _ = two_models
    resamples = Resamples(N, groups())
    estimates, depths, resampled, resampled_depths = [], [], [], []
    for row in summary.to_dict("records"):
        layers = results[results["model"] == row["model"]].set_index("layer")
        best = layers.loc[row["peak_layer"]]
        estimates.append((best["accuracy"], best["accuracy_low"], best["accuracy_high"]))
        depths.append([row[f"stays_above_half_depth{end}"] for end in ("", "_low", "_high")])
        own = predictions[predictions["model"] == row["model"]].assign(
            right=lambda rows: rows["label"] == rows["predicted"]
        )
        right = own.pivot_table(index="example", columns="layer", values="right")
        curves = resamples.means(right.to_numpy())
        resampled.append(curves[:, row["peak_layer"]])
        resampled_depths.append(
            above_half(curves, layers["depth"].to_numpy(), 0.5, row["peak_layer"])[0]
        )
    (found,) = compared(*two_models).to_dict("records")
    for name, (a, b), both in (
        ("difference", estimates, resampled),
        ("stays_above_half_depth_difference", depths, resampled_depths),
    ):
        expected = difference_interval(tuple(a), tuple(b), *both)
        apart = difference_interval(tuple(a), tuple(b), both[0], both[1][::-1])
        assert expected != pytest.approx(apart, abs=1e-3)
        assert [found[f"{name}_low"], found[f"{name}_high"]] == pytest.approx(expected, abs=1e-6)


def test_groups_and_equal_texts_are_flipped_as_a_whole(two_models: Tables) -> None:
    a, b = (right_at_best(two_models, model).astype(int) for model in ("small", "large"))
    gains = np.bincount(np.arange(N) // SIZE, b - a).astype(int)
    (found,) = compared(*two_models)["p_value"]
    assert found == sign_flip_p_value(gains)
    assert found != sign_flip_p_value(b - a)

    *measured, examples = two_models
    without = examples.assign(group=None)
    (single,) = compared(*measured, without)["p_value"]
    assert single == sign_flip_p_value(b - a)
    of_text = examples.assign(group=None, text=[f"text {i // SIZE}" for i in range(N)])
    (by_text,) = compared(*measured, of_text)["p_value"]
    assert by_text == found


def test_swapping_the_models_swaps_the_signs(two_models: Tables) -> None:
    results, summary, predictions, examples = two_models
    (one,) = compared(*two_models).to_dict("records")
    (other,) = compared(results, summary[::-1], predictions, examples).to_dict("records")
    for name in ("model", "peak_layer", "accuracy", "stays_above_half_depth", "only"):
        assert one[f"{name}_a"] == other[f"{name}_b"]
        assert one[f"{name}_b"] == other[f"{name}_a"]
    for name in ("difference", "stays_above_half_depth_difference"):
        assert one[name] == -other[name]
        assert one[f"{name}_low"] == pytest.approx(-other[f"{name}_high"])
        assert one[f"{name}_high"] == pytest.approx(-other[f"{name}_low"])
    assert (one["p_value"], one["agreement"]) == (other["p_value"], other["agreement"])


def test_the_order_of_rows_says_nothing(two_models: Tables) -> None:
    results, summary, predictions, examples = two_models
    shuffled = [table.sample(frac=1, random_state=0) for table in (results, predictions, examples)]
    found = compared(shuffled[0], summary, *shuffled[1:])
    pd.testing.assert_frame_equal(found, compared(*two_models))


def test_pairs_come_in_the_order_of_the_table() -> None:
    parts = [
        probed(model, dataset, 1.0, seed)
        for seed, (model, dataset) in enumerate(product("abc", ("cities", "rivers")))
    ]
    found = compared(*tables(*parts))
    pairs = [f"{row.dataset_a} {row.model_a}{row.model_b}" for row in found.itertuples()]
    assert pairs == [
        f"{name} {pair}" for name in ("cities", "rivers") for pair in ("ab", "ac", "bc")
    ]
    assert (found["dataset_a"] == found["dataset_b"]).all()


def test_wordings_of_the_same_examples_are_compared_within_a_model() -> None:
    parts = [
        probed(model, dataset, 1.0, seed)
        for seed, (model, dataset) in enumerate(product("ab", ("cities", "typos")))
    ]
    found = compared(*tables(*parts), wordings={"typos": "cities"})
    pairs = [tuple(row) for row in found[["model_a", "dataset_a", "model_b", "dataset_b"]].values]
    assert sorted(pairs) == [
        ("a", "cities", "a", "typos"), ("a", "cities", "b", "cities"),
        ("a", "typos", "b", "typos"), ("b", "cities", "b", "typos"),
    ]  # fmt: skip


def test_what_belongs_together_in_either_wording_stays_together() -> None:
    parts = [probed("a", dataset, 1.0, seed) for seed, dataset in enumerate(("cities", "typos"))]
    texts = {"typos": [f"text {i // 15}" for i in range(N)]}
    found = compared(*tables(*parts, texts=texts), wordings={"typos": "cities"})
    coarse = tables(*parts)
    coarse[3]["group"] = [f"group {i // 15}" for i in range(N)] * 2
    expected = compared(*coarse, wordings={"typos": "cities"})
    pd.testing.assert_frame_equal(found, expected)


def test_curves_of_other_examples_or_labels_are_not_compared(two_models: Tables) -> None:
    results, summary, predictions, examples = two_models
    small = predictions["model"] == "small"
    fewer = predictions[~small | (predictions["example"] > 0)]
    relabelled = predictions.assign(
        label=predictions["label"].mask(small & (predictions["example"] == 7), "2")
    )
    for changed in (fewer, relabelled, predictions[small]):
        assert compared(results, summary, changed, examples).empty
    assert compared(*two_models[:3], examples[examples["dataset"] == "other"]).empty


def test_a_curve_whose_tables_do_not_have_the_same_layers_is_not_compared(
    two_models: Tables,
) -> None:
    results, summary, predictions, examples = two_models
    fewer = [table[table["layer"] > 0] for table in (results, predictions)]
    assert compared(fewer[0], summary, predictions, examples).empty
    assert compared(results, summary, fewer[1], examples).empty
    assert len(compared(fewer[0], summary, fewer[1], examples)) == 1


def test_of_labels_that_are_numbers_r2_is_compared() -> None:
    given = tables(
        probed("small", "sizes", 0.5, 1, numbers=True),
        probed("large", "sizes", 1.5, 2, numbers=True),
    )
    (row,) = compared(*given).to_dict("records")
    assert [row["r2_a"], row["r2_b"]] == given[1]["peak_r2"].to_list()
    assert row["difference"] == row["r2_b"] - row["r2_a"]
    assert 0 < row["difference_low"] < row["difference"] < row["difference_high"]
    assert row["p_value"] < 0.05
    assert np.isnan([row["accuracy_a"], row["agreement"], row["only_a"], row["only_b"]]).all()


def test_identical_predictions_of_numbers_do_not_differ() -> None:
    parts = [probed(model, "sizes", 1.0, 1, numbers=True) for model in "ab"]
    (row,) = compared(*tables(*parts)).to_dict("records")
    assert (row["difference"], row["p_value"]) == (0, 1)


def brute_force(gains: np.ndarray) -> float:
    signs = np.array(list(product((-1, 1), repeat=len(gains))))
    return float((np.abs(signs @ gains) >= abs(gains.sum())).mean())


def test_p_of_labels_that_are_numbers_is_of_the_gain_in_squared_error() -> None:
    parts = [probed(model, "sizes", 1.0, seed, numbers=True) for seed, model in enumerate("ab")]
    results, summary, predictions, examples = tables(*parts)
    examples["group"] = [f"group {i // 6}" for i in range(N)]
    (row,) = compared(results, summary, predictions, examples).to_dict("records")
    errors = []
    for model, layer in zip("ab", summary["peak_layer"], strict=True):
        rows = predictions[(predictions["model"] == model) & (predictions["layer"] == layer)]
        errors.append((rows["score"] - rows["label"].astype(float)).to_numpy() ** 2)
    gains = (errors[0] - errors[1]).reshape(-1, 6).sum(axis=1)
    assert row["p_value"] == pytest.approx(brute_force(gains), abs=0.004)
    assert 0.01 < row["p_value"] < 0.99


@pytest.mark.parametrize("flat", [0, 1])
def test_what_does_not_rise_has_no_difference_of_depth(two_models: Tables, flat: int) -> None:
    results, summary, predictions, examples = two_models
    for p, there in ((0.01, True), (np.nan, True), (0.3, False)):
        tested = summary.assign(peak_p_value=0.01, permutations=100)
        tested.loc[flat, "peak_p_value"] = p
        (row,) = compared(results, tested, predictions, examples).to_dict("records")
        for end in ("", "_low", "_high"):
            assert np.isfinite(row[f"stays_above_half_depth_difference{end}"]) == there
        assert np.isfinite([row["stays_above_half_depth_a"], row["difference_low"]]).all()


@pytest.mark.parametrize(
    "gains",
    [[], [0, 0], [1], [-1], [3, 3, 3, 3], [1, -1], [2, 0, -1, 3, 1, 1], [-4, -1, -1, 2, 0, -3, -5]],
)
def test_p_is_the_share_of_sign_flips_that_go_as_far(gains: list[int]) -> None:
    assert sign_flip_p_value(np.array(gains, int)) == pytest.approx(
        brute_force(np.array(gains, int)) if gains else 1.0
    )


@pytest.mark.parametrize(("losses", "wins"), [(0, 5), (3, 9), (7, 7), (40, 90), (0, 1100)])
def test_p_of_single_examples_is_mcnemars(losses: int, wins: int) -> None:
    gains = np.repeat([-1, 0, 1], [losses, 20, wins])
    assert sign_flip_p_value(gains) == pytest.approx(binomtest(wins, losses + wins).pvalue)


def paired(
    rng: np.random.Generator, accuracies: tuple[float, float], group_of: np.ndarray, shared: float
) -> np.ndarray:
    """Right or wrong of each example under two models, alike within a group and between models."""
    n_groups, n = group_of.max() + 1, len(group_of)

    def noise(columns: int) -> np.ndarray:
        return (
            rng.normal(size=(n_groups, columns))[group_of] + rng.normal(size=(n, columns))
        ) / 2**0.5

    return shared**0.5 * noise(1) + (1 - shared) ** 0.5 * noise(2) < norm.ppf(accuracies)


@pytest.mark.parametrize("shared", [0.1, 0.7])
@pytest.mark.parametrize("size", [1, 3])
def test_p_is_uniform_where_two_models_do_not_differ(size: int, shared: float) -> None:
    group_of = np.arange(300) // size
    found = []
    for seed in range(1000):
        right = paired(np.random.default_rng(seed), (0.8, 0.8), group_of, shared).astype(int)
        gains = np.bincount(group_of, right[:, 1] - right[:, 0]).astype(int)
        found.append(sign_flip_p_value(gains))
    for level in (0.05, 0.2, 0.5):
        # Its values are discrete, so that it is at or below a level a little too seldom.
        assert 0.7 * level - 0.01 <= (np.array(found) <= level).mean() <= level + 0.02


@pytest.mark.parametrize("accuracies", [(0.6, 0.7), (0.9, 0.9), (0.97, 0.99)])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("shared", [0.1, 0.7])
def test_an_interval_covers_the_difference_in_95_percent(
    accuracies: tuple[float, float], size: int, shared: float
) -> None:
    n = 240
    group_of = np.arange(n) // size
    covered = []
    for seed in range(400):
        right = paired(np.random.default_rng(seed), accuracies, group_of, shared)
        resamples = Resamples(n, group_of, seed, samples=500)
        resampled = resamples.means(right).astype(float)
        ends = [
            (p, *unit_interval(p, variance, resamples.effective_size()))
            for p, variance in zip(right.mean(axis=0), resampled.var(axis=0), strict=True)
        ]
        low, high = difference_interval(*ends, *resampled.T)
        covered.append(low <= accuracies[1] - accuracies[0] <= high)
    assert 0.92 <= np.mean(covered) <= 0.99


def test_two_perfect_curves_may_still_differ() -> None:
    always = np.ones(100)
    found = difference_interval((1.0, 0.97, 1.0), (1.0, 0.97, 1.0), always, always)
    assert found == pytest.approx((-0.03, 0.03))


def test_an_interval_is_narrower_the_more_two_curves_have_in_common() -> None:
    rng = np.random.default_rng(0)
    a, b = (0.7, 0.6, 0.8), (0.8, 0.7, 0.9)
    common, own = rng.normal(size=(2, 10_000))
    for own_share, half in ((0.0, 0.0), (1.0, 0.1), (np.inf, 0.02**0.5)):
        other = own if own_share == np.inf else common + own_share * 3**0.5 * own
        low, high = difference_interval(a, b, common, other)
        assert (low, high) == pytest.approx((0.1 - half, 0.1 + half), abs=0.003)


def test_resamples_without_a_value_do_not_count() -> None:
    a, b, common = (0.7, 0.6, 0.8), (0.8, 0.7, 0.9), np.random.default_rng(0).normal(size=100)
    gaps = common.copy()
    gaps[::3] = np.nan
    assert difference_interval(a, b, gaps, common) == pytest.approx((0.1, 0.1))
    nothing = np.full(100, np.nan)
    assert difference_interval(a, b, nothing, common) == pytest.approx(
        (0.1 - 0.02**0.5, 0.1 + 0.02**0.5)
    )
