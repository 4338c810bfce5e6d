"""A run asks whether the model uses what is read, in its tables, its evidence and the command."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import WORDS
from toy import write_config, write_table

from llmprobe.cli.main import main
from llmprobe.config.load import load_config
from llmprobe.monitors.intervene import DOSES
from llmprobe.reporting.charts.doses import doses
from llmprobe.reporting.page.payload import payload
from llmprobe.reporting.page.used import examples_of_use
from llmprobe.results.columns import INTERVENE
from llmprobe.results.folder import read_results
from llmprobe.runs.parts import with_answers_of
from llmprobe.runs.pipeline import Run

QUESTION = {"question": "the statement {text} is", "answers": {"1": ["true"], "0": ["false"]}}


def _config(tmp_path: Path, model: Path, **dataset: object) -> Path:
    entry = {"path": str(write_table(tmp_path / "toy.csv"))} | dataset
    return write_config(
        tmp_path / "toy.yaml", {"id": str(model), "dtype": "float32"}, entry, report={"traces": 0}
    )


def test_a_finished_run_can_be_asked_whether_the_model_uses_it(
    tmp_path: Path, tiny_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = _config(tmp_path, tiny_model("llama", head=True), **QUESTION), tmp_path / "out"
    Run(load_config(config), out).probe(extract=True)
    assert main(["intervene", str(out), "--set", "intervene.null=20"]) == 0
    assert (out / "intervene.csv").is_file()
    rows = pd.read_parquet(out / "intervene.parquet")
    assert list(rows) == list(INTERVENE)
    assert set(rows["direction"]) == {"logistic", "mean_difference", "leace", "null"}
    assert set(rows["edit"]) == {"reflect", "remove", "shift"}
    assert not rows.duplicated(["layer", "direction", "edit", "dose"]).any()
    summary = pd.read_csv(out / "summary.csv").iloc[0]
    assert 0 < summary["used_p_value"] <= 1
    assert summary["used_layer"] in rows["layer"].to_numpy()
    by_layer = pd.read_csv(out / "results.csv")
    assert by_layer["used_share"].max() == pytest.approx(summary["used_share"])
    (entry,) = json.loads((out / "evidence.json").read_text())
    assert "this answer at this position" in entry["questions"]["used"]["sentence"]

    examples = pd.read_csv(out / "intervene_examples.csv")
    assert sorted(examples["label"]) == [0] * 3 + [1] * 3
    assert (examples["layer"] == summary["used_layer"]).all()
    assert (examples["log_odds"] != examples["log_odds_after"]).all()
    assert examples["says"].str.fullmatch(r".+ \.\d\d, .+ \.\d\d, .+ \.\d\d").all()
    printed = capsys.readouterr().out
    assert f"{examples['says'][0]} -> {examples['says_after'][0]}" in printed
    run = read_results(out)
    (table,) = examples_of_use(run)
    assert [row[-1] for row in table.rows] == examples["says_after"].tolist()
    by_layer, by_dose = doses(run).axes
    assert [len(line.get_xdata()) for line in by_layer.lines[1:]] == [4, 4]
    assert [line.get_xdata().tolist() for line in by_dose.lines[1:]] == [list(DOSES)] * 2
    assert [asked["name"] for asked in payload(run)["asked"]] == ["said_auroc", "used_share"]


@pytest.mark.parametrize(
    ("extract", "says"),
    [({"position": "tokens"}, "no one state to change"), ({"site": "mlp"}, "residual stream")],
)
def test_states_that_cannot_be_changed_are_refused_in_a_sentence(
    tmp_path: Path, tiny_model: Callable[..., Path], extract: dict[str, str], says: str
) -> None:
    config = _config(tmp_path, tiny_model("llama", head=True), **QUESTION)
    overrides = [f"extract.{key}={value}" for key, value in extract.items()]
    results = Run(load_config(config, ["intervene=true", *overrides]), tmp_path / "out").probe(True)
    answer = results.evidence[0].questions["used"]
    assert answer.answer == "does not apply"
    assert says in answer.sentence


@pytest.mark.parametrize(
    ("model", "dataset", "says"),
    [
        ({"weights": "random"}, {}, "The weights are random"),
        ({"architecture": "bert"}, {}, "does not predict the next token"),
        ({"architecture": "gpt_neo"}, {}, "cannot be"),
        ({}, {"answers": {"1": ["true"], "0": ["true", "false"]}}, "begin with the same token"),
    ],
    ids=str,
)
def test_models_and_words_that_cannot_be_asked_are_refused_in_a_sentence(
    tmp_path: Path, tiny_model: Callable[..., Path], model: dict[str, str],
    dataset: dict[str, object], says: str,
) -> None:  # fmt: skip
    architecture = model.pop("architecture", "llama")
    folder = tiny_model(architecture, head=architecture != "bert")
    table = {"path": str(write_table(tmp_path / "toy.csv"))} | QUESTION | dataset
    config = write_config(
        tmp_path / "toy.yaml", {"id": str(folder), "dtype": "float32"} | model, table,
        report={"traces": 0}, intervene={"null": 20},
    )  # fmt: skip
    answer = Run(load_config(config), tmp_path / "out").probe(True).evidence[0].questions["used"]
    assert answer.answer == "does not apply"
    assert says in answer.sentence


def test_states_without_the_last_layer_can_be_changed_and_not_said(
    tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    config = _config(tmp_path, tiny_model("llama", head=True), **QUESTION)
    asked = ["intervene.null=20", "extract.layers=[0,1]"]
    results = Run(load_config(config, asked), tmp_path / "out").probe(extract=True)
    assert set(results.interventions["layer"]) == {0, 1}
    assert "was not read" in results.evidence[0].questions["said"].sentence


def test_states_in_the_middle_are_changed_and_what_is_said_is_of_the_last_token(
    tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    positions = ["mean", "first:text", "last"]
    config = _config(tmp_path, tiny_model("llama", head=True), **QUESTION)
    asked = [f"extract.position={json.dumps(positions)}", "intervene.null=20"]
    run = Run(load_config(config, asked), tmp_path / "out")
    passes = [
        int(re.search("changed at .* of them, ([0-9,]+) token passes", line)[1].replace(",", ""))
        for line in run.estimates() if "changed at" in line
    ]  # fmt: skip
    # Of the seven tokens of a text all, five and one are run again.
    assert passes[0] / passes[2] == pytest.approx(7, rel=0.1)
    assert passes[1] / passes[2] == pytest.approx(5, rel=0.1)
    results = run.probe(extract=True)
    assert results.summary["used_p_value"].notna().all()
    rows = results.interventions
    assert list(dict.fromkeys(rows["position"])) == positions
    (end, before) = (
        rows[(rows["position"] == position) & (rows["layer"] == 3)] for position in ("last", "mean")
    )
    assert (end["effect"] != 0).any()
    assert (before["effect"] != 0).any()  # The last token is one of those that the mean is over.
    of_word = rows[rows["position"] == "first:text"].groupby("layer")["effect"]
    assert of_word.apply(lambda effect: (effect != 0).any()).tolist() == [True] * 3 + [False]
    said = [evidence.questions["said"] for evidence in results.evidence]
    assert [answer.answer == "does not apply" for answer in said] == [True, True, False]


def test_of_three_classes_each_text_is_moved_to_another_one(
    tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    names = ["red", "green", "blue"]
    table = pd.DataFrame({"text": [f"{names[i % 3]} {WORDS[i % 11]} {WORDS[i % 7]}"
                                   for i in range(60)]})  # fmt: skip
    table.assign(label=[names[i % 3] for i in range(60)]).to_csv(tmp_path / "c.csv", index=False)
    entry = {"path": str(tmp_path / "c.csv"), "question": "the {text} is",
             "answers": {name: [name] for name in names}}  # fmt: skip
    config = write_config(
        tmp_path / "c.yaml", {"id": str(tiny_model("llama", head=True)), "dtype": "float32"}, entry,
        report={"traces": 0}, intervene={"null": 20},
    )  # fmt: skip
    results = Run(load_config(config), tmp_path / "out").probe(extract=True)
    summary, examples = results.summary.iloc[0], results.intervention_examples
    assert list(results.interventions) == list(INTERVENE)
    assert 0 < summary["used_p_value"] <= 1
    assert np.isfinite(summary["used_share"])
    assert results.evidence[0].questions["used"].answer in ("yes", "no", "unclear")
    removed = results.interventions[results.interventions["edit"] == "remove"]
    assert removed["said_auroc"].dropna().between(0, 1).all()
    assert sorted(examples["label"]) == sorted(names * 3)
    assert (examples["other_label"] != examples["label"]).all()
    assert (examples["log_odds"] != examples["log_odds_after"]).all()
    assert doses(results) is not None


def test_a_run_that_does_not_ask_keeps_what_was_asked_of_the_same_states(
    tmp_path: Path, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = _config(tmp_path, tiny_model("llama", head=True), **QUESTION), tmp_path / "out"
    asked = Run(load_config(config, ["intervene.null=20"]), out).probe(extract=True)
    with monkeypatch.context() as patch:
        patch.setattr("llmprobe.runs.pipeline.load_language_model", None)  # What is kept is read.
        again = Run(load_config(config), out).probe(extract=True)
    pd.testing.assert_frame_equal(again.interventions, asked.interventions)
    assert again.summary["used_p_value"].tolist() == asked.summary["used_p_value"].tolist()
    assert load_config(out / "config.yaml").intervene is not None
    others = Run(load_config(config, ["probe.l2=2"]), out).probe(extract=True)
    assert others.interventions.empty
    assert not (out / "intervene.parquet").exists()


def test_what_was_asked_stays_beside_results_of_more_permutations(
    tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    config = _config(tmp_path, tiny_model("llama", head=True), **QUESTION)
    before = Run(load_config(config, ["intervene.null=20"]), tmp_path / "out").probe(extract=True)
    columns = [name for name in before.summary if "said" in name or "used" in name]
    bare = replace(
        before, summary=before.summary.assign(**dict.fromkeys(columns)),
        table=before.table.assign(used_share=np.nan, said_auroc=np.nan),
        interventions=pd.DataFrame(),
    )  # fmt: skip
    again = with_answers_of(before, bare)
    for name in ("summary", "table", "interventions"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(before, name))


def test_a_set_without_answers_says_why_use_is_not_known(
    tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    config, out = _config(tmp_path, tiny_model("llama", head=True)), tmp_path / "out"
    assert main(["intervene", str(config), "--out", str(out)]) == 0
    (entry,) = json.loads((out / "evidence.json").read_text())
    used = entry["questions"]["used"]
    assert used["answer"] == "does not apply"
    assert "no question and answers" in used["sentence"]


def test_a_layer_that_is_not_there_is_said(
    tmp_path: Path, tiny_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config = _config(tmp_path, tiny_model("llama", head=True), **QUESTION)
    # A section of its own is kept, wherever it stands in the file.
    config.write_text(f"intervene: {{layers: [9], 'null': 20}}\n{config.read_text()}")
    assert main(["intervene", str(config), "--out", str(tmp_path / "out")]) == 0
    assert "does not apply. intervene.layers: there is no layer 9; they are 0 to 3" in (
        capsys.readouterr().out
    )


def test_the_key_null_can_be_written_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "models: [gpt2]\ndatasets: [capitals]\nintervene: {layers: auto, null: 50}\n",
        encoding="utf-8",
    )
    config = load_config(path)
    assert config.intervene is not None
    assert config.intervene.null == 50
