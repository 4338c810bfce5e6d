"""A probe inside a running model: its scores are those of the texts alone, however they are run."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from probes import fit
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

import llmprobe
from llmprobe import ConceptDataset, UserError
from llmprobe.results.operating import OperatingPoints
from llmprobe.results.saved_probe import SavedProbe

TEXTS = [
    "the capital city of Peru is Lima", "Paris is the capital", "a coin flips", "a coin", "Bern is",
    "is Lima the capital city of France", "a city", "the coin of Peru flips",
]  # fmt: skip
TWO = ConceptDataset("eight", TEXTS, np.array([0, 1] * 4))


class Fitted:
    """A tiny model, its tokenizer, a probe of it, and what the probe says of each text alone."""

    def __init__(self, folder: Path, dataset: ConceptDataset = TWO, **extract: Any) -> None:
        self.probe, activations = fit(folder, dataset, **extract)
        states = activations.layer(self.probe.best_layer)
        outputs = self.probe.outputs(states)
        self.expected = outputs[:, 1] if outputs.shape[1] == 2 else outputs
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.folder = folder

    def model(self, kind: Any = AutoModelForCausalLM) -> Any:
        return kind.from_pretrained(self.folder, dtype=torch.float32).eval()

    def batch(self, texts: list[str], side: str = "right") -> Any:
        return self.tokenizer(texts, padding=True, padding_side=side, return_tensors="pt")


@pytest.fixture
def llama(tiny_model: Callable[..., Path]) -> Fitted:
    return Fitted(tiny_model("llama"))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3", "mixtral", "gpt_neox"])
@pytest.mark.parametrize("side", ["right", "left"])
@torch.inference_mode()
def test_a_batch_has_the_scores_of_its_texts(
    tiny_model: Callable[..., Path], architecture: str, side: str
) -> None:
    fitted = Fitted(tiny_model(architecture))
    model = fitted.model()
    with fitted.probe.attach(model) as handle:
        inputs = fitted.batch(TEXTS, side)
        if side == "left":
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
        model(**inputs)
        assert handle.scores.numpy() == pytest.approx(fitted.expected, abs=1e-4)


@torch.inference_mode()
def test_a_model_that_looks_both_ways_is_scored_before_what_its_tokenizer_adds(
    tiny_model: Callable[..., Path],
) -> None:
    fitted = Fitted(tiny_model("bert", bos=True, eos=True))
    model = fitted.model(AutoModel)
    handle = fitted.probe.attach(model)
    model(**fitted.batch(TEXTS))
    assert handle.scores.numpy() == pytest.approx(fitted.expected, abs=1e-4)


@torch.inference_mode()
def test_of_three_classes_and_of_numbers_the_outputs_are_the_probes(
    tiny_model: Callable[..., Path],
) -> None:
    folder = tiny_model("llama")
    for labels, kind in ((list("abcabcab"), "logistic"), (np.arange(8) / 3, "ridge")):
        dataset = ConceptDataset("more", TEXTS, np.array(labels))
        activations = llmprobe.extract(
            str(folder), dataset, cache=False, progress=False, dtype="float32"
        )
        options = {"folds": 2, "permutations": 0, "controls": [], "l2": 1.0, "progress": False}
        (probe,) = llmprobe.probe(activations, kind=kind, **options).probes
        expected = probe.outputs(activations.layer(probe.best_layer))
        model = Fitted.model(_of(folder))
        handle = probe.attach(model)
        model(**AutoTokenizer.from_pretrained(folder)(TEXTS[0], return_tensors="pt"))
        assert handle.scores.numpy().ravel() == pytest.approx(expected[0], abs=1e-4)


def _of(folder: Path) -> Any:
    fitted = object.__new__(Fitted)
    fitted.folder = folder
    return fitted


@torch.inference_mode()
@pytest.mark.parametrize("every_token", [False, True])
def test_each_new_token_is_scored_while_the_model_generates(
    llama: Fitted, every_token: bool
) -> None:
    model, scores = llama.model(), []
    inputs = llama.batch(TEXTS[:1])
    handle = llama.probe.attach(model, every_token=every_token, on_scores=scores.append)
    tokens = model.generate(
        **inputs, do_sample=False, max_new_tokens=5, min_new_tokens=5,
        pad_token_id=llama.tokenizer.pad_token_id,
    )  # fmt: skip
    handle.remove()
    start = inputs["input_ids"].shape[1]
    every = llama.probe.attach(model, every_token=True)
    model(input_ids=tokens)
    assert len(scores) == 5
    assert {of.numel() for of in scores[1:]} == {1}
    last = torch.stack([of.reshape(-1)[-1] for of in scores])
    expected = every.scores[0, start - 1 : start + 4]
    assert last.numpy() == pytest.approx(expected.numpy(), abs=1e-5)


@torch.inference_mode()
def test_of_a_text_that_goes_on_from_a_cache_the_new_tokens_are_scored(llama: Fitted) -> None:
    model = llama.model()
    inputs = llama.batch([TEXTS[2], TEXTS[3]], side="left")
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    handle = llama.probe.attach(model, every_token=True)
    model(input_ids=ids, attention_mask=mask, position_ids=positions)
    whole = handle.scores
    begun = model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1],
                  position_ids=positions[:, :-1], use_cache=True)  # fmt: skip
    model(input_ids=ids[:, -1:], attention_mask=mask, position_ids=positions[:, -1:],
          past_key_values=begun.past_key_values)  # fmt: skip
    assert handle.scores.shape == (2, 1)
    torch.testing.assert_close(handle.scores, whole[:, -1:], rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_every_token_is_scored_and_padding_is_not(llama: Fitted) -> None:
    model = llama.model()
    handle = llama.probe.attach(model, every_token=True)
    inputs = llama.batch(TEXTS)
    model(**inputs)
    real = inputs["attention_mask"].bool()
    assert handle.scores.isfinite().equal(real)
    last = handle.scores[torch.arange(len(TEXTS)), real.sum(1) - 1]
    assert last.numpy() == pytest.approx(llama.expected, abs=1e-4)


@torch.inference_mode()
def test_texts_above_a_threshold_are_flagged(llama: Fitted) -> None:
    sure = np.sort(llama.expected)[-2:].mean()
    points = OperatingPoints("set aside", 40, {0.1: [sure] * len(llama.probe.layers)})
    probe, model = replace(llama.probe, operating=points), llama.model()
    for options in ({"fpr": 0.1}, {"threshold": sure}):
        with probe.attach(model, **options) as handle:
            model(**llama.batch(TEXTS))
            assert handle.flagged.tolist() == (llama.expected > sure).tolist()
            assert handle.threshold.guarantee == ("fpr" in options)
    with probe.attach(model, threshold=sure, every_token=True) as handle:
        model(**llama.batch(TEXTS))
        assert handle.flagged.tolist() == (handle.scores > sure).tolist()
        assert handle.scores.isnan().any()
    with pytest.raises(UserError, match="of texts, not of every token"):
        probe.attach(model, fpr=0.1, every_token=True)
    with pytest.raises(UserError, match="too few negatives"):
        probe.attach(model, fpr=0.01)
    with probe.attach(model) as handle, pytest.raises(UserError, match="nothing is flagged"):
        assert handle.flagged


def test_each_thread_has_its_own_scores(llama: Fitted) -> None:
    model = llama.model()
    handle = llama.probe.attach(model)

    @torch.inference_mode()
    def score(i: int) -> float:
        model(**llama.batch([TEXTS[i % len(TEXTS)]]))
        return float(handle.scores[0])

    with ThreadPoolExecutor(8) as pool:
        scores = np.array(list(pool.map(score, range(400))))
    assert scores == pytest.approx(np.tile(llama.expected, 50), abs=1e-4)


def test_the_model_answers_and_trains_as_before(llama: Fitted) -> None:
    model = llama.model().train()
    inputs = llama.batch(TEXTS)
    plain = model(**inputs).logits
    with llama.probe.attach(model) as handle:
        assert model.training
        logits = model(**inputs).logits
    assert logits.equal(plain)
    assert not handle.scores.requires_grad
    logits.sum().backward()


def hooks(model: Any) -> int:
    """How many hooks a model has; transformers leaves some where states were asked for."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_its_hooks_are_removed(llama: Fitted) -> None:
    model = llama.model()
    llama.probe.attach(model).remove()
    before = hooks(model)
    with llama.probe.attach(model):
        assert hooks(model) == before + 2
    assert hooks(model) == before


def test_another_model_is_refused(llama: Fitted) -> None:
    other = llama.model()
    with torch.no_grad():
        for weights in other.parameters():
            weights.mul_(1.1)
    llama.probe.attach(other, check=False).remove()
    before = hooks(other)
    with pytest.raises(UserError, match="does not give the probe's golden examples"):
        llama.probe.attach(other)
    assert hooks(other) == before
    coef = {layer: np.hstack([of, of]) for layer, of in llama.probe.coef.items()}
    with pytest.raises(UserError, match="blocks of width"):
        replace(llama.probe, coef=coef).attach(llama.model())


def test_what_cannot_be_scored_is_said(llama: Fitted) -> None:
    model = llama.model()

    def at(**facts: Any) -> SavedProbe:
        return replace(llama.probe, facts={**llama.probe.facts, **facts})

    with pytest.raises(UserError, match="fitted at 'mean'"):
        at(position="mean").attach(model)
    with pytest.raises(UserError, match="fitted at a labelled word"):
        at(of_words=True).attach(model)
    at(position="mean").attach(model, every_token=True, check=False)
    with pytest.raises(UserError, match="no layer 99"):
        llama.probe.attach(model, layer=99)
    with pytest.raises(UserError, match="no model of transformers"):
        llama.probe.attach(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="no language model"):
        replace(llama.probe, facts={}).attach(model)
    with pytest.raises(UserError, match="has not run in this thread yet"):
        _ = llama.probe.attach(model).scores
