"""The states of one text at every token, from which a map of token × layer is scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from llmprobe.extraction.capture import Capture
from llmprobe.extraction.memory import Budget
from llmprobe.ground.errors import UserError
from llmprobe.models.devices import dtype_name


def read_every_token(
    capture: Capture,
    tokens: Sequence[int],
    width: int,
    read: Callable[[int, np.ndarray], np.ndarray],
) -> np.ndarray:
    """Run a text alone and return ``read`` of each layer. -> [layers, tokens, width] float64

    Each layer is read inside the forward pass, so that only one layer's states are in memory at a
    time.

    Parameters
    ----------
    read
        Function of a layer's number and its states, [tokens, d] float32, to [tokens, width].

    Raises
    ------
    UserError
        A state is not finite, or the text does not fit into memory.
    """
    run = partial(_forward, capture, tokens, width, read)
    description = f"a text of {len(tokens)} tokens"
    scores = Budget(len(tokens)).attempt(len(tokens), run, description, divisible=False)
    assert scores is not None  # What is not divisible fits or raises.
    return scores


@torch.inference_mode()
def _forward(
    capture: Capture,
    tokens: Sequence[int],
    width: int,
    read: Callable[[int, np.ndarray], np.ndarray],
) -> np.ndarray:
    model = capture.model
    layers = capture.layers

    def reader(slot: int, states: Tensor) -> Tensor:
        activations = states[0].float().cpu()
        finite = torch.isfinite(activations).all(dim=1)
        if not finite.all():
            raise UserError(
                f"{model.name}: the state of token {int((~finite).int().argmax())} at layer "
                f"{layers[slot]} is not finite in {dtype_name(model.dtype)}"
            )
        return torch.from_numpy(np.array(read(layers[slot], activations.numpy()), dtype=float))

    scores = torch.empty(len(layers), len(tokens), width, dtype=torch.float64)
    with capture.into(scores, reader, (1, len(tokens))):
        # Alone and whole, so that there is neither padding nor anything to mask.
        model.module(
            input_ids=torch.tensor([tokens], device=model.device),
            attention_mask=None,
            use_cache=False,
        )
    return scores.numpy()
