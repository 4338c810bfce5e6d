"""The summary as a few lines of text, in colour where there is colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from textwrap import wrap

import numpy as np
import pandas as pd
from rich.text import Text

from llmprobe.ground.text import elide
from llmprobe.reporting.charts.style import COLOURS
from llmprobe.results.peaks import SCORE_NAMES, Peak, main_score, peaks

WIDTH = 100
_LONGEST_SPARKLINE = 32
_UNICODE_BARS, _ASCII_BARS = "▁▂▃▄▅▆▇█", "_.:-=+*#"


def summary_table(
    summary: pd.DataFrame,
    results: pd.DataFrame,
    models: Sequence[Mapping[str, str]] = (),
    *,
    unicode: bool = True,
    permutations: int | None = None,
) -> str:
    """``summary_lines`` as plain text, in lines of at most 100 characters."""
    lines = summary_lines(
        summary, results, models, width=WIDTH, unicode=unicode, permutations=permutations
    )
    return "\n".join(line.plain for line in lines)


def summary_lines(
    summary: pd.DataFrame,
    results: pd.DataFrame,
    models: Sequence[Mapping[str, str]] = (),
    *,
    width: int,
    unicode: bool = True,
    permutations: int | None = None,
) -> list[Text]:
    """The best layer of each model on each dataset, the best model in bold.

    Parameters
    ----------
    summary, results
        A row for each model × dataset, and for each model × dataset × layer.
    models
        What is known of the models (``name``, ``precision``): stands under the table.
    width
        Most columns of a line; where it is narrow, some numbers are left out.
    unicode
        Whether the output can show more than ASCII.
    permutations
        Refits behind each p-value.
    """
    ellipsis, missing = ("…", "–") if unicode else ("...", "-")
    bars = _UNICODE_BARS if unicode else _ASCII_BARS
    found = peaks(results, summary, permutations)
    longest = max((len(peak.dataset) for peak in found), default=0)
    name_width = max(len("dataset"), min(24, longest, width - _NARROWEST))
    columns = _that_fit(width - name_width - 4)
    room = width - name_width - 4 - sum(_COLUMNS[name] + 2 for name in columns)
    score = SCORE_NAMES[main_score(results)]

    def plain(text: str) -> str:
        return text if unicode else text.replace("²", "2").encode("ascii", "replace").decode()

    def named(name: str, most: int) -> str:
        return plain(elide(name, most, ellipsis))

    header = Text(f"  {'dataset':<{name_width}}", "dim")
    for name in columns:
        header.append(f"  {plain(score if name == 'accuracy' else name):>{_COLUMNS[name]}}")
    lines = [header.append("  curve")]
    best = {peak.dataset: peak.score for peak in sorted(found, key=lambda peak: peak.score)}
    for model, its_peaks in groupby(found, key=lambda peak: peak.model):
        lines.append(Text(named(model, width), "bold"))
        for peak in its_peaks:
            unsure = not (np.isnan(peak.score) or peak.above_chance)
            line = Text(
                f"  {named(peak.dataset, name_width):<{name_width}}", "dim" if unsure else ""
            )
            numbers = _numbers(peak, missing)
            for name in columns:
                style = "dim" if unsure or name in _BASELINES else ""
                if name == "accuracy" and not unsure and peak.score == best[peak.dataset]:
                    style = "bold"
                line.append(f"  {numbers[name]:>{_COLUMNS[name]}}", style)
            curve = sparkline(peak.curve, peak.chance, min(room, _LONGEST_SPARKLINE), bars)
            mark = f"  {NOT_ABOVE}" if unsure else ""
            if not mark or len(curve) + len(mark) <= room:
                line.append("  ")
                for bar in curve:
                    line.append(bar, _colour(bar, bars))
            lines.append(line.append(mark, "yellow"))
            line.rstrip()
    notes = [
        f"{score}, AUROC: at the best layer (of all layers); words: bag of words, no model",
        f"curve: {score} of the first to the last layer, from {bars[0]} chance to {bars[-1]} 1",
    ]
    lines.append(Text())
    for note in notes:
        lines += [Text(plain(part), "dim") for part in wrap(note, width)]
    for facts in models:
        if facts.get("precision"):
            note = f"{facts['name']}: {facts['precision']}"
            lines.append(Text(named(note, width), "dim"))
    return lines


NOT_ABOVE = "not above chance"
_COLUMNS = {"n": 6, "chance": 6, "words": 5, "accuracy": 17, "layer": 7, "AUROC": 5}
"""Their widths."""
_BASELINES = ("chance", "words")
_LEFT_OUT = ("AUROC", "words", "n", "chance")
"""Columns that a narrow terminal lacks, the first first."""


_NARROWEST = 4 + (17 + 2) + (7 + 2) + len(NOT_ABOVE)
"""Columns of a line without a name of a dataset and what may be left out."""


def _that_fit(room: int) -> list[str]:
    """The columns beside which there is room for a short curve, or for words in its place."""
    columns = list(_COLUMNS)
    for name in _LEFT_OUT:
        if room - sum(_COLUMNS[name] + 2 for name in columns) < len(NOT_ABOVE):
            columns.remove(name)
    return columns


def _colour(bar: str, bars: str) -> str:
    """Grey at chance, and bluer with each third of the way to 1."""
    share = bars.find(bar) / (len(bars) - 1)
    return ("bright_black", COLOURS[6], f"bold {COLOURS[0]}")[min(int(share * 3), 2)]


def _numbers(peak: Peak, missing: str) -> dict[str, str]:
    def number(value: float, form: str = ".2f") -> str:
        return missing if np.isnan(value) else format(value, form)

    interval = "" if np.isnan(peak.low) else f" [{peak.low:.2f}, {peak.high:.2f}]"
    layer, blocks = (missing if n is None else str(n) for n in (peak.layer, peak.blocks))
    return {
        "n": number(peak.n_examples, ".0f"),
        "chance": number(peak.chance),
        "words": number(peak.bag_of_words),
        "accuracy": number(peak.score) + interval,
        "layer": f"{layer}/{blocks}",
        "AUROC": number(peak.auroc),
    }


def sparkline(scores: pd.Series, chance: float, width: int, bars: str = _UNICODE_BARS) -> str:
    """Scores as bars from ``chance`` (the lowest, also for what is below it) to 1 (the highest).

    More scores than ``width`` are averaged in runs of neighbours; a missing score is a blank.

    >>> sparkline(pd.Series([0.4, 0.5, 0.75, 1.0]), chance=0.5, width=32)
    '▁▁▅█'
    """
    values = pd.Series(scores.to_numpy(dtype=float))
    run = np.arange(len(values)) * min(width, len(values)) // max(1, len(values))
    floor = 0.0 if np.isnan(chance) else chance
    shares = ((values.groupby(run).mean() - floor) / (1 - floor)).clip(0, 1)
    return "".join(
        " " if np.isnan(share) else bars[round(share * (len(bars) - 1))] for share in shares
    )
