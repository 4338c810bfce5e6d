"""A dataset survives a file, a table and Hugging Face's datasets."""

from __future__ import annotations

import dataclasses
import json
import string
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.load import load_dataset
from llmprobe.datasets.spans import Turn
from llmprobe.ground.errors import UserError


def whole(labels: np.ndarray | None = None) -> ConceptDataset:
    """A dataset with something in every part."""
    return ConceptDataset(
        name="facts",
        texts=["Lima, \"of\" Peru\n", "Bern ✓", " Oslo"],
        labels=np.array([1, 0, 1]) if labels is None else labels,
        groups=np.array(["a", "b", "a"]),
        spans={"city": [(0, 4), (0, 4), (1, 5)]},
        fields=pd.DataFrame({"text": ["x", None, "z"], "n": [1, 2, 3], "share": [0.5, 1.5, 2.5]}),
        variants={"negation": [["not Lima"], ["not Bern", "nor Bern"], ["not Oslo"]]},
        template="Q: {text}",
        source="own",
        citation="Me (2026)",
        licence="CC0",
        version="2",
        description="Cities.",
    )  # fmt: skip


def assert_same(one: ConceptDataset, other: ConceptDataset) -> None:
    for part in dataclasses.fields(ConceptDataset):
        a, b = getattr(one, part.name), getattr(other, part.name)
        if isinstance(a, pd.DataFrame):
            assert list(a.columns) == list(b.columns)
            for name in a.columns:
                assert list(map(repr, a[name].tolist())) == list(map(repr, b[name].tolist()))
        elif part.name == "concepts":
            assert {k: v.tolist() for k, v in a.items()} == {k: v.tolist() for k, v in b.items()}
        elif isinstance(a, np.ndarray):
            assert a.dtype.kind == b.dtype.kind
            assert a.tolist() == b.tolist()
        else:
            assert a == b, part.name


@pytest.mark.parametrize(
    "labels",
    [np.array([1, 0, 1]), np.array([True, False, True]), np.array(["yes", "no", "1"]),
     np.array([0.25, 1.5, -2.0])],
    ids=lambda labels: labels.dtype.kind,
)  # fmt: skip
def test_a_file_keeps_every_part(tmp_path: Path, labels: np.ndarray) -> None:
    dataset = whole(labels)
    dataset.save(tmp_path / "facts.parquet")
    assert_same(ConceptDataset.load(tmp_path / "facts.parquet"), dataset)


def test_a_file_keeps_chats_words_concepts_and_a_split(tmp_path: Path) -> None:
    dataset = dataclasses.replace(
        whole(),
        turns=[[Turn("user", 0, 4), Turn("assistant", 5, 8)], [], [Turn("user", 1, 5)]],
        chat={"enable_thinking": False, "tools": None},
        words=[(0, 4), (0, 4), (1, 5)],
        concepts={"joy": np.array([1, 0, 1]), "a/b": np.array(["x", "y", "x"])},
        test=np.array([True, False, False]),
        stem="moods",
    )
    dataset.save(tmp_path / "facts.parquet")
    assert_same(ConceptDataset.load(tmp_path / "facts.parquet"), dataset)


def test_a_file_keeps_a_dataset_that_has_nothing_but_texts_and_labels(tmp_path: Path) -> None:
    dataset = ConceptDataset("bare", ["a", "b"], np.array([0, 1]))
    dataset.save(str(tmp_path / "bare.parquet"))
    assert_same(ConceptDataset.load(str(tmp_path / "bare.parquet")), dataset)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=2, max_size=8))
def test_a_file_keeps_any_text(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    usable = [t for t in texts if not any(0xD800 <= ord(c) <= 0xDFFF for c in t)]
    if len(usable) < 2:
        return
    path = tmp_path_factory.mktemp("any") / "any.parquet"
    dataset = ConceptDataset("any", usable, np.arange(len(usable)) % 2)
    dataset.save(path)
    assert_same(ConceptDataset.load(path), dataset)


def test_a_saved_dataset_is_loaded_whole_by_its_path(tmp_path: Path) -> None:
    whole().save(tmp_path / "mine.parquet")
    loaded = load_dataset(tmp_path / "mine.parquet")
    assert loaded.name == "mine"
    assert loaded.texts == [f"Q: {text}" for text in whole().texts]
    assert loaded.groups is not None
    assert loaded.groups.tolist() == ["a", "b", "a"]
    assert loaded.licence == "CC0"
    bare = load_dataset(tmp_path / "mine.parquet", template="{text}")
    bare.save(tmp_path / "again.parquet")
    assert load_dataset(tmp_path / "again.parquet").texts == whole().texts


def test_another_file_is_no_saved_dataset(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pd.DataFrame({"text": ["a"]}).to_parquet(path)
    with pytest.raises(UserError, match="not a dataset that llmprobe saved"):
        ConceptDataset.load(path)
    whole().save(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="not a dataset that llmprobe saved"):
        ConceptDataset.load(path)
    with pytest.raises(UserError, match="no such file"):
        ConceptDataset.load(tmp_path / "none.parquet")
    with pytest.raises(UserError, match=r"facts\.csv: a dataset is saved as a \.parquet file"):
        whole().save(tmp_path / "facts.csv")


def test_a_file_keeps_fields_with_gaps_lists_and_mappings(tmp_path: Path) -> None:
    fields = pd.DataFrame(
        {"year": [1991, None, 1992], "tags": [["a"], [], None], "facts": [{"a": 1}, {"b": 2}, {}]},
        dtype=object,
    )
    dataset = dataclasses.replace(whole(), fields=fields)
    dataset.save(tmp_path / "x.parquet")
    assert_same(ConceptDataset.load(tmp_path / "x.parquet"), dataset)


@pytest.mark.parametrize("values", [[1, "x", 2.5], [2**70, 1, 2], [{1}, {2}, {3}]])
def test_a_field_of_many_kinds_is_refused_by_name(tmp_path: Path, values: list[object]) -> None:
    fields = pd.DataFrame({"odd": values}, dtype=object)
    dataset = dataclasses.replace(whole(), fields=fields)
    with pytest.raises(UserError, match=r"x\.parquet: cannot be saved: "):
        dataset.save(tmp_path / "x.parquet")
    assert not list(tmp_path.iterdir())


def test_a_file_with_a_part_missing_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    whole().save(path)
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["label"]), path)
    with pytest.raises(UserError, match=r"x\.parquet: damaged: "):
        ConceptDataset.load(path)


@pytest.mark.parametrize(
    "facts",
    [5, None, "x", [], {}, {"name": 5}, {"name": "x", "evil": "y"}, {"name": "x", "texts": ["a"]},
     {"name": "x", "template": None}, {"name": "x", "template": "{text:>9999999999}"}],
)  # fmt: skip
def test_a_file_that_says_odd_things_of_itself_is_damaged(tmp_path: Path, facts: object) -> None:
    path = tmp_path / "x.parquet"
    whole().save(path)
    table = pq.read_table(path)
    facts = {"nested": [], **facts} if isinstance(facts, dict) else facts
    metadata = {**table.schema.metadata, b"llmprobe": json.dumps(facts).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(UserError, match=r"x\.parquet: damaged: "):
        ConceptDataset.load(path)


def test_metadata_of_pandas_that_is_damaged_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    whole().save(path)
    table = pq.read_table(path)
    metadata = {**table.schema.metadata, b"pandas": b"[5"}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(UserError, match=r"x\.parquet: damaged: "):
        ConceptDataset.load(path)


def test_fields_with_the_names_of_the_columns_get_names_of_their_own() -> None:
    dataset = dataclasses.replace(
        whole(), fields=pd.DataFrame({"text": ["x", "y", "z"], "group": ["a", "b", "a"]})
    )
    table = dataset.to_pandas()
    assert table.columns.tolist() == ["text", "label", "group", "field_text"]
    other = dataclasses.replace(dataset, fields=pd.DataFrame({"group": ["a", "c", "a"]}))
    assert other.to_pandas()["field_group"].tolist() == ["a", "c", "a"]


def test_a_table_and_back_is_the_same_dataset() -> None:
    dataset = dataclasses.replace(whole(), fields=whole().fields[["n", "share"]])
    back = ConceptDataset.from_pandas(dataset.to_pandas(), "facts")
    assert back.content_hash == dataset.content_hash
    assert back.name == "facts"
    assert back.fields[["n", "share"]].equals(dataset.fields)


def test_columns_of_a_table_can_have_other_names() -> None:
    table = pd.DataFrame({"s": ["a", "b"], "truth": ["no", "yes"], "of": [1, 1]})
    dataset = ConceptDataset.from_pandas(table, text="s", label="truth", group="of")
    assert dataset.texts == ["a", "b"]
    assert dataset.groups is not None
    assert dataset.groups.tolist() == ["1", "1"]
    with pytest.raises(UserError, match="no column 'statment'"):
        ConceptDataset.from_pandas(table, "mine", text="statment", label="truth")


def test_huggingface_and_back_is_the_same_dataset() -> None:
    dataset = dataclasses.replace(whole(), fields=whole().fields[["n"]])
    table = dataset.to_huggingface()
    assert table.column_names == ["text", "label", "group", "n"]
    back = ConceptDataset.from_huggingface(table, "facts")
    assert back.content_hash == dataset.content_hash
    assert (back.source, back.citation, back.licence) == ("own", "Me (2026)", "CC0")


def test_class_labels_of_huggingface_become_their_names() -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    table = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
    assert ConceptDataset.from_huggingface(table).labels.tolist() == ["neg", "pos"]


def test_a_dataset_introduces_itself_in_one_line() -> None:
    assert repr(whole()) == "ConceptDataset('facts': 3 texts in 2 groups, labels 0, 1)"
    many = ConceptDataset("many", list(string.ascii_lowercase), np.arange(26))
    assert repr(many) == "ConceptDataset('many': 26 texts, labels 0, 1, 2, 3, …)"
