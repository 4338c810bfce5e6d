"""The examples that a page follows token by token tell something, and no probe saw them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import toy

from llmprobe.config.load import load_config
from llmprobe.monitors.example_traces import examples_to_trace
from llmprobe.monitors.new_texts import ReadingOptions
from llmprobe.monitors.tracing import probes_of_run, trace_probes
from llmprobe.results.results import Results
from llmprobe.results.saved_probe import SavedProbe
from llmprobe.results.trace import Trace
from llmprobe.runs.pipeline import Run

EXAMPLES = 60


def results(classes: tuple[str, ...]) -> Results:
    """At layer 1, the best one, every third example is answered wrongly; at layer 0 all are."""
    rng = np.random.default_rng(0)
    n, C = EXAMPLES, len(classes)
    rows = pd.DataFrame({"example": np.tile(np.arange(n), 2), "layer": np.repeat([0, 1], n)})
    rows["fold"] = rows["example"] % 5
    if classes:
        truth = rng.integers(0, C, 2 * n)
        said = np.where((rows["example"] % 3 == 0) | (rows["layer"] == 0), (truth + 1) % C, truth)
        top = rng.uniform(0.5, 1, 2 * n)
        rows["label"], rows["predicted"] = np.array(classes)[truth], np.array(classes)[said]
        rows["score"] = np.where(said == 1, top, 1 - top) if C == 2 else top
    else:
        rows["score"] = rng.normal(size=2 * n)
        rows["label"] = (rows["score"] + rng.normal(size=2 * n)).astype(str)
        rows["predicted"] = rows["score"].astype(str)
    probe = SavedProbe({}, {}, classes, {}, {})
    empty, summary = pd.DataFrame(), pd.DataFrame({"peak_layer": [1]})
    return Results(empty, summary, rows, empty, (probe,), (probe,))


def unseen(found: Results) -> pd.DataFrame:
    """Examples of fold 0 at the best layer, by their numbers."""
    table = found.predictions
    return table[(table["layer"] == 1) & (table["fold"] == 0)].set_index("example")


@pytest.mark.parametrize("classes", [("no", "yes"), ("a", "b", "c"), ()])
@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_they_are_of_the_fold_that_fold_0_probes_did_not_see_and_not_too_many(
    classes: tuple[str, ...], most: int
) -> None:
    found = results(classes)
    chosen = examples_to_trace(found, most)
    assert 1 <= len(chosen) == len(set(chosen)) <= most
    assert set(chosen) <= set(unseen(found).index)


@pytest.mark.parametrize("classes", [("no", "yes"), ("a", "b", "c")])
def test_each_class_has_its_surest_example_and_then_come_those_most_surely_wrong(
    classes: tuple[str, ...],
) -> None:
    found = results(classes)
    *best, worst = examples_to_trace(found, len(classes) + 1)
    table = unseen(found)
    sure = (table["score"] - 0.5).abs() if len(classes) == 2 else table["score"]
    right = table["predicted"] == table["label"]
    assert worst == sure[~right].idxmax()
    assert best == [sure[right & (table["label"] == name)].idxmax() for name in classes]


def test_of_numbers_the_best_predicted_come_first_and_then_the_worst() -> None:
    found = results(())
    table = unseen(found)
    error = (table["score"] - table["label"].astype(float)).abs().sort_values()
    assert examples_to_trace(found, 3) == [*error.index[:2], error.index[-1]]


def test_of_few_numbers_each_is_there_once() -> None:
    found = results(())
    few = replace(found, predictions=found.predictions[found.predictions["example"] < 10])
    assert sorted(examples_to_trace(few, 50)) == [0, 5]


def test_labels_are_called_by_name_when_a_run_is_given_other_names(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    table = toy.write_table(tmp_path / "set.csv")
    for names in ({"0": "blue", "1": "red"}, {"0": "cold", "1": "warm"}):
        dataset = {"path": str(table), "classes": names}
        config = load_config(toy.write_config(tmp_path / "run.yaml", tiny_model(), dataset))
        Run(config, tmp_path / "run").probe(extract=True)
        made = json.loads((tmp_path / "run" / "example_traces.json").read_text())
        assert {one["label"] for one in made} == {names["1"]}
        assert all(set(names.values()) & set(one["title"].split()) for one in made)
    (again,) = {trace.label for trace in new_traces(tmp_path / "run")}
    assert again == "warm"


def new_traces(run: Path) -> list[Trace]:
    """What saved probes of a run say at the tokens of a new text."""
    return [*trace_probes(probes_of_run(run), ["coin is red one"], ReadingOptions())]


def titles(run: Path) -> list[str]:
    return [one["title"] for one in json.loads((run / "example_traces.json").read_text())]


def test_probing_again_keeps_the_traces_of_a_run(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    table = toy.write_table(tmp_path / "set.csv")
    config = load_config(toy.write_config(tmp_path / "run.yaml", tiny_model(), table))
    Run(config, tmp_path / "run").probe(extract=True)
    traced = titles(tmp_path / "run")
    assert traced
    Run(config, tmp_path / "run").probe()
    assert titles(tmp_path / "run") == traced
