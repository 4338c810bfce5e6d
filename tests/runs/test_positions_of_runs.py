"""A run that reads several positions has a curve of each, as a run of each alone has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from toy import write_config, write_table

import llmprobe
from llmprobe.cli.main import main
from llmprobe.config.load import load_config
from llmprobe.ground.errors import UserError
from llmprobe.results.folder import missing_curves, read_results
from llmprobe.results.results import Results
from llmprobe.results.trace import traces_of_run
from llmprobe.runs.compare import compare
from llmprobe.runs.pipeline import Run

PLACES = ["last", "mean:text"]
PROBE = {
    "folds": 2, "l2": 1.0, "permutations": 0, "description_length": False, "repeats": 1,
    "controls": ["majority", "token_embeddings", "random_weights"],
}  # fmt: skip


class Toy:
    """A folder with a config, and runs of it at several positions and at each alone."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, {"id": str(model), "dtype": "float32"}
        self.table = write_table(folder / "toy.csv")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LLMPROBE_CACHE", str(folder / "cache"))
            self.together = self.run("together", PLACES)
            self.extractions = len([*(folder / "cache" / "activations").iterdir()])
            self.alone = {place: self.run(place, place) for place in PLACES}

    def run(self, name: str, position: str | list[str]) -> Results:
        config = write_config(
            self.folder / f"{name}.yaml", self.model,
            {"path": str(self.table), "template": "it is said that {text}"},
            probe=PROBE, extract={"position": position}, report={"traces": 2},
        )  # fmt: skip
        out = self.folder / name
        Run(load_config(config), out).probe(extract=True)
        return read_results(out)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Toy:
    return Toy(tmp_path_factory.mktemp("places"), tiny_model("llama"))


def test_every_table_has_a_curve_of_each_position(toy: Toy) -> None:
    run = toy.together
    assert [curve.title for curve in run.curves] == [f"toy @ {place}" for place in PLACES]
    for table in (run.table, run.summary, run.predictions, run.rivals):
        assert list(dict.fromkeys(table["position"])) == PLACES
    assert {path.name for path in run.folder.glob("probes/*/*")} == {
        "toy@last.safetensors", "toy@mean-text.safetensors",
    }  # fmt: skip
    assert len(run.examples) == 40
    assert not [*missing_curves(run, load_config(run.folder / "config.yaml"))]


@pytest.mark.parametrize("place", PLACES)
def test_a_curve_is_that_of_a_run_at_its_position_alone(place: str, toy: Toy) -> None:
    together, alone = toy.together, toy.alone[place]

    def rows(table: pd.DataFrame) -> pd.DataFrame:
        clocks = [column for column in table if column.startswith("seconds")]
        own = table[table["position"] == place].drop(columns=clocks)
        return own.reset_index(drop=True)

    for name in ("table", "summary", "predictions", "rivals"):
        pd.testing.assert_frame_equal(
            rows(getattr(together, name)), rows(getattr(alone, name)), rtol=1e-3, atol=1e-4
        )
    (path,) = alone.folder.glob("probes/*/*")
    assert path.name == "toy.safetensors"


def test_positions_and_controls_are_extracted_once(toy: Toy) -> None:
    """Those of the model, of the untrained one, and the embeddings."""
    assert toy.extractions == 3


def test_examples_are_traced_at_each_position(toy: Toy) -> None:
    traces = traces_of_run(toy.together.folder)
    assert {trace.subject for trace in traces} == {"toy", "toy @ mean:text"}
    texts = [{trace.text for trace in traces if trace.position == place} for place in PLACES]
    assert texts[0] == texts[1]


def test_a_run_goes_on_with_what_it_has(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMPROBE_CACHE", str(toy.folder / "cache"))
    monkeypatch.setattr("llmprobe.runs.parts.probe", None)
    again = Run(load_config(toy.together.folder / "config.yaml"), toy.together.folder)
    again.probe(extract=True)


def test_a_trace_of_a_run_can_be_of_one_position(
    toy: Toy, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["trace", str(toy.together.folder), "--text", "coin is red one", "--out", str(tmp_path)]
    assert main([*words, "--position", "mean:text"]) == 0
    printed = capsys.readouterr().out
    assert " on toy @ mean:text: probability" in printed
    assert " on toy: " not in printed
    assert len([*tmp_path.glob("*toy@mean-text-*.json")]) == 1


def test_in_memory_positions_are_probed_one_after_the_other(toy: Toy) -> None:
    dataset = llmprobe.load_dataset(toy.table, text="text", template="it is said that {text}")
    model = load_config(toy.folder / "together.yaml").models[0]
    states = llmprobe.extract(model, dataset, position=PLACES, cache=False, progress=False)
    options = {key: value for key, value in PROBE.items() if key != "controls"}
    found = llmprobe.probe(states, controls=["majority"], progress=False, **options)
    assert list(found.summary["position"]) == PLACES
    np.testing.assert_allclose(found.table["accuracy"], toy.together.table["accuracy"], atol=1e-6)


def test_runs_that_share_a_position_are_compared_there(toy: Toy, tmp_path: Path) -> None:
    last = toy.alone["last"].folder
    compare([toy.together.folder, last], tmp_path / "both")
    assert len(read_results(tmp_path / "both").curves) == 2
    with pytest.raises(UserError, match=r"extract.position is last in last, mean:text in mean-te"):
        compare([toy.alone[place].folder for place in PLACES], tmp_path / "other")


def test_what_a_stopped_run_lacks_is_named_with_its_position(toy: Toy) -> None:
    run = toy.alone["last"]
    (said,) = missing_curves(run, load_config(toy.folder / "together.yaml"))
    assert "of 2 curves, it lacks tiny-llama on toy @ mean:text; run" in said
