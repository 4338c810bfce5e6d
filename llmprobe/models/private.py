"""All that llmprobe uses of transformers, accelerate and torch under private names.

Each has one function here, which says what it is for. ``tests/test_private_names.py`` lists them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

_NARROW = (torch.bfloat16, torch.float16)


def default_implementations(config: Any) -> None:
    """Make a configuration and its parts name no implementation of attention and experts.

    transformers has a public way to choose an implementation, but none to go back to the default.
    """
    for name in ("_attn_implementation", "_experts_implementation"):
        setattr(config, name, None)


@contextmanager
def experts_by_token(model: Any) -> Iterator[None]:
    """Multiply each token separately by its experts' weights while a ``with`` block lasts.

    Tokens that share an expert are otherwise multiplied together, and each changes the rounding of
    the others. Separately, each token takes the memory of an expert. transformers has a public way
    to set the implementation of experts, but not in every version one to read it.
    """
    has_experts = getattr(model.config, "num_experts_per_tok", None)
    before = getattr(model.config, "_experts_implementation", None) if has_experts else None
    if before in (None, "batched_mm"):
        yield
        return
    model.set_experts_implementation("batched_mm")
    try:
        yield
    finally:
        model.set_experts_implementation(str(before))


def in_float32() -> AbstractContextManager[Any]:
    """Compute in float32 what would be in fewer bits, in this thread while a ``with`` block lasts.

    Weights are widened where they are used, so a copy of all of them is never in memory. torch has
    a public way to compute in fewer bits than a model has, but none to compute in more.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    def widened(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.float() if value.dtype in _NARROW else value
        if isinstance(value, list | tuple):
            return type(value)(map(widened, value))
        return torch.float32 if isinstance(value, torch.dtype) and value in _NARROW else value

    class InFloat32(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, function: Any, _: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if function is torch.ops.aten.embedding.default:
                # The table is large, and few of its rows are read.
                return widened(function(*args, **(kwargs or {})))
            options = {name: widened(value) for name, value in (kwargs or {}).items()}
            return function(*widened(args), **options)

    return InFloat32()  # type: ignore[no-untyped-call]


def move_accelerate_hook(layer: Any, replacement: Any) -> None:
    """Give a layer's replacement the hook with which accelerate moves the layer's inputs.

    accelerate has functions that add and remove a hook, but none that returns it.
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
