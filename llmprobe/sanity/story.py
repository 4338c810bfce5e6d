"""What an experiment found, and what the two on images share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure


class Story(NamedTuple):
    """An experiment for its page."""

    findings: list[str]
    """Sentences."""
    illustrations: Mapping[str, tuple[Figure, str, str]]
    """Name -> the figure, its caption, and what it shows in words."""


def errors(results: pd.DataFrame) -> pd.DataFrame:
    """Test errors in % with their intervals, and description lengths.

    -> columns model, layer, layer_name, error, low, high, kbit
    """
    table = results[["model", "layer", "layer_name"]].copy()
    table["error"] = 100 * (1 - results["accuracy"])
    table["low"] = 100 * (1 - results["accuracy_high"])
    table["high"] = 100 * (1 - results["accuracy_low"])
    table["kbit"] = results["code_length"]
    return table


def note_at_right(ax: Axes, y: float, text: str, colour: str) -> None:
    """What is at a height, in the margin."""
    ax.annotate(
        text,
        (1, y),
        (3, 0),
        ("axes fraction", "data"),
        "offset points",
        va="center",
        fontsize=7,
        color=colour,
    )
