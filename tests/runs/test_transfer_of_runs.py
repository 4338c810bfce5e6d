"""A run, a command and a function say what is read elsewhere, from one extraction."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from toy import write_config
from transformers import AutoModel, AutoTokenizer

import llmprobe
from llmprobe.cli.main import main
from llmprobe.config.load import load_config
from llmprobe.ground.errors import UserError
from llmprobe.results.folder import read_results
from llmprobe.runs.pipeline import Run
from llmprobe.runs.report import report

THINGS = [f"{first}{last}" for first in ("coin", "city", "tree", "lake", "road") for last in "abcd"]
CELLS = [("plain", "plain"), ("plain", "turned"), ("turned", "plain"), ("turned", "turned")]


def write_forms(path: Path) -> Path:
    """20 things, each in two forms, whose label is a word that the second form turns round."""
    rows = []
    for number, thing in enumerate(THINGS):
        label = number % 2
        words = ("red", "blue")
        rows += [
            {"text": f"{thing} is {words[label]}", "label": label, "form": "plain", "thing": thing},
            {"text": f"{thing} looks {words[1 - label]}", "label": label, "form": "turned",
             "thing": thing},
        ]  # fmt: skip
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("transfer")
    model = {"id": str(tiny_model("llama")), "dtype": "float32"}
    dataset = {"path": str(write_forms(folder / "forms.csv")), "group": "thing"}
    return write_config(
        folder / "forms.yaml", model, dataset, transfer={"by": "form"}, report={"traces": 0}
    )


def probed(config: Path, out: Path, *overrides: str) -> None:
    Run(load_config(config, overrides), out).probe(extract=True)


def test_a_run_with_the_section_writes_the_cells_and_the_worst_of_them(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMPROBE_CACHE", str(tmp_path / "cache"))
    run = Run(load_config(config), tmp_path / "out")
    probed = run.probe(extract=True)
    assert len([*(tmp_path / "cache" / "activations").iterdir()]) == 1
    table = pd.read_csv(tmp_path / "out" / "transfer.csv")
    assert [*zip(table["train"], table["test"], strict=True)] == CELLS
    assert (table["shared_units"] == 20).all()
    assert (table["n_examples"] == 20).all()
    results = read_results(tmp_path / "out")
    pd.testing.assert_frame_equal(results.transfer[["train", "test", "auroc"]],
                                  table[["train", "test", "auroc"]])  # fmt: skip
    elsewhere = table[table["train"] != table["test"]]
    (worst,) = results.summary.to_dict("records")
    assert worst["worst_transfer_auroc"] == pytest.approx(elsewhere["auroc"].min())
    assert worst["worst_transfer_test"] in ("plain", "turned")
    assert results.evidence[0].questions["transfers"].answer != "not asked"
    (written,) = json.loads((tmp_path / "out" / "evidence.json").read_text("utf-8"))
    assert written == results.evidence[0].as_json()
    report(tmp_path / "out")
    assert (tmp_path / "out" / "figures" / "transfer.svg").is_file()
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Does it hold elsewhere?" in page
    monkeypatch.setattr("llmprobe.runs.transfer.transfer", None)  # What is there is read.
    pd.testing.assert_frame_equal(run.probe().transfer, probed.transfer)


def test_the_command_needs_no_section_and_prints_the_matrix(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LLMPROBE_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    arguments = ["transfer", str(config), "--out", str(out), "--set", "transfer=null"]
    assert main([*arguments, "--by", "form", "--train", "plain", "--across-layers"]) == 0
    printed = capsys.readouterr().out
    assert "plain" in printed
    assert str(out / "transfer.csv") in printed
    table = pd.read_parquet(out / "transfer.parquet")
    assert table["train"].unique().tolist() == ["plain"]
    layers = pd.read_parquet(out / "transfer_layers.parquet")
    assert (
        layers.groupby(["train_layer", "test_layer"]).ngroups == layers["test_layer"].nunique() ** 2
    )
    for also in ([], ["--dry-run"]):
        assert main([*arguments, "--by", "colour", *also]) == 2
        assert "no field 'colour'" in capsys.readouterr().err
    assert main(arguments) == 2
    assert "forms is the only set" in capsys.readouterr().err


def test_a_run_keeps_what_the_command_wrote_of_the_same_states(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMPROBE_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    without = [str(config), "--out", str(out), "--set", "transfer=null"]
    assert main(["transfer", *without, "--by", "form"]) == 0
    table = pd.read_parquet(out / "transfer.parquet")
    probed(config, out, "transfer=null")
    results = read_results(out)
    pd.testing.assert_frame_equal(results.transfer, table)
    elsewhere = table[table["train"] != table["test"]]
    assert results.summary["worst_transfer_auroc"].item() == elsewhere["auroc"].min()
    assert results.evidence[0].questions["transfers"].answer != "not asked"
    asked = load_config(out / "config.yaml").transfer
    assert asked is not None
    assert asked.by == "form"
    # Of other examples it would be false.
    probed(config, out, "transfer=null", "datasets.0.n=24")
    assert not (out / "transfer.parquet").exists()
    assert load_config(out / "config.yaml").transfer is None
    assert read_results(out).evidence[0].questions["transfers"].answer == "not asked"


def test_the_command_adds_the_worst_cell_to_a_run_that_is_there(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LLMPROBE_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    without = [str(config), "--out", str(out), "--set", "transfer=null"]
    probed(config, out, "transfer=null")
    before = read_results(out)
    assert main(["transfer", *without, "--by", "form", "--train", "plain"]) == 0
    assert f"llmprobe report {out}" in capsys.readouterr().out
    results = read_results(out)
    assert results.notes == before.notes
    assert results.summary["worst_transfer_train"].item() == "plain"
    (written,) = json.loads((out / "evidence.json").read_text("utf-8"))
    assert written["questions"]["transfers"]["answer"] != "not asked"
    assert [*(out / "probes").glob("*/*.safetensors")]
    pd.testing.assert_frame_equal(results.table, before.table)
    capsys.readouterr()
    assert main(["transfer", *without, "--by", "form", "--limit", "24"]) == 2
    assert "holds a run with another forms" in capsys.readouterr().err
    assert read_results(out).summary["worst_transfer_train"].item() == "plain"


def test_texts_without_a_field_are_extracted_and_scored_but_have_no_curve(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMPROBE_CACHE", str(tmp_path / "cache"))
    asked = "transfer={by: form, mask: thing}"
    run = Run(load_config(config, [asked]), tmp_path / "out")
    estimates = [line.partition(", ")[0] for line in run.estimates()]
    assert "tiny-llama on forms:without thing: 40 texts" in estimates
    likely = Run(load_config(config, ["probe.controls=[perplexity]"]), tmp_path / "out")
    assert any("40 texts, perplexity of " in line for line in likely.estimates())
    assert len([*run.extract()]) == 2
    results = run.probe()
    assert results.summary["dataset"].tolist() == ["forms"]
    (masked,) = results.transfer[results.transfer["masked"] != ""].to_dict("records")
    assert (masked["train"], masked["test"]) == ("forms", "forms:without thing")
    assert masked["test_dataset"] == "forms"
    assert results.summary["masked_auroc"].item() == masked["auroc"]
    assert results.summary["masked_field"].item() == "thing"
    with pytest.raises(UserError, match="mask: no dataset has a field 'town'; fields: form, thing"):
        Run(load_config(config, ["transfer={mask: town}"]), tmp_path / "other")
    with pytest.raises(UserError, match="give by: FIELD too"):
        load_config(config, ["transfer={leave_one_out: true}"])


def test_activations_are_compared_by_the_names_they_are_given(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMPROBE_CACHE", str(tmp_path / "cache"))
    dataset = llmprobe.load_dataset(str(config.parent / "forms.csv"), group="thing")
    model = load_config(config).models[0]
    activations = llmprobe.extract(model, dataset, progress=False)
    options = {"folds": 2, "l2": 1.0, "progress": False}
    whole = llmprobe.transfer({"it": activations}, by="form", **options)
    rows = [dataset.fields["form"] == form for form in ("plain", "turned")]
    parts = {
        name: llmprobe.extract(model, dataset.take(rows[i].to_numpy().nonzero()[0]), progress=False)
        for i, name in enumerate(("a", "b"))
    }
    apart = llmprobe.transfer(parts, **options)
    assert (apart.table["shared_units"] == 20).all()
    assert apart.table["train"].tolist() == ["a", "a", "b", "b"]
    assert whole.table["auroc"].to_numpy() == pytest.approx(apart.table["auroc"].to_numpy())
    mean = llmprobe.extract(model, dataset, position="mean", progress=False)
    with pytest.raises(llmprobe.UserError, match="differ in position"):
        llmprobe.transfer({"a": activations, "b": mean}, **options)


def test_fields_are_masked_in_python_too(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMPROBE_CACHE", str(tmp_path / "cache"))
    read = load_config(config, ["transfer={by: form, mask: thing}"])
    run = Run(read, tmp_path / "out").transfer()
    options = {"folds": 2, "l2": 1.0, "progress": False}
    dataset = llmprobe.load_dataset(str(config.parent / "forms.csv"), group="thing")
    named = llmprobe.extract(read.models[0], dataset, progress=False)
    by_name = llmprobe.transfer({"forms": named}, by="form", mask="thing", **options)
    pd.testing.assert_frame_equal(by_name.table, run.table)
    model = AutoModel.from_pretrained(read.models[0].id, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(read.models[0].id)
    own = llmprobe.extract(model, dataset, tokenizer=tokenizer, layers=[1, 3], progress=False)
    in_memory = llmprobe.transfer(
        {"forms": own}, by="form", mask="thing", model=model, tokenizer=tokenizer, **options
    )
    (masked,) = in_memory.table[in_memory.table["masked"] == "thing"].to_dict("records")
    assert masked["test"] == "forms:without thing"
    with pytest.raises(UserError, match="was one in memory; give it"):
        llmprobe.transfer({"forms": own}, mask="thing", **options)
    with pytest.raises(UserError, match="mask: no dataset has a field 'town'"):
        llmprobe.transfer({"forms": named}, mask="town", **options)
