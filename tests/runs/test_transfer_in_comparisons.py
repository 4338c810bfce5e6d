"""A dataset that a comparison renames is renamed wherever a transfer names it."""

from __future__ import annotations

import pandas as pd

from llmprobe.config.schema import RunConfig
from llmprobe.results.columns import CURVE
from llmprobe.results.results import Results
from llmprobe.runs.comparable import ComparedRun
from llmprobe.runs.side_by_side import merged


def _member(name: str, **worst: str) -> ComparedRun:
    cells = pd.DataFrame(
        {
            "model": "m", "position": "last", "train": ["a", "a:x"], "test": ["b", "ab"],
            "train_dataset": ["a", "a"], "test_dataset": ["b", "ab"],
        }
    )  # fmt: skip
    curves = pd.DataFrame({**{key: ["m"] for key in CURVE}, "dataset": ["a"], **worst})
    environment = {"models": [], "datasets": [{"name": "a"}]}
    results = Results(curves, curves, pd.DataFrame(), transfer=cells, environment=environment)
    config = RunConfig.model_construct()
    return ComparedRun(name, config, results, {"dataset": {"a": {}}, "model": {"m": {}}})


def test_a_dataset_that_is_renamed_is_renamed_in_what_transfers() -> None:
    run = _member("one", worst_transfer_train="a:x").renamed("dataset", {"a": "a (new)"}).run
    assert [*run.transfer["train"]] == ["a (new)", "a (new):x"]
    assert [*run.transfer["test"]] == ["b", "ab"]
    assert [*run.transfer["train_dataset"]] == ["a (new)", "a (new)"]
    assert [*run.summary["worst_transfer_train"]] == ["a (new):x"]


def test_cells_of_both_runs_stand_in_a_comparison() -> None:
    members = [_member("one"), _member("two").renamed("dataset", {"a": "a (new)"})]
    assert [*merged(members)["transfer"]["train"]] == ["a", "a:x", "a (new)", "a (new):x"]
