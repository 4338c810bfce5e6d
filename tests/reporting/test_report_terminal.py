"""The table on the terminal fits, tells the truth and survives any name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from io import StringIO
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from rich.text import Text
from synthetic_runs import curve_of

from llmprobe.ground.text import elide
from llmprobe.reporting.terminal import MOST_VERDICTS, NOT_ABOVE, UNCLEAR, sparkline, summary_lines
from llmprobe.results.curve import Curve, curves_of
from llmprobe.results.evidence import evidence_of
from llmprobe.results.questions import MARKS

Tables = tuple[pd.DataFrame, pd.DataFrame]


def summary_table(
    summary: pd.DataFrame, results: pd.DataFrame, models: Any = (), *, unicode: bool = True
) -> str:
    lines = lines_of(curves_of(results, summary), 100, models, unicode=unicode)
    return "\n".join(line.plain for line in lines)


def lines_of(
    curves: Sequence[Curve], width: int = 100, models: Any = (), *, unicode: bool = True
) -> list[Text]:
    evidence = [evidence_of(curve) for curve in curves]
    return summary_lines(curves, evidence, models, width=width, unicode=unicode)


def test_table_holds_the_peaks(two_by_two: Tables) -> None:
    results, summary = two_by_two
    lines = summary_table(summary, results).splitlines()
    for row in summary.to_dict("records"):
        start = lines.index(row["model"])
        (line,) = (line for line in lines[start + 1 : start + 3] if row["dataset"] in line)
        scores = results[
            (results["model"] == row["model"])
            & (results["dataset"] == row["dataset"])
            & (results["layer"] == row["peak_layer"])
        ].iloc[0]
        assert line.split()[1:9] == [
            str(row["n_examples"]),
            f"{row['majority_accuracy']:.2f}",
            f"{row['bag_of_words_accuracy']:.2f}",
            f"{row['peak_accuracy']:.2f}",
            f"[{scores['accuracy_low']:.2f},",
            f"{scores['accuracy_high']:.2f}]",
            f"{row['peak_layer']}/{row['layers']}",
            f"{scores['auroc']:.2f}",
        ]


@pytest.mark.parametrize("unicode", [True, False])
def test_table_fits_in_100_columns(tables: Callable[..., Tables], unicode: bool) -> None:
    models = {"smollm2-135m": 30, "organisation/" + "long-name" * 20: 126}
    datasets = ["capitals", "coin_flip", "a_dataset_with_a_very_long_name_indeed" * 3]
    results, summary = tables(models, datasets)
    notes = [{"name": model, "precision": "4-bit weights " * 20} for model in models]
    table = summary_table(summary, results, notes, unicode=unicode)
    assert max(map(len, table.splitlines())) <= 100


def test_table_is_ascii_where_the_output_is(tables: Callable[..., Tables]) -> None:
    results, summary = tables({"modèle-" + "x" * 120: 30}, ["hauptstädte"])
    assert summary_table(summary, results, unicode=False).isascii()
    assert "hauptstädte" in summary_table(summary, results)


def test_names_cannot_control_the_terminal(tables: Callable[..., Tables]) -> None:
    results, summary = tables({"model\x1b[2J": 3}, ["line\nbreak"])
    table = summary_table(summary, results)
    assert "\x1b" not in table
    assert "model?[2J" in table
    assert "line?break" in table


def test_a_number_that_was_not_asked_for_is_a_dash(two_by_two: Tables) -> None:
    results, summary = two_by_two
    results[["auroc", "accuracy_low", "accuracy_high"]] = np.nan
    summary["bag_of_words_accuracy"] = np.nan
    line = summary_table(summary, results).splitlines()[2].split()
    assert line[3] == "–"
    assert line[6] == "–"
    assert line[4] == f"{summary['peak_accuracy'][0]:.2f}"


def test_without_the_majority_chance_is_that_of_guessing(tables: Callable[..., Tables]) -> None:
    results, summary = tables({"m": 2}, ["d"])
    results["accuracy"] = [0.4, 0.5, 1.0]
    results["majority_accuracy"] = summary["majority_accuracy"] = np.nan
    line = summary_table(summary, results).splitlines()[2].split()
    assert line[2] == "0.50"
    assert line[-1] == "▁▁█"


def colourful(lines: list[Text], width: int, **options: Any) -> str:
    """As a terminal gets it."""
    file = StringIO()
    console = Console(file=file, width=width, force_terminal=True, **options)
    for line in lines:
        console.print(line, soft_wrap=True)
    return file.getvalue()


def test_what_is_not_above_chance_is_marked_in_words(two_by_two: Tables) -> None:
    results, summary = two_by_two
    for row, line in zip([0, 1], summary_table(summary, results).splitlines()[2:4], strict=True):
        unsure = summary["dataset"][row] == "coin_flip"
        assert line.endswith(f"  {UNCLEAR}") is unsure
    few = summary.assign(peak_p_value=0.1)
    marked = summary_table(few, results).count(UNCLEAR)
    assert marked == 4
    few["permutations"] = 9
    assert summary_table(few, results).count(UNCLEAR) < marked
    nothing = results.assign(accuracy_high=0.54)
    table = summary_table(summary.assign(peak_p_value=0.6), nothing)
    assert table.count(f"  {NOT_ABOVE}") == 4
    assert UNCLEAR not in table


def test_few_curves_have_verdicts_and_many_a_column_of_marks(tables: Callable[..., Tables]) -> None:
    for n in (MOST_VERDICTS, MOST_VERDICTS + 1):
        results, summary = tables({"small": 3}, [f"d{number}" for number in range(n)])
        curves = curves_of(results, summary)
        lines = [line.plain for line in lines_of(curves)]
        text = " ".join(" ".join(lines).split())
        verdicts = [f"small on {curve.title}: {evidence_of(curve).line}" for curve in curves]
        assert all((verdict in text) is (n == MOST_VERDICTS) for verdict in verdicts)
        marks = [MARKS[one.answer] for one in evidence_of(curves[0]).questions.values()]
        assert ("".join(marks) in lines[2]) is (n > MOST_VERDICTS)
        assert ("✓ yes, ✗ no, ? unclear" in text) is (n > MOST_VERDICTS)
        assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_terminal_of_any_width_has_whole_lines(tables: Callable[..., Tables], width: int) -> None:
    models = {"smollm2-135m": 30, "organisation/" + "long-name" * 20: 126}
    results, summary = tables(models, ["capitals", "a_dataset_with_a_long_name", "coin_flip"])
    notes = [{"name": model, "precision": "4-bit weights " * 20} for model in models]
    lines = lines_of(curves_of(results, summary), width, notes)
    assert max(line.cell_len for line in lines) <= width
    for row, line in zip(summary.to_dict("records")[:3], lines[2:5], strict=True):
        assert f"{row['peak_accuracy']:.2f} [" in line.plain
        assert f"{row['peak_layer']}/{row['layers']}" in line.plain
    assert UNCLEAR in lines[4].plain
    assert lines[2].plain[-1] in "▁▂▃▄▅▆▇█"


def test_colours_say_nothing_that_words_do_not(two_by_two: Tables) -> None:
    results, summary = two_by_two
    lines = lines_of(curves_of(results, summary))
    coloured = colourful(lines, 100, color_system="truecolor")
    assert "\x1b[38;2;" in coloured
    stripped = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert stripped == summary_table(summary, results) + "\n"
    assert "\x1b[38" not in colourful(lines, 100, color_system="truecolor", no_color=True)
    assert "\x1b" not in colourful(lines, 100, color_system=None)


def test_the_best_model_of_each_dataset_is_bold(two_by_two: Tables) -> None:
    results, summary = two_by_two
    summary["peak_p_value"] = 0.01
    bold = {
        line.plain[span.start : span.end].split()[0]
        for line in lines_of(curves_of(results, summary))
        for span in line.spans
        if span.style == "bold"
    }
    best = summary.groupby("dataset")["peak_accuracy"].max()
    assert {f"{score:.2f}" for score in best} == {text for text in bold if text[0] in "01"}


def test_precision_stands_under_the_table(two_by_two: Tables) -> None:
    results, summary = two_by_two
    models = [{"name": "smollm2-135m", "precision": "4-bit weights (Q4_1), dequantised"}]
    table = summary_table(summary, results, models)
    assert table.splitlines()[-1] == "smollm2-135m: 4-bit weights (Q4_1), dequantised"


@pytest.mark.parametrize(
    ("scores", "chance", "line"),
    [
        ([0.5, 0.75, 1.0], 0.5, "▁▅█"),
        ([0.3, 0.8, 0.9, 1.0], 0.8, "▁▁▅█"),
        ([0.5, np.nan, 1.0], 0.5, "▁ █"),
        ([1.0], 0.5, "█"),
        ([], 0.5, ""),
        ([0.5] * 50 + [1.0] * 50, 0.5, "▁" * 16 + "█" * 16),
    ],
)
def test_sparkline_goes_from_chance_to_one(scores: list[float], chance: float, line: str) -> None:
    assert sparkline(np.array(scores, dtype=float), chance, width=32) == line


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdefgh", 6, "abc…gh"),
        ("abcdefg", 5, "ab…fg"),
        ("abcdefg", 2, "a…"),
        ("abcdefg", 1, "…"),
    ],
)
def test_long_names_keep_both_ends(text: str, width: int, short: str) -> None:
    assert elide(text, width) == short


def test_a_curve_that_words_reach_is_marked_and_words_below_chance_are_named() -> None:
    gains = {"gain_over_bag_of_words_low": -0.01, "gain_over_bag_of_words_high": 0.03}
    reached = curve_of(bag_of_words_accuracy=0.89, **gains)
    inverted = curve_of(dataset="companies", bag_of_words_accuracy=0.2)
    one, other = (
        "\n".join(line.plain for line in lines_of([curve])) for curve in (reached, inverted)
    )
    assert "not above text" in one
    assert "no floor" not in one
    assert "not above text" not in other
    assert "words below chance are no floor: companies" in other
