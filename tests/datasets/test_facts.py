"""Capitals and cities: are the facts right, and do words not tell them?"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from llmprobe.datasets.facts import capitals, cities
from llmprobe.datasets.registry import build
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import shipped
from llmprobe.probing.baselines import bag_of_words_accuracy
from llmprobe.probing.splits import assign_folds

FIRST = ["capital_is", "is_capital", "possessive", "called", "serves"]
AFFIRMED = [*FIRST, "has_as", "whose", "is_possessive", "in_country", "name_of", "cleft", "lives"]
NEGATED = ["capital_is_not", "is_not_capital", "possessive_not", "not_called", "does_not_serve"]


@pytest.fixture(scope="module")
def capitals_file() -> pd.DataFrame:
    return pd.read_csv(shipped("data") / "capitals.csv", keep_default_na=False)


@pytest.fixture(scope="module")
def cities_file() -> pd.DataFrame:
    return pd.read_csv(shipped("data") / "cities.csv", keep_default_na=False)


def assert_sentences_without_repeats(texts: list[str]) -> None:
    assert len(set(texts)) == len(texts)
    assert not [text for text in texts if not re.fullmatch(r"[A-Z0-9][A-Za-z0-9', -]+\.", text)]
    assert not [text for text in texts if re.search("  | The ", text)]


# Both


DATASETS = [
    *[("capitals", {"negatives": kind}) for kind in ("mixed", "hard", "easy")],
    *[("capitals", {"negatives": kind, "negated": True}) for kind in ("mixed", "hard")],
    ("capitals", {"templates": NEGATED}),
    ("cities", {}),
    ("cities", {"min_population": 1_000_000}),
]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *[("capitals", {"negatives": kind}) for kind in ("hard", "easy")],
        ("capitals", {"negated": True}),
        ("cities", {}),
    ],
)
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


@pytest.mark.parametrize("name", ["capitals", "cities"])
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
        ("capitals", {"negatives": "medium"}, "mixed, hard, easy"),
        ("capitals", {"templates": "question"}, "capital_is"),
        ("capitals", {"templates": ["called", "question"]}, "does_not_serve"),
        ("capitals", {"templates": []}, "capital_is"),
        ("capitals", {"negated": "both"}, "true or false"),
        ("cities", {"min_population": -1}, "from 0 to"),
        ("cities", {"min_population": 10**9}, "from 0 to"),
        ("cities", {"min_population": 1e6}, "a whole number"),
    ],
)
def test_an_option_out_of_range_names_what_is_allowed(
    name: str, options: dict[str, object], allowed: str
) -> None:
    option, value = next(iter(options.items()))
    message = rf"dataset '{name}': {option} is {re.escape(repr(value))}; allowed: .*{allowed}"
    with pytest.raises(UserError, match=message):
        build(name, **options)


# Capitals


def test_a_country_has_one_capital_and_two_other_cities(capitals_file: pd.DataFrame) -> None:
    answers = capitals_file.groupby(["country", "kind"])["city"].agg(["nunique", "size"])
    assert (answers["nunique"] == 1).all()
    assert (answers["size"] == len(AFFIRMED + NEGATED)).all()
    assert capitals_file["country"].nunique() == 181
    wide = answers.index.to_frame(index=False).groupby("country")["kind"].agg(set)
    assert all({"true", "easy"} <= kinds for kinds in wide)


def test_an_easy_city_is_a_capital_and_a_hard_one_is_not(capitals_file: pd.DataFrame) -> None:
    of_kind = {kind: set(rows["city"]) for kind, rows in capitals_file.groupby("kind")}
    assert of_kind["easy"] == of_kind["true"]
    assert not of_kind["hard"] & of_kind["true"]


def test_no_city_and_no_country_stands_in_two_groups(capitals_file: pd.DataFrame) -> None:
    for column in ("city", "country"):
        assert (capitals_file.groupby(column)["group"].nunique() == 1).all()
    members = capitals_file.groupby("group")["country"].unique()
    assert all("|".join(sorted(countries)) == group for group, countries in members.items())
    assert set(members.map(len)) <= {2, 3}


def test_a_label_is_the_truth_of_its_sentence_also_when_negated(
    capitals_file: pd.DataFrame,
) -> None:
    assert_sentences_without_repeats(capitals_file["statement"].tolist())
    forms = capitals_file.groupby("form")["template"].unique().map(list).to_dict()
    assert forms == {"affirmed": AFFIRMED, "negated": NEGATED}
    negated = capitals_file["statement"].str.contains(" not ")
    assert (negated == (capitals_file["form"] == "negated")).all()
    right = capitals_file["kind"] == "true"
    assert (capitals_file["label"] == (right ^ negated)).all()
    for row in capitals_file.itertuples():
        assert row.city in row.statement
        assert row.country in row.statement


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
    capitals_file: pd.DataFrame, country: str, capital: str
) -> None:
    true = capitals_file[(capitals_file["country"] == country) & (capitals_file["kind"] == "true")]
    assert set(true["city"]) == {capital}


@pytest.mark.parametrize(
    "country", ["Israel", "South Africa", "Bolivia", "Sri Lanka", "Benin", "Myanmar", "Eswatini"]
)
def test_disputed_and_several_capitals_are_left_out(
    capitals_file: pd.DataFrame, country: str
) -> None:
    assert country not in set(capitals_file["country"])


@pytest.mark.parametrize(
    ("negatives", "content"),
    [
        ("mixed", "88d6433ee20766f0b4d92d89e10ed2976f2f241f51acd26d39d8f52d797e2f7d"),
        ("hard", "55d44b283e867d646a4215b0768fb8fe5cf37a2d81a3a415d85f605161a9f2a5"),
        ("easy", "f3c5956e01e4549acdba535f0048ad8706472dcdf413c611110350c51eb5c242"),
    ],
)
def test_the_first_five_templates_are_the_dataset_of_version_1(
    negatives: str, content: str
) -> None:
    assert capitals(negatives=negatives, templates=FIRST).content_hash == content


@pytest.mark.parametrize("negatives", ["mixed", "hard", "easy"])
@pytest.mark.parametrize(
    ("templates", "negated", "kept"),
    [
        ("all", False, AFFIRMED),
        ("all", True, AFFIRMED + NEGATED),
        ("called", False, ["called"]),
        (["serves", "is_capital"], False, ["is_capital", "serves"]),
        (["serves"], True, ["serves", *NEGATED]),
        (["not_called", "called"], False, ["called", "not_called"]),
    ],
)
def test_every_country_and_template_has_a_true_and_a_false_statement(
    negatives: str, templates: str | list[str], negated: bool, kept: list[str]
) -> None:
    dataset = capitals(negatives=negatives, templates=templates, negated=negated)
    labels = dataset.to_pandas().groupby(["country", "template"])["label"].agg(["sum", "size"])
    assert (labels == [1, 2]).all(axis=None)
    assert len(labels) == (171 if negatives == "hard" else 181) * len(kept)
    assert dataset.fields["template"].unique().tolist() == kept
    kinds = {"mixed": {"true", "hard", "easy"}}.get(negatives, {"true", negatives})
    assert set(dataset.fields["kind"]) == kinds


def test_mixed_negatives_alternate_between_hard_and_easy() -> None:
    hard = set(capitals(negatives="hard").fields["country"])
    fields = capitals(negated=True).fields
    wrong = fields[fields["country"].isin(hard) & (fields["kind"] != "true")]
    for column in ("country", "template"):
        counts = wrong.groupby(column)["kind"].value_counts().unstack()
        assert (abs(counts["hard"] - counts["easy"]) <= (1 if column == "country" else 20)).all()


def test_the_groups_of_capitals_are_those_of_the_file(capitals_file: pd.DataFrame) -> None:
    dataset = build("capitals")
    group_of = capitals_file.set_index("statement")["group"]
    assert dataset.groups is not None
    assert dataset.groups.tolist() == [group_of[text] for text in dataset.texts]


@pytest.mark.parametrize("negatives", ["mixed", "hard", "easy"])
@pytest.mark.parametrize("templates", ["all", FIRST, AFFIRMED[:1]])
def test_variants_of_a_capital_keep_its_label_and_group(
    capitals_file: pd.DataFrame, negatives: str, templates: str | list[str]
) -> None:
    dataset = capitals(negatives=negatives, templates=templates)
    others = set(AFFIRMED) - set(dataset.fields["template"])
    about = {row.statement: row for row in capitals_file.itertuples()}
    rows = [about[text] for text in dataset.texts]
    city = {(row.country, row.template, row.label): row.city for row in rows}
    for row, texts in zip(rows, dataset.variants["paraphrase_template"], strict=True):
        found = [about[text] for text in texts]
        assert {one.template for one in found} == (others or set(AFFIRMED) - {row.template})
        assert {(one.country, one.city, one.label) for one in found} == {
            (row.country, row.city, row.label)
        }
    for row, texts in zip(rows, dataset.variants["negation"], strict=True):
        [one] = [about[text] for text in texts]
        assert one.template == NEGATED[AFFIRMED.index(row.template) % len(NEGATED)]
        denied = city[row.country, row.template, 1 - row.label]
        assert (one.country, one.city, one.label) == (row.country, denied, row.label)


def test_the_negations_of_the_first_templates_are_all_different() -> None:
    dataset = build("capitals", templates=AFFIRMED[: len(NEGATED)])
    negations = [text for [text] in dataset.variants["negation"]]
    assert len(set(negations)) == len(dataset)


@pytest.mark.parametrize("options", [{"negated": True}, {"templates": ["called", "not_called"]}])
def test_there_are_no_variants_where_statements_are_negated(options: dict[str, object]) -> None:
    assert build("capitals", **options).variants == {}


# Cities


def test_within_a_group_each_city_and_country_is_once_true_and_once_false(
    cities_file: pd.DataFrame,
) -> None:
    assert (cities_file.groupby("group").size() == 4).all()
    for column in ("city", "country"):
        labels = cities_file.groupby(["group", column])["label"].agg(["sum", "size"])
        assert (labels == [1, 2]).all(axis=None)
    assert cities_file.groupby("city")["group"].nunique().max() == 1
    assert cities_file["city"].nunique() >= 2000
    assert ((cities_file["kind"] == "true") == (cities_file["label"] == 1)).all()


def test_a_city_statement_says_what_its_columns_say(cities_file: pd.DataFrame) -> None:
    said = cities_file["statement"].str.extract(r"^The city of (.+) is in (?:the )?(.+)\.$")
    assert (said[0] == cities_file["city"]).all()
    assert (said[1] == cities_file["country"]).all()


@pytest.mark.parametrize(
    ("city", "country"),
    [
        ("Almaty", "Kazakhstan"),
        ("Cape Town", "South Africa"),
        ("Chongqing", "China"),
        ("Istanbul", "Turkey"),
        ("Lahore", "Pakistan"),
        ("London", "United Kingdom"),
        ("New York City", "United States"),
        ("Sao Paulo", "Brazil"),
        ("Toronto", "Canada"),
        ("Vladivostok", "Russia"),
    ],
)
def test_known_cities_are_in_their_country(
    cities_file: pd.DataFrame, city: str, country: str
) -> None:
    true = cities_file[(cities_file["city"] == city) & (cities_file["label"] == 1)]
    assert true["country"].tolist() == [country]


@pytest.mark.parametrize(
    "city",
    [
        *["Simferopol", "Sevastopol", "Donetsk", "Jerusalem", "Srinagar", "Tiraspol", "Hargeysa"],
        *["Taipei", "Hong Kong", "Macau", "Pristina", "Gaza", "Laayoune"],
        *["Mexico City", "Singapore", "Tunis", "Santiago de Cuba"],
        *["Brooklyn", "Pudong", "Birmingham", "Hyderabad", "San Jose"],
        *["Longling County", "Chengguan Qu", "Linxia Chengguanzhen", "Thi Tran Thuan Chau"],
        *["Magugpo Poblacion", "Fukui-shi", "Jhang Sadr", "Nagar Naluakot", "NIA Valencia"],
        *["Meads", "Tri-Cities", "Daxing'anling", "Shinagawa", "Mentougou", "Wanxian", "Mwala"],
    ],
)
def test_what_is_disputed_telling_ambiguous_or_no_city_is_left_out(
    cities_file: pd.DataFrame, city: str
) -> None:
    assert city not in set(cities_file["city"])


def test_no_city_is_called_as_a_country_that_it_is_said_to_be_in(
    cities_file: pd.DataFrame,
) -> None:
    for city, country in zip(cities_file["city"], cities_file["country"], strict=True):
        assert city.lower() not in country.lower()
        assert country.lower() not in city.lower()


def test_cities_of_neighbours_are_not_exchanged(cities_file: pd.DataFrame) -> None:
    pairs = {frozenset(rows["country"]) for _, rows in cities_file.groupby("group")}
    assert all(len(pair) == 2 for pair in pairs)
    for neighbours in (
        {"Ireland", "United Kingdom"},
        {"Niger", "Nigeria"},
        {"Georgia", "United States"},
        {"China", "India"},
        {"Mexico", "United States"},
    ):
        assert neighbours not in pairs


def test_a_least_population_keeps_whole_pairs() -> None:
    everything, large = cities(), cities(min_population=1_000_000)
    assert 300 <= len(large) < len(everything)
    assert large.fields["population"].min() >= 1_000_000
    assert (np.unique(large.groups, return_counts=True)[1] == 4).all()
    smaller = everything.to_pandas().groupby("group")["population"].min()
    assert set(large.groups) == set(smaller.index[smaller >= 1_000_000])


def test_the_negation_of_a_city_denies_the_other_country_of_its_pair() -> None:
    dataset = cities()
    rows = list(zip(dataset.fields["city"], dataset.labels.tolist(), strict=True))
    about = dict(zip(dataset.texts, rows, strict=True))
    for (city, label), [negation] in zip(rows, dataset.variants["negation"], strict=True):
        assert about[negation.replace(" is not in ", " is in ")] == (city, 1 - label)
