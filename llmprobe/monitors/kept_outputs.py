"""A probe's outputs for some texts, kept until the table of all texts is written."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmprobe.ground.files import digest, whole_file


class KeptOutputs:
    """Outputs for the texts that were scored so far, one file for each batch.

    Parameters
    ----------
    folder
        Where they are kept; created when there is something to keep.
    key
        Everything that the outputs depend on, as JSON; outputs of another key are not found.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.folder, self._name = folder, digest(dict(key))[:16]

    def find(self, rows: range) -> np.ndarray | None:
        """Return the outputs of some rows, [rows, C], or None if they are missing or damaged."""
        try:
            outputs: np.ndarray = np.load(self._file(rows), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return outputs

    def keep(self, rows: range, outputs: np.ndarray) -> None:
        """Write the outputs of some rows, [rows, C], atomically."""
        self.folder.mkdir(exist_ok=True)
        with whole_file(self._file(rows)) as partial, partial.open("wb") as file:
            np.save(file, outputs, allow_pickle=False)

    def _file(self, rows: range) -> Path:
        return self.folder / f"{self._name}-{rows.start}-{rows.stop}.npy"


def kept_beside(out: Path) -> Path:
    """Return the folder for the outputs that are kept until ``out`` is written."""
    return out.with_name(f".{out.name}.scored")


def forget(folder: Path) -> None:
    """Remove the kept outputs, once the table is written."""
    shutil.rmtree(folder, ignore_errors=True)
