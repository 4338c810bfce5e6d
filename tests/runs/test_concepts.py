"""Several concepts in one file, labelled words, and a split that a file has: whole runs of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from toy import QUICK, write_config

import llmprobe
from llmprobe.config.load import load_config
from llmprobe.results.folder import missing_curves, read_results
from llmprobe.runs.pipeline import Run

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
    estimate, _probing = Run(load_config(config, overrides), tmp_path / "run").estimates()
    assert " on moods: 40 texts, " in estimate
    summary = Run(load_config(config, overrides), tmp_path / "run").probe(extract=True).summary
    assert summary["dataset"].tolist() == ["moods:a/b:c", "moods:odd"]
    assert len(list((tmp_path / "cache" / "activations").iterdir())) == 1
    files = [path.name for path in (tmp_path / "run").glob("probes/*/*")]
    assert sorted(files) == ["moods-a%2Fb%3Ac.safetensors", "moods-odd.safetensors"]
    assert not [*missing_curves(read_results(tmp_path / "run"), load_config(config))]
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


def test_a_split_of_the_file_is_scored_on_its_test_side_alone(
    tmp_path: Path, tiny_model: TinyModel
) -> None:
    rows = "".join(
        f"word {i} {'red' if i % 2 else 'blue'},{i % 2},{'test' if i < 40 else 'train'}\n"
        for i in range(100)
    )
    (tmp_path / "my.csv").write_text(f"text,label,split\n{rows}")
    data = {"path": str(tmp_path / "my.csv"), "split": "split"}
    probe = {**QUICK, "permutations": 20, "controls": ["bag_of_words", "random_labels"]}
    config = write_config(tmp_path / "my.yaml", tiny_model("llama"), data, probe=probe)
    run = Run(load_config(config, ["report.traces=0"]), tmp_path / "run")
    results = run.probe(extract=True)
    assert set(results.predictions["example"]) == {*range(40)}
    assert (results.table["n_examples"] == 40).all()
    dataset = llmprobe.load_dataset(tmp_path / "my.csv", split="split")
    states = llmprobe.extract(tiny_model("llama"), dataset, cache=False, progress=False)
    layer = results.table["layer"].iloc[-1]
    alone = llmprobe.probe_layers(
        {layer: states.layer(layer)}, dataset.labels, test=dataset.test, progress=False, **QUICK
    )
    assert alone.table["accuracy"].item() == results.table["accuracy"].iloc[-1]


def test_words_alone_are_what_the_bag_of_words_of_labelled_words_reads(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    nouns, verbs = ("city", "coin", "capital"), ("is", "in", "has")
    rows = [
        {"tokens": [rng.choice(nouns), rng.choice(verbs), rng.choice(nouns), rng.choice(verbs)],
         "tags": ["N", "V", "N", "V"]}
        for _ in range(40)
    ]  # fmt: skip
    pd.DataFrame(rows).to_json(tmp_path / "my.jsonl", orient="records", lines=True)
    dataset = llmprobe.load_dataset(tmp_path / "my.jsonl", tokens="tokens", tags="tags")
    states = llmprobe.extract(tiny_model("llama"), dataset, cache=False, progress=False)
    options = QUICK | {"controls": ["bag_of_words"]}
    summary = llmprobe.probe(states, progress=False, **options).summary
    assert summary["bag_of_words_accuracy"].item() == 1.0
