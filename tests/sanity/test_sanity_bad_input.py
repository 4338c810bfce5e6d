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

from llmprobe.api import probe_network
from llmprobe.cli.main import main
from llmprobe.ground.errors import UserError
from llmprobe.sanity import bypass, bypass_figures, experiments, mnist
from llmprobe.sanity.config import MnistConfig
from llmprobe.sanity.images import _check, _Labelled, settled
from llmprobe.sanity.networks import device_of_probes

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def write_idx(path: Path, array: np.ndarray) -> None:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes())


def images(folder: Path, classes: tuple[int, ...] = (0, 1, 2), train: int = 30, test: int = 24,
           side: int = 8) -> Path:  # fmt: skip
    """A folder of IDX files: each class is a bright column of its own, in noise."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for n, pixels, labels in (
        (train, TRAIN_IMAGES, TRAIN_LABELS),
        (test, TEST_IMAGES, TEST_LABELS),
    ):
        number = np.arange(n) % len(classes)
        values = random.integers(0, 100, (n, side, side))
        values[np.arange(n), :, number % side] += 100
        write_idx(folder / pixels, values)
        write_idx(folder / labels, np.array(classes)[number])
    return folder


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


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    make_cheap(monkeypatch)


def make_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes of one penalty, without description lengths, and a bypassed network of 8 layers."""

    def probed(*arguments: Any, **options: Any) -> Any:
        return probe_network(*arguments, **{**options, "description_length": False, "l2": 100.0})

    for module in (mnist, bypass):
        monkeypatch.setattr(module, "probe_network", probed)
        monkeypatch.setattr(module, "digest", lambda *_, **__: "small")
    for module in (bypass, bypass_figures):
        monkeypatch.setattr(module, "LAYERS", 8)
    monkeypatch.setattr(bypass_figures, "HALF", 4)
    monkeypatch.setattr(bypass, "STEPS", (0, 2))


def emptied(file: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / file).write_bytes(b"")


def cut(file: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:-1])


BAD_FOLDERS: list[tuple[Callable[[Path], Any], str]] = [
    (lambda f: (f / TEST_LABELS).unlink(), f"no file with the test labels ({TEST_LABELS})"),
    (cut(TRAIN_IMAGES), f"{TRAIN_IMAGES}: is cut off: 1,935 bytes, 1,936 were expected"),
    (emptied(TEST_IMAGES), f"{TEST_IMAGES}: is empty"),
    (lambda f: (f / TRAIN_LABELS).write_bytes(b"PK\3\4zip"), f"{TRAIN_LABELS}: not an IDX file"),
    (lambda f: (f / TRAIN_LABELS).write_bytes((f / TRAIN_IMAGES).read_bytes()), "may be swapped"),
    (
        lambda f: (f / TRAIN_LABELS).write_bytes((f / TEST_LABELS).read_bytes()),
        "30 training images but 24 labels",
    ),
]


@pytest.mark.parametrize(("damage", "said"), BAD_FOLDERS)
def test_a_bad_folder_of_images_is_refused_and_nothing_is_written(
    tmp_path: Path, fails: Fails, damage: Callable[[Path], Any], said: str
) -> None:
    folder = images(tmp_path / "own")
    damage(folder)
    fails("sanity", "mnist", "--data", "own", "--out", "new", said=(str(folder), said))
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"classes": (3,)}, "every training label is 3; a probe needs at least two classes"),
        ({"side": 7}, "images have 7 × 7 pixels; the network needs 8 or more on each side"),
        ({"train": 11}, "own: class 2 has 3 of the 11 training images"),
        ({"test": 19}, "own: 19 test images; 20 or more are needed"),
    ],
)
@pytest.mark.parametrize("network", ["convnet", "bypass"])
def test_images_that_cannot_be_probed_are_refused_before_the_folder_is_made(
    tmp_path: Path, fails: Fails, made: dict[str, Any], said: str, network: str
) -> None:
    images(tmp_path / "own", **made)
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
    for module in (mnist, bypass):
        monkeypatch.setattr(module, "probe_network", lambda *_, **__: pytest.fail("worked"))
    images(tmp_path / "own")
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
    (images(tmp_path / "mine" / "mnist") / TEST_IMAGES).unlink()
    monkeypatch.setenv("LLMPROBE_DATA", str(tmp_path / "mine"))
    fails("sanity", "mnist", "--data", data, said=("mine/mnist: no file with the test images",))


def test_class_numbers_that_would_fill_the_memory_are_refused() -> None:
    # Labels of IDX files end at 255, those of the Hub do not.
    part = _Labelled(np.zeros((2, 8, 8)), np.array([1, 10**9]))
    with pytest.raises(UserError, match="training label 1000000000; class numbers below 1,000 "):
        _check("x", part, part)


@pytest.mark.parametrize("network", ["convnet", "bypass"])
@pytest.mark.usefixtures("cheap")
def test_a_network_has_an_output_for_each_class(tmp_path: Path, network: str) -> None:
    images(tmp_path / "letters", classes=(1, 12, 25))
    words = ["sanity", "mnist", "--data", "letters", "--quick", "--out", "new"]
    if network == "bypass":
        words[4:5] = ["--network", "bypass"]
    assert main(words) == 0
    results = pd.read_parquet("new/results.parquet")
    assert set(results["n_classes"]) == {3}
    predicted = pd.read_parquet("new/predictions.parquet")["predicted"]
    assert set(predicted) <= {"1", "12", "25"}


@pytest.mark.usefixtures("cheap")
def test_the_command_on_the_page_does_the_same_experiment_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = images(tmp_path / "my own")
    given = "--data 'my own' --quick --device cpu --seed 7".split(" ")
    words = ["sanity", "mnist", *shlex.split(" ".join(given)), "--out", str(tmp_path / "a run")]
    assert main(words) == 0
    page = (tmp_path / "a run" / "report.html").read_text(encoding="utf-8")
    config = MnistConfig(data=str(folder), quick=True, device="cpu", seed=7)
    typed = experiments.command(config, tmp_path / "a run")
    assert typed.replace("'", "&#39;") in page
    before = pd.read_parquet(tmp_path / "a run" / "results.parquet")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    program, *words = shlex.split(typed)
    words[-1] = "again"
    assert program == "llmprobe"
    assert main(words) == 0
    assert pd.read_parquet("again/results.parquet")["accuracy"].equals(before["accuracy"])
    assert yaml.safe_load(Path("again/config.yaml").read_text()) == config.model_dump(
        exclude_none=True
    )


def test_what_auto_stands_for_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settled("auto") == "digits"
    (tmp_path / "mnist").mkdir()
    monkeypatch.setenv("LLMPROBE_DATA", str(tmp_path))
    assert settled("auto") == "mnist"
    assert settled("mnist") == "mnist"
    assert settled("./mnist") == str(tmp_path / "mnist")
    assert settled("lab/pictures") == "lab/pictures"


def test_probes_compute_where_the_network_does() -> None:
    assert device_of_probes(torch.device("cpu")) == "cpu"
    assert device_of_probes(torch.device("cuda:1")) == "cuda:1"
    assert device_of_probes(torch.device("mps")) == "cpu"


@pytest.mark.usefixtures("cheap")
def test_a_folder_shows_the_last_experiment_alone(tmp_path: Path) -> None:
    data = ["--data", str(images(tmp_path / "own"))]

    def figures() -> set[str]:
        return {path.stem for path in Path("new/figures").iterdir()}

    assert main(["sanity", "xor", "--out", "new"]) == 0
    assert Path("new/xor.npz").is_file()
    assert {"fields", "hidden_plane", "training", "seeds"} <= figures()
    Path("new/figures/mine.png").touch()
    assert main(["sanity", "mnist", *data, "--quick", "--out", "new"]) == 0
    assert not Path("new/xor.npz").exists()
    assert {"errors", "mine"} <= figures()
    assert not {"fields", "hidden_plane", "training", "seeds"} & figures()
    assert main(["sanity", "mnist", *data, "--network", "bypass", "--out", "new"]) == 0
    assert set(pd.read_csv("new/results.csv")["model"]) == {"step 0", "step 2"}
    assert {path.name for path in Path("new/probes").iterdir()} == {"step 0", "step 2"}
    assert main(["report", "new"]) == 0


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each experiment, never changed."""
    root = tmp_path_factory.mktemp("done")
    data = ["--data", str(images(root / "own")), "--out"]
    with pytest.MonkeyPatch.context() as patch:
        make_cheap(patch)
        assert main(["sanity", "xor", "--out", str(root / "xor")]) == 0
        assert main(["sanity", "mnist", "--quick", *data, str(root / "convnet")]) == 0
        assert main(["sanity", "mnist", "--network", "bypass", *data, str(root / "bypass")]) == 0
    return root


FILES = ["results.parquet", "summary.parquet", "environment.json"]
DAMAGES = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\0" * 50),
}


@pytest.mark.parametrize(
    ("experiment", "file", "damage"),
    [
        (experiment, file, damage)
        for experiment, file in [("xor", "xor.npz"), *[("convnet", file) for file in FILES]]
        for damage in DAMAGES
    ],
)
def test_a_damaged_folder_is_not_reported_and_the_file_is_named(
    tmp_path: Path, done: Path, fails: Fails, experiment: str, file: str, damage: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(done / experiment, folder)
    DAMAGES[damage](folder / file)
    before = contents(folder)
    fails("report", folder, said=(str(folder), file))
    assert {name: contents(folder)[name] for name in before if "figures" not in name} == {
        name: content for name, content in before.items() if "figures" not in name
    }


# Half of the file may be a whole one.
@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage != "cut off"])
def test_without_its_config_an_experiment_is_shown_as_any_run_and_the_file_is_named(
    tmp_path: Path,
    done: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(done / "convnet", folder)
    DAMAGES[damage](folder / "config.yaml")
    assert main(["report", str(folder)]) == 0
    assert str(folder / "config.yaml") in caplog.text
    assert "trained" in capsys.readouterr().out


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
    tmp_path: Path, fails: Fails, config: dict[str, Any], said: str
) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    fails("report", tmp_path, said=(str(tmp_path / "config.yaml"), said))


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
        said = ("summary.parquet are not those of config.yaml", "llmprobe sanity", str(folder))
        fails("report", folder, said=said)


@pytest.mark.parametrize("datasets", [None, [], [{}], [3], "digits"])
def test_an_environment_without_its_data_is_not_reported(
    tmp_path: Path, done: Path, fails: Fails, datasets: Any
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(done / "convnet", folder)
    facts = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").write_text(json.dumps(facts | {"datasets": datasets}))
    fails("report", folder, said=("environment.json: does not say where the data came from",))


@pytest.mark.parametrize("command", ["run", "probe", "validate"])
def test_the_config_of_an_experiment_is_no_config_of_a_run(
    done: Path, fails: Fails, command: str
) -> None:
    config = done / "convnet" / "config.yaml"
    fails(command, config, said=(str(config), "llmprobe sanity"))


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("while_", ["training", "probing"])
@pytest.mark.usefixtures("cheap")
def test_an_interrupted_convnet_keeps_what_is_finished_and_the_old_results(
    tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], while_: str,
) -> None:  # fmt: skip
    shutil.copytree(done / "xor", "new")
    before = contents(Path("new"))
    probed = mnist.probe_network
    with monkeypatch.context() as patch:
        if while_ == "training":
            patch.setattr(torch.optim.SGD, "step", interrupt)
        else:
            patch.setattr(
                mnist, "probe_network",
                lambda *a, **o: (interrupt if o["model"] == "trained" else probed)(*a, **o),
            )  # fmt: skip
        words = ["sanity", "mnist", "--data", str(images(tmp_path / "own")), "--quick"]
        capsys.readouterr()
        assert main([*words, "--out", "new"]) == 130
    said = capsys.readouterr().err
    assert said.startswith("llmprobe: interrupted; what was finished is kept")
    assert said.count("\n") == 1
    after = contents(Path("new"))
    assert before.items() <= after.items()
    kept = {Path(name).parts[1] for name in after if name.startswith("parts")}
    weights = {"weights-small.safetensors"} if while_ == "probing" else set()
    assert kept == {"untrained-small"} | weights
    told: list[str] = []

    def tell(*arguments: Any, **options: Any) -> Any:
        told.append(options["model"])
        return probed(*arguments, **options)

    monkeypatch.setattr(mnist, "probe_network", tell)
    assert main([*words, "--out", "new"]) == 0
    assert told == ["trained"]


@pytest.mark.usefixtures("cheap")
def test_an_interrupted_bypass_goes_on_with_the_next_step(
    tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed, told = bypass.probe_network, []

    def tell(*arguments: Any, **options: Any) -> Any:
        told.append(options["model"])
        if told == ["step 0", "step 2"]:
            raise KeyboardInterrupt
        return probed(*arguments, **options)

    monkeypatch.setattr(bypass, "probe_network", tell)
    words = ["sanity", "mnist", "--network", "bypass", "--data", str(images(tmp_path / "own"))]
    assert main([*words, "--out", "new"]) == 130
    assert main([*words, "--out", "new"]) == 0
    assert told == ["step 0", "step 2", "step 2"]
    monkeypatch.setattr(bypass, "train", lambda *_, **__: pytest.fail("trained again"))
    assert main([*words, "--out", "new"]) == 0
    undisturbed = pd.read_parquet(done / "bypass" / "results.parquet")
    again = pd.read_parquet("new/results.parquet")
    np.testing.assert_allclose(again["log_loss"], undisturbed["log_loss"], rtol=1e-4)
