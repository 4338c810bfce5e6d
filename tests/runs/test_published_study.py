"""The protocol of Jin et al. (2024), and their numbers under a run's own curves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from test_compare import examples, make_run
from toy import write_config, write_table

import llmprobe
from llmprobe import UserError
from llmprobe.cli.main import main
from llmprobe.config.load import load_config
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.jin2024 import split_of_jin2024
from llmprobe.results.depth import converging_layer
from llmprobe.results.folder import read_results
from llmprobe.results.published import jin2024
from llmprobe.runs.compare import compare
from llmprobe.runs.pipeline import Run
from llmprobe.runs.report import FOLDER_KINDS


def test_the_protocol_fills_in_what_the_study_did_and_the_config_comes_before_it(
    tmp_path: Path,
) -> None:
    table = write_table(tmp_path / "own.csv")
    path = write_config(tmp_path / "run.yaml", "m", table, protocol="jin2024", probe={})
    config = load_config(path)
    assert config.extract.site == "post_attention_norm"
    assert (config.probe.kind, config.probe.permutations) == ("unscaled", 0)
    path.write_text(config.to_yaml())
    assert load_config(path) == config
    write_config(path, "m", table, protocol="jin2024", probe={"permutations": 20})
    assert (load_config(path).probe.permutations, load_config(path).probe.kind) == (20, "unscaled")
    assert load_config("jin2024").protocol == "llmprobe"


def test_its_split_is_scikit_learns_of_one_class_after_the_other() -> None:
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(101) % 2)
    groups = np.arange(101) // 2
    dataset = ConceptDataset("own", [f"text {i}" for i in range(101)], labels, groups)
    split = split_of_jin2024(dataset)
    rows = np.concatenate([np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)])
    train, test = train_test_split(rows, test_size=0.4, random_state=42)
    assert split.groups is None
    assert split.test is not None
    assert set(np.flatnonzero(split.test)) == set(test)
    assert len(split) - split.test.sum() == len(train)


def test_a_text_on_both_sides_of_its_split_is_not_trained_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    texts = [f"text {i % 40}" for i in range(60)]
    dataset = ConceptDataset("own", texts, np.arange(60) % 2)
    with caplog.at_level(logging.WARNING):
        split = split_of_jin2024(dataset)
    assert split.test is not None
    sides = [{t for t, s in zip(split.texts, split.test, strict=True) if s == side}
             for side in (True, False)]  # fmt: skip
    assert not sides[0] & sides[1]
    assert "they are left out" in caplog.text
    with pytest.raises(UserError, match="has a test set, and protocol jin2024 draws its own"):
        split_of_jin2024(split)


@pytest.mark.parametrize("classes", [2, 3])
def test_its_probe_is_scikit_learns_default_on_unscaled_states(classes: int) -> None:
    rng = np.random.default_rng(1)
    y = np.arange(120) % classes
    X = (rng.normal(size=(120, 8)) * np.logspace(-1, 1, 8) + 1).astype(np.float32)
    X[:, 2] += y
    test = rng.random(120) < 0.4
    results = llmprobe.probe_layers(
        {1: X}, y, test=test, kind="unscaled", permutations=0, description_length=False,
        controls=(), progress=False,
    )  # fmt: skip
    fitted = LogisticRegression().fit(X[~test], y[~test])
    answers = fitted.predict(X[test])
    assert results.table["accuracy"][0] == pytest.approx((answers == y[test]).mean(), abs=0.021)
    own = results.probes[0]
    if classes == 2:
        assert own.coef[1][0] == pytest.approx(fitted.coef_[0], rel=0.02, abs=0.01)


def test_a_run_by_the_protocol_scores_one_split_of_the_whole_set(
    tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    table = write_table(tmp_path / "own.csv")
    path = write_config(tmp_path / "run.yaml", tiny_model(), table, protocol="jin2024", probe={})
    run = Run(load_config(path), tmp_path / "run").probe(extract=True)
    assert set(run.table["probe"]) == {"unscaled"}
    assert set(run.table["layer"]) == {1, 2, 3}
    assert run.predictions["example"].nunique() == 16


def test_published_converging_layers_follow_from_the_published_curves() -> None:
    study = jin2024()
    assert len(study.peaks) == 81
    curves = study.curves.groupby(["model", "dataset"])
    assert len(curves) == 27
    peaks = study.peaks.set_index(["model", "dataset"])
    for key, rows in curves:
        accuracy = rows.sort_values("layer")["accuracy"].to_numpy()
        assert peaks.loc[key, "peak_accuracy"] == pytest.approx(accuracy.max(), abs=0.001)
        assert peaks.loc[key, "converging_layer"] == converging_layer(accuracy) + 1


def test_curves_are_drawn_under_published_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmprobe.cli.compare.print_report", lambda _: None)
    run = make_run(tmp_path / "a", dataset=examples("jin2024/cities"))
    other = make_run(tmp_path / "b")
    assert main(["compare", str(run), "--published", "jin2024", "--out", str(tmp_path / "c")]) == 0
    about = FOLDER_KINDS["compare"].describe(read_results(tmp_path / "c"))
    figure, caption, _ = about.illustrations["published"]
    assert "as published by Jin et al. (2024)" in caption
    assert "--published jin2024" in about.command
    assert len(figure.axes[0].lines) == 4
    with pytest.raises(UserError, match="no run has a dataset of that study"):
        compare([other], tmp_path / "d", published="jin2024")
