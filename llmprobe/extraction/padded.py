"""Texts side by side: batches that are padded on the right."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llmprobe.extraction.capture import Capture, Pending
from llmprobe.extraction.memory import Budget
from llmprobe.extraction.tokens import Text
from llmprobe.models.devices import to_device


class PaddedBatches:
    """Runs texts side by side.

    Parameters
    ----------
    masked
        Whether to tell the model which tokens are padding. A causal model needs no mask, since
        the padding stands to the right of every real token, and runs faster without one.
    whole
        Whether the last block also runs at tokens that are not read.
    """

    def __init__(self, capture: Capture, budget: Budget, masked: bool, whole: bool = False) -> None:
        self.capture, self.budget, self.masked, self.whole = capture, budget, masked, whole

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

    @torch.no_grad()  # in_float32 cannot take a view of a weight in inference mode.
    def _forward(self, batch: Sequence[Text]) -> Tensor:
        """Return the states of one batch, [layers, rows, d], on the device of the model's input."""
        model = self.capture.model
        lengths = torch.tensor([len(text.tokens) for text in batch])
        padded = torch.zeros(len(batch), int(lengths.max()), dtype=torch.long)
        for row, text in enumerate(batch):
            padded[row, : len(text.tokens)] = torch.tensor(text.tokens)
        read = _Rows(batch, padded.shape[1], model.device)
        buffer = model.buffer(len(self.capture.layers), len(read))
        mask = torch.arange(padded.shape[1]) < lengths[:, None]
        only = None if self.whole else read.only
        with self.capture.into(buffer, read, (len(batch), padded.shape[1]), only):
            model.module(
                input_ids=to_device(padded, model.device),
                attention_mask=to_device(mask.long(), model.device) if self.masked else None,
                use_cache=False,
            )
        return buffer


class _Rows:
    """Reads the places of the texts of a batch, a row each."""

    def __init__(self, batch: Sequence[Text], width: int, device: torch.device) -> None:
        places = [(row, place) for row, text in enumerate(batch) for place in text.places]

        def index(values: Sequence[int]) -> Tensor:
            return to_device(torch.tensor(values, dtype=torch.long), device)

        self.text = index([row for row, _ in places])
        self.token = index([place[0] for _, place in places])
        self.width = width
        means = [(at, place) for at, (_, place) in enumerate(places) if len(place) > 1]
        weights = torch.zeros(len(means), width)
        for weight, (_, place) in zip(weights, means, strict=True):
            weight[list(place)] = 1 / len(place)
        self.weights = to_device(weights, device)
        self.means = index([at for at, _ in means])

    def __len__(self) -> int:
        return len(self.text)

    @property
    def only(self) -> Tensor | None:
        """Return the indices in the flattened batch of the tokens read; None with means."""
        return None if len(self.means) else self.text * self.width + self.token

    def __call__(self, _: int, states: Tensor) -> Tensor:
        device = states.device
        text, means = self.text.to(device), self.means.to(device)
        rows = states[text, self.token.to(device)]
        if len(means):
            weights, n = self.weights.to(device)[:, None], len(states)
            # As many means at a time as there are texts, so that one copy of the batch is held.
            for first in range(0, len(means), n):
                some = means[first : first + n]
                mean = torch.bmm(weights[first : first + n], states[text[some]].float())[:, 0]
                rows[some] = mean.to(rows.dtype)
        return rows
