"""Perturbations: texts change as they should; labels, groups and fields stay."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from llmprobe.config.load import validated
from llmprobe.config.schema import PerturbConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.perturb import perturbed
from llmprobe.datasets.templates import templated
from llmprobe.ground.errors import UserError

KINDS = ["prefix_noise", "typos", "case", "negation", "paraphrase_template"]
CITIES = ["Lima", "Bern", "Kathmandu", "Ouagadougou"] * 25


@pytest.fixture
def facts() -> ConceptDataset:
    """100 statements in 25 groups, which offer a negation and two paraphrases each."""
    return ConceptDataset(
        name="facts",
        texts=[f"The government mentions {city} repeatedly." for city in CITIES],
        labels=np.arange(100) % 2,
        groups=np.arange(100) // 4,
        spans={"text": [(0, 3)] * 100},
        fields=pd.DataFrame({"city": CITIES}),
        variants={
            "negation": [[f"{city}: not mentioned."] for city in CITIES],
            "paraphrase_template": [[f"one {city}", f"two {city}"] for city in CITIES],
        },
    )


def texts(dataset: ConceptDataset, **config: object) -> list[str]:
    return perturbed(dataset, PerturbConfig(**config)).texts


@pytest.mark.parametrize("kind", KINDS)
def test_labels_groups_and_fields_stay(facts: ConceptDataset, kind: str) -> None:
    other = perturbed(facts, PerturbConfig(kind=kind))
    assert other.labels.tolist() == facts.labels.tolist()
    assert other.groups.tolist() == facts.groups.tolist()
    assert other.fields.equals(facts.fields)
    assert other.texts != facts.texts


@pytest.mark.parametrize("kind", ["prefix_noise", "typos", "paraphrase_template"])
def test_the_seed_alone_fixes_the_texts(facts: ConceptDataset, kind: str) -> None:
    first, again, other = (texts(facts, kind=kind, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_spans_and_wordings_of_the_old_texts_are_dropped(facts: ConceptDataset) -> None:
    other = perturbed(facts, PerturbConfig(kind="case"))
    assert other.spans == {}
    assert other.variants == {}


def test_prefix_noise_is_a_fair_coin_right_before_the_text(facts: ConceptDataset) -> None:
    heads = [text[:3] for text in texts(facts, kind="prefix_noise")]
    assert [text[3:] for text in texts(facts, kind="prefix_noise")] == facts.texts
    assert set(heads) == {"aaa", "bbb"}
    assert 30 <= heads.count("aaa") <= 70


def test_noise_stands_before_the_text_inside_the_template(facts: ConceptDataset) -> None:
    noisy = templated(perturbed(facts, PerturbConfig(kind="prefix_noise")), "True? {text} {city}")
    assert noisy.texts[1][6:9] in ("aaa", "bbb")
    assert noisy.texts[1].endswith(facts.texts[1] + " Bern")


def test_typos_change_about_that_share_of_the_long_words(facts: ConceptDataset) -> None:
    words = [word for text in facts.texts for word in text.rstrip(".").split()]
    for rate in (0.1, 0.5):
        changed = [w for text in texts(facts, kind="typos", rate=rate)
                   for w in text.rstrip(".").split()]  # fmt: skip
        assert len(changed) == len(words)
        differ = [(a, b) for a, b in zip(words, changed, strict=True) if a != b]
        long = sum(len(word) >= 4 for word in words)
        assert abs(len(differ) / long - rate) < 0.08
        for old, new in differ:
            assert len(old) >= 4
            assert (old[0], old[-1]) == (new[0], new[-1])
            assert abs(len(old) - len(new)) == 1 or sorted(old) == sorted(new)


def test_every_kind_of_typo_occurs(facts: ConceptDataset) -> None:
    lengths = [
        len(new) - len(old)
        for old, new in zip(facts.texts, texts(facts, kind="typos", rate=0.2), strict=True)
        if new != old
    ]
    assert {-1, 0, 1} <= set(lengths)


@pytest.mark.parametrize(("to", "expected"), [("upper", str.upper), ("lower", str.lower)])
def test_case_is_changed_as_asked(facts: ConceptDataset, to: str, expected) -> None:  # type: ignore[no-untyped-def]
    assert texts(facts, kind="case", to=to) == [expected(text) for text in facts.texts]


def test_random_case_changes_letters_and_no_words(facts: ConceptDataset) -> None:
    changed = texts(facts, kind="case", to="random")
    assert [text.lower() for text in changed] == [text.lower() for text in facts.texts]
    upper = sum(letter.isupper() for text in changed for letter in text)
    letters = sum(letter.isalpha() for text in changed for letter in text)
    assert 0.45 < upper / letters < 0.55


def test_other_wordings_are_those_that_the_dataset_offers(facts: ConceptDataset) -> None:
    assert texts(facts, kind="negation") == [f"{city}: not mentioned." for city in CITIES]
    words = [text.split() for text in texts(facts, kind="paraphrase_template")]
    assert [city for _, city in words] == CITIES
    assert {head for head, _ in words} == {"one", "two"}


def test_ones_own_templates_paraphrase_any_dataset_with_fields(facts: ConceptDataset) -> None:
    own = texts(facts, kind="paraphrase_template", templates=["In {city}", "{city}: {text}"])
    for text, city, old in zip(own, CITIES, facts.texts, strict=True):
        assert text in (f"In {city}", f"{city}: {old}")
    assert len({text.startswith("In ") for text in own}) == 2


def test_what_a_dataset_does_not_offer_is_an_error_that_says_what_it_does(
    facts: ConceptDataset,
) -> None:
    plain = ConceptDataset("plain", ["a", "b"], np.array([0, 1]))
    with pytest.raises(
        UserError, match="dataset 'plain': perturb: no negation; it offers no other"
    ):
        texts(plain, kind="negation")
    facts.variants.pop("negation")
    with pytest.raises(UserError, match="no negation; it offers paraphrase_template"):
        texts(facts, kind="negation")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"kind": "typo"}, "kind: 'typo' is not allowed"),
        ({"kind": "typos", "rate": 0}, "rate: 0 is not allowed"),
        ({"kind": "case", "rate": 0.5}, "rate belongs to typos, not to case"),
        ({"kind": "typos", "to": "lower"}, "to belongs to case"),
        ({"kind": "case", "templates": ["{text}"]}, "templates belongs to paraphrase_template"),
        ({"kind": "paraphrase_template", "templates": ["{city"]}, "templates: "),
        ({"kind": "paraphrase_template", "templates": ["no"]}, "has no field; it needs at least"),
    ],
)
def test_a_wrong_perturbation_is_one_sentence(raw: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validated(PerturbConfig, raw, "c.yaml")
