"""LoRA adapters, read by peft and merged into the weights of a base model."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from llmprobe.ground.errors import UserError, first_line, foreign_errors

log = logging.getLogger(__name__)

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
"""What the names of peft's weights begin with."""


def require_adapter(folder: Path, where: str) -> None:
    """Raise ``UserError`` unless peft is installed and a folder has a LoRA adapter."""
    if importlib.util.find_spec("peft") is None:
        raise UserError(f"{where}: adapters need peft: pip install 'llmprobe[adapters]'")
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{where}: the folder has no {name}, so it is not an adapter")
    kind = str(_described(folder, where).get("peft_type"))
    if kind != "LORA":
        raise UserError(f"{where}: is of the kind {kind!r:.40}; only LoRA (LORA) can be merged")


def base_of(folder: Path, where: str) -> str:
    """Return the model that an adapter says it was made for, "" where it says nothing."""
    return str(_described(folder, where).get("base_model_name_or_path") or "")


def merge(module: Any, folder: Path, where: str) -> nn.Module:
    """Merge the adapter in a folder into a model with or without a head, and return the model.

    For a model without a head, weights outside its base, such as the vocabulary projection's, are
    left out: no hidden state depends on them.

    Raises
    ------
    UserError
        The adapter cannot be read, or is of another model.
    """
    from peft import LoraConfig, PeftModel, set_peft_model_state_dict

    with foreign_errors(f"{where}: cannot be read"):
        config = LoraConfig.from_pretrained(str(folder))
        weights = load_file(folder / ADAPTER_WEIGHTS)
    # Most adapters are trained on a model with a head, in which the base model has a name.
    base, name = module.base_model, module.base_model_prefix
    part = f"{_PREFIX}{name}."
    whole = base
    if any(weight.startswith(part) for weight in weights):
        whole = module
        if module is base:
            whole = _Whole(base, name)
            weights = {key: value for key, value in weights.items() if key.startswith(part)}
    unfit = f"{where}: was made for another model ({base_of(folder, where) or 'it names none'})"
    try:
        # peft draws new adapters at random before they are filled.
        with torch.random.fork_rng():
            model = PeftModel(whole, config)
        result = set_peft_model_state_dict(model, weights)
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{unfit}: {first_line(error)}") from None
    lacking = [name for name in result.missing_keys if "lora_" in name]
    for problem, names in (("the model lacks", result.unexpected_keys), ("it lacks", lacking)):
        if names:
            raise UserError(f"{unfit}: {problem} {len(names)} of its weights, such as {names[0]}")
    with foreign_errors(f"{where}: cannot be merged"):
        model.merge_and_unload(safe_merge=True)
    log.info("%s: merged into the weights", where)
    assert isinstance(module, nn.Module)
    return module.requires_grad_(False)


class _Whole(nn.Module):
    """A stand-in for a model with a head, which has its base model under the same name."""

    def __init__(self, base: Any, name: str) -> None:
        super().__init__()
        self.config = base.config
        self.add_module(name, base)


def _described(folder: Path, where: str) -> dict[str, Any]:
    with foreign_errors(f"{where}: {ADAPTER_CONFIG} cannot be read"):
        return dict(json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8")))
