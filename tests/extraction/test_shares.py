"""Processes that cannot talk to each other divide an extraction, in any order, more than once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from llmprobe.config.schema import ModelConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction import extract, plan
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.processes import Apart

COLOURS, NUMBERS, WORDS = "red green blue".split(), "one two three four".split(), "a the is".split()
TEXTS = [" ".join(words) for words in product(COLOURS, NUMBERS, WORDS, WORDS)]


@pytest.fixture
def dataset(monkeypatch: pytest.MonkeyPatch) -> ConceptDataset:
    monkeypatch.setattr(plan, "LEAST_ROWS", 16)
    return ConceptDataset("words", TEXTS, np.arange(len(TEXTS)) % 2)


def shards(extractor: Extractor, dataset: ConceptDataset) -> set[str]:
    return {path.name for path in extractor.folder(dataset).glob("shard-*")}


def test_shares_make_the_shards_that_one_process_makes(
    tiny_model: Callable[..., Path],
    dataset: ConceptDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = ModelConfig.model_validate({"id": str(tiny_model("llama")), "dtype": "float32"})
    Extractor(model).extract(dataset)
    alone = shards(Extractor(model), dataset)
    assert len(alone) > 3

    monkeypatch.setenv("LLMPROBE_CACHE", str(tmp_path / "shared"))
    checks = []
    checked = extract.verified_plan

    def counted(*arguments: object) -> object:
        checks.append(1)
        return checked(*arguments)

    monkeypatch.setattr(extract, "verified_plan", counted)
    Extractor(model).extract_share(dataset, 1, 2)
    half = shards(Extractor(model), dataset)
    assert half < alone
    written = {path: path.stat().st_mtime_ns for path in Extractor(model).folder(dataset).iterdir()}
    assert Extractor(model).find(dataset) is None
    for share in (1, 0, 0):
        Extractor(model).extract_share(dataset, share, 2)
    assert shards(Extractor(model), dataset) == alone
    assert Extractor(model).find(dataset) is not None
    # The first of them decides how texts are run, and nothing is made twice.
    assert len(checks) == 1
    for path, when in written.items():
        assert path.name == Apart.WAY or path.stat().st_mtime_ns == when


def test_a_share_is_the_same_whatever_is_done(tmp_path: Path) -> None:
    work = {i: 1 + i % 3 for i in range(10)}
    first = Apart(tmp_path, 0, 2).share(work)
    assert Apart(tmp_path, 0, 2).share(work, done=[0, 1, 2, 3]) == [i for i in first if i > 3]
    assert sorted(first + Apart(tmp_path, 1, 2).share(work)) == list(work)
