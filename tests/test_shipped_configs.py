"""Each shipped config is valid, and can be estimated without internet access."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from llmprobe.cli.main import main
from llmprobe.config.load import load_config
from llmprobe.datasets.from_config import dataset_from_config
from llmprobe.ground.files import shipped

NAMES = sorted(path.stem for path in shipped("configs").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a network connection")

    monkeypatch.setattr("socket.socket.connect", refused)
    monkeypatch.setattr("subprocess.run", refused)
    monkeypatch.delenv("LLMPROBE_DATA", raising=False)


def test_there_are_runs_for_facts_reasoning_sizes_and_the_study() -> None:
    wanted = {
        "facts",
        "geometry_of_truth",
        "jin2024",
        "model_sizes",
        "quickstart",
        "reasoning_difficulty",
        "training_steps",
    }
    assert set(NAMES) >= wanted


@pytest.mark.parametrize("name", NAMES)
def test_each_is_valid_and_so_is_what_it_resolves_to(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", name]) == 0
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(capsys.readouterr().out)
    assert load_config(resolved) == load_config(name)


@pytest.mark.parametrize("name", NAMES)
def test_each_names_the_models_and_files_that_are_not_on_this_disk(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", name, "--dry-run", "--out", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    config = load_config(name)
    for model in config.models:
        [line] = [line for line in lines if line.startswith(f"{model.name}: ")]
        assert "B, by its name)" in line or "B to download)" in line
    published = [d.name for d in config.datasets if "/" in d.name]
    missing = [line for line in lines if "is not on this disk and would be downloaded first, from "
               in line]  # fmt: skip
    assert [line.split("'")[1] for line in missing] == published
    assert not (tmp_path / "run").exists()


def test_the_study_has_its_nine_models_and_nine_datasets() -> None:
    config = load_config("jin2024")
    assert len(config.models) == len(config.datasets) == 9
    assert config.extract.site == "post_attention_norm"


@pytest.mark.parametrize("name", NAMES)
def test_each_begins_by_saying_what_it_is_for(name: str) -> None:
    text = (shipped("configs") / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    assert yaml.safe_load(text)["name"] == name


def test_the_quickstart_asks_whether_a_probe_of_affirmed_sentences_reads_negated_ones() -> None:
    config = load_config("quickstart")
    capitals = dataset_from_config(config.datasets[0])
    assert capitals.fields is not None
    assert set(capitals.fields["form"].value_counts()) == {len(capitals) // 2}
    assert config.transfer is not None
    assert config.transfer.by == "form"
