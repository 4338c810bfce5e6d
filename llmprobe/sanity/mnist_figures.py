"""What the convnet's probes found: sentences, a table and a figure of their test errors."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from llmprobe.probing.questions import MOST_CODED
from llmprobe.reporting.figures import COLOURS, styled
from llmprobe.sanity.story import Story, errors, note_at_right

MODELS = ("untrained", "trained")

DIGITS = (
    "These are the digits of 8 × 8 pixels that come with scikit-learn, in a network smaller than "
    "the paper's: what is there offline. `--data mnist` takes MNIST."
)

PAPER: Mapping[str, float] = {
    "paper: input": 8.0,
    "paper: untrained, best": 2.0,
    "paper: the network": 0.7,
}
"""Test errors on MNIST in % that Alain & Bengio (2016, section 3.5) report: of a probe on the
input, of the best one on the untrained network, and of the trained network itself."""


def convnet_story(results: pd.DataFrame, summary: pd.DataFrame) -> Story:
    """From the tables of ``run_convnet``."""
    caption = (
        "Test error of a linear probe after every operation of the network, with its 95 % "
        "interval, and the description length of the labels given the states there. Each point is "
        "a function of the one before, so it cannot hold more information about the class; what "
        "changes is how much of it a linear classifier can use."
    )
    if _is_mnist(summary):
        caption += " Dotted: what Alain & Bengio (2016) report."
    alt = (
        "Line chart: test error in percent and description length in kilobits over the points of "
        "the network, one line before training and one after it."
    )
    figure = convnet_figure(results, summary)
    return Story(_findings(results, summary), {"errors": (figure, caption, alt)}, _text(results))


def _is_mnist(summary: pd.DataFrame) -> bool:
    return bool((summary["dataset"] == "mnist").all())


def _network_error(summary: pd.DataFrame) -> tuple[float, float, float]:
    """Of the trained network itself, in %, with its interval."""
    row = summary[summary["model"] == "trained"].iloc[0]
    error, low, high = (
        100 * (1 - float(row[f"network_accuracy{end}"])) for end in ("", "_high", "_low")
    )
    return error, low, high


def _findings(results: pd.DataFrame, summary: pd.DataFrame) -> list[str]:
    table, n = errors(results), int(summary["n_examples"].iloc[0])
    sentences = [DIGITS] if (summary["dataset"] == "digits").all() else []
    for model in MODELS:
        rows = table[table["model"] == model].sort_values("layer").to_dict("records")
        best = min(rows, key=lambda row: row["error"])
        steps = list(pairwise(rows))
        _, most = max(steps, key=lambda step: step[0]["error"] - step[1]["error"])
        rises = [
            f"{after['layer_name']} ({before['error']:.2f} to {after['error']:.2f} %)"
            for before, after in steps
            if after["low"] > before["error"]
        ]
        clearly = f"clearly rises at {', '.join(rises)}" if rises else "nowhere clearly rises"
        sentences.append(
            f"{model.capitalize()}: the probes' error on {n:,} test images goes from "
            f"{rows[0]['error']:.2f} % at the input to {best['error']:.2f} % at "
            f"{best['layer_name']}; it falls most at {most['layer_name']} and {clearly}."
        )
    error, low, high = _network_error(summary)
    sentences.append(
        f"The trained network itself errs on {error:.2f} % [{low:.2f}, {high:.2f}] of all test "
        "images."
    )
    return sentences


def _text(results: pd.DataFrame) -> str:
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
    if (results["dataset"] == "digits").all():
        lines += [
            "",
            "scikit-learn's digits, 8 x 8 pixels, in a small network; MNIST: --data mnist",
        ]
    return "\n".join(lines)


@styled
def convnet_figure(results: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Test error and description length at each point, before and after training.

    On MNIST, dotted lines are what the paper reports (``PAPER``).
    """
    table = errors(results)
    names = list(table["layer_name"].unique())
    figure = Figure(figsize=(6.75, 5.2))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    for model, colour, marker in zip(MODELS, (COLOURS[1], COLOURS[0]), "so", strict=True):
        rows = table[table["model"] == model].sort_values("layer")
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4}
        style |= {"label": model, "linewidth": 1.2}
        spread = np.abs(rows[["low", "high"]].to_numpy().T - rows["error"].to_numpy())
        above.errorbar(rows["layer"], rows["error"], spread, capsize=2, **style)
        below.plot(rows["layer"], rows["kbit"], **style)
    own, _, _ = _network_error(summary)
    above.axhline(own, color=COLOURS[0], linewidth=0.8, linestyle="--")
    note_at_right(above, own, f"the network\n{own:.2f} %", COLOURS[0])
    if _is_mnist(summary):
        _draw_reference(above)
    above.set_yscale("log")
    above.yaxis.set_major_locator(FixedLocator([0.5, 1, 2, 5, 10, 20, 50]))
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
    for what, value in PAPER.items():
        ax.axhline(value, color="#555555", linewidth=0.8, linestyle=":")
        ax.annotate(
            f"{what} {value:g} %",
            (1, value),
            (-3, 2),
            ("axes fraction", "data"),
            "offset points",
            ha="right",
            fontsize=6.5,
            color="#555555",
        )
