"""What the probes of the bypassed network found: sentences, a table and a figure."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from llmprobe.reporting.charts.style import COLOURS, styled
from llmprobe.sanity.bypass import EVERY, LAYERS
from llmprobe.sanity.story import Story, errors, note_at_right

HALF = LAYERS // 2


def bypass_story(results: pd.DataFrame) -> Story:
    """From the table of ``run_bypass``."""
    caption = (
        f"Test error of a linear probe at every {EVERY}th of {LAYERS} dense layers, before "
        "training (palest) and at some of its steps. A connection leads past the first half (grey)."
    )
    alt = "Line chart: test error in percent over the layers, a line for each step of training."
    return Story(_findings(results), {"errors": (bypass_figure(results), caption, alt)})


def _findings(results: pd.DataFrame) -> list[str]:
    sentences = []
    for step, rows in errors(results).groupby("model", sort=False):
        at = dict(zip(rows["layer_name"], rows["error"], strict=True))
        sentences.append(
            f"{str(step).capitalize()}: the probes' test error is {at['input']:.1f} % at the "
            f"input, {at[f'bypassed.{HALF}']:.1f} % at the end of the bypassed half, and "
            f"{at[f'rest.{HALF + EVERY}']:.1f} % to {at[f'rest.{LAYERS}']:.1f} % from the start to "
            "the end of the other half."
        )
    return sentences


def bypass_text(results: pd.DataFrame) -> str:
    """Errors of some layers at each step, in lines of at most 100 columns."""
    table = errors(results)
    names = [str(name) for name in table["layer_name"].unique()]
    lines = [f"{'test error, %':<16}" + "".join(f"{step:>12}" for step in table["model"].unique())]
    for name in [*names[:2], *names[5:-1:4], names[-1]]:
        at = table.loc[table["layer_name"] == name, "error"]
        lines.append(f"{name:<16}" + "".join(f"{error:12.1f}" for error in at))
    return "\n".join(lines)


@styled
def bypass_figure(results: pd.DataFrame) -> Figure:
    """Test error at every fourth layer, a line for each step of training."""
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
        colour = COLOURS[0]
        for _, half in rows.groupby(rows["number"] > HALF):
            ax.plot(half["number"], half["error"], color=colour, alpha=strength, linewidth=1.4)
        note_at_right(ax, float(rows["error"].iloc[-1]), str(step), colour)
    ax.set_xlim(0, LAYERS + 1)
    ax.set_ylim(0, 100)
    ax.set_xlabel("dense layer")
    ax.set_ylabel("test error of the probe, %")
    return figure
