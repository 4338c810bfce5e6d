"""All that llmprobe uses of transformers, accelerate and torch and that they call private.

Each has one function here, which says what it is for. ``tests/test_private_names.py`` names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch


def default_implementations(config: Any) -> None:
    """Let a configuration and its parts name no implementation of attention and experts.

    transformers has a public way to choose one for a model, and none to choose what it would take
    by default.
    """
    for name in ("_attn_implementation", "_experts_implementation"):
        setattr(config, name, None)


@contextmanager
def _implementation(before: str | None, name: str, choose: Callable[[str], None]) -> Iterator[None]:
    """Choose another implementation for as long as the block lasts; None has no choice."""
    if before in (None, name):
        yield
        return
    choose(name)
    try:
        yield
    finally:
        choose(str(before))


def plain_attention(model: Any) -> AbstractContextManager[None]:
    """Compute attention by plain products of queries and keys while a ``with`` block lasts.

    transformers has a public way to set the implementation of attention, and none to read it.
    """
    before = model.config._attn_implementation
    return _implementation(before, "eager", model.set_attn_implementation)


def experts_by_token(model: Any) -> AbstractContextManager[None]:
    """Multiply each token by its experts' weights alone while a ``with`` block lasts.

    Tokens that share an expert are otherwise multiplied together, and each changes the rounding of
    the others. This takes the memory of an expert for each token. As for attention, not every
    version of transformers has a public way to read the implementation.
    """
    has_experts = getattr(model.config, "num_experts_per_tok", None)
    before = getattr(model.config, "_experts_implementation", None) if has_experts else None
    return _implementation(before, "batched_mm", model.set_experts_implementation)


def move_accelerate_hook(layer: Any, replacement: Any) -> None:
    """Give the layer that replaces another one the hook by which accelerate moves its inputs.

    accelerate has functions that add and remove a hook, and none that returns it.
    """
    from accelerate.hooks import add_hook_to_module

    if hasattr(layer, "_hf_hook"):
        add_hook_to_module(replacement, layer._hf_hook)


def cpu_capabilities() -> Mapping[str, Any]:
    """Return what the processor can do, by torch's names (``avx512_bf16``, ``cpu_name``, …)."""
    if hasattr(torch.cpu, "get_capabilities"):
        return torch.cpu.get_capabilities()
    # Older versions of torch tell only some of it, and under private names.
    return {
        "avx512_bf16": getattr(torch.cpu, "_is_avx512_bf16_supported", bool)(),
        "amx_bf16": getattr(torch.cpu, "_is_amx_tile_supported", bool)(),
    }
