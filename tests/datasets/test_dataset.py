"""ConceptDataset: what it refuses, and what a sample of it keeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.spans import Turn
from llmprobe.ground.errors import UserError


def make(n_groups: int = 20, size: int = 3) -> ConceptDataset:
    """Groups of ``size`` with one label each, half the groups of each class. [n_groups * size]"""
    group = np.repeat(np.arange(n_groups), size)
    return ConceptDataset(
        name="toy",
        texts=[f"text {i}" for i in range(len(group))],
        labels=group % 2,
        groups=group,
        fields=pd.DataFrame({"row": np.arange(len(group))}),
    )


def rows_of(dataset: ConceptDataset) -> np.ndarray:
    return dataset.fields["row"].to_numpy()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"texts": [], "labels": np.array([])}, "no examples"),
        ({"labels": np.array([0])}, "2 texts but 1 labels"),
        ({"spans": {"x": [(0, 1)]}}, "2 texts but 1 spans of 'x'"),
        ({"variants": {"negation": [["c"]]}}, "2 texts but 1 variants 'negation'"),
        ({"groups": np.array([1, 2, 3])}, "2 texts but 3 groups"),
        ({"fields": pd.DataFrame({"a": [1]})}, "1 rows of fields"),
        ({"texts": ["a", " "]}, "example 1 has no text"),
        ({"labels": np.array([0.0, np.nan])}, "example 1 has no label"),
        ({"labels": np.array([None, "yes"], dtype=object)}, "example 0 has no label"),
        ({"labels": np.array(["yes", "yes"])}, "at least two classes"),
    ],
)
def test_what_cannot_be_probed_is_refused(parts: dict[str, object], message: str) -> None:
    whole: dict[str, object] = {"name": "toy", "texts": ["a", "b"], "labels": np.array([0, 1])}
    with pytest.raises(UserError, match=message):
        ConceptDataset(**(whole | parts))  # type: ignore[arg-type]


def test_labels_and_groups_may_come_as_lists() -> None:
    dataset = ConceptDataset("toy", ["a", "b", "c"], [0, 1, 0], groups=["x", "y", "x"])
    assert dataset.take([2, 1]).labels.tolist() == [0, 1]
    assert dataset.groups.tolist() == ["x", "y", "x"]


def test_the_positive_class_is_the_last_sorted() -> None:
    dataset = ConceptDataset("toy", ["a", "b"], np.array(["yes", "no"]))
    assert dataset.classes[-1] == "yes"


@pytest.mark.parametrize("change", ["texts", "labels", "groups", "order"])
def test_the_hash_depends_on_texts_labels_groups_and_order(change: str) -> None:
    one = make(2, 1)
    other = {
        "texts": replace(one, texts=["text 0", "other text"]),
        "labels": replace(one, labels=np.array([1, 0])),
        "groups": replace(one, groups=None),
        "order": make(2, 1).take([1, 0]),
    }[change]
    assert one.content_hash != other.content_hash
    assert one.content_hash == replace(one, name="other name").content_hash


def test_take_keeps_every_part_in_step() -> None:
    taken = make().take([5, 0])
    assert taken.texts == ["text 5", "text 0"]
    assert taken.labels.tolist() == [1, 0]
    assert taken.groups is not None
    assert taken.groups.tolist() == [1, 0]
    assert taken.to_pandas()["row"].tolist() == [5, 0]


def test_take_works_without_groups_and_fields() -> None:
    taken = ConceptDataset("toy", ["a", "b", "c"], np.array([0, 1, 1])).take([2, 0])
    assert taken.texts == ["c", "a"]
    assert taken.to_pandas().columns.tolist() == ["text", "label"]


@pytest.mark.parametrize("n", [6, 13, 29, 59])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_sample_holds_whole_groups_in_order_and_never_more_than_n(n: int, seed: int) -> None:
    dataset = make()
    sample = dataset.sample(n, seed)
    assert n - 3 < len(sample) <= n
    assert sample.groups is not None
    assert np.unique(sample.groups, return_counts=True)[1].tolist() == [3] * (len(sample) // 3)
    assert (np.diff(rows_of(sample)) > 0).all()
    assert sample.texts == [dataset.texts[i] for i in rows_of(sample)]


@pytest.mark.parametrize("n", [6, 24, 51])
def test_a_sample_of_a_balanced_dataset_is_balanced(n: int) -> None:
    for seed in range(5):
        no, yes = np.bincount(make().sample(n, seed).labels, minlength=2)
        assert abs(no - yes) <= 3


def test_a_sample_keeps_the_proportions_of_classes() -> None:
    labels = np.arange(400) % 4 == 0
    dataset = replace(make(400, 1), labels=labels, groups=None)
    assert abs(int(dataset.sample(100).labels.sum()) - 25) <= 1


def test_a_sample_is_fixed_by_its_seed_alone() -> None:
    first, again, other = (rows_of(make().sample(30, seed)).tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_sample_as_large_as_the_dataset_is_the_dataset() -> None:
    dataset = make()
    assert dataset.sample(len(dataset)) is dataset


def test_a_limit_below_one_group_is_refused() -> None:
    with pytest.raises(UserError, match="below one group"):
        make().sample(2)


def at(dataset: ConceptDataset, name: str, occurrence: str | None = None) -> list[str]:
    """What each text is up to the end of a span."""
    ranges = dataset.ranges(f"span:{name}", occurrence)
    assert ranges is not None
    return [text[:stop] for text, (_, stop) in zip(dataset.texts, ranges, strict=True)]


def test_a_span_ends_where_its_field_ends_and_survives_a_sample() -> None:
    texts = ["In Lima: yes. ", "In Bern : no. ", "In Paris: no. "]
    spans = {"city": [(3, 7), (3, 8), (3, 8)]}
    dataset = ConceptDataset("x", texts, np.array([0, 1, 1]), spans=spans)
    assert at(dataset, "city") == ["In Lima", "In Bern", "In Paris"]
    assert at(dataset.take([2, 0]), "city") == ["In Paris", "In Lima"]


def test_a_field_that_no_template_placed_is_found_as_a_word() -> None:
    texts = ["Niger is not Nigeria; it is Niger.", "Chad is Chad, Chadian."]
    fields = pd.DataFrame({"country": ["Niger", "Chad"], "n": ["1", "2"]})
    dataset = ConceptDataset("x", texts, np.array([0, 1]), fields=fields)
    last = ["Niger is not Nigeria; it is Niger", "Chad is Chad"]
    assert at(dataset, "country", "last") == last
    assert at(dataset, "country", "first") == ["Niger", "Chad"]
    assert at(dataset, "text") == texts
    with pytest.raises(UserError, match=r"example 0 contains 'Niger' 2 times; .*occurrence"):
        dataset.ranges("mean:country")
    with pytest.raises(UserError, match="example 0 does not contain '1'"):
        dataset.ranges("first:n")
    with pytest.raises(UserError, match=r"position 'span:contry': .*did you mean 'country'"):
        dataset.ranges("span:contry")


def test_a_position_is_of_a_word_a_turn_or_all_of_the_text() -> None:
    texts = ["hi there\n\nyes  ", "hi\n\nno"]
    turns = [[Turn("user", 0, 8), Turn("assistant", 10, 15)],
             [Turn("user", 0, 2), Turn("assistant", 4, 6)]]  # fmt: skip
    chats = ConceptDataset("x", texts, np.array([0, 1]), turns=turns)
    assert chats.ranges("turn:assistant") == chats.ranges("mean:assistant") == [(10, 13), (4, 6)]
    assert chats.ranges("last") is None
    with pytest.raises(UserError, match="example 0 has no turn of 'system'; it has user, assist"):
        chats.ranges("turn:system")
    words = ConceptDataset("x", ["a b"] * 2, np.array([0, 1]), words=[(0, 1), (2, 3)])
    assert words.ranges("last") == words.ranges("mean") == [(0, 1), (2, 3)]
    assert words.ranges("token:0") is None
    assert chats.ranges("tokens") is None
    with pytest.raises(UserError, match="labels are of words"):
        words.ranges("tokens")
    with pytest.raises(UserError, match="no chats"):
        words.ranges("turn:user")
    assert words.take([1, 0]).words == [(2, 3), (0, 1)]


def test_a_span_of_nothing_is_the_users_error() -> None:
    dataset = ConceptDataset("x", ["a b", "c d"], np.array([0, 1]), spans={"x": [(0, 1), (1, 2)]})
    with pytest.raises(UserError, match="example 1 has nothing there"):
        dataset.ranges("span:x")


def test_a_value_in_a_script_without_spaces_is_found_too() -> None:
    texts = ["北京是中国的首都", "东京是中国的首都"]
    fields = pd.DataFrame({"city": ["北京", "东京"]})
    dataset = ConceptDataset("x", texts, np.array([1, 0]), fields=fields)
    assert at(dataset, "city") == ["北京", "东京"]
