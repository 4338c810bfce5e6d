"""What the model itself says, beside what a probe reads of the same states."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy.special import logsumexp
from sklearn.metrics import roc_auc_score
from toy import write_config, write_table
from transformers import AutoModelForCausalLM, AutoTokenizer

import llmprobe
from llmprobe.config.load import load_config
from llmprobe.reporting.charts.said_used import said_used
from llmprobe.results.results import Results
from llmprobe.run import said as said_of_runs
from llmprobe.run.pipeline import Run

ANSWERS = {"1": ["true", "one"], "0": ["false"]}
QUESTION = "the statement {text} is"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "toy.csv")


def results_of(
    tmp_path: Path, model: Any, table: Path, dataset: dict[str, Any] | None = None, **more: Any
) -> Results:
    if not isinstance(model, dict):
        model = {"id": str(model), "dtype": "float32"}
    entry = {"path": str(table), "question": QUESTION, "answers": ANSWERS} | (dataset or {})
    config = write_config(tmp_path / "toy.yaml", model, entry, report={"traces": 0}, **more)
    return Run(load_config(config), tmp_path / "out").probe(extract=True)


@torch.inference_mode()
def plain(folder: Path, texts: list[str]) -> tuple[np.ndarray, list[np.ndarray]]:
    """By transformers alone: the log-odds after each text, and the states that leave each block."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    true, one, false = tokenizer.convert_tokens_to_ids(["true", "one", "false"])
    odds, states = [], []
    for text in texts:
        out = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        logits = out.logits[0, -1].numpy()
        odds.append(logsumexp(logits[[true, one]]) - logits[false])
        states.append([state[0, -1] for state in out.hidden_states])
    lens = [
        model.lm_head(model.model.norm(torch.stack([state[layer] for state in states]))).numpy()
        for layer in range(len(states[0]) - 1)
    ]
    return np.array(odds), [
        logsumexp(of[:, [true, one]], axis=1) - of[:, false] for of in lens
    ]  # fmt: skip


def test_said_is_by_the_models_own_logits_and_below_by_the_logit_lens(
    tmp_path: Path, tiny_model: Callable[..., Path], table: Path
) -> None:
    folder = tiny_model("llama", head=True)
    results = results_of(tmp_path, folder, table)
    rows = pd.read_csv(table)
    odds, lens = plain(folder, [QUESTION.format(text=text) for text in rows["text"]])
    summary = results.summary.iloc[0]
    assert summary["said_auroc"] == pytest.approx(roc_auc_score(rows["label"], odds), abs=1e-6)
    assert summary["said_accuracy"] == pytest.approx(((odds > 0) == rows["label"]).mean())
    expected = [*(roc_auc_score(rows["label"], of) for of in lens), summary["said_auroc"]]
    assert results.table["said_auroc"].tolist() == pytest.approx(expected, abs=1e-6)
    best = results.table.set_index("layer").loc[summary["peak_layer"]]
    gap = best["auroc"] - summary["said_auroc"]
    assert summary["readable_minus_said"] == pytest.approx(gap, abs=0.03)
    assert summary["readable_minus_said_low"] < gap < summary["readable_minus_said_high"]
    assert 0 <= summary["said_next_token_share"] <= 1
    evidence = json.loads((tmp_path / "out" / "evidence.json").read_text())[0]
    assert evidence["questions"]["said"]["value"] == pytest.approx(summary["said_auroc"])
    assert "say" in evidence["line"]
    assert "said" not in evidence["line"].rpartition("not asked")[2]


def test_what_was_said_is_kept_and_asked_again_for_other_words(
    tmp_path: Path,
    tiny_model: Callable[..., Path],
    table: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tiny_model("llama", head=True)
    asked: list[str] = []
    own = said_of_runs.said

    def counted(*arguments: Any) -> Any:
        asked.append("")
        return own(*arguments)

    monkeypatch.setattr(said_of_runs, "said", counted)
    first = results_of(tmp_path, folder, table)
    again = results_of(tmp_path, folder, table)
    pd.testing.assert_frame_equal(first.summary, again.summary)
    assert len(asked) == 1
    results_of(tmp_path, folder, table, {"answers": {"1": ["two"], "0": ["three"]}})
    assert len(asked) == 2
    plain = results_of(tmp_path, folder, table, said=False)
    assert len(asked) == 2
    assert plain.summary["said_auroc"].isna().all()
    assert plain.evidence[0].questions["said"].answer == "not asked"


@pytest.mark.parametrize(
    ("model", "more", "note"),
    [
        ({"weights": "random"}, {}, "The weights are random"),
        ({}, {"extract": {"position": "mean"}}, "states at mean"),
        ({}, {"extract": {"site": "mlp"}}, "states of the site mlp"),
        ({}, {"extract": {"layers": [0, 1]}}, "The last layer, 3, was not read"),
        ({"architecture": "bert"}, {}, "does not say what comes next"),
        ({"head": False}, {}, "lack .*lm_head"),
    ],
    ids=str,
)
def test_where_nothing_can_be_asked_the_answer_says_why(
    tmp_path: Path,
    tiny_model: Callable[..., Path],
    table: Path,
    model: dict[str, Any],
    more: dict[str, Any],
    note: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    architecture = model.pop("architecture", "llama")
    head = model.pop("head", architecture == "llama")
    folder = tiny_model(architecture, head=head)
    model = {"id": str(folder), "dtype": "float32", **model}
    with caplog.at_level(logging.WARNING):
        results = results_of(tmp_path, model, table, **more)
    answer = results.evidence[0].questions["said"]
    assert answer.answer == "does not apply"
    assert pd.Series([answer.sentence]).str.contains(note).all(), answer.sentence
    assert "what the model says is not known" in caplog.text


def test_strips_of_both_are_drawn(
    tmp_path: Path, tiny_model: Callable[..., Path], table: Path
) -> None:
    results = results_of(tmp_path, tiny_model("llama", head=True), table)
    drawn = said_used(results)
    assert drawn is not None
    (ax,) = drawn.axes
    assert [name.get_text() for name in ax.get_yticklabels()] == ["readable", "said"]
    shown = [image.get_array().ravel().tolist() for image in ax.images]
    assert shown == [results.table["auroc"].tolist(), results.table["said_auroc"].tolist()]
    assert said_used(results_of(tmp_path, tiny_model("llama"), table, said=False)) is None


def test_words_that_begin_alike_are_said(
    tmp_path: Path, tiny_model: Callable[..., Path], table: Path
) -> None:
    results = results_of(
        tmp_path, tiny_model("llama", head=True), table,
        {"answers": {"1": ["true"], "0": ["true", "false"]}},
    )  # fmt: skip
    assert "begin with the same token" in results.evidence[0].questions["said"].sentence


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"question": "{text} is"}, "has a question, which needs answers"),
        ({"answers": {"1": ["true"]}}, "answers need a question"),
        ({"question": "{text} is", "answers": {"1": ["true"]}}, "no words for '0'"),
        ({"question": "{text} is", "answers": {"2": ["a"], "0": ["b"], "1": ["c"]}},
         "no label '2'; the labels are 0 and 1"),
        ({"question": True, "answers": ANSWERS}, "has no question of its own"),
        ({"question": "is", "answers": ANSWERS}, "has no field"),
        ({"question": "{text} is", "template": "{text}", "answers": ANSWERS}, "say one of them"),
        ({"question": "{text} is", "answers": {"1": [], "0": ["b"]}}, "'1' needs a word"),
        ({"question": "{text} is", "answers": {"1": True, "0": False}}, "in quotation marks"),
        ({"question": "{text} is", "answers": {True: "a", False: "b"}}, "in quotation marks"),
    ],
    ids=str,
)  # fmt: skip
def test_a_question_that_cannot_be_asked_is_refused(
    table: Path, entry: dict[str, Any], says: str
) -> None:
    with pytest.raises(llmprobe.UserError, match=says):
        llmprobe.load_dataset(str(table), **entry)


def test_numbers_and_several_concepts_have_no_answers(tmp_path: Path) -> None:
    path = tmp_path / "many.csv"
    path.write_text("text,label,other\n" + "".join(f"text {i},{i / 7},{i % 2}\n" for i in range(9)))
    for label, kind in (("label", "numbers"), (["label", "other"], "several concepts")):
        with pytest.raises(llmprobe.UserError, match=f"its labels are of {kind}"):
            llmprobe.load_dataset(str(path), label=label, question="{text}?", answers={"1": ["a"]})


@pytest.mark.parametrize(
    "name",
    ["capitals", "cities", "calendar", "number_comparison", "coin_flip", "syllogism", "boolean"],
)
def test_datasets_of_ours_have_a_question_that_is_asked_only_when_wanted(name: str) -> None:
    plain = llmprobe.load_dataset(name)
    assert not plain.answers
    assert not plain.question
    asked = llmprobe.load_dataset(name, question=True)
    assert asked.filled.startswith("{text}")
    assert [*asked.answers] == [str(label) for label in asked.classes]
    first = {words[0][0] for words in asked.answers.values()}
    assert len(first) == len(asked.classes)


def test_a_saved_dataset_keeps_its_question_and_answers(table: Path, tmp_path: Path) -> None:
    asked = llmprobe.load_dataset(str(table), question=QUESTION, answers=ANSWERS)
    asked.save(tmp_path / "asked.parquet")
    again = llmprobe.load_dataset(str(tmp_path / "asked.parquet"))
    assert again.answers == asked.answers == {"0": ("false",), "1": ("true", "one")}
    assert again.texts == asked.texts
    assert yaml.safe_load(yaml.safe_dump(asked.filled)) == QUESTION
