"""A probe of several layers at work: new texts, a running model, other engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
import toy
from transformers import AutoModelForCausalLM, AutoTokenizer

import llmprobe
from llmprobe import ConceptDataset, Results, SavedProbe, UserError
from llmprobe.cli.main import main
from llmprobe.extraction.activations import Activations
from llmprobe.monitors.new_texts import ReadingOptions
from llmprobe.monitors.verify import verify

TEXTS = [f"{subject} is {word}" for subject in ("the coin", "Lima", "a city of Peru", "Bern")
         for word in ("red", "blue", "one", "two", "three", "four")]  # fmt: skip
LABELS = np.array([0, 1] * 12)


class Fitted(NamedTuple):
    """A tiny model, its states and the probe of its layers 1 and 3."""

    folder: Path
    activations: Activations
    probe: SavedProbe

    @property
    def expected(self) -> np.ndarray:
        """Probabilities of the last class, from the states that are kept."""
        states = np.hstack([self.activations.layer(layer) for layer in (1, 3)])
        return 1 / (1 + np.exp(-self.logits(states)))

    def logits(self, states: np.ndarray) -> np.ndarray:
        return (states @ self.probe.coef[3].T + self.probe.intercept[3])[:, 0]


@pytest.fixture
def fitted(tiny_model: Callable[..., Path]) -> Fitted:
    folder = tiny_model("llama")
    dataset = ConceptDataset("few", TEXTS, LABELS)
    activations = llmprobe.extract(
        str(folder), dataset, cache=False, progress=False, dtype="float32"
    )
    options: dict[str, Any] = toy.QUICK | {"progress": False, "multi_layer": (1, 3)}
    _, probe = llmprobe.probe(activations, **options).probes
    return Fitted(folder, activations, probe)


def test_new_texts_have_the_scores_of_their_states(fitted: Fitted) -> None:
    scored = llmprobe.score(fitted.probe, TEXTS[::-1], model=str(fitted.folder))
    assert scored["score"].to_numpy() == pytest.approx(fitted.expected[::-1], abs=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_running_model_is_read_at_all_of_them_in_one_pass(fitted: Fitted, side: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(fitted.folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(fitted.folder)
    inputs = tokenizer(TEXTS, padding=True, padding_side=side, return_tensors="pt")
    inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
    given: list[torch.Tensor] = []
    with fitted.probe.attach(model, threshold=0.5, on_scores=given.append) as handle:
        model(**inputs)
        (scores,) = given
        assert torch.equal(scores, handle.scores)
        assert handle.scores.numpy() == pytest.approx(fitted.expected, abs=1e-4)
        assert handle.flagged.tolist() == (fitted.expected > 0.5).tolist()
    with fitted.probe.attach(model, every_token=True) as every:
        model(**tokenizer(TEXTS[0], return_tensors="pt"))
        assert every.scores[0, -1].item() == pytest.approx(fitted.expected[0], abs=1e-4)


def test_its_golden_examples_are_verified_and_another_layer_is_named(fitted: Fitted) -> None:
    options = ReadingOptions(model=str(fitted.folder))
    lines = list(verify(fitted.probe, "probe", options))
    assert lines[0].startswith("probe: layers 1 and 3, ")
    assert lines[-1].startswith("they agree")


def test_states_of_another_engine_are_verified_too(fitted: Fitted, tmp_path: Path) -> None:
    from llmprobe.config.schema import ActivationsConfig

    rows = [text["row"] for text in fitted.activations.facts["golden"]]
    states = np.stack([fitted.activations.layer(layer)[rows] for layer in range(4)])
    for name, moved in (("same", 0), ("moved", 1)):
        arrays = {str(i + moved): of_layer for i, of_layer in enumerate(states)}
        np.savez(tmp_path / f"{name}.npz", **arrays)
    options = ReadingOptions(model=str(fitted.folder))
    config = ActivationsConfig(path=tmp_path / "same.npz")
    assert list(verify(fitted.probe, "probe", options, config))[-1].startswith("they agree")
    with pytest.raises(UserError, match="off by one"):
        list(verify(fitted.probe, "probe", options, ActivationsConfig(path=tmp_path / "moved.npz")))


def test_it_has_no_trace(fitted: Fitted) -> None:
    with pytest.raises(UserError, match="reads layers 1 and 3 at once, so it has no score at each"):
        llmprobe.trace(fitted.probe, TEXTS[0], model=str(fitted.folder))


def test_of_pooled_scores_there_is_none(tiny_model: Callable[..., Path]) -> None:
    dataset = ConceptDataset("few", TEXTS, LABELS)
    activations = llmprobe.extract(
        str(tiny_model("llama")), dataset, cache=False, progress=False, position="tokens"
    )
    of = llmprobe.probe(
        activations, **toy.QUICK, progress=False, multi_layer="auto", pooling=["mean", "max"]
    )
    known = of.summary.set_index("position")["multi_layer"]
    assert known["tokens:mean"] == "1, 2, 3"
    assert pd.isna(known["tokens:max"])


def run_of(tmp_path: Path, model: Path, name: str, command: str = "run", **probe: Any) -> Path:
    config = toy.write_config(
        tmp_path / f"{name}.yaml", model, toy.write_table(tmp_path / "colours.csv"),
        probe=toy.QUICK | probe,
    )  # fmt: skip
    assert main([command, str(config), "--out", str(tmp_path / name)]) == 0
    return tmp_path / name


def test_a_run_shows_it_everywhere(
    tiny_model: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = tiny_model("llama")
    run = run_of(
        tmp_path, model, "run", multi_layer=[1, 3], controls=["majority", "random_weights"]
    )
    assert "+ layers 1, 3" in capsys.readouterr().out
    results: Results = llmprobe.load_run(run)
    (curve,) = results.curves
    assert curve.multi_layer is not None
    assert curve.multi_layer["layers_read"] == "1, 3"
    assert np.isnan(curve.multi_layer["random_weights_accuracy"])
    assert "1, 3 at once" in (run / "report.html").read_text(encoding="utf-8")
    (path,) = run.glob("probes/*/colours@multi-layer.safetensors")
    probe = llmprobe.load_probe(path)
    assert main(["score", str(path), "--file", str(tmp_path / "colours.csv"), "--label", "label",
                 "--model", str(model)]) == 0  # fmt: skip
    assert capsys.readouterr().out.count("\n") == 41
    assert "at layers 1 and 3: predicted" in caplog.text
    before = path.read_bytes()
    assert main(["probe", str(run / "config.yaml"), "--out", str(run)]) == 0
    assert path.read_bytes() == before  # Read back from its part.
    assert main(["trace", str(run), "--text", "coin is red one"]) == 0
    with_out = tmp_path / "numpy"
    assert main(["export", str(path), "--to", "numpy", "--out", str(with_out)]) == 0
    assert "side by side" in (with_out / "README.md").read_text(encoding="utf-8")
    assert probe.layers_in_words() == "layers 1 and 3"
    other = run_of(tmp_path, model, "other", "probe", multi_layer=[1, 3], seed=1)
    capsys.readouterr()
    out_dir = tmp_path / "compared"
    assert main(["compare", str(run), str(other), "--out", str(out_dir), "--anyway"]) == 0
    assert "+ layers 1, 3" in capsys.readouterr().out
    assert "1, 3 at once" in (out_dir / "report.html").read_text(encoding="utf-8")


def test_a_layer_that_the_model_has_not_is_refused_before_it_runs(
    tiny_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = toy.write_config(
        tmp_path / "config.yaml", tiny_model("llama"), toy.write_table(tmp_path / "colours.csv"),
        probe=toy.QUICK | {"multi_layer": [1, 9]},
    )  # fmt: skip
    assert main(["run", str(config), "--out", str(tmp_path / "run")]) == 2
    assert "layer 9 is not read; the layers are 0 to 3" in capsys.readouterr().err
    assert not (tmp_path / "run" / "results.parquet").exists()
