"""Of a folder that is damaged, half-finished or old, what there is is read, and the rest named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llmprobe import UserError
from llmprobe.config.schema import ProbeConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.ground.digests import DIGESTS
from llmprobe.probing.protocol import probe_layers
from llmprobe.results.columns import columns_of
from llmprobe.results.folder import examples_of, read_results, write_results
from llmprobe.results.results import Results

TABLES = ("results", "summary", "predictions", "examples", "learning_curve")
DETAILS = TABLES[2:]
FACTS = {"python": "3.12.4", "models": [{"name": "net"}], "datasets": [{"name": "a", "n": 40}]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one model on two datasets, never changed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    rng, labels = np.random.default_rng(0), np.arange(40) % 2
    config = ProbeConfig(learning_curve=(0.5,), permutations=0, folds=2, l2=1.0)
    datasets = [ConceptDataset(name, [f"{name} {i}" for i in range(40)], labels) for name in "ab"]
    noise = rng.normal(size=(2, 40, 3))
    layers = {0: noise[0], 1: noise[1] + labels[:, None]}
    parts = [
        probe_layers(layers, labels, model="net", dataset=name, config=config, progress=False)
        for name in "ab"
    ]
    results = replace(
        Results.concatenate(parts),
        examples=examples_of(datasets),
        environment=FACTS,
        config="name: net\n",
    )
    write_results(out, results)
    return out


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """The same, free to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def table(run: Results, name: str) -> pd.DataFrame:
    found: pd.DataFrame = getattr(run, "table" if name == "results" else name)
    return found


def change(path: Path, how: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Change a table, and say that the change is meant."""
    how(pd.read_parquet(path)).to_parquet(path, index=False)
    (path.parent / DIGESTS).unlink(missing_ok=True)


def test_a_whole_run_is_read_without_a_note(whole: Path) -> None:
    run = read_results(whole)
    assert run.notes == ()
    for name in TABLES:
        pd.testing.assert_frame_equal(table(run, name), pd.read_parquet(whole / f"{name}.parquet"))
    assert (run.config, run.environment) == ("name: net\n", FACTS)


def test_without_details_only_results_and_summary_are_read(out: Path) -> None:
    for name in DETAILS:
        (out / f"{name}.parquet").write_bytes(b"damaged")
    run = read_results(out, details=False)
    assert run.notes == ()
    assert [len(table(run, name)) for name in TABLES] == [4, 2, 0, 0, 0]


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-300]),
    "garbage": lambda path: path.write_bytes(b"x" * 1000),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", DETAILS)
def test_a_damaged_table_is_named_and_all_others_are_read(
    whole: Path, out: Path, name: str, damage: str
) -> None:
    DAMAGES[damage](out / f"{name}.parquet")
    run = read_results(out)
    (note,) = run.notes
    assert note.startswith(f"{out / name}.parquet: missing or damaged (")
    assert note.count(str(out)) == 1
    assert "\n" not in note
    for other in TABLES:
        expected = pd.read_parquet(whole / f"{other}.parquet")
        if other != name:
            pd.testing.assert_frame_equal(table(run, other), expected)
        else:
            assert table(run, name).empty
            assert set(table(run, name).columns) <= set(expected.columns)


CHANGED = "(it is not as it was written; if the change is yours, remove digests.json)"


@pytest.mark.parametrize(
    "name", [*(f"{name}.parquet" for name in DETAILS), "config.yaml", "environment.json"]
)
def test_a_file_with_other_content_is_named_and_not_read(out: Path, name: str) -> None:
    path = out / name
    if path.suffix == ".parquet":
        rows = pd.read_parquet(path)
        rows.iloc[::-1].to_parquet(path, index=False)
    else:
        path.write_text(path.read_text().replace("net", "not"))
    run = read_results(out)
    assert run.notes == (f"{path}: missing or damaged {CHANGED}; run the config again",)
    assert run.config == ("" if name == "config.yaml" else "name: net\n")
    assert run.environment == ({"models": [], "datasets": []} if path.suffix == ".json" else FACTS)
    (out / DIGESTS).unlink()
    assert read_results(out).notes == ()


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [("results", "accuracy", "high"), ("results", "layer", 0.5), ("results", "dataset", ["a"]),
     ("summary", "peak_accuracy", b"1"), ("summary", "model", 5), ("summary", "own", {"a": 1})],
)  # fmt: skip
def test_a_strangers_table_of_other_types_is_refused(
    out: Path, name: str, column: str, value: object
) -> None:
    (out / DIGESTS).unlink()  # A stranger can leave them out, or write others.
    path = out / f"{name}.parquet"
    rows = pd.read_parquet(path)
    rows.assign(**{column: pd.Series([value] * len(rows))}).to_parquet(path, index=False)
    with pytest.raises(UserError, match=f"{name}.parquet: missing or damaged .*{column}"):
        read_results(out)


def test_a_table_of_another_run_is_not_read(whole: Path, out: Path) -> None:
    results = read_results(whole)
    other = replace(results, table=results.table.assign(accuracy=0.5))
    write_results(out.parent / "other", other)
    shutil.copy(out.parent / "other" / "results.parquet", out)
    with pytest.raises(
        UserError, match=r"results.parquet: missing or damaged .it is not as it was"
    ):
        read_results(out)


@pytest.mark.parametrize("content", [b"", b"{}", None])
def test_without_whole_digests_nothing_is_taken_for_whole(out: Path, content: bytes | None) -> None:
    path = out / DIGESTS
    path.write_bytes(path.read_bytes().replace(b"1", b"2") if content is None else content)
    with pytest.raises(UserError, match=r"digests.json is damaged; remove it to read files un"):
        read_results(out)


@pytest.mark.parametrize("name", ["results", "summary"])
def test_without_results_or_summary_there_is_nothing_to_show(out: Path, name: str) -> None:
    (out / f"{name}.parquet").write_bytes(b"damaged")
    with pytest.raises(UserError, match=rf"{name}.parquet: missing or damaged \("):
        read_results(out)
    (out / f"{name}.parquet").unlink()
    with pytest.raises(UserError, match=f"{name}.parquet: missing; the run has no results yet"):
        read_results(out)


@pytest.mark.parametrize(
    ("name", "column"), [("results", "ece"), ("summary", "stays_above_half_depth")]
)
def test_columns_of_another_version_are_missing_numbers(out: Path, name: str, column: str) -> None:
    change(out / f"{name}.parquet", lambda rows: rows.drop(columns=column))
    run = read_results(out)
    (note,) = run.notes
    assert f"another version of llmprobe made it, so {column} is not known" in note
    assert table(run, name)[column].isna().all()
    assert len(run.table) == 4


def test_many_columns_of_another_version_are_counted(out: Path) -> None:
    absent = [name for name in columns_of("summary") if name.startswith("said_")]
    change(out / "summary.parquet", lambda rows: rows.drop(columns=absent))
    (note,) = read_results(out).notes
    count = len(absent) - 1
    assert count > 4
    assert f"so said_accuracy and {count} more are not known" in note


def test_predictions_of_an_earlier_version_have_no_places(out: Path) -> None:
    change(out / "predictions.parquet", lambda rows: rows.drop(columns=["along", "across"]))
    run = read_results(out)
    assert len(run.predictions) == 2 * 2 * 40
    (note,) = run.notes
    assert "another version of llmprobe made it, so across and along are not known" in note


def test_missing_predictions_are_named_and_other_missing_details_are_none(out: Path) -> None:
    for name in DETAILS:
        (out / f"{name}.parquet").unlink()
    run = read_results(out)
    (note,) = run.notes
    assert note.startswith(f"{out / 'predictions.parquet'}: missing, so ")
    assert all(table(run, name).empty for name in DETAILS)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("predictions", lambda rows: rows.iloc[1:]),
        ("predictions", lambda rows: pd.concat([rows, rows.head(1)])),
        ("predictions", lambda rows: rows.assign(example=rows["example"].replace(3, 4))),
        ("predictions", lambda rows: rows.assign(layer=rows["layer"].replace(1, np.nan))),
        ("examples", lambda rows: pd.concat([rows, rows.head(1)])),
        ("examples", lambda rows: rows.assign(example=np.nan)),
    ],
)
def test_tables_that_lack_rows_or_have_them_twice_are_damaged(
    out: Path, name: str, how: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    change(out / f"{name}.parquet", how)
    run = read_results(out)
    assert table(run, name).empty
    assert run.notes == (
        f"{out / name}.parquet: missing or damaged (rows are missing, or are there twice); run the "
        "config again",
    )


def test_of_tables_of_different_runs_what_both_have_is_shown(out: Path) -> None:
    change(out / "summary.parquet", lambda rows: rows.assign(dataset=["a", "c"]))
    run = read_results(out)
    assert set(run.table["dataset"]) == set(run.summary["dataset"]) == {"a"}
    (note,) = run.notes
    assert "its results and its summary are not of the same run" in note
    change(out / "summary.parquet", lambda rows: rows.assign(dataset=["c", "d"]))
    with pytest.raises(UserError, match="not of the same run"):
        read_results(out)


@pytest.mark.parametrize(
    "content", [None, "", "[]", '{"models": ', '{"models": [{}]}', '{"models": 3}', '{"a": 1}']
)
def test_a_damaged_environment_is_named(out: Path, content: str | None) -> None:
    path = out / "environment.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    run = read_results(out)
    assert run.environment == {"models": [], "datasets": []}
    (note,) = run.notes
    assert note.startswith(f"{path}: missing or damaged (")


def test_an_environment_of_an_earlier_version_has_no_datasets(out: Path) -> None:
    (out / DIGESTS).unlink()
    (out / "environment.json").write_text(json.dumps({"models": [{"name": "net"}]}))
    assert read_results(out).environment == {"models": [{"name": "net"}], "datasets": []}


def test_a_config_is_shown_as_it_is_and_missed_if_it_is_not_there(out: Path) -> None:
    path = out / "config.yaml"
    (out / DIGESTS).unlink()
    path.write_bytes(b"name: caf\xe9\n")
    assert read_results(out).config == "name: caf\ufffd\n"
    path.unlink()
    run = read_results(out)
    assert run.config == ""
    assert run.notes == (f"{path}: missing, so what the run was asked for is not known",)


def test_what_is_no_run_folder_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def said() -> str:
        with pytest.raises(UserError) as caught:
            read_results(folder)
        assert str(caught.value).startswith(f"{folder}: ")
        return str(caught.value)

    assert "not a run folder (there is no such folder)" in said()
    folder.touch()
    assert "not a run folder (it is a file)" in said()
    folder.unlink()
    folder.mkdir()
    assert "not a run folder (the folder is empty)" in said()
    (folder / "notes.txt").touch()
    assert "not a run folder (it has no config.yaml)" in said()
    (folder / "parts").mkdir()
    assert "the run was stopped before it had results; start it again to go on" in said()
