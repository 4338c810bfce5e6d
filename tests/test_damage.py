"""Any damaged file is refused in a sentence, or made again."""

from __future__ import annotations

from pathlib import Path

from damage import campaign


def test_no_damage_is_read_silently_or_ends_in_a_traceback(tmp_path: Path) -> None:
    rows = campaign(tmp_path, 24)
    assert rows["kind"].nunique() == 24
    bad = rows[rows["outcome"].isin(["silent", "traceback"])]
    assert bad.empty, bad.to_string()
    assert {"refused", "made again"} <= set(rows["outcome"])
