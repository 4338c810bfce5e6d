"""A trace comes back from its JSON as it was."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from llmprobe.ground.errors import UserError
from llmprobe.results.trace import Trace

TRACE = Trace(
    text="Lima is in Peru.",
    tokens=["Lima", " is", " in", " Peru", "."],
    layers=[1, 2, 3],
    scores=np.random.default_rng(0).random((3, 5)),
    model="tiny",
    dataset="geometry_of_truth/cities",
    best_layer=2,
    label="1",
    probe="0123456789abcdef",
    position="last",
)


@pytest.mark.parametrize("label", ["1", None])
def test_a_trace_comes_back_from_its_json_with_four_digits(label: str | None) -> None:
    trace = replace(TRACE, label=label)
    again = Trace.from_json(json.loads(json.dumps(trace.to_json())))
    assert {**vars(again), "scores": 0} == {**vars(trace), "scores": 0}
    np.testing.assert_array_equal(again.scores, trace.scores.round(4))


def test_files_are_named_after_model_dataset_and_text() -> None:
    assert TRACE.file_name.startswith("tiny-geometry_of_truth-cities-")
    others = {TRACE.file_name}
    for change in ({"text": "Lima is in Peru!"}, {"model": "large"}, {"dataset": "cities"}):
        others.add(replace(TRACE, **change).file_name)
    assert len(others) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"scores": [[0.5, 0.5]]},
        {"scores": [["x"]]},
        {"scores": None},
        {"layers": [1, 2]},
        {"best_layer": 9},
        {"more": 1},
    ],
)
def test_what_is_no_trace_is_called_so(change: dict[str, object]) -> None:
    with pytest.raises(UserError, match="not a trace: "):
        Trace.from_json({**TRACE.to_json(), **change})
    with pytest.raises(UserError, match="not a trace: "):
        Trace.from_json({})
