"""Datasets known by name. Adding one is one decorated function, or one YAML file of the user's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.ground.errors import UserError, suggestion
from llmprobe.ground.registry import Registry

Builder = Callable[..., ConceptDataset]


@dataclass(frozen=True)
class Entry:
    """A registered builder: its keyword arguments are the dataset's options."""

    name: str
    """The name that a config uses."""
    build: Builder
    """Returns the dataset."""
    summary: str
    """What is asked of a text, in one line."""
    family: str
    """The heading under which it is listed: "facts", "reasoning", a published collection, …"""
    dial: str | None = None
    """The option that makes it more difficult."""

    @property
    def options(self) -> dict[str, object]:
        """Return each option with its default."""
        return {k: p.default for k, p in inspect.signature(self.build).parameters.items()}


REGISTRY: Registry[Entry] = Registry(
    "dataset",
    homes=[
        "llmprobe.datasets.facts",
        "llmprobe.datasets.comparisons",
        "llmprobe.datasets.synthetic",
        "llmprobe.datasets.published",
    ],
)
"""Every dataset that is known by name."""
YOURS = "yours"
"""The family of what a user has included."""


def dataset(
    name: str, family: str = YOURS, *, dial: str | None = None, summary: str = ""
) -> Callable[[Builder], Builder]:
    """Return a decorator that registers a builder: ``@dataset("coin_flip", "reasoning")``.

    A builder takes keyword options with defaults and returns a ``ConceptDataset``; a synthetic
    one has the options ``n`` and ``seed``.

    Parameters
    ----------
    family
        The heading under which it is listed.
    dial
        The option that makes the task more difficult.
    summary
        What is asked of a text, in one line; by default the first line of the docstring.

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
        line = summary or (inspect.getdoc(build) or name).splitlines()[0]
        REGISTRY.add(name, Entry(name, build, line, family, dial))
        return build

    return register


def build(name: str, **options: object) -> ConceptDataset:
    """Return the dataset called ``name``, built with the options.

    Raises
    ------
    UserError
        No dataset has that name, it has no such option, or its function fails.
    """
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
