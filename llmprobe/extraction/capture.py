"""Hidden states of every layer at the wanted position, taken inside the forward pass.

Only ``[batch, layers, d]`` is kept: memory does not grow with length × layers, as it does with
``output_hidden_states=True`` (which also returns the last layer after the final norm).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llmprobe.models.layers import block_input, hidden_state, hooked
from llmprobe.models.loading import LoadedModel


@torch.inference_mode()
def capture(
    model: LoadedModel,
    batch: Sequence[Sequence[int]],
    position: str,
    special: frozenset[int] = frozenset(),
    masked: bool = False,
) -> Tensor:
    """Hidden states of one batch of token lists. -> [batch, layers, d] on the model's device

    Parameters
    ----------
    position
        ``"last"``, ``"first"``, or ``"mean"`` over the tokens that are not in ``special``.
    masked
        Whether to tell the model which tokens are padding. A causal model needs no mask, since
        the padding stands to the right of every real token, and runs faster without one.
    """
    lengths = torch.tensor([len(tokens) for tokens in batch])
    padded = torch.zeros(len(batch), int(lengths.max()), dtype=torch.long)
    for row, tokens in enumerate(batch):
        padded[row, : len(tokens)] = torch.tensor(tokens)
    real = torch.arange(padded.shape[1]) < lengths[:, None]
    reader = _Reader(padded, real, lengths, position, special, model.device)
    buffer = torch.empty(
        len(batch), len(model.blocks) + 1, model.hidden_size, dtype=model.dtype, device=model.device
    )

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        buffer[:, 0] = reader(block_input(args, kwargs))

    def leave(layer: int) -> Any:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            buffer[:, layer] = reader(hidden_state(output))

        return hook

    handles: list[Any] = [model.blocks[0].register_forward_pre_hook(enter, with_kwargs=True)]
    handles += [b.register_forward_hook(leave(i)) for i, b in enumerate(model.blocks, start=1)]
    with hooked(handles):
        model.module(
            input_ids=padded.to(model.device),
            attention_mask=real.long().to(model.device) if masked else None,
            use_cache=False,
        )
    return buffer


class _Reader:
    """What is read from one layer's states ``[batch, tokens, d]``: ``[batch, d]``."""

    def __init__(
        self,
        padded: Tensor,
        real: Tensor,
        lengths: Tensor,
        position: str,
        special: frozenset[int],
        device: torch.device,
    ) -> None:
        self.rows = torch.arange(len(padded), device=device)
        self.weights: Tensor | None = None
        self.index = torch.zeros_like(lengths).to(device)
        if position == "last":
            self.index = (lengths - 1).to(device)
        elif position == "mean":
            counted = real & ~torch.isin(padded, torch.tensor(sorted(special), dtype=torch.long))
            weights = counted / counted.sum(dim=1, keepdim=True)
            self.weights = weights[:, None, :].to(device)

    def __call__(self, states: Tensor) -> Tensor:
        if self.weights is None:
            return states[self.rows, self.index]
        return torch.bmm(self.weights, states.float()).squeeze(1)
