"""Datasets known by name. Adding one is one decorated function in ``builders.py``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from llmprobe.concepts.dataset import ConceptDataset
from llmprobe.errors import UserError, suggestion

Builder = Callable[..., ConceptDataset]


@dataclass(frozen=True)
class Entry:
    """A registered builder: its keyword arguments are the dataset's options."""

    name: str
    build: Builder

    @property
    def summary(self) -> str:
        """The first line of the builder's docstring."""
        return (inspect.getdoc(self.build) or "").splitlines()[0]

    @property
    def options(self) -> dict[str, object]:
        """Each option with its default."""
        return {k: p.default for k, p in inspect.signature(self.build).parameters.items()}


REGISTRY: dict[str, Entry] = {}


def dataset(name: str) -> Callable[[Builder], Builder]:
    """Register a builder, ``@dataset("coin_flip")``.

    A builder takes keyword options with defaults and returns a ``ConceptDataset``; a generated
    one has the options ``n`` and ``seed``.
    """

    def register(build: Builder) -> Builder:
        REGISTRY[name] = Entry(name, build)
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
    return entry.build(**options)
