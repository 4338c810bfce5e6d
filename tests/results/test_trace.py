"""Traces come back from their files as they were."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmprobe.ground.errors import UserError
from llmprobe.results.trace import Trace, read_traces, write_traces

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


def require_equal(trace: Trace, expected: Trace) -> None:
    """Scores up to the four digits that a file keeps."""
    assert {**vars(trace), "scores": 0} == {**vars(expected), "scores": 0}
    np.testing.assert_array_equal(trace.scores, expected.scores.round(4))


def test_traces_come_back_from_their_file_with_four_digits(tmp_path: Path) -> None:
    written = [TRACE, replace(TRACE, label=None, title="label 3.5, answered 3")]
    write_traces(tmp_path / "all.json", written)
    for trace, expected in zip(read_traces(tmp_path / "all.json"), written, strict=True):
        require_equal(trace, expected)


def test_a_folder_gives_its_traces_by_name(tmp_path: Path) -> None:
    for name, label in (("b", "1"), ("a", None)):
        write_traces(tmp_path / f"{name}.json", replace(TRACE, label=label))
    (tmp_path / "a.html").write_text("no JSON")
    assert [trace.label for trace in read_traces(tmp_path)] == [None, "1"]


def test_examples_of_version_0_1_0_have_the_title_beside_the_trace(tmp_path: Path) -> None:
    old = TRACE.to_json()
    del old["title"]
    (tmp_path / "old.json").write_text(json.dumps([{"title": "label 1", "trace": old}, old]))
    titled, untitled = read_traces(tmp_path / "old.json")
    require_equal(titled, replace(TRACE, title="label 1"))
    require_equal(untitled, TRACE)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"3", b"[3]", b"[[]]", b"null", b'{"text": "x"}', b'["trace"]']
)
def test_a_file_that_is_missing_or_holds_no_traces_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "traces.json"
    with pytest.raises(UserError, match=rf"{path}: missing or damaged \("):
        read_traces(path)
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path}: missing or damaged \("):
        read_traces(path)


def test_files_are_named_after_model_dataset_and_text() -> None:
    assert TRACE.file_name.startswith("tiny-geometry_of_truth-cities-")
    others = {TRACE.file_name}
    for change in (
        {"text": "Lima is in Peru!"}, {"model": "large"}, {"dataset": "cities"},
        {"position": "mean"}, {"position": "span:city"},
    ):  # fmt: skip
        others.add(replace(TRACE, **change).file_name)
    assert len(others) == 6
    assert replace(TRACE, position="span:city").subject.endswith("cities @ span:city")


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
