"""The datasets of ``sets.yaml``, registered when this module is imported."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from llmprobe.datasets.published.entry import PublishedDataset, register
from llmprobe.datasets.published.files import KnownFile, on_github, on_hub, on_web
from llmprobe.datasets.published.groupings import GROUPINGS
from llmprobe.datasets.published.parsers import PARSERS

_SERVERS: dict[str, Callable[..., KnownFile]] = {
    "github": on_github,
    "hub": on_hub,
    "web": on_web,
}


def _files(name: str, listed: list[dict[str, Any]]) -> tuple[KnownFile, ...]:
    described = [{"collection": name.split("/")[0], **facts} for facts in listed]
    return tuple(_SERVERS[facts.pop("server")](**facts) for facts in described)


def _entry(
    name: str, family: str, *, parser: str | dict[str, Any], citation: str | list[str],
    files: Any = (), splits: Any = None, split: str = "", group: str = "", **more: Any,
) -> PublishedDataset:  # fmt: skip
    """Return the entry that a mapping in ``sets.yaml`` describes."""
    ((function, arguments),) = ({parser: {}} if isinstance(parser, str) else parser).items()
    known = {value: _files(name, listed) for value, listed in (splits or {}).items()}
    return PublishedDataset(
        name,
        family=family,
        files=known[split] if splits else _files(name, files),
        splits=known,
        citation=citation if isinstance(citation, str) else "; ".join(citation),
        parser=partial(PARSERS[function], **arguments),
        group=GROUPINGS.get(group, group or None),
        template=next(iter(more.get("prompts", {"": ""}).values())),
        **more,
    )


_families = yaml.load(
    Path(__file__).with_name("sets.yaml").read_text(encoding="utf-8"),
    # The C loader is five times as fast, but not every PyYAML has it.
    getattr(yaml, "CSafeLoader", yaml.SafeLoader),
)
_families.pop("shared")  # Only the anchors that the others refer to.
for _family, _sets in _families.items():
    for _name, _facts in _sets.items():
        register(_entry(_name, _family, **_facts))
