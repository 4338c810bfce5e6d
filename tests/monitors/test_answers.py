"""A model's own answers are those of a plain greedy loop, and are read back as a dataset."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import WORDS
from transformers import AutoModelForCausalLM, AutoTokenizer

import llmprobe
from llmprobe.cli.main import main
from llmprobe.config.schema import ModelConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.ground.errors import UserError
from llmprobe.monitors import answers
from llmprobe.monitors.answers import Asked, answer_all

CHAT = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} </s> {% endfor %}"
    "{% if add_generation_prompt %}one {% endif %}"
)


@pytest.fixture(scope="module")
def folder(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("gemma3", bos=True)


def dataset(n: int = 7) -> ConceptDataset:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=2 + i % 3)) for i in range(n)]
    return ConceptDataset("words", texts, np.array(["true", "false"] * n)[:n])


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


def greedy(folder: Path, text: str, n: int, special: bool = True) -> tuple[str, torch.Tensor]:
    """The words that come next, one forward pass a word, and their states in each layer."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(text, add_special_tokens=special)["input_ids"]
    start = len(ids)
    with torch.inference_mode():
        for _ in range(n):
            out = model(torch.tensor([ids]), output_hidden_states=True)
            ids.append(int(out.logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
        out = model(torch.tensor([ids]), output_hidden_states=True)
    end = len(ids) - (ids[-1] == tokenizer.eos_token_id)
    new = tokenizer.decode(ids[start:end], skip_special_tokens=True)
    return new, torch.stack(out.hidden_states[:-1])[:, 0, start:end]


def test_answers_are_those_of_a_plain_loop_and_their_states_are_read_back(
    folder: Path, tmp_path: Path
) -> None:
    out, data = tmp_path / "answers.jsonl", dataset()
    said = answer_all(ModelConfig(id=str(folder), dtype="float32"), data, Asked(max_tokens=3), out)
    rows = rows_of(out)
    every = [greedy(folder, text, 3) for text in data.texts]
    some = [i for i, (new, _) in enumerate(every) if new]
    assert 0 < len(some) < len(data)
    assert f"{len(data) - len(some)} of them are empty" in said
    assert [row["text"] for row in rows] == [data.texts[i] for i in some]
    assert [row["label"] for row in rows] == data.labels[some].tolist()
    expected = [every[i] for i in some]
    assert [row["response"].split() for row in rows] == [new.split() for new, _ in expected]
    assert "differ by at most" in said
    assert float(said.split("at most ")[1].split()[0]) < 1e-5
    again = llmprobe.load_dataset(out, template="{text}{response}", label="label")
    states = llmprobe.extract(str(folder), again, position="mean:response", dtype="float32",
                              cache=False, progress=False)  # fmt: skip
    # A special token inside an answer is not read again.
    alike = [i for i, (new, states) in enumerate(expected) if len(new.split()) == states.shape[1]]
    assert len(alike) >= 3
    for layer in range(3):
        means = [expected[i][1][layer].mean(dim=0).numpy() for i in alike]
        np.testing.assert_allclose(states.layer(layer)[alike], means, rtol=1e-4, atol=1e-5)


def test_an_answer_ends_where_it_is_told_to(folder: Path, tmp_path: Path) -> None:
    model, data = ModelConfig(id=str(folder), dtype="float32"), dataset()
    answer_all(model, data, Asked(max_tokens=3), tmp_path / "whole.jsonl")
    whole = {row["text"]: row["response"] for row in rows_of(tmp_path / "whole.jsonl")}
    text, (first, stop) = next((text, response.split()[:2]) for text, response in whole.items()
                               if len(set(response.split()[:2])) == 2)  # fmt: skip
    answer_all(model, data, Asked(max_tokens=3, stop=(stop,)), tmp_path / "cut.jsonl")
    cut = {row["text"]: row["response"] for row in rows_of(tmp_path / "cut.jsonl")}
    assert cut[text].split() == [first]
    assert not any(stop in response for response in cut.values())


def test_an_interrupted_command_goes_on_after_what_it_has(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data, asked = ModelConfig(id=str(folder)), dataset(), Asked(max_tokens=2)
    answer_all(model, data, asked, tmp_path / "whole.jsonl")
    out, batches = tmp_path / "answers.jsonl", []
    generate = answers._generate

    def interrupted(*args: Any) -> list[str]:
        batches.append(len(args[2]))
        if len(batches) == 3:
            raise KeyboardInterrupt
        return generate(*args)

    monkeypatch.setattr(answers, "_generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        answer_all(model, data, asked, out)
    assert not out.exists()
    (kept,) = tmp_path.glob(".*.answers")
    with kept.open("a") as file:
        file.write('[3, "ha')  # A process that was killed while it wrote.
    answer_all(model, data, asked, out)
    assert sum(batches) == len(data) + batches[2]
    assert out.read_text() == (tmp_path / "whole.jsonl").read_text()
    assert list(tmp_path.glob(".*")) == []


def test_answers_of_other_weights_are_not_gone_on_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, data, generate = tmp_path / "answers.jsonl", dataset(), answers._generate
    asked_for: list[int] = []

    def once(*args: Any) -> list[str]:
        if asked_for:
            raise KeyboardInterrupt
        asked_for.append(len(args[2]))
        return generate(*args)

    monkeypatch.setattr(answers, "_generate", once)
    with pytest.raises(KeyboardInterrupt):
        answer_all(ModelConfig(id=str(folder)), data, Asked(max_tokens=2), out)
    asked_for.clear()
    monkeypatch.setattr(
        answers, "_generate", lambda *args: asked_for.append(len(args[2])) or generate(*args)
    )
    answer_all(ModelConfig(id=str(folder), weights="random"), data, Asked(max_tokens=2), out)
    assert sum(asked_for) == len(data)


def test_answers_in_a_chat_become_prompt_and_response(folder: Path, tmp_path: Path) -> None:
    import shutil

    chatty = Path(shutil.copytree(folder, tmp_path / "chatty"))
    tokenizer = AutoTokenizer.from_pretrained(chatty)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(chatty)
    out, data = tmp_path / "answers.jsonl", dataset()
    asked = Asked(chat=True, max_tokens=2, judge="label", words={"true": "of", "false": "the"})
    said = answer_all(ModelConfig(id=str(chatty)), data, asked, out)
    rows = rows_of(out)
    assert [row["prompt"] for row in rows] == [t for t in data.texts if t in str(rows)]
    assert rows[0]["prompt"] == data.texts[0]
    first, _ = greedy(folder, f"user {data.texts[0]} </s> one", 2, special=False)
    assert rows[0]["response"].split() == first.split()
    assert {row["correct"] for row in rows} <= {True, False}
    assert "prompt: prompt, response: response, label: correct" in said


@pytest.mark.parametrize(
    ("judge", "answer", "expected", "right"),
    [
        ("exact", " Lima.\n", "lima", True),
        ("exact", " It is Lima", "Lima", False),
        ("number", "12 + 30 = 1,042.", "1042", True),
        ("number", "none", "3", False),
        ("label", "Yes, no doubt", "yes", True),
        ("label", "I know", "no", False),
        ("label", "not true", "true", True),
    ],
)
def test_an_answer_is_judged_by_what_it_says(
    judge: str, answer: str, expected: str, right: bool
) -> None:
    known = ["yes", "no", "true", "false"]
    assert answers._JUDGES[judge](answer, expected, known) == right


def test_what_cannot_be_answered_is_one_sentence(
    folder: Path, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    data, out = dataset(), tmp_path / "answers.jsonl"
    one = ModelConfig(id=str(folder))
    for model, asked, message in (
        (ModelConfig(id=str(tiny_model("bert"))), Asked(), "does not predict the next token"),
        (ModelConfig(id=str(tiny_model("llama"))), Asked(), "lack .*lm_head"),
        (one, Asked(chat=True), "no chat template"),
        (one, Asked(max_tokens=60), "does not fit after it into the model's window of 64"),
        (one, Asked(judge="label", words={"true": "yes"}), "no word for 'false'"),
        (one, Asked(judge="number"), "the expected answer 'true' is no number"),
        (one, Asked(judge="exact", expected="reply"), "no such column"),
        (one, Asked(expected="reply"), "belong to --judge"),
    ):
        with pytest.raises(UserError, match=message):
            answer_all(model, data, asked, out)
    words = replace(data, words=[(0, 1)] * len(data))
    several = replace(data, concepts={"a": data.labels, "b": data.labels})
    for other, message in ((words, "labels are of words"), (several, "labels of 2 concepts")):
        with pytest.raises(UserError, match=message):
            answer_all(one, other, Asked(judge="exact"), out)
    assert not out.exists()
    out.write_text("")
    with pytest.raises(UserError, match="exists already"):
        answer_all(one, data, Asked(), out)


def test_the_command_says_how_to_probe_the_answers(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "answers.jsonl"
    options = ["--limit", "4", "--max-tokens", "2", "--template", "{text} the", "--out", str(out)]
    assert main(["answer", str(folder), "coin_flip", *options]) == 0
    said = capsys.readouterr().out
    assert "4 answers" in said
    assert f"path: {out}" in said
    assert 0 < len(rows_of(out)) <= 4
