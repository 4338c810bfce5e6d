"""Runs from Python: what a folder holds is what was returned, and what the commands write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from toy import write_table

import llmprobe
from llmprobe.results.folder import TABLES

QUESTION = {"question": "the statement {text} is", "answers": {"1": ["true"], "0": ["false"]}}


def config_of(tmp_path: Path, *models: Path, **more: Any) -> dict[str, Any]:
    table = tmp_path / "toy.csv"
    if not table.exists():
        frame = pd.read_csv(write_table(table))
        frame.assign(form=["short"] * 20 + ["long"] * 20).to_csv(table, index=False)
    return {
        "name": "toy",
        "models": [{"id": str(model), "dtype": "float32"} for model in models],
        "datasets": [{"path": str(table)} | QUESTION],
        "probe": {"permutations": 20, "controls": ["majority", "random_labels"]},
        "report": {"traces": 0},
    } | more


def test_a_folder_reads_back_as_the_results_that_were_written(
    tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    model = tiny_model("llama", head=True)
    config = config_of(tmp_path, model, said=True, transfer={"by": "form"}, linear={"null": 0})
    results = llmprobe.run(config, out=tmp_path / "run", limit=40)
    read = llmprobe.load_run(tmp_path / "run")
    assert (tmp_path / "run" / "report.html").is_file()
    for name, field in TABLES.items():
        if getattr(results, field).empty:
            assert getattr(read, field).empty, name
        else:
            pd.testing.assert_frame_equal(
                getattr(read, field), getattr(results, field), check_dtype=False
            )
    others = {one.name for one in fields(results)} - {*TABLES.values(), "probes", "fold0_probes"}
    for name in others:
        assert getattr(read, name) == getattr(results, name), name
    assert [one.as_json() for one in read.evidence] == [one.as_json() for one in results.evidence]
    assert len(results.predictions["example"].unique()) == 40
    assert config["datasets"][0].keys() == {"path", *QUESTION}  # A mapping is left as it was.


def test_a_dataset_and_a_model_are_a_run(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    table = write_table(tmp_path / "toy.csv")
    frame = pd.read_csv(table).rename(columns={"text": "statement"})
    frame.to_csv(table, index=False)
    results = llmprobe.run(
        table, models=[str(tiny_model("llama"))], text="statement", out=tmp_path / "run"
    )
    assert results.summary["dataset"].tolist() == ["toy"]
    assert results.folder == tmp_path / "run"


def test_runs_stand_side_by_side_by_folder_or_as_results(
    tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    a = llmprobe.run(config_of(tmp_path, tiny_model("llama", head=True)), out=tmp_path / "a")
    b = llmprobe.run(config_of(tmp_path, tiny_model("gpt2", head=True)), out=tmp_path / "b")
    compared = llmprobe.compare([a, tmp_path / "b"])
    assert len(compared.summary) == 2
    (row,) = compared.differences.to_dict("records")
    assert {row["model_a"], row["model_b"]} == {*a.summary["model"], *b.summary["model"]}
    with pytest.raises(llmprobe.UserError, match="of no run folder"):
        llmprobe.compare([compared, a])
    kept = llmprobe.compare([a, b], out=tmp_path / "both")
    assert (tmp_path / "both" / "report.html").is_file()
    pd.testing.assert_frame_equal(kept.differences, compared.differences)
    pd.testing.assert_frame_equal(
        llmprobe.load_run(tmp_path / "both").differences, compared.differences
    )


def test_a_run_is_asked_later_whether_the_model_uses_what_is_read(
    tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    config = config_of(tmp_path, tiny_model("llama", head=True))
    results = llmprobe.run(config, out=tmp_path / "run")
    assert results.interventions.empty
    asked = llmprobe.intervene(results, null=19, layers=[1])
    assert asked.folder == tmp_path / "run"
    assert set(asked.interventions["layer"]) == {1}
    assert (tmp_path / "run" / "intervene.csv").is_file()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: llmprobe.run({"models": ["m"]}), "the config: datasets"),
        (lambda: llmprobe.run({"models": ["m"], "datasets": ["d"], "probs": {}}), "'probe'"),
        (lambda: llmprobe.load_run("nowhere"), "no such folder"),
        (lambda: llmprobe.compare([llmprobe.Results(*[pd.DataFrame()] * 3)]), "of no run folder"),
        (lambda: llmprobe.intervene({"models": []}, nul=3), "models"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(llmprobe.UserError, match=words):
        call()


def test_a_saved_probe_scores_texts(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    config = config_of(tmp_path, tiny_model("llama", head=True))
    llmprobe.run(config, out=tmp_path / "run")
    (path,) = (tmp_path / "run" / "probes").glob("*/*.safetensors")
    texts = pd.read_csv(tmp_path / "toy.csv")["text"].tolist()[:6]
    scored = llmprobe.score(path, texts)
    assert list(scored) == ["text", "predicted", "score"]
    assert scored["text"].tolist() == texts
    again = llmprobe.score(llmprobe.load_probe(path), pd.DataFrame({"text": texts, "more": 1}))
    assert again["score"].tolist() == scored["score"].tolist()
    assert list(again) == ["text", "more", "predicted", "score"]
    (one,) = llmprobe.score(path, texts[0])["score"]
    assert one == pytest.approx(scored["score"].iloc[0], abs=1e-5)
    flagged = llmprobe.score(path, texts, threshold=float(scored["score"].median()))["flagged"]
    assert flagged.tolist() == (scored["score"] > scored["score"].median()).tolist()
    probe = llmprobe.load_probe(path)
    undecided = replace(
        probe,
        coef={layer: 0 * of for layer, of in probe.coef.items()},
        intercept={layer: 0 * of for layer, of in probe.intercept.items()},
    )
    at_it = llmprobe.score(undecided, texts, threshold=0.5)
    assert (at_it["score"] == 0.5).all()
    assert not at_it["flagged"].any()  # What is at a threshold is not above it.
    with pytest.raises(llmprobe.UserError, match="no probe"):
        llmprobe.score(3, texts)
