"""A whole run: what it leaves on disk, and that nothing is ever done twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import false_discovery_control  # type: ignore[import-untyped]
from toy import NUMBERS, QUICK, SUBJECTS, write_config, write_table

import llmprobe
from llmprobe import UserError, trace
from llmprobe.cli.main import main
from llmprobe.config.load import load_config
from llmprobe.config.schema import RunConfig
from llmprobe.extraction.extract import Extractor
from llmprobe.reporting.trace.files import write_trace
from llmprobe.results.folder import missing_curves, read_results
from llmprobe.runs import parts, pipeline
from llmprobe.runs.pipeline import Run
from llmprobe.runs.report import report, terminal_text

TABLES = ("results", "summary", "predictions")
"""Those that every run has."""
RESULTS = (
    "model dataset site position layer depth probe n_examples n_classes n_groups l2 accuracy "
    "accuracy_low accuracy_high balanced_accuracy f1 auroc log_loss majority_accuracy "
    "control_accuracy selectivity p_value"
).split()
SUMMARY = (
    "model parameters layers hidden_size dataset n_examples peak_layer peak_accuracy peak_p_value "
    "converging_layer jump_layer converging_depth jump_depth majority_accuracy "
    "bag_of_words_accuracy random_weights_accuracy seconds_extract seconds_probe tokens "
    "unique_tokens"
).split()
PREDICTIONS = "model dataset repeat layer example fold label predicted score".split()


class Toy:
    """A config with two datasets in a folder, and a count of what running it computes."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.out, self.model = folder, folder / "run", model
        self.config = folder / "toy.yaml"
        self.first = write_table(folder / "first.csv")
        self.second = write_table(folder / "second.csv", words=("green", "blue"))
        write_config(self.config, {"id": str(model), "dtype": "float32"}, self.first, self.second)
        self.extracted: list[str] = []
        self.probed: list[str] = []

    def run(self, *overrides: str) -> None:
        """Extract and probe, counting."""
        self.extracted.clear()
        self.probed.clear()
        Run(load_config(self.config, overrides), self.out).probe(extract=True)

    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables on disk, without what a clock said."""
        tables = {n: pd.read_parquet(self.out / f"{n}.parquet") for n in TABLES}
        clocks = [c for c in tables["summary"].columns if c.startswith("seconds")]
        tables["summary"] = tables["summary"].drop(columns=clocks)
        return tables

    def change(self, table: str, old: str, new: str) -> None:
        """Replace the first ``old`` in a dataset's file."""
        path = self.folder / table
        content = path.read_text()
        assert old in content
        path.write_text(content.replace(old, new, 1))


@pytest.fixture
def toy(tmp_path: Path, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Toy:
    toy = Toy(tmp_path, tiny_model("llama"))
    fill, probe = Extractor._fill, parts.probe

    def counted_fill(self: Extractor, store: Any, dataset: Any, *rest: Any) -> Any:
        toy.extracted.append(dataset.name)
        return fill(self, store, dataset, *rest)

    def counted_probe(activations: Any, config: Any, **options: Any) -> Any:
        toy.probed.append(activations.dataset.name)
        return probe(activations, config, **options)

    monkeypatch.setattr(Extractor, "_fill", counted_fill)
    monkeypatch.setattr(parts, "probe", counted_probe)
    return toy


@contextmanager
def interrupted_at_second(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """While the block lasts, probing the second dataset is interrupted."""
    probe = parts.probe

    def interrupted(activations: Any, config: Any, **options: Any) -> Any:
        if activations.dataset.name == "second":
            raise KeyboardInterrupt
        return probe(activations, config, **options)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "probe", interrupted)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Toy:
    """A run that is finished and reported, for tests that only look at it."""
    toy = Toy(tmp_path_factory.mktemp("finished"), tiny_model("llama"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMPROBE_CACHE", str(toy.folder / "cache"))
        toy.run()
    report(toy.out)
    return toy


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_run_folder_has_the_files_of_the_contract(finished: Toy) -> None:
    found = {name for name in files(finished.out) if not name.startswith("parts/")}
    figures = {name for name in found if name.startswith("figures/")}
    assert found - figures == {
        "config.yaml", "digests.json", "environment.json", "evidence.json", "report.html",
        "predictions.parquet", "examples.parquet", "example_traces.json",
        "results.parquet", "results.csv", "summary.parquet", "summary.csv",
        "probes/tiny-llama/first.safetensors", "probes/tiny-llama/second.safetensors",
    }  # fmt: skip
    for figure in ("heatmap_accuracy", "curves", "depth"):
        assert {f"figures/{figure}.png", f"figures/{figure}.svg"} <= figures
    assert {Path(name).suffix for name in figures} == {".png", ".svg"}
    assert all((finished.out / name).stat().st_size > 0 for name in found)


def test_tables_have_the_columns_and_rows_of_the_contract(finished: Toy) -> None:
    tables = {name: pd.read_parquet(finished.out / f"{name}.parquet") for name in TABLES}
    assert list(tables["results"].columns)[: len(RESULTS)] == RESULTS
    assert list(tables["summary"].columns)[: len(SUMMARY)] == SUMMARY
    assert list(tables["predictions"].columns)[: len(PREDICTIONS)] == PREDICTIONS
    layers = 4  # What enters block 1, and what leaves three blocks.
    assert {n: len(t) for n, t in tables.items()} == {
        "results": 2 * layers, "summary": 2, "predictions": 2 * layers * 40,
    }  # fmt: skip
    for name in ("results", "summary"):
        from_csv = pd.read_csv(finished.out / f"{name}.csv")
        pd.testing.assert_frame_equal(from_csv, tables[name], check_dtype=False)


def test_predictions_give_the_accuracies_of_the_results(finished: Toy) -> None:
    tables = finished.tables()
    right = tables["predictions"].eval("label == predicted")
    keys = ["dataset", "layer"]
    accuracies = right.groupby([tables["predictions"][key] for key in keys]).mean()
    stated = tables["results"].set_index(keys)["accuracy"]
    pd.testing.assert_series_equal(accuracies.sort_index(), stated.sort_index(), check_names=False)


def test_a_saved_probe_scores_states_without_the_run(finished: Toy) -> None:
    probe = llmprobe.load_probe(finished.out / "probes" / "tiny-llama" / "first.safetensors")
    assert probe.layers == [0, 1, 2, 3]
    assert probe.classes == (0, 1)
    assert probe.facts["model"] == "tiny-llama"
    assert probe.facts["site"] == "residual"
    accuracies = finished.tables()["results"].query("dataset == 'first'")["accuracy"]
    assert probe.scores["accuracy"] == accuracies.to_list()
    dataset = llmprobe.load_dataset(finished.folder / "first.csv")
    states = llmprobe.extract(finished.model, dataset, progress=False).layer(3)
    assert (probe.predict(states, layer=3) == dataset.labels).mean() > 0.9


def test_the_untrained_control_stands_beside_the_model(toy: Toy) -> None:
    toy.run('probe.controls=["random_weights"]')
    tables = toy.tables()
    assert set(tables["results"]["model"]) == {"tiny-llama"}
    control = tables["results"].groupby("dataset")["random_weights_accuracy"].max()
    stated = tables["summary"].set_index("dataset")["random_weights_accuracy"]
    pd.testing.assert_series_equal(control, stated)
    untrained = {"id": str(toy.model), "weights": "random", "dtype": "float32"}
    config = RunConfig(models=[untrained], datasets=[str(toy.folder / "first.csv")], probe=QUICK)
    alone = Run(config, toy.out.parent / "alone").probe(extract=True)
    assert alone.summary["peak_accuracy"].item() == stated["first"]


def test_adding_the_untrained_control_computes_that_alone(toy: Toy) -> None:
    toy.run()
    untrained = ["random_weights_accuracy", "random_weights_auroc"]
    before = toy.tables()["results"].drop(columns=untrained)
    parts = set(toy.out.glob("parts/*"))
    toy.run("probe.controls=[random_weights, majority]")
    new = set(toy.out.glob("parts/*")) - parts
    assert len(new) == len(toy.probed) == 2
    assert all(part.name.startswith("tiny-llama-random-") for part in new)
    results = toy.tables()["results"]
    assert results["random_weights_accuracy"].notna().all()
    pd.testing.assert_frame_equal(results.drop(columns=untrained), before)


def test_a_curve_whose_p_value_is_too_coarse_goes_on_and_the_others_do_not(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_to_38(summary: pd.DataFrame) -> np.ndarray:
        return np.where(summary["dataset"] == "first", 38, 0)  # however many there are

    toy.run("probe.permutations=19")
    before = toy.tables()["summary"].set_index("dataset")
    assert before["permutations"].to_dict() == {"first": 19, "second": 19}
    monkeypatch.setattr(pipeline, "more_permutations", first_to_38)
    toy.run("probe.permutations=19")
    assert toy.probed == ["first"]
    assert not toy.extracted
    after = toy.tables()["summary"].set_index("dataset")
    assert after["permutations"].to_dict() == {"first": 38, "second": 19}
    assert toy.tables()["results"].groupby("dataset")["permutations"].max().to_dict() == {
        "first": 38, "second": 19,
    }  # fmt: skip
    assert after["peak_accuracy"].equals(before["peak_accuracy"])
    adjusted = false_discovery_control(after["peak_p_value"])
    assert after["peak_p_value_adjusted"].to_list() == pytest.approx(adjusted)
    toy.run("probe.permutations=19")
    assert not toy.probed


def probes_of(toy: Toy) -> set[str]:
    return files(toy.out / "probes")


def test_probes_are_those_of_the_tables(toy: Toy) -> None:
    toy.run("models.0.name=other")
    toy.run()
    assert probes_of(toy) == {"tiny-llama/first.safetensors", "tiny-llama/second.safetensors"}
    assert not (toy.out / "probes" / "other").exists()
    toy.run("datasets=[second.csv]")
    assert probes_of(toy) == {"tiny-llama/second.safetensors"}
    (toy.out / "probes" / "note.txt").touch()
    (toy.out / "probes" / "tiny-llama" / "note.txt").touch()
    toy.run("datasets=[first.csv]", "models.0.name=other")
    assert probes_of(toy) == {"other/first.safetensors", "note.txt", "tiny-llama/note.txt"}


def test_an_interrupted_run_leaves_no_probe_of_another_config(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.run()
    with interrupted_at_second(monkeypatch), pytest.raises(KeyboardInterrupt):
        toy.run("probe.l2=7")
    assert probes_of(toy) == {"tiny-llama/first.safetensors"}
    toy.run("probe.l2=7")
    assert toy.probed == ["second"]
    assert probes_of(toy) == {"tiny-llama/first.safetensors", "tiny-llama/second.safetensors"}


def test_a_report_leaves_no_picture_of_another_config(toy: Toy) -> None:
    toy.run("probe.controls=[majority, random_labels]")
    before = set(report(toy.out))
    (toy.out / "figures" / "note.txt").touch()
    toy.run("report.html=false")
    written = set(report(toy.out))
    assert {path.name for path in before - written} == {
        "heatmap_selectivity.png", "heatmap_selectivity.svg", "report.html",
    }  # fmt: skip
    assert set((toy.out / "figures").iterdir()) == written | {toy.out / "figures" / "note.txt"}
    assert not (toy.out / "report.html").exists()


@pytest.mark.parametrize("permutations", [4, 19])
def test_few_permutations_do_not_hide_what_is_above_chance(toy: Toy, permutations: int) -> None:
    toy.run(f"probe.permutations={permutations}", "datasets=[first.csv]")
    summary = toy.tables()["summary"]
    assert summary["peak_accuracy"].item() == 1
    assert summary["peak_p_value"].item() == 1 / (permutations + 1)
    report(toy.out)
    assert "on first</strong>: readable" in (toy.out / "report.html").read_text()


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "vulkan"])
def test_a_device_for_probing_that_is_not_here_is_said_at_once(toy: Toy, device: str) -> None:
    with pytest.raises(UserError) as caught:
        Run(load_config(toy.config, [f"probe.device={device}"]), toy.out)
    assert str(caught.value).startswith(f"probe.device '{device}' ")
    assert len(str(caught.value)) < 120
    for works in ("auto", "cpu"):
        Run(load_config(toy.config, [f"probe.device={works}"]), toy.out)


def numbers(folder: Path) -> Path:
    """40 statements whose label is a number that their last word almost tells."""
    rows = [
        f"{subject} is red {number},{i / 7 + j / 40}"
        for j, subject in enumerate(SUBJECTS)
        for i, number in enumerate(NUMBERS)
    ]
    (folder / "numbers.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return folder / "numbers.csv"


def test_labels_that_are_numbers_have_a_probe_a_page_and_a_table(toy: Toy) -> None:
    ridge = {**QUICK, "kind": "ridge", "folds": 4, "permutations": 19}
    write_config(toy.config, {"id": str(toy.model), "dtype": "float32"}, numbers(toy.folder),
                 probe=ridge)  # fmt: skip
    toy.run()
    tables = toy.tables()
    results, summary = tables["results"], tables["summary"]
    assert results["accuracy"].isna().all()
    assert summary["peak_r2"].item() == results["r2"].max() > 0.5
    assert results["r2"].between(results["r2_low"], results["r2_high"]).all()
    assert summary["peak_p_value"].item() == 0.05
    written = {path.name for path in report(toy.out)}
    assert {"heatmap_r2.png", "curves.png", "report.html"} <= written
    assert "heatmap_accuracy.png" not in written
    page = (toy.out / "report.html").read_text()
    assert "R² there" in page
    assert "accuracy there" not in page
    assert f"{summary['peak_r2'].item():.2f}" in terminal_text(toy.out).plain


def test_numbers_are_no_classes_and_that_is_said_before_a_model_is_loaded(toy: Toy) -> None:
    write_config(toy.config, "nowhere/model", numbers(toy.folder))
    with pytest.raises(UserError, match=r"40 different labels .* set probe.kind to ridge"):
        Run(load_config(toy.config), toy.out)
    write_config(toy.config, "nowhere/model", toy.first, probe={**QUICK, "kind": "ridge"})
    Run(load_config(toy.config), toy.out)  # 0 and 1 are numbers too


def test_a_learning_curve_is_a_table_while_it_is_asked_for(toy: Toy) -> None:
    toy.run("probe.learning_curve=[0.5, 1.0]")
    curve = pd.read_csv(toy.out / "learning_curve.csv")
    assert len(curve) == 2 * 4 * 2
    whole = curve.query("fraction == 1").set_index(["dataset", "layer"])["accuracy"]
    stated = toy.tables()["results"].set_index(["dataset", "layer"])["accuracy"]
    pd.testing.assert_series_equal(whole, stated)
    toy.run()
    assert not list(toy.out.glob("learning_curve.*"))


def test_the_config_in_the_folder_gives_the_same_run(toy: Toy) -> None:
    toy.run("probe.seed=3")
    before, config = toy.tables(), load_config(toy.out / "config.yaml")
    toy.extracted.clear()
    toy.probed.clear()
    Run(config, toy.out).probe(extract=True)
    assert (toy.extracted, toy.probed) == ([], [])
    assert config.probe.seed == 3
    assert_equal(before, toy.tables())


def assert_equal(one: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> None:
    for name in TABLES:
        pd.testing.assert_frame_equal(one[name], other[name])


def test_a_name_with_a_slash_stays_in_tables_and_is_a_dash_in_files(toy: Toy) -> None:
    toy.run("datasets=[{path: first.csv, as: mine/first}]")
    assert set(toy.tables()["results"]["dataset"]) == {"mine/first"}
    assert [p.name for p in toy.out.glob("probes/*/*")] == ["mine-first.safetensors"]
    assert [p.name.rsplit("-", 1)[0] for p in toy.out.glob("parts/*")] == ["tiny-llama-mine-first"]


def test_the_environment_says_what_was_used(finished: Toy) -> None:
    facts = json.loads((finished.out / "environment.json").read_text())
    assert [d["name"] for d in facts["datasets"]] == ["first", "second"]
    assert len({d["content"] for d in facts["datasets"]}) == 2
    assert facts["datasets"][0]["source"].endswith("first.csv")
    assert {"llmprobe", "python", "torch", "transformers", "platform", "date"} <= set(facts)
    assert [m["name"] for m in facts["models"]] == ["tiny-llama"]
    assert facts["models"][0]["source"].endswith("tiny-llama")


FIRST, SECOND, BOTH = ["first"], ["second"], ["first", "second"]
ONE_MORE = "datasets=[{path: first.csv, as: new, n: 20}, first.csv, second.csv]"


@pytest.mark.parametrize(
    ("change", "extracted", "probed"),
    [
        ("nothing", [], []),
        ("first.csv: coin is red one -> coin is red two", FIRST, FIRST),
        ("second.csv: one,0 -> one,1", [], SECOND),
        ("datasets.1.template=the {text}", SECOND, SECOND),
        ("extract.position=mean", BOTH, BOTH),
        ("models.0.dtype=bfloat16", BOTH, BOTH),
        ("models.0={id: MODEL, dtype: float32, weights: random, name: tiny-llama}", BOTH, BOTH),
        ("probe.l2=2", [], BOTH),
        ("probe.folds=3", [], BOTH),
        ("probe.seed=1", [], BOTH),
        ("report.html=false", [], []),
        ("extract.batch_tokens=64", [], []),
        ("datasets=[second.csv]", [], []),
        (ONE_MORE, ["new"], ["new"]),
        ("probe.controls=[bag_of_words, majority]", [], []),
        ("probe.controls=[majority, bag_of_words, majority]", [], []),
    ],
)
def test_a_change_recomputes_what_it_must_and_only_that(
    toy: Toy, change: str, extracted: list[str], probed: list[str]
) -> None:
    toy.run("probe.controls=[majority, bag_of_words]")
    assert (toy.extracted, toy.probed) == (BOTH, BOTH)
    file, colon, content = change.partition(".csv: ")
    if colon:
        toy.change(f"{file}.csv", *content.split(" -> "))
    changes = [change.replace("MODEL", str(toy.model))] if "=" in change else []
    toy.run("probe.controls=[majority, bag_of_words]", *changes)
    assert (toy.extracted, toy.probed) == (extracted, probed)


def test_a_second_run_gives_the_same_tables(toy: Toy) -> None:
    toy.run()
    before = toy.tables()
    toy.run()
    assert (toy.extracted, toy.probed) == ([], [])
    assert_equal(before, toy.tables())


def test_trying_fewer_examples_keeps_the_full_results(toy: Toy) -> None:
    toy.run()
    before = toy.tables()
    Run(load_config(toy.config, limit=20), toy.out).probe(extract=True)
    toy.run()
    assert (toy.extracted, toy.probed) == ([], [])
    assert_equal(before, toy.tables())


def test_a_damaged_part_is_probed_again(toy: Toy) -> None:
    toy.run()
    before = toy.tables()
    (damaged,) = toy.out.glob("parts/*first*/results.parquet")
    damaged.write_bytes(damaged.read_bytes()[:200])
    toy.run()
    assert (toy.extracted, toy.probed) == ([], ["first"])
    assert_equal(before, toy.tables())


@pytest.mark.parametrize(
    ("table", "column"),
    [("predictions", "fold"), ("results", "ece"), ("summary", "stays_above_half_depth"),
     ("learning_curve", "r2")],
)  # fmt: skip
def test_a_part_of_another_version_is_probed_again(toy: Toy, table: str, column: str) -> None:
    toy.run()
    before = toy.tables()
    (path,) = toy.out.glob(f"parts/*first*/{table}.parquet")
    pd.read_parquet(path).drop(columns=column).to_parquet(path)
    toy.run()
    assert (toy.extracted, toy.probed) == ([], ["first"])
    assert_equal(before, toy.tables())


def test_groups_reach_the_folds(toy: Toy) -> None:
    table = pd.read_csv(toy.first)
    table["subject"] = table["text"].str.split().str[0]
    table.to_csv(toy.first, index=False)
    toy.run()
    toy.run("datasets.0.group=subject")
    assert (toy.extracted, toy.probed) == ([], ["first"])
    predictions = toy.tables()["predictions"].query("dataset == 'first' and layer == 0")
    folds = predictions.groupby(table["subject"].to_numpy())["fold"].nunique()
    assert (folds == 1).all()


def test_an_interrupted_run_keeps_what_is_finished_and_goes_on(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.run()
    undisturbed = toy.tables()
    toy.out = toy.out.with_name("other")
    with interrupted_at_second(monkeypatch):
        assert main(["run", str(toy.config), "--out", str(toy.out)]) == 130
    assert "interrupted; what was finished is kept" in capsys.readouterr().err
    assert set(toy.tables()["results"]["dataset"]) == {"first"}
    assert load_config(toy.out / "config.yaml") == load_config(toy.config)
    toy.run()
    assert toy.probed == ["second"]
    assert_equal(toy.tables(), undisturbed)


def test_an_interruption_before_anything_new_leaves_the_old_run_as_it_was(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.run()
    before = {name: (toy.out / name).read_bytes() for name in files(toy.out)}

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(parts, "probe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        toy.run("probe.l2=7")
    assert {name: (toy.out / name).read_bytes() for name in files(toy.out)} == before


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_control_c_ends_with_130_and_the_finished_part_on_disk(toy: Toy) -> None:
    # Probing the second dataset takes for ever here, and says when it begins.
    program = """
import signal, sys, time
from llmprobe.cli.main import main
from llmprobe.runs import parts, pipeline
# A suite that runs in the background ignores the signal, and its children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
probe = parts.probe
def slow(activations, config, **options):
    if activations.dataset.name == "second":
        print("waiting", flush=True)
        time.sleep(600)
    return probe(activations, config, **options)
parts.probe = slow
raise SystemExit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", program, "run", str(toy.config), "--out", str(toy.out)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; what was finished is kept" in errors
    assert "Traceback" not in errors
    assert set(toy.tables()["results"]["dataset"]) == {"first"}
    assert not [name for name in files(toy.out) if name.endswith(".partial")]


def test_a_report_is_drawn_again_from_the_tables_alone(toy: Toy) -> None:
    toy.run()
    toy.first.unlink()
    written = report(toy.out)
    assert written[-1] == toy.out / "report.html"
    assert toy.extracted == toy.probed == ["first", "second"]


def test_without_html_there_is_no_page(toy: Toy) -> None:
    toy.run("report.html=false")
    assert {path.suffix for path in report(toy.out)} == {".png", ".svg"}
    assert not (toy.out / "report.html").exists()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelname == "WARNING"]


def test_a_report_says_in_words_and_on_the_page_what_is_wrong(
    toy: Toy, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    toy.run()
    caplog.clear()
    (toy.out / "environment.json").write_text('{"models": ')
    (toy.out / "predictions.parquet").unlink()
    assert main(["report", str(toy.out)]) == 0
    assert "tiny-llama" in capsys.readouterr().out
    predictions, environment = said = warnings_of(caplog)
    assert all("\n" not in sentence for sentence in said)
    page = (toy.out / "report.html").read_text()
    notes = page[page.index('class="notes"') : page.index("</header>")]
    for sentence, words in (
        (predictions, "predictions.parquet: missing, so"),
        (environment, "environment.json: missing or damaged ("),
    ):
        assert words in sentence
        assert words in notes


def test_a_report_without_anything_to_show_is_an_error(
    toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.run()
    for name in ("results.parquet", "results.csv"):
        (toy.out / name).unlink()
    capsys.readouterr()
    assert main(["report", str(toy.out)]) == 2
    said = capsys.readouterr().err
    assert "results.parquet: missing; the run has no results yet" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "config.yaml: missing, so what the run was asked for is not known"),
        ("", "config.yaml: empty, or not a mapping"),
        ("a: [", "config.yaml: not valid YAML"),
        ("models: [m]\ndatasets: [3]\nprobes: {}", "probes: unknown key"),
    ],
)
def test_a_report_needs_no_config(
    toy: Toy, caplog: pytest.LogCaptureFixture, content: str | None, words: str
) -> None:
    toy.run()
    (toy.out / "config.yaml").unlink()
    (toy.out / "digests.json").unlink()
    if content is not None:
        (toy.out / "config.yaml").write_text(content)
    caplog.clear()
    assert main(["report", str(toy.out)]) == 0
    (said,) = warnings_of(caplog)
    assert words in said
    assert "\n" not in said


def test_what_a_run_has_not_finished_is_said(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = parts.probe

    def interrupted(activations: Any, config: Any, **options: Any) -> Any:
        if activations.dataset.name == "second":
            raise KeyboardInterrupt
        return probe(activations, config, **options)

    monkeypatch.setattr(parts, "probe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        toy.run("probe.learning_curve=[0.5]")
    config = load_config(toy.out / "config.yaml")
    (said,) = missing_curves(read_results(toy.out), config)
    assert said.endswith(
        "not finished: of 2 curves, it lacks tiny-llama on second; run the config again to go on"
    )
    for name in ("examples", "learning_curve"):
        (toy.out / f"{name}.parquet").unlink()
    _, *absent = missing_curves(read_results(toy.out), config)
    assert ["examples.parquet: missing" in absent[0], "learning_curve.parquet" in absent[1]] == [
        True, True
    ]  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_of_a_run_that_is_killed_a_report_shows_what_is_finished(
    toy: Toy, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    # Probing one of the datasets takes for ever here, and says when it begins.
    program = """
import sys, time
from llmprobe.cli.main import main
from llmprobe.runs import parts, pipeline
probe = parts.probe
def slow(activations, config, **options):
    if activations.dataset.name == sys.argv[1]:
        print("waiting", flush=True)
        time.sleep(600)
    return probe(activations, config, **options)
parts.probe = slow
raise SystemExit(main(sys.argv[2:]))
"""
    for stopped_at, code in (("first", 2), ("second", 0)):
        command = [sys.executable, "-c", program, stopped_at]
        command += ["run", str(toy.config), "--out", str(toy.out)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "waiting\n"
            process.kill()
        assert load_config(toy.out / "config.yaml") == load_config(toy.config)
        capsys.readouterr()
        assert main(["report", str(toy.out)]) == code
        said = capsys.readouterr().err + caplog.text
        assert ("the run has no results yet" if code else "lacks tiny-llama on second") in said
    assert set(toy.tables()["results"]["dataset"]) == {"first"}
    assert "on first</strong>: readable" in (toy.out / "report.html").read_text()


def test_the_same_work_gives_the_same_bytes(toy: Toy) -> None:
    """But for recorded times, which are in the summary and the environment alone."""
    toy.run()
    first = {name: (toy.out / name).read_bytes() for name in files(toy.out)}
    toy.out = toy.folder / "again"
    shutil.rmtree(os.environ["LLMPROBE_CACHE"])
    toy.run()
    again = {name: (toy.out / name).read_bytes() for name in files(toy.out)}
    assert first.keys() == again.keys()
    timed = ("summary.parquet", "summary.csv", "environment.json", "digests.json")
    assert {
        name for name in first if first[name] != again[name] and not name.endswith(timed)
    } == set()


def test_of_two_commands_in_a_folder_the_second_is_refused(
    toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.run()
    hold = (
        "import sys; from pathlib import Path; from llmprobe.ground.lease import lease\n"
        "with lease(Path(sys.argv[1])): print('mine', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", hold, str(toy.out)]
    before = files(toy.out)
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        probe = str(toy.out / "probes" / "tiny-llama" / "first.safetensors")
        for words in (
            ["run", str(toy.config), "--out", str(toy.out)],
            ["probe", str(toy.config), "--out", str(toy.out)],
            ["report", str(toy.out)],
            ["trace", str(toy.out), "--text", "coin is red"],
            ["trace", probe, "--text", "coin is red"],
            ["sanity", "xor", "--out", str(toy.out)],
        ):
            capsys.readouterr()
            assert main(words) == 2, words
            assert "another process works here, since " in capsys.readouterr().err
        process.communicate("")
    assert files(toy.out) == before


def test_the_resolved_config_reads_as_yaml(finished: Toy) -> None:
    raw = yaml.safe_load((finished.out / "config.yaml").read_text())
    sections = "name models datasets include protocol extract probe said report"
    assert list(raw) == sections.split()


def test_texts_that_the_runs_probes_were_given_are_on_its_page_and_of_others_not(
    toy: Toy, caplog: pytest.LogCaptureFixture
) -> None:
    toy.run()
    (path, *_) = sorted((toy.out / "probes").glob("*/*.safetensors"))
    (mine,) = trace(path, "coin is red nine")
    write_trace(mine, toy.out / "traces")
    write_trace(replace(mine, text="coin is red ten", probe="0"), toy.out / "traces")
    report(toy.out)
    page = (toy.out / "report.html").read_text()
    assert "coin is red nine" in page
    assert "coin is red ten" not in page
    assert "1 of 2 traces are of other probes" in caplog.text
