"""Where hidden states come from: a model, or a file of another engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from llmprobe.config.schema.section import Section, Seed, check_file_name


class ModelConfig(Section):
    """A language model to probe, and how it is loaded and run."""

    id: str = Field(min_length=1)
    """A known name (``llmprobe ls models``), a Hugging Face Hub id, a folder, or a .gguf file."""
    name: str = ""
    """The model's name in tables and figures; by default the last part of ``id``."""
    revision: str = "main"
    """Branch, tag or commit of a model on the Hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The type in which the model computes; ``auto`` is bfloat16 where the hardware computes it
    fast, float32 elsewhere."""
    quantization: Literal["none", "int8", "nf4"] = "none"
    """How bitsandbytes stores the weights of linear layers; they still compute in ``dtype``."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """The published weights, or (``random``) the same architecture, freshly initialised from
    ``seed``."""
    seed: Seed = 0
    """The seed of random weights."""
    device: str = "auto"
    """Where the model runs: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    ``auto`` is the accelerator if there is one. A model that does not fit is spread over all GPUs,
    then the CPU, then the disk. If several processes are launched, each has a GPU of its own.
    """
    trust_remote_code: bool = False
    """Whether code that comes with the model may run."""
    tokenizer: str | None = Field(default=None, min_length=1)
    """A tokenizer in place of the checkpoint's own, or for one without: a known name, a Hub id, or
    a folder."""
    adapter: str | None = Field(default=None, min_length=1)
    """A LoRA adapter to merge into the weights: a folder, a Hub id, or ``.`` for one that lies
    beside the weights. It needs ``pip install 'llmprobe[adapters]'``."""
    convert: bool = False
    """Whether to read weights that exist only as .bin files: without running code, and kept as
    safetensors."""

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("id"), str):
            name = _last_part(values["id"]).removesuffix(".gguf")
            if values.get("weights") == "random":
                name += "-random"
            if values.get("quantization") in ("int8", "nf4"):
                name += f"-{values['quantization']}"
            if isinstance(values.get("adapter"), str):
                name += f"-{_last_part(values['adapter']).strip('.') or 'adapter'}"
            values = {**values, "name": values.get("name") or name}
        return values

    @model_validator(mode="after")
    def _usable_name(self) -> ModelConfig:
        check_file_name(self.name, "name")
        if self.adapter is not None and self.weights == "random":
            raise ValueError("adapter needs trained weights, and these are random")
        if self.adapter is not None and self.quantization != "none":
            raise ValueError("adapter cannot be merged into quantized weights; leave out one")
        return self


class ActivationsConfig(Section):
    """Hidden states that another engine wrote, in place of a model (docs/elsewhere.md)."""

    path: Path
    """An .npz, .npy, .safetensors or .parquet file, a Zarr folder, or a folder with the file that
    vLLM writes for each request; relative to the config file."""
    name: str = ""
    """The model's name in tables and figures; by default the file's."""
    layer_offset: int = 0
    """The number to add to the file's layer numbers, so that layer 0 enters the first block and
    layer i leaves block i."""
    layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """The number of each layer, in the order of the file; by default those in the names of arrays,
    else 0, 1, 2, …"""
    key: str | None = None
    """The array with all layers, or, if each layer has its own array, how their names begin."""
    layer_axis: Literal[0, 1] | None = None
    """The axis of the layers in an array of three axes, if its shape leaves that open."""
    join: str | None = None
    """A column of the table that identifies each row. The file has an array or column of the same
    name; a folder has files with these names. By default the rows are in the same order."""

    @property
    def id(self) -> str:
        """Return what identifies these states in a run: their path."""
        return str(self.path)

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("name") and values.get("path"):
            values = {**values, "name": Path(str(values["path"])).stem}
        return values

    @model_validator(mode="after")
    def _usable(self) -> ActivationsConfig:
        check_file_name(self.name, "name")
        if len(set(self.layers)) < len(self.layers):
            raise ValueError("layers: a number occurs twice")
        return self


def _last_part(path: str) -> str:
    """Return the last part of a path or a Hub id."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
