"""The hook of docs/elsewhere.md, as it stands there: plain transformers give the same scores."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from probes import fit
from toy import write_table

import llmprobe
from llmprobe.cli.main import main

TEXT = (Path(__file__).parents[2] / "docs/elsewhere.md").read_text(encoding="utf-8")


def test_a_hook_in_plain_transformers_gives_the_scores_of_the_probe(
    tiny_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tiny_model("llama")
    dataset = llmprobe.load_dataset(write_table(tmp_path / "toy.csv"))
    probe, activations = fit(folder, dataset)
    path, out = probe.save(tmp_path / "toy.safetensors"), tmp_path / "exported"
    assert main(["export", str(path), "--to", "numpy", "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["path", str(folder)]) == 0
    layer = max(probe.best_layer, 1)
    monkeypatch.setenv("MODEL", capsys.readouterr().out.strip())
    monkeypatch.setenv("PROBE", str(out / "probe.npz"))
    monkeypatch.setenv("LAYER", str(layer))
    (code,) = re.findall(r"^```python\n(# hook\.py.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    names: dict[str, Callable[[str], float]] = {}
    exec(compile(code, "hook.py", "exec"), names)
    expected = probe.predict_proba(activations.layer(layer), layer)[:, 1]
    scores = [names["score"](text) for text in dataset.texts[:8]]
    assert scores == pytest.approx(expected[:8].tolist(), abs=1e-5)
