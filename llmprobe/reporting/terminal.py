"""The summary as a few lines of text, in colour if the terminal has colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap

import numpy as np
import pandas as pd
from rich.text import Text

from llmprobe.ground.text import elide, interval_text, number_text, printable
from llmprobe.reporting.charts.style import COLOURS
from llmprobe.results.curve import Curve, by_dataset, by_model, main_metrics
from llmprobe.results.metrics import METRICS
from llmprobe.results.questions import MARKS, QUESTIONS, Evidence

WIDTH = 100
NOT_ABOVE = "not above chance"
UNCLEAR = "may be chance"
MOST_VERDICTS = 8
"""Up to this many curves have their verdicts under the table; of more, a column has the marks."""
_LONGEST_SPARKLINE = 32
_BARS = "▁▂▃▄▅▆▇█"
_TO_ASCII = str.maketrans(f"–²’✓✗·{_BARS}", "-2'+x._.:-=+*#")
_COLUMNS = {"n": 6, "chance": 6, "words": 5, "score": 17, "layer": 7, "AUROC": 5, "evidence": 8}
"""The columns and their widths."""
_BASELINES = ("chance", "words")
_AT_ONCE_NOTE = "+ layers: a probe of several at once, and what it gains over the best one"
_LEFT_OUT = ("AUROC", "words", "n", "chance", "evidence")
"""Columns that are left out in a narrow terminal, in this order."""
_NARROWEST = 4 + (17 + 2) + (7 + 2) + len(NOT_ABOVE)
"""The width of a line without the name of the dataset and all that may be left out."""


def summary_lines(
    curves: Sequence[Curve],
    evidence: Sequence[Evidence],
    models: Sequence[Mapping[str, str]] = (),
    *,
    width: int,
    unicode: bool = True,
) -> list[Text]:
    """Return the best layer of each model on each dataset, the best model in bold.

    Parameters
    ----------
    curves
        One for each model × dataset × position.
    evidence
        That of each curve. With few curves the verdicts stand under the table, with many the
        answers stand in it.
    models
        Facts about the models (``name``, ``precision``), which stand under the table.
    width
        The most characters of a line; if it is narrow, some numbers are left out.
    unicode
        Whether the output can show more than ASCII.
    """
    ellipsis = "…" if unicode else "..."
    names = [curve.title for curve in curves]
    names += [_at_once(curve) for curve in curves if curve.multi_layer is not None]
    longest = max(map(len, names), default=0)
    name_width = max(len("dataset"), min(24, longest, width - _NARROWEST))
    few = len(curves) <= MOST_VERDICTS
    columns, room = _that_fit(width - name_width - 4, left_out=["evidence"] if few else [])
    known = {one.key: one for one in evidence}
    mains = [metric.label for metric in main_metrics(curves)] or [METRICS["accuracy"].label]
    score = mains[0] if len(mains) == 1 else "score"
    header = Text(f"  {'dataset':<{name_width}}", "dim")
    for name, wide in columns.items():
        header.append(f"  {score if name == 'score' else name:>{wide}}")
    lines = [header.append("  curve")]
    best = {dataset: max(map(_score, group)) for dataset, group in by_dataset(curves).items()}
    for model, group in by_model(curves).items():
        lines.append(Text(elide(model, width, ellipsis), "bold"))
        for curve in group:
            answers = known[curve.key].questions
            read = answers["above_chance"].answer
            unsure = read != "yes"
            name = elide(curve.title, name_width, ellipsis)
            line = Text(f"  {name:<{name_width}}", "dim" if unsure else "")
            marks = "".join(MARKS[one.answer] for one in answers.values())
            numbers = curve_numbers(curve) | {"evidence": marks}
            for column, wide in columns.items():
                style = "dim" if unsure or column in _BASELINES else ""
                if column == "score" and not unsure and curve.score == best[curve.title]:
                    style = "bold"
                line.append(f"  {numbers[column]:>{wide}}", style)
            scores = curve.column(curve.metric.name)
            bars = sparkline(scores, curve.chance(), min(room, _LONGEST_SPARKLINE))
            if np.isnan(curve.score):
                mark = ""
            elif unsure:
                mark = f"  {NOT_ABOVE if read == 'no' else UNCLEAR}"
            else:
                mark = "  not above text" if answers["beyond_text"].answer == "no" else ""
            if not mark or len(bars) + len(mark) <= room:
                line.append("  ")
                for bar in bars:
                    line.append(bar, _colour(bar))
            lines.append(line.append(mark, "yellow"))
            line.rstrip()
            if curve.multi_layer is not None:
                lines.append(_multi_layer_line(curve, columns, name_width, ellipsis))
    lines.append(Text())
    if few:
        for curve in curves:
            title = f"{printable(curve.model)} on {printable(curve.title)}"
            verdict = printable(f"{title}: {known[curve.key].line}")
            lines += map(Text, wrap(verdict, width, subsequent_indent="  "))
        lines.append(Text())
    inverted = [curve.title for curve in curves if curve.is_inverted("bag_of_words")]
    below = f"words below chance are no floor: {', '.join(dict.fromkeys(inverted))}"
    named = "" if len(mains) == 1 else f" ({', '.join(mains)} of a dataset)"
    answers_to = ", ".join(question.name for question in QUESTIONS.values())
    legend = ", ".join(f"{mark} {answer}" for answer, mark in MARKS.items())
    for note in (
        *([f"evidence: {answers_to}? {legend}"] if "evidence" in columns else []),
        *([below] if inverted else []),
        *([_AT_ONCE_NOTE] if any(curve.multi_layer is not None for curve in curves) else []),
        f"{score}{named}, AUROC: at the best layer (of all layers); words: bag of words, no model",
        f"curve: {score} of the first to the last layer, from {_BARS[0]} chance to {_BARS[-1]} 1",
    ):
        lines += [Text(part, "dim") for part in wrap(note, width)]
    for facts in models:
        if facts.get("precision"):
            note = f"{facts['name']}: {facts['precision']}"
            lines.append(Text(elide(note, width, ellipsis), "dim"))
    if not unicode:
        for line in lines:
            line.plain = line.plain.translate(_TO_ASCII).encode("ascii", "replace").decode()
    return lines


def _at_once(curve: Curve) -> str:
    return f"+ layers {multi_layer_numbers(curve)['layers']}"


def _multi_layer_line(
    curve: Curve, columns: Mapping[str, int], name_width: int, ellipsis: str
) -> Text:
    """Return the line of a probe of several layers, below that of the best one."""
    numbers = multi_layer_numbers(curve)
    line = Text(f"  {elide(_at_once(curve), name_width, ellipsis):<{name_width}}")
    for column, wide in columns.items():
        line.append(f"  {numbers.get(column, ''):>{wide}}")
    return line.append(f"  {numbers['gain']}")


def _that_fit(room: int, left_out: Sequence[str]) -> tuple[dict[str, int], int]:
    """Return the columns that leave room for a short curve, or words instead, and that room."""
    columns = {name: wide for name, wide in _COLUMNS.items() if name not in left_out}
    room -= sum(wide + 2 for wide in columns.values())
    for name in _LEFT_OUT:
        if room < len(NOT_ABOVE) and name in columns:
            room += columns.pop(name) + 2
    return columns, room


def _score(curve: Curve) -> float:
    return -np.inf if np.isnan(curve.score) else curve.score


def _colour(bar: str) -> str:
    """Return grey at chance, and a blue that is stronger with each third of the way to 1."""
    share = _BARS.find(bar) / (len(_BARS) - 1)
    return ("bright_black", COLOURS[6], f"bold {COLOURS[0]}")[min(int(share * 3), 2)]


def curve_numbers(curve: Curve) -> dict[str, str]:
    """Return what tables say of a curve: n, chance, words, score, layer and AUROC, as text."""
    layer, blocks = ("–" if n is None else str(n) for n in (curve.layer, curve.blocks))
    return {
        "n": number_text(curve.number("n_examples"), ".0f"),
        "chance": number_text(curve.chance()),
        "words": number_text(curve.rival("bag_of_words")),
        "score": interval_text(curve.score, curve.low, curve.high),
        "layer": f"{layer}/{blocks}",
        "AUROC": number_text(curve.at_best("auroc")),
    }


def multi_layer_numbers(curve: Curve) -> dict[str, str]:
    """Return what tables say of a curve's probe of several layers, as text.

    ``layers`` that it reads, ``score`` and ``AUROC``, and ``gain`` over the best layer.
    """
    row, metric = curve.multi_layer or {}, curve.metric
    return {
        "layers": str(row.get("layers_read", "")),
        "score": interval_text(*(row.get(name, np.nan) for name in metric.columns)),
        "AUROC": number_text(row.get("auroc", np.nan)),
        "gain": interval_text(*curve.multi_layer_gain, "+.2f"),
    }


def sparkline(scores: np.ndarray, chance: float, width: int) -> str:
    """Return scores as bars from ``chance`` (the lowest, also for what is below it) to 1.

    More scores than ``width`` are averaged in runs of neighbours; a missing score is a blank.

    >>> sparkline(np.array([0.4, 0.5, 0.75, 1.0]), chance=0.5, width=32)
    '▁▁▅█'
    """
    run = np.arange(len(scores)) * min(width, len(scores)) // max(1, len(scores))
    floor = 0.0 if np.isnan(chance) else chance
    shares = ((pd.Series(scores).groupby(run).mean() - floor) / (1 - floor)).clip(0, 1)
    return "".join(
        " " if np.isnan(share) else _BARS[round(share * (len(_BARS) - 1))] for share in shares
    )
