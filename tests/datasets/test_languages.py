"""The capitals in eight languages: the same facts in each, and nothing that gives them away."""

from __future__ import annotations

import importlib
from pathlib import Path

import pandas as pd
import pytest

from llmprobe.ground.files import shipped

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.read_csv(shipped("data") / "capitals_languages.csv", keep_default_na=False)


def test_each_language_has_the_same_facts_half_of_them_true(table: pd.DataFrame) -> None:
    facts = {
        language: sorted(zip(rows["fact"], rows["label"], rows["group"], strict=True))
        for language, rows in table.groupby("language")
    }
    assert len(facts) == 8
    assert all(of_language == facts["en"] for of_language in facts.values())
    assert set(table.groupby(["language", "fact"])["label"].mean()) == {0.5}
    assert not table["statement"].duplicated().any()


def test_within_a_group_each_name_is_once_true_and_once_false(table: pd.DataFrame) -> None:
    for name in ("country", "city"):
        assert set(table.groupby(["language", "group", name])["label"].mean()) == {0.5}


def test_the_script_writes_the_same_table(
    table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    babel = pytest.importorskip("babel")
    if babel.__version__ != "2.19.0":
        pytest.skip("names of another version of CLDR")
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = importlib.import_module("build_languages")
    (tmp_path / "capitals.csv").write_bytes((shipped("data") / "capitals.csv").read_bytes())
    monkeypatch.setattr(script, "DATA", tmp_path)
    script.main()
    own = pd.read_csv(tmp_path / "capitals_languages.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(own, table)
