"""Where a model computes, and in which precision."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from llmprobe.ground.errors import UserError
from llmprobe.ground.launch import launched, local_rank
from llmprobe.models.private import cpu_capabilities

_UNITS = {
    "bfloat16": ("avx512_bf16", "amx_bf16", "bf16"),
    "float16": ("avx512_fp16", "amx_fp16", "fp16"),
}
"""Features with which a processor computes fast in a dtype, by torch's names."""
_TIMES = {"bfloat16": "five", "float16": "twenty"}
"""How many times as long as float32 a dtype took on processors without any of those features."""


def resolve_device(device: str, key: str = "device") -> torch.device:
    """Return a device; ``auto`` is the accelerator if there is one, else the CPU.

    If several processes were launched, each gets an accelerator of its own.

    Raises
    ------
    UserError
        The device cannot be used here; the message names ``key``.
    """
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        if accelerator is None:
            return torch.device("cpu")
        if launched() == 1:
            return accelerator
        # Some launchers show each process its own GPU only.
        return torch.device(accelerator.type, local_rank() % torch.accelerator.device_count())
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UserError(
            f"{key} {device!r} is no device; it should be auto, cpu, cuda, cuda:1 or mps"
        ) from None
    try:
        float(torch.zeros(1, device=chosen))
    except NotImplementedError:  # Its message lists every backend there is.
        reason = "this torch is built without it"
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
    else:
        return chosen
    raise UserError(f"{key} {device!r} cannot be used here: {reason}")


def to_device(values: Tensor | np.ndarray, device: torch.device) -> Tensor:
    """Copy numbers from the host to a device, without waiting for what it has yet to compute.

    CUDA has read ordinary memory when the call returns; Apple's GPUs might read it later, so there
    the host waits.
    """
    return torch.as_tensor(values).to(device, non_blocking=device.type != "mps")


def dtype_name(dtype: torch.dtype) -> str:
    """Return what configs call a dtype: ``float32``."""
    return str(dtype).removeprefix("torch.")


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return a dtype; ``auto`` is bfloat16 where the hardware computes it fast, else float32.

    ``auto`` is never float16: residual streams overflow it (Gemma 3 reaches norms of 34,000).
    """
    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[
            dtype
        ]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        fast = _computes("bfloat16")
    else:
        fast = device.type == "mps"
    return torch.bfloat16 if fast else torch.float32


def slow_dtype(dtype: str, device: str) -> str | None:
    """Return a sentence if a config asks for a precision in which this processor is slow."""
    if dtype not in _UNITS or device not in ("auto", "cpu") or resolve_device(device).type != "cpu":
        return None
    if _computes(dtype):
        return None
    return (
        f"dtype: {dtype} takes about {_TIMES[dtype]} times as long as float32 on this processor, "
        "which has no instructions for it; dtype: auto chooses what is fast"
    )


def _computes(dtype: str) -> bool:
    capabilities = cpu_capabilities()
    return any(capabilities.get(unit) for unit in _UNITS[dtype])
