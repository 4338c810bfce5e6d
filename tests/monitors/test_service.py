"""The service of docs/service.md, as it stands there: no wrong score under load."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from probes import fit
from toy import write_table

import llmprobe

TEXT = (Path(__file__).parents[2] / "docs/service.md").read_text(encoding="utf-8")
CODE = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture
def toy(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], np.ndarray]:
    """Texts, and what a probe of a tiny model says of each alone."""
    folder = tiny_model("llama")
    dataset = llmprobe.load_dataset(write_table(tmp_path / "toy.csv"))
    probe, activations = fit(folder, dataset)
    path = probe.save(tmp_path / "toy.safetensors")
    monkeypatch.setenv("PROBE", str(path))
    monkeypatch.setenv("MODEL", str(folder))
    states = activations.layer(probe.best_layer)
    return list(dataset.texts), probe.predict_proba(states)[:, 1]


def test_a_thousand_requests_from_eight_threads_get_their_own_scores(
    toy: tuple[list[str], np.ndarray],
) -> None:
    texts, expected = toy
    (code,) = (code for code in CODE if code.startswith("# service.py"))
    names: dict[str, object] = {}
    exec(compile(code, "service.py", "exec"), names)
    client = TestClient(names["app"])  # type: ignore[arg-type]

    def ask(i: int) -> float:
        chosen = np.arange(i, i + 1 + i % 3) % len(texts)
        answer = client.post("/scores", json=[texts[k] for k in chosen])
        return float(np.abs(np.array(answer.json()) - expected[chosen]).max())

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(ask, range(1000))) < 1e-4
