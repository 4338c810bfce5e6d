"""States at every token are those that an extraction reads at that token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import ARCHITECTURES, BOTH_WAYS
from transformers import PreTrainedTokenizerFast

from llmprobe.config.schema import ExtractConfig, ModelConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction import every_token
from llmprobe.extraction.capture import Capture
from llmprobe.extraction.every_token import read_every_token
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.stream import stream_states
from llmprobe.ground.errors import UserError

WORDS = "the capital city of Peru is Lima and not Paris or Bern".split()
"""More of them than the sliding windows of the tiny models."""
PREFIXES = [" ".join(WORDS[: n + 1]) for n in range(len(WORDS))]
TOLERANCE = 2e-5
"""Of float32, relative to the norm: what the extraction's own check allows."""


def extractor_of(folder: Path, **config: object) -> Extractor:
    return Extractor(ModelConfig(id=str(folder), dtype="float32"), ExtractConfig(**config))


def tokens_of(extractor: Extractor, texts: list[str]):
    dataset = ConceptDataset("texts", texts, np.arange(len(texts)) % 2)
    return dataset, extractor.tokens(dataset, extractor.model.tokenizer, extractor.model.module)


def every_state(extractor: Extractor, tokens: list[int]) -> np.ndarray:
    with Capture(extractor.model, extractor.config.site) as capture:
        width = extractor.model.hidden_size
        return read_every_token(capture, tokens, width, lambda _, states: states)


def assert_close(states: np.ndarray, expected: np.ndarray) -> None:
    """[layers, …, d] against the same."""
    difference = np.linalg.norm(states - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert difference.max() < TOLERANCE


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_state_is_what_extraction_reads_at_the_end_of_a_text_that_ends_there(
    architecture: str, tiny_model: Callable[..., Path]
) -> None:
    # A beginning-of-text token and a tokenizer that pads on the left: neither may move a state.
    folder = tiny_model(architecture, bos=True, left=True)
    extractor = extractor_of(folder)
    # Qwen2's own class of tokenizer would leave most of these words out.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    extractor._loaded.model = replace(extractor.model, tokenizer=tokenizer)
    dataset, texts = tokens_of(extractor, PREFIXES)
    activations = extractor.extract(dataset, cache=False, progress=False)
    extracted = np.stack([activations.layer(layer) for layer in activations.layers])
    whole = texts.ids[-1]
    states = every_state(extractor, whole)
    assert states.shape == (len(activations.layers), len(whole), 32)
    assert_close(states[:, -1], extracted[:, -1])
    if architecture not in BOTH_WAYS:
        begins = [i for i, ids in enumerate(texts.ids) if ids == whole[: len(ids)]]
        assert len(begins) > 4
        assert_close(states[:, [len(texts.ids[i]) - 1 for i in begins]], extracted[:, begins])


@pytest.mark.parametrize("site", ["attention", "mlp"])
def test_other_sites_are_read_where_they_have_layers(
    site: str, tiny_model: Callable[..., Path]
) -> None:
    extractor = extractor_of(tiny_model("llama"), site=site)
    dataset, texts = tokens_of(extractor, PREFIXES)
    activations = extractor.extract(dataset, cache=False, progress=False)
    extracted = np.stack([activations.layer(layer) for layer in (1, 2, 3)])
    assert_close(every_state(extractor, texts.ids[-1]), extracted)


def test_each_layer_is_read_once_inside_the_forward_pass(tiny_model: Callable[..., Path]) -> None:
    extractor = extractor_of(tiny_model("llama"))
    tokens = tokens_of(extractor, PREFIXES)[1].ids[-1]
    seen: list[tuple[int, tuple[int, ...], str]] = []

    def read(layer: int, states: np.ndarray) -> np.ndarray:
        seen.append((layer, states.shape, states.dtype.name))
        return states[:, :2]

    with Capture(extractor.model, "residual") as capture:
        first_two = read_every_token(capture, tokens, 2, read)
    assert seen == [(layer, (len(WORDS), 32), "float32") for layer in range(4)]
    np.testing.assert_array_equal(first_two, every_state(extractor, tokens)[:, :, :2])


def test_a_state_that_is_not_finite_is_refused_with_its_token_and_layer(
    tiny_model: Callable[..., Path],
) -> None:
    extractor = extractor_of(tiny_model("llama"))
    tokens = tokens_of(extractor, PREFIXES)[1].ids[-1]
    with torch.no_grad():
        extractor.model.module.get_input_embeddings().weight[tokens[4]] = torch.inf
    with pytest.raises(UserError, match="state of token 4 at layer 0 is not finite in float32"):
        every_state(extractor, tokens)


def test_a_text_that_does_not_fit_into_memory_is_said(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(every_token, "_forward", full)
    extractor = extractor_of(tiny_model("llama"))
    with pytest.raises(UserError, match="out of memory with a text of 3 tokens alone"):
        every_state(extractor, [1, 2, 3])


@pytest.mark.parametrize("position", ["last", "mean", "first"])
def test_passing_states_are_those_that_would_be_kept(
    position: str, tiny_model: Callable[..., Path]
) -> None:
    extractor = extractor_of(tiny_model("llama", bos=True), position=position, batch_tokens=16)
    dataset, texts = tokens_of(extractor, [*PREFIXES, *PREFIXES[::2], "Bern is red"])
    activations = extractor.extract(dataset, cache=False, progress=False)
    extracted = np.stack([activations.layer(layer) for layer in activations.layers])
    passed = np.full_like(extracted, np.nan)
    for rows, states in stream_states(extractor, texts, "texts"):
        assert np.isnan(passed[:, rows]).all()
        passed[:, rows] = states.float().numpy()
    np.testing.assert_array_equal(passed, extracted)
