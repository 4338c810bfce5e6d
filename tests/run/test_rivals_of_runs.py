"""What a run says of the rivals of its curves follows from its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from toy import write_config, write_table

import llmprobe
from llmprobe import UserError
from llmprobe.config.load import load_config
from llmprobe.datasets.groups import units
from llmprobe.results.folder import read_results
from llmprobe.results.resampling import Resamples
from llmprobe.results.rivals import rival_columns
from llmprobe.run.pipeline import Run

CONTROLS = ["bag_of_words", "token_embeddings", "random_weights"]


@pytest.fixture
def config(tiny_model: Callable[..., Path], tmp_path: Path) -> Path:
    model = {"id": str(tiny_model("llama")), "dtype": "float32"}
    probe = {"folds": 2, "controls": CONTROLS, "permutations": 0, "description_length": False}
    return write_config(
        tmp_path / "toy.yaml", model, write_table(tmp_path / "first.csv"), probe=probe
    )


def test_scores_and_gains_follow_from_the_answers_on_disk(config: Path) -> None:
    out = config.parent / "run"
    Run(load_config(config), out).probe(extract=True)
    results = read_results(out)
    (curve,) = results.curves
    best = results.predictions[results.predictions["layer"] == curve.layer]
    dataset = llmprobe.load_dataset(config.parent / "first.csv")
    resamples = Resamples(len(dataset), units(dataset.units, dataset.texts), 0)
    found = rival_columns(results.rivals, best, "accuracy", curve.classes, resamples)
    assert set(results.rivals["rival"]) == set(CONTROLS)
    for name, value in found.items():
        assert curve.number(name) == pytest.approx(value)
    for rival in CONTROLS:
        rows = results.rivals[results.rivals["rival"] == rival].merge(best, on="example")
        right = (rows["predicted_x"] == rows["label"]).mean()
        assert curve.rival(rival) == pytest.approx(right)


def test_token_embeddings_are_probed_as_layer_0_of_the_mean_is(config: Path) -> None:
    results = Run(load_config(config), config.parent / "run").probe(extract=True)
    model = load_config(config).models[0]
    dataset = llmprobe.load_dataset(config.parent / "first.csv")
    mean = llmprobe.extract(model, dataset, position="mean", progress=False)
    alone = llmprobe.probe(mean, folds=2, permutations=0, description_length=False, progress=False)
    stated = results.summary["token_embeddings_accuracy"].item()
    assert stated == alone.table["accuracy"].iloc[0]
    assert alone.summary["token_embeddings_accuracy"].item() == stated


def test_a_stage_alone_asks_for_the_embeddings_too(config: Path) -> None:
    without = ["probe.controls=[bag_of_words]"]
    for _ in Run(load_config(config, without), config.parent / "run").extract():
        pass
    with pytest.raises(UserError, match="not extracted yet"):
        Run(load_config(config, ["probe.controls=[token_embeddings]"]),
            config.parent / "run").probe()  # fmt: skip
