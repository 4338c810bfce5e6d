"""A run is written to trackers when it is done, and a tracker that fails takes nothing with it."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from synthetic_runs import capitals, probed_run
from toy import write_config, write_table

import llmprobe
from llmprobe.api import run_folders
from llmprobe.cli.main import main
from llmprobe.ground.errors import UserError
from llmprobe.reporting.trackers import log_run, metrics_of, require_trackers
from llmprobe.results.folder import read_results

FAKE = '''
"""Has the functions of trackio and wandb that are used, and remembers what they were given."""
calls, fails = {}, False

def init(**options):
    print("see the dashboard at ...")
    calls["init"] = options

def log(values):
    calls["log"] = values

def finish():
    calls["finish"] = True
    if fails:
        raise OSError("the server is away")

class Table:
    def __init__(self, *, dataframe):
        self.dataframe = dataframe

class Image:
    def __init__(self, path):
        self.path = path

class Html:
    def __init__(self, text, inject):
        self.text = text
'''


@pytest.fixture
def trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A package of that name in the place of the real one."""
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "trackio.py").write_text(FAKE)
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    monkeypatch.syspath_prepend(folder)
    yield importlib.import_module("trackio")
    del sys.modules["trackio"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with figures and a page, of which the words are short."""
    out = tmp_path_factory.mktemp("done") / "run"
    run = probed_run(out, {"m": 3}, [capitals()])
    run.heatmap(out / "figures" / "heatmap_accuracy.png")
    (out / "report.html").write_text("<p>the page</p>")
    return out


def test_the_tracker_has_summary_figures_and_page(
    done: Path, trackio: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    log_run(done, ["trackio"])
    assert trackio.calls["finish"]
    assert trackio.calls["init"]["project"] == "llmprobe"
    assert trackio.calls["init"]["name"] == "trial"
    assert trackio.calls["init"]["config"]["models"] == "['m']"
    logged = trackio.calls["log"]
    run = read_results(done)
    assert logged["m/capitals/peak_score"] == run.curves[0].score
    assert logged["m/capitals/peak_layer"] == run.curves[0].layer
    assert logged["summary"].dataframe["dataset"].tolist() == ["capitals"]
    assert Path(logged["figures/heatmap_accuracy"].path).is_file()
    assert logged["report"].text == "<p>the page</p>"
    # Standard output is for the summary.
    assert "dashboard" not in capsys.readouterr().out


def test_names_of_metrics_are_ones_that_trackers_take(done: Path) -> None:
    run = read_results(done)
    run.summary["model"] = run.table["model"] = "a:b@c%é"
    names = dict(metrics_of(run))
    assert "a-b-c-é/capitals/peak_score" in names


def test_a_tracker_that_fails_loses_nothing(
    done: Path, trackio: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    trackio.fails = True
    before = {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}
    log_run(done, ["trackio"])
    assert "trackio: not logged (the server is away)" in caplog.text
    assert before == {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}


def test_one_that_is_missing_is_said_before_the_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()  # What wandb leaves in a working folder.
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    importlib.invalidate_caches()
    for name in ("trackio", "wandb", "mlflow"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        with pytest.raises(UserError, match=rf"{name} is not installed: pip install .*\[{name}\]"):
            require_trackers([name])


def test_a_run_is_logged_when_it_is_done_and_kept_whatever_comes_of_that(
    tmp_path: Path,
    tiny_model: Callable[..., Path],
    trackio: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    out, table = tmp_path / "run", write_table(tmp_path / "toy.csv")
    report = {"traces": 0, "log_to": "trackio"}
    config = write_config(tmp_path / "toy.yaml", tiny_model(), table, report=report)
    trackio.fails = True
    caplog.set_level(logging.WARNING)
    assert main(["run", str(config), "--out", str(out)]) == 0
    assert "trackio: not logged (the server is away)" in caplog.text
    assert trackio.calls["log"]["report"].text == (out / "report.html").read_text("utf-8")
    assert trackio.calls["log"].keys() >= {"figures/heatmap_accuracy", "figures/curves"}
    trackio.calls.clear()
    monkeypatch.setattr(run_folders, "report", lambda _: None)  # It is drawn.
    results = llmprobe.run(config, out=out)
    assert trackio.calls["log"]["summary"].dataframe["dataset"].tolist() == ["toy"]
    assert len(results.curves) == 1
    assert main(["validate", str(config), "--set", "report.log_to=tensorboard"]) == 2


def test_mlflow_has_it_in_a_folder(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    try:
        log_run(done, ["mlflow"])
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name("llmprobe")
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.data.metrics["m/capitals/peak_score"] == read_results(done).curves[0].score
        assert run.data.params["models"] == "['m']"
        names = {one.path for one in client.list_artifacts(run.info.run_id)}
        assert {"summary.csv", "report.html", "figures"} <= names
    finally:
        mlflow.set_tracking_uri(None)


def test_trackio_has_it_on_disk(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    trackio = pytest.importorskip("trackio")
    log_run(done, ["trackio"])
    (run,) = trackio.Api().runs("llmprobe")
    assert run.name == "trial"
    assert any(path.suffix == ".png" for path in (tmp_path / "store").rglob("*"))
