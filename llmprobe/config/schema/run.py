"""A run: models, datasets, and what is asked of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from llmprobe.config.schema.datasets import DatasetConfig
from llmprobe.config.schema.engine import EngineConfig
from llmprobe.config.schema.extract import ExtractConfig
from llmprobe.config.schema.models import ActivationsConfig, ModelConfig
from llmprobe.config.schema.names import file_name, table_suffix
from llmprobe.config.schema.probe import ProbeConfig, curve_positions
from llmprobe.config.schema.questions import InterveneConfig, LinearConfig, TransferConfig
from llmprobe.config.schema.section import Section


class ReportConfig(Section):
    """What is drawn from a run's tables."""

    html: bool = True
    """Whether to write report.html beside the figures."""
    traces: int = Field(default=3, ge=0, le=50)
    """The number of examples of each model and dataset that the page shows token by token, scored
    by probes that did not see them; each costs one more pass of one text."""
    log_to: tuple[Literal["trackio", "wandb", "mlflow"], ...] = ()
    """Trackers, or the name of one, to which `llmprobe run` writes summary, figures and page when
    it is done; each needs ``pip install 'llmprobe[NAME]'``."""

    @field_validator("log_to", mode="before")
    @classmethod
    def _one_or_more(cls, names: Any) -> Any:
        return [names] if isinstance(names, str) else names


PROTOCOLS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "llmprobe": {},
    "jin2024": {
        "extract": {"site": "post_attention_norm"},
        "probe": {
            "kind": "unscaled", "controls": ["majority"], "permutations": 0, "repeats": 1,
            "description_length": False,
        },
    },
}  # fmt: skip
"""The settings of each protocol for keys that the config does not set, by section."""


def expand_short_forms(raw: Any) -> Any:
    """Return a raw config with every short form replaced by its mapping."""

    def mapping(item: Any, key: str) -> Any:
        if not isinstance(item, str):
            return item
        return short_dataset(item) if key == "name" else {key: item}

    if not isinstance(raw, dict):
        return raw
    # ``probe:`` with nothing below it stands for the defaults.
    raw = {key: value for key, value in raw.items() if value is not None}
    for section, key in (("models", "id"), ("activations", "path"), ("datasets", "name")):
        items = raw.get(section)
        if isinstance(items, str | dict):
            items = [items]
        if isinstance(items, list):
            raw[section] = [mapping(item, key) for item in items]
    for section in ("transfer", "intervene", "linear"):
        if isinstance(raw.get(section), bool):
            asked = raw.pop(section)
            raw |= {section: {}} if asked else {}
    for section in ("intervene", "linear"):
        # YAML reads the key ``null`` as None.
        if isinstance(asked := raw.get(section), dict):
            raw[section] = {"null" if key is None else key: asked[key] for key in asked}
    if isinstance(raw.get("include"), str):
        raw["include"] = [raw["include"]]
    for section, settings in PROTOCOLS.get(str(raw.get("protocol")), {}).items():
        if isinstance(asked := raw.get(section, {}), dict):
            raw[section] = {**settings, **asked}
    if isinstance(raw.get("engine"), str):
        raw["engine"] = {"kind": raw["engine"]}
    return raw


def short_dataset(item: str) -> dict[str, str]:
    """Return the mapping for a word: a file or ./folder, hub:owner/name, or a known name."""
    if item.startswith("hub:"):
        return {"hub": item.removeprefix("hub:")}
    is_path = table_suffix(item) or item.startswith((".", "/", "~"))
    return {"path" if is_path else "name": item}


class RunConfig(Section):
    """A run: every model, or another engine's states, on every dataset."""

    name: str = "run"
    """A word of letters, digits, ``_``, ``.`` and ``-``; results go to ``runs/<name>``."""
    models: list[ModelConfig] = Field(default=[], min_length=1)
    """The models, each a mapping, or its ``id`` alone."""
    activations: list[ActivationsConfig] = Field(default=[], min_length=1)
    """Hidden states of another engine, in place of models; the datasets are the tables of their
    rows. Each is a mapping, or its ``path`` alone."""
    datasets: list[DatasetConfig] = Field(min_length=1)
    """The datasets, each a mapping, or a known name, a file or ``hub:owner/name`` alone."""
    include: tuple[Path, ...] = ()
    """Folders or files with datasets of your own: .yaml with a dataset's mapping, .py with a
    decorated function."""
    protocol: Literal["llmprobe", "jin2024"] = "llmprobe"
    """``llmprobe``: grouped folds and the defaults below. ``jin2024``: the method of Jin et al.
    (2024), for a comparison with their results: the norm after attention, unscaled probes at C = 1,
    and one random split regardless of groups (docs/studies/concept_depth.md). Keys that the config
    sets in the sections below override the protocol."""
    extract: ExtractConfig = ExtractConfig()
    """Which hidden states are taken."""
    probe: ProbeConfig = ProbeConfig()
    """How probes are fitted and layers are scored."""
    said: bool = True
    """Whether probes are compared with what the model itself says, on datasets with a ``question``.
    """
    linear: LinearConfig | None = None
    """The test whether a curved probe would read more: a mapping, or ``true``; off by default."""
    transfer: TransferConfig | None = None
    """The scoring of probes on other sets of examples: a mapping, or ``true`` for all datasets; off
    by default."""
    intervene: InterveneConfig | None = None
    """The test whether the model uses what probes read: a mapping, or ``true``; off by default."""
    report: ReportConfig = ReportConfig()
    """What is drawn."""
    engine: EngineConfig = EngineConfig()
    """Where the work is done: a kind alone, or a mapping."""

    @field_validator("name")
    @classmethod
    def _one_word(cls, name: str) -> str:
        if not re.fullmatch(r"\w[\w.-]{,99}", name):
            raise ValueError("should be a word of letters, digits, _, . and -, as in my-run_1.2")
        return name

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, raw: Any) -> Any:
        return expand_short_forms(raw)

    @property
    def sources(self) -> Sequence[ModelConfig | ActivationsConfig]:
        """Return the sources of hidden states: the models, or the files in place of them."""
        return self.models or self.activations

    @property
    def positions(self) -> tuple[str, ...]:
        """Return the positions of the curves, in order: ``tokens`` has one for each pooling."""
        return curve_positions(self.extract.positions, self.probe)

    @model_validator(mode="after")
    def _models_or_states(self) -> RunConfig:
        if not self.sources:
            raise ValueError("models: missing")
        if self.models and self.activations:
            raise ValueError("has models and activations; hidden states come from one of them")
        if self.activations and len(self.extract.positions) > 1:
            raise ValueError("extract.position: activations from elsewhere are of one position")
        return self

    @model_validator(mode="after")
    def _distinct_names(self) -> RunConfig:
        for kind, key, names in (
            ("models", "name", [source.name for source in self.sources]),
            ("datasets", "as", [d.title for d in self.datasets]),
            ("datasets' files", "as", [file_name(d.title) for d in self.datasets]),
        ):
            for name, times in Counter(names).items():
                if times > 1:
                    raise ValueError(f"{times} {kind} are called {name!r}; tell them apart "
                                     f"with `{key}: another-name`")  # fmt: skip
        return self

    def to_yaml(self) -> str:
        """Return the resolved config as YAML, itself a valid config; a local engine is left out."""
        unused = {"activations" if self.models else "models"}
        return yaml.safe_dump(
            self.model_dump(
                mode="json",
                by_alias=True,
                exclude_none=True,
                exclude=unused | ({"engine"} if self.engine == EngineConfig() else set()),
            ),
            sort_keys=False,
            allow_unicode=True,
        )
