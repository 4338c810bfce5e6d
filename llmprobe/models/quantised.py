"""Weights in 8 and 4 bits, by bitsandbytes; each token is still computed by itself."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from llmprobe.config.schema import ModelConfig
from llmprobe.ground.errors import UserError
from llmprobe.models.private import move_accelerate_hook

BYTES = {"int8": 1.0, "nf4": 0.5 + 4 / 64}
"""Bytes of one quantised weight; nf4 has a scale of four bytes for every 64."""


def require_bitsandbytes(config: ModelConfig) -> None:
    """Raise ``UserError`` if a model needs bitsandbytes and it is not installed."""
    if config.quantization != "none" and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"model {config.id!r}: quantization: {config.quantization} needs bitsandbytes: "
            "pip install 'bitsandbytes>=0.50'"
        )


def bitsandbytes_config(quantization: str, dtype: torch.dtype) -> Any:
    """Return the configuration with which transformers quantises while it loads."""
    from transformers import BitsAndBytesConfig

    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def compute_by_token(module: Any, where: str) -> None:
    """Make bitsandbytes' layers compute each token by itself and in the model's own precision.

    Raises
    ------
    UserError
        The model has no such layers.
    """
    import bitsandbytes as bnb

    layers = [
        (name, layer)
        for name, layer in module.named_modules()
        if isinstance(layer, bnb.nn.Linear8bitLt | bnb.nn.Linear4bit)
    ]
    if not layers:
        raise UserError(
            f"{where}: bitsandbytes finds nothing to quantise in {type(module).__name__}, so leave "
            "out quantization"
        )
    for name, layer in layers:
        if isinstance(layer, bnb.nn.Linear8bitLt):
            plain = Int8Linear(layer)
            move_accelerate_hook(layer, plain)
            module.set_submodule(name, plain)
        else:
            # Some processors have a path that computes in bfloat16, whatever was asked for, and
            # fails where widths are no multiples of 64.
            layer.support_avx512bf16_for_cpu = False


class Int8Linear(nn.Module):
    """A linear layer whose weights are 8-bit integers, with one scale for each row.

    Dettmers et al. (2022) round the input to 8 bits as well, except for the columns in which any
    token of the batch has an outlier. A token's state then depends on the tokens to its right and
    on the other texts of its batch. Here the weights are theirs, but the input is not rounded.
    """

    def __init__(self, quantised: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(quantised.weight.data, requires_grad=False)
        self.scale: Tensor
        self.register_buffer("scale", quantised.weight.SCB[:, None] / 127)
        self.bias = quantised.bias

    def forward(self, states: Tensor) -> Tensor:
        """Return the outputs, [… , outputs], of some inputs, [… , inputs]."""
        weight = (self.weight * self.scale).to(states.dtype)
        return nn.functional.linear(states, weight, self.bias)
