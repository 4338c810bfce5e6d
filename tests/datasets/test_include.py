"""Datasets of the user's own, by name, from a folder that is included."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from toy import write_config, write_table

from llmprobe.cli.main import main
from llmprobe.datasets.include import include
from llmprobe.datasets.load import load_dataset
from llmprobe.datasets.registry import REGISTRY
from llmprobe.ground.errors import UserError

PYTHON = '''
import numpy as np
import llmprobe

@llmprobe.dataset("signs")
def signs(n: int = 10, seed: int = 0, words: int = 2) -> llmprobe.ConceptDataset:
    """Is a number even?"""
    texts = [f"{'number ' * words}{i}" for i in range(n)]
    return llmprobe.ConceptDataset("signs", texts, np.arange(n) % 2)
'''


@pytest.fixture(autouse=True)
def _registry_as_it_was() -> Iterator[None]:
    before = set(REGISTRY)
    yield
    for name in set(REGISTRY) - before:
        REGISTRY.remove(name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a table, a dataset from it, a preset of a known one, and a function."""
    folder = tmp_path / "mine"
    folder.mkdir()
    write_table(folder / "table.csv", city="Lima")
    (folder / "colours.yaml").write_text(
        "path: table.csv\ntemplate: 'Q: {text}'\ndescription: Red or blue?\nlicence: CC0\n"
    )
    (folder / "crowd.yml").write_text("name: coin_flip\nn: 30\noptions: {people: 9}\n")
    (folder / "signs.py").write_text(PYTHON)
    (folder / "notes.txt").write_text("not a dataset")
    return folder


def test_a_folder_names_its_datasets(folder: Path) -> None:
    assert include(folder) == ["colours", "crowd", "signs"]
    colours = load_dataset("colours")
    assert colours.name == "colours"
    assert colours.texts[0] == "Q: coin is red one"
    assert (colours.description, colours.licence) == ("Red or blue?", "CC0")
    assert "city" in colours.fields
    crowd = load_dataset("crowd", n=12, seed=3)
    assert len(crowd) == 12
    assert set(crowd.fields["people"]) == {9}
    assert len(load_dataset("crowd")) == 30
    assert load_dataset("signs", n=4, options={"words": 1}).texts[3] == "number 3"


def test_a_template_replaces_that_of_the_file_and_a_number_samples_it(folder: Path) -> None:
    include(folder / "colours.yaml")
    other = load_dataset("colours", template="{text} ({city})", n=10)
    assert len(other) == 10
    assert other.texts[0].endswith(" (Lima)")
    assert not other.texts[0].startswith("Q:")


def test_a_folder_in_the_layout_of_the_hub_is_relative_to_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (folder / "layout").mkdir()
    write_table(folder / "layout" / "train.csv")
    (folder / "like_the_hub.yaml").write_text("hub: ./layout\nsplit: train\n")
    monkeypatch.chdir(tmp_path)
    include(folder)
    assert len(load_dataset("like_the_hub")) == 40


def test_the_seed_of_a_file_is_used_unless_another_is_given(folder: Path) -> None:
    (folder / "crowd.yml").write_text("name: coin_flip\nn: 30\nseed: 5\n")
    include(folder)
    fifth = load_dataset("coin_flip", n=30, seed=5)
    assert load_dataset("crowd").texts == fifth.texts
    assert load_dataset("crowd", seed=0).texts != fifth.texts


def test_including_again_reads_the_files_again(folder: Path) -> None:
    include(folder)
    (folder / "colours.yaml").write_text("path: table.csv\ntemplate: 'A: {text}'\n")
    (folder / "signs.py").unlink()
    include(folder)
    assert load_dataset("colours").texts[0].startswith("A:")


def test_a_run_includes_what_its_config_or_the_command_line_says(
    folder: Path, tiny_model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "c.yaml", tiny_model("llama"), "colours", include="mine")
    for command in ("extract", "probe"):
        assert main([command, str(config), "--out", str(tmp_path / "run")]) == 0
    assert "colours" in capsys.readouterr().out
    # The config that the run leaves is a valid one, wherever it is run.
    assert main(["validate", str(tmp_path / "run" / "config.yaml")]) == 0
    capsys.readouterr()
    config = write_config(tmp_path / "d.yaml", tiny_model("llama"), "signs")
    REGISTRY.remove("signs")
    assert main(["validate", str(config)]) == 2
    assert "dataset 'signs' is not known" in capsys.readouterr().err
    assert main(["validate", str(config), "--include", str(folder)]) == 0


def test_ls_and_show_know_included_datasets(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ls", "datasets", "--include", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "Red or blue?" in said
    assert "Is a number even?" in said
    assert main(["show", "colours", "--include", str(folder)]) == 0
    assert "CC0" in capsys.readouterr().out


def recipes() -> dict[str, str]:
    """The Python files that the docs show, by the name in their first line."""
    docs = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", docs, flags=re.DOTALL)
    return dict(blocks)


def test_a_synthetic_dataset_is_one_file_as_the_docs_show(
    tmp_path: Path, tiny_model, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "negations.py"
    file.write_text(recipes()["negations.py"])
    config = write_config(tmp_path / "c.yaml", tiny_model("llama"), "negations", include=file.name)
    assert main(["validate", str(config)]) == 0
    assert main(["ls", "datasets", "--include", str(file)]) == 0
    assert re.search(r"  negations +dial: nots +Is a light on", capsys.readouterr().out)
    assert main(["show", "negations", "--set", "options.nots=3"]) == 0
    assert "nots=3 (the dial, default 2)" in capsys.readouterr().out
    dataset = load_dataset("negations", n=31, seed=2)
    assert np.unique(dataset.labels, return_counts=True)[1].tolist() == [15, 16]
    assert dataset.texts == load_dataset("negations", n=31, seed=2).texts
    with pytest.raises(UserError, match="nots is 99; allowed: a whole number from 0 to 20"):
        load_dataset("negations", options={"nots": 99})


def test_a_published_dataset_is_one_file_as_the_docs_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = b"riddle,answer,author\nWhat has keys?,piano,Ann\nWhat sings?,bird,Bob\n"
    digest = hashlib.sha256(content).hexdigest()
    code = re.sub(r'"[0-9a-f]{64}"', f'"{digest}"', recipes()["riddles.py"])
    (tmp_path / "riddles.py").write_text(code)
    data = tmp_path / "data" / "riddles" / "riddles.csv"
    data.parent.mkdir(parents=True)
    data.write_bytes(content)
    monkeypatch.setenv("LLMPROBE_DATA", str(tmp_path / "data"))
    assert main(["ls", "datasets", "--include", str(tmp_path / "riddles.py")]) == 0
    assert re.search(r"  riddles +here +Is the answer", capsys.readouterr().out)
    assert main(["show", "riddles"]) == 0
    shown = capsys.readouterr().out
    for part in ("CC BY 4.0", "Doe (2020)", "github.com/lab/riddles data/riddles.csv, commit 0123"):
        assert part in shown
    dataset = load_dataset("riddles")
    assert dataset.texts == ["Q: What has keys? A:", "Q: What sings? A:"]
    assert dataset.labels.tolist() == [0, 1]
    assert dataset.groups is not None
    assert dataset.groups.tolist() == ["Ann", "Bob"]
    assert load_dataset("riddles", options={"prompts": "none"}).texts[0] == "What has keys?"
    data.write_bytes(content + b"\n")
    with pytest.raises(UserError, match="byte for byte"):
        load_dataset("riddles")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.yaml", "path: [", r"x\.yaml: not valid YAML"),
        ("x.yaml", "just words", r"x\.yaml: not the mapping of a dataset"),
        ("x.yaml", "pth: t.csv", r"x\.yaml: pth: unknown key; did you mean 'path'"),
        ("capitals.yaml", "path: table.csv", "there is one of that name already"),
        ("x.py", "import nothing_like_it", r"x\.py: cannot be run: ModuleNotFoundError"),
        ("x.yaml", "name: x", r"x\.yaml: name 'x' is not that of a shipped or published dataset"),
        ("x.yaml", "name: coinflip", "did you mean 'coin_flip'"),
        ("x.py", "raise SystemExit(7)", r"x\.py: cannot be run: SystemExit: 7"),
        ("x.py", "import llmprobe\n@llmprobe.dataset('y')\ndef y(k): pass", "'k' needs a default"),
        ("x.py", "import llmprobe\n@llmprobe.dataset\ndef y(): pass", "needs the name of the data"),
        ("x.py", "def f(:", r"x\.py: cannot be run: SyntaxError"),
        ("x.py", PYTHON.replace('"signs"', '"capitals"'), r"x\.py: .*one of that name already"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        include(tmp_path)


def test_a_python_file_may_define_classes(tmp_path: Path) -> None:
    code = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Part:\n    n: int = 0\n"
    )
    (tmp_path / "x.py").write_text(code + PYTHON)
    assert include(tmp_path) == ["signs"]


def test_a_function_that_returns_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("import llmprobe\n@llmprobe.dataset('y')\ndef y(): return 3\n")
    include(tmp_path)
    with pytest.raises(UserError, match="dataset 'y': its function returned 'int'"):
        load_dataset("y")


def test_a_function_that_fails_is_named_with_its_error(tmp_path: Path) -> None:
    code = "import llmprobe\n@llmprobe.dataset('y')\ndef y(k=0): return 1 / k\n"
    (tmp_path / "x.py").write_text(code)
    include(tmp_path)
    message = "dataset 'y': its function failed: ZeroDivisionError: division by zero"
    with pytest.raises(UserError, match=message):
        load_dataset("y")


def test_what_cannot_be_included_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        include(tmp_path / "none")
    with pytest.raises(UserError, match=r"the folder has no \.yaml or \.py file"):
        include(tmp_path)
    (tmp_path / "x.txt").touch()
    with pytest.raises(UserError, match=r"x\.txt: not a \.yaml or \.py file"):
        include(tmp_path / "x.txt")


def test_a_file_that_is_not_there_is_said_when_the_dataset_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "gone.yaml").write_text("path: gone.csv\n")
    include(tmp_path)
    with pytest.raises(UserError, match=r"gone\.csv: no such file"):
        load_dataset("gone")
