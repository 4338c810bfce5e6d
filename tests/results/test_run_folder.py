"""A folder on disk holds what a run found, and nothing of an earlier config."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llmprobe import UserError
from llmprobe.config.schema import ProbeConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.probing.protocol import probe_layers
from llmprobe.results.folder import (
    examples_of,
    read_environment,
    read_table,
    require_writable_folder,
    write_results,
)
from llmprobe.results.results import Results
from llmprobe.results.saved_probe import load_probe

ENVIRONMENT = {"python": "3.12.4", "models": [{"name": "net", "precision": "float32"}]}


@pytest.fixture(scope="module")
def found() -> Results:
    """Results of no language model: two layers of random numbers, one of which is shifted."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    noise = rng.normal(size=(2, 40, 3))
    layers = {0: noise[0], 1: noise[1] + labels[:, None]}
    config = ProbeConfig(learning_curve=(0.5,), permutations=0)
    return probe_layers(layers, labels, model="net", dataset="set", config=config, progress=False)


def described(results: Results, config: str = "name: net\n") -> Results:
    return replace(results, config=config, environment=ENVIRONMENT)


def test_results_from_anywhere_are_read_as_they_were_written(
    found: Results, tmp_path: Path
) -> None:
    named = replace(found, table=found.table.assign(layer_name=["input", "relu"]))
    write_results(tmp_path, described(named))
    for name, table in (
        ("results", named.table), ("summary", found.summary), ("predictions", found.predictions),
        ("learning_curve", found.learning_curve),
    ):  # fmt: skip
        pd.testing.assert_frame_equal(read_table(tmp_path, name), table)
    assert read_environment(tmp_path) == ENVIRONMENT | {"datasets": []}
    assert (tmp_path / "config.yaml").read_text() == "name: net\n"
    assert (tmp_path / "probes" / "net" / "set.safetensors").is_file()


def test_texts_of_several_concepts_take_the_room_of_one(found: Results, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [rng.bytes(1000).hex() for _ in range(1500)]
    sizes = {}
    for n in (1, 8):
        concepts = {f"c{i}": np.arange(1500) // 2**i % 2 for i in range(n)}
        dataset = ConceptDataset("set", texts, np.arange(1500) % 2, concepts=concepts)
        examples = examples_of(dataset.by_concept())
        assert len(examples) == n * 1500
        write_results(tmp_path / str(n), described(replace(found, examples=examples)))
        assert read_table(tmp_path / str(n), "examples")["text"].tolist() == texts * n
        sizes[n] = (tmp_path / str(n) / "examples.parquet").stat().st_size
    assert sizes[8] < 1.2 * sizes[1]


def test_probes_know_what_the_datasets_labels_are_called(found: Results, tmp_path: Path) -> None:
    datasets = [{"name": "set", "classes": {"1": "true"}}]
    write_results(tmp_path, replace(found, environment=ENVIRONMENT | {"datasets": datasets}))
    probe = load_probe(tmp_path / "probes" / "net" / "set.safetensors")
    assert probe.classes == (0, 1)
    assert probe.class_names == ("0", "true")
    assert found.probes[0].class_names == ("0", "1")


@pytest.mark.parametrize("classes", [None, 3, ["true"], {"0": "same", "1": "same"}])
def test_names_that_name_nothing_are_not_used(found: Results, classes: object) -> None:
    datasets = [{"name": "set", "classes": classes}]
    assert replace(found, environment={"datasets": datasets}).class_names("set") == {}


def test_results_replace_all_of_an_earlier_config(found: Results, tmp_path: Path) -> None:
    write_results(tmp_path, described(found, "name: first\n"))
    bare = replace(found, learning_curve=found.learning_curve.head(0), probes=())
    write_results(tmp_path, described(bare, "name: second\n"))
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        "config.yaml", "digests.json", "environment.json", "evidence.json", "predictions.parquet",
        "results.csv", "results.parquet", "summary.csv", "summary.parquet",
    }  # fmt: skip
    assert "second" in (tmp_path / "config.yaml").read_text()


def test_examples_have_their_fields_as_text_and_what_is_missing_is_empty(
    found: Results, tmp_path: Path
) -> None:
    fields = pd.DataFrame({"city": ["Lima", None], "size": [1.5, np.nan], "of": [["a"], {}]})
    dataset = ConceptDataset("set", texts=["x", "y"], labels=np.array([0, 1]), fields=fields)
    write_results(tmp_path, described(replace(found, examples=examples_of([dataset]))))
    written = read_table(tmp_path, "examples")["fields"]
    assert [json.loads(record, parse_constant=pytest.fail) for record in written] == [
        {"city": "Lima", "size": "1.5", "of": "['a']"},
        {"city": "", "size": "", "of": "{}"},
    ]


def test_a_folder_is_claimed_before_there_is_anything_to_write(tmp_path: Path) -> None:
    require_writable_folder(tmp_path / "runs" / "mine")
    assert not list((tmp_path / "runs" / "mine").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--out .*file: cannot be written: it is a file"):
        require_writable_folder(tmp_path / "file")
