"""The code of docs/coming-from.md runs, and gives the same states where the page says so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import llmprobe

TEXT = (Path(__file__).parents[1] / "docs/coming-from.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def test_what_a_notebook_does_by_hand_is_done_here_to_the_same_states(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        f"the city of {city} is {colour} {number},{int(colour == 'red')},{city} {number}"
        for city in ("Lima", "Paris", "Bern")
        for number in ("one", "two", "three", "four", "five")
        for colour in ("red", "blue")
    ]
    Path("my.csv").write_text("\n".join(["statement,label,city", *rows]))
    model = str(tiny_model("gpt2"))
    seen: dict[str, object] = {"llmprobe": llmprobe}

    def run(block: str, which: int = 0) -> None:
        code = [code for name, code in BLOCKS if name == block][which]
        code = code.replace('"gpt2"', repr(model))
        exec(compile(code, f"docs/coming-from.md: {block}.py", "exec"), seen)

    run("dataset")
    run("notebook")
    by_hand = np.asarray(seen["states"])
    assert len(seen["scores"]) == by_hand.shape[1] == 4  # type: ignore[arg-type]
    run("here", which=1)
    activations = seen["activations"]
    assert isinstance(activations, llmprobe.Activations)
    for layer in activations.layers[:-1]:
        np.testing.assert_allclose(by_hand[:, layer], activations.layer(layer), rtol=0, atol=1e-5)
    last = activations.layers[-1]
    assert np.abs(by_hand[:, last] - activations.layer(last)).max() > 0.01  # The final norm.
    assert len(seen["scores"]) == 4  # type: ignore[arg-type]
    import torch

    seen["states"] = torch.from_numpy(
        np.stack([activations.layer(layer) for layer in (1, 2, 3)], axis=1)
    )
    run("states")
    results = seen["results"]
    assert isinstance(results, llmprobe.Results)
    assert list(results.table["layer"]) == [1, 2, 3]
