"""What a comparison was made of: kept in its folder as ``config.yaml``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from pydantic import Field

from llmprobe.config.load import parsed_yaml, validated
from llmprobe.config.schema import Section

MOST_NAMES = 6
"""In a title."""


class RunRecord(Section):
    """A run as it was when it was compared."""

    name: str
    path: Path
    config: dict[str, Any]


class Comparison(Section):
    """Runs that stand side by side."""

    runs: list[RunRecord] = Field(min_length=2)
    anyway: bool
    """Whether they do in spite of what the notes say."""
    differs: dict[str, list[str]]
    """What is not the same in all runs -> its value in each."""
    notes: list[str]
    """What a reader must know about the runs, a sentence each."""

    @property
    def title(self) -> str:
        """The names of the runs: ``a · b · c``."""
        names = [run.name for run in self.runs]
        more = len(names) - MOST_NAMES
        return " · ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")

    def command(self, out: Path) -> str:
        """Return what to type to compare again."""
        words = ["llmprobe", "compare", *(str(run.path) for run in self.runs), "--out", str(out)]
        return shlex.join(words + ["--anyway"] * self.anyway)


class ComparisonConfig(Section):
    """A whole config.yaml."""

    compare: Comparison


def load(out: Path) -> Comparison:
    """Read what a comparison's folder was made of.

    Raises
    ------
    UserError
        Its config.yaml is missing or damaged.
    """
    path = out / "config.yaml"
    return validated(ComparisonConfig, parsed_yaml(path), str(path)).compare
