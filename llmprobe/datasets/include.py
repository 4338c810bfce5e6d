"""The user's own datasets by name: small files, or a folder of them, that are included."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

from llmprobe.config.load import absolute_paths, parsed_yaml, validated
from llmprobe.config.schema import DatasetConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.from_config import sampled, untemplated_dataset
from llmprobe.datasets.registry import REGISTRY, YOURS, dataset
from llmprobe.ground.errors import UserError, suggestion
from llmprobe.ground.files import existing
from llmprobe.ground.registry import registrations_of

_names_of: dict[Path, set[str]] = {}
"""The names that each included file has registered; including it again replaces them."""


class NamedDataset(DatasetConfig):
    """A .yaml file with the mapping of a dataset, and facts about it.

    ``name`` is the known dataset whose options it presets, if any; its own name is the file's.
    """

    description: str = ""
    source: str = ""
    citation: str = ""
    licence: str = ""
    version: str = ""


def include(path: str | Path) -> list[str]:
    """Register the datasets in a .yaml or .py file, or in all of a folder; return their names.

    A .yaml file is one dataset, named after the file: the mapping that a config would have, with
    paths relative to it, and any of description, source, citation, licence and version. A .py file
    is run, and registers its own: functions decorated with ``llmprobe.dataset``, entries given to
    ``llmprobe.datasets.published.register``, and other things with a name, such as a site.

    Raises
    ------
    UserError
        There is no such file, none in the folder, one of them is wrong, or a name is taken.
    """
    place = existing(path)
    if place is None:
        raise UserError(f"--include {path}: no such file or folder")
    files = [place]
    if place.is_dir():
        files = sorted(file for file in place.iterdir() if file.suffix in (".yaml", ".yml", ".py"))
        if not files:
            raise UserError(f"--include {path}: the folder has no .yaml or .py file")
    names: list[str] = []
    for file in files:
        for name in _names_of.pop(file, ()):
            REGISTRY.remove(name)
        before = set(REGISTRY)
        try:
            with registrations_of(file):
                _register(file)
        finally:
            _names_of[file] = set(REGISTRY) - before
        names += sorted(_names_of[file])
    return names


def _register(file: Path) -> None:
    if file.suffix in (".yaml", ".yml"):
        _register_yaml(file)
    elif file.suffix == ".py":
        _run(file)
    else:
        raise UserError(f"--include {file}: not a .yaml or .py file")


def _run(file: Path) -> None:
    spec = importlib.util.spec_from_file_location(f"llmprobe_included_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Where dataclasses, among others, look for the module of a class.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    except (Exception, SystemExit) as error:
        raise UserError(f"{file}: cannot be run: {type(error).__name__}: {error}") from error


def _register_yaml(file: Path) -> None:
    raw = parsed_yaml(file)
    if not isinstance(raw, dict):
        raise UserError(f"{file}: not the mapping of a dataset, such as `path: my.csv`")
    absolute_paths({"datasets": [raw]}, file.parent)
    config = validated(NamedDataset, raw, str(file))
    # Datasets that are known before any file is included cannot refer back to this one.
    known = [name for name, entry in REGISTRY.items() if entry.family != YOURS]
    if not config.is_own and config.name not in known:
        raise UserError(
            f"{file}: name {config.name!r} is not that of a shipped or published dataset, which a "
            f"file without path or hub needs; {suggestion(config.name, known)}"
        )
    known_of_it = NamedDataset.model_fields.keys() - DatasetConfig.model_fields.keys()
    facts = {key: value for key in known_of_it if (value := getattr(config, key))}

    def build(n: int | None = config.n, seed: int | None = config.seed) -> ConceptDataset:
        wanted = config.model_copy(update={"n": n, "seed": seed})
        built = sampled(untemplated_dataset(wanted), wanted)
        return replace(built, template=config.template or built.template, **facts)

    try:
        dataset(file.stem, YOURS, summary=config.description or f"from {file.name}")(build)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
