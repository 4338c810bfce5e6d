"""A table of texts and a probe of a tiny model, for tests that score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from probes import fit, save
from toy import write_table

import llmprobe


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("table") / "toy.csv", place="Bern")


@pytest.fixture(scope="module")
def probe(table: Path, tiny_model: Callable[..., Path]) -> Path:
    fitted, _ = fit(tiny_model("llama", bos=True), llmprobe.load_dataset(table))
    return save(fitted, table.parent / "run")
