"""Models in memory: the base model without its head, its tokenizer, its blocks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from llmprobe.config import ModelConfig
from llmprobe.errors import UserError
from llmprobe.models.gguf import reading
from llmprobe.models.layers import find_blocks, is_causal, verify_blocks
from llmprobe.models.source import ModelSource, locate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for extraction."""

    name: str
    module: nn.Module
    """The base model: it ends with the last block's norm, without the vocabulary projection."""
    blocks: list[nn.Module]
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    final_norm: str
    """What stands after the last block (and is left out of the last layer)."""
    causal: bool
    """Whether a token's state depends on nothing to its right, padding included."""

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return int(text_config(self.module.config).hidden_size)

    @property
    def parameters(self) -> int:
        """Parameters of the base model, embeddings included."""
        return sum(p.numel() for p in self.module.parameters())


def resolve_device(device: str) -> torch.device:
    """``auto`` is the accelerator if there is one, else the CPU."""
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        chosen = torch.device(device)
        float(torch.zeros(1, device=chosen))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {device!r} cannot be used here: {reason}") from None
    return chosen


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """``auto`` is bfloat16 where the hardware computes it fast, else float32.

    Never float16 by itself: residual streams overflow it (Gemma 3 reaches norms of 34,000).
    """
    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[
            dtype
        ]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        capabilities = cpu_capabilities()
        fast = any(capabilities.get(unit) for unit in ("avx512_bf16", "amx_bf16", "bf16"))
    else:
        fast = device.type == "mps"
    return torch.bfloat16 if fast else torch.float32


def cpu_capabilities() -> Mapping[str, Any]:
    """What the processor can do, by torch's names (``avx512_bf16``, ``cpu_name``, …)."""
    if hasattr(torch.cpu, "get_capabilities"):
        return torch.cpu.get_capabilities()
    # Older versions tell only some of it, and under private names.
    queries = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}
    return {unit: getattr(torch.cpu, name, bool)() for unit, name in queries.items()}


def text_config(config: Any) -> Any:
    """The part of a model's configuration that describes its language model."""
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def load_tokenizer(source: ModelSource, config: ModelConfig) -> Any:
    """The tokenizer in ``source``; ``UserError`` when there is none."""
    from transformers import AutoTokenizer

    with reading(f"model {config.id!r}: no usable tokenizer"):
        return AutoTokenizer.from_pretrained(
            source.folder, trust_remote_code=config.trust_remote_code
        )


def load_model(config: ModelConfig, source: ModelSource | None = None) -> LoadedModel:
    """Load the base model and find its blocks.

    Raises
    ------
    UserError
        The model cannot be found or read, or has no stack of blocks.
    """
    source = source or locate(config)
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    tokenizer = load_tokenizer(source, config)
    module = _load_module(config, source, dtype).to(device).eval()
    # Any tokens do; the tokenizer's own could be none.
    example = torch.arange(1, 9, device=device)[None] % text_config(module.config).vocab_size
    blocks = find_blocks(module, example)
    final_norm = verify_blocks(module, blocks, example)
    model = LoadedModel(
        config.name, module, blocks, tokenizer, device, dtype, final_norm,
        causal=is_causal(module, example),
    )  # fmt: skip
    log.info(
        "%s: %s, %d blocks of width %d, %s on %s",
        config.name, type(module).__name__, len(blocks), model.hidden_size, dtype, device,
    )  # fmt: skip
    return model


@dataclass(frozen=True)
class Architecture:
    """A model's shape, from its configuration alone."""

    config: Any
    layers: int
    hidden_size: int
    parameters: int
    """Without embeddings."""


def load_architecture(config: ModelConfig, source: ModelSource) -> Architecture:
    """The shape of a model, without its weights."""
    from transformers import AutoConfig, AutoModel

    trust = {"trust_remote_code": config.trust_remote_code}
    with reading(f"model {config.id!r} cannot be loaded"), torch.device("meta"):
        described = AutoConfig.from_pretrained(source.folder, **trust)
        module = AutoModel.from_config(described, **trust)
    embeddings = sum(p.numel() for p in module.get_input_embeddings().parameters())
    weights = sum(p.numel() for p in module.parameters())
    text = text_config(described)
    return Architecture(
        described, int(text.num_hidden_layers), int(text.hidden_size), weights - embeddings
    )


def _load_module(config: ModelConfig, source: ModelSource, dtype: torch.dtype) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    trust = {"trust_remote_code": config.trust_remote_code}
    with reading(f"model {config.id!r} cannot be loaded"):
        architecture = AutoConfig.from_pretrained(source.folder, **trust)
        if architecture.is_encoder_decoder:
            raise UserError(
                f"model {config.id!r} is an encoder-decoder; only single stacks are probed"
            )
        if config.weights == "random":
            with torch.random.fork_rng():
                torch.manual_seed(config.seed)
                module = AutoModel.from_config(architecture, dtype=dtype, **trust)
        else:
            module, loaded = AutoModel.from_pretrained(
                source.folder, dtype=dtype, use_safetensors=True, output_loading_info=True,
                **trust,
            )  # fmt: skip
            _require_weights(config, module, set(loaded["missing_keys"]))
    assert isinstance(module, nn.Module)
    return module


def _require_weights(config: ModelConfig, module: nn.Module, missing: set[str]) -> None:
    """Refuse weights that transformers would fill with random numbers.

    Only a pooler may be missing: it stands beside the layers, and checkpoints often lack it.
    """
    absent = sorted(name for name in missing if "pooler" not in name)
    if absent:
        lacking = f"{len(absent)} weights of {type(module).__name__}, such as {absent[0]}"
        raise UserError(f"model {config.id!r}: its files lack {lacking}")
