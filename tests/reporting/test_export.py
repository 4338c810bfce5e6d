"""``llmprobe export``: a probe as plain arrays, and as a folder that the Hub takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from probes import fit, save
from synthetic_runs import capitals, probed_run
from toy import write_table

import llmprobe
from llmprobe.cli.main import main
from llmprobe.ground.text import capitalised
from llmprobe.reporting.export import _plain
from llmprobe.results.questions import QUESTIONS
from llmprobe.results.saved_probe import load_probe


@pytest.fixture(scope="module")
def probe(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In a run folder, whose config says that the dataset is the Hub's."""
    run = tmp_path_factory.mktemp("run")
    dataset = llmprobe.load_dataset(write_table(run / "toy.csv"))
    fitted, _ = fit(tiny_model("llama", bos=True), dataset)
    datasets = [{"hub": "someone/toys", "name": "toy"}]
    (run / "config.yaml").write_text(yaml.safe_dump({"datasets": datasets}))
    return save(fitted, run)


def test_the_arrays_give_the_probes_own_logits(probe: Path, tmp_path: Path) -> None:
    own = load_probe(probe)
    for _ in range(2):
        assert main(["export", str(probe), "--to", "numpy", "--out", str(tmp_path / "out")]) == 0
    arrays = np.load(tmp_path / "out" / "probe.npz", allow_pickle=False)
    states = np.random.default_rng(0).normal(size=(5, 32))
    for layer in own.layers:
        logits = states @ arrays[f"coef_{layer}"].T + arrays[f"intercept_{layer}"]
        assert logits[:, 0] == pytest.approx(own.decision_function(states, layer))
    assert (arrays["layers"].tolist(), arrays["best_layer"]) == (own.layers, own.best_layer)
    assert arrays["classes"].tolist() == ["0", "1"]
    # What the README says to do, does it.
    readme = (tmp_path / "out" / "README.md").read_text()
    code = "\n".join(line.strip() for line in readme.splitlines() if line.startswith("    "))
    names = {"states": states}
    exec(code.replace("probe.npz", str(tmp_path / "out" / "probe.npz")), names)
    assert names["logits"][:, 0] == pytest.approx(own.decision_function(states))
    assert "A logit above 0 means `1`, below 0 `0`;" in readme
    named = replace(own, facts={**own.facts, "class_names": {"1": "true"}})
    path = str(named.save(tmp_path / "named.safetensors"))
    assert main(["export", path, "--to", "numpy", "--out", str(tmp_path / "named")]) == 0
    readme = (tmp_path / "named" / "README.md").read_text()
    assert "A logit above 0 means `1` (`true`), below 0 `0`;" in readme


def test_equal_probes_are_exported_as_equal_bytes(probe: Path, tmp_path: Path) -> None:
    for to in ("numpy", "hub"):
        made = []
        for name in ("a", "b"):
            more = ["--base-model", "owner/tiny"] if to == "hub" else []
            out = tmp_path / to / name
            assert main(["export", str(probe), "--to", to, "--out", str(out), *more]) == 0
            made.append({path.name: path.read_bytes() for path in sorted(out.iterdir())})
        assert made[0] == made[1]


@pytest.fixture
def card(probe: Path, tmp_path: Path) -> ModelCard:
    words = ["--to", "hub", "--out", str(tmp_path / "out"), "--base-model", "owner/tiny"]
    assert main(["export", str(probe), *words]) == 0
    return ModelCard.load(tmp_path / "out" / "README.md")


def test_the_hub_reads_the_card(card: ModelCard, probe: Path) -> None:
    own = load_probe(probe)
    data = card.data.to_dict()
    assert data["base_model"] == "owner/tiny"
    assert data["library_name"] == "llmprobe"
    assert data["datasets"] == ["someone/toys"]
    assert {"llmprobe", "linear-probe"} <= set(data["tags"])
    assert {result.dataset_name for result in card.data.eval_results} == {"toy"}
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    best = own.layers.index(own.best_layer)
    assert values["accuracy"] == pytest.approx(own.scores["accuracy"][best], abs=1e-4)
    assert values["roc_auc"] == pytest.approx(own.scores["auroc"][best], abs=1e-4)
    for layer, score in zip(own.layers, own.scores["accuracy"], strict=True):
        row = next(line for line in card.text.splitlines()
                   if line.replace("*", "").startswith(f"| {layer} |"))  # fmt: skip
        assert f"{score:.3f}" in row
    assert "![Score over layers, with 95 % intervals](scores.png)" in card.text


@pytest.mark.usefixtures("card")
def test_the_folder_has_the_probe_as_others_find_its_model(probe: Path, tmp_path: Path) -> None:
    own, exported = load_probe(probe), load_probe(tmp_path / "out" / "toy.safetensors")
    assert exported.digest == own.digest
    assert exported.golden == own.golden
    assert exported.facts["model_id"] == "owner/tiny"
    folder = own.facts["model_id"]
    for path in (tmp_path / "out").iterdir():
        assert folder.encode() not in path.read_bytes()
    assert (tmp_path / "out" / "scores.png").read_bytes().startswith(b"\x89PNG")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"README.md", "toy.safetensors", "scores.png"}


def test_the_card_has_the_evidence_of_the_probes_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = probed_run(tmp_path / "run", {"small": 4}, [capitals("a"), capitals("b")])
    more = ["--to", "hub", "--base-model", "owner/small", "--out"]
    caplog.clear()
    for evidence in run.evidence:
        path = tmp_path / "run" / "probes" / "small" / f"{evidence.dataset}.safetensors"
        out = tmp_path / evidence.dataset
        assert main(["export", str(path), *more, str(out)]) == 0
        text = ModelCard.load(out / "README.md").text.replace("\\", "")
        assert f"\n{capitalised(evidence.line)}.\n" in text
        for key, answer in evidence.questions.items():
            assert f"| {QUESTIONS[key].asks} | {answer.answer} | {answer.sentence} |" in text
    assert not caplog.records
    alone = load_probe(path).save(tmp_path / "alone.safetensors")
    assert main(["export", str(alone), *more, str(tmp_path / "c")]) == 0
    assert "evidence" not in (tmp_path / "c" / "README.md").read_text()


@pytest.mark.parametrize("nasty", ["<script>", "[a](http://b)", "a | b", "`x`", "**b**", "<!--"])
def test_a_sentence_in_the_card_is_no_markdown(nasty: str) -> None:
    shown = MarkdownIt("gfm-like", {"linkify": False}).render(_plain(nasty))
    assert unescape(shown).strip() == f"<p>{nasty}</p>"


def test_names_of_a_stranger_are_text_in_the_card(probe: Path, tmp_path: Path) -> None:
    own = load_probe(probe)
    wild = "{{ 1 }}`</code><script>\n---\nlicense: x [a](http://b)"
    facts = {**own.facts, "dataset": wild, "model_id": "owner/tiny", "template": "{text} {0}"}
    path = replace(own, facts=facts).save(tmp_path / "p.safetensors")
    assert main(["export", str(path), "--to", "hub", "--out", str(tmp_path / "out")]) == 0
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert "license" not in card.data.to_dict()
    assert card.data.base_model == "owner/tiny"
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 1
    code = [part for line in card.text.splitlines() for part in line.split("`")[::2]]
    assert "`</code>" not in card.text
    assert not any("<script>" in part or "](http" in part for part in code)


def test_probes_of_other_kinds_are_exported_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layers = {i: rng.normal(size=(60, 5)) for i in range(3)}
    for kind, labels in (("ridge", rng.normal(size=60)), ("logistic", np.arange(60) % 3)):
        results = llmprobe.probe_layers(
            layers, labels, kind=kind, permutations=0, controls=[], progress=False
        )
        path = results.probes[0].save(tmp_path / f"{kind}.safetensors")
        for to in ("numpy", "hub"):
            words = ["--base-model", "owner/tiny"] if to == "hub" else []
            out = str(tmp_path / kind / to)
            assert main(["export", str(path), "--to", to, "--out", out, *words]) == 0
        ModelCard.load(tmp_path / kind / "hub" / "README.md")


def test_what_cannot_be_exported_is_said(
    probe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    out = str(tmp_path / "out")
    for words, message in (
        (["--to", "hub", "--out", out], "its model is on this disk alone"),
        (["--to", "hub", "--out", out, "--base-model", "a b"], "'a b' is no name on the Hub"),
        (["--to", "numpy", "--out", out, "--base-model", "a/b"], "--base-model: belongs to"),
        (["--to", "numpy", "--out", str(tmp_path / "file")], "cannot be written: it is a file"),
    ):
        assert main(["export", str(probe), *words]) == 2
        assert message in capsys.readouterr().err
