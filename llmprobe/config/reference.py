"""The keys of a config, from its schema: a reference for people, and a JSON schema for editors."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmprobe.config.schema import RunConfig
from llmprobe.ground.errors import UserError, suggestion

_JSON = Mapping[str, Any]
_ALONE = ("models", "activations", "datasets")
"""Keys of lists; a word can stand for an item, and one item for the list."""
_SHORT_FORMS: Mapping[str, Mapping[str, str]] = {
    "RunConfig": {
        "include": "string",
        "engine": "string",
        **dict.fromkeys(("transfer", "intervene", "linear"), "boolean"),
    },
    "DatasetConfig": {"perturb": "string"},
    "ReportConfig": {"log_to": "string"},
    "TransferConfig": dict.fromkeys(("train", "test", "mask"), "string"),
}
"""The types that keys take besides their own, by section; validators expand these short forms."""


@dataclass(frozen=True)
class Key:
    """A key of a config."""

    name: str
    """The name, with a dot if the key is in a mapping of its section: ``drop.unlabelled``."""
    takes: str
    """Its types and choices in words."""
    default: str
    """The default as in YAML; "" if there is none."""
    meaning: str
    """A paragraph, with code between double backticks."""


@dataclass(frozen=True)
class Keys:
    """A section of a config, and its keys."""

    name: str
    """The key of the section; "" for the file itself."""
    meaning: str
    """A paragraph."""
    keys: tuple[Key, ...]
    """The keys of the section, in the order of the schema."""


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a config file, short forms included."""
    schema = RunConfig.model_json_schema()
    sections = {"RunConfig": schema, **schema["$defs"]}
    for section, keys in _SHORT_FORMS.items():
        for key, kind in keys.items():
            _allow(sections[section]["properties"], key, {"type": kind})
    for key in _ALONE:
        whole = schema["properties"][key]
        kinds = whole["items"], {"type": "string"}
        whole["items"] = {"anyOf": [*kinds]}
        _allow(schema["properties"], key, *kinds)
    # An empty section means its defaults.
    for key, value in schema["properties"].items():
        if "$ref" in value:
            _allow(schema["properties"], key, {"type": "null"})
    schema["title"] = "llmprobe config"
    schema["description"] = "A run, described by one YAML file."
    readable: dict[str, Any] = _with_paragraphs(schema)
    return readable


def _with_paragraphs(value: Any) -> Any:
    """Return a schema whose descriptions are Markdown without line breaks."""
    if isinstance(value, dict):
        return {
            key: _code(_paragraph(inner))
            if key == "description" and isinstance(inner, str)
            else _with_paragraphs(inner)
            for key, inner in value.items()
        }
    return [*map(_with_paragraphs, value)] if isinstance(value, list) else value


def _allow(properties: dict[str, Any], key: str, *more: _JSON) -> None:
    """Let a key take more types than its own."""
    own = properties[key]
    about = {name: own.pop(name) for name in ("title", "description", "default") if name in own}
    properties[key] = {**about, "anyOf": [*own.get("anyOf", [own]), *more]}


def reference() -> list[Keys]:
    """Return all keys by section: first those of the file, then those of each section in it."""
    schema = RunConfig.model_json_schema()
    sections = {key: _section(value, schema) for key, value in schema["properties"].items()}
    own = (_key(name, value, schema) for name, value in schema["properties"].items())
    return [
        Keys("", "The keys of the file.", tuple(own)),
        *(
            Keys(key, _paragraph(section["description"]), tuple(_keys(section, schema)))
            for key, section in sections.items()
            if section is not None
        ),
    ]


def reference_of(section: str) -> Keys:
    """Return the keys of one section; raise ``UserError`` if there is no such section."""
    by_name = {keys.name: keys for keys in reference() if keys.name}
    if section not in by_name:
        raise UserError(f"no section of a config; {suggestion(section, by_name)}")
    return by_name[section]


def _keys(section: _JSON, schema: _JSON, prefix: str = "") -> Iterator[Key]:
    """Yield the keys of a section, those of a mapping in it after the mapping itself."""
    for name, value in section["properties"].items():
        yield _key(prefix + name, value, schema)
        inner = _section(value, schema)
        if inner is not None:
            yield from _keys(inner, schema, f"{prefix}{name}.")


def _key(name: str, value: _JSON, schema: _JSON) -> Key:
    section = _section(value, schema)
    # A key without a description has that of its section.
    meaning = value.get("description") or (section or {}).get("description", "")
    default = "" if section is not None else _default_text(value.get("default"))
    return Key(name, _takes(value), default, _paragraph(meaning))


def _section(value: _JSON, schema: _JSON) -> _JSON | None:
    """Return the section that a key takes, or takes a list of; None for other keys."""
    for part in (value, value.get("items", {}), *value.get("anyOf", ())):
        name = part.get("$ref", "").rpartition("/")[2]
        if "properties" in schema["$defs"].get(name, {}):
            section: _JSON = schema["$defs"][name]
            return section
    return None


def _takes(value: _JSON) -> str:
    """Return in words what a key takes."""
    if "anyOf" in value:
        kinds = [_takes(kind) for kind in value["anyOf"] if kind.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in value:
        return ", ".join(f"``{choice}``" for choice in value["enum"])
    if "const" in value:
        return f"``{value['const']}``"
    kind = value.get("type")
    if kind == "array":
        return f"list of {_takes(value['items'])}"
    if kind in ("integer", "number"):
        return ("whole number" if kind == "integer" else "number") + _bounds(value)
    return {
        "string": "path" if value.get("format") == "path" else "text",
        "boolean": "``true``, ``false``",
    }.get(str(kind), "mapping")


def _bounds(value: _JSON) -> str:
    low = value.get("minimum", value.get("exclusiveMinimum"))
    high = value.get("maximum", value.get("exclusiveMaximum"))
    bounds = "" if low is None else f" {'from' if 'minimum' in value else 'above'} {low:g}"
    if high is not None:
        bounds += f" {'to' if 'maximum' in value else 'below'} {high:,}"
    return bounds


def _default_text(default: object) -> str:
    return "" if default in (None, "", [], {}) else json.dumps(default, ensure_ascii=False)


def _paragraph(text: str) -> str:
    return " ".join(text.split())


def as_text(sections: Sequence[Keys], width: int = 100) -> str:
    """Return keys for a terminal: what each takes and its default, and its meaning below."""
    lines = []
    for section in sections:
        lines += [f"{section.name}:" if section.name else "A config is a YAML file.", ""]
        for key in section.keys:
            default = f"; default {key.default}" if key.default else ""
            lines.append(f"  {key.name}  ({key.takes}{default})".replace("``", ""))
            meaning = key.meaning.replace("``", "")
            lines += textwrap.wrap(meaning, width, initial_indent=" " * 6,
                                   subsequent_indent=" " * 6)  # fmt: skip
        lines.append("")
    return "\n".join(lines).rstrip()


def as_markdown(sections: Sequence[Keys]) -> str:
    """Return keys as headings and tables."""
    lines = []
    for section in sections:
        if section.name:
            lines += [f"## `{section.name}`", "", _code(section.meaning), ""]
        lines += ["| key | takes | default | meaning |", "|---|---|---|---|"]
        for key in section.keys:
            default = f"`{key.default}`" if key.default else ""
            cells = (f"`{key.name}`", key.takes, default, key.meaning)
            row = " | ".join(_code(cell).replace("|", r"\|") for cell in cells)
            lines.append(f"| {row} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def _code(text: str) -> str:
    return text.replace("``", "`")
