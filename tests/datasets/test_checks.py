"""What misleads is found, with numbers; what does not is left alone."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest

from llmprobe.datasets.checks import check
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.findings import Finding
from llmprobe.datasets.templates import templated

SUBJECTS = ["".join(letters) for letters in itertools.product("bdfglmnprst", "aeiou", "bdglmnrst")]
"""495 words that are no words."""
WORDS = SUBJECTS[300:]


def made(texts: list[str], labels: Any, groups: Any = None, **parts: Any) -> ConceptDataset:
    groups = None if groups is None else np.array(groups)
    return ConceptDataset("made", texts, np.array(labels), groups, **parts)


def sentences(n: int, seed: int = 0) -> list[str]:
    """``n`` texts of 4 to 15 words, frequent ones and rare ones, as in a language."""
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, len(WORDS) + 1)
    frequency /= frequency.sum()
    return [" ".join(rng.choice(WORDS, rng.integers(4, 16), p=frequency)) + "." for _ in range(n)]


def found(dataset: ConceptDataset, name: str) -> Finding | None:
    """What the check called ``name`` finds; it says one thing at most."""
    findings = [finding for finding in check(dataset) if finding.check == name]
    assert len(findings) <= 1
    return findings[0] if findings else None


def warned(dataset: ConceptDataset) -> list[str]:
    return [finding.check for finding in check(dataset) if finding.level != "note"]


def pairs(n: int = 60) -> tuple[list[str], list[int], list[str]]:
    """Texts, labels and subjects: of each subject one is right and one is wrong."""
    places = ["north", "south", "east", "west"]
    texts, labels, subjects = [], [], []
    for i, subject in enumerate(SUBJECTS[:n]):
        texts += [
            f"{subject} is in the {places[i % 4]}.",
            f"{subject} is in the {places[i % 3]} now.",
        ]
        labels += [1, 0] if i % 2 else [0, 1]
        subjects += [subject, subject]
    return texts, labels, subjects


@pytest.mark.parametrize(
    ("n", "rates"), [(60, [0.5, 0.5]), (400, [0.5, 0.5]), (400, [0.4, 0.6]), (400, 4 * [0.25])]
)
def test_random_labels_give_no_warning(n: int, rates: list[float]) -> None:
    alarms = []
    for seed in range(25):
        labels = np.random.default_rng([seed, 1]).choice(len(rates), n, p=rates)
        alarms += warned(made(sentences(n, seed), labels))
    assert alarms == []


@pytest.mark.parametrize("of_group", [False, True])
def test_random_labels_in_groups_give_no_warning(of_group: bool) -> None:
    """Groups have their own words and lengths; only that they determine labels may be said."""
    alarms = []
    for seed in range(25):
        rng = np.random.default_rng([seed, 1])
        heads = sentences(40, seed)
        texts = [f"{heads[i // 10]} {words}" for i, words in enumerate(sentences(400, seed + 1000))]
        labels = rng.integers(2, size=40).repeat(10) if of_group else rng.integers(2, size=400)
        alarms += warned(made(texts, labels, np.arange(400) // 10))
    assert alarms == (25 * ["groups"] if of_group else [])


def test_random_numbers_give_no_warning() -> None:
    for seed in range(25):
        values = np.random.default_rng([seed, 1]).normal(size=200)
        assert check(made(sentences(200, seed), values)) == []


def test_errors_come_first_and_notes_last() -> None:
    texts = [*sentences(20), "x", "x"]
    levels = [f.level for f in check(made(texts, 20 * ["a"] + 2 * ["b"]))]
    assert levels == ["error", "warning", "warning"]


@pytest.mark.parametrize(
    ("joined", "labels"),
    [
        ('a film\t0\nanother film\t1\nthe last"', [0, 1]),
        ("a film,0.5\nanother film", [0.25, 0.5]),
        ("a film\nbad\tanother film", ["bad", "good"]),
    ],
)
def test_lines_of_a_table_inside_a_text_are_named(joined: str, labels: list[Any]) -> None:
    texts = sentences(40)
    assert found(made([*texts[1:], "One, two\n0 or 1\tgood"], labels * 20), "lines") is None
    finding = found(made([*texts[1:], joined], labels * 20), "lines")
    assert finding is not None
    assert "1 of 40 texts hold line breaks, delimiters and labels" in finding.message
    assert "`quoting: none`" in finding.message


def test_repeats_are_counted_with_an_example() -> None:
    finding = found(made(["a", "b", "a", "a", "b", "c"], [0, 1, 0, 0, 1, 0]), "repeats")
    assert finding is not None
    assert finding.level == "warning"
    assert "3 of 6 texts repeat another: 'a' occurs 3 times; copies stay" in finding.message


def test_copies_that_differ_in_what_units_ignore_are_repeats() -> None:
    finding = found(made(["A  b.", "a b", "c", "d"], [0, 0, 1, 1]), "repeats")
    assert finding is not None
    assert "1 of 4 texts repeat another: 'A b.' occurs 2 times" in finding.message


def test_a_text_with_two_labels_is_named() -> None:
    finding = found(made(["a", "b", "a", "b", "c"], ["no", "yes", "yes", "yes", "no"]), "repeats")
    assert finding is not None
    assert "'a' is labelled 'no' and 'yes' (distinct texts with more than one label: 1)" in (
        finding.message
    )


def test_a_few_harmless_repeats_are_a_note() -> None:
    texts = sentences(400)
    labels = np.arange(400) % 2
    assert found(made(texts, labels), "repeats") is None
    texts[2] = texts[0]
    finding = found(made(texts, labels), "repeats")
    assert finding is not None
    assert finding.level == "note"
    texts[1] = texts[0]
    contradictory = found(made(texts, labels), "repeats")
    assert contradictory is not None
    assert contradictory.level == "warning"


def test_the_same_text_everywhere_is_an_error() -> None:
    finding = found(made(["same"] * 20, np.arange(20) % 2), "repeats")
    assert finding == Finding("error", "repeats", "all 20 texts are the same: 'same'")


def test_the_majority_rate_is_always_told_and_warned_of_when_high() -> None:
    texts = sentences(200)
    even = found(made(texts, 110 * [False] + 90 * [True]), "majority")
    assert even is not None
    assert even.level == "note"
    assert even.message == "the majority class is False, 55.0 % of the texts"
    uneven = found(made(texts, 147 * ["False"] + 53 * ["True"]), "majority")
    assert uneven is not None
    assert uneven.level == "warning"
    assert "'False', 73.5 % of the texts: an accuracy of 0.735" in uneven.message


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        ([-1, 0, 1], "-1"),
        (["N/A", "a", "b"], "'N/A'"),
        (["unlabelled", "a", "b"], "'unlabelled'"),
        ([-1, 1, 1], None),
        (["none", "some", "some"], None),
        ([0, 1, 2], None),
    ],
)
def test_labels_that_mean_none_are_named(labels: list[Any], name: str | None) -> None:
    finding = found(made(sentences(60), labels * 20), "unlabelled")
    assert (finding is None) == (name is None)
    if finding:
        assert f"20 of 60 texts are labelled {name}, which by convention" in finding.message
        assert "`drop: {unlabelled: true}`" in finding.message


def test_small_classes_are_warned_of() -> None:
    labels = ["a"] * 60 + ["b"] * 60 + ["c"] * 7 + ["d"] * 3
    finding = found(made(sentences(130), labels), "classes")
    assert finding is not None
    assert finding.level == "warning"
    assert "class 'd' has 3 independent texts (2 classes have fewer than 10)" in finding.message
    assert found(made(sentences(120), labels[:120]), "classes") is None


def test_copies_and_groups_count_as_one_example_of_a_class() -> None:
    labels = [0] * 60 + [1] * 30
    groups = [*range(60), *(60 + i // 5 for i in range(30))]
    grouped = found(made(sentences(90), labels, groups), "classes")
    assert grouped is not None
    assert "class 1 has 6 independent groups" in grouped.message
    copied = found(made(sentences(60) + sentences(30, 1)[:3] * 10, labels), "classes")
    assert copied is not None
    assert "class 1 has 3 independent texts" in copied.message


def test_a_class_that_no_split_can_divide_is_an_error() -> None:
    finding = found(made(sentences(60), [0] * 40 + [1] * 20, [*range(40), *[40] * 20]), "classes")
    assert finding is not None
    assert finding.level == "error"
    assert "class 1 has one group that a split must keep whole" in finding.message


def test_many_distinct_whole_numbers_are_taken_for_scores() -> None:
    finding = found(made(sentences(100), np.arange(100) // 3), "classes")
    assert finding is not None
    assert "34 distinct labels for 100 texts leave 2.9 to each" in finding.message
    assert "`probe: {kind: ridge}`" in finding.message
    words = found(made(sentences(100), [f"label {i // 3}" for i in range(100)]), "classes")
    assert words is not None
    assert "ridge" not in words.message


@pytest.mark.parametrize(
    ("groups", "level", "words"),
    [
        ([0] * 80, "error", "all 80 texts are in one group, '0'"),
        (range(80), "note", "each of the 80 groups is one text"),
        ([0] * 50 + [i // 3 for i in range(30)], "warning", "group '0' has 66.2 % of the texts"),
        ([i // 4 for i in range(80)], "warning", "the 80 texts are only 20 independent examples"),
        ([i // 4 for i in range(2, 82)], None, ""),
    ],
)
def test_groups_that_do_not_do_their_work_are_told(
    groups: Any, level: str | None, words: str
) -> None:
    labels = [i // 4 % 2 for i in range(80)]
    finding = found(made(sentences(80), labels, list(groups)), "groups")
    assert (finding and finding.level) == level
    assert words in (finding.message if finding else "")


def test_groups_of_one_label_by_chance_or_among_many_single_texts_are_fine() -> None:
    few = made(sentences(10), [0, 0, 1, 1, 0, 0, 1, 1, 0, 0], np.arange(10) // 2)
    assert found(few, "groups") is None
    groups = [*np.arange(42) // 3, *range(100, 158)]
    labels = [*np.arange(42) // 3 % 2, *np.arange(58) % 2]
    assert found(made(sentences(100), labels, groups), "groups") is None


def test_a_length_that_tells_the_label_is_found() -> None:
    texts = sentences(200)
    labels = np.where(np.array([len(text) for text in texts]) > 50, "long", "short")
    labels[::4] = "short"
    finding = found(made(texts, labels), "length")
    assert finding is not None
    assert "tells class 'short' from the rest: AUROC 0.05 (p = " in finding.message
    assert found(made(texts, np.arange(200) % 2), "length") is None


def test_the_length_of_one_class_of_several_is_found() -> None:
    texts = sentences(300)
    labels = np.arange(300) % 3
    texts = [f"{text} {text}" if i % 3 == 1 else text for i, text in enumerate(texts)]
    finding = found(made(texts, labels), "length")
    assert finding is not None
    assert "tells class 1 from the rest: AUROC 0.9" in finding.message
    texts = [text[:20] if i % 3 == 1 else text for i, text in enumerate(sentences(300))]
    short = found(made(texts, labels), "length")
    assert short is not None
    assert "tells class 1 from the rest: AUROC 0.1" in short.message


def test_a_length_that_hardly_matters_is_no_warning_however_sure() -> None:
    texts, labels = sentences(4000), np.arange(4000) % 2
    longer = [f"{text} abc" if i % 2 else text for i, text in enumerate(texts)]
    assert found(made(longer, labels), "length") is None


def test_a_length_that_goes_with_a_number_is_found() -> None:
    texts = sentences(200)
    values = np.array([len(text) for text in texts]) + np.random.default_rng(0).normal(0, 20, 200)
    findings = check(made(texts, values))
    assert [finding.check for finding in findings] == ["length"]
    assert "Spearman's correlation 0.6" in findings[0].message


def test_a_word_that_tells_the_label_is_named_with_counts() -> None:
    texts, labels = sentences(200), np.arange(200) % 2
    for i in range(0, 200, 2):
        texts[i] += " Never this."
    texts[1] += " never"
    finding = found(made(texts, labels), "words")
    assert finding is not None
    assert "'this' is in 50.0 % of the texts, 100.0 % of them labelled 0" in finding.message
    assert "'never' is in 50.5 % of the texts, 99.0 % of them labelled 0" in finding.message
    assert "the best one alone gets 100.0 % right, the majority class 50.0 %" in finding.message


def test_a_word_that_most_texts_have_is_told_by_those_that_lack_it() -> None:
    texts = sentences(300)
    texts[::10] = [text.removesuffix(".") for text in texts[::10]]
    finding = found(made(texts, np.arange(300) % 2), "words")
    assert finding is not None
    assert "'.' is missing from 10.0 % of the texts, 100.0 % of them labelled 0" in finding.message


def test_words_that_are_always_together_are_named_once() -> None:
    texts = [f"{text} u v w x y" if i % 2 else text for i, text in enumerate(sentences(100))]
    finding = found(made(texts, np.arange(100) % 2), "words")
    assert finding is not None
    assert finding.message.count(" of them labelled") == 1
    assert "'u' is in" in finding.message


def test_of_many_words_one_goes_with_the_label_by_chance() -> None:
    """13 of 14 is a chance of 1 in 3,000 for one word, and here are 50."""
    texts, labels = sentences(60), np.arange(60) // 30
    texts[:13] = [f"{text} zzz" for text in texts[:13]]
    texts[30] += " zzz"
    assert found(made(texts, labels), "words") is None


def test_texts_of_one_group_are_no_further_evidence_about_a_word() -> None:
    """Six groups alone have the word: of 240 texts that is much, of six coins it is not."""
    texts = [f"{text} zzz" if i < 120 else text for i, text in enumerate(sentences(240))]
    labels, groups = np.arange(240) // 20 % 2, np.arange(240) // 20
    labels[:120], labels[120:200] = 1, 0
    assert found(made(texts, labels), "words") is not None
    assert found(made(texts, labels, groups), "words") is None


def test_pairs_without_groups_are_found() -> None:
    texts, labels, subjects = pairs()
    columns = {"row": np.arange(120), "half": np.arange(120) // 60, "who": subjects}
    fields = pd.DataFrame(columns)
    finding = found(made(texts, labels, fields=fields), "pairs")
    assert finding is not None
    assert "'bab is in the north.' and 'bab is in the north now.'" in finding.message
    assert "% have as many of each label; use `group: who`" in finding.message
    without = found(made(texts, labels), "pairs")
    assert without is not None
    assert "give twins one group" in without.message


def test_groups_settle_what_pairs_share() -> None:
    texts, labels, subjects = pairs()
    assert found(made(texts, labels, subjects), "pairs") is None
    alone = found(made(texts, labels, np.arange(120)), "pairs")
    assert alone is not None


def test_pairs_that_other_groups_tear_apart_are_found() -> None:
    texts, labels, _ = pairs()
    finding = found(made(texts, labels, np.arange(120) // 2 * 7 % 10 + np.arange(120) % 2), "pairs")
    assert finding is not None


def test_what_each_group_has_evenly_by_itself_is_no_pair_with_another_group() -> None:
    """Twenty one > thirty two and thirty one > twenty two have each a twin of their own."""
    numbers = [f"{ten} {one}" for ten in ("twenty", "thirty", "forty", "fifty", "sixty")
               for one in ("one", "two", "three", "four", "five")]  # fmt: skip
    both = list(itertools.permutations(range(25), 2))
    texts = [f"{numbers[a]} is larger than {numbers[b]}" for a, b in both]
    labels = [int(a > b) for a, b in both]
    assert found(made(texts, labels), "pairs") is not None
    groups = [f"{min(pair)} {max(pair)}" for pair in both]
    assert found(made(texts, labels, groups), "pairs") is None


def test_a_label_for_nearly_every_text_is_told_without_looking_at_words() -> None:
    texts = [f"{text} {i}" for i, text in enumerate(sentences(200) * 10)]
    findings = check(made(texts, np.arange(2000)))
    assert [f.check for f in findings if f.level == "warning"] == ["classes"]


def test_the_same_words_in_another_order_are_a_pair() -> None:
    numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    both = list(itertools.permutations(range(10), 2))
    texts = [f"{numbers[a]} is larger than {numbers[b]}" for a, b in both]
    finding = found(made(texts, [int(a > b) for a, b in both]), "pairs")
    assert finding is not None
    assert "45 sets of texts with the same words in another order, 100.0 %" in finding.message


def test_subjects_whose_labels_are_random_are_no_pairs() -> None:
    texts, _, _ = pairs(100)
    for seed in range(25):
        labels = np.random.default_rng([seed, 1]).integers(2, size=200)
        assert found(made(texts, labels), "pairs") is None


def test_examples_are_shown_without_the_template() -> None:
    texts, labels, _ = pairs()
    dataset = templated(made(texts, labels), "An instruction of more than fifty characters: {text}")
    finding = found(dataset, "pairs")
    assert finding is not None
    assert "'bab is in the north.' and 'bab is in the north now.'" in finding.message


def test_the_twins_that_are_shown_have_opposite_labels() -> None:
    texts = [f"{s} is {what}" for s in SUBJECTS[:60] for what in ("a", "b", "c", "d")]
    finding = found(made(texts, [1, 1, 0, 0] * 60), "pairs")
    assert finding is not None
    assert f"'{SUBJECTS[0]} is a' and '{SUBJECTS[0]} is c'" in finding.message


def test_pairs_are_found_among_several_classes() -> None:
    texts = [f"{s} is {what}" for s in SUBJECTS[:60] for what in ("low", "high", "flat")]
    labels = ["down", "up", "even"] * 60
    assert found(made(texts, labels), "pairs") is not None


def test_near_copies_that_a_split_may_set_apart_are_named() -> None:
    texts = sentences(200)
    labels = np.random.default_rng(1).integers(2, size=200)
    copies = [f"RT {text.removesuffix('.')} lol" for text in texts[:20]]
    near = made(texts + copies, [*labels, *labels[:20]])
    finding = found(near, "copies")
    assert finding is not None
    assert finding.level == "warning"
    n = len([text for text in texts[:20] if len(text.split()) > 6])
    assert int(finding.message.split()[0]) >= 2 * n
    assert "100.0 % of such pairs have one label; give them one group" in finding.message
    grouped = made(near.texts, near.labels, [*range(200), *range(20)])
    assert found(grouped, "copies") is None
    asked = templated(near, f"{sentences(1, 9)[0]} {{text}}")
    assert (found(asked, "copies") or finding).message == finding.message
    other = made(near.texts, [*labels, *np.arange(20) % 2])
    assert (found(other, "copies") or finding).level == "note"


def test_a_column_whose_values_have_one_label_each_is_named_as_a_group() -> None:
    who = [SUBJECTS[i // 5] for i in range(200)]
    fields = pd.DataFrame({"row": np.arange(200), "who": who})
    labels = np.random.default_rng(0).integers(2, size=40).repeat(5)
    assert found(made(sentences(200), labels, fields=fields), "groups") is None
    texts = [f"{name} {text}" for name, text in zip(who, sentences(200), strict=True)]
    finding = found(made(texts, labels, fields=fields), "groups")
    assert finding is not None
    assert "texts with one 'who' all have one label" in finding.message
    assert "use `group: who`" in finding.message
    assert found(made(texts, np.arange(200) % 2, fields=fields), "groups") is None


def test_every_sentence_stands_for_itself() -> None:
    """The messages are printed after a name and a colon, one a line."""
    texts, labels, _ = pairs()
    for dataset in (made(texts, labels), made(["a\nb"] * 9 + ["c"], [0] * 8 + [1, 1])):
        for finding in check(dataset):
            assert "\n" not in finding.message
            assert not finding.message.endswith(".")
            assert "np." not in finding.message
