"""How likely a text is, is what the model itself says of it, alone or in a batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from llmprobe import UserError, probe_layers
from llmprobe.config.schema import ExtractConfig, ModelConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction import perplexity as module
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.perplexity import log_perplexities
from llmprobe.models.loading import load_language_model


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_perplexity_of_a_text_is_what_the_model_loses_on_its_tokens(
    kind: str, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ModelConfig.model_validate(
        {"id": str(tiny_model(kind, head=True)), "dtype": "float32"}
    )
    head, base = load_language_model(config)
    texts = ["coin is red one", "city is blue", "coin is red one", "Peru is red two three four"]
    dataset = ConceptDataset("d", texts, np.array([0, 1, 0, 1]))
    tokens = Extractor(config, ExtractConfig()).tokens(dataset, base.tokenizer, base.module)
    found = log_perplexities(head, base, tokens)
    for ids, value in zip(tokens.ids, found, strict=True):
        alone = torch.tensor([ids])
        with torch.inference_mode():
            assert value == pytest.approx(float(head(alone, labels=alone).loss), rel=1e-4)
    monkeypatch.setattr(module, "_BYTES", 1)  # A text at a time.
    assert log_perplexities(head, base, tokens) == pytest.approx(found, rel=1e-4)


def test_a_text_of_one_token_has_none(tiny_model: Callable[..., Path]) -> None:
    config = ModelConfig.model_validate({"id": str(tiny_model("gpt2", head=True))})
    head, base = load_language_model(config)
    dataset = ConceptDataset("d", ["red", "coin is red"], np.array([0, 1]))
    tokens = Extractor(config, ExtractConfig()).tokens(dataset, base.tokenizer, base.module)
    assert [len(ids) for ids in tokens.ids] == [1, 3]
    one, more = log_perplexities(head, base, tokens)
    assert one == 0
    assert more > 0


def test_states_alone_have_no_perplexity() -> None:
    with pytest.raises(UserError, match="controls: perplexity runs the model with its head"):
        probe_layers({0: np.eye(4)}, [0, 1, 0, 1], controls=["perplexity"])
