"""Datasets known by name. Adding one is one decorated function, or one YAML file of the user's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.ground.errors import UserError, suggestion

Builder = Callable[..., ConceptDataset]


@dataclass(frozen=True)
class Entry:
    """A registered builder: its keyword arguments are the dataset's options."""

    name: str
    build: Builder
    summary: str
    """One line."""
    family: str
    """The heading under which it is listed: "facts", "reasoning", a published collection, …"""
    dial: str | None = None
    """The option that makes it more difficult."""

    @property
    def options(self) -> dict[str, object]:
        """Each option with its default."""
        return {k: p.default for k, p in inspect.signature(self.build).parameters.items()}


REGISTRY: dict[str, Entry] = {}
YOURS = "yours"
"""The family of what a user has included."""


def dataset(
    name: str, family: str = YOURS, *, dial: str | None = None, summary: str = ""
) -> Callable[[Builder], Builder]:
    """Register a builder, ``@dataset("coin_flip", "reasoning", dial="people")``.

    A builder takes keyword options with defaults and returns a ``ConceptDataset``; a generated
    one has the options ``n`` and ``seed``. ``summary`` is the first line of its docstring unless
    it is given.

    Raises
    ------
    UserError
        The name is taken by another builder, or an option has no default.
    """
    if not isinstance(name, str):
        raise UserError('@dataset needs the name of the dataset: @llmprobe.dataset("name")')

    def register(build: Builder) -> Builder:
        for option, parameter in inspect.signature(build).parameters.items():
            if parameter.default is parameter.empty:
                raise UserError(f"dataset {name!r}: option {option!r} needs a default")
        if name in REGISTRY and REGISTRY[name].build is not build:
            raise UserError(f"dataset {name!r}: there is one of that name already")
        line = summary or (inspect.getdoc(build) or name).splitlines()[0]
        REGISTRY[name] = Entry(name, build, line, family, dial)
        return build

    return register


def build(name: str, **options: object) -> ConceptDataset:
    """The dataset called ``name``; an unknown name or option is a ``UserError``."""
    if name not in REGISTRY:
        raise UserError(f"dataset {name!r} is not known; {suggestion(name, REGISTRY)}")
    entry = REGISTRY[name]
    for option in options:
        if option not in entry.options:
            raise UserError(
                f"dataset {name!r} has no option {option!r}; {suggestion(option, entry.options)}"
            )
    try:
        built = entry.build(**options)
    except UserError:
        raise
    except Exception as error:
        if entry.family != YOURS:
            raise
        raise UserError(
            f"dataset {name!r}: its function failed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(built, ConceptDataset):
        raise UserError(
            f"dataset {name!r}: its function returned {type(built).__name__!r}, which is no "
            "ConceptDataset"
        )
    return built
