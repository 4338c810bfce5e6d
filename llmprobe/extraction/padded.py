"""Texts side by side: batches that are padded on the right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from llmprobe.extraction.capture import Capture, Pending
from llmprobe.extraction.memory import Budget
from llmprobe.extraction.tokens import Reading, Text


class PaddedBatches:
    """Runs texts side by side.

    Parameters
    ----------
    masked
        Whether to tell the model which tokens are padding. A causal model needs no mask, since
        the padding stands to the right of every real token, and runs faster without one.
    """

    def __init__(self, capture: Capture, reading: Reading, budget: Budget, masked: bool) -> None:
        self.capture, self.reading, self.budget, self.masked = capture, reading, budget, masked

    @contextmanager
    def running(self) -> Iterator[None]:
        """Leave the model as it is while strands run."""
        yield

    def prepare(self) -> None:
        """Do nothing: batches share nothing."""

    def __call__(self, texts: Sequence[Text]) -> Pending:
        """Return the states of some texts, [layers, rows, d], on their way to the host."""

        def size(batch: Sequence[Text]) -> int:
            return len(batch) * max(len(text.tokens) for text in batch)

        def describe(batch: Sequence[Text]) -> str:
            return (
                f"{len(batch)} text{'s' * (len(batch) > 1)} of {size(batch) // len(batch)} tokens"
            )

        return Pending.of(list(self.budget.run_in_parts([texts], self._forward, size, describe)))

    @torch.inference_mode()
    def _forward(self, batch: Sequence[Text]) -> Tensor:
        """Return the states of one batch, [layers, rows, d], where the model takes its input."""
        model = self.capture.model
        lengths = torch.tensor([len(text.tokens) for text in batch])
        padded = torch.zeros(len(batch), int(lengths.max()), dtype=torch.long)
        for row, text in enumerate(batch):
            padded[row, : len(text.tokens)] = torch.tensor(text.tokens)
        rows = torch.arange(len(batch), device=model.device)
        index = torch.tensor([text.read for text in batch], device=model.device)
        weights = torch.zeros(len(batch), 1, padded.shape[1])
        if self.reading.mean:
            for row, text in enumerate(batch):
                counted = torch.from_numpy(self.reading.counted(text.tokens))
                weights[row, 0, : len(text.tokens)] = counted / counted.sum()
        weights = weights.to(model.device)

        def read(_: int, states: Tensor) -> Tensor:
            if self.reading.mean:
                return torch.bmm(weights.to(states.device), states.float()).squeeze(1)
            return states[rows.to(states.device), index.to(states.device)]

        buffer = model.buffer(len(self.capture.layers), len(batch))
        mask = torch.arange(padded.shape[1]) < lengths[:, None]
        with self.capture.into(buffer, read, (len(batch), padded.shape[1])):
            model.module(
                input_ids=padded.to(model.device),
                attention_mask=mask.long().to(model.device) if self.masked else None,
                use_cache=False,
            )
        return buffer
