"""A small dataset and its config, for tests that go through a whole run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

SUBJECTS = ("coin", "city", "capital", "Peru", "France")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")

QUICK = {
    "folds": 2, "l2": 1.0, "controls": ["majority"], "permutations": 0, "description_length": False
}  # fmt: skip
"""A ``probe`` section that takes milliseconds."""


def write_table(path: Path, words: tuple[str, str] = ("red", "blue"), **columns: str) -> Path:
    """40 statements, "coin is red one"; the label is their third word, 0 or 1."""
    header = ",".join(["text", "label", *columns])
    extra = "".join(f",{value}" for value in columns.values())
    rows = [
        f"{subject} is {words[i % 2]} {number},{i % 2}{extra}"
        for i, (subject, number) in enumerate((s, n) for s in SUBJECTS for n in NUMBERS)
    ]
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def write_config(path: Path, model: Path | str, *datasets: Any, **sections: Any) -> Path:
    """A config file; without ``probe``, the quick one."""
    config = {
        "models": [model if isinstance(model, dict) else str(model)],
        "datasets": [str(d) if isinstance(d, Path) else d for d in datasets],
        "probe": QUICK,
    }
    path.write_text(yaml.safe_dump(config | sections), encoding="utf-8")
    return path
