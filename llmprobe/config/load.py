"""How config files are read, overridden and checked, with an error of one line for each problem."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError

from llmprobe.config.schema import (
    ActivationsConfig,
    DatasetConfig,
    ModelConfig,
    RunConfig,
    Section,
    expand_short_forms,
    short_dataset,
    table_suffix,
)
from llmprobe.ground.errors import UserError, suggestion
from llmprobe.ground.files import existing, shipped
from llmprobe.ground.text import shortened

S = TypeVar("S", bound=Section)


def load_config(
    path: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    limit: int | None = None,
    include: Sequence[str | Path] = (),
    models: Sequence[str] = (),
    columns: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Load and check a config: a YAML file, the name of a shipped one, or a mapping.

    Parameters
    ----------
    path
        The config; or, with ``models``, a dataset: a file, a known name or ``hub:owner/name``.
    overrides
        Settings, each as ``dotted.key=value``; items of lists are numbered from 0.
    limit
        The most examples of each dataset.
    include
        Files and folders besides those that the config includes, relative to the working folder.
    models, columns
        If ``path`` is a dataset: the models to probe on it, and keys of its mapping.

    Raises
    ------
    UserError
        The config is wrong; the message names the file, the key and what would be right.
    """
    columns = {key: value for key, value in (columns or {}).items() if value is not None}
    where = "the config" if isinstance(path, Mapping) else str(path)
    if isinstance(path, Mapping):
        raw, folder = _of_run(deepcopy(dict(path)), where), Path()
    elif models or columns or table_suffix(str(path)):
        raw, folder = _of_dataset(str(path), models, columns), Path()
    else:
        file = _config_file(path)
        raw, folder = parsed_yaml(file), file.parent
        raw = _of_run(raw, str(file))
    for override in overrides:
        raw = expand_short_forms(raw)
        _set(raw, override)
    raw = expand_short_forms(raw)
    absolute_paths(raw, folder)
    if include:
        own = raw.get("include")
        more = [str(existing(path) or path) for path in include]
        raw["include"] = [*(own if isinstance(own, list) else []), *more]
    if limit is not None:
        _limit(raw, limit)
    if not isinstance(path, Mapping):
        raw.setdefault("name", _run_name(Path(path).name))
    return validated(RunConfig, raw, where)


def _of_run(raw: Any, file: str) -> dict[str, Any]:
    """Return the value of a YAML file; raise ``UserError`` unless it is the config of a run."""
    if not isinstance(raw, dict):
        raise UserError(f"{file}: empty, or not a mapping with the keys models and datasets")
    if "sanity" in raw:
        raise UserError(f"{file}: config of an experiment; its command is `llmprobe sanity`")
    if "compare" in raw:
        raise UserError(f"{file}: config of a comparison; its command is `llmprobe compare`")
    return raw


def asked_to(config: RunConfig, section: str, **options: Any) -> RunConfig:
    """Return a config with an optional section, added if need be, and some of its keys set.

    Raises
    ------
    UserError
        There is no such key, or its value is wrong.
    """
    kind = get_args(RunConfig.model_fields[section].annotation)[0]
    values = (getattr(config, section) or kind()).model_dump() | options
    return config.model_copy(update={section: validated(kind, values, section)})


def _of_dataset(dataset: str, models: Sequence[str], columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the raw config of a run of some models on a dataset, without a YAML file."""
    if dataset.lower().endswith((".yaml", ".yml")):
        raise UserError(f"{dataset}: is a config, which names its models and columns; --model, "
                        "--text, --label and --group are for a file of data")  # fmt: skip
    if not models:
        raise UserError(f"{dataset}: is a dataset; say which model to probe with --model, as in "
                        f"`llmprobe run {dataset} --model smollm2-135m`")  # fmt: skip
    return {"models": [*models], "datasets": [{**short_dataset(dataset), **columns}]}


def _run_name(name: str) -> str:
    """Return the default name of a run, from the name of its file."""
    ending = table_suffix(name)
    stem = name[: -len(ending)] if ending else Path(name).stem
    return re.sub(r"[^\w.-]", "-", stem).lstrip(".-")[:100] or "run"


def model_config(model: str, overrides: Sequence[str] = ()) -> ModelConfig:
    """Return the config of a model (name, Hub id or folder), with ``key=value`` overrides."""
    return _validated_with(ModelConfig, {"id": model}, overrides, f"model {model!r}")


def activations_config(path: Path, overrides: Sequence[str] = ()) -> ActivationsConfig:
    """Return the config of a file of hidden states, with ``key=value`` overrides."""
    return _validated_with(ActivationsConfig, {"path": str(path)}, overrides, f"states {path}")


def dataset_config(
    dataset: str | Path = "", overrides: Sequence[str] = (), **options: Any
) -> DatasetConfig:
    """Return the config of a dataset (name or file), with keys of its mapping and overrides."""
    raw = {**short_dataset(str(dataset)), **options} if str(dataset) else options
    about = dataset or options.get("hub") or ""
    return _validated_with(DatasetConfig, raw, overrides, f"dataset {about}".rstrip())


def _validated_with(
    section: type[S], raw: dict[str, Any], overrides: Sequence[str], where: str
) -> S:
    for override in overrides:
        _set(raw, override)
    return validated(section, raw, where)


def parsed_yaml(file: Path) -> Any:
    """Return the value of a YAML file; raise ``UserError`` if it is unreadable or not YAML."""
    try:
        return _parsed(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: not valid YAML: {error}") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None


class _Loader(yaml.SafeLoader):
    """A loader that refuses a key that occurs twice in a mapping.

    PyYAML's own loader silently drops the first one.
    """

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
    """Return the value of a YAML document; raise a one-line ``ValueError`` if it is not YAML."""
    try:
        return yaml.load(text, _Loader)
    # The parser raises the last three for malformed tags (``!!bool x``) and deep nesting.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def validated(section: type[S], raw: dict[str, Any], where: str) -> S:
    """Return ``raw`` as a section; raise ``UserError`` with a line for each problem."""
    try:
        return section.model_validate(raw, context={"include": raw.get("include")})
    except ValidationError as error:
        problems: dict[str, list[str]] = {}
        errors = error.errors()
        paths = [_keys_in(raw, detail["loc"]) for detail in errors]
        for detail, path in zip(errors, paths, strict=True):
            inside = (other for other in paths if len(other) > len(path))
            if detail["type"] not in _OF_KEYS and any(o[: len(path)] == path for o in inside):
                continue  # The error about a part of the value says more.
            about, message = _problem(section, dict(detail), raw)
            problems.setdefault(about, []).append(message)
        lines = [f"{where}: {about}{_either(messages)}" for about, messages in problems.items()]
        raise UserError("\n".join(shortened(lines))) from None


_OF_KEYS = ("missing", "extra_forbidden")
"""Types of pydantic's errors that concern a key, not the value that other errors are about."""

_OUR_WORDS = (
    (r"^(Value error, |Input |List |Tuple |String )", ""),
    (r"is not a valid path.*", "should be a path"),
    (r"a valid dictionary( or instance of \w+)?", "a mapping"),
    (r"a valid (tuple|list)", "a list"),
    (r"(, unable to parse| after validation).*", ""),
)
"""Patterns in pydantic's messages, with the words for a reader of YAML in place of Python."""


def _problem(section: type[Section], error: dict[str, Any], raw: Any) -> tuple[str, str]:
    """Return the key and value that a pydantic error is about, and what would be right."""
    location = [str(part) for part in error["loc"]]
    if error["type"] == "missing":
        return f"{'.'.join(location)}: ", "missing"
    if error["type"] == "extra_forbidden":
        for key in location[:-1]:
            if key in section.model_fields:
                section = _section_in(section.model_fields[key].annotation)
        known = [field.alias or name for name, field in section.model_fields.items()]
        return f"{'.'.join(location)}: ", f"unknown key; {suggestion(location[-1], known)}"
    path = ".".join(_keys_in(raw, error["loc"]))
    message = error["msg"]
    for pattern, words in _OUR_WORDS:
        message = re.sub(pattern, words, message)
    about = f"{path}: " if path else ""
    value = error["input"]
    if value is None or isinstance(value, str | int | float | Path):
        about += f"{value!r:.80} is not allowed: "
    elif not isinstance(value, dict | list):
        about += f"an object of the type {type(value).__name__!r} is not allowed: "
    return about, message


def _section_in(annotation: Any) -> type[Section]:
    """Return the section in the type of a field, such as ``list[ModelConfig]``."""
    kinds = (annotation, *get_args(annotation))
    return next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section))


def _keys_in(raw: Any, location: Sequence[str | int]) -> list[str]:
    """Return the keys of a location, without the branches of unions that pydantic adds to it."""
    keys: list[str] = []
    for part in location:
        try:
            raw = raw[part]
        except (LookupError, TypeError):
            continue
        keys.append(str(part))
    return keys


def _either(messages: list[str]) -> str:
    """Join the messages of the branches of a union into one sentence."""
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
    """Set ``dotted.key=value`` in a raw config; raise ``UserError`` if there is no such place."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise UserError(f"--set {override!r}: write it as dotted.key=value")
    try:
        value = _parsed(text)
    except ValueError as error:
        raise UserError(f"--set {override!r}: the value is not valid YAML: {error}") from None
    place: Any = raw
    *parents, last = dotted.split(".")
    for depth, key in enumerate([*parents, last]):
        index: Any = key
        if isinstance(place, list) and key.isdecimal() and int(key) < len(place):
            index = int(key)
        elif not isinstance(place, dict):
            items = f"a list of {len(place)}" if isinstance(place, list) else "no mapping"
            raise UserError(f"--set {override!r}: {'.'.join(parents[:depth])} is {items}, so it "
                            f"has no {key!r}; items count from 0")  # fmt: skip
        elif depth < len(parents):
            place.setdefault(key, {})
        if depth == len(parents):
            place[index] = value
        else:
            place = place[index]


def absolute_paths(raw: dict[str, Any], folder: Path) -> None:
    """Make the paths in a raw config absolute: in its own folder, or else in the working folder."""
    for section, key in (
        *(("models", key) for key in ("id", "tokenizer", "adapter")),
        ("activations", "path"),
        *(("datasets", key) for key in ("path", "hub", "test")),
    ):
        items = raw.get(section)
        for item in items if isinstance(items, list) else []:
            text = item.get(key) if isinstance(item, dict) else None
            if not isinstance(text, str) or not text or (key, text) == ("adapter", "."):
                continue
            # A bare word is the name of a model, wherever it is; a folder is written ./name.
            is_path = key in ("path", "adapter") or "/" in text or text.endswith(".gguf")
            if key == "hub":
                is_path = text.startswith((".", "/", "~"))
            elif key == "test":  # Otherwise it is the name of a split.
                is_path = bool(table_suffix(text))
            if is_path:
                path = existing(folder / text) or existing(text)
                if path is None and key == "path" and not text.startswith("~"):
                    path = folder / text  # So that an error says where it was looked for.
                item[key] = text if path is None else str(path)
    probe = raw.get("probe")
    encoder = probe.get("text_encoder") if isinstance(probe, dict) else None
    if isinstance(probe, dict) and isinstance(encoder, str) and "/" in encoder:
        path = existing(folder / encoder) or existing(encoder)
        raw["probe"] = {**probe, "text_encoder": str(path or encoder)}
    include = raw.get("include")
    if isinstance(include, list):
        raw["include"] = [
            str(existing(folder / str(path)) or existing(str(path)) or path) for path in include
        ]


def _limit(raw: dict[str, Any], limit: int) -> None:
    """Limit each dataset of a raw config to ``limit`` examples."""
    if limit < 1:
        raise UserError(f"--limit must be at least 1, not {limit}")
    items = raw.get("datasets")
    for item in items if isinstance(items, list) else []:
        if isinstance(item, dict):
            n = item.get("n")
            if n is None or (isinstance(n, int) and n > limit):
                item["n"] = limit
