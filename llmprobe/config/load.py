"""Config files: read, overridden, and what is wrong with them said in one line each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from llmprobe.config.schema import (
    DatasetConfig,
    ExtractConfig,
    ModelConfig,
    PerturbConfig,
    ProbeConfig,
    ReportConfig,
    RunConfig,
    Section,
    short_dataset,
    widened,
)
from llmprobe.ground.errors import UserError, suggestion
from llmprobe.ground.files import existing, shipped

S = TypeVar("S", bound=Section)

_SECTIONS: dict[str, type[Section]] = {
    "models": ModelConfig,
    "datasets": DatasetConfig,
    "extract": ExtractConfig,
    "probe": ProbeConfig,
    "report": ReportConfig,
}


def load_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    limit: int | None = None,
    include: Sequence[str | Path] = (),
) -> RunConfig:
    """The config in a YAML file (or a shipped one, by name), with ``key=value`` overrides.

    ``include`` comes on top of what the config includes, relative to the working folder.

    Raises ``UserError`` that names the file, the key and what would be right.
    """
    file = _config_file(path)
    raw = parsed_yaml(file)
    if not isinstance(raw, dict):
        raise UserError(f"{file}: empty, or not a mapping with the keys models and datasets")
    if "sanity" in raw:
        raise UserError(f"{file}: of an experiment; its command is `llmprobe sanity`, not `run`")
    if "compare" in raw:
        raise UserError(f"{file}: of a comparison; its command is `llmprobe compare`, not `run`")
    for override in overrides:
        raw = widened(raw)
        _set(raw, override)
    raw = widened(raw)
    absolute_paths(raw, file.parent)
    if include:
        own = raw.get("include")
        more = [str(existing(given) or given) for given in include]
        raw["include"] = [*(own if isinstance(own, list) else []), *more]
    if limit is not None:
        _limit(raw, limit)
    raw.setdefault("name", re.sub(r"[^\w.-]", "-", file.stem).lstrip(".-")[:100] or "run")
    return validated(RunConfig, raw, str(path))


def model_config(model: str, overrides: Sequence[str] = ()) -> ModelConfig:
    """A model by name, Hub id or folder, with ``key=value`` overrides."""
    raw: dict[str, Any] = {"id": model}
    for override in overrides:
        _set(raw, override)
    return validated(ModelConfig, raw, f"model {model!r}")


def dataset_config(
    dataset: str | Path = "", overrides: Sequence[str] = (), **options: Any
) -> DatasetConfig:
    """A dataset by name or file, with keys of its mapping, also as ``key=value``."""
    raw: dict[str, Any] = {**short_dataset(str(dataset)), **options} if str(dataset) else options
    for override in overrides:
        _set(raw, override)
    about = dataset or options.get("hub") or ""
    return validated(DatasetConfig, raw, f"dataset {about}".rstrip())


def parsed_yaml(file: Path) -> Any:
    """The value of a YAML file; ``UserError`` when it cannot be read or is not one."""
    try:
        return _parsed(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: not valid YAML: {error}") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None


class _Loader(yaml.SafeLoader):
    """Of two equal keys in a mapping, YAML's own loader drops the first without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"the key {key.value!r} occurs twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return node


def _parsed(text: str) -> Any:
    """The value of a YAML document; ``ValueError`` with one line when it is not one."""
    try:
        return yaml.load(text, _Loader)
    # The last three are how the parser meets malformed tags (``!!bool x``) and deep nesting.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def validated(section: type[S], raw: dict[str, Any], where: str) -> S:
    """``section`` from ``raw``; each problem becomes one line of a ``UserError``."""
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        problems: dict[str, list[str]] = {}
        for e in error.errors():
            about, message = _problem(section, dict(e), raw)
            problems.setdefault(about, []).append(message)
        lines = [f"{where}: {about}{_either(said)}" for about, said in problems.items()]
        raise UserError("\n".join(lines)) from None


_OUR_WORDS = (
    (r"^(Value error, |Input |List |String )", ""),
    (r"is not a valid path.*", "should be a path"),
    (r"a valid dictionary( or instance of \w+)?", "a mapping"),
    (r"a valid (tuple|list)", "a list"),
    (r"(, unable to parse| after validation).*", ""),
)
"""What pydantic says in Python's terms, and the same in YAML's."""


def _problem(section: type[Section], error: dict[str, Any], raw: Any) -> tuple[str, str]:
    """One pydantic error. -> the key and the value, and what would be right"""
    location = [str(part) for part in error["loc"]]
    if error["type"] == "missing":
        return f"{'.'.join(location)}: ", "missing"
    if error["type"] == "extra_forbidden":
        if section is RunConfig and len(location) > 1:
            section = _SECTIONS[location[0]]
        if "perturb" in location[:-1]:
            section = PerturbConfig
        known = [field.alias or name for name, field in section.model_fields.items()]
        return f"{'.'.join(location)}: ", f"unknown key; {suggestion(location[-1], known)}"
    key = ".".join(_followed(error["loc"], raw))
    message = error["msg"]
    for words, ours in _OUR_WORDS:
        message = re.sub(words, ours, message)
    about = f"{key}: " if key else ""
    if not isinstance(error["input"], dict | list):
        about += f"{error['input']!r:.80} is not allowed: "
    return about, message


def _followed(location: Sequence[str | int], raw: Any) -> list[str]:
    """The keys of a location that are in the config; pydantic adds the branch of a union."""
    keys: list[str] = []
    for part in location:
        try:
            raw = raw[part]
        except (LookupError, TypeError):
            break
        keys.append(str(part))
    return keys


def _either(messages: list[str]) -> str:
    """What the branches of a union say, as one sentence."""
    first, *others = dict.fromkeys(messages)
    return ", or ".join([first, *(other.removeprefix("should be ") for other in others)])


def _config_file(path: str | Path) -> Path:
    known = {f.stem: f for f in shipped("configs").glob("*.yaml")}
    file = existing(path) or known.get(str(path))
    if file is None:
        raise UserError(f"config {str(path)!r}: no such file; {suggestion(str(path), known)}")
    if file.is_dir():
        raise UserError(f"{path} is a folder; a config is a YAML file")
    return file


def _set(raw: dict[str, Any], override: str) -> None:
    """Put ``dotted.key=value`` into the raw config; list items go by number."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise UserError(f"--set {override!r}: write it as dotted.key=value")
    try:
        value = _parsed(text)
    except ValueError as error:
        raise UserError(f"--set {override!r}: the value is not valid YAML: {error}") from None
    place: Any = raw
    keys = dotted.split(".")
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(place, dict):
            if last:
                place[key] = value
            else:
                place = place.setdefault(key, {})
        elif isinstance(place, list) and key.isdecimal() and int(key) < len(place):
            if last:
                place[int(key)] = value
            else:
                place = place[int(key)]
        else:
            parent = ".".join(keys[:depth])
            items = f"a list of {len(place)}" if isinstance(place, list) else "no mapping"
            raise UserError(f"--set {override!r}: {parent} is {items}, so it has no {key!r}; "
                            "items count from 0")  # fmt: skip


def absolute_paths(raw: dict[str, Any], folder: Path) -> None:
    """Files and folders beside the config (or in the working folder) by their absolute path."""
    for section, key in (("models", "id"), ("datasets", "path"), ("datasets", "hub")):
        items = raw.get(section)
        for item in items if isinstance(items, list) else []:
            given = item.get(key) if isinstance(item, dict) else None
            # A bare word is a model's name, the same everywhere; a folder of that name is ./name.
            is_path = key == "path" or "/" in str(given) or str(given).endswith(".gguf")
            if key == "hub":
                is_path = str(given).startswith((".", "/", "~"))
            if isinstance(given, str) and given and is_path:
                found = existing(folder / given) or existing(given)
                if found is None and key == "path" and not given.startswith("~"):
                    found = folder / given  # So that an error says where it was looked for.
                item[key] = given if found is None else str(found)
    include = raw.get("include")
    if isinstance(include, list):
        raw["include"] = [
            str(existing(folder / str(given)) or existing(str(given)) or given) for given in include
        ]


def _limit(raw: dict[str, Any], limit: int) -> None:
    """At most ``limit`` examples of each dataset."""
    if limit < 1:
        raise UserError(f"--limit must be at least 1, not {limit}")
    items = raw.get("datasets")
    for item in items if isinstance(items, list) else []:
        if isinstance(item, dict):
            n = item.get("n")
            if n is None or (isinstance(n, int) and n > limit):
                item["n"] = limit
