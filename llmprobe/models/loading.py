"""Models in memory: the base model without its head, its tokenizer, its blocks."""

from __future__ import annotations

import gc
import importlib.util
import logging
import math
import os
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from llmprobe.config import ModelConfig
from llmprobe.errors import UserError
from llmprobe.files import cache_folder, require_space, size
from llmprobe.models.gguf import reading
from llmprobe.models.layers import find_blocks, is_causal, verify_blocks
from llmprobe.models.source import ModelSource, locate
from llmprobe.models.sublayers import Sublayers, find_sublayers

log = logging.getLogger(__name__)

MEMORY_SHARE = 0.9
"""Of what is free on a device, what weights may take; the rest is for the states."""

BYTES = {"int8": 1.0, "nf4": 0.5 + 4 / 64}
"""Of one quantised weight; nf4 has a scale of four bytes for every 64."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for extraction."""

    name: str
    module: nn.Module
    """The base model: it ends with the last block's norm, without the vocabulary projection."""
    blocks: list[nn.Module]
    tokenizer: Any
    device: torch.device
    """Where inputs go."""
    dtype: torch.dtype
    """Of the hidden states, quantised weights or not."""
    final_norm: str
    """What stands after the last block (and is left out of the last layer)."""
    causal: bool
    """Whether a token's state depends on nothing to its right, padding included."""
    spread: bool = False
    """Whether its parts are on several devices, or wait outside of them until they are needed.

    Then only one thread may run it, and a block leaves its states on the device where it ran.
    """

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return int(text_config(self.module.config).hidden_size)

    @property
    def reentrant(self) -> bool:
        """Whether several threads may run it at a time.

        Not when parts are moved about while it runs, or its rotary embedding follows the longest
        text that it sees.
        """
        rope = getattr(text_config(self.module.config), "rope_parameters", None) or {}
        return not self.spread and not any(kind in str(rope) for kind in ("dynamic", "longrope"))

    def buffer(self, layers: int, rows: int) -> Tensor:
        """Room for states, [layers, rows, d], where the model takes its input."""
        return torch.empty(layers, rows, self.hidden_size, dtype=self.dtype, device=self.device)

    def site(self, site: str) -> list[nn.Module]:
        """For each block, the module whose output is its state at a site.

        Raises
        ------
        UserError
            The blocks of this model have no such site.
        """
        if site == "residual":
            return self.blocks
        modules: list[nn.Module] | None = getattr(self.sublayers, site)
        if modules is None:
            raise UserError(f"model {self.name!r}: {site}: {self.sublayers.missing[site]}")
        return modules

    @cached_property
    def sublayers(self) -> Sublayers:
        """What is added to the residual stream inside each block, found by running the model."""
        return find_sublayers(self.module, self.blocks, example_input(self.module, self.device))

    @property
    def parameters(self) -> int:
        """Parameters of the base model, embeddings included."""
        return sum(map(_count, self.module.parameters()))

    @property
    def quantised(self) -> float:
        """Share of the parameters that are stored in fewer bits."""
        stored = (p for p in self.module.parameters() if not p.is_floating_point())
        return sum(map(_count, stored)) / self.parameters


def _count(parameter: nn.Parameter) -> int:
    # Two 4-bit weights are packed in a byte, and only their quantisation knows their shape.
    return math.prod(getattr(parameter, "quant_state", parameter).shape)


def resolve_device(device: str) -> torch.device:
    """``auto`` is the accelerator if there is one, else the CPU.

    Of several launched processes each has an accelerator of its own.
    """
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        rank = local_rank()
        if accelerator is None:
            return torch.device("cpu")
        if rank is None:
            return accelerator
        # Some launchers show each process its own GPU only.
        return torch.device(accelerator.type, rank % torch.accelerator.device_count())
    try:
        chosen = torch.device(device)
        float(torch.zeros(1, device=chosen))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {device!r} cannot be used here: {reason}") from None
    return chosen


def local_rank() -> int | None:
    """Number of this process on this machine, if it is one of several that were launched."""
    rank, processes = (os.environ.get(key, "") for key in ("LOCAL_RANK", "WORLD_SIZE"))
    several = processes.isdecimal() and int(processes) > 1
    return int(rank) if several and rank.isdecimal() else None


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
        The model cannot be found or read, or has no stack of blocks; it does not fit into memory;
        bitsandbytes is missing, or cannot quantise it.
    """
    if config.quantization != "none" and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"model {config.id!r}: quantization: {config.quantization} needs bitsandbytes: "
            "pip install 'bitsandbytes>=0.50'"
        )
    source = source or locate(config)
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    tokenizer = load_tokenizer(source, config)
    with _running(config, device):
        module = _load_module(config, source, dtype, device).eval()
        held = _held(module)
        spread = "disk" in held or len(held) > 1
        if spread:
            # Inputs go where the first part runs; what is offloaded runs on the first GPU.
            runs = [place for place in held if place not in ("cpu", "disk")]
            device = torch.device(runs[0] if runs else "cpu")
        example = example_input(module, device)
        blocks = find_blocks(module, example)
        final_norm = verify_blocks(module, blocks, example)
        causal = is_causal(module, example[:, :4])
    model = LoadedModel(
        config.name, module, blocks, tokenizer, device, dtype, final_norm, causal, spread
    )
    stored = f"{model.quantised:.0%} of its weights quantised, "
    log.info(
        "%s: %s, %d blocks of width %d, %s%s on %s",
        config.name, type(module).__name__, len(blocks), model.hidden_size,
        stored if model.quantised else "", dtype,
        ", ".join(f"{place} ({size(n)})" for place, n in held.items()) if spread else device,
    )  # fmt: skip
    return model


def example_input(module: nn.Module, device: torch.device) -> Tensor:
    """A text of eight tokens, [1, 8]. Any do; a tokenizer's own could be none."""
    return torch.arange(1, 9, device=device)[None] % int(text_config(module.config).vocab_size)


def active_weights(module: Any) -> int:
    """Parameters that each token meets: without embeddings, and of the experts those chosen."""
    config = text_config(module.config)
    experts = next((n for name in ("num_local_experts", "num_experts")
                    if (n := getattr(config, name, None))), 1)  # fmt: skip
    share = (getattr(config, "num_experts_per_tok", None) or experts) / experts
    embeddings = {id(p) for p in module.get_input_embeddings().parameters()}
    return round(
        sum(
            _count(p) * (share if ".experts." in name else 1)
            for name, p in module.named_parameters()
            if id(p) not in embeddings
        )
    )


@dataclass(frozen=True)
class Architecture:
    """A model's shape, from its configuration alone."""

    module: Any
    """The base model without the memory of its weights (on the meta device)."""
    layers: int
    hidden_size: int
    causal: bool
    """By what kind of language model it is; a loaded model is asked itself."""


def load_architecture(config: ModelConfig, source: ModelSource) -> Architecture:
    """The shape of a model, without its weights."""
    from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

    trust = {"trust_remote_code": config.trust_remote_code}
    with reading(f"model {config.id!r} cannot be loaded"), torch.device("meta"):
        described = AutoConfig.from_pretrained(source.folder, **trust)
        module = AutoModel.from_config(described, **trust)
    text = text_config(described)
    masked = type(text) in AutoModelForMaskedLM._model_mapping
    causal = getattr(text, "is_decoder", False) or not masked
    return Architecture(module, int(text.num_hidden_layers), int(text.hidden_size), causal)


def _load_module(
    config: ModelConfig, source: ModelSource, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """The base model where it belongs: on ``device``, or spread if that has no room for it."""
    from transformers import AutoConfig, AutoModel

    where = f"model {config.id!r}"
    trust = {"trust_remote_code": config.trust_remote_code}
    with reading(f"{where} cannot be loaded"):
        architecture = AutoConfig.from_pretrained(source.folder, **trust)
        if architecture.is_encoder_decoder:
            raise UserError(f"{where} is an encoder-decoder; only single stacks are probed")
        quantised = config.quantization != "none"
        if hasattr(architecture, "quantization_config"):
            if config.weights == "random":
                del architecture.quantization_config
            elif quantised:
                raise UserError(
                    f"{where}: its files are quantised already, so leave out quantization: "
                    f"{config.quantization}"
                )
            else:
                quantised = True
        shares = placement(config, source, architecture, dtype, device)
        options: dict[str, Any] = {"dtype": dtype, **trust}
        folder, scratch = source.folder, None
        if config.weights == "random":
            with torch.random.fork_rng():
                torch.manual_seed(config.seed)
                module = AutoModel.from_config(architecture, **options)
            if shares is None and not quantised:
                return module.to(device)  # type: ignore[no-any-return]
            # Only what is in files can be quantised or spread.
            scratch = _scratch()
            folder = Path(scratch.name) / "random"
            require_space(folder, module.num_parameters() * dtype.itemsize, "random weights")
            module.save_pretrained(folder)
            del module
        if shares is not None:
            scratch = scratch or _scratch()
            options |= {"device_map": "auto", "max_memory": shares, "offload_folder": scratch.name}
        elif quantised or device.type != "cpu":
            options["device_map"] = {"": device}
        if config.quantization != "none":
            options["quantization_config"] = _quantization(config, dtype)
        module, loaded = AutoModel.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **options
        )
        _require_weights(config, module, set(loaded["missing_keys"]))
        if scratch is not None:
            weakref.finalize(module, scratch.cleanup)
        if any(getattr(module, f"is_loaded_in_{bits}bit", False) for bits in (4, 8)):
            compute_by_token(module, where)
    assert isinstance(module, nn.Module)
    return module


def _scratch() -> TemporaryDirectory[str]:
    """A folder where there is room for models, unlike on some temporary file systems."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    return TemporaryDirectory(dir=cache_folder(), prefix="offload-", ignore_cleanup_errors=True)


@contextmanager
def _running(config: ModelConfig, device: torch.device) -> Iterator[None]:
    """While a model loads and first runs: what hinders it, as a ``UserError``."""
    where = f"model {config.id!r}"
    noisy = {name: logging.getLogger(name) for name in ("accelerate", "bitsandbytes")}
    levels = {name: logger.level for name, logger in noisy.items()}
    for logger in noisy.values():
        logger.setLevel(logging.ERROR)
    try:
        yield
    except (RuntimeError, AssertionError, AttributeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "out of memory" in str(error):
            helps = ["a smaller model"]
            if config.quantization == "none":
                helps.insert(0, "quantization: int8 or nf4")
            if config.device != "auto":
                helps.insert(
                    0, "device: auto, which spreads it over all GPUs, the CPU and the disk"
                )
            elif local_rank() is not None:
                helps.insert(0, "a single process, which spreads it over all GPUs")
            raise UserError(
                f"{where} does not fit into the memory of {device}; what helps: {'; '.join(helps)}"
            ) from None
        if config.quantization == "none":
            raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{where}: bitsandbytes cannot run it with quantization: {config.quantization} on "
            f"{device}, so leave that out: {reason[0]}"
        ) from None
    finally:
        for name, logger in noisy.items():
            logger.setLevel(levels[name])


def placement(
    config: ModelConfig,
    source: ModelSource,
    architecture: Any,
    dtype: torch.dtype,
    device: torch.device,
) -> dict[int | str, int] | None:
    """Bytes of the model for each device if it must be spread, else None."""
    if config.device != "auto" or device.type not in ("cpu", "cuda") or local_rank() is not None:
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
            f"more than the {size(sum(room.values()))} of memory that are free for it, and only "
            "with quantization: none can a model be partly elsewhere"
        )
    return room


def weight_bytes(module: nn.Module, dtype: torch.dtype, quantization: str) -> int:
    """Memory that a model's weights will take; the module can be on the meta device."""
    from transformers.pytorch_utils import Conv1D

    total = sum(t.numel() for t in (*module.parameters(), *module.buffers()))
    linear = 0
    if quantization != "none":
        # Of these classes only: bitsandbytes leaves their subclasses as they are.
        layers = (m for m in module.modules() if type(m) in (nn.Linear, Conv1D))
        linear = sum(layer.get_parameter("weight").numel() for layer in layers)
    return int((total - linear) * dtype.itemsize + linear * BYTES.get(quantization, 0))


def place(needed: int, free: Iterable[tuple[int | str, int]]) -> dict[int | str, int] | None:
    """How much of a model each device may hold; None if the first of them can hold it all.

    Parameters
    ----------
    needed
        Bytes of the weights.
    free
        Bytes free on each device: GPUs, by number, and ``"cpu"``.
    """
    devices = iter(free)
    first = next(devices)
    if needed <= MEMORY_SHARE * first[1]:
        return None
    return {device: int(MEMORY_SHARE * n) for device, n in (first, *devices)}


def free_memory(device: torch.device) -> Iterator[tuple[int | str, int]]:
    """Bytes free on ``device`` and on all that can help it; each is asked when its turn comes.

    Asking a GPU takes some of its memory.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        first = torch.cuda.current_device()
        others = (index for index in range(torch.cuda.device_count()) if index != first)
        for index in (first, *others):
            yield index, torch.cuda.mem_get_info(index)[0]
    yield "cpu", psutil.virtual_memory().available


def _held(module: nn.Module) -> dict[str, int]:
    """Bytes of a model's weights on each device, and on disk."""
    places: dict[str, Any] = getattr(module, "hf_device_map", {})
    held: Counter[str] = Counter({_place_name(place): 0 for place in places.values()})
    for name, parameter in module.named_parameters():
        parts = (part for part in places if not part or f"{name}.".startswith(f"{part}."))
        place = next((places[part] for part in parts), parameter.device)
        held[_place_name(place)] += parameter.nbytes
    return dict(held)


def _place_name(place: Any) -> str:
    return f"cuda:{place}" if isinstance(place, int) else str(place)


def _quantization(config: ModelConfig, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if config.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def compute_by_token(module: Any, where: str) -> None:
    """Make bitsandbytes' layers compute each token by itself and in the model's own precision.

    Raises
    ------
    UserError
        It has no such layers.
    """
    import bitsandbytes as bnb
    from accelerate.hooks import add_hook_to_module

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
            if hasattr(layer, "_hf_hook"):
                add_hook_to_module(plain, layer._hf_hook)
            module.set_submodule(name, plain)
        else:
            # Some processors have a path that computes in bfloat16, whatever was asked for, and
            # fails where widths are no multiples of 64.
            layer.support_avx512bf16_for_cpu = False


class Int8Linear(nn.Module):
    """A linear layer whose weights are 8-bit integers, with one scale a row.

    Dettmers et al. (2022) round the input to 8 bits as well, except for the columns in which any
    token of the batch has an outlier. A token's state then depends on the tokens to its right and
    on the other texts of its batch. Here the weights are as theirs, and the input stays as it is.
    """

    def __init__(self, quantised: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(quantised.weight.data, requires_grad=False)
        self.scale: Tensor
        self.register_buffer("scale", quantised.weight.SCB[:, None] / 127)
        self.bias = quantised.bias

    def forward(self, states: Tensor) -> Tensor:
        """[…, inputs] -> […, outputs]."""
        weight = (self.weight * self.scale).to(states.dtype)
        return nn.functional.linear(states, weight, self.bias)


def _require_weights(config: ModelConfig, module: nn.Module, missing: set[str]) -> None:
    """Refuse weights that transformers would fill with random numbers.

    Only a pooler may be missing: it stands beside the layers, and checkpoints often lack it.
    """
    absent = sorted(name for name in missing if "pooler" not in name)
    if absent:
        lacking = f"{len(absent)} weights of {type(module).__name__}, such as {absent[0]}"
        raise UserError(f"model {config.id!r}: its files lack {lacking}")
