"""Tables that Hugging Face's ``datasets`` reads: from a folder, or from the Hub."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from llmprobe.config.schema import DatasetConfig
from llmprobe.ground.errors import NotOnDiskError, UserError, first_line, foreign_errors
from llmprobe.ground.files import disk_is_full, existing

if TYPE_CHECKING:
    import datasets

_ID = re.compile(r"[^/\s]+/[^/\s]+")
"""Without an owner, ``datasets`` could take an id for a format: "csv" reads the working folder."""

_SECONDS = 10
"""How long the Hub may take to say whether it has a dataset."""


def as_table(dataset: datasets.Dataset) -> pd.DataFrame:
    """Return a row for each example; class labels by name, without images and other media.

    Class labels in lists are by name too.
    """
    import datasets

    features = dataset.features
    kept = [name for name, kind in features.items() if not hasattr(kind, "decode_example")]
    # Arrow's own table: ``datasets`` would decode media that stand inside lists.
    arrow = dataset.select_columns(kept).with_format("arrow")[:]
    arrow.validate(full=True)
    table = arrow.to_pandas(integer_object_nulls=True)
    for name in kept:
        inside = getattr(features[name], "feature", None)
        if isinstance(features[name], datasets.ClassLabel):
            names = dict(enumerate(features[name].names))
            table[name] = table[name].map(names).astype(object)  # -1, no label, has no name.
        elif isinstance(inside, datasets.ClassLabel):
            names = dict(enumerate(inside.names))
            table[name] = [cells if cells is None else [*map(names.get, cells)]
                           for cells in table[name]]  # fmt: skip
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
    with foreign_errors(f"{path}: cannot be read"), quiet():
        saved = datasets.load_from_disk(str(path))
        if isinstance(saved, datasets.Dataset):
            if split not in (None, str(saved.split)):
                raise UserError(f"{path}: no split {split!r}; it is one dataset, without splits")
            return as_table(saved)
        return as_table(saved[_split(split, list(saved), str(path))])


def table_from_hub(config: DatasetConfig, download: bool = True) -> tuple[pd.DataFrame, str]:
    """Read the dataset that ``config.hub`` names; return it with that name and the commit.

    If the Hub cannot be reached (or may not be: ``HF_HUB_OFFLINE``), the dataset is read from the
    cache of ``datasets``. Environment variables of Hugging Face apply. A path that begins with
    ``/``, ``.`` or ``~`` is a folder with data files.

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
    with quiet():
        try:
            return _table_and_origin(config, download)
        except UserError:
            raise
        except Exception as error:
            raise problem(config, error) from None


def _table_and_origin(config: DatasetConfig, download: bool) -> tuple[pd.DataFrame, str]:
    import datasets

    hub = str(config.hub)
    if hub.startswith(("/", ".", "~")):
        folder = existing(hub)
        if folder is None or not folder.is_dir():
            raise UserError(f"{hub}: no such folder")
        return _table(config, datasets.load_dataset_builder(str(folder), config.subset)), hub
    if not _ID.fullmatch(hub):
        raise UserError(f"hub {hub!r}: an id on the Hugging Face Hub is owner/name")
    commit = latest_commit(config) if download else None
    if commit is None:
        with offline():
            builder = _cached_builder(config, download)
            return _table(config, builder), f"{hub}@{builder.hash}"
    builder = datasets.load_dataset_builder(f"hf://datasets/{hub}", config.subset, revision=commit)
    return _table(config, builder), f"{hub}@{commit}"


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
        # Asked directly, since ``datasets`` would retry for half a minute.
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


def _cached_builder(config: DatasetConfig, download: bool) -> datasets.DatasetBuilder:
    """Find the dataset in the cache of ``datasets``, at the latest commit or the wanted one."""
    import datasets

    why = "the Hugging Face Hub cannot be reached" if download else "would be downloaded first"
    try:
        builder = datasets.load_dataset_builder(f"hf://datasets/{config.hub}", config.subset)
    except (OSError, ValueError) as error:
        # Several subsets may be in the cache, or others than the wanted one.
        known = _subsets_in(error)
        if known and config.subset is None:
            raise _which_subset(config, known) from None
        lack = f"subset {config.subset!r} is not on this disk (there: {known})"
        raise NotOnDiskError(
            f"{config.hub}: {lack if known else 'not on this disk'}, and {why}"
        ) from None
    if config.revision not in (None, builder.hash):
        raise NotOnDiskError(
            f"{config.hub}: revision {config.revision!r} is not on this disk (there: commit "
            f"{builder.hash}), and {why}"
        )
    return builder


def _table(config: DatasetConfig, builder: datasets.DatasetBuilder) -> pd.DataFrame:
    """Read one split; every split of the subset that is not in the cache is downloaded."""
    builder.download_and_prepare()
    split = _split(config.split, list(builder.info.splits or ()), str(config.hub))
    return as_table(builder.as_dataset(split))


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


def _subsets_in(error: Exception) -> str:
    """Return the subsets that ``datasets`` lists when one is missing or unknown, or nothing."""
    listed = re.search(r"(?:available configs|Available|in the cache): \[?([^\]\n]*)", str(error))
    return listed[1].replace("'", "") if listed else ""


def _which_subset(config: DatasetConfig, known: str) -> UserError:
    wanted = f"no subset {config.subset!r}"
    if config.subset is None:
        wanted = f"say which subset, as in `subset: {known.split(', ')[0]}`"
    return UserError(f"{config.hub}: {wanted}; subsets: {known}")


def problem(config: DatasetConfig, error: Exception) -> Exception:
    """Return the error to raise instead of one by ``datasets`` or by a reader that it calls."""
    # ``datasets`` wraps the errors of its readers: the cause says what went wrong.
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    if disk_is_full(cause):
        return cause
    if known := _subsets_in(error):
        return _which_subset(config, known)
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

    with ExitStack() as afterwards:
        for library in (datasets, utils):
            afterwards.callback(library.logging.set_verbosity, library.logging.get_verbosity())
            library.logging.set_verbosity(logging.CRITICAL)
            if not sys.stderr.isatty() and not library.are_progress_bars_disabled():
                afterwards.callback(library.enable_progress_bars)
                library.disable_progress_bars()
        yield
