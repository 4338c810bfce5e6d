"""Several concepts in one file: one extraction, and a curve for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from toy import QUICK, write_config

import llmprobe
from llmprobe.config.load import load_config
from llmprobe.run.pipeline import Run

TinyModel = Callable[..., Path]


@pytest.fixture
def moods(tmp_path: Path) -> Path:
    """40 texts: a mood with a slash in its name, one that nobody has, and one that is rare."""
    path = tmp_path / "moods.csv"
    rows = [f"word {i} {'red' if i % 2 else 'blue'},{i % 2},0,{+(i == 5)}" for i in range(40)]
    path.write_text("\n".join(["text,a/b:c,nobody,rare", *rows]) + "\n")
    return path


def test_a_run_extracts_once_and_has_a_curve_for_each_concept(
    tmp_path: Path, tiny_model: TinyModel, moods: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("LLMPROBE_CACHE", str(tmp_path / "cache"))
    table = pd.read_csv(moods)
    table["odd"] = np.arange(40) // 2 % 2
    table.to_csv(moods, index=False)
    labels = {"path": str(moods), "label": ["a/b:c", "nobody", "rare", "odd"]}
    config = write_config(tmp_path / "moods.yaml", tiny_model("llama"), labels)
    overrides = ["report.traces=0"]
    summary = Run(load_config(config, overrides), tmp_path / "run").probe(extract=True).summary
    assert summary["dataset"].tolist() == ["moods:a/b:c", "moods:odd"]
    assert len(list((tmp_path / "cache" / "activations").iterdir())) == 1
    files = [path.name for path in (tmp_path / "run").glob("probes/*/*")]
    assert sorted(files) == ["moods-a%2Fb%3Ac.safetensors", "moods-odd.safetensors"]
    assert "left out, since their labels are all the same: nobody" in caplog.text
    assert "left out: moods:rare: class 1 has 1 example, too few for 2 folds" in caplog.text


def test_probing_activations_of_several_concepts_gives_all_curves(
    tiny_model: TinyModel, moods: Path
) -> None:
    dataset = llmprobe.load_dataset(moods, label=["a/b:c", "nobody"])
    activations = llmprobe.extract(tiny_model("llama"), dataset, cache=False, progress=False)
    results = llmprobe.probe(activations, progress=False, **QUICK)
    assert results.summary["dataset"].tolist() == ["moods:a/b:c"]
    alone = llmprobe.load_dataset(moods, label="a/b:c")
    states = llmprobe.extract(tiny_model("llama"), alone, cache=False, progress=False)
    expected = llmprobe.probe(states, progress=False, **QUICK).table
    assert results.table["accuracy"].tolist() == expected["accuracy"].tolist()
