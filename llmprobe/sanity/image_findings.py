"""What the probes of the networks on images found: sentences, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from llmprobe.ground.text import listed
from llmprobe.probing.tasks import MOST_CODED
from llmprobe.reporting.charts.style import COLOURS, GREY, model_style, styled
from llmprobe.reporting.description import Illustrations
from llmprobe.results.differences import sign_flip_p_value
from llmprobe.results.results import Results
from llmprobe.sanity.image_networks import EVERY
from llmprobe.sanity.images import MNIST_CONTENT
from llmprobe.sanity.networks import LAYERS

MODELS = ("untrained", "trained")
"""The moments at which the convnet is probed."""
DIGITS = (
    "These are the digits of 8 × 8 pixels that come with scikit-learn, in a network smaller than "
    "the paper's: what is there offline (for MNIST: --data mnist)."
)
HALF = LAYERS // 2
"""Layers that the bypass skips."""

PAPER: Mapping[str, float] = {
    "paper: input": 8.0,
    "paper: untrained, best": 2.0,
    "paper: the network": 0.7,
}
"""Test errors on MNIST in % that Alain & Bengio (2016, section 3.5) report: of a probe on the
input, of the best one on the untrained network, and of the trained network itself."""


def errors(results: pd.DataFrame) -> pd.DataFrame:
    """Compute test errors in % with their intervals, and description lengths.

    -> columns model, layer, layer_name, error, low, high, kbit
    """
    table = results[["model", "layer", "layer_name"]].copy()
    for name, column in (("error", ""), ("low", "_high"), ("high", "_low")):
        table[name] = 100 * (1 - results[f"accuracy{column}"])
    return table.assign(kbit=results["code_length"])


def clear_changes(predictions: pd.DataFrame) -> dict[int, int]:
    """Tell whether the error clearly falls (-1) or rises (1) at each layer after the first.

    0 where neither is clear: the exact test of McNemar (1947) on the examples that one of two
    neighbouring layers alone gets right, with Bonferroni's correction for the number of steps.

    Parameters
    ----------
    predictions
        Of one model: layer, example, label, predicted.
    """
    right = predictions.assign(right=predictions["label"] == predictions["predicted"]).pivot(
        index="example", columns="layer", values="right"
    )
    steps = list(pairwise(sorted(right.columns)))
    changes = {}
    for before, after in steps:
        gains = right[after].to_numpy(int) - right[before].to_numpy(int)
        clear = sign_flip_p_value(gains) <= 0.05 / len(steps)
        changes[int(after)] = -int(np.sign(gains.sum())) if clear else 0
    return changes


def convnet_findings(run: Results) -> list[str]:
    """Say at how much probes of the convnet err, and where that clearly changes."""
    table, n = errors(run.table), int(run.summary["n_examples"].iloc[0])
    sentences = [DIGITS] if _is_of_digits(run) else []
    for model in MODELS:
        rows = table[table["model"] == model].sort_values("layer").to_dict("records")
        least = min(rows, key=lambda row: row["error"])
        at = [f"{row['error']:.2f} % at {row['layer_name']}" for row in (rows[0], least, rows[-1])]
        changes = clear_changes(run.predictions[run.predictions["model"] == model])
        falls, rises = (
            listed(
                [row["layer_name"] for row in rows if changes.get(row["layer"]) == way]
                or ["no point"]
            )
            for way in (-1, 1)
        )
        last = "" if least is rows[-1] else f", and {at[2]}"
        sentences.append(
            f"{model.capitalize()}: the probes' error on {n:,} test images is {at[0]}, at its "
            f"least {at[1]}{last}. From the point before, it clearly falls at "
            f"{falls}; it clearly rises at {rises}."
        )
    error, low, high = _network_error(run.summary)
    return [
        *sentences,
        f"The trained network itself errs on {error:.2f} % [{low:.2f}, {high:.2f}] of all test "
        "images.",
        "Clearly: the images that only one of two neighbouring points gets right differ in number "
        "by an exact test (McNemar 1947), p at most 0.05 divided by the number of steps.",
    ]


def bypass_findings(run: Results) -> list[str]:
    """Say at how much probes of the network with a bypass err, at each step of its training."""
    sentences = []
    for step, rows in errors(run.table).groupby("model", sort=False):
        at = dict(zip(rows["layer_name"], rows["error"], strict=True))
        sentences.append(
            f"{str(step).capitalize()}: the probes' test error is {at['input']:.1f} % at the "
            f"input, {at[f'bypassed.{HALF}']:.1f} % at the end of the bypassed half, and "
            f"{at[f'rest.{HALF + EVERY}']:.1f} % to {at[f'rest.{LAYERS}']:.1f} % from the start to "
            "the end of the other half."
        )
    return sentences


def convnet_text(run: Results) -> str:
    """Write errors and description lengths of all points in lines of at most 100 columns."""
    lines = [
        f"{'':<16}" + "  ".join(f"{model:^34}" for model in MODELS),
        f"{'point':<16}" + "  ".join([f"{'test error, %':>22}{'kbit':>12}"] * len(MODELS)),
    ]
    for name, rows in errors(run.table).groupby("layer_name", sort=False):
        by_model = rows.set_index("model").to_dict("index")
        cells = [
            f"{row['error']:7.2f} [{row['low']:5.2f}, {row['high']:5.2f}]{row['kbit']:12.2f}"
            for row in (by_model[model] for model in MODELS)
        ]
        lines.append(f"{name:<16}" + "  ".join(cells))
    if _is_of_digits(run):
        note = "scikit-learn's digits, 8 x 8 pixels, in a small network; MNIST: --data mnist"
        lines += ["", note]
    return "\n".join(lines)


def bypass_text(run: Results) -> str:
    """Write the errors of some layers at each step in lines of at most 100 columns."""
    table = errors(run.table)
    names = [str(name) for name in table["layer_name"].unique()]
    lines = [f"{'test error, %':<16}" + "".join(f"{step:>12}" for step in table["model"].unique())]
    for name in [*names[:2], *names[5:-1:4], names[-1]]:
        at = table.loc[table["layer_name"] == name, "error"]
        lines.append(f"{name:<16}" + "".join(f"{error:12.1f}" for error in at))
    return "\n".join(lines)


def convnet_figures(run: Results) -> Illustrations:
    """Draw the convnet's errors."""
    mnist = MNIST_CONTENT in [data.get("content") for data in run.environment["datasets"]]
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
    return {"errors": (convnet_figure(run.table, run.summary, mnist), caption, alt)}


def bypass_figures(run: Results) -> Illustrations:
    """Draw the errors at each step of training."""
    caption = (
        f"Test error of a linear probe at every {EVERY}th of {LAYERS} dense layers, before "
        "training (palest) and at some of its steps. A connection leads past the first half (grey)."
    )
    alt = "Line chart: test error in percent over the layers, a line for each step of training."
    return {"errors": (bypass_figure(run.table), caption, alt)}


@styled
def convnet_figure(results: pd.DataFrame, summary: pd.DataFrame, mnist: bool = False) -> Figure:
    """Draw test error and description length at each point, before and after training.

    An error of 0 is drawn at half an image. With ``mnist``, dotted lines are what the paper reports
    (``PAPER``).
    """
    table, n = errors(results), int(summary["n_examples"].max())
    table[["error", "low", "high"]] = table[["error", "low", "high"]].clip(lower=50 / n)
    names = list(table["layer_name"].unique())
    figure = Figure(figsize=(6.75, 5.2))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    for index, model in enumerate(MODELS):
        rows = table[table["model"] == model].sort_values("layer")
        style = model_style(index) | {"label": model}
        spread = np.abs(rows[["low", "high"]].to_numpy().T - rows["error"].to_numpy())
        above.errorbar(rows["layer"], rows["error"], spread, capsize=2, **style)
        below.plot(rows["layer"], rows["kbit"], **style)
    own, colour = max(_network_error(summary)[0], 50 / n), COLOURS[MODELS.index("trained")]
    above.axhline(own, color=colour, linewidth=0.8, linestyle="--")
    _note_at_right(above, own, f"the network\n{own:.2f} %", colour)
    if mnist:
        _draw_reference(above)
    above.set_yscale("log")
    above.yaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50]))
    above.yaxis.set_minor_locator(NullLocator())
    above.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    above.set_title("test error of a linear probe")
    above.legend(loc="upper center")
    below.set_ylabel("kbit")
    below.set_title(f"description length of {min(n, MOST_CODED):,} labels")
    below.set_ylim(bottom=0)
    below.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    return figure


@styled
def bypass_figure(results: pd.DataFrame) -> Figure:
    """Draw the test error at every fourth layer, a line for each step of training."""
    table = errors(results)
    number = table["layer_name"].str.extract(r"\.(\d+)$")[0]
    table = table.assign(number=number.astype(float)).dropna(subset="number")
    figure = Figure(figsize=(6.75, 3.4))
    ax = figure.subplots()
    ax.axvspan(0.5, HALF + 0.5, color="#eeeeee", linewidth=0)
    ax.set_title("bypassed", x=0.25, loc="center", fontweight="normal")
    steps = list(table["model"].unique())
    for index, step in enumerate(steps):
        rows = table[table["model"] == step]
        strength = 0.25 + 0.75 * index / max(len(steps) - 1, 1)
        for _, half in rows.groupby(rows["number"] > HALF):
            ax.plot(half["number"], half["error"], color=COLOURS[0], alpha=strength, linewidth=1.4)
        _note_at_right(ax, float(rows["error"].iloc[-1]), str(step), COLOURS[0])
    ax.set(xlim=(0, LAYERS + 1), ylim=(0, 100))
    ax.set(xlabel="dense layer", ylabel="test error of the probe, %")
    return figure


def _is_of_digits(run: Results) -> bool:
    sources = [str(data.get("source")) for data in run.environment["datasets"]]
    return any(source.startswith("scikit-learn") for source in sources)


def _network_error(summary: pd.DataFrame) -> tuple[float, float, float]:
    """Return the test error of the trained network itself, in %, with its interval."""
    row = summary[summary["model"] == "trained"].iloc[0]
    error, low, high = (
        100 * (1 - float(row[f"network_accuracy{end}"])) for end in ("", "_high", "_low")
    )
    return error, low, high


def _note_at_right(ax: Axes, y: float, text: str, colour: str) -> None:
    """Say in the margin what is at a height."""
    ax.annotate(
        text, (1, y), (3, 0), ("axes fraction", "data"), "offset points",
        va="center", fontsize=7, color=colour,
    )  # fmt: skip


def _draw_reference(ax: Axes) -> None:
    # Where no curve is: the errors start at the first of these and fall below it at once.
    places = ((0.2, 3, "bottom"), (0.01, -2, "top"), (0.01, -2, "top"))
    for (what, value), (x, offset, side) in zip(PAPER.items(), places, strict=True):
        ax.axhline(value, color=GREY, linewidth=0.8, linestyle=":")
        ax.annotate(
            f"{what} {value:g} %", (x, value), (0, offset), ("axes fraction", "data"),
            "offset points", va=side, fontsize=6.5, color=GREY,
        )  # fmt: skip
