"""Placement of a model's weights: on one device if they fit, else over several and the disk."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch
from torch import nn

from llmprobe.config.schema import ModelConfig
from llmprobe.ground.errors import UserError, first_line, out_of_memory
from llmprobe.ground.files import cache_folder, size
from llmprobe.ground.launch import launched
from llmprobe.ground.uses import use
from llmprobe.models.quantised import BYTES
from llmprobe.models.source import ModelSource

MEMORY_SHARE = 0.9
"""Share of what is free on a device that weights may take; the rest is for the states."""


def placement(
    config: ModelConfig,
    source: ModelSource,
    architecture: Any,
    dtype: torch.dtype,
    device: torch.device,
) -> dict[int | str, int] | None:
    """Return the bytes that each device may hold if the model must be spread, else None.

    Raises
    ------
    UserError
        Weights that are to be quantised do not fit, and cannot be offloaded.
    """
    if config.device != "auto" or device.type not in ("cpu", "cuda") or launched() > 1:
        return None
    if hasattr(architecture, "quantization_config"):
        needed = sum(file.stat().st_size for file in source.folder.glob("*.safetensors"))
    else:
        from transformers import AutoModel

        with torch.device("meta"):
            module = AutoModel.from_config(architecture, trust_remote_code=config.trust_remote_code)
        needed = weight_bytes(module, dtype, config.quantization)
    shares = place(needed, free_memory(device))
    if shares is None or config.quantization == "none":
        return shares
    # bitsandbytes computes where the weights are.
    room = {where: n for where, n in shares.items() if where != "cpu"} or shares
    if device.type == "cpu" or needed > sum(room.values()):
        raise UserError(
            f"model {config.id!r} takes {size(needed)} with quantization: {config.quantization}, "
            f"more than the {size(sum(room.values()))} of memory that are free for it; only with "
            "quantization: none can a part of it wait elsewhere until it is needed"
        )
    return room


def weight_bytes(module: nn.Module, dtype: torch.dtype, quantization: str) -> int:
    """Return the memory that a model's weights will take; the module can be on the meta device."""
    from transformers.pytorch_utils import Conv1D

    total = sum(t.numel() for t in (*module.parameters(), *module.buffers()))
    linear = 0
    if quantization != "none":
        # Of these classes only: bitsandbytes leaves their subclasses as they are.
        layers = (m for m in module.modules() if type(m) in (nn.Linear, Conv1D))
        linear = sum(layer.get_parameter("weight").numel() for layer in layers)
    return int((total - linear) * dtype.itemsize + linear * BYTES.get(quantization, 0))


def place(needed: int, free: Iterable[tuple[int | str, int]]) -> dict[int | str, int] | None:
    """Return how much of a model each device may hold; None if the first can hold it all.

    Parameters
    ----------
    needed
        Bytes that the weights take.
    free
        Bytes free on each device: GPUs, by number, and ``"cpu"``.
    """
    devices = iter(free)
    first = next(devices)
    if needed <= MEMORY_SHARE * first[1]:
        return None
    return {device: int(MEMORY_SHARE * n) for device, n in (first, *devices)}


def free_memory(device: torch.device) -> Iterator[tuple[int | str, int]]:
    """Yield the bytes free on ``device``, on the other GPUs and on the CPU, asked one by one.

    Asking a GPU takes some of its memory, so those that are not needed are not asked.
    """
    if device.type == "cuda":
        # A model that was dropped may still be held by reference cycles.
        gc.collect()
        torch.cuda.empty_cache()
        first = torch.cuda.current_device()
        others = (index for index in range(torch.cuda.device_count()) if index != first)
        for index in (first, *others):
            yield index, torch.cuda.mem_get_info(index)[0]
    yield "cpu", psutil.virtual_memory().available


def held_on(module: nn.Module) -> dict[str, int]:
    """Return the bytes of a model's weights on each device, and on disk."""
    places: dict[str, Any] = getattr(module, "hf_device_map", {})
    held: Counter[str] = Counter({_place_name(place): 0 for place in places.values()})
    for name, parameter in module.named_parameters():
        parts = (part for part in places if not part or f"{name}.".startswith(f"{part}."))
        place = next((places[part] for part in parts), parameter.device)
        held[_place_name(place)] += parameter.nbytes
    return dict(held)


def _place_name(place: Any) -> str:
    return f"cuda:{place}" if isinstance(place, int) else str(place)


def scratch_folder() -> TemporaryDirectory[str]:
    """Make a temporary folder in the cache, since some temporary file systems are too small."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    scratch = TemporaryDirectory(dir=cache_folder(), prefix="offload-", ignore_cleanup_errors=True)
    use(Path(scratch.name))
    return scratch


@contextmanager
def fitting(config: ModelConfig, device: torch.device) -> Iterator[None]:
    """Raise a ``UserError`` if memory or bitsandbytes keeps a model from loading or running."""
    where = f"model {config.id!r}"
    noisy = {name: logging.getLogger(name) for name in ("accelerate", "bitsandbytes")}
    levels = {name: logger.level for name, logger in noisy.items()}
    for logger in noisy.values():
        logger.setLevel(logging.ERROR)
    try:
        yield
    except (RuntimeError, AssertionError, AttributeError, MemoryError) as error:
        if out_of_memory(error):
            helps = ["a smaller model"]
            if config.quantization == "none":
                helps.insert(0, "quantization: int8 or nf4")
            if config.device != "auto":
                helps.insert(
                    0, "device: auto, which spreads it over all GPUs, the CPU and the disk"
                )
            elif launched() > 1:
                helps.insert(0, "a single process, which spreads it over all GPUs")
            raise UserError(
                f"{where} does not fit into the memory of {device}; what helps: {'; '.join(helps)}"
            ) from None
        if config.quantization == "none":
            raise
        raise UserError(
            f"{where}: bitsandbytes cannot run it with quantization: {config.quantization} on "
            f"{device}, so leave that out: {first_line(error)}"
        ) from None
    finally:
        for name, logger in noisy.items():
            logger.setLevel(levels[name])
