"""How curves differ, as a few lines of plain text."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from llmprobe.ground.text import elide, p_text
from llmprobe.reporting.page.compared import pairs, sides, with_interval
from llmprobe.reporting.terminal import WIDTH
from llmprobe.results.metrics import METRICS

MOST_ROWS = 40
_WIDTHS = (20, 6, 20)
"""Widths of a difference with its interval, of a p-value, and of another difference."""
_LONGEST_NAME = 20


def difference_table(differences: pd.DataFrame, *, unicode: bool = True) -> str:
    """Return how much the curves of each pair differ, in lines of at most 100 characters.

    Pairs stand under the dataset or model that their curves share. Empty without pairs.

    Parameters
    ----------
    differences
        As `llmprobe.results.differences.differences` returns them.
    unicode
        Whether the output can show more than ASCII.
    """
    if differences.empty:
        return ""
    arrow, ellipsis, missing = ("→", "…", "–") if unicode else ("->", "...", "-")
    score = METRICS["accuracy" if differences["accuracy_a"].notna().any() else "r2"].label
    under: dict[str, list[tuple[str, Sequence[str]]]] = {}
    for row in pairs(differences, MOST_ROWS):
        common, a, b = sides(row)
        pair = f"  {elide(a, _LONGEST_NAME, ellipsis)} {arrow} {elide(b, _LONGEST_NAME, ellipsis)}"
        p = p_text(row["p_value"]).replace("< ", "<")
        depths = with_interval(row, "stays_above_half_depth_difference")
        numbers = [with_interval(row, "difference"), p, depths]
        numbers = [number.replace("–", missing) for number in numbers]
        under.setdefault(common, []).append((pair, numbers))
    heading = f"a {arrow} b: b minus a"
    width = max(len(pair) for rows in under.values() for pair, _ in [*rows, (heading, ())])

    def line(pair: str, numbers: Sequence[str]) -> str:
        cells = (f"{number:>{room}}" for number, room in zip(numbers, _WIDTHS, strict=True))
        return "  ".join([f"{pair:<{width}}", *cells])

    lines = [line(heading, (score, "p", "above half from"))]
    for common, rows in under.items():
        lines.append(elide(common, WIDTH, ellipsis))
        lines += [line(*row) for row in rows]
    if len(differences) > MOST_ROWS:
        lines.append(f"and {len(differences) - MOST_ROWS:,} more pairs, in differences.csv")
    lines += [
        "",
        f"{score}: each at its own best layer, [95 % interval]; p: of no difference, by group",
        "above half from: the depth (0 to 1) from which a curve stays above half of its rise",
    ]
    text = "\n".join(lines)
    return text if unicode else text.encode("ascii", "replace").decode()
