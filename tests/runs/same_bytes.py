"""What two run folders have in common, for tests of who does the work."""

from __future__ import annotations

from pathlib import Path

import pandas as pd


def recorded(folder: Path) -> dict[str, object]:
    """Return the bytes of each file of a run, and of tables the rows, without what clocks said."""
    content: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        # Digests are of files with times in them.
        if name.startswith("parts/tasks/") or path.name in ("digests.json", "environment.json"):
            continue
        content[name] = path.read_bytes()
        if path.stem == "summary":
            table = pd.read_parquet(path.with_suffix(".parquet"))
            clocks = [column for column in table if column.startswith("seconds")]
            content[name] = table.drop(columns=clocks).to_csv()
    return content


def changed_at(folder: Path) -> dict[str, int]:
    """Return when each file of the parts of a run was written, but for what lists files."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in (folder / "parts").rglob("*")
        if path.is_file() and path.name != "digests.json"
    }
