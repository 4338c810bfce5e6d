"""The findings of probes of networks on images: sentences, a table and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from llmprobe.ground.text import listed
from llmprobe.probing.tasks import MOST_CODED
from llmprobe.reporting.charts.panels import legend, name_layers
from llmprobe.reporting.charts.style import GREY, Chart, model_styles, styled
from llmprobe.reporting.description import Illustrations
from llmprobe.results.differences import sign_flip_p_value
from llmprobe.results.results import Results
from llmprobe.sanity.images import MNIST_CONTENT

DIGITS = (
    "These are the digits of 8 × 8 pixels that come with scikit-learn, in a network smaller than "
    "the paper's: what is there offline (for MNIST: --data mnist)."
)
BYPASSED = "bypassed."
"""The prefix of the names of points in the skipped half of a network."""

PAPER: Mapping[str, float] = {"input": 8.0, "untrained, best": 2.0, "the network": 0.7}
"""Test errors on MNIST in % that Alain & Bengio (2016, section 3.5) report: of a probe on the
input, of the best one on the untrained network, and of the trained network itself."""


def errors(run: Results) -> pd.DataFrame:
    """Compute test errors in % with their intervals, and description lengths.

    -> columns model, layer, layer_name, error, low, high, kbit
    """
    table = run.table[["model", "layer", "layer_name"]].copy()
    for name, column in (("error", ""), ("low", "_high"), ("high", "_low")):
        table[name] = 100 * (1 - run.table[f"accuracy{column}"])
    return table.assign(kbit=run.table["code_length"])


def clear_changes(predictions: pd.DataFrame) -> dict[int, int]:
    """Tell whether the error clearly falls (-1) or rises (1) at each layer after the first.

    0 where neither is clear. That is by the exact test of McNemar (1947) on the examples that only
    one of two neighbouring layers gets right, with Bonferroni's correction for the number of steps.

    Parameters
    ----------
    predictions
        The predictions of one model: layer, example, label, predicted.
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


def image_findings(run: Results) -> list[str]:
    """Report the error of the probes at each moment of training, and where it clearly changes."""
    n, (*_, network) = int(run.summary["n_examples"].iloc[0]), _network_errors(run)
    sentences = [DIGITS] if _is_of_digits(run) else []
    for model, rows in errors(run).groupby("model", sort=False):
        at = dict(zip(rows["layer_name"], rows["error"], strict=True))
        least = min(at, key=lambda name: at[name])
        changes = clear_changes(run.predictions[run.predictions["model"] == model])
        falls, rises = (
            listed(list(rows["layer_name"][rows["layer"].map(changes) == way]) or ["no point"])
            for way in (-1, 1)
        )
        sentences.append(
            f"{str(model).capitalize()}: the probes' error on {n:,} test images is "
            f"{listed([f'{at[name]:.2f} % at {name}' for name in _landmarks(list(at))])}, and at "
            f"its least {at[least]:.2f} % at {least}. From the point before, it clearly falls at "
            f"{falls}; it clearly rises at {rises}."
        )
    return [
        *sentences,
        f"The trained network itself errs on {network[0]:.2f} % [{network[1]:.2f}, "
        f"{network[2]:.2f}] of all test images.",
        "Clearly: the images that only one of two neighbouring points gets right differ in number "
        "by an exact test (McNemar 1947), p at most 0.05 divided by the number of steps.",
    ]


def image_text(run: Results) -> str:
    """Write errors and description lengths of the points in lines of at most 100 columns."""
    table = errors(run)
    table["test error, %"] = [
        f"{row.error:.2f} [{row.low:5.2f}, {row.high:5.2f}]" for row in table.itertuples()
    ]
    columns = ["test error, %", *(["kbit"] if table["kbit"].notna().any() else [])]
    moments = {
        model: rows.set_index("layer_name")[columns]
        for model, rows in table.groupby("model", sort=False)
    }
    text = pd.concat(moments, axis=1).rename_axis(None)
    if len(text) > 12:
        text = text.iloc[[0, 1, *range(5, len(text) - 1, 4), -1]]
    note = "\n\nscikit-learn's digits, 8 x 8 pixels, in a small network; MNIST: --data mnist"
    return text.to_string(float_format="{:.2f}".format) + (note if _is_of_digits(run) else "")


def image_figures(run: Results) -> Illustrations:
    """Draw the errors, and the description lengths where there are some."""
    mnist = any(data.get("content") == MNIST_CONTENT for data in run.environment["datasets"])
    coded = run.table["code_length"].notna().any()
    bypassed = run.table["layer_name"].str.startswith(BYPASSED).any()
    sentences = {
        "Test error of a linear probe at points of the network, with its 95 % interval; dashed: of "
        "the trained network itself.": True,
        "Dotted: what Alain & Bengio (2016) report.": mnist,
        "Below: the bits (kbit: 1,024) in which linear probes, refitted on the test labels sent so "
        "far, send the next ones (Voita & Titov 2020).": coded,
        "Grey: dense layers that a connection bypasses.": bypassed,
        "Each point is computed from the one before, so it cannot tell more about the class; what "
        "changes is how much of it a linear classifier can use.": not bypassed,
    }
    caption = " ".join(sentence for sentence, holds in sentences.items() if holds)
    alt = (
        f"Line chart: test error in percent{' and description length in kilobits' if coded else ''}"
        " over the points of the network, a line for each moment of training."
    )
    return {"errors": (error_figure(run, mnist), caption, alt)}


@styled
def error_figure(run: Results, mnist: bool = False) -> Figure:
    """Draw test error, and description length where there is one, at each point and moment.

    An error of 0 is drawn as half an image. With ``mnist``, dotted lines show what the paper
    reports (``PAPER``).
    """
    table, n = errors(run), int(run.summary["n_examples"].max())
    table[["error", "low", "high"]] = table[["error", "low", "high"]].clip(lower=50 / n)
    names = dict(zip(table["layer"], table["layer_name"], strict=True))
    heights = [3, 2] if table["kbit"].notna().any() else [3]
    figure = Chart(figsize=(6.75, sum(heights)))
    panels = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)
    above, *below = panels.ravel()
    styles = model_styles(run.summary["model"])
    for model, style in styles.items():
        rows = table[table["model"] == model]
        spread = np.abs(rows[["low", "high"]].to_numpy().T - rows["error"].to_numpy())
        above.errorbar(rows["layer"], rows["error"], spread, capsize=2, elinewidth=0.7, **style)
        for ax in below:
            ax.plot(rows["layer"], rows["kbit"], **style)
    own = _network_errors(run)[-1][0]
    dashed = {"color": styles[model]["color"], "linewidth": 0.8, "linestyle": "--"}
    above.axhline(max(own, 50 / n), **dashed)
    for what, error in PAPER.items() if mnist else ():
        above.axhline(error, color=GREY, linewidth=0.8, linestyle=":")
        above.annotate(
            f"paper: {what}\n{error:g} %", (1, error), (3, 0), ("axes fraction", "data"),
            "offset points", va="center", fontsize=7, color=GREY,
        )  # fmt: skip
    skipped = [layer for layer, name in names.items() if name.startswith(BYPASSED)]
    if skipped:
        above.axvspan(skipped[0] - 0.5, skipped[-1] + 0.5, color="#eeeeee", linewidth=0)
    above.set_yscale("log")
    above.yaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]))
    above.yaxis.set_minor_locator(NullLocator())
    above.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    above.set_title("test error of a linear probe")
    for ax in below:
        ax.set(ylabel="kbit", ylim=(0, None))
        ax.set_title(f"description length of {min(n, MOST_CODED):,} labels")
    name_layers(figure, [*below, above][:1], names)
    legend(figure, styles, [Line2D([], [], **dashed, label=f"the network itself: {own:.2f} %")])
    return figure


def _landmarks(names: Sequence[str]) -> list[str]:
    """Return the first and the last point of each part of a network, such as ``rest.``."""
    parts = [list(part) for _, part in groupby(names, lambda name: name.rpartition(".")[0])]
    return list(dict.fromkeys(name for part in parts for name in (part[0], part[-1])))


def _is_of_digits(run: Results) -> bool:
    sources = [str(data.get("source")) for data in run.environment["datasets"]]
    return any(source.startswith("scikit-learn") for source in sources)


def _network_errors(run: Results) -> list[tuple[float, ...]]:
    """Return the network's own test error at each moment, in %, with its interval."""
    accuracy = run.summary[[f"network_accuracy{end}" for end in ("", "_high", "_low")]]
    return [tuple(row) for row in (100 * (1 - accuracy.astype(float))).to_numpy()]
