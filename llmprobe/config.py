"""A run, described by one YAML file: the classes below are its schema and its documentation.

Nothing else reads YAML. Short forms (a name instead of a mapping) become mappings, relative paths
become absolute ones, and the resolved config is itself a valid config.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from llmprobe.errors import UserError, suggestion
from llmprobe.files import shipped

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, populate_by_name=True
    )


S = TypeVar("S", bound=_Section)


class ModelConfig(_Section):
    """What is probed."""

    id: str = Field(min_length=1)
    """A known name (``llmprobe ls models``), a Hugging Face Hub id, a folder, or a .gguf file."""
    name: str = ""
    """How tables and figures call it; by default the last part of ``id``."""
    revision: str = "main"
    """Branch, tag or commit, for a Hub id."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """``auto``: bfloat16 where the hardware computes it fast, float32 elsewhere."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """``random``: the same architecture, freshly initialised from ``seed``."""
    seed: int = 0
    """For random weights."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run."""

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("id"), str):
            name = values["id"].rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf")
            if values.get("weights") == "random":
                name += "-random"
            values = {**values, "name": values.get("name") or name}
        return values


class DatasetConfig(_Section):
    """What is asked: a dataset known by name, or a file of one's own."""

    name: str = ""
    """A known name (``llmprobe ls datasets``); beside ``path``, how tables call it."""
    path: Path | None = None
    """A .csv, .tsv, .jsonl or .parquet file; relative to the config file."""
    text: str = "text"
    """Column of the texts, for a file."""
    label: str = "label"
    """Column of the classes, for a file."""
    group: str | None = None
    """Column of the groups that no split may separate, for a file."""
    template: str | None = None
    """What the model reads, e.g. ``"True or False? {text}"``; other columns are fields too."""
    n: PositiveInt | None = None
    """Examples: generated, or drawn in whole groups from what there is. Default: all."""
    seed: int = 0
    """For what is generated or drawn."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What the known dataset's builder takes (``llmprobe show NAME``)."""
    alias: str | None = Field(default=None, alias="as")
    """How tables call it, when one run has the same dataset twice."""

    @property
    def title(self) -> str:
        """The name in tables and figures."""
        return self.alias or self.name

    @field_validator("template")
    @classmethod
    def _has_text(cls, template: str | None) -> str | None:
        if template is not None and "{" not in template:
            raise ValueError("has no field; it needs at least {text}")
        return template

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("path") and not values.get("name"):
            values = {**values, "name": Path(str(values["path"])).stem}
        return values

    @model_validator(mode="after")
    def _name_or_path(self) -> DatasetConfig:
        if not self.name:
            raise ValueError("needs a name or a path")
        if self.path is not None and self.options:
            raise ValueError("options belong to a known dataset, not to a file")
        return self


class ExtractConfig(_Section):
    """Which hidden states are taken."""

    site: Literal["residual"] = "residual"
    """The residual stream: layer 0 enters block 1, layer i leaves block i, before the norm."""
    position: Literal["last", "mean", "first"] = "last"
    """Of the text's real tokens; ``mean`` leaves special tokens out."""
    batch_tokens: PositiveInt | Literal["auto"] = "auto"
    """Most tokens (with padding) in one forward pass."""
    chat_template: bool = False
    """Whether each text becomes a user's turn in the tokenizer's chat template."""
    too_long: Literal["error", "cut_left"] = "error"
    """What to do with a text longer than the model's window: stop, or drop its first tokens."""


class ProbeConfig(_Section):
    """How layers are scored."""

    kind: Literal["logistic"] = "logistic"
    """Logistic regression on standardised states, L2 penalty, unpenalised intercept."""
    folds: int = Field(default=5, ge=2)
    """Outer cross-validation folds; stratified, and whole groups when the dataset has groups."""
    l2: PositiveFloat | Literal["auto"] = "auto"
    """Penalty (scikit-learn's 1/C); ``auto`` chooses it inside each training fold."""
    controls: tuple[Literal["majority", "bag_of_words", "random_labels", "random_weights"], ...] = (
        "majority",
        "bag_of_words",
    )
    """Baselines: the majority class, the surface of the text, random labels per group (Hewitt &
    Liang 2019), and the untrained architecture."""
    seed: int = 0
    """For folds, control labels and the bootstrap."""


class ReportConfig(_Section):
    """What is drawn."""

    html: bool = True
    """Whether to write report.html beside the figures."""


def _widened(raw: Any) -> Any:
    """The raw config with every short form as the mapping that it stands for."""

    def mapping(item: Any, key: str) -> Any:
        if not isinstance(item, str):
            return item
        return {"path" if key == "name" and item.endswith(TABLE_SUFFIXES) else key: item}

    if not isinstance(raw, dict):
        return raw
    raw = dict(raw)
    for section, key in (("models", "id"), ("datasets", "name")):
        if isinstance(raw.get(section), list):
            raw[section] = [mapping(item, key) for item in raw[section]]
    return raw


class RunConfig(_Section):
    """One run: every model on every dataset."""

    name: str = Field(default="run", pattern=r"^[\w.-]+$")
    """Letters, digits, ``_``, ``.`` and ``-``; results go to ``runs/<name>``."""
    models: list[ModelConfig] = Field(min_length=1)
    datasets: list[DatasetConfig] = Field(min_length=1)
    extract: ExtractConfig = ExtractConfig()
    probe: ProbeConfig = ProbeConfig()
    report: ReportConfig = ReportConfig()

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, raw: Any) -> Any:
        return _widened(raw)

    @model_validator(mode="after")
    def _distinct_names(self) -> RunConfig:
        for kind, key, names in (
            ("models", "name", [m.name for m in self.models]),
            ("datasets", "as", [d.title for d in self.datasets]),
        ):
            for name, times in Counter(names).items():
                if times > 1:
                    raise ValueError(f"{times} {kind} are called {name!r}; tell them apart "
                                     f"with `{key}: another-name`")  # fmt: skip
        return self

    def to_yaml(self) -> str:
        """The resolved config, itself a valid config."""
        return yaml.safe_dump(
            self.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True
        )


_SECTIONS: dict[str, type[_Section]] = {
    "models": ModelConfig,
    "datasets": DatasetConfig,
    "extract": ExtractConfig,
    "probe": ProbeConfig,
    "report": ReportConfig,
}


def load_config(
    path: str | Path, overrides: Sequence[str] = (), limit: int | None = None
) -> RunConfig:
    """The config in a YAML file (or a shipped one, by name), with ``key=value`` overrides.

    Raises ``UserError`` that names the file, the key and what would be right.
    """
    file = _config_file(path)
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{file}: empty, or not a mapping with the keys models and datasets")
    for override in overrides:
        raw = _widened(raw)
        _set(raw, override)
    raw = _widened(raw)
    _absolute_paths(raw, file.parent)
    if limit is not None:
        _limit(raw, limit)
    raw.setdefault("name", re.sub(r"[^\w.-]", "-", file.stem))
    return validated(RunConfig, raw, str(path))


def validated(section: type[S], raw: dict[str, Any], where: str) -> S:
    """``section`` from ``raw``; each problem becomes one line of a ``UserError``."""
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        lines = [f"{where}: {_problem(section, dict(e))}" for e in error.errors()]
        raise UserError("\n".join(dict.fromkeys(lines))) from None


def _problem(section: type[_Section], error: dict[str, Any]) -> str:
    """One pydantic error as a sentence with the key, the value and what would be right."""
    location = [part for part in error["loc"] if part not in ("[key]",)]
    key = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        if section is RunConfig and len(location) > 1:
            section = _SECTIONS[str(location[0])]
        known = [field.alias or name for name, field in section.model_fields.items()]
        return f"{key}: unknown key; {suggestion(str(location[-1]), known)}"
    if error["type"] == "missing":
        return f"{key}: missing"
    message = error["msg"].removeprefix("Value error, ")
    prefix = f"{key}: " if key else ""
    if isinstance(error["input"], dict | list):
        return f"{prefix}{message}"
    return f"{prefix}{error['input']!r} is not allowed: {message}"


def _config_file(path: str | Path) -> Path:
    file = Path(path).expanduser()
    known = {f.stem: f for f in shipped("configs").glob("*.yaml")}
    if file.is_dir():
        raise UserError(f"{file} is a folder; a config is a YAML file")
    if file.exists():
        return file.resolve()
    if str(path) in known:
        return known[str(path)]
    raise UserError(f"config {str(path)!r}: no such file; {suggestion(str(path), known)}")


def _set(raw: dict[str, Any], override: str) -> None:
    """Put ``dotted.key=value`` into the raw config; list items go by number."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise UserError(f"--set {override!r}: write it as dotted.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {override!r}: the value is not valid YAML") from None
    place: Any = raw
    keys = dotted.split(".")
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(place, dict):
            if last:
                place[key] = value
            else:
                place = place.setdefault(key, {})
        elif isinstance(place, list) and key.isdigit() and int(key) < len(place):
            if last:
                place[int(key)] = value
            else:
                place = place[int(key)]
        else:
            parent = ".".join(keys[:depth])
            items = f"has items 0 to {len(place) - 1}" if isinstance(place, list) else "has no keys"
            raise UserError(f"--set {override!r}: {parent} {items}, not {key!r}")


def _absolute_paths(raw: dict[str, Any], folder: Path) -> None:
    """Files and folders beside the config (or in the working folder) by their absolute path."""
    for section, key in (("models", "id"), ("datasets", "path")):
        items = raw.get(section)
        for item in items if isinstance(items, list) else []:
            given = item.get(key) if isinstance(item, dict) else None
            if isinstance(given, str):
                found = [p for p in (folder / given, Path(given).expanduser()) if p.exists()]
                if found:
                    item[key] = str(found[0].resolve())


def _limit(raw: dict[str, Any], limit: int) -> None:
    """At most ``limit`` examples of each dataset."""
    if limit < 1:
        raise UserError(f"--limit must be at least 1, not {limit}")
    items = raw.get("datasets")
    for item in items if isinstance(items, list) else []:
        if isinstance(item, dict):
            n = item.get("n")
            item["n"] = min(n, limit) if isinstance(n, int) else limit
