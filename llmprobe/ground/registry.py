"""Registries: what names in a config or on the command line stand for, also from other packages.

    metrics: Registry[Metric] = Registry("metric", homes=["llmprobe.results.metrics"])

    @metrics.register("toy")          # in any file
    def toy(...): ...

    metrics["toy"]                    # the entry; an unknown name is a UserError

Your own package is found by the entry point group ``llmprobe.plugins``. In its pyproject.toml,

    [project.entry-points."llmprobe.plugins"]
    mine = "my_package.my_module"

names a module. It is imported at the first look into any registry, and registers its entries then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import iter_modules
from threading import RLock
from typing import TypeVar

from llmprobe.ground.errors import UserError, suggestion

T = TypeVar("T")

PLUGINS = "llmprobe.plugins"
"""The entry point group of packages that register something."""

log = logging.getLogger(__name__)
_loading = RLock()
_plugins_are_loaded = False
_running: list[Path] = []


class Registry(Mapping[str, T]):
    """Entries of one kind by name, in the order in which they were registered.

    Parameters
    ----------
    kind
        What an entry is called in messages, such as ``metric``.
    homes
        Modules that register the entries of llmprobe itself; a package stands for all modules
        directly in it. They are imported at the first look into the registry, not before.
    """

    def __init__(self, kind: str, homes: Sequence[str] = ()) -> None:
        self.kind = kind
        self._homes = list(homes)
        self._entries: dict[str, T] = {}
        self._files: dict[str, Path] = {}

    def add(self, name: str, entry: T) -> None:
        """Register an entry; a file that is run again replaces the entries it registered before.

        Raises
        ------
        UserError
            Another entry has that name.
        """
        known, file = self._entries.setdefault(name, entry), _running[-1] if _running else None
        if known is not entry and (file is None or self._files.get(name) != file):
            raise UserError(f"{self.kind} {name!r}: there is one of that name already")
        self._entries[name] = entry
        if file is not None:
            self._files[name] = file

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers what it decorates, and returns it unchanged."""

        def decorator(entry: T) -> T:
            self.add(name, entry)
            return entry

        return decorator

    def remove(self, name: str) -> None:
        """Forget an entry, if there is one of that name."""
        self._entries.pop(name, None)

    def __getitem__(self, name: str) -> T:
        """Return the entry called ``name``; raise ``UserError`` when there is none."""
        if name not in self:
            raise UserError(f"{self.kind} {name!r} is not known; {suggestion(name, self)}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._loaded()

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded())

    def __len__(self) -> int:
        return len(self._loaded())

    def _loaded(self) -> dict[str, T]:
        """Return all entries, after importing the modules that register them."""
        with _loading:
            while self._homes:
                home = import_module(self._homes.pop(0))
                for module in iter_modules(getattr(home, "__path__", ())):
                    import_module(f"{home.__name__}.{module.name}")
            load_plugins()
        return self._entries


@contextmanager
def registrations_of(file: Path) -> Iterator[None]:
    """Mark what the block registers as a file's own, so that running the file again replaces it."""
    _running.append(file)
    try:
        yield
    finally:
        _running.pop()


def load_plugins() -> None:
    """Import the modules of the entry point group ``llmprobe.plugins``, once in a process.

    A module that cannot be imported is left out with a warning.
    """
    global _plugins_are_loaded
    with _loading:
        if _plugins_are_loaded:
            return
        _plugins_are_loaded = True
        for plugin in entry_points(group=PLUGINS):
            try:
                plugin.load()
            except (Exception, SystemExit) as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                log.warning("plugin %s (%s) is left out: %s", plugin.name, plugin.value, reason)
