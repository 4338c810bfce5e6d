"""The numbers on the pages of studies are those of the stored tables."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in (ROOT / "docs" / "studies").glob("*.md") if path.stem != "index")
BLOCK = re.compile(r"<!-- \w+ \w+ -->\n.*?<!-- end -->", re.DOTALL)
NUMBER = re.compile(r"(?<![\w./])\d?\.\d+(?![\w/])")


@pytest.fixture(scope="module")
def studies() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        return importlib.import_module("studies")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_tables_of_a_page_are_those_of_its_results(page: Path, studies: ModuleType) -> None:
    text = page.read_text(encoding="utf-8")
    assert studies.rendered(text) == text, "run python scripts/studies.py pages"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_number_of_the_prose_stands_in_a_table_of_the_page(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    tables = " ".join(BLOCK.findall(text))
    if named := re.search(r"<!-- numbers of (.*?) -->", text):
        tables += " ".join((ROOT / name).read_text(encoding="utf-8") for name in named[1].split())
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)|arXiv [\d.]+", "", BLOCK.sub("", text))
    assert set(NUMBER.findall(prose)) <= set(NUMBER.findall(tables))


@pytest.mark.parametrize(
    "made", sorted(ROOT.glob("docs/results/*/made.json")), ids=lambda p: p.parent.name
)
def test_a_result_is_of_the_config_as_it_stands(made: Path, studies: ModuleType) -> None:
    assert json.loads(made.read_text())["config"] == studies.config_digest(made.parent.name)


def test_a_number_that_was_changed_in_a_page_is_noticed(
    studies: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "made.json").write_text("{}")
    cells = {"model": ["m"], "train": ["a"], "test": ["a"], "train_layer": [3], "auroc": [0.9121]}
    pd.DataFrame(cells).to_csv(tmp_path / "own" / "transfer.csv", index=False)
    page = "Before\n\n<!-- transfer own -->\n<!-- end -->\n\nAfter\n"
    filled = studies.rendered(page, tmp_path)
    assert "| m | a | 3 | .91 |" in filled
    assert studies.rendered(filled, tmp_path) == filled
    assert studies.rendered(filled.replace(".91", ".93"), tmp_path) == filled


def test_a_study_is_made_again_at_small_n(
    studies: ModuleType, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    coins = {"name": "coin_flip", "as": "coin_flip-2", "n": 40}
    quick = {"permutations": 0, "controls": ["majority"], "folds": 2, "l2": 1.0}
    studies.make(
        "concept_depth", tmp_path / "results", models=[str(tiny_model())], datasets=[coins],
        probe=quick,
    )  # fmt: skip
    made = json.loads((tmp_path / "results" / "concept_depth" / "made.json").read_text())
    assert made["config"] == studies.config_digest("concept_depth")
    page = (
        "<!-- scores concept_depth -->\n<!-- end -->\n<!-- made concept_depth -->\n<!-- end -->\n"
    )
    filled = studies.rendered(page, tmp_path / "results")
    assert "coin_flip-2" in filled
    assert made["date"] in filled
    assert (tmp_path / "images" / "study_concept_depth_curves.png").is_file()


def test_a_page_says_which_run_is_missing(studies: ModuleType, tmp_path: Path) -> None:
    filled = studies.rendered("<!-- scores own -->\n<!-- end -->\n", tmp_path)
    assert "*Not run yet: `python scripts/studies.py make own`.*" in filled
