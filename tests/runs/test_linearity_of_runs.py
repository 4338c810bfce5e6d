"""A run asks of each curve whether a curved probe would read more."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy import QUICK, write_config, write_table

from llmprobe.config.load import load_config
from llmprobe.probing import linearity
from llmprobe.results.results import Results
from llmprobe.runs.pipeline import Run

ASKED = {"features": 64, "null": 1, "layers": [1]}


def results_of(tmp_path: Path, model: Path, asked: Any, **probe: Any) -> Results:
    table = write_table(tmp_path / "toy.csv")
    config = write_config(
        tmp_path / "toy.yaml", {"id": str(model), "dtype": "float32"}, table, linear=asked,
        probe=QUICK | probe, report={"traces": 0},
    )  # fmt: skip
    return Run(load_config(config), tmp_path / "out").probe(extract=True)


def test_the_gap_is_in_the_tables_and_answers_the_question(
    tmp_path: Path, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = results_of(tmp_path, tiny_model("llama"), ASKED)
    summary, table = results.summary.iloc[0], results.table.set_index("layer")
    best = int(summary["peak_layer"])
    assert set(table.index[table["linearity_gap"].notna()]) == {1, best}
    assert summary["linearity_gap"] == table.loc[best, "linearity_gap"]
    assert summary["linearity_gap_low"] <= summary["linearity_gap"]
    assert summary["rank"] >= 1
    assert summary["redundancy"] in (0, 1, 2, 3)
    (evidence,) = json.loads((tmp_path / "out" / "evidence.json").read_text())
    assert evidence["questions"]["linear"]["answer"] in ("yes", "no", "unclear")
    assert evidence["questions"]["linear"]["value"] == pytest.approx(summary["linearity_gap"])
    monkeypatch.setattr(linearity, "linearity_gap", None)
    again = results_of(tmp_path, tiny_model("llama"), ASKED)
    assert again.summary.iloc[0]["linearity_gap"] == summary["linearity_gap"]


@pytest.mark.parametrize(
    ("asked", "probe", "note"),
    [
        (ASKED, {"kind": "mass_mean"}, "The probe is mass_mean"),
        ({**ASKED, "layers": [9]}, {}, "there is no layer 9"),
    ],
)
def test_what_cannot_be_asked_is_said(
    tmp_path: Path, tiny_model: Callable[..., Path], asked: Any, probe: Any, note: str
) -> None:
    results = results_of(tmp_path, tiny_model("llama"), asked, **probe)
    answer = results.evidence[0].questions["linear"]
    assert answer.answer == "does not apply"
    assert note in answer.sentence
    assert np.isnan(results.summary["linearity_gap"].iloc[0])


def test_it_is_not_asked_unless_wanted(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    results = results_of(tmp_path, tiny_model("llama"), False)
    assert results.evidence[0].questions["linear"].answer == "not asked"
