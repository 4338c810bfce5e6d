"""Numbers and the calendar: is each label what the text says, and do words not tell it?"""

from __future__ import annotations

import re

import numpy as np
import pytest

from llmprobe.datasets.comparisons import LARGEST, calendar, number_comparison, spelled
from llmprobe.datasets.registry import build
from llmprobe.ground.errors import UserError
from llmprobe.probing.baselines import bag_of_words_accuracy
from llmprobe.probing.splits import assign_folds

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()
DATASETS = [
    ("number_comparison", {"n": 2000}),
    ("number_comparison", {"n": 2000, "digits": True}),
    ("number_comparison", {"n": 2000, "high": 9999, "distance": 1000}),
    *[("calendar", {"names": names}) for names in ("both", "weekdays", "months")],
]


def assert_sentences_without_repeats(texts: list[str]) -> None:
    assert len(set(texts)) == len(texts)
    assert not [text for text in texts if not re.fullmatch(r"[A-Z0-9][A-Za-z0-9', -]+\.", text)]
    assert not [text for text in texts if re.search("  | The ", text)]


# Both


@pytest.mark.parametrize(("name", "options"), DATASETS)
def test_words_alone_are_at_chance_over_grouped_folds(
    name: str, options: dict[str, object]
) -> None:
    dataset = build(name, **options)
    folds = assign_folds(dataset.labels, dataset.groups, 5, 0, name)
    accuracy = bag_of_words_accuracy(dataset.texts, dataset.labels, folds)
    assert abs(accuracy - 0.5) <= 0.04


@pytest.mark.parametrize(("name", "options"), DATASETS)
def test_half_of_the_statements_are_true_and_no_two_are_the_same(
    name: str, options: dict[str, object]
) -> None:
    dataset = build(name, **options)
    assert dataset.labels.mean() == 0.5
    assert dataset.classes.tolist() == [0, 1]
    assert_sentences_without_repeats(dataset.texts)


@pytest.mark.parametrize("name", ["number_comparison", "calendar"])
def test_variants_are_sentences_too_and_never_the_text_itself(name: str) -> None:
    dataset = build(name)
    for variants in dataset.variants.values():
        assert len(variants) == len(dataset)
        for text, others in zip(dataset.texts, variants, strict=True):
            assert_sentences_without_repeats(others)
            assert text not in others
    negations = [text for texts in dataset.variants["negation"] for text in texts]
    assert all(" not " in text for text in negations)


@pytest.mark.parametrize(
    ("name", "options", "allowed"),
    [
        ("number_comparison", {"n": 1}, "from 2 to 1000000"),
        ("number_comparison", {"low": -1}, "from 0"),
        ("number_comparison", {"high": 2}, "from 3"),
        ("number_comparison", {"high": LARGEST + 1}, f"to {LARGEST}"),
        ("number_comparison", {"distance": 50}, "from 1 to 49"),
        ("number_comparison", {"digits": "yes"}, "true or false"),
        ("calendar", {"names": "years"}, "weekdays, months, both"),
    ],
)
def test_an_option_out_of_range_names_what_is_allowed(
    name: str, options: dict[str, object], allowed: str
) -> None:
    option, value = next(iter(options.items()))
    message = rf"dataset '{name}': {option} is {re.escape(repr(value))}; allowed: .*{allowed}"
    with pytest.raises(UserError, match=message):
        build(name, **options)


# Numbers


def test_numbers_are_spelled() -> None:
    assert [spelled(n) for n in (0, 7, 13, 20, 81, 100, 215, 999)] == [
        *["zero", "seven", "thirteen", "twenty", "eighty-one"],
        *["one hundred", "two hundred fifteen", "nine hundred ninety-nine"],
    ]
    assert spelled(1_000) == "one thousand"
    assert spelled(20_304) == "twenty thousand three hundred four"
    assert spelled(LARGEST) == "nine hundred ninety-nine thousand nine hundred ninety-nine"


def _is_true(comparison: str, numbers: dict[str, int]) -> tuple[bool, frozenset[int]]:
    """What a comparison is by itself, and which numbers it is about."""
    said = re.fullmatch(r"(.+) is (not )?(larger|smaller) than (.+)\.", comparison)
    assert said is not None
    first, second = numbers[said[1].lower()], numbers[said[4]]
    holds = first > second if said[3] == "larger" else first < second
    return holds != (said[2] is not None), frozenset((first, second))


@pytest.mark.parametrize("digits", [False, True])
@pytest.mark.parametrize(("low", "high", "distance"), [(1, 99, 20), (0, 3, 1), (900, 1100, 7)])
def test_a_comparison_and_its_negation_are_as_their_label_says(
    digits: bool, low: int, high: int, distance: int
) -> None:
    n = 400 if high > 3 else 8
    dataset = number_comparison(n=n, low=low, high=high, distance=distance, digits=digits)
    numbers = {str(k) if digits else spelled(k): k for k in range(low, high + 1)}
    pair_of_group = {}
    for i, text in enumerate(dataset.texts):
        label, pair = _is_true(text, numbers)
        assert label == dataset.labels[i]
        assert _is_true(dataset.variants["negation"][i][0], numbers) == (label, pair)
        assert pair_of_group.setdefault(dataset.groups[i], pair) == pair
        assert 1 <= max(pair) - min(pair) == dataset.fields["distance"][i] <= distance
    assert len(set(pair_of_group.values())) == len(pair_of_group)


def test_neither_number_tells_the_label_nor_the_order() -> None:
    dataset = number_comparison(n=6000, low=1, high=999, distance=9, digits=True)
    assert dataset.fields["first"].astype(int).between(10, 990).all()
    first, second = (dataset.fields[side].astype(int) for side in ("first", "second"))
    for numbers in (first, second):
        inside = numbers.between(10, 990)
        # Above and below every hundred the first is larger about as often as it is smaller.
        share = (first > second)[inside].groupby(numbers[inside] // 100).mean()
        assert (abs(share - 0.5) < 0.08).all()
        assert abs(np.corrcoef(numbers, dataset.labels)[0, 1]) < 0.04
    assert abs((first > second).mean() - 0.5) < 0.03


def test_comparisons_are_fixed_by_their_seed() -> None:
    assert number_comparison(n=50).content_hash == number_comparison(n=50, seed=0).content_hash
    assert number_comparison(n=50).content_hash != number_comparison(n=50, seed=1).content_hash


def test_more_comparisons_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match=r"n is 9, .* hardly more than \d "):
        number_comparison(n=9, low=0, high=3, distance=1)


# The calendar


COUNTS = {spelled(k): k for k in range(1, 12)}
NAME = rf"({'|'.join(DAYS + MONTHS)})"
GAP = rf"({'|'.join(COUNTS)}) (?:day|month)s?"
# (pattern, the parts in the order: earlier, later, gap)
CALENDAR = [
    (rf"{NAME} (?:comes|does not come) before {NAME} in the calendar year", (1, 2, 0)),
    (rf"{NAME} (?:comes|does not come) after {NAME} in the calendar year", (2, 1, 0)),
    (rf"{NAME} is (?:not )?earlier in the year than {NAME}", (1, 2, 0)),
    (rf"{NAME} is (?:not )?later in the year than {NAME}", (2, 1, 0)),
    (rf"{NAME} is (?:not )?{GAP} after {NAME}", (3, 1, 2)),
    (rf"{NAME} is (?:not )?{GAP} before {NAME}", (1, 3, 2)),
    (rf"The (?:day|month) {GAP} after {NAME} is (?:not )?{NAME}", (2, 3, 1)),
    (rf"The (?:day|month) {GAP} before {NAME} is (?:not )?{NAME}", (3, 2, 1)),
    (rf"If it is {NAME} now, it will (?:not )?be {NAME} in {GAP}", (1, 2, 3)),
    (rf"If it is {NAME} now, it was (?:not )?{NAME} {GAP} ago", (2, 1, 3)),
]


def _calendar_truth(text: str) -> tuple[bool, frozenset[str]]:
    """What a statement is by itself, and which names it is about."""
    for pattern, (earlier, later, gap) in CALENDAR:
        if said := re.fullmatch(pattern + r"\.", text):
            names = DAYS if said[earlier] in DAYS else MONTHS
            forward = names.index(said[later]) - names.index(said[earlier])
            holds = (forward - COUNTS[said[gap]]) % len(names) == 0 if gap else forward > 0
            return holds != (" not " in text), frozenset((said[earlier], said[later]))
    raise AssertionError(text)


def test_a_calendar_statement_and_its_variants_are_as_their_label_says() -> None:
    dataset = calendar()
    pair_of_group = {}
    for i, text in enumerate(dataset.texts):
        label, pair = _calendar_truth(text)
        assert label == dataset.labels[i]
        assert pair_of_group.setdefault(dataset.groups[i], pair) == pair
        for kind, others in (("negation", 1), ("paraphrase_template", len(CALENDAR) - 5)):
            variants = dataset.variants[kind][i]
            assert len(variants) in (others, 3)
            assert all(_calendar_truth(variant) == (label, pair) for variant in variants)
    assert len(pair_of_group) == 7 * 6 // 2 + 12 * 11 // 2


def test_every_calendar_statement_has_a_twin_of_the_same_words_and_the_other_label() -> None:
    rows = calendar().to_pandas()
    words = rows["text"].str.lower().str.findall(r"\w+").map(sorted).map(" ".join)
    labels = rows.groupby([words, rows["template"]])["label"].agg(["sum", "size"])
    assert (labels["size"] == 2 * labels["sum"]).all()


@pytest.mark.parametrize(
    ("names", "n", "units"),
    [
        ("weekdays", 2 * 7 * 6 * 6, {"day"}),
        ("months", 2 * (12 * 10 * 6 + 66 * 4), {"month"}),
        ("both", 504 + 1968, {"day", "month"}),
    ],
)
def test_the_calendar_has_every_statement_of_the_names_asked_for(
    names: str, n: int, units: set[str]
) -> None:
    dataset = calendar(names=names)
    assert len(dataset) == n
    assert set(dataset.fields["unit"]) == units
