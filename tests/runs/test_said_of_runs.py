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
from tiny import WORDS
from toy import write_config, write_table
from transformers import AutoModelForCausalLM, AutoTokenizer

import llmprobe
from llmprobe.config.load import load_config
from llmprobe.models import loading
from llmprobe.models.answer_head import AnswerHead
from llmprobe.reporting.charts.said_used import said_used
from llmprobe.results.results import Results
from llmprobe.runs import said as said_of_runs
from llmprobe.runs.pipeline import Run

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
def plain_logits(folder: Path, table: Path) -> list[np.ndarray]:
    """By transformers alone, the logits of all words after each text: of the logit lens at each
    layer, and last of the model. Each [texts, words]
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    texts = [QUESTION.format(text=text) for text in pd.read_csv(table)["text"]]
    outs = [
        model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True) for text in texts
    ]
    states = [torch.cat([out.hidden_states[i][:, -1] for out in outs])
              for i in range(len(outs[0].hidden_states) - 1)]  # fmt: skip
    lens = [model.lm_head(model.model.norm(of)).numpy() for of in states]
    return [*lens, torch.cat([out.logits[:, -1] for out in outs]).numpy()]


def ids_of(folder: Path, *words: str) -> list[int]:
    ids: list[int] = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids([*words])
    return ids


def odds_of(logits: np.ndarray, folder: Path) -> np.ndarray:
    """The log-odds of ``ANSWERS``. [texts]"""
    odds: np.ndarray = logsumexp(logits[:, ids_of(folder, *ANSWERS["1"])], axis=1)
    return odds - logits[:, ids_of(folder, *ANSWERS["0"])[0]]


def test_said_is_by_the_models_own_logits_and_below_by_the_logit_lens(
    tmp_path: Path, tiny_model: Callable[..., Path], table: Path
) -> None:
    folder = tiny_model("llama", head=True)
    results = results_of(tmp_path, folder, table)
    rows = pd.read_csv(table)
    every = plain_logits(folder, table)
    expected = [roc_auc_score(rows["label"], odds_of(of, folder)) for of in every]
    summary, odds = results.summary.iloc[0], odds_of(every[-1], folder)
    assert summary["said_auroc"] == pytest.approx(expected[-1], abs=1e-6)
    assert summary["said_accuracy"] == pytest.approx(((odds > 0) == rows["label"]).mean())
    assert results.table["said_auroc"].tolist() == pytest.approx(expected, abs=1e-6)
    tried = np.unique(np.linspace(0, len(rows) - 1, 8).astype(int))
    written = np.isin(every[-1][tried].argmax(axis=1), ids_of(folder, "true", "one", "false"))
    assert summary["said_next_token_share"] == written.mean()
    best = results.table.set_index("layer").loc[summary["peak_layer"]]
    gap = best["auroc"] - summary["said_auroc"]
    assert summary["readable_minus_said"] == pytest.approx(gap, abs=0.03)
    assert summary["readable_minus_said_low"] < gap < summary["readable_minus_said_high"]
    evidence = json.loads((tmp_path / "out" / "evidence.json").read_text())[0]
    assert evidence["questions"]["said"]["value"] == pytest.approx(summary["said_auroc"])
    assert "say" in evidence["line"]
    assert "said" not in evidence["line"].rpartition("not asked")[2]


def test_it_is_said_from_where_the_lens_stays_within_the_interval_of_the_end(
    tmp_path: Path, tiny_model: Callable[..., Path], table: Path
) -> None:
    folder = tiny_model("llama", head=True)
    labels = pd.read_csv(table)["label"]
    logits = plain_logits(folder, table)[-1][:, ids_of(folder, *WORDS)]
    pairs = [(i, j) for i in range(len(WORDS)) for j in range(len(WORDS)) if i != j]
    best, other = max(
        pairs, key=lambda pair: roc_auc_score(labels, logits[:, pair[0]] - logits[:, pair[1]])
    )
    answers = {"1": [WORDS[best]], "0": [WORDS[other]]}
    results = results_of(tmp_path, folder, table, {"answers": answers})
    end = results.summary.iloc[0]
    assert end["said_auroc_low"] > 0.5
    assert results.evidence[0].questions["said"].answer == "yes"
    expected = None
    for layer, value in results.table[["layer", "said_auroc"]].itertuples(index=False):
        inside = end["said_auroc_low"] <= value <= end["said_auroc_high"]
        expected = (layer if expected is None else expected) if inside else None
    assert end["said_layer"] == expected


def test_units_are_what_the_interval_counts(
    tmp_path: Path, tiny_model: Callable[..., Path], table: Path
) -> None:
    folder, rows = tiny_model("llama", head=True), pd.read_csv(table)
    rows.assign(group=rows["text"].str.split().str[0] + rows["label"].astype(str)).to_csv(
        tmp_path / "grouped.csv", index=False
    )
    alone = results_of(tmp_path, folder, table).summary.iloc[0]
    grouped = results_of(tmp_path, folder, tmp_path / "grouped.csv", {"group": "group"})
    width = grouped.summary.iloc[0]["said_auroc_high"] - grouped.summary.iloc[0]["said_auroc_low"]
    assert grouped.summary.iloc[0]["said_auroc"] == pytest.approx(alone["said_auroc"])
    assert width > 1.2 * (alone["said_auroc_high"] - alone["said_auroc_low"])


def test_the_weights_are_in_memory_once(
    tmp_path: Path, tiny_model: Callable[..., Path], table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, loaded = tiny_model("llama", head=True), []
    load = loading._load_module

    def counted(*arguments: Any) -> Any:
        loaded.append(arguments[-1].__name__)
        return load(*arguments)

    monkeypatch.setattr(loading, "_load_module", counted)
    results_of(tmp_path, folder, table, intervene={"null": 20}, probe={"controls": ["perplexity"]})
    assert loaded == ["AutoModelForCausalLM"]


def test_states_that_are_not_the_models_are_noticed(
    tmp_path: Path,
    tiny_model: Callable[..., Path],
    table: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = AnswerHead.own

    def another(self: AnswerHead, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor, int]:
        logits, state, following = own(self, ids)
        return logits + 0.1, state, following

    monkeypatch.setattr(AnswerHead, "own", another)
    results = results_of(tmp_path, tiny_model("llama", head=True), table)
    answer = results.evidence[0].questions["said"]
    assert "give other logits than the model: 0.1 off" in answer.sentence


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
        ({"architecture": "bert"}, {}, "does not predict the next token"),
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
        ({"question": "{text} is", "template": "{text}", "answers": ANSWERS}, "give one of them"),
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
