"""What the convnet's probes found: sentences, a table and a figure of their test errors."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from scipy.stats import binomtest  # type: ignore[import-untyped]

from llmprobe.ground.text import listed
from llmprobe.probing.tasks import MOST_CODED
from llmprobe.reporting.charts.style import model_style, styled
from llmprobe.sanity.story import Story, errors, note_at_right

MODELS = ("untrained", "trained")

DIGITS = (
    "These are the digits of 8 × 8 pixels that come with scikit-learn, in a network smaller than "
    "the paper's: what is there offline (for MNIST: --data mnist)."
)

PAPER: Mapping[str, float] = {
    "paper: input": 8.0,
    "paper: untrained, best": 2.0,
    "paper: the network": 0.7,
}
"""Test errors on MNIST in % that Alain & Bengio (2016, section 3.5) report: of a probe on the
input, of the best one on the untrained network, and of the trained network itself."""


def convnet_story(
    results: pd.DataFrame,
    summary: pd.DataFrame,
    predictions: pd.DataFrame,
    *,
    mnist: bool = False,
    digits: bool = False,
) -> Story:
    """From the tables of ``run_convnet``, on MNIST, on scikit-learn's digits, or on neither."""
    caption = (
        "Above: test error of a linear probe after every operation of the network, with its 95 % "
        "interval. Below: the bits (kbit: 1,024) in which linear probes, refitted on the test "
        "labels sent so far, send the next ones (Voita & Titov 2020). Each point is computed from "
        "the one before, so it cannot tell more about the class; what changes is how much of it a "
        "linear classifier can use."
    )
    if mnist:
        caption += " Dotted: what Alain & Bengio (2016) report."
    alt = (
        "Line chart: test error in percent and description length in kilobits over the points of "
        "the network, one line before training and one after it."
    )
    sentences = _findings(results, summary, predictions)
    return Story(
        [DIGITS, *sentences] if digits else sentences,
        {"errors": (convnet_figure(results, summary, mnist), caption, alt)},
    )


def _network_error(summary: pd.DataFrame) -> tuple[float, float, float]:
    """Of the trained network itself, in %, with its interval."""
    row = summary[summary["model"] == "trained"].iloc[0]
    error, low, high = (
        100 * (1 - float(row[f"network_accuracy{end}"])) for end in ("", "_high", "_low")
    )
    return error, low, high


def _findings(results: pd.DataFrame, summary: pd.DataFrame, predictions: pd.DataFrame) -> list[str]:
    table, n = errors(results), int(summary["n_examples"].iloc[0])
    sentences = []
    for model in MODELS:
        rows = table[table["model"] == model].sort_values("layer").to_dict("records")
        least = min(rows, key=lambda row: row["error"])
        at = [f"{row['error']:.2f} % at {row['layer_name']}" for row in (rows[0], least, rows[-1])]
        clear = clear_changes(predictions[predictions["model"] == model])
        steps = {after["layer_name"]: clear[after["layer"]] for after in rows[1:]}
        falls = [name for name, change in steps.items() if change < 0] or ["no point"]
        rises = [name for name, change in steps.items() if change > 0] or ["no point"]
        last = "" if least is rows[-1] else f", and {at[2]}"
        sentences.append(
            f"{model.capitalize()}: the probes' error on {n:,} test images is {at[0]}, at its "
            f"least {at[1]}{last}. From the point before, it clearly falls at {listed(falls)}; it "
            f"clearly rises at {listed(rises)}."
        )
    error, low, high = _network_error(summary)
    return [
        *sentences,
        f"The trained network itself errs on {error:.2f} % [{low:.2f}, {high:.2f}] of all test "
        "images.",
        "Clearly: the images that only one of two neighbouring points gets right differ in number "
        "by an exact test (McNemar 1947), p at most 0.05 divided by the number of steps.",
    ]


def clear_changes(predictions: pd.DataFrame) -> dict[int, int]:
    """Whether the error clearly falls (-1) or rises (1) at each layer after the first, or not (0).

    McNemar's (1947) test, exact, on the examples that one of two neighbouring layers alone gets
    right, with Bonferroni's correction for the number of steps.

    Parameters
    ----------
    predictions
        Of one model: layer, example, label, predicted.
    """
    right = predictions.assign(right=predictions["label"] == predictions["predicted"]).pivot(
        index="example", columns="layer", values="right"
    )
    steps = list(pairwise(sorted(right.columns)))
    found = {}
    for before, after in steps:
        lost = int((right[before] & ~right[after]).sum())
        won = int((~right[before] & right[after]).sum())
        p = binomtest(lost, lost + won).pvalue if lost + won else 1.0
        found[int(after)] = int(np.sign(lost - won)) if p <= 0.05 / len(steps) else 0
    return found


def convnet_text(results: pd.DataFrame, digits: bool = False) -> str:
    """Errors and description lengths of all points, in lines of at most 100 columns."""
    table = errors(results)
    lines = [
        f"{'':<16}" + "  ".join(f"{model:^34}" for model in MODELS),
        f"{'point':<16}" + "  ".join([f"{'test error, %':>22}{'kbit':>12}"] * len(MODELS)),
    ]
    for name, rows in table.groupby("layer_name", sort=False):
        by_model = rows.set_index("model").to_dict("index")
        cells = [
            f"{row['error']:7.2f} [{row['low']:5.2f}, {row['high']:5.2f}]{row['kbit']:12.2f}"
            for row in (by_model[model] for model in MODELS)
        ]
        lines.append(f"{name:<16}" + "  ".join(cells))
    if digits:
        lines += [
            "",
            "scikit-learn's digits, 8 x 8 pixels, in a small network; MNIST: --data mnist",
        ]
    return "\n".join(lines)


@styled
def convnet_figure(results: pd.DataFrame, summary: pd.DataFrame, mnist: bool = False) -> Figure:
    """Test error and description length at each point, before and after training.

    An error of 0 is drawn at half an image. With ``mnist``, dotted lines are what the paper reports
    (``PAPER``).
    """
    table = errors(results)
    least = 50 / float(summary["n_examples"].max())
    table[["error", "low", "high"]] = table[["error", "low", "high"]].clip(lower=least)
    names = list(table["layer_name"].unique())
    figure = Figure(figsize=(6.75, 5.2))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    for index, model in enumerate(MODELS):
        rows = table[table["model"] == model].sort_values("layer")
        style = model_style(index) | {"label": model}
        spread = np.abs(rows[["low", "high"]].to_numpy().T - rows["error"].to_numpy())
        above.errorbar(rows["layer"], rows["error"], spread, capsize=2, **style)
        below.plot(rows["layer"], rows["kbit"], **style)
    own = max(_network_error(summary)[0], least)
    colour = model_style(MODELS.index("trained"))["color"]
    above.axhline(own, color=colour, linewidth=0.8, linestyle="--")
    note_at_right(above, own, f"the network\n{own:.2f} %", colour)
    if mnist:
        _draw_reference(above)
    above.set_yscale("log")
    above.yaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50]))
    above.yaxis.set_minor_locator(NullLocator())
    above.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    above.set_title("test error of a linear probe")
    above.legend(loc="upper center")
    coded = min(int(summary["n_examples"].max()), MOST_CODED)
    below.set_ylabel("kbit")
    below.set_title(f"description length of {coded:,} labels")
    below.set_ylim(bottom=0)
    below.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    return figure


def _draw_reference(ax: Axes) -> None:
    # Where no curve is: the errors start at the first of these and fall below it at once.
    places = ((0.2, 3, "bottom"), (0.01, -2, "top"), (0.01, -2, "top"))
    for (what, value), (x, offset, side) in zip(PAPER.items(), places, strict=True):
        ax.axhline(value, color="#555555", linewidth=0.8, linestyle=":")
        ax.annotate(
            f"{what} {value:g} %",
            (x, value),
            (0, offset),
            ("axes fraction", "data"),
            "offset points",
            va=side,
            fontsize=6.5,
            color="#555555",
        )
