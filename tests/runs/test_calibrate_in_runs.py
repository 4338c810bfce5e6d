"""A run with ``probe.calibrate`` leaves probes whose thresholds are guaranteed, for `score`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from toy import NUMBERS, QUICK, SUBJECTS, write_config

from llmprobe import load_probe
from llmprobe.cli.main import main
from llmprobe.config.load import load_config
from llmprobe.runs.pipeline import Run


def test_a_calibrated_run_leaves_a_monitor_and_says_what_it_cannot_tell(
    tmp_path: Path, tiny_model: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    texts = [
        f"{subject} is {colour} {number} {end}"
        for subject in SUBJECTS for number in NUMBERS for end in ("heads", "up")
        for colour in ("red", "blue")
    ]  # fmt: skip
    labels = [int(" blue " in text) for text in texts]
    table = tmp_path / "colours.csv"
    pd.DataFrame({"text": texts, "label": labels}).to_csv(table, index=False)
    probe = QUICK | {"calibrate": 0.5}
    config = write_config(tmp_path / "c.yaml", tiny_model("llama"), table, probe=probe)
    caplog.set_level("INFO", logger="llmprobe")
    run = Run(load_config(config, ["report.traces=0"]), tmp_path / "run")
    summary = run.probe(extract=True).summary.iloc[0]
    few = "too few negatives to tell a false positive rate of 5 %: 40 units set aside have one, 59"
    assert any(few in message for message in caplog.messages)
    (path,) = (tmp_path / "run").glob("probes/*/*.safetensors")
    assert load_probe(path).threshold(0.1).guarantee
    assert (summary["threshold_origin"], summary["threshold_negative_units"]) == ("set aside", 40)
    out = tmp_path / "scored.csv"
    words = ["score", str(path), "--file", str(table), "--fpr", "0.1", "--out", str(out)]
    assert main(words) == 0
    assert "guaranteed at 95 % confidence: of units like the 40 with" in caplog.messages[-1]
    assert caplog.messages[-1].endswith(" % of the positives set aside")
    scored = pd.read_csv(out)
    assert scored.loc[scored["label"] == 1, "flagged"].mean() > 0.9
