"""Out of memory halves what is run at a time, and changes no state."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import WORDS

from llmprobe.config.schema import ModelConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.plan import PADDED, PREFIX_TREE
from llmprobe.extraction.runner import Planner
from llmprobe.ground.errors import UserError, out_of_memory

# Texts that share nothing, and texts that share most of their tokens.
APART = [" ".join([word, *WORDS[i : i + 3]]) for i, word in enumerate(WORDS)]
TOGETHER = [" ".join([*WORDS[:12], word, "true"]) for word in WORDS]


def dataset(texts: list[str]) -> ConceptDataset:
    return ConceptDataset("x", texts, np.arange(len(texts)) % 2)


def extractor(folder: Path, fits: int, tried: list[int]) -> Extractor:
    """One whose model has memory for ``fits`` tokens at a time, after the self-check."""
    one = Extractor(ModelConfig(id=str(folder), dtype="float32"))

    def limited(_: object, __: object, options: dict[str, torch.Tensor]) -> None:
        tried.append(options["input_ids"].numel())
        if tried[-1] > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    one.model.module.register_forward_pre_hook(limited, with_kwargs=True)
    return one


@pytest.mark.parametrize(("way", "texts"), [(PADDED, APART), (PREFIX_TREE, TOGETHER)])
def test_a_batch_that_does_not_fit_is_halved_and_that_is_remembered(
    way: str,
    texts: list[str],
    tiny_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(Planner, "plans", lambda planner: iter([planner.plan(way)]))
    folder, tried = tiny_model("llama"), []
    plain = extractor(folder, 10**6, []).extract(dataset(texts), cache=False)
    with caplog.at_level(logging.WARNING):
        tight = extractor(folder, 16, tried).extract(dataset(texts), cache=False)
    assert plain.facts["way"] == tight.facts["way"] == way
    assert "out of memory" in caplog.text
    too_large = [i for i, n in enumerate(tried) if n > 16]
    assert too_large
    # Every strand but those begun meanwhile stays within what was found to fit.
    assert all(n <= 16 for n in tried[too_large[-1] + 1 :])
    assert len(tried[too_large[-1] + 1 :]) > 3
    for layer in plain.layers:
        assert np.allclose(plain.layer(layer), tight.layer(layer), rtol=1e-5, atol=1e-6)


def test_one_text_that_does_not_fit_is_given_up_with_a_reason(
    tiny_model: Callable[..., Path],
) -> None:
    one = extractor(tiny_model("llama"), 3, [])
    with pytest.raises(UserError, match=r"out of memory with 1 text of 4 tokens alone; .*bfloat16"):
        one.extract(dataset(APART), cache=False)


def test_what_torch_and_python_say_is_recognised() -> None:
    with pytest.raises(RuntimeError) as cpu:
        torch.empty(2**50)
    assert out_of_memory(cpu.value)
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.OutOfMemoryError())
    assert not out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert not out_of_memory(ValueError("not enough memory"))
