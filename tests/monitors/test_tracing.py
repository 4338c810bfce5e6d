"""``llmprobe trace``: the scores are the probe's, the texts are read as its own were."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from probes import fit, save
from tiny import save_tokenizer
from toy import write_table

import llmprobe
from llmprobe import UserError
from llmprobe.cli.main import main
from llmprobe.config.schema import ModelConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction.extract import Extractor
from llmprobe.monitors.new_texts import NewTextReader, ReadingOptions
from llmprobe.monitors.tracing import probes_of_run
from llmprobe.monitors.tracing import trace as traces_of
from llmprobe.results.saved_probe import SavedProbe, load_probe
from llmprobe.results.trace import Trace

TEXT = "city is red five"


def toy_dataset(tmp_path: Path, **options: object) -> ConceptDataset:
    return llmprobe.load_dataset(write_table(tmp_path / "toy.csv"), **options)


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("llama", bos=True)


@pytest.fixture(scope="module")
def probe(model: Path, tmp_path_factory: pytest.TempPathFactory) -> SavedProbe:
    return fit(model, toy_dataset(tmp_path_factory.mktemp("table")))[0]


@pytest.fixture
def run(probe: SavedProbe, tmp_path: Path) -> Path:
    """A run folder with the probes of one model on two datasets."""
    for name in ("toy", "other"):
        save(replace(probe, facts={**probe.facts, "dataset": name}), tmp_path / "run")
    return tmp_path / "run"


def labels_of(kind: str, n: int) -> np.ndarray:
    """That a text's first word tells, of which each has eight texts."""
    word = np.arange(n) // 8
    return {"two": word % 2, "three": np.array(["a", "b", "c"])[word % 3],
            "ridge": np.sin(word)}[kind]  # fmt: skip


@pytest.mark.parametrize("kind", ["two", "three", "ridge"])
@pytest.mark.parametrize("position", ["last", "first"])
def test_scores_at_the_probes_own_token_are_those_of_the_extracted_states(
    kind: str, position: str, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    model = tiny_model("llama", bos=True, eos=True)
    dataset = toy_dataset(tmp_path)
    dataset = replace(dataset, labels=labels_of(kind, len(dataset)))
    probe_kind = "ridge" if kind == "ridge" else "logistic"
    probe, activations = fit(model, dataset, probe_kind, position=position)
    chosen = [0, 7, 21]
    traces = llmprobe.trace(probe, [dataset.texts[i] for i in chosen])
    for i, trace in zip(chosen, traces, strict=True):
        words = "".join(trace.tokens).removeprefix("<s>").removesuffix("</s>").split()
        assert words == dataset.texts[i].split()
        assert trace.layers == activations.layers
        assert (trace.best_layer, trace.position) == (probe.best_layer, position)
        states = np.stack([activations.layer(layer)[i] for layer in trace.layers])
        expected = [probe.decision_function(states[[k]], k)[0] for k in trace.layers]
        if kind != "ridge":
            p = np.stack([probe.predict_proba(states[[k]], k)[0] for k in trace.layers])
            column = int(p[probe.best_layer].argmax()) if kind == "three" else 1
            assert trace.label == str(probe.classes[column])
            expected = p[:, column]
        else:
            assert trace.label is None
        at = 1 if position == "first" else -2
        np.testing.assert_allclose(trace.scores[:, at], expected, rtol=1e-3, atol=1e-4)
        assert np.ptp(trace.scores, axis=1).max() > 0.01  # not one column for all tokens


@pytest.mark.parametrize("position", ["last", "first", "mean"])
def test_a_probe_of_a_token_that_the_tokenizer_added_is_not_read_at_another(
    position: str, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    model = tiny_model("llama", bos=True, eos=True)
    probe, _ = fit(model, toy_dataset(tmp_path), position=position)
    assert probe.facts["real_tokens"]
    old = replace(probe, facts={k: v for k, v in probe.facts.items() if k != "real_tokens"})
    if position == "mean":
        assert llmprobe.trace(old, TEXT)
        return
    with pytest.raises(UserError, match="an older version fitted it at a token that the tokeni"):
        llmprobe.trace(old, TEXT)


def test_a_text_is_put_into_the_template_of_the_probes_own(model: Path, tmp_path: Path) -> None:
    template = "true or false {text} statement"
    probe, _ = fit(model, toy_dataset(tmp_path, template=template))
    probe = load_probe(probe.save(tmp_path / "x.safetensors"))
    assert probe.facts["template"] == template
    (asked,) = llmprobe.trace(probe, TEXT)
    assert asked.text == f"true or false {TEXT} statement"
    (bare,) = llmprobe.trace(probe, TEXT, template="{text}")
    assert bare.text == TEXT
    assert bare.scores.shape[1] == asked.scores.shape[1] - 4
    with pytest.raises(UserError, match="has the field 'city', which is not there"):
        llmprobe.trace(probe, TEXT, template="{city} {text}")
    with pytest.raises(UserError, match=r"has no field; it needs at least \{text\}"):
        llmprobe.trace(probe, TEXT, template="text")
    with pytest.raises(UserError, match=r"template '\{text': expected '\}'"):
        llmprobe.trace(probe, TEXT, template="{text")


def test_a_template_in_a_template_is_remembered_whole(tmp_path: Path) -> None:
    saved = tmp_path / "saved.parquet"
    toy_dataset(tmp_path, template="true or {text}").save(saved)
    twice = llmprobe.load_dataset(saved, template="not {text} still")
    assert twice.filled == "not true or {text} still"
    assert twice.texts[0] == twice.filled.format(text=toy_dataset(tmp_path).texts[0])


def test_texts_that_had_been_perturbed_are_said(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    probe, _ = fit(model, toy_dataset(tmp_path, perturb="prefix_noise"))
    llmprobe.trace(probe, TEXT)
    assert "the texts of toy were changed (prefix_noise) before the probe saw them" in caplog.text


def test_everything_that_decides_how_texts_are_read_is_remembered(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    random = ModelConfig(
        id=str(tiny_model("gpt2")), dtype="bfloat16", weights="random", seed=3, name="mine"
    )
    options = {"site": "mlp", "position": "mean", "too_long": "cut_left"}
    probe, activations = fit(random, toy_dataset(tmp_path), **options)
    reader = NewTextReader(load_probe(probe.save(tmp_path / "x.safetensors")), "x").extractor
    for name in ("id", "dtype", "weights", "seed", "name", "quantization"):
        assert getattr(reader.model_config, name) == getattr(random, name)
    for name, value in options.items():
        assert getattr(reader.config, name) == value
    weights, again = (
        next(iter(made.parameters()))
        for made in (reader.model.module, Extractor(random).model.module)
    )
    assert torch.equal(weights, again)
    (trace,) = llmprobe.trace(probe, TEXT)
    assert trace.layers == activations.layers == [1, 2, 3]


def test_a_chat_template_is_applied_as_for_the_probes_own(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "chatty"))
    (folder / "chat_template.jinja").write_text("true {{ messages[0].content }} false or")
    probe, _ = fit(folder, toy_dataset(tmp_path), chat_template=True)
    (trace,) = llmprobe.trace(probe, TEXT)
    assert "".join(trace.tokens).split() == ["true", *TEXT.split(), "false", "or"]


def test_the_command_prints_and_writes_a_trace_for_each_probe_and_text(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--dataset", "toy", "--dataset", "other"]
    assert main(["trace", str(run), "--text", TEXT, "--text", "Bern is blue one", *asked]) == 0
    printed = capsys.readouterr().out
    files = sorted((run / "traces").iterdir())
    assert len(files) == 16
    assert {path.suffix for path in files} == {".html", ".json", ".png", ".svg"}
    for path in run.glob("traces/*.json"):
        trace = Trace.from_json(json.loads(path.read_text()))
        assert path.stem == trace.file_name
        title = f"{trace.model} on {trace.dataset}: probability of '1'\n{trace.text}\n"
        assert printed.count(title) == 1
        assert str(path.with_suffix(".html")) in printed
    assert "\x1b" not in printed


def test_probes_of_other_datasets_are_not_run_unless_they_are_asked_for(
    probe: SavedProbe, run: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    save(replace(probe, facts={**probe.facts, "dataset": "toy:red"}), run)
    for first, traced in (("toy", ["toy", "toy:red"]), ("other", ["other"])):
        datasets = [{"name": name} for name in dict.fromkeys([first, "other", "toy", "toy:red"])]
        (run / "environment.json").write_text(json.dumps({"models": [], "datasets": datasets}))
        chosen = probes_of_run(run)
        assert sorted(one.facts["dataset"] for _, one in chosen) == traced
    assert main(["trace", str(run), "--text", TEXT]) == 0
    assert capsys.readouterr().out.count("probability of") == 1
    assert "by the probes of other; --dataset toy takes that one's" in caplog.messages


@pytest.mark.parametrize("position", ["span:text", "token:1"])
def test_where_a_probe_was_fitted_is_known_of_a_datasets_own_texts(
    position: str, model: Path, tmp_path: Path
) -> None:
    dataset = toy_dataset(tmp_path, template="{text} or false")
    probe, activations = fit(model, dataset, position=position)
    extractor = NewTextReader(probe, "x").extractor
    ranges = dataset.ranges(position)
    (own,) = traces_of(extractor, probe, dataset.texts[:1], ranges=ranges and ranges[:1])
    assert own.tokens[own.read[0]].strip() == dataset.texts[0].split()[3 if ranges else 1]
    states = activations.layer(probe.best_layer)[:1]
    np.testing.assert_allclose(
        own.scores[own.layers.index(probe.best_layer), own.read],
        probe.predict_proba(states, probe.best_layer)[:, 1], rtol=1e-3, atol=1e-4,
    )  # fmt: skip
    (new,) = llmprobe.trace(probe, TEXT)
    assert len(new.read) == (ranges is None)


def test_filters_choose_among_the_probes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["trace", str(run), "--text", TEXT, "--dataset", "other", "--out", str(run / "here")]
    assert main(words) == 0
    assert "on other: " in capsys.readouterr().out
    assert len(list((run / "here").glob("*other*.json"))) == 1
    assert len(list((run / "here").iterdir())) == 4


@pytest.mark.parametrize("place", ["run", "alone"])
def test_one_probe_file_is_traced_beside_its_run_or_itself(
    place: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "probes" / "tiny-llama" / "toy.safetensors"
    if place == "alone":
        path = Path(shutil.copy(path, tmp_path / "mine.safetensors"))
    assert main(["trace", str(path), "--text", TEXT]) == 0
    assert capsys.readouterr().out.count("probability of") == 1
    assert len(list((run if place == "run" else tmp_path).glob("traces/*"))) == 4


def test_a_model_beside_the_config_is_found_from_another_folder(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model, tmp_path / "here" / "mine")
    monkeypatch.chdir(tmp_path / "here")
    probe, _ = fit(Path("mine"), toy_dataset(tmp_path))
    assert Path(probe.facts["model_id"]).is_absolute()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    assert llmprobe.trace(probe, TEXT)[0].model == "mine"


def test_a_model_whose_files_have_changed_is_refused_unless_it_is_named(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "mine"))
    probe, _ = fit(folder, toy_dataset(tmp_path))
    (folder / "README.txt").write_text("something")
    with pytest.raises(UserError, match=r"the files of .* are not those that the probe was fitted"):
        llmprobe.trace(probe, TEXT)
    assert llmprobe.trace(probe, TEXT, model=folder)[0].text == TEXT
    assert "its scores hold only if the weights are the same" in caplog.text
    moved = folder.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="mine': does not exist"):
        llmprobe.trace(probe, TEXT)
    (moved / "README.txt").unlink()
    caplog.clear()
    llmprobe.trace(probe, TEXT, model=moved)
    assert "only if the weights" not in caplog.text


def test_a_model_of_another_shape_is_refused(
    model: Path, probe: SavedProbe, tmp_path: Path
) -> None:
    config = json.loads((model / "config.json").read_text()) | {"num_hidden_layers": 2}
    other = tmp_path / "short"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(config))
    save_tokenizer(other)
    probe = replace(probe, facts={**probe.facts, "weights": "random"})
    with pytest.raises(UserError, match="has 2 blocks of width 32, and the probe's model has 3"):
        llmprobe.trace(probe, TEXT, model=other)


def test_code_of_a_model_runs_only_when_the_user_says_so(probe: SavedProbe) -> None:
    probe = replace(probe, facts={**probe.facts, "trust_remote_code": True})
    with pytest.raises(UserError, match=r"runs code that comes with it; .* --trust-remote-code"):
        llmprobe.trace(probe, TEXT)
    trusting = NewTextReader(probe, "x", ReadingOptions(trust_remote_code=True))
    assert trusting.extractor.model_config.trust_remote_code
    probe = replace(probe, facts={**probe.facts, "trust_remote_code": False})
    assert not NewTextReader(probe, "x").extractor.model_config.trust_remote_code


def test_what_an_older_probe_does_not_say_is_said(
    probe: SavedProbe, caplog: pytest.LogCaptureFixture
) -> None:
    kept = ("model", "dataset", "site", "position", "model_id", "revision", "dtype", "kind")
    old = replace(probe, facts={name: probe.facts[name] for name in kept})
    with caplog.at_level(logging.WARNING):
        (trace,) = llmprobe.trace(old, TEXT)
    (said,) = (r.message for r in caplog.records if "older version" in r.message)
    for name in ("weights", "quantization", "chat_template", "template"):
        assert name in said
    np.testing.assert_array_equal(trace.scores, llmprobe.trace(probe, TEXT)[0].scores)


def test_a_text_longer_than_the_window_is_refused_or_cut_at_its_beginning(
    probe: SavedProbe,
) -> None:
    long = " ".join(["red"] * 100) + " Bern"
    with pytest.raises(UserError, match="text 2 of 2: 102 tokens, and tiny-llama reads 64 at most"):
        llmprobe.trace(probe, [TEXT, long])
    (trace,) = llmprobe.trace(probe, long, too_long="cut_left")
    assert len(trace.tokens) == 64
    assert (trace.tokens[0], trace.tokens[-1]) == ("<s>", " Bern")


def test_probes_of_no_language_model_have_nothing_to_read_with() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    labels = np.arange(40) % 2
    results = llmprobe.probe_layers({0: X}, labels, permutations=0, controls=(), progress=False)
    with pytest.raises(UserError, match="no probe of a language model"):
        llmprobe.trace(results.probes[0], TEXT)


WRONG = {
    "no such run": (lambda run: [str(run / "none")], "no such run folder or probe file"),
    "no run": (lambda run: [str(run.parent / "empty")], "has no saved probes"),
    "no probe": (lambda run: [str(run.parent / "toy.csv")], "not a saved probe, or damaged"),
    "no such model": (lambda run: [str(run), "--model", "tiny-lama"], "mean 'tiny-llama'?"),
    "no such dataset": (lambda run: [str(run), "--dataset", "x"], "'x'; known: other, toy"),
    "no such position": (lambda run: [str(run), "--position", "mean"], "'mean'; known: last"),
    "out is a file": (lambda run: [str(run), "--out", str(run.parent / "toy.csv")], "it is a file"),
    "empty": (lambda run: [str(run), "--text", " "], "--text number 1 is empty"),
    "no UTF-8": (lambda run: [str(run), "--text", "caf\udce9"], "'caf\\udce9': not in UTF-8"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_said_in_a_sentence(
    wrong: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.parent / "empty").mkdir()
    write_table(run.parent / "toy.csv")
    words, message = WRONG[wrong]
    assert main(["trace", *words(run), "--text", TEXT]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("llmprobe: ")
    assert message in said
