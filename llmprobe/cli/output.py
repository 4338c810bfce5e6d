"""Functions that print the contents of a run folder."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmprobe.ground.text import printable

if TYPE_CHECKING:
    from llmprobe.results.transfer import TransferMatrix


def say(text: object) -> None:
    """Print lines, with ``?`` for control characters, since names can be a stranger's."""
    print(printable(text, kept="\n"), flush=True)


def print_report(out: Path) -> None:
    """Draw a run folder of any kind, and print its results and its files."""
    from llmprobe.runs.report import report

    print_summary(out, report(out))


def print_summary(out: Path, written: Sequence[Path] = ()) -> None:
    """Print the results in a run folder, and its files."""
    from rich.console import Console

    from llmprobe.reporting.terminal import WIDTH
    from llmprobe.runs.report import terminal_text

    console = Console(file=sys.stdout, highlight=False)
    width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    console.print(terminal_text(out, width, _unicode()), soft_wrap=True)
    _print_places(out, written)


def print_transfer(matrix: TransferMatrix, out: Path) -> None:
    """Print the train × test matrix of each model, the file of the tables, and how to draw them.

    If the folder holds a run, its page is not drawn again.
    """
    from rich.console import Console
    from rich.text import Text

    from llmprobe.reporting.terminal import WIDTH
    from llmprobe.reporting.terminal_transfer import transfer_lines

    console = Console(file=sys.stdout, highlight=False)
    width = console.width if console.is_terminal else WIDTH
    lines = transfer_lines(matrix.table, width, _unicode())
    console.print(Text("\n").join(lines), soft_wrap=True)
    say(f"\ntables   {out / 'transfer.csv'}")
    if (out / "results.parquet").is_file():
        say(f"report   llmprobe report {shlex.quote(str(out))} draws it beside the run")


def _unicode() -> bool:
    """Whether the output can show more than ASCII."""
    return (sys.stdout.encoding or "ascii").lower().replace("-", "").startswith("utf")


def _print_places(out: Path, written: Sequence[Path]) -> None:
    say(f"\ntables   {out}")
    for what, names in (
        ("heatmap", ("heatmap_accuracy.png", "heatmap_r2.png")),
        ("figure", ("hidden_plane.png", "errors.png")),
        ("report", ("report.html",)),
    ):
        for path in written:
            if path.name in names:
                say(f"{what:7}  {path}")
