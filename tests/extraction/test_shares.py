"""Processes that cannot talk to each other divide an extraction, in any order, more than once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from llmprobe.config.schema import ModelConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction import estimate, extract, plan
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.processes import Apart
from llmprobe.ground.files import write_first
from llmprobe.ground.lease import TOKENS, lease

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


def test_a_share_does_not_wait_for_who_waits_for_it(
    tiny_model: Callable[..., Path], dataset: ConceptDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelConfig.model_validate({"id": str(tiny_model("llama")), "dtype": "float32"})
    folder = Extractor(model).folder(dataset)
    folder.mkdir(parents=True)
    with lease(folder), monkeypatch.context() as patch:
        # A job that was submitted before this process began does not know its lease.
        patch.delenv(TOKENS)
        work = Thread(target=Extractor(model).extract_share, args=(dataset, 0, 2), daemon=True)
        work.start()
        work.join(120)
        assert not work.is_alive()
    assert shards(Extractor(model), dataset)


def test_how_an_extraction_is_divided_does_not_hang_on_how_fast_the_machine_is(
    tiny_model: Callable[..., Path], dataset: ConceptDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelConfig.model_validate({"id": str(tiny_model("llama")), "dtype": "float32"})
    estimates = []
    for speed in (1e9, 1e12):
        monkeypatch.setattr(estimate, "matmul_speed", lambda *_, speed=speed: speed)
        estimates.append(Extractor(model).estimate(dataset))
    slow, fast = estimates
    assert slow.seconds > 100 * fast.seconds
    assert slow.nominal_seconds == fast.nominal_seconds > 0
    assert slow.shards == fast.shards


def test_the_first_way_counts_and_is_whole(tmp_path: Path) -> None:
    ways = [Apart(tmp_path, i, 2).checked_way(lambda i=i: (f"way {i}", 0.5)) for i in (0, 1)]
    assert ways == [("way 0", 0.5)] * 2
    write_first(tmp_path / Apart.WAY, "another")
    assert Apart(tmp_path, 1, 2).checked_way(lambda: ("way 1", 0.5)) == ways[0]
    assert [path.name for path in tmp_path.iterdir()] == [Apart.WAY]


def test_a_share_is_the_same_whatever_is_done(tmp_path: Path) -> None:
    work = {i: 1 + i % 3 for i in range(10)}
    first = Apart(tmp_path, 0, 2).share(work)
    assert Apart(tmp_path, 0, 2).share(work, done=[0, 1, 2, 3]) == [i for i in first if i > 3]
    assert sorted(first + Apart(tmp_path, 1, 2).share(work)) == list(work)
