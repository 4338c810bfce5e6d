"""How curves differ, as the terminal and the page say it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from llmprobe.reporting.page.compared import MOST_ROWS, MOST_SENTENCES, Compared
from llmprobe.reporting.terminal_differences import MOST_ROWS as MOST_LINES
from llmprobe.reporting.terminal_differences import difference_table
from llmprobe.results.columns import DIFFERENCES


def depths(difference: float, low: float, high: float) -> dict[str, float]:
    """By how much of the depth b is later above half of its rise, as it stands in a row."""
    name = "stays_above_half_depth_difference"
    return {name: difference, f"{name}_low": low, f"{name}_high": high}


PAIR: dict[str, Any] = {
    "model_a": "small", "dataset_a": "cities", "model_b": "large", "dataset_b": "cities",
    "accuracy_a": 0.7, "accuracy_b": 0.89, "difference": 0.19, "difference_low": 0.16,
    "difference_high": 0.22, "p_value": 0.0004, "stays_above_half_depth_a": 0.4,
    "stays_above_half_depth_b": 0.25, "agreement": 0.7, "only_a": 17, "only_b": 1746,
    **depths(-0.15, -0.2, -0.1),
}  # fmt: skip
REWORDED = {
    "model_b": "small", "dataset_b": "cities (typos)", "p_value": 0.31,
    **depths(np.nan, np.nan, np.nan),
}  # fmt: skip


def pairs(*changes: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([PAIR | change for change in changes], columns=DIFFERENCES)


def compared(differences: pd.DataFrame) -> Compared:
    differs = {"models": ["small", "large"], "torch": ["", "2.10"]}
    return Compared(differences, {"a": "/runs/a", "b": "/runs/b"}, differs)


def test_lines_say_what_is_common_and_what_differs() -> None:
    lines = difference_table(pairs({}, REWORDED, {"dataset_a": "rivers"})).splitlines()
    header, cities, by_model, small, by_wording, rivers, *_ = lines
    assert header.split()[-3:] == ["above", "half", "from"]
    assert (cities, small, rivers) == ("cities", "small", "rivers")
    assert by_model.split(maxsplit=3)[:3] == ["small", "→", "large"]
    assert "+0.19 [+0.16, +0.22]  <0.001  -0.15 [-0.20, -0.10]" in by_model
    assert by_wording.lstrip().startswith("cities → cities (typos)  +0.19")
    assert by_wording.split()[-2:] == ["0.310", "–"]
    assert len({len(line) for line in (header, by_model, by_wording)}) == 1


def test_a_pair_stands_under_its_name_wherever_it_is_in_the_table() -> None:
    rivers = {"dataset_a": "rivers", "dataset_b": "rivers"}
    lines = difference_table(pairs({}, rivers, {"model_b": "huge"})).splitlines()
    assert [line for line in lines if line in ("cities", "rivers")] == ["cities", "rivers"]
    assert "huge" in lines[3]


def test_without_pairs_there_is_no_table() -> None:
    assert difference_table(pairs()) == ""
    assert compared(pairs()).sentences() == []
    (runs,) = compared(pairs()).tables()
    assert runs.rows == [
        ["folder", "/runs/a", "/runs/b"], ["models", "small", "large"], ["torch", "–", "2.10"],
    ]  # fmt: skip


def test_what_is_too_much_is_counted() -> None:
    many = pairs(*[{"model_b": f"model {i}"} for i in range(MOST_ROWS + 3)])
    text = difference_table(many)
    assert text.count("→ model") == MOST_LINES
    assert f"and {MOST_ROWS + 3 - MOST_LINES} more pairs, in differences.csv" in text
    table, _ = compared(many).tables()
    assert len(table.rows) == MOST_ROWS
    assert table.caption.endswith("; 3 more pairs are in differences.csv")
    assert compared(many).sentences() == []
    assert len(compared(many.head(MOST_SENTENCES)).sentences()) == MOST_SENTENCES


def test_a_sentence_says_the_scores_how_sure_they_differ_and_what_comes_depths() -> None:
    by_model, by_wording, later = compared(
        pairs(
            {},
            REWORDED,
            depths(0.1, 0.05, 0.3) | {"p_value": 0.02},
        )
    ).sentences()  # fmt: skip
    assert by_model == (
        "cities: accuracy 0.89 for large, 0.70 for small: +0.19 [+0.16, +0.22], p < 0.001; "
        "large stays above half of its rise from a depth 0.15 earlier on"
    )
    assert by_wording == (
        "small: accuracy 0.89 for cities (typos), 0.70 for cities: +0.19 [+0.16, +0.22], "
        "p = 0.310, no clear difference"
    )
    assert later.endswith(
        "p = 0.020; large stays above half of its rise from a depth 0.10 later on"
    )


def test_of_labels_that_are_numbers_r2_is_said() -> None:
    numbers = {
        "accuracy_a": np.nan, "accuracy_b": np.nan, "r2_a": 0.2, "r2_b": 0.39,
        "agreement": np.nan, "only_a": np.nan, "only_b": np.nan,
    }  # fmt: skip
    (sentence,) = compared(pairs(numbers)).sentences()
    assert sentence.startswith("cities: R² 0.39 for large, 0.20 for small: +0.19 ")
    assert "R²" in difference_table(pairs(numbers)).splitlines()[0]
    table, _ = compared(pairs(numbers)).tables()
    assert table.rows[0][3:5] == ["0.20 → 0.39", "+0.19 [+0.16, +0.22]"]
    assert table.rows[0][-2:] == ["–", "– and –"]


def test_the_tables_row_has_every_number_of_a_pair() -> None:
    table, _ = compared(pairs({})).tables()
    assert len(table.headers) == len(table.rows[0])
    assert table.rows == [
        [
            "cities", "small", "large", "0.70 → 0.89", "+0.19 [+0.16, +0.22]", "< 0.001",
            "0.40 → 0.25", "-0.15 [-0.20, -0.10]", "0.70", "17 and 1,746",
        ]
    ]  # fmt: skip


def test_of_one_run_there_are_pairs_and_nothing_between_runs() -> None:
    (only,) = Compared(pairs({})).tables()
    assert only.rows[0][1:3] == ["small", "large"]
    assert Compared(pairs()).tables() == []
    assert len(compared(pairs({})).tables()) == 2
