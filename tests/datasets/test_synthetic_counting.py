"""The generated tasks of counting: answers read off the texts, and nothing that gives them away."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import PredefinedSplit, cross_val_score
from sklearn.pipeline import make_pipeline

import llmprobe.datasets.synthetic  # noqa: F401  registers the tasks
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.registry import REGISTRY, build
from llmprobe.ground.errors import UserError
from llmprobe.probing.baselines import bag_of_words_accuracy
from llmprobe.probing.splits import assign_folds

Setting = tuple[str, dict[str, int]]

SETTINGS: list[Setting] = [
    *(("coin_flip", {"people": people}) for people in (2, 3, 4, 20)),
    *(("parity", {"length": length}) for length in (2, 3, 6, 20)),
    ("arithmetic", {"digits": 3, "carries": 1}),
    *(("arithmetic", {"digits": 5, "carries": carries}) for carries in (1, 2, 3)),
    ("arithmetic", {"digits": 12, "carries": 10}),
    *(("brackets", {"nesting": nesting}) for nesting in (2, 4, 12)),
]
"""Both ends of each dial and some between; of arithmetic's, for three numbers of digits."""

CLOSING = dict(zip("([{<", ")]}>", strict=True))


def rows(dataset: ConceptDataset) -> list[dict[str, object]]:
    return dataset.to_pandas().to_dict("records")  # type: ignore[return-value]


def parts(pattern: str, text: object) -> tuple[str, ...]:
    """The groups of a pattern that a whole text must have."""
    match = re.fullmatch(pattern, str(text))
    assert match is not None, text
    return match.groups()


@pytest.mark.parametrize("people", [2, 3, 7, 20])
def test_the_coin_lies_as_the_flips_in_the_text_leave_it(people: int) -> None:
    for row in rows(build("coin_flip", n=200, people=people)):
        start, acts, asked = parts(
            r"A coin is (heads|tails) up\. (.+) Is the coin now (heads|tails) up\?", row["text"]
        )
        assert (row["start"], row["acts"], row["asked"]) == (start, acts, asked)
        names, up, flips = set(), start, 0
        for act in re.findall(r"[^.]+\.", acts):
            name, done = parts(r"(\w+) (flips|does not flip) the coin\.", act.strip())
            names.add(name)
            if done == "flips":
                up, flips = {"heads": "tails", "tails": "heads"}[up], flips + 1
        assert row["label"] == ("yes" if up == asked else "no")
        assert row["flips"] == flips
        assert len(names) == row["people"] == people


def test_the_published_coin_begins_heads_up_and_is_asked_for_still_heads() -> None:
    dataset = build("coin_flip", n=300, people=3, published=True)
    for row in rows(dataset):
        assert parts(r"A coin is (heads) up\. .+ Is the coin (still) heads up\?", row["text"])
        flips = len(re.findall(r"\w+ flips the coin\.", str(row["text"])))
        assert row["flips"] == flips
        assert row["label"] == ("no" if flips % 2 else "yes")
    assert set(dataset.fields["flips"]) == {0, 1, 2, 3}


@pytest.mark.parametrize("people", [3, 4, 8])
def test_a_bag_of_words_does_not_know_the_answer_as_published_either(people: int) -> None:
    made = build("coin_flip", n=2000, people=people, published=True)
    fold_of = assign_folds(made.labels, None, 5, 0, "x")
    assert abs(bag_of_words_accuracy(made.texts, made.labels, fold_of) - 0.5) <= 0.04


def test_two_people_as_published_are_refused_because_words_would_tell() -> None:
    with pytest.raises(UserError, match="people is 2; allowed: a whole number from 3 to 20"):
        build("coin_flip", people=2, published=True)
    with pytest.raises(UserError, match="published is 'yes'; allowed: true or false"):
        build("coin_flip", published="yes")


@pytest.mark.parametrize("length", [2, 3, 6, 20])
def test_the_word_is_in_the_list_as_often_as_the_answer_says(length: int) -> None:
    for row in rows(build("parity", n=200, length=length)):
        listed, word, asked = parts(
            r"\w+ wrote: ([\w ]+)\. Is the word (\w+) there an (even|odd) number of times\?",
            row["text"],
        )
        assert (row["list"], row["word"], row["asked"]) == (listed, word, asked)
        words = listed.split()
        count = words.count(word)
        assert row["label"] == ("yes" if count % 2 == ("even", "odd").index(asked) else "no")
        assert row["count"] == count
        assert len(words) == row["length"] == length
        assert len({word, *words}) <= 2


@pytest.mark.parametrize(("digits", "carries"), [(3, 1), (5, 1), (5, 3), (8, 4), (12, 10)])
def test_a_sum_is_right_or_has_one_carry_in_the_wrong_place(digits: int, carries: int) -> None:
    for row in rows(build("arithmetic", n=200, digits=digits, carries=carries)):
        numbers = parts(r"(\d+) \+ (\d+) = (\d+)\. Is this right\?", row["text"])
        assert {len(number) for number in numbers} == {digits} == {row["digits"]}
        a, b, claimed = map(int, numbers)
        assert (row["a"], row["b"], row["claimed"], row["sum"]) == (a, b, claimed, a + b)
        assert row["label"] == ("yes" if a + b == claimed else "no")
        # Each carry takes 9 from the sum of the digits.
        digit_sums = [sum(map(int, str(number))) for number in (a, b, a + b, claimed)]
        assert digit_sums[0] + digit_sums[1] - digit_sums[2] == 9 * carries == 9 * row["carries"]  # type: ignore[operator]
        assert digit_sums[2] == digit_sums[3]
        off = [int(x) - int(y) for x, y in zip(str(claimed), str(a + b), strict=True)]
        assert off[-1] == 0
        changes = sorted(digit for digit in off if digit)
        assert changes == ([] if row["label"] == "yes" else [-1, 1])


def first_mismatch(sequence: list[str]) -> int:
    """Which bracket, counted from 1, closes one of another kind; 0 if none does."""
    still_open: list[str] = []
    for number, bracket in enumerate(sequence, 1):
        if bracket in CLOSING:
            still_open.append(bracket)
        elif CLOSING[still_open.pop()] != bracket:
            return number
    assert not still_open
    return 0


@pytest.mark.parametrize("nesting", [2, 3, 4, 8, 12])
def test_brackets_are_balanced_where_each_closes_its_own_kind(nesting: int) -> None:
    for row in rows(build("brackets", n=200, nesting=nesting)):
        (text,) = parts(
            r"Take the brackets ([\[\](){}<> ]+) in this order\. Are they balanced\?", row["text"]
        )
        assert row["sequence"] == text
        sequence = text.split(" ")
        assert row["wrong"] == first_mismatch(sequence)
        assert row["label"] == ("no" if row["wrong"] else "yes")
        depth = np.cumsum([1 if bracket in CLOSING else -1 for bracket in sequence])
        assert len(depth) == 24
        assert (depth.min(), depth.max(), depth[-1]) == (0, nesting, 0)
        assert nesting == row["nesting"]


@pytest.mark.parametrize("nesting", [2, 4, 12])
def test_unbalanced_brackets_are_as_many_of_each_kind_and_no_neighbours_show_them(
    nesting: int,
) -> None:
    for sequence in build("brackets", n=200, nesting=nesting).fields["sequence"]:
        count = Counter(sequence.split(" "))
        assert all(count[opening] == count[closing] for opening, closing in CLOSING.items())
        pairs = re.findall(r"(?=([\[({<]) ([\])}>]))", sequence)
        assert all(CLOSING[opening] == closing for opening, closing in pairs)


def test_brackets_that_enclose_everything_are_one_pair() -> None:
    """Or the ends of a sequence would show the error."""
    for sequence in build("brackets", n=200, nesting=12).fields["sequence"]:
        assert CLOSING[sequence[0]] == sequence[-1]


@pytest.mark.parametrize(("name", "options"), SETTINGS)
def test_a_bag_of_words_does_not_know_the_answer(name: str, options: dict[str, int]) -> None:
    made = build(name, n=2000, **options)
    fold_of = assign_folds(made.labels, None, 5, 0, "x")
    surface = bag_of_words_accuracy(made.texts, made.labels, fold_of)
    counts = make_pipeline(CountVectorizer(token_pattern=r"\S+"), LogisticRegression(max_iter=1000))
    folds = PredefinedSplit(fold_of)
    unigrams = cross_val_score(counts, made.texts, made.labels, cv=folds).mean()
    lengths = roc_auc_score(made.labels == "yes", [len(text) for text in made.texts])
    np.testing.assert_allclose([surface, unigrams, lengths], 0.5, atol=0.04)


@pytest.mark.parametrize("nesting", [2, 3])
def test_neighbouring_brackets_do_not_know_the_answer(nesting: int) -> None:
    made = build("brackets", n=5000, nesting=nesting)
    pairs = CountVectorizer(token_pattern=r"\S+", ngram_range=(2, 2))
    classifier = make_pipeline(pairs, LogisticRegression(max_iter=1000))
    accuracy = cross_val_score(classifier, made.texts, made.labels, cv=5).mean()
    assert abs(accuracy - 0.5) <= 0.04


@pytest.mark.parametrize(("name", "field"), [
    ("coin_flip", "acts"),
    ("parity", "list"),
    ("arithmetic", "b"),
    ("arithmetic", "claimed"),
    ("brackets", "sequence"),
])  # fmt: skip
def test_a_field_has_a_place_in_the_text(name: str, field: str) -> None:
    made = build(name, n=50)
    ranges = made.ranges(f"span:{field}", "last") or []
    for text, value, (start, stop) in zip(made.texts, made.fields[field], ranges, strict=True):
        assert text[start:stop] == str(value)
        assert "?" not in text[:stop]


@pytest.mark.parametrize("name", ["coin_flip", "parity", "arithmetic", "brackets"])
def test_texts_are_balanced_different_and_fixed_by_the_seed(name: str) -> None:
    made = build(name, n=301)
    assert len(set(made.texts)) == 301
    assert Counter(made.labels.tolist()) == {"yes": 151, "no": 150}
    assert made.groups is None
    assert made.content_hash == build(name, n=301, seed=0).content_hash
    assert not set(made.texts) & set(build(name, n=301, seed=1).texts)


@pytest.mark.parametrize(
    ("name", "option", "allowed"),
    [
        ("coin_flip", "people", "from 2 to 20"),
        ("parity", "length", "from 2 to 20"),
        ("arithmetic", "carries", "from 1 to 3"),
        ("arithmetic", "digits", "from 3 to 12"),
        ("brackets", "nesting", "from 2 to 12"),
    ],
)
def test_a_dial_out_of_its_range_is_refused(name: str, option: str, allowed: str) -> None:
    assert option in REGISTRY[name].options
    low, high = map(int, re.findall(r"\d+", allowed))
    for value in (low - 1, high + 1, 0, 2.5, True, "3"):
        message = f"dataset '{name}': {option} is {value!r}; allowed: a whole number {allowed}"
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            build(name, n=10, **{option: value})
    for value in (low, high):
        other = {"carries": 1} if option == "digits" else {}
        assert len(build(name, n=10, **{option: value, **other})) == 10


def test_more_texts_than_anyone_needs_are_refused_at_once() -> None:
    with pytest.raises(UserError, match=r"n is 100000000; allowed: .* from 2 to 1000000"):
        build("coin_flip", n=100_000_000)


@pytest.mark.parametrize("name", ["coin_flip", "parity", "arithmetic", "brackets"])
def test_the_default_of_the_dial_is_neither_end(name: str) -> None:
    entry = REGISTRY[name]
    assert entry.family == "reasoning"
    dial = str(entry.dial)
    default = entry.options[dial]
    assert isinstance(default, int)
    for value in (default - 1, default + 1):
        assert set(build(name, n=4, **{dial: value}).fields[dial]) == {value}
