"""Texts without a field say the same of all examples, and keep their places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.load import load_dataset
from llmprobe.datasets.masking import masked
from llmprobe.ground.errors import UserError


def test_every_place_of_what_filled_a_field_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "cities.csv"
    table = pd.DataFrame({"city": ["Lima", "Rome"], "country": ["Peru", "Peru"], "label": [1, 0]})
    table.assign(text="x").to_csv(path, index=False)
    template = "{city} it is. Lima or Rome, {city} lies in {country}."
    dataset = load_dataset(str(path), template=template)
    without = masked(dataset, "city")
    assert without.texts == [
        "Something it is. something or Rome, something lies in Peru.",
        "Something it is. Lima or something, something lies in Peru.",
    ]
    assert without.name == "cities:without city"
    for name, value in (("country", "Peru"), ("city", "something")):
        for text, place in zip(without.texts, without.spans[name], strict=True):
            assert text[slice(*place)] == value
    assert (without.labels == dataset.labels).all()


def test_a_field_is_found_in_a_text_without_a_template() -> None:
    fields = pd.DataFrame({"city": ["Lima", "Ur"]})
    dataset = ConceptDataset("d", ["So Lima is.", "Ur was, but not Urbino."], np.array([0, 1]),
                             fields=fields)  # fmt: skip
    assert masked(dataset, "city").texts == ["So something is.", "Something was, but not Urbino."]
    with pytest.raises(UserError, match="town"):
        masked(dataset, "town")
