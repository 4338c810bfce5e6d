"""``llmprobe score`` of many texts: in batches, from where it stopped, and no block too many."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llmprobe.cli.main import main
from llmprobe.monitors import scoring
from llmprobe.monitors.scoring import Scorer, score_file


@pytest.fixture
def scored_batches(monkeypatch: pytest.MonkeyPatch) -> list[range]:
    """The rows that are scored; the third batch is interrupted while there are two."""
    batches: list[range] = []
    score = scoring._score_some

    def score_some(reader, new, rows, *others):
        if len(batches) == 2:
            batches.clear()
            raise KeyboardInterrupt
        batches.append(rows)
        return score(reader, new, rows, *others)

    monkeypatch.setattr(scoring, "_score_some", score_some)
    return batches


def test_batches_are_scored_as_all_texts_together_are(probe: Path, table: Path) -> None:
    together, apart = (score_file(probe, table, label="label", batch=n) for n in (100, 7))
    np.testing.assert_allclose(apart.table["score"], together.table["score"], atol=1e-5)
    assert apart.summary == together.summary


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_was_scored_is_not_scored_again(
    probe: Path, table: Path, tmp_path: Path, scored_batches: list[range], suffix: str
) -> None:
    out, other = tmp_path / f"out{suffix}", tmp_path / f"other{suffix}"

    def score(out: Path, *more: str) -> int:
        words = ["--file", str(table), "--out", str(out), "--batch", "16", *more]
        return main(["score", str(probe), *words])

    assert score(out) == 130
    assert [*tmp_path.iterdir()] == [tmp_path / f".out{suffix}.scored"]
    assert score(out, "--label", "label") == 0
    assert scored_batches == [range(32, 40)]
    assert [*tmp_path.iterdir()] == [out]
    scored_batches[:] = []
    assert score(other) == 130
    assert score(other) == 0
    assert other.read_bytes() == out.read_bytes()


@pytest.mark.parametrize("changed", [["--layer", "1"], ["--batch", "15"], ["--template", "{text}"]])
def test_what_was_scored_in_another_way_is_scored_again(
    probe: Path, table: Path, tmp_path: Path, scored_batches: list[range], changed: list[str]
) -> None:
    words = ["score", str(probe), "--file", str(table), "--out", str(tmp_path / "out.csv"),
             "--layer", "2", "--batch", "16"]  # fmt: skip
    assert main(words) == 130
    scored_batches.append(range(0))  # The next interruption comes after one batch.
    assert main([*words, *changed]) == 130
    scores = []
    for path in (tmp_path / "out.csv", tmp_path / "new.csv"):
        words[5] = str(path)
        while main([*words, *changed]) == 130:
            pass
        scores.append(pd.read_csv(path)["score"])
    assert scores[0].equals(scores[1])


def test_a_kept_batch_that_is_damaged_is_scored_again(
    probe: Path, table: Path, tmp_path: Path, scored_batches: list[range]
) -> None:
    out = tmp_path / "out.csv"
    words = ["score", str(probe), "--file", str(table), "--out", str(out), "--batch", "16"]
    assert main(words) == 130
    first = min((tmp_path / ".out.csv.scored").glob("*-0-16.npy"))
    first.write_bytes(first.read_bytes()[:50])
    assert main(words) == 0
    assert scored_batches == [range(16), range(32, 40)]


def test_no_block_above_the_probes_layer_is_run(probe: Path, table: Path) -> None:
    scorer = Scorer(probe, layer=1)
    scorer.reader.require_own_model()
    run: list[int] = []
    for number, block in enumerate(scorer.reader.extractor.model.blocks, start=1):
        block.register_forward_hook(lambda *_, number=number: run.append(number))
    scorer.score(pd.read_csv(table), "toy", "toy", batch=16)
    assert set(run) == {1}


def test_a_batch_of_no_texts_is_refused(probe: Path, table: Path, capsys) -> None:
    assert main(["score", str(probe), "--file", str(table), "--batch", "0"]) == 2
    assert "--batch 0: should be 1 or more" in capsys.readouterr().err
