"""The options of an experiment, kept in its folder as ``config.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from llmprobe.config.load import parsed_yaml, validated
from llmprobe.config.schema import Section, Seed
from llmprobe.ground.errors import UserError, suggestion
from llmprobe.results.folder import whole_config


class XorConfig(Section):
    """``llmprobe sanity xor``, which has no options."""

    sanity: Literal["xor"] = "xor"


class MnistConfig(Section):
    """``llmprobe sanity mnist``."""

    sanity: Literal["mnist"] = "mnist"
    data: str = Field("auto", min_length=1)
    """``auto`` (MNIST where ``LLMPROBE_DATA`` has it, else digits), ``digits``, ``mnist``, a
    folder of IDX files, or a dataset on the Hub."""
    network: Literal["convnet", "bypass"] = "convnet"
    """The convnet of Alain & Bengio (2016), section 3.5, or the deep network of section 5.1."""
    quick: bool = False
    """For the convnet: fewer epochs, and fewer images for the probes."""
    probe_images: int | None = Field(None, ge=100)
    """For the convnet: training images for the probes; by default 20,000, or 1,500 if quick."""
    linear: bool = False
    """Whether to measure how much more a curved probe reads at each point."""
    device: str = "auto"
    seed: Seed = 0

    @model_validator(mode="after")
    def _quick_is_of_the_convnet(self) -> MnistConfig:
        if self.quick and self.network == "bypass":
            raise ValueError("there is no quick form of the network bypass; leave out --quick")
        return self


SanityConfig = XorConfig | MnistConfig

KINDS: Mapping[str, type[SanityConfig]] = {"xor": XorConfig, "mnist": MnistConfig}


def load(out: Path) -> SanityConfig:
    """Read the config in an experiment's folder.

    Raises
    ------
    UserError
        It is missing or damaged.
    """
    path = whole_config(out)
    raw = parsed_yaml(path)
    name = str(raw.get("sanity", "")) if isinstance(raw, dict) else ""
    kind = KINDS.get(name)
    if kind is None:
        raise UserError(f"{path}: sanity: {name!r} is no experiment; {suggestion(name, KINDS)}")
    return validated(kind, raw, str(path))
