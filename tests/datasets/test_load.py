"""From a name, a file or a config section to texts and labels."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from toy import write_table

from llmprobe.config.load import dataset_config
from llmprobe.config.schema import DatasetConfig, RunConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.load import load_dataset
from llmprobe.datasets.published.files import without_downloads
from llmprobe.datasets.registry import REGISTRY, Entry
from llmprobe.ground.errors import UserError
from llmprobe.runs.pipeline import Run


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "my.csv"
    path.write_text(
        "statement,truth,city,country\n"
        "Lima is in Peru,yes,Lima,Peru\n"
        "Lima is in France,no,Lima,\n"
        "Bern is in France,no,Bern,France\n"
        "Paris is in France,yes,Paris,France\n"
    )
    return path


COLUMNS = {"text": "statement", "label": "truth", "group": "city"}


def test_keywords_are_those_of_a_config_mapping(table: Path) -> None:
    by_keywords = load_dataset(str(table), **COLUMNS, template="{text}?", n=3, seed=4)
    by_config = load_dataset(DatasetConfig(path=table, **COLUMNS, template="{text}?", n=3, seed=4))
    assert by_keywords.to_pandas().equals(by_config.to_pandas())
    assert len(by_keywords) <= 3


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("capitols", {}, "did you mean 'capitals'"),
        ("capitals", {"tempalte": "{text}"}, "tempalte: unknown key; did you mean 'template'?"),
        ("capitals", {"options": {"negative": "hard"}}, "did you mean 'negatives'?"),
        ("capitals", {"options": {"templates": [["a"]]}}, "templates is"),
        ("capitals", {"options": {"templates": {"a": "b"}}}, "templates is"),
        ("capitals", {"options": {"templates": 3}}, "templates is 3"),
        ("coin_flip", {"options": {"people": "four"}}, "people is 'four'; allowed: a whole number"),
        ("coin_flip", {"n": 0}, "n: 0 is not allowed"),
        ("capitals", {"group": "city"}, "group names a column of a file"),
        ("notes.txt", {}, r"files end in .csv"),
        ("", {}, "needs a name, a path or hub"),
    ],
)
def test_what_is_not_known_is_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_dataset(name, **options)
    assert words in str(caught.value)


def test_a_generated_dataset_makes_as_many_as_are_asked_for() -> None:
    assert len(load_dataset("coin_flip", n=1200)) == 1200
    assert load_dataset("coin_flip", n=10, seed=1).texts != load_dataset("coin_flip", n=10).texts


def test_a_shipped_dataset_is_drawn_from() -> None:
    few, all_of_it = load_dataset("capitals", n=100), load_dataset("capitals")
    assert 80 <= len(few) <= 100
    assert set(few.texts) < set(all_of_it.texts)
    assert load_dataset("capitals", n=10**6).texts == all_of_it.texts
    assert load_dataset("capitals", n=100, seed=1).texts != few.texts
    assert load_dataset("capitals", n=100, seed=0).texts == few.texts


def test_a_table_calls_a_dataset_by_its_alias() -> None:
    assert load_dataset(DatasetConfig.model_validate({"name": "capitals", "as": "c"})).name == "c"


def test_a_template_takes_the_text_and_the_other_columns(table: Path) -> None:
    dataset = load_dataset(table, **COLUMNS, template="About {city}: {text}. {{True}}?")
    assert dataset.texts[0] == "About Lima: Lima is in Peru. {True}?"


def test_a_template_knows_where_each_field_stands(table: Path) -> None:
    dataset = load_dataset(table, **COLUMNS, template="{{x}} {city!r:>12}: {text} ({city})?")
    plain = load_dataset(table, **COLUMNS)
    for name, filled in (("city", plain.fields["city"]), ("text", plain.texts)):
        for row, (start, stop) in enumerate(dataset.spans[name]):
            assert dataset.texts[row][start:stop] == filled[row]
            # Of two places, the last one.
            assert dataset.texts[row].rfind(filled[row]) == start


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{txet}", "template field {txet}: did you mean 'text'?"),
        ("{truth}: {text}", "template field {truth}: "),
        ("{}", "template field {}: "),
        ("{text.__class__}", "template field {text.__class__}: "),
        ("{country}: {text}", "template field {country}: row 2: no value"),
        ("{text:d}", "template '{text:d}' cannot be filled: "),
        ("{text:{width}}", "a width or a precision is a number of three digits at most"),
        ("{text:>9999999999}", "three digits at most"),
        ("{text!r:.9999999999}", "three digits at most"),
        ("{text", "is not allowed: "),
        ("nothing", "has no field"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(
    table: Path, template: str, words: str
) -> None:
    with pytest.raises(UserError) as caught:
        load_dataset(table, **COLUMNS, template=template)
    assert words in str(caught.value)


def test_a_template_does_not_change_what_is_drawn() -> None:
    plain = load_dataset("capitals", n=50, seed=3)
    asked = load_dataset("capitals", n=50, seed=3, template="{text}?")
    assert asked.texts == [f"{text}?" for text in plain.texts]


def test_what_misleads_is_said_in_a_warning_that_names_the_dataset(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        load_dataset(write_table(tmp_path / "toy.csv"))
    assert [record.getMessage() for record in caplog.records] == [
        "toy: a single word gives labels away: 'blue' is in 50.0 % of the texts, 100.0 % of them "
        "labelled 1; 'red' is in 50.0 % of the texts, 100.0 % of them labelled 0; the best one "
        "alone gets 100.0 % right, the majority class 50.0 %"
    ]


def test_without_anything_to_say_there_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        load_dataset("coin_flip", n=200)
    assert not caplog.records


def test_what_cannot_be_probed_can_be_loaded_and_is_refused_by_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "my.csv"
    path.write_text("text,label\n" + "the same,0\nthe same,1\n" * 10)
    said = "all 20 texts are the same: 'the same'"
    with caplog.at_level(logging.WARNING):
        assert len(load_dataset(path)) == 20
    assert f"my: {said}" in caplog.text
    config = RunConfig.model_validate({"models": ["none"], "datasets": [str(path)]})
    with pytest.raises(UserError, match=f"dataset 'my': {said}"):
        Run(config, tmp_path)


def test_a_perturbation_comes_before_the_template_and_is_not_changed_by_sampling() -> None:
    noisy = load_dataset("capitals", perturb={"kind": "prefix_noise"}, template="Q: {text}")
    assert {text[:6] for text in noisy.texts} == {"Q: aaa", "Q: bbb"}
    some = load_dataset("capitals", perturb="prefix_noise", template="Q: {text}", n=100)
    assert set(some.texts) < set(noisy.texts)


def test_a_known_template_is_used_unless_another_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def asked() -> ConceptDataset:
        texts = [f"text {i}" for i in range(20)]
        return ConceptDataset("asked", texts, np.arange(20) % 2, template="{text}. True?")

    monkeypatch.setitem(REGISTRY._entries, "asked", Entry("asked", asked, "", "yours"))
    assert load_dataset("asked").texts[3] == "text 3. True?"
    assert load_dataset("asked", template="{text}").texts[3] == "text 3"
    assert load_dataset("asked").template == ""


def test_a_config_takes_no_keywords_beside_it() -> None:
    with pytest.raises(UserError, match="load_dataset: n belongs in the DatasetConfig"):
        load_dataset(DatasetConfig(name="capitals"), n=5)


def test_a_mapping_is_that_of_a_config() -> None:
    assert load_dataset({"name": "coin_flip", "n": 4, "as": "coins"}).name == "coins"
    assert len(load_dataset({"name": "coin_flip", "n": 4}, n=6)) == 6
    with pytest.raises(UserError, match="'list' is no name, path or mapping"):
        load_dataset([1, 2])  # type: ignore[arg-type]


def test_a_folder_and_a_hub_id_are_told_how_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved").mkdir()
    with pytest.raises(UserError, match=r"'saved' is not known; .*write \./saved"):
        load_dataset("saved")
    with pytest.raises(UserError, match="write hub:stanfordnlp/imdb"):
        load_dataset("stanfordnlp/imdb")


@pytest.mark.parametrize("download", [True, False])
def test_a_dataset_of_the_hub_is_downloaded_only_where_that_is_allowed(
    monkeypatch: pytest.MonkeyPatch, download: bool
) -> None:
    def table(_: DatasetConfig, allowed: bool) -> tuple[pd.DataFrame, str]:
        assert allowed is download
        return pd.DataFrame({"text": ["a", "b"], "label": [0, 1]}), "a/b@1"

    monkeypatch.setattr("llmprobe.datasets.from_config.table_from_hub", table)
    with nullcontext() if download else without_downloads():
        assert load_dataset(hub="a/b").source == "a/b@1"


def test_datasets_of_the_hub_are_named_by_their_id() -> None:
    config = dataset_config("hub:stanfordnlp/imdb", split="test")
    assert (config.hub, config.title) == ("stanfordnlp/imdb", "imdb")
