"""What a run says of the rivals of its curves follows from its files."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from toy import write_config, write_table

import llmprobe
from llmprobe import UserError
from llmprobe.config.load import load_config
from llmprobe.config.schema import ModelConfig
from llmprobe.datasets.groups import units
from llmprobe.extraction import extract as extraction
from llmprobe.models.loading import LoadedModel, load_model
from llmprobe.models.source import ModelSource
from llmprobe.results.folder import read_results
from llmprobe.results.resampling import Resamples
from llmprobe.results.rivals import rival_columns
from llmprobe.runs.pipeline import Run

CONTROLS = ["bag_of_words", "token_embeddings", "text_encoder", "length", "perplexity",
            "random_weights"]  # fmt: skip


@pytest.fixture
def config(tiny_model: Callable[..., Path], tmp_path: Path) -> Path:
    model = {"id": str(tiny_model("llama", head=True)), "dtype": "float32"}
    probe = {"folds": 2, "controls": CONTROLS, "permutations": 0, "description_length": False,
             "text_encoder": str(tiny_model("bert", bos=True, eos=True))}  # fmt: skip
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


def test_a_stage_alone_asks_for_the_embeddings_too_and_downloads_no_encoder(config: Path) -> None:
    without = ["probe.controls=[bag_of_words]"]
    for _ in Run(load_config(config, without), config.parent / "run").extract():
        pass
    with pytest.raises(UserError, match="not extracted yet"):
        Run(load_config(config, ["probe.controls=[token_embeddings]"]),
            config.parent / "run").probe()  # fmt: skip
    here = load_config(config).probe.text_encoder
    for encoder, message in (
        (here, "tiny-bert on first: not extracted yet"),
        ("minilm", "minilm: not extracted yet, nor on this disk"),
    ):
        both = [f"probe.text_encoder={encoder}", "probe.controls=[text_encoder]"]
        with pytest.raises(UserError, match=message):
            Run(load_config(config, both), config.parent / "run").probe()


def test_the_text_encoder_is_run_once_and_gone_before_a_model_is_loaded(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(config.parent / "second.csv", words=("red", "green"))
    datasets = [str(config.parent / f"{name}.csv") for name in ("first", "second")]
    loaded, held = [], list[weakref.ref[object]]()

    def load(model: ModelConfig, source: ModelSource) -> LoadedModel:
        gc.collect()
        assert not any(reference() for reference in held), "an earlier one is still in memory"
        loaded.append(model.name)
        found = load_model(model, source)
        held.append(weakref.ref(found.module))
        return found

    monkeypatch.setattr(extraction, "load_model", load)
    quick = ["probe.l2=1.0", "probe.controls=[text_encoder, length]"]
    both = load_config(config, [f"datasets={datasets}", "extract.position=[last, mean]", *quick])
    estimates = list(Run(both, config.parent / "run").estimates())
    assert estimates[0].startswith("tiny-bert on first: 40 texts, ")
    results = Run(both, config.parent / "run").probe(extract=True)
    assert loaded == ["tiny-bert", "tiny-llama"]
    reached = results.summary.groupby("dataset")["text_encoder_accuracy"]
    assert reached.nunique().tolist() == [1, 1]
    again = Run(both, config.parent / "run").probe()
    assert again.summary["text_encoder_accuracy"].equals(results.summary["text_encoder_accuracy"])
    assert len(loaded) == 2


def test_a_text_encoder_is_a_rival_in_python_too(config: Path) -> None:
    read = load_config(config, ["probe.l2=1.0"])
    results = Run(read, config.parent / "run").probe(extract=True)
    dataset = llmprobe.load_dataset(config.parent / "first.csv")
    states = llmprobe.extract(read.models[0], dataset, progress=False)
    controls = ["text_encoder", "length"]
    options = read.probe.model_dump() | {"controls": controls, "l2": 1.0}
    alone = llmprobe.probe(states, progress=False, **options).summary
    for name in ("text_encoder_accuracy", "length_accuracy", "gain_over_text_encoder_low"):
        assert alone[name].item() == pytest.approx(results.summary[name].item())


def test_what_is_wrong_with_a_text_encoder_is_said_by_its_name(config: Path) -> None:
    for name, message in {
        "./nowhere/minilm": "'./nowhere/minilm'.*does not exist",
        "minilmm": "did you mean 'minilm'",
        str(config.parent): "has no config.json",
    }.items():
        run = Run(load_config(config, [f"probe.text_encoder={name}"]), config.parent / "run")
        with pytest.raises(UserError, match=message):
            run.probe(extract=True)
