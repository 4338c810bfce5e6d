"""Models that are in memory already: read as they are, and left as they were found."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmprobe.config.load import validated
from llmprobe.config.schema import ModelConfig
from llmprobe.ground.errors import UserError
from llmprobe.models.devices import dtype_name
from llmprobe.models.gguf import user_errors
from llmprobe.models.layers import as_it_was
from llmprobe.models.loading import LoadedModel, described, require_vocabulary
from llmprobe.models.source import ModelSource

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def base_of(module: Any) -> Any:
    """Return a model's base, without a head and without a wrapper for training."""
    while isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        module = module.module
    if hasattr(module, "get_base_model"):  # A model of peft; its adapters stay inside.
        module = module.get_base_model()
    return getattr(module, "base_model", module)


@dataclass(frozen=True)
class ModelInMemory:
    """A transformers model and its tokenizer, which someone else loaded, trained or changed.

    Raises
    ------
    UserError
        It is not a model that can be read, or there is no tokenizer.
    """

    module: Any
    """The model, with or without a head; unmerged adapters of peft count as part of it."""
    tokenizer: Any
    """Its tokenizer."""
    name: str = ""
    """What tables call it; with one, its states can be kept and found again."""

    def __post_init__(self) -> None:
        from transformers import PreTrainedModel, PreTrainedTokenizerBase

        kind, base = type(self.module).__name__, self.base
        where = f"a model in memory ({kind})"
        if not isinstance(base, PreTrainedModel):
            raise UserError(
                f"{where}: not a model of transformers; llmprobe.probe_network reads any network"
            )
        if not isinstance(self.tokenizer, PreTrainedTokenizerBase):
            raise UserError(
                f"{where}: needs its tokenizer, e.g. tokenizer=AutoTokenizer.from_pretrained(…)"
            )
        if base.config.is_encoder_decoder:
            raise UserError(f"{where}: is an encoder-decoder; only single stacks are probed")
        if base.dtype not in _DTYPES or base.device.type == "meta":
            place = f"{dtype_name(base.dtype)} on {base.device}"
            names = ", ".join(map(dtype_name, _DTYPES))
            raise UserError(f"{where}: is in {place}; it should be in one of {names} on a device")
        if getattr(base, "is_loaded_in_8bit", False):
            raise UserError(
                f"{where}: in 8 bits a token's state depends on the other texts of its batch; "
                "give its name and quantization: int8"
            )
        require_vocabulary(self.tokenizer, base.get_input_embeddings().num_embeddings, where)

    @property
    def base(self) -> Any:
        """The base model, without a head and without a wrapper for training."""
        return base_of(self.module)

    @property
    def config(self) -> ModelConfig:
        """The config that describes it."""
        base = self.base
        name = self.name or Path(base.config.name_or_path or type(base).__name__).name
        values = {"id": name, "dtype": dtype_name(base.dtype), "device": str(base.device)}
        return validated(ModelConfig, values, f"name {name!r}")

    def source(self) -> ModelSource:
        """Return its source; the identity is a digest of its content, empty without a name."""
        return ModelSource(Path(), self._digest() if self.name else "")

    def load(self) -> LoadedModel:
        """Return it with its blocks found, ready for extraction.

        Raises
        ------
        UserError
            It has no stack of blocks.
        """
        base, config = self.base, self.config
        with self.as_it_was(), user_errors(f"model {config.name!r}"):
            return described(config.name, base, self.tokenizer, base.device, base.dtype)

    def as_it_was(self) -> AbstractContextManager[None]:
        """Put it into eval mode while a ``with`` block lasts; restore each part's mode after."""
        return as_it_was(self.module)

    def _digest(self) -> str:
        """Return a digest of all that its states depend on: weights, adapters and tokenizer."""
        base, tokenizer = self.base, self.tokenizer
        words = getattr(tokenizer, "backend_tokenizer", None)
        known = words.to_str() if words else str(sorted(tokenizer.get_vocab().items()))
        adapters = str(getattr(self.module, "peft_config", ""))
        said = (base.config.to_json_string(), adapters, known, str(tokenizer.chat_template))
        digest = hashlib.sha256("\0".join(said).encode())
        for name, weights in sorted(base.state_dict().items()):
            digest.update(f"{name}\0{weights.dtype}\0{list(weights.shape)}\0".encode())
            plain = weights.detach().cpu().contiguous().reshape(-1)
            digest.update(plain.view(torch.uint8).numpy())
        return digest.hexdigest()
