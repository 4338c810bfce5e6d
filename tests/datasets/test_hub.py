"""Datasets on the Hugging Face Hub (a small one on this machine), and folders of ``datasets``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from fake_hub import COMMIT, fake_hub

from llmprobe.config.schema import DatasetConfig
from llmprobe.datasets.from_table import parts_of_table
from llmprobe.datasets.hub import as_table, table_from_disk, table_from_hub
from llmprobe.ground.errors import NotOnDiskError, UserError

FEATURES = datasets.Features(
    {
        "text": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["negative", "positive"]),
        "picture": datasets.Image(),
        "sound": datasets.Audio(),
    }
)


def labelled(labels: list[int], split: str | None = None) -> datasets.Dataset:
    rows = {"text": [f"text {i}" for i in range(len(labels))], "label": labels}
    media: dict[str, list[None]] = {name: [None] * len(labels) for name in ("picture", "sound")}
    return datasets.Dataset.from_dict(rows | media, features=FEATURES, split=split)


def problem(path: Path, split: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        table_from_disk(path, split)
    said = str(caught.value)
    assert "\n" not in said
    return said.removeprefix(f"{path}: ")


def test_classes_have_their_names_and_media_are_left_out() -> None:
    table = as_table(labelled([1, 0, 1]))
    assert table.to_dict("list") == {
        "text": ["text 0", "text 1", "text 2"],
        "label": ["positive", "negative", "positive"],
    }


def test_rows_that_were_selected_are_those_of_the_table() -> None:
    chosen = labelled([1, 0, 1]).select([2, 1])
    assert as_table(chosen)["text"].tolist() == ["text 2", "text 1"]


def test_a_row_without_a_class_is_named() -> None:
    config = DatasetConfig(name="x", hub="a/b")
    with pytest.raises(UserError, match="row 2: no value in column 'label'"):
        parts_of_table(as_table(labelled([1, -1, 0])), config, "a/b")


def test_a_saved_dataset_is_read(tmp_path: Path) -> None:
    labelled([1, 0]).save_to_disk(tmp_path / "my")
    assert table_from_disk(tmp_path / "my")["label"].tolist() == ["positive", "negative"]
    labelled([1, 0], "test").save_to_disk(tmp_path / "test")
    assert len(table_from_disk(tmp_path / "test", "test")) == 2


def test_one_of_several_saved_splits_is_read_when_it_is_said(tmp_path: Path) -> None:
    splits = {"train": labelled([1, 0, 1]), "test": labelled([0, 1])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "my")
    assert len(table_from_disk(tmp_path / "my", "test")) == 2
    assert problem(tmp_path / "my") == "say which split, as in `split: train`; splits: train, test"
    assert problem(tmp_path / "my", "dev") == "no split 'dev'; splits: train, test"
    datasets.DatasetDict({"only": labelled([0, 1])}).save_to_disk(tmp_path / "only")
    assert len(table_from_disk(tmp_path / "only")) == 2


def test_a_folder_that_holds_no_dataset_is_refused(tmp_path: Path) -> None:
    assert "not one that `datasets` saved" in problem(tmp_path)
    labelled([1, 0]).save_to_disk(tmp_path / "my")
    assert "no split 'train'" in problem(tmp_path / "my", "train")
    for damaged in (tmp_path / "my").glob("*.arrow"):
        damaged.write_bytes(b"nothing")
    assert "cannot be read: " in problem(tmp_path / "my")
    (tmp_path / "my" / "state.json").write_text("[")
    assert "cannot be read: " in problem(tmp_path / "my")


def test_a_folder_of_data_files_is_like_a_dataset_on_the_hub(tmp_path: Path) -> None:
    for split in ("train", "test"):
        pd.DataFrame({"text": ["a", split], "label": [0, 1]}).to_csv(tmp_path / f"{split}.csv")
    config = DatasetConfig(hub=str(tmp_path), split="train+test[:1]")
    table, where = table_from_hub(config)
    assert table["text"].tolist() == ["a", "train", "a"]
    assert where == str(tmp_path)


@pytest.mark.parametrize(
    ("hub", "words"),
    [
        ("/no/such", "/no/such: no such folder"),
        # What ``datasets`` would take for a format, and read the files of the working folder.
        ("csv", "hub 'csv': an id on the Hugging Face Hub is owner/name"),
        ("a b/c", "an id on the Hugging Face Hub is owner/name"),
        ("a/b/c", "an id on the Hugging Face Hub is owner/name"),
    ],
)
def test_what_cannot_be_an_id_is_refused(hub: str, words: str) -> None:
    config = DatasetConfig(hub=hub)
    with pytest.raises(UserError, match=f"{words}$"):
        table_from_hub(config)


def test_what_is_not_here_is_not_on_disk_when_nothing_may_be_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(
        NotOnDiskError, match="a/b: not on this disk, and would be downloaded first"
    ):
        table_from_hub(DatasetConfig(hub="a/b"), download=False)


CHILD = """
import json, sys
from llmprobe.datasets.hub import table_from_hub
from llmprobe.config.schema import DatasetConfig
from llmprobe.ground.errors import UserError
assert "datasets" not in sys.modules, "a slow import that only some commands need"
for case in json.load(sys.stdin):
    download = case.pop("download", True)
    try:
        table, where = table_from_hub(DatasetConfig(**case), download)
        print(json.dumps([where, *table["text"]]))
    except UserError as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


def asked(cases: list[dict[str, Any]], address: str, home: Path) -> list[list[str]]:
    """What a process says of each case that has its Hub at ``address`` and its caches in ``home``.

    The libraries read their environment when they are imported, so it is a process of its own.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    result = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps(cases), capture_output=True, text=True, check=True, timeout=120,
        env={**kept, "HF_ENDPOINT": address, "HF_HOME": str(home)},
    )  # fmt: skip
    assert result.stderr == ""
    return [json.loads(line) for line in result.stdout.splitlines()]


PLAIN, SUBSETS = f"lab/plain@{COMMIT}", f"lab/subsets@{COMMIT}"
EASY = {"hub": "lab/subsets", "subset": "easy"}
ONLINE: list[tuple[dict[str, Any], list[str]]] = [
    ({"hub": "lab/plain"}, [PLAIN, "a", "b"]),
    ({"hub": "lab/plain", "revision": "main", "split": "train"}, [PLAIN, "a", "b"]),
    ({"hub": "lab/plain", "revision": COMMIT}, [PLAIN, "a", "b"]),
    ({"hub": "lab/plain", "revision": "v9"}, ["UserError", "there is no revision 'v9'"]),
    ({"hub": "lab/plain", "split": "dev"}, ["UserError", "no split 'dev'; splits: train"]),
    (EASY | {"split": "test"}, [SUBSETS, "c", "d"]),
    (EASY | {"split": "train[:1]+test"}, [SUBSETS, "a", "c", "d"]),
    (EASY | {"split": "train[:x]"}, ["UserError", "cannot load it: Unrecognized instruction"]),
    (EASY, ["UserError", "say which split, as in `split: train`; splits: train, test"]),
    ({"hub": "lab/subsets", "subset": "hard"}, [SUBSETS, "a", "b"]),
    ({"hub": "lab/subsets"}, ["UserError", "as in `subset: easy`; subsets: easy, hard"]),
    (EASY | {"subset": "x"}, ["UserError", "no subset 'x'; subsets: easy, hard"]),
    ({"hub": "lab/script"}, ["UserError", "is loaded by code of its own"]),
    ({"hub": "lab/nothing"}, ["UserError", "doesn't contain any data files"]),
    ({"hub": "lab/broken"}, ["UserError", "`datasets` cannot load it: "]),
    ({"hub": "lab/gated"}, ["UserError", "its owner asks for agreement to terms"]),
    ({"hub": "lab/unknown"}, ["UserError", "not a dataset on the Hugging Face Hub, or a private"]),
]
UNREACHABLE = "and the Hugging Face Hub cannot be reached"
OFFLINE: list[tuple[dict[str, Any], list[str]]] = [
    ({"hub": "lab/plain"}, [PLAIN, "a", "b"]),
    ({"hub": "lab/plain", "download": False}, [PLAIN, "a", "b"]),
    ({"hub": "lab/plain", "revision": COMMIT}, [PLAIN, "a", "b"]),
    ({"hub": "lab/plain", "revision": "v9"}, ["NotOnDiskError", f"(there: commit {COMMIT}), and"]),
    (EASY | {"split": "test"}, [SUBSETS, "c", "d"]),
    (
        EASY | {"subset": "x"},
        ["NotOnDiskError", f"not on this disk (there: easy, hard), {UNREACHABLE}"],
    ),
    ({"hub": "lab/subsets"}, ["UserError", "as in `subset: easy`; subsets: easy, hard"]),
    ({"hub": "lab/unknown"}, ["NotOnDiskError", f"not on this disk, {UNREACHABLE}"]),
]


def test_the_hub_is_read_while_it_can_be_reached_and_its_cache_afterwards(tmp_path: Path) -> None:
    with fake_hub() as address:
        online = asked([case for case, _ in ONLINE], address, tmp_path)
    offline = asked([case for case, _ in OFFLINE], address, tmp_path)
    for (case, expected), found in zip(ONLINE + OFFLINE, online + offline, strict=True):
        if expected[0] in ("UserError", "NotOnDiskError"):
            assert found[0] == expected[0], case
            assert found[1].startswith(f"{case['hub']}: ")
            assert expected[1] in found[1]
            assert "\n" not in found[1]
        else:
            assert found == expected, case
