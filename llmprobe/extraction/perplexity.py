"""How likely a model finds texts, which shows any difference in fluency or frequency."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from llmprobe.extraction.tokens import TokenisedTexts
from llmprobe.ground.progress import Progress
from llmprobe.models.loading import LoadedModel

_BYTES = 2**28
"""Bytes that the logits of one batch may take."""


@torch.inference_mode()
def log_perplexities(head: Any, base: LoadedModel, tokens: TokenisedTexts) -> np.ndarray:
    """Compute the mean negative log-likelihood of the tokens of each text, in nats. -> [n]

    The first token does not count, since nothing comes before it; a text of one token gets 0.

    Parameters
    ----------
    head, base
        The model, as ``load_language_model`` returns it.
    tokens
        The texts as the model reads them.
    """
    # Sorted by length, so that little is padded.
    texts = sorted({tuple(ids) for ids in tokens.ids}, key=len)
    most = max(1, _BYTES // (4 * int(head.get_output_embeddings().weight.shape[0])))
    known: dict[tuple[int, ...], float] = {}
    with Progress(f"perplexity of texts under {base.name}", len(texts)) as progress:
        while texts:
            size = max(1, most // len(texts[-1]))
            batch, texts = texts[-size:], texts[:-size]
            known |= dict(zip(batch, _of_batch(head, base, batch), strict=True))
            progress.advance(len(batch))
    return np.array([known[tuple(ids)] for ids in tokens.ids])


def _of_batch(head: Any, base: LoadedModel, batch: list[tuple[int, ...]]) -> list[float]:
    ids = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.long)
    real = torch.zeros_like(ids)
    for row, text in enumerate(batch):
        ids[row, : len(text)] = torch.tensor(text)
        real[row, : len(text)] = 1
    ids, real = ids.to(base.device), real.to(base.device)
    logits = head(input_ids=ids, attention_mask=real, use_cache=False).logits
    losses = cross_entropy(
        logits[:, :-1].float().transpose(1, 2), ids[:, 1:].to(logits.device), reduction="none"
    )
    read = real[:, 1:].to(losses.device)
    means: list[float] = ((losses * read).sum(dim=1) / read.sum(dim=1).clamp_min(1)).tolist()
    return means
