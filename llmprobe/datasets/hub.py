"""Tables that Hugging Face's ``datasets`` reads: from a folder, or from the Hub."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from llmprobe.config.schema import DatasetConfig
from llmprobe.ground.errors import NotOnDiskError, UserError, first_line
from llmprobe.ground.files import disk_is_full, existing

if TYPE_CHECKING:
    import datasets

_ID = re.compile(r"[^/\s]+/[^/\s]+")
"""Without an owner, ``datasets`` could take it for a format: "csv" reads the working folder."""

_SECONDS = 10
"""How long the Hub may take to say whether it has a dataset."""


def as_table(dataset: datasets.Dataset) -> pd.DataFrame:
    """Return a row for each example; class labels by name, without images and other media."""
    import datasets

    features = dataset.features
    kept = [name for name, kind in features.items() if not hasattr(kind, "decode_example")]
    # Arrow's own table: ``datasets`` would decode media that stand inside lists.
    arrow = dataset.select_columns(kept).with_format("arrow")[:]
    table = arrow.to_pandas(integer_object_nulls=True)
    for name in kept:
        if isinstance(features[name], datasets.ClassLabel):
            names = dict(enumerate(features[name].names))
            table[name] = table[name].map(names).astype(object)  # -1, no label, is in no name.
    return pd.DataFrame(table)


def table_from_disk(path: Path, split: str | None = None) -> pd.DataFrame:
    """Read a dataset from a folder that ``save_to_disk`` wrote.

    Raises
    ------
    UserError
        It is no such folder, it has no such split, or it has several and ``split`` is None.
    """
    import datasets

    if not any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        raise UserError(f"{path}: is a folder, and not one that `datasets` saved (`save_to_disk`)")
    try:
        with quiet():
            saved = datasets.load_from_disk(str(path))
            if isinstance(saved, datasets.Dataset):
                if split not in (None, str(saved.split)):
                    raise UserError(f"{path}: no split {split!r}; it is one dataset, "
                                    "without splits")  # fmt: skip
                return as_table(saved)
            return as_table(saved[_split(split, list(saved), str(path))])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path}: cannot be read: {first_line(error)}") from None


def table_from_hub(config: DatasetConfig, download: bool = True) -> tuple[pd.DataFrame, str]:
    """Read the dataset that ``config.hub`` names; return it with that name and the commit.

    What is already in the cache of ``datasets`` is taken from there when the Hub cannot be reached
    (or may not be: ``HF_HUB_OFFLINE``). Environment variables of Hugging Face count. A path that
    begins with ``/``, ``.`` or ``~`` is a folder with data files.

    Parameters
    ----------
    download
        Whether to ask the Hub at all.

    Raises
    ------
    NotOnDiskError
        It is not in the cache, and the Hub cannot be reached or ``download`` is False.
    UserError
        There is no such dataset, subset, split or revision; it may not be read, or not without
        running code that comes with it.
    """
    assert config.hub is not None
    with quiet():
        if config.hub.startswith(("/", ".", "~")):
            return _prepared(config, _folder(config.hub)), config.hub
        if not _ID.fullmatch(config.hub):
            raise UserError(f"hub {config.hub!r}: an id on the Hugging Face Hub is owner/name")
        commit = latest_commit(config) if download else None
        if commit is not None:
            return _prepared(
                config, f"hf://datasets/{config.hub}", commit
            ), f"{config.hub}@{commit}"
        with offline():
            return _cached(config, download)


def _folder(hub: str) -> str:
    path = existing(hub)
    if path is None or not path.is_dir():
        raise UserError(f"{hub}: {'no such folder' if path is None else 'not a folder'}")
    return str(path)


def latest_commit(config: DatasetConfig) -> str | None:
    """Return the commit of the wanted revision; None when the Hub cannot be reached."""
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    assert config.hub is not None
    unreachable: tuple[type[Exception], ...] = (OSError, *_network_errors())
    if datasets.config.HF_HUB_OFFLINE:
        return None
    try:
        # Asked first, and without the half minute of tries that ``datasets`` makes.
        info = HfApi().dataset_info(config.hub, revision=config.revision, timeout=_SECONDS)
    except GatedRepoError:
        raise UserError(_gated(config.hub)) from None
    except RevisionNotFoundError:
        raise UserError(f"{config.hub}: there is no revision {config.revision!r}") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"{config.hub}: not a dataset on the Hugging Face Hub, or a private one"
        ) from None
    except unreachable:
        return None
    return info.sha


def _prepared(config: DatasetConfig, path: str, commit: str | None = None) -> pd.DataFrame:
    """Read one split; every split of the subset that is not in the cache is downloaded."""
    import datasets

    try:
        builder = datasets.load_dataset_builder(path, config.subset, revision=commit)
    except Exception as error:
        _raise_for_subset(config, path, commit)
        raise problem(config, error) from None
    return _table(config, builder)


def _cached(config: DatasetConfig, download: bool) -> tuple[pd.DataFrame, str]:
    """Read from the cache of ``datasets``, the latest commit unless ``config`` says which."""
    import datasets

    assert config.hub is not None
    why = "the Hugging Face Hub cannot be reached" if download else "would be downloaded first"
    try:
        builder = datasets.load_dataset_builder(f"hf://datasets/{config.hub}", config.subset)
    except ValueError as error:
        # Several subsets are in the cache, or others than the wanted one.
        listed = re.search(r"in the cache: \[?([^\]\n]*)", str(error))
        known = listed[1].replace("'", "") if listed else "none"
        if config.subset is None:
            first = known.split(", ")[0]
            raise UserError(f"{config.hub}: say which subset, as in `subset: {first}`; "
                            f"on this disk: {known}") from None  # fmt: skip
        raise NotOnDiskError(f"{config.hub}: subset {config.subset!r} is not on this disk (there: "
                        f"{known}), and {why}") from None  # fmt: skip
    except OSError:
        raise NotOnDiskError(f"{config.hub}: not on this disk, and {why}") from None
    commit = str(builder.hash)
    if config.revision not in (None, commit):
        raise NotOnDiskError(
            f"{config.hub}: revision {config.revision!r} is not on this disk (there: commit "
            f"{commit}), and {why}"
        )
    return _table(config, builder), f"{config.hub}@{commit}"


def _table(config: DatasetConfig, builder: datasets.DatasetBuilder) -> pd.DataFrame:
    """Return the table of the wanted split."""
    assert config.hub is not None
    try:
        builder.download_and_prepare()
        split = _split(config.split, list(builder.info.splits or ()), config.hub)
        return as_table(builder.as_dataset(split))
    except UserError:
        raise
    except Exception as error:
        raise problem(config, error) from None


def _split(wanted: str | None, splits: list[str], where: str) -> str:
    """Return the wanted split, perhaps a sum such as ``train[:100]+test``, or the only one."""
    known = ", ".join(splits) or "none"
    if wanted is None:
        if len(splits) != 1:
            raise UserError(f"{where}: say which split, as in `split: "
                            f"{splits[0] if splits else 'train'}`; splits: {known}")  # fmt: skip
        return splits[0]
    for part in wanted.split("+"):
        if part.split("[")[0].strip() not in splits:
            raise UserError(f"{where}: no split {part.split('[')[0].strip()!r}; splits: {known}")
    return wanted


def _raise_for_subset(config: DatasetConfig, path: str, commit: str | None) -> None:
    """Raise ``UserError`` when it is the subset that is missing or unknown."""
    import datasets

    try:
        subsets = datasets.get_dataset_config_names(path, revision=commit)
    except Exception:
        return  # Nothing can be read, and the first error says why.
    known = ", ".join(subsets)
    if config.subset is None and len(subsets) > 1:
        raise UserError(f"{config.hub}: say which subset, as in `subset: {subsets[0]}`; "
                        f"subsets: {known}")  # fmt: skip
    if config.subset is not None and config.subset not in subsets:
        raise UserError(f"{config.hub}: no subset {config.subset!r}; subsets: {known}")


def problem(config: DatasetConfig, error: Exception) -> Exception:
    """Return what to raise instead of what ``datasets``, or a reader that it calls, has raised."""
    # What went wrong while a table was made is the cause of what is raised.
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    if disk_is_full(cause):
        return cause
    reason = first_line(cause)
    where = config.hub
    if "gated" in str(error):
        return UserError(_gated(str(where)))
    if "scripts are no longer supported" in str(error):
        return UserError(f"{where}: is loaded by code of its own, which `datasets` no longer runs; "
                         "`revision: refs/convert/parquet` may have the same as files")  # fmt: skip
    if isinstance(cause, _network_errors()):
        return NotOnDiskError(f"{where}: could not be downloaded: {reason}")
    return UserError(f"{where}: `datasets` cannot load it: {reason}")


def _network_errors() -> tuple[type[Exception], ...]:
    """Return what the Hub's client and its HTTP library raise without a network."""
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    return (ConnectionError, httpx.HTTPError)


def _gated(hub: str) -> str:
    return (f"{hub}: its owner asks for agreement to terms; agree on its page, then run "
            "`hf auth login`")  # fmt: skip


@contextmanager
def offline() -> Iterator[None]:
    """Make ``datasets`` look into its cache at once, as it does under HF_HUB_OFFLINE."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


@contextmanager
def quiet() -> Iterator[None]:
    """Show bars only on a terminal, and no warnings: errors are raised."""
    import datasets
    from huggingface_hub import utils

    libraries: tuple[Any, ...] = (datasets, utils)
    verbosities = [library.logging.get_verbosity() for library in libraries]
    shown = [library for library in libraries if not library.are_progress_bars_disabled()]
    hidden = [] if sys.stderr.isatty() else shown
    for library in libraries:
        library.logging.set_verbosity(logging.CRITICAL)
    for library in hidden:
        library.disable_progress_bars()
    try:
        yield
    finally:
        for library in hidden:
            library.enable_progress_bars()
        for library, verbosity in zip(libraries, verbosities, strict=True):
            library.logging.set_verbosity(verbosity)
