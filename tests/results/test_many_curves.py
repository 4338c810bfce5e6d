"""P-values of a run allow for how many curves it has, and go on where they are too coarse."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from llmprobe.results.many_curves import more_permutations, with_adjusted_p_values


def run_of(p: list[float], permutations: int | list[int] = 100) -> pd.DataFrame:
    summary = pd.DataFrame({"peak_p_value": p, "permutations": permutations})
    return with_adjusted_p_values(summary)


def test_adjusted_p_values_are_those_of_benjamini_and_hochberg() -> None:
    # Table 1 of the paper: 15 hypotheses, of which the procedure rejects four at 0.05.
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262,
         0.5719, 0.6528, 0.7590, 1.0]  # fmt: skip
    adjusted = run_of(p)["peak_p_value_adjusted"]
    assert (adjusted <= 0.05).tolist() == [True] * 4 + [False] * 11
    assert adjusted[3] == pytest.approx(0.0095 * 15 / 4)


def test_a_curve_without_a_p_value_is_not_counted() -> None:
    adjusted = run_of([0.01, np.nan, 0.04])["peak_p_value_adjusted"]
    assert adjusted.dropna().tolist() == pytest.approx([0.02, 0.04])
    assert run_of([np.nan])["peak_p_value_adjusted"].isna().all()


def test_one_curve_is_not_adjusted_and_does_not_go_on() -> None:
    summary = run_of([1 / 101])
    assert summary["peak_p_value_adjusted"].item() == pytest.approx(1 / 101)
    assert not more_permutations(summary).any()


def test_the_smallest_p_value_goes_on_where_it_is_too_coarse_beside_the_others() -> None:
    summary = run_of([1 / 101, *[0.6] * 27])
    assert more_permutations(summary).tolist() == [400, *[0] * 27]
    summary = run_of([1 / 401, *[0.6] * 27], [400, *[100] * 27])
    assert more_permutations(summary).tolist() == [560, *[0] * 27]  # 20 for each curve
    summary = run_of([1 / 561, *[0.6] * 27], [560, *[100] * 27])
    assert not more_permutations(summary).any()
    assert summary["peak_p_value_adjusted"][0] <= 0.05


def test_nobody_goes_on_after_ten_shuffles_that_did_as_well() -> None:
    assert not more_permutations(run_of([11 / 101, *[0.9] * 9])).any()
    assert more_permutations(run_of([10 / 101, *[0.9] * 9]))[0] == 200


def test_few_shuffles_were_not_meant_to_say_anything() -> None:
    assert not more_permutations(run_of([1 / 10] * 5, 9)).any()
