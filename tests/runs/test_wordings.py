"""Datasets are the same examples in other words where their configs differ in wording alone."""

from llmprobe.config.schema import DatasetConfig
from llmprobe.runs.wordings import wordings

CAPITALS = {"name": "capitals", "n": 100}


def of(*configs: dict[str, object]) -> dict[str, str]:
    return wordings(
        (dataset.title, dataset.model_dump(mode="json"))
        for dataset in (DatasetConfig(**config) for config in configs)
    )


def test_a_perturbation_a_template_and_a_name_are_wording() -> None:
    typos = CAPITALS | {"as": "typos", "perturb": "typos"}
    asked = CAPITALS | {"as": "asked", "template": "True or false? {text}"}
    assert of(CAPITALS, typos, asked) == dict.fromkeys(("capitals", "typos", "asked"), "capitals")


def test_other_examples_are_not_the_same_in_other_words() -> None:
    more = CAPITALS | {"as": "more", "n": 200}
    other = {"name": "cities", "n": 100}
    assert of(CAPITALS, more, other) == {"capitals": "capitals", "more": "more", "cities": "cities"}


def test_of_a_file_the_name_says_nothing() -> None:
    assert of({"path": "a.csv"}, {"path": "a.csv", "name": "b"}) == {"a": "a", "b": "a"}
    assert of({"path": "a.csv"}, {"path": "b.csv"}) == {"a": "a", "b": "b"}
