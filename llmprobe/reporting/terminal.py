"""The summary as a few lines of plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
import pandas as pd

from llmprobe.reporting import SCORE_NAMES, Peak, elide, main_score, peaks

WIDTH = 100
_LONGEST_SPARKLINE = 32
_UNICODE_BARS, _ASCII_BARS = "▁▂▃▄▅▆▇█", "_.:-=+*#"


def summary_table(
    summary: pd.DataFrame,
    results: pd.DataFrame,
    models: Sequence[Mapping[str, str]] = (),
    *,
    unicode: bool = True,
) -> str:
    """The best layer of each model on each dataset, in lines of at most 100 characters.

    Parameters
    ----------
    summary, results
        A row for each model × dataset, and for each model × dataset × layer.
    models
        What is known of the models (``name``, ``precision``): stands under the table.
    unicode
        Whether the output can show more than ASCII.
    """
    ellipsis, missing = ("…", "–") if unicode else ("...", "-")
    bars = _UNICODE_BARS if unicode else _ASCII_BARS
    found = peaks(results, summary)
    longest = max((len(peak.dataset) for peak in found), default=0)
    name_width = min(24, max(len("dataset"), longest))

    def line(dataset: str, numbers: Sequence[str], curve: str) -> str:
        cells = (f"{cell:>{width}}" for cell, width in zip(numbers, _WIDTHS, strict=True))
        return "  ".join([f"  {elide(dataset, name_width, ellipsis):<{name_width}}", *cells, curve])

    room = WIDTH - len(line("", [""] * len(_WIDTHS), ""))
    score = SCORE_NAMES[main_score(results)]
    if not unicode:
        score = score.replace("²", "2")
    lines = [line("dataset", [score if h == "accuracy" else h for h in _HEADERS], "curve")]
    for model, its_peaks in groupby(found, key=lambda peak: peak.model):
        lines.append(elide(model, WIDTH, ellipsis))
        for peak in its_peaks:
            curve = sparkline(peak.curve, peak.chance, min(room, _LONGEST_SPARKLINE), bars)
            lines.append(line(peak.dataset, _numbers(peak, missing), curve).rstrip())
    lines.append("")
    lines.append(
        f"{score}, AUROC: at the best layer (of all layers); words: bag of words, no model"
    )
    lines.append(
        f"curve: {score} of the first to the last layer, from {bars[0]} chance to {bars[-1]} 1"
    )
    notes = [f"{model['name']}: {model['precision']}" for model in models if model.get("precision")]
    lines += [elide(note, WIDTH, ellipsis) for note in notes]
    text = "\n".join(lines)
    return text if unicode else text.encode("ascii", "replace").decode()


_HEADERS = ("n", "chance", "words", "accuracy", "layer", "AUROC")
_WIDTHS = (6, 6, 5, 17, 7, 5)


def _numbers(peak: Peak, missing: str) -> list[str]:
    def number(value: float, form: str = ".2f") -> str:
        return missing if np.isnan(value) else format(value, form)

    interval = "" if np.isnan(peak.low) else f" [{peak.low:.2f}, {peak.high:.2f}]"
    layer, blocks = (missing if n is None else str(n) for n in (peak.layer, peak.blocks))
    return [
        number(peak.n_examples, ".0f"),
        number(peak.chance),
        number(peak.bag_of_words),
        number(peak.score) + interval,
        f"{layer}/{blocks}",
        number(peak.auroc),
    ]


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
