"""Files of earlier versions are read, or named in a message and made again.

Each folder of ``old_files`` was made by the version and commit in its name.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import llmprobe
from llmprobe.cli.main import main
from llmprobe.config.schema import ModelConfig
from llmprobe.results.folder import read_results

OLD_FILES = Path(__file__).parent / "old_files"
VERSIONS = sorted(folder.name for folder in OLD_FILES.iterdir() if folder.is_dir())


@pytest.fixture(params=VERSIONS)
def old(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what one version left, its cache in use."""
    copy = shutil.copytree(OLD_FILES / request.param, tmp_path / "old")
    monkeypatch.setenv("LLMPROBE_CACHE", str(copy / "cache"))
    return Path(copy)


@pytest.fixture
def expected(old: Path) -> dict[str, np.ndarray]:
    """States of the dataset "three", and what that version's probe made of them."""
    with np.load(old / "three.npz") as file:
        return dict(file)


def of_layers(arrays: dict[str, np.ndarray], name: str) -> dict[int, np.ndarray]:
    return {
        int(key.removeprefix(f"{name}.")): array
        for key, array in arrays.items()
        if key.startswith(f"{name}.")
    }


def files(folder: Path) -> dict[Path, bytes]:
    """The contents of a folder, without locks."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: path.read_bytes() for path in found}


def require_helpful(notes: list[str]) -> None:
    """Nothing is lacking but columns; a note says that another version made them, and the cure."""
    for note in notes:
        assert "\n" not in note
        assert re.search(r"another version of llmprobe made it, so .* not known; run the", note), (
            note
        )
        assert "run the config again" in note


def report(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """What is printed, and the page."""
    assert main(["report", str(folder)]) == 0
    assert list((folder / "figures").glob("heatmap_accuracy.*"))
    return capsys.readouterr().out, (folder / "report.html").read_text(encoding="utf-8")


def test_an_old_run_has_the_numbers_that_it_had(old: Path) -> None:
    run = read_results(old / "run")
    require_helpful(list(run.notes))
    for name in ("results", "summary", "learning_curve"):
        written = pd.read_csv(old / "run" / f"{name}.csv")
        table = getattr(run, "table" if name == "results" else name)
        pd.testing.assert_frame_equal(table[list(written)], written, check_dtype=False)
    assert [len(curve.classes) for curve in run.curves] == [2, 3]
    assert all(curve.permutations for curve in run.curves)
    assert len(run.predictions) == 2 * 3 * 24
    assert set(run.examples["dataset"]) == {"two", "three"}
    assert [model["name"] for model in run.environment["models"]] == ["tiny"]


def test_an_old_run_is_drawn_with_its_texts_and_traces(
    old: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    printed, page = report(old / "run", capsys)
    assert re.search(r"two +24 +0.50 +1.00 +0.\d\d \[0.60, 0.94\] +2/2 +0.92", printed)
    assert re.search(r"three +24 +0.33 +0.96 +0.46 \[0.27, 0.66\] +2/2 +0.67", printed)
    assert "coin of blue three" in page  # an example of the dataset
    assert "Lima is red one" in page  # a text that was traced after the run
    warnings = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    require_helpful(warnings)


def test_an_old_comparison_is_drawn_with_its_differences(
    old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed, page = report(old / "comparison", capsys)
    assert re.search(r"tiny → other +-0.12 \[-0.32, \+0.05\] +0.250", printed)
    assert re.search(r"tiny → other +-0.12 \[-0.30, \+0.06\] +0.375", printed)
    assert "not shown" not in printed
    assert "/tmp/old-files/run-other" in page


def test_an_old_experiment_is_drawn_with_its_findings(
    old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed, page = report(old / "sanity-xor", capsys)
    assert "1.16·ReLU(0.86x − 0.86y) + 1.14·ReLU(−0.88x + 0.88y)" in printed
    assert re.search(r"untrained +0.43 +0.43 +0.70 +0.54", printed)
    assert re.search(r"trained +0.43 +0.47 +1.00 +1.00", printed)
    assert "21 of 100 seeds learn" in page


def test_an_old_probe_gives_the_numbers_that_it_gave(
    old: Path, expected: dict[str, np.ndarray]
) -> None:
    probe = llmprobe.load_probe(old / "run" / "probes" / "tiny" / "three.safetensors")
    states = of_layers(expected, "states")
    for layer, probabilities in of_layers(expected, "probabilities").items():
        np.testing.assert_allclose(probe.predict_proba(states[layer], layer), probabilities)
    assert probe.layers == sorted(states)
    assert probe.best_layer == expected["best_layer"]
    assert probe.predict(states[probe.best_layer]).tolist() == expected["predicted"].tolist()


def test_an_old_probe_reads_new_texts_as_it_did(old: Path, expected: dict[str, np.ndarray]) -> None:
    probe = old / "run" / "probes" / "tiny" / "three.safetensors"
    (trace,) = llmprobe.trace(probe, "Lima of red one", model=old / "model")
    np.testing.assert_allclose(trace.scores, expected["trace"], atol=1e-4)


def test_cached_states_are_found_or_extracted_again_beside_them(
    old: Path, expected: dict[str, np.ndarray]
) -> None:
    cached = files(old / "cache")
    model = ModelConfig(id=str(old / "model"), name="tiny", dtype="float32")
    dataset = llmprobe.load_dataset(old / "three.csv")
    activations = llmprobe.extract(model, dataset, progress=False)
    for layer, states in of_layers(expected, "states").items():
        np.testing.assert_allclose(activations.layer(layer), states, atol=1e-5)
    afterwards = files(old / "cache")
    assert cached.items() <= afterwards.items()
    assert activations.embeddings is not None
    folders = {path.parent for path in afterwards} - {activations.embeddings.store.folder}
    assert len(folders) == 1 or activations.store.folder not in {path.parent for path in cached}


def test_a_stopped_old_run_goes_on_with_its_parts_or_probes_them_again(
    old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = pd.read_csv(old / "run" / "results.csv")
    parts = files(old / "run" / "parts")
    config = old / "config.yaml"
    assert main(["run", str(config), "--out", str(old / "run"), "--set", "report.html=false"]) == 0
    assert re.search(r"two +24 +0.50 +1.00 +0.\d\d", capsys.readouterr().out)
    after = pd.read_csv(old / "run" / "results.csv")
    keys = ["model", "dataset", "layer"]
    assert after[keys].equals(before[keys])
    # Folds are repeated now; the first ones are those of then.
    first = pd.read_parquet(old / "run" / "predictions.parquet").query("repeat == 0")
    right = first.assign(right=first["label"] == first["predicted"]).groupby(keys)["right"].mean()
    stated = before.set_index(keys)["accuracy"].sort_index()
    np.testing.assert_allclose(right.sort_index(), stated, atol=1.5 / 24)
    names = [path.parent.name for path in files(old / "run" / "parts")]
    assert {name.rsplit("-", 1)[0] for name in names} == {"tiny-two", "tiny-three"}
    assert parts.items() <= files(old / "run" / "parts").items()
