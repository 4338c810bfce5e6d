"""Models in memory: the base model without its head, its tokenizer, its blocks."""

from __future__ import annotations

import logging
import math
import weakref
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llmprobe.config.schema import ModelConfig
from llmprobe.config.sites import SITES
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import require_space, size
from llmprobe.ground.memory_cycles import no_search_for_garbage
from llmprobe.models.adapters import merge
from llmprobe.models.devices import resolve_device, resolve_dtype
from llmprobe.models.gguf import user_errors
from llmprobe.models.layers import find_blocks, is_causal, verify_blocks
from llmprobe.models.placement import fitting, held_on, placement, scratch_folder
from llmprobe.models.private import default_implementations
from llmprobe.models.quantised import bitsandbytes_config, compute_by_token, require_bitsandbytes
from llmprobe.models.source import ModelSource, locate, without_adapter
from llmprobe.models.sublayers import Sublayers, find_sublayers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for extraction."""

    name: str
    """How tables and messages call it."""
    module: nn.Module
    """The base model, which ends with the final norm and has no vocabulary projection."""
    blocks: list[nn.Module]
    """The transformer blocks, in order."""
    tokenizer: Any
    """The tokenizer that comes with it."""
    device: torch.device
    """The device of its inputs."""
    dtype: torch.dtype
    """Precision of the hidden states, whether or not its weights are quantised."""
    final_norm: str
    """The class of the module after the last block (which is left out of the last layer)."""
    causal: bool
    """Whether a token's state depends on nothing to its right, padding included."""
    spread: bool = False
    """Whether its parts are on several devices, or are offloaded until they are needed.

    Only one thread may then run it, and a block leaves its states on the device where it ran.
    """

    @property
    def n_blocks(self) -> int:
        """Number of transformer blocks."""
        return len(self.blocks)

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return int(text_config(self.module.config).hidden_size)

    @property
    def reentrant(self) -> bool:
        """Whether several threads may run the model at a time.

        They may not if its parts are moved while it runs, or if its rotary embedding depends on the
        longest text so far.
        """
        rope = getattr(text_config(self.module.config), "rope_parameters", None) or {}
        return not self.spread and not any(kind in str(rope) for kind in ("dynamic", "longrope"))

    def buffer(self, layers: int, rows: int) -> Tensor:
        """Return an empty tensor for states, [layers, rows, d], on the device of the inputs."""
        return torch.empty(layers, rows, self.hidden_size, dtype=self.dtype, device=self.device)

    def site(self, name: str) -> list[nn.Module]:
        """Return the module of each block at which a site is read.

        Raises
        ------
        UserError
            There is no such site, or this model has none.
        """
        where = f"model {self.name!r}: {name}"
        try:
            modules = list(SITES[name].modules(self))
        except AttributeError as error:
            raise UserError(f"{where}: {error}") from error
        if len(modules) != len(self.blocks) or not all(isinstance(m, nn.Module) for m in modules):
            raise UserError(
                f"{where}: expected a torch module for each of {len(self.blocks)} blocks"
            )
        return modules

    def sublayer(self, name: str) -> list[nn.Module]:
        """Return each block's module that is a sub-layer, or the norm between sub-layers.

        Raises
        ------
        UserError
            They were not found in this model; the message says why.
        """
        modules: list[nn.Module] | None = getattr(self.sublayers, name)
        if modules is None:
            raise UserError(f"model {self.name!r}: {name}: {self.sublayers.missing[name]}")
        return modules

    @cached_property
    def sublayers(self) -> Sublayers:
        """The modules that add to the residual stream in each block, found by running the model."""
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
    """Return the number of weights of a parameter."""
    # Two 4-bit weights are packed in a byte, and only their quantisation knows their shape.
    return math.prod(getattr(parameter, "quant_state", parameter).shape)


def text_config(config: Any) -> Any:
    """Return the part of a model's configuration that describes its language model."""
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def load_tokenizer(source: ModelSource, config: ModelConfig) -> Any:
    """Load the tokenizer of ``source``.

    Raises
    ------
    UserError
        There is none, or one from elsewhere has another vocabulary than the model.
    """
    from transformers import AutoTokenizer

    # AutoTokenizer reads the model's configuration too, and would blame the tokenizer for errors.
    with user_errors(f"model {config.id!r} cannot be loaded"):
        architecture = _configuration(config, source)
    where = f"model {config.id!r}: no usable tokenizer; `tokenizer: …` names another"
    with user_errors(where), no_search_for_garbage():
        tokenizer = AutoTokenizer.from_pretrained(
            source.tokenizer or source.folder, trust_remote_code=config.trust_remote_code
        )
    if source.tokenizer is not None:
        where = f"model {config.id!r}: tokenizer {config.tokenizer!r}"
        require_vocabulary(tokenizer, int(text_config(architecture).vocab_size), where)
    return tokenizer


def require_vocabulary(tokenizer: Any, n_embeddings: int, where: str) -> None:
    """Raise ``UserError`` for a tokenizer whose vocabulary cannot be that of a model.

    Models have up to a twelfth more embeddings than tokens, to make their number round; tokenizers
    have a few special tokens that the model never saw.
    """
    known = len(tokenizer)
    if tokenizer.vocab_size > n_embeddings or known < 0.8 * n_embeddings:
        raise UserError(
            f"{where}: knows {known:,} tokens, and the model has embeddings of {n_embeddings:,}: "
            "it is of another vocabulary"
        )


def load_model(config: ModelConfig, source: ModelSource | None = None) -> LoadedModel:
    """Load the base model and find its blocks.

    Raises
    ------
    UserError
        The model cannot be found or read, or has no stack of blocks; it does not fit into memory;
        bitsandbytes is missing, or cannot quantise it.
    """
    from transformers import AutoModel

    return _load(config, source or locate(config), AutoModel)[1]


def load_language_model(config: ModelConfig) -> tuple[Any, LoadedModel]:
    """Load a model with its head, which can generate; return it and its base, of the same weights.

    Raises
    ------
    UserError
        As for ``load_model``; the model has no head that predicts the next token.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    source = locate(config)
    with user_errors(f"model {config.id!r} cannot be loaded"):
        text = text_config(_configuration(config, source))
    if type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING or not _looks_left(text):
        raise UserError(f"model {config.id!r} does not predict the next token, so it cannot answer")
    return _load(config, source, AutoModelForCausalLM)


def _load(config: ModelConfig, source: ModelSource, kind: Any) -> tuple[Any, LoadedModel]:
    """Load a model with one of transformers' classes, and find the blocks of its base model."""
    from transformers import AutoModel

    require_bitsandbytes(config)
    device = resolve_device(config.device)
    if device.type == "cuda":
        # What libraries allocate without naming a device belongs there too.
        torch.cuda.set_device(device)
    dtype = resolve_dtype(config.dtype, device)
    tokenizer = load_tokenizer(source, config)
    with user_errors(f"model {config.id!r} cannot be loaded"), fitting(config, device):
        module: Any = _load_module(config, source, dtype, device, kind).eval()
        base = module if kind is AutoModel else module.base_model
        model = described(config.name, base, tokenizer, device, dtype)
    stored = f"{model.quantised:.0%} of its weights quantised, "
    held = (f"{place} ({size(n)})" for place, n in held_on(module).items())
    log.info(
        "%s: %s, %d blocks of width %d, %s%s on %s",
        config.name, type(module).__name__, len(model.blocks), model.hidden_size,
        stored if model.quantised else "", dtype, ", ".join(held) if model.spread else device,
    )  # fmt: skip
    return module, model


def described(
    name: str, module: nn.Module, tokenizer: Any, device: torch.device, dtype: torch.dtype
) -> LoadedModel:
    """Find the blocks of a base model in eval mode, and return it with what is known of it.

    Raises
    ------
    UserError
        It has no stack of blocks, or their states are not the model's own hidden states.
    """
    held = held_on(module)
    spread = "disk" in held or len(held) > 1
    if spread:
        # Inputs go where the first part runs; what is offloaded runs on the first GPU.
        runs = [place for place in held if place not in ("cpu", "disk")]
        device = torch.device(runs[0] if runs else "cpu")
    example = example_input(module, device)
    blocks = find_blocks(module, example)
    final_norm = verify_blocks(module, blocks, example)
    causal = is_causal(module, example[:, :4])
    return LoadedModel(name, module, blocks, tokenizer, device, dtype, final_norm, causal, spread)


def example_input(module: nn.Module, device: torch.device) -> Tensor:
    """Return a text of eight token ids, [1, 8]; any will do, and a tokenizer might give none."""
    return torch.arange(1, 9, device=device)[None] % int(text_config(module.config).vocab_size)


def active_weights(module: Any) -> int:
    """Count the parameters that each token uses: no embeddings, and only the chosen experts."""
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
    """A model's shape, from its configuration alone, and where it would run."""

    module: Any
    """The base model without the memory of its weights (on the meta device)."""
    n_blocks: int
    device: torch.device
    dtype: torch.dtype
    causal: bool
    """Whether models of its kind look to the left only; a loaded model is tested instead."""


def load_architecture(config: ModelConfig, source: ModelSource) -> Architecture:
    """Return the shape of a model, without its weights."""
    from transformers import AutoModel

    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    with user_errors(f"model {config.id!r} cannot be loaded"):
        described = _configuration(config, source)
        with torch.device("meta"):
            module = AutoModel.from_config(described, trust_remote_code=config.trust_remote_code)
        text = text_config(described)
        return Architecture(module, int(text.num_hidden_layers), device, dtype, _looks_left(text))


def _looks_left(text: Any) -> bool:
    """Whether a kind of model looks to the left only, by its configuration."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    is_decoder: bool = getattr(text, "is_decoder", False)
    return is_decoder or type(text) not in MODEL_FOR_MASKED_LM_MAPPING


def _load_module(
    config: ModelConfig,
    source: ModelSource,
    dtype: torch.dtype,
    device: torch.device,
    kind: Any,
) -> nn.Module:
    """Load a model with one of transformers' classes on ``device``, spread if it does not fit."""
    where = f"model {config.id!r}"
    architecture = _configuration(config, source)
    quantised = config.quantization != "none" or hasattr(architecture, "quantization_config")
    shares = placement(config, source, architecture, dtype, device)
    options: dict[str, Any] = {
        "dtype": dtype, "trust_remote_code": config.trust_remote_code
    }  # fmt: skip
    folder, scratch = source.folder, None
    if config.weights == "random":
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            module = kind.from_config(architecture, **options)
        if shares is None and not quantised:
            return module.to(device)  # type: ignore[no-any-return]
        # Only what is in files can be quantised or spread.
        scratch = scratch_folder()
        folder = Path(scratch.name) / "random"
        require_space(folder, module.num_parameters() * dtype.itemsize, "random weights")
        module.save_pretrained(folder)
        del module
    if shares is not None:
        scratch = scratch or scratch_folder()
        options |= {"device_map": "auto", "max_memory": shares, "offload_folder": scratch.name}
    elif quantised or device.type != "cpu":
        options["device_map"] = {"": device}
    if config.quantization != "none":
        options["quantization_config"] = bitsandbytes_config(config.quantization, dtype)
    # Weights of another shape are refused below, by name; transformers would only log them.
    with without_adapter(folder) as plain:
        module, loaded = kind.from_pretrained(
            plain, config=architecture, use_safetensors=True, output_loading_info=True,
            ignore_mismatched_sizes=True, **options,
        )  # fmt: skip
    _require_weights(f"{where}: its files", module, loaded)
    if source.adapter is not None:
        if shares is not None or quantised:
            raise UserError(
                f"{where}: an adapter is merged into plain weights on one device; they are "
                + ("quantised" if quantised else "too large for that here")
            )
        module = merge(module, source.adapter, f"{where}: adapter {config.adapter!r}")
    if scratch is not None:
        weakref.finalize(module, scratch.cleanup)
    if any(getattr(module, f"is_loaded_in_{bits}bit", False) for bits in (4, 8)):
        compute_by_token(module, where)
    assert isinstance(module, nn.Module)
    return module


def _configuration(config: ModelConfig, source: ModelSource) -> Any:
    """Return the model's own configuration; raise ``UserError`` if such a model cannot be probed.

    The implementations that it names are left out: they can be code from the Hub, and the states
    would depend on which packages are installed.
    """
    from transformers import AutoConfig

    where = f"model {config.id!r}"
    architecture = AutoConfig.from_pretrained(
        source.folder, trust_remote_code=config.trust_remote_code
    )
    default_implementations(architecture)
    if architecture.is_encoder_decoder:
        raise UserError(f"{where} is an encoder-decoder; only single stacks are probed")
    if hasattr(architecture, "quantization_config"):
        if config.weights == "random":
            del architecture.quantization_config
        elif config.quantization != "none":
            raise UserError(
                f"{where}: its files are quantised already, so leave out quantization: "
                f"{config.quantization}"
            )
    return architecture


def _require_weights(files: str, module: nn.Module, loaded: dict[str, Any]) -> None:
    """Raise ``UserError`` for weights that transformers would fill with random numbers.

    Only a pooler may be missing: it stands beside the layers, and checkpoints often lack it.
    """
    absent = sorted(name for name in loaded["missing_keys"] if "pooler" not in name)
    if absent:
        lacking = f"{len(absent)} weights of {type(module).__name__}, such as {absent[0]}"
        raise UserError(f"{files} lack {lacking}")
    unfit = sorted(loaded["mismatched_keys"])
    if unfit:
        name, stored, described = unfit[0]
        raise UserError(
            f"{files} do not fit its config.json: {name} is {list(stored)}, and by config.json "
            f"{list(described)}"
        )
