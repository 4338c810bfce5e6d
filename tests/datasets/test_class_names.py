"""Labels are called by name where there is one: the data's, the config's, or that of an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy import write_table

from llmprobe.config.load import dataset_config
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.describe import show
from llmprobe.datasets.load import load_dataset
from llmprobe.datasets.published.entry import PublishedDataset
from llmprobe.datasets.registry import REGISTRY
from llmprobe.ground.errors import UserError
from llmprobe.runs.environment import dataset_facts


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "my.csv")


@pytest.mark.parametrize("name", ["capitals", "cities", "number_comparison", "calendar"])
def test_packaged_statements_are_true_and_false_with_or_without_a_question(name: str) -> None:
    for asked in ({}, {"question": True}):
        dataset = load_dataset(name, n=100, **asked)
        assert dataset.class_names == {"0": "false", "1": "true"}
        assert dataset_facts(dataset)["classes"] == dataset.class_names


def test_every_published_set_with_numbers_as_labels_names_them() -> None:
    for name, entry in REGISTRY.items():
        if isinstance(entry.build, PublishedDataset):
            assert len({*entry.build.classes.values()}) == (0 if name.endswith("TREC") else 2)


def test_words_speak_for_themselves() -> None:
    assert load_dataset("coin_flip", n=40, question=True).class_names == {}


def test_a_table_of_numbers_is_named_by_its_config_or_else_by_its_answers(table: Path) -> None:
    assert load_dataset(table).class_names == {}
    asked: dict[str, Any] = {
        "question": "{text} Red?", "answers": {"0": ["no", "No"], "1": [" yes"]},
    }  # fmt: skip
    assert load_dataset(table, **asked).class_names == {"0": "no", "1": "yes"}
    named = load_dataset(table, **asked, classes={0: "red", "1": "blue"})
    assert named.class_names == {"0": "red", "1": "blue"}
    assert named.answers["1"] == (" yes",)
    page = show(dataset_config(table, classes={"1": "blue"}))
    assert "0: 20 (50.0 %), 1 = blue: 20 (50.0 %)" in page


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ({"2": "green"}, "classes: no label '2'; the labels are 0 and 1"),
        ({"0": "same", "1": "same"}, "a name for each label, and none twice"),
        ({"0": " "}, "a name for each label"),
        ({"1": True}, "YAML reads yes, no, true and false"),
    ],
)
def test_a_name_that_tells_nothing_apart_is_refused(
    table: Path, classes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        load_dataset(table, classes=classes)


def test_a_concept_is_there_or_not_and_a_pair_has_two_sides(tmp_path: Path) -> None:
    path = tmp_path / "moods.csv"
    path.write_text("text,joy,size\n" + "".join(f"word {i},{i % 2},{i % 3}\n" for i in range(12)))
    joy, size = load_dataset(path, label=["joy", "size"]).by_concept()
    assert joy.class_names == {"0": "not joy", "1": "joy"}
    assert size.class_names == {}
    path.write_text("kind,rude\n" + "".join(f"Please {i},Now {i}\n" for i in range(6)))
    pairs = load_dataset(path, pairs={"positive": "kind", "negative": "rude"})
    assert pairs.class_names == {"0": "rude", "1": "kind"}


def test_names_are_saved_with_a_dataset(tmp_path: Path) -> None:
    dataset = ConceptDataset("d", ["a", "b"], np.array([0, 1]), class_names={"1": "true"})
    dataset.save(tmp_path / "d.parquet")
    assert ConceptDataset.load(tmp_path / "d.parquet").class_names == {"1": "true"}
    assert load_dataset(tmp_path / "d.parquet").class_names == {"1": "true"}
