"""``llmprobe sanity`` with wrong input: exit code 2, one sentence, and nothing written or lost."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from small_images import NAMES, small_images

from llmprobe.cli.main import main
from llmprobe.ground.errors import UserError
from llmprobe.results.folder import read_results
from llmprobe.sanity import experiments, image_networks
from llmprobe.sanity.config import MnistConfig
from llmprobe.sanity.image_findings import image_findings
from llmprobe.sanity.images import _images, settled

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = NAMES


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


Fails = Callable[..., str]


@pytest.fixture(autouse=True)
def _in_a_folder_without_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LLMPROBE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """``fails(words, said, …)``: the command ends with 2 and one line that has all of ``said``."""

    def run(*words: str | Path, said: tuple[str, ...] | str) -> str:
        capsys.readouterr()
        try:
            code: int | str | None = main([str(word) for word in words])
        except SystemExit as end:  # argparse shows the usage above its sentence.
            code = end.code
        out, error = capsys.readouterr()
        assert (code, out) == (2, "")
        line = error.splitlines()[-1]
        assert error == f"{line}\n" or error.startswith("usage: ")
        for part in (said,) if isinstance(said, str) else said:
            assert part in line
        return line

    return run


def emptied(file: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / file).write_bytes(b"")


def cut(file: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:-1])


BAD_FOLDERS: list[tuple[Callable[[Path], Any], str]] = [
    (lambda f: (f / TEST_LABELS).unlink(), f"no file {TEST_LABELS}"),
    (cut(TRAIN_IMAGES), f"{TRAIN_IMAGES}: cannot be read as an IDX file of images, which begins"),
    (emptied(TEST_IMAGES), f"{TEST_IMAGES}: cannot be read as an IDX file"),
    (
        lambda f: (f / TRAIN_LABELS).write_bytes(b"PK\3\4zip"),
        "which begins with 00 00 08 01: it begins with 50 4b",
    ),
    (
        lambda f: (f / TRAIN_LABELS).write_bytes((f / TRAIN_IMAGES).read_bytes()),
        f"{TRAIN_LABELS}: cannot be read as an IDX file of labels",
    ),
    (
        lambda f: (f / TRAIN_LABELS).write_bytes((f / TEST_LABELS).read_bytes()),
        "30 training images but 24 labels",
    ),
]


@pytest.mark.parametrize(("damage", "said"), BAD_FOLDERS)
def test_a_bad_folder_of_images_is_refused_and_nothing_is_written(
    tmp_path: Path, fails: Fails, damage: Callable[[Path], Any], said: str
) -> None:
    folder = small_images(tmp_path / "own")
    damage(folder)
    fails("sanity", "mnist", "--data", "own", "--out", "new", said=(str(folder), said))
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"classes": (3,)}, "every training label is 3; a probe needs at least two classes"),
        ({"side": 7}, "images of 7 × 7 pixels; the network needs 8 or more on each side"),
        ({"train": 11}, "own: class 2 has 3 of the 11 training images"),
        ({"test": 19}, "own: 19 test images; 20 or more are needed"),
    ],
)
@pytest.mark.parametrize("network", ["convnet", "bypass"])
def test_images_that_cannot_be_probed_are_refused_before_the_folder_is_made(
    tmp_path: Path, fails: Fails, made: dict[str, Any], said: str, network: str
) -> None:
    small_images(tmp_path / "own", **made)
    fails("sanity", "mnist", "--data", "own", "--network", network, "--out", "new", said=said)
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("mnist --data none", "none: no such folder"),
        ("mnist --data mnits", "did you mean 'mnist'?"),
        ("mnist --data file", "file: is a file; the folder with the four IDX files was expected"),
        ("mnist --data=", "data: '' is not allowed"),
        ("mnist --device nonsense", "--device 'nonsense' is no device; it should be auto, cpu"),
        ("mnist --device cuda:99", "--device 'cuda:99' cannot be used here"),
        ("mnist --seed=-1", "seed: -1 is not allowed: should be greater than or equal to 0"),
        ("mnist --seed one", "argument --seed: invalid int value: 'one'"),
        ("mnist --network deep", "argument --network: invalid choice: 'deep'"),
        ("mnist --network bypass --quick", "no quick form of the network bypass; leave out"),
        ("mnist --epochs 3", "unrecognized arguments: --epochs 3"),
        ("xor --quick", "unrecognized arguments: --quick"),
        ("iris", "invalid choice: 'iris' (choose from"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_is_written(
    tmp_path: Path, fails: Fails, words: str, said: str
) -> None:
    Path("file").touch()
    fails("sanity", *words.split(), said=said)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_device_is_refused_before_the_images_are_looked_for(
    monkeypatch: pytest.MonkeyPatch, fails: Fails
) -> None:
    monkeypatch.setattr(experiments, "load_images", lambda _: pytest.fail("were looked for"))
    fails("sanity", "mnist", "--device", "nonsense", said="--device 'nonsense'")


@pytest.mark.parametrize("experiment", ["xor", "mnist", "mnist --network bypass"])
@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: Fails,
    experiment: str,
    place: str,
) -> None:
    for work in ("train", "probe_network"):
        monkeypatch.setattr(image_networks, work, lambda *_, **__: pytest.fail("worked"))
    small_images(tmp_path / "own")
    Path("file").write_text("mine")
    data = ["--data", "own"] if "mnist" in experiment else []
    fails("sanity", *experiment.split(), *data, "--out", place, said=(f"--out {place}: cannot be",))
    assert Path("file").read_text() == "mine"


@pytest.mark.parametrize("data", ["mnist", "lab/pictures"])
def test_what_only_the_hub_has_is_refused_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails, data: str
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "empty")
    said = (data, "not on this disk", "HF_HUB_OFFLINE", "--data FOLDER", "LLMPROBE_DATA")
    fails("sanity", "mnist", "--data", data, "--out", "new", said=said)
    assert not Path("new").exists()


@pytest.mark.parametrize("data", ["auto", "mnist"])
def test_an_incomplete_mnist_of_the_users_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails, data: str
) -> None:
    (small_images(tmp_path / "mine" / "mnist") / TEST_IMAGES).unlink()
    monkeypatch.setenv("LLMPROBE_DATA", str(tmp_path / "mine"))
    fails("sanity", "mnist", "--data", data, said=("mine/mnist: no file t10k-images",))


def test_class_numbers_that_would_fill_the_memory_are_refused() -> None:
    # Labels of IDX files end at 255, those of the Hub do not.
    half = np.zeros((2, 8, 8), np.uint8), np.array([1, 10**9])
    with pytest.raises(UserError, match="training label 1000000000; class numbers from 0 to 999 "):
        _images("x", [*half, *half], "", "")


@pytest.mark.parametrize("network", ["convnet", "bypass"])
@pytest.mark.usefixtures("cheap")
def test_a_network_has_an_output_for_each_class(tmp_path: Path, network: str) -> None:
    folder = small_images(tmp_path / "letters", classes=(1, 12, 25))
    experiments.run(MnistConfig(data=str(folder), network=network), tmp_path / "new")
    results = pd.read_parquet("new/results.parquet")
    assert set(results["n_classes"]) == {3}
    predicted = pd.read_parquet("new/predictions.parquet")["predicted"]
    assert set(predicted) <= {"1", "12", "25"}


@pytest.mark.usefixtures("cheap", "no_report")
def test_the_command_on_the_page_does_the_same_experiment_from_anywhere(
    done: Path,
) -> None:
    config = MnistConfig(data=str(done / "own"), quick=True)
    typed = experiments.command(config, done / "convnet")
    page = (done / "convnet" / "report.html").read_text(encoding="utf-8")
    assert typed.replace("'", "&#39;") in page
    program, *words = shlex.split(typed)
    words[-1] = "again"
    assert program == "llmprobe"
    assert main(words) == 0
    again, before = (
        pd.read_parquet(out / "results.parquet") for out in (Path("again"), done / "convnet")
    )
    assert again["accuracy"].equals(before["accuracy"])
    assert yaml.safe_load(Path("again/config.yaml").read_text()) == config.model_dump(
        exclude_none=True
    )


def test_a_command_has_all_that_was_asked_for_and_quotes_it() -> None:
    config = MnistConfig(data="my own", quick=True, device="cpu", seed=7)
    assert experiments.command(config, Path("a run")) == (
        "llmprobe sanity mnist --data 'my own' --quick --device cpu --seed 7 --out 'a run'"
    )


def test_what_auto_stands_for_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settled("auto") == "digits"
    (tmp_path / "mnist").mkdir()
    monkeypatch.setenv("LLMPROBE_DATA", str(tmp_path))
    assert settled("auto") == "mnist"
    assert settled("mnist") == "mnist"
    assert settled("./mnist") == str(tmp_path / "mnist")
    assert settled("lab/pictures") == "lab/pictures"


@pytest.mark.usefixtures("cheap")
def test_a_folder_shows_the_last_experiment_alone(done: Path) -> None:
    shutil.copytree(done / "xor", "new")
    figures = Path("new/figures")
    of_xor = {"fields", "hidden_plane", "training", "seeds", "projection_xor"}
    assert of_xor <= {path.stem for path in figures.iterdir()}
    (figures / "mine.png").touch()
    words = ["sanity", "mnist", "--network", "bypass", "--data", str(done / "own")]
    assert main([*words, "--out", "new"]) == 0
    shown = {path.stem for path in figures.iterdir()}
    assert {"errors", "mine"} <= shown
    assert not of_xor & shown
    assert set(pd.read_csv("new/results.csv")["model"]) == {"step 0", "step 2"}
    assert {path.name for path in Path("new/probes").iterdir()} == {"step 0", "step 2"}


def test_without_its_config_an_experiment_is_shown_as_any_run_and_the_file_is_named(
    tmp_path: Path,
    done: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(done / "bypass", folder)
    (folder / "config.yaml").write_bytes(b"\xff\xfe\0" * 50)
    assert main(["report", str(folder)]) == 0
    assert str(folder / "config.yaml") in caplog.text
    assert "step 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"sanity": "xorr"}, "sanity: 'xorr' is no experiment; did you mean 'xor'?"),
        ({"sanity": None}, "is no experiment; known: mnist, xor"),
        ({"sanity": "mnist", "epochs": 3}, "epochs: unknown key"),
        ({"sanity": "mnist", "network": "cnn"}, "network: 'cnn' is not allowed"),
    ],
)
def test_a_config_that_is_none_is_not_reported(
    tmp_path: Path, done: Path, fails: Fails, config: dict[str, Any], said: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(done / "convnet", folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "digests.json").unlink()
    fails("report", folder, said=(str(folder / "config.yaml"), said))


@pytest.mark.parametrize(
    ("into", "other"),
    [("convnet", "xor"), ("convnet", "bypass"), ("bypass", "convnet"), ("xor", "convnet")],
)
def test_tables_of_another_experiment_are_not_reported(
    tmp_path: Path, done: Path, fails: Fails, into: str, other: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(done / into, folder)
    for file in ("results.parquet", "summary.parquet"):
        shutil.copy(done / other / file, folder / file)
    (folder / "digests.json").unlink()
    said = ("summary.parquet are not those of config.yaml", "llmprobe sanity", str(folder))
    fails("report", folder, said=said)


@pytest.mark.parametrize("datasets", [None, [], [{}], [3], "digits"])
def test_without_the_source_of_its_data_an_experiment_is_told_and_that_is_noted(
    tmp_path: Path, done: Path, datasets: Any
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(done / "convnet", folder)
    facts = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").write_text(json.dumps(facts | {"datasets": datasets}))
    (folder / "digests.json").unlink()
    run = read_results(folder)
    assert bool(run.notes) == (datasets != [])
    assert image_findings(run) == image_findings(read_results(done / "convnet"))


@pytest.mark.parametrize("command", ["run", "probe", "validate"])
def test_the_config_of_an_experiment_is_no_config_of_a_run(
    done: Path, fails: Fails, command: str
) -> None:
    config = done / "convnet" / "config.yaml"
    fails(command, config, said=(str(config), "llmprobe sanity"))


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("while_", ["training", "probing"])
@pytest.mark.usefixtures("cheap", "no_report")
def test_an_interrupted_convnet_keeps_what_is_finished_and_the_old_results(
    done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], while_: str,
) -> None:  # fmt: skip
    shutil.copytree(done / "xor", "new")
    before = contents(Path("new"))
    probed = image_networks.probe_network
    words = ["sanity", "mnist", "--data", str(done / "own"), "--quick", "--out", "new"]
    with monkeypatch.context() as patch:
        if while_ == "training":
            patch.setattr(torch.optim.SGD, "step", interrupt)
        else:
            patch.setattr(
                image_networks, "probe_network",
                lambda *a, **o: (interrupt if o["model"] == "trained" else probed)(*a, **o),
            )  # fmt: skip
        capsys.readouterr()
        assert main(words) == 130
    said = capsys.readouterr().err
    assert said.startswith("llmprobe: interrupted; what was finished is kept")
    assert said.count("\n") == 1
    assert before.items() <= contents(Path("new")).items()
    told: list[str] = []

    def tell(*arguments: Any, **options: Any) -> Any:
        told.append(options["model"])
        return probed(*arguments, **options)

    monkeypatch.setattr(image_networks, "probe_network", tell)
    if while_ == "probing":
        monkeypatch.setattr(image_networks, "train", lambda *_, **__: pytest.fail("trained again"))
    assert main(words) == 0
    assert told == (["trained"] if while_ == "probing" else ["untrained", "trained"])


@pytest.mark.usefixtures("cheap", "no_report")
def test_an_interrupted_bypass_goes_on_with_the_next_step(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed, told = image_networks.probe_network, []

    def tell(*arguments: Any, **options: Any) -> Any:
        told.append(options["model"])
        if told == ["step 0", "step 2"]:
            raise KeyboardInterrupt
        return probed(*arguments, **options)

    monkeypatch.setattr(image_networks, "probe_network", tell)
    words = ["sanity", "mnist", "--network", "bypass", "--data", str(done / "own"), "--out", "new"]
    assert main(words) == 130
    monkeypatch.setattr(image_networks, "train", lambda *_, **__: pytest.fail("trained again"))
    assert main(words) == 0
    assert told == ["step 0", "step 2", "step 2"]
    assert main(words) == 0
    assert told == ["step 0", "step 2", "step 2"]
    undisturbed = pd.read_parquet(done / "bypass" / "results.parquet")
    again = pd.read_parquet("new/results.parquet")
    np.testing.assert_allclose(again["log_loss"], undisturbed["log_loss"], rtol=1e-4)
