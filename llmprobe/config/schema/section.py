"""What the sections of a config have in common."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo

from llmprobe.ground.errors import suggestion
from llmprobe.ground.registry import Registry

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""A seed that NumPy, scikit-learn and torch all take."""


class Section(BaseModel):
    """A mapping of the config; unknown keys are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, populate_by_name=True,
        hide_input_in_errors=True,
    )  # fmt: skip


def name_in(registry: Registry[Any]) -> Callable[[str, ValidationInfo], str]:
    """Return a validator that a name is in a registry.

    If the config includes files, any name passes, since a run reads these files later and they may
    register it; an unknown name is then refused when it is looked up.
    """

    def known(name: str, info: ValidationInfo) -> str:
        if name not in registry and not (info.context or {}).get("include"):
            raise ValueError(f"no {registry.kind}; {suggestion(name, registry)}")
        return name

    return known


def check_file_name(name: str, key: str) -> None:
    """Raise ``ValueError`` unless ``name`` can be part of the names of folders."""
    # Two such names and a digest make a file name, which can have 255 bytes.
    if (
        name.strip(". ") == ""
        or re.search(r'[/\\:*?"<>|\x00-\x1f]', name)
        or len(name.encode()) > 100
    ):
        raise ValueError(
            f"{name!r:.40} cannot name a folder; give another name with `{key}: another-name`"
        )
