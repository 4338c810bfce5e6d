"""The datasets that come with the package."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from llmprobe.concepts.builders import GIVEN_NAMES, capitals, coin_flip
from llmprobe.concepts.registry import build
from llmprobe.errors import UserError
from llmprobe.files import shipped

TEMPLATES = ["capital_is", "is_capital", "possessive", "called", "serves"]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Every row of the shipped file."""
    return pd.read_csv(shipped("data") / "capitals.csv", keep_default_na=False)


def test_a_country_has_one_capital_and_two_other_cities(table: pd.DataFrame) -> None:
    answers = table.groupby(["country", "kind"])["city"].agg(["nunique", "size"])
    assert (answers["nunique"] == 1).all()
    assert (answers["size"] == len(TEMPLATES)).all()
    assert table["country"].nunique() >= 180
    true = table[table["label"] == 1].drop_duplicates("country").set_index("country")["city"]
    false = table[table["label"] == 0]
    assert set(true.index) == set(table["country"])
    assert (false["city"] != false["country"].map(true)).all()
    assert (table["label"] == (table["kind"] == "true")).all()


def test_an_easy_city_is_a_capital_and_a_hard_one_is_not(table: pd.DataFrame) -> None:
    cities = {kind: set(rows["city"]) for kind, rows in table.groupby("kind")}
    assert cities["easy"] == cities["true"]
    assert not cities["hard"] & cities["true"]


def test_no_city_and_no_country_stands_in_two_groups(table: pd.DataFrame) -> None:
    for column in ("city", "country"):
        assert (table.groupby(column)["group"].nunique() == 1).all()
    members = table.groupby("group")["country"].unique()
    assert all("|".join(sorted(countries)) == group for group, countries in members.items())
    assert set(members.map(len)) <= {2, 3}


def test_statements_are_sentences_of_ascii_without_repeats(table: pd.DataFrame) -> None:
    assert table["statement"].is_unique
    sentence = re.compile(r"[A-Z][A-Za-z' -]+\.")
    odd = [text for text in table["statement"] if not sentence.fullmatch(text)]
    assert not odd
    assert not table["statement"].str.contains("  | The ", regex=True).any()


@pytest.mark.parametrize(
    ("country", "capital"),
    [
        ("Australia", "Canberra"),
        ("Brazil", "Brasilia"),
        ("Kazakhstan", "Astana"),
        ("Nigeria", "Abuja"),
        ("Tanzania", "Dodoma"),
        ("Turkey", "Ankara"),
    ],
)
def test_capitals_that_are_often_mistaken_are_right(
    table: pd.DataFrame, country: str, capital: str
) -> None:
    true = table[(table["country"] == country) & (table["label"] == 1)]
    assert set(true["city"]) == {capital}


@pytest.mark.parametrize(
    "country", ["Israel", "South Africa", "Bolivia", "Sri Lanka", "Benin", "Myanmar", "Eswatini"]
)
def test_disputed_and_several_capitals_are_left_out(table: pd.DataFrame, country: str) -> None:
    assert country not in set(table["country"])


@pytest.mark.parametrize("negatives", ["mixed", "hard", "easy"])
@pytest.mark.parametrize("templates", ["all", "called", ["is_capital", "serves"]])
def test_every_country_and_template_has_a_true_and_a_false_statement(
    negatives: str, templates: str | list[str]
) -> None:
    dataset = capitals(negatives=negatives, templates=templates)
    labels = dataset.to_pandas().groupby(["country", "template"])["label"].agg(["sum", "size"])
    assert (labels == [1, 2]).all(axis=None)
    kept = TEMPLATES if templates == "all" else np.atleast_1d(templates).tolist()
    assert set(dataset.fields["template"]) == set(kept)
    kinds = {"mixed": {"true", "hard", "easy"}}.get(negatives, {"true", negatives})
    assert set(dataset.fields["kind"]) == kinds


def test_mixed_negatives_alternate_between_hard_and_easy() -> None:
    hard = set(capitals(negatives="hard").fields["country"])
    rows = capitals().to_pandas()
    false = rows[rows["country"].isin(hard) & (rows["label"] == 0)]
    for column in ("country", "template"):
        counts = false.groupby(column)["kind"].value_counts().unstack()
        assert (abs(counts["hard"] - counts["easy"]) <= (1 if column == "country" else 20)).all()


def test_the_groups_of_capitals_are_those_of_the_file(table: pd.DataFrame) -> None:
    dataset = build("capitals")
    group_of = table.set_index("statement")["group"]
    assert dataset.groups is not None
    assert dataset.groups.tolist() == [group_of[text] for text in dataset.texts]


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"negatives": "medium"}, "mixed, hard, easy"),
        ({"templates": "question"}, "capital_is"),
        ({"templates": ["called", "question"]}, "capital_is"),
        ({"templates": []}, "capital_is"),
    ],
)
def test_an_option_out_of_range_names_what_is_allowed(
    options: dict[str, object], allowed: str
) -> None:
    with pytest.raises(UserError, match=rf"{next(iter(options))}.*allowed.*{allowed}"):
        build("capitals", **options)


@pytest.mark.parametrize("people", [2, 3, 7])
def test_the_answer_is_the_parity_of_the_flips_in_the_text(people: int) -> None:
    dataset = coin_flip(n=60, people=people)
    for text, label, flips in zip(
        dataset.texts, dataset.labels, dataset.fields["flips"], strict=True
    ):
        acts = re.findall(r"(\w+) (flips|does not flip) the coin\.", text)
        assert len({name for name, _ in acts}) == people
        assert sum(act == "flips" for _, act in acts) == flips
        assert label == ("no" if flips % 2 else "yes")
    assert dataset.classes.tolist() == ["no", "yes"]
    assert set(dataset.fields["people"]) == {people}


@pytest.mark.parametrize(("n", "yes"), [(2, 1), (101, 51), (1000, 500)])
def test_coin_flip_is_balanced_and_has_no_repeats(n: int, yes: int) -> None:
    dataset = coin_flip(n=n, people=2)
    assert len(set(dataset.texts)) == n
    assert (dataset.labels == "yes").sum() == yes


def test_coin_flip_is_fixed_by_its_seed() -> None:
    assert coin_flip(n=50).content_hash == coin_flip(n=50, seed=0).content_hash
    assert coin_flip(n=50).content_hash != coin_flip(n=50, seed=1).content_hash


@pytest.mark.parametrize("people", [2, 3, 4, 5, 6])
def test_counts_of_words_do_not_give_the_coin_away(people: int) -> None:
    dataset = coin_flip(n=2000, people=people)
    words = make_pipeline(CountVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=2000))
    accuracy = cross_val_score(words, dataset.texts, dataset.labels, cv=5).mean()
    assert abs(accuracy - 0.5) <= 0.04


def test_names_are_many_and_single_words() -> None:
    assert len(set(GIVEN_NAMES)) == len(GIVEN_NAMES) >= 100
    assert all(name.isascii() and name.isalpha() for name in GIVEN_NAMES)


@pytest.mark.parametrize(
    "options", [{"people": 1}, {"people": 2.5}, {"n": 1}, {"n": "10"}, {"seed": -1}]
)
def test_numbers_out_of_range_are_refused(options: dict[str, object]) -> None:
    option, value = next(iter(options.items()))
    with pytest.raises(UserError, match=rf"{option} is {value!r}; allowed"):
        build("coin_flip", **options)


def test_more_texts_than_there_are_is_refused_at_once() -> None:
    there_are = 4 * len(GIVEN_NAMES) * (len(GIVEN_NAMES) - 1)
    with pytest.raises(UserError, match=f"n is {there_are + 1}; .* to {there_are}"):
        coin_flip(n=there_are + 1, people=2)
