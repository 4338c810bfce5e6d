"""What an extraction will cost, before anything is run."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from llmprobe.concepts.dataset import ConceptDataset
from llmprobe.extraction.extract import Extractor
from llmprobe.models.loading import load_architecture, load_tokenizer, resolve_device, resolve_dtype

SHARE_OF_PEAK = 0.6
"""Of the speed of large matrix products, what a forward pass reaches on short texts."""


@dataclass(frozen=True)
class Estimate:
    """Of one model on one dataset."""

    texts: int
    tokens: int
    unique_tokens: int
    n_bytes: int
    """On disk."""
    seconds: float


def estimate(extractor: Extractor, dataset: ConceptDataset) -> Estimate:
    """Tokens, disk and time of an extraction; needs the tokenizer and no weights."""
    model = extractor.model_config
    device = resolve_device(model.device)
    dtype = resolve_dtype(model.dtype, device)
    shape = load_architecture(model, extractor.source)
    texts = extractor.tokens(dataset, load_tokenizer(extractor.source, model), shape.config)
    distinct = len(set(map(tuple, texts.ids)))
    # Two operations for each weight and token; looking up embeddings costs none.
    operations = 2 * shape.parameters * texts.n_tokens
    return Estimate(
        texts=len(dataset),
        tokens=texts.n_tokens,
        unique_tokens=texts.n_unique_tokens,
        n_bytes=distinct * (shape.layers + 1) * shape.hidden_size * dtype.itemsize,
        seconds=operations / (SHARE_OF_PEAK * _matmul_speed(device, dtype)),
    )


def _matmul_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a product of 1,024-row matrices, measured."""
    a = torch.ones(1024, 1024, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        float((a @ a)[0, 0])
        best = min(best, time.perf_counter() - began)
    return 2 * 1024**3 / best
