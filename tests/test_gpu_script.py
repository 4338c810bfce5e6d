"""The script that checks and measures llmprobe on a GPU runs on a CPU too, with tiny sizes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_gpu_script_writes_its_whole_table_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "table.md"
    done = subprocess.run(
        ["bash", "scripts/gpu.sh", "--tiny", "--out", out, "--carried", tmp_path],
        cwd=ROOT, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = out.read_text(encoding="utf-8")
    assert written.strip() == done.stdout.strip()
    head, rows = written.split("|---|--:|--:|---|\n")
    assert re.search(r"torch \d.*, transformers \d.*; \d{4}-\d\d-\d\d, commit \w+\.", head)
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows.splitlines()]
    checks = {what: mark for what, _, wanted, mark in cells if wanted.startswith("≤")}
    assert len(checks) == 3
    assert set(checks.values()) == {"yes"}
    everything = " ".join(what for what, *_ in cells)
    for said in ("tiny architectures", "share of that peak", "peak memory", "scikit-learn"):
        assert said in everything
    assert "left out" not in written


def test_the_gpu_script_says_that_there_is_no_gpu() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/gpu.py"],
        cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--tiny" in done.stderr
