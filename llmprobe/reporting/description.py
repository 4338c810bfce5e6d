"""What a report says of a run folder besides its tables; importing it loads no drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmprobe.results.trace import Trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from llmprobe.reporting.page.compared import Compared

Illustrations = Mapping[str, "tuple[Figure, str, str]"]
"""Name -> a figure, its caption, and what it shows in words."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a report says of a run folder besides its tables."""

    title: str
    command: str
    """What to type to make the folder again."""
    findings: Sequence[str] = ()
    """Sentences that stand before those about the best layers."""
    illustrations: Illustrations = field(default_factory=dict)
    """Figures that only this kind of folder has."""
    held_out: bool = False
    """Whether the scored examples are a test set instead of folds."""
    compared: Compared | None = None
    """How curves of the same examples differ."""
    traces: Sequence[Trace] = ()
    notes: Sequence[str] = ()
    """What a reader must know besides the notes of the tables, a sentence each."""
    page: bool = True
    """Whether a page is written."""
