"""Runs side by side: what is refused, what names mean, and what is written where."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from probes import at
from toy import write_config, write_table

from llmprobe import UserError
from llmprobe.cli.main import main
from llmprobe.config.load import load_config
from llmprobe.config.schema import ProbeConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.probing.protocol import probe_layers
from llmprobe.reporting.charts.said_used import said_used
from llmprobe.results.differences import differences
from llmprobe.results.folder import examples_of, read_results, write_results
from llmprobe.runs.compare import compare
from llmprobe.runs.pipeline import Run
from llmprobe.runs.report import kind_of, terminal_text

N = 40
QUICK = {"folds": 2, "l2": 1.0, "controls": ["majority", "random_labels"], "permutations": 0,
         "description_length": False}  # fmt: skip


def examples(name: str, n: int = N, **changes: Any) -> ConceptDataset:
    """Statements in groups of two, with the same label within a group."""
    labels = np.random.default_rng(0).permutation(np.arange(n // 2) % 2).repeat(2)
    parts = {
        "texts": [f"statement {i} of {name}" for i in range(n)],
        "labels": labels,
        "groups": np.array([f"city {i // 2}" for i in range(n)]),
    }
    return ConceptDataset(name, **(parts | changes))


def make_run(
    out: Path,
    model: str = "small",
    dataset: ConceptDataset | None = None,
    *,
    name: str | None = None,
    signal: float = 1.0,
    seed: int = 0,
    of_model: Mapping[str, Any] | None = None,
    of_dataset: Mapping[str, Any] | None = None,
    versions: Mapping[str, Any] | None = None,
    **sections: Mapping[str, Any],
) -> Path:
    """A run folder with one curve of five layers, each of which knows more than the one before."""
    dataset = dataset or examples("cities")
    probe = QUICK | dict(sections.get("probe", {}))
    rng = np.random.default_rng([seed, *model.encode()])
    signs = (dataset.labels == dataset.classes[-1]).astype(float)
    layers = {
        layer: rng.normal(size=(len(dataset), 3)) + signal * layer * signs[:, None] / 4
        for layer in range(5)
    }
    results = probe_layers(
        layers, dataset.labels, dataset.groups, texts=dataset.texts, model=model,
        dataset=dataset.name, config=ProbeConfig(**probe), progress=False,
    )  # fmt: skip
    config = {
        "name": name or out.name,
        "models": [{"id": f"owner/{model}", **(of_model or {})}],
        "datasets": [{"name": dataset.name, **(of_dataset or {})}],
        **sections,
        "probe": probe,
    }
    facts = {
        "llmprobe": "0.1.0",
        "date": f"when {out.name} was made",
        **(versions or {}),
        "models": [{"name": model, "source": f"owner/{model}", "precision": ""}],
        "datasets": [{"name": dataset.name, "source": "", "licence": "", "version": "",
                      "content": dataset.content_hash, "findings": []}],
    }  # fmt: skip
    position = config.get("extract", {}).get("position", "last")
    described = replace(
        at(results, position),
        config=yaml.safe_dump(config),
        environment=facts,
        examples=examples_of([dataset]),
    )
    write_results(out, described)
    return out


def everything_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def notes_of(out: Path) -> list[str]:
    return yaml.safe_load((out / "config.yaml").read_text())["compare"]["notes"]


def curves_of(out: Path) -> list[tuple[str, str]]:
    summary = read_results(out).summary
    return list(zip(summary["model"], summary["dataset"], strict=True))


def test_two_models_become_one_table_with_what_they_differ_by(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", "small"), make_run(tmp_path / "b", "large", signal=3.0)]
    before = everything_in(tmp_path)
    compare(runs, tmp_path / "both")
    assert {path: tmp_path.joinpath(path).read_bytes() for path in before} == before
    both, (a, b) = read_results(tmp_path / "both"), map(read_results, runs)
    for table in ("table", "summary", "predictions"):
        expected = pd.concat([getattr(a, table), getattr(b, table)], ignore_index=True)
        pd.testing.assert_frame_equal(getattr(both, table), expected)
    pd.testing.assert_frame_equal(both.examples, a.examples)
    found = pd.read_parquet(tmp_path / "both" / "differences.parquet")
    expected = differences(both)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert list(zip(found["model_a"], found["model_b"], strict=True)) == [("small", "large")]
    from_csv = pd.read_csv(tmp_path / "both" / "differences.csv")
    from_csv = from_csv.fillna({"position_a": "", "position_b": ""})
    pd.testing.assert_frame_equal(from_csv, found, check_dtype=False)
    assert notes_of(tmp_path / "both") == []


def test_a_comparison_says_what_it_was_made_of(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", "small", versions={"torch": "2.9", "cores": 2}),
        make_run(tmp_path / "b", "large", versions={"torch": "2.10", "cores": 2}),
    ]
    compare(runs, tmp_path / "both")
    facts = json.loads((tmp_path / "both" / "environment.json").read_text())
    assert (facts["llmprobe"], facts["cores"]) == ("0.1.0", 2)
    assert facts["torch"] == "a: 2.9; b: 2.10"
    assert facts["date"] == "a: when a was made; b: when b was made"
    assert [model["name"] for model in facts["models"]] == ["small", "large"]
    assert [dataset["name"] for dataset in facts["datasets"]] == ["cities"]
    made_of = yaml.safe_load((tmp_path / "both" / "config.yaml").read_text())["compare"]
    assert [run["path"] for run in made_of["runs"]] == [str(run) for run in runs]
    assert made_of["runs"][0]["config"] == yaml.safe_load(
        load_config(runs[0] / "config.yaml").to_yaml()
    )
    assert made_of["differs"] == {"models": ["small", "large"], "torch": ["2.9", "2.10"]}


def other_folds(out: Path) -> None:
    table = pd.read_parquet(out / "predictions.parquet")
    table["fold"] = table["fold"].where(table["example"] != 3, 1 - table["fold"])
    table.to_parquet(out / "predictions.parquet")
    (out / "digests.json").unlink()


FLIPPED = examples("cities").labels.copy()
FLIPPED[2:4] = 1 - FLIPPED[2:4]
UNLIKE: dict[str, tuple[dict[str, Any], str]] = {
    "position": (
        {"extract": {"position": "mean"}},
        "extract.position is last in a, mean in b",
    ),
    "site": ({"extract": {"site": "mlp"}}, "extract.site is residual in a, mlp in b"),
    "chat template": (
        {"extract": {"chat_template": True}},
        "extract.chat_template is false in a, true in b",
    ),
    "probe": ({"probe": {"kind": "mass_mean"}}, "probe.kind is logistic in a, mass_mean in b"),
    "number of folds": ({"probe": {"folds": 4}}, "probe.folds is 2 in a, 4 in b"),
    "penalty": ({"probe": {"l2": 2.0}}, "probe.l2 is 1.0 in a, 2.0 in b"),
    "seed": ({"probe": {"seed": 7}}, "probe.seed is 0 in a, 7 in b"),
    "controls": (
        {"probe": {"controls": ["majority"]}},
        "probe.controls is majority, random_labels in a, majority in b",
    ),
    "number of examples": (
        {"dataset": examples("cities", 36)},
        "cities has 40 examples in a, 36 in b",
    ),
    "texts": (
        {"dataset": examples("cities", texts=[f"statement {max(i, 5)}" for i in range(N)])},
        "the text of 40 of 40 examples of cities differs between a and b, first of example 0",
    ),
    "labels": (
        {"dataset": examples("cities", labels=FLIPPED)},
        "the label of 2 of 40 examples of cities differs between a and b, first of example 2",
    ),
    "groups": (
        {"dataset": examples("cities", groups=np.array([f"city {i // 4}" for i in range(N)]))},
        "the group of 38 of 40 examples of cities differs between a and b, first of example 2",
    ),
    "no groups": (
        {"dataset": examples("cities", groups=None)},
        "the group of 40 of 40 examples of cities differs between a and b, first of example 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", UNLIKE)
def test_what_does_not_mean_the_same_is_refused_and_shown_with_a_note_if_told_to(
    what: str, tmp_path: Path
) -> None:
    changes, said = UNLIKE[what]
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", "large", **changes)]
    with pytest.raises(UserError) as error:
        compare(runs, tmp_path / "both")
    lines = str(error.value).splitlines()
    assert f"not comparable: {said}" in lines
    assert "--anyway" in lines[-1]
    assert not (tmp_path / "both").exists()
    compare(runs, tmp_path / "both", anyway=True)
    assert f"Not comparable: {said}." in notes_of(tmp_path / "both")
    text = " ".join(terminal_text(tmp_path / "both").plain.split())
    assert f"note: Not comparable: {said}." in text
    assert [model for model, _ in curves_of(tmp_path / "both")] == ["small", "large"]


def test_other_folds_of_the_same_examples_are_refused(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", "large")]
    other_folds(runs[1])
    with pytest.raises(
        UserError, match="the fold of 1 of 40 examples of cities differs between a and b"
    ):
        compare(runs, tmp_path / "both")


def test_many_obstacles_are_not_all_listed(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / f"run{i}", dataset=examples("cities", N + 2 * i)) for i in range(12)
    ]
    with pytest.raises(UserError, match="and 3 more like these") as error:
        compare(runs, tmp_path / "all")
    assert len(str(error.value).splitlines()) == 10


def test_examples_that_are_not_the_same_are_never_paired(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", of_dataset={"n": 40}),
        make_run(tmp_path / "b", "large", examples("cities", 36), of_dataset={"n": 36}),
    ]
    compare(runs, tmp_path / "both", anyway=True)
    assert curves_of(tmp_path / "both") == [("small", "cities (n 40)"), ("large", "cities (n 36)")]
    assert not (tmp_path / "both" / "differences.parquet").exists()
    assert (
        "No two curves are of the same examples, so none are compared."
        in notes_of(tmp_path / "both")[-1]
    )
    counts = read_results(tmp_path / "both").examples.groupby("dataset").size()
    assert counts.to_dict() == {"cities (n 40)": 40, "cities (n 36)": 36}


def test_what_one_run_leaves_at_its_default_is_said_too(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", dataset=examples("coin_flip")),
        make_run(
            tmp_path / "b", dataset=examples("coin_flip"), of_dataset={"options": {"people": 4}}
        ),
    ]
    compare(runs, tmp_path / "both", anyway=True)
    made_of = yaml.safe_load((tmp_path / "both" / "config.yaml").read_text())["compare"]
    assert made_of["differs"]["coin_flip: options"] == ["none", "people 4"]


def test_the_order_of_controls_and_the_device_say_nothing(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a"),
        make_run(
            tmp_path / "b", seed=1, of_model={"device": "cpu"},
            probe={"controls": ["random_labels", "majority"], "device": "cpu"},
        ),
    ]  # fmt: skip
    compare(runs, tmp_path / "both")
    made_of = yaml.safe_load((tmp_path / "both" / "config.yaml").read_text())["compare"]
    assert made_of["differs"] == {}


def test_examples_without_groups_are_as_comparable(tmp_path: Path) -> None:
    dataset = examples("cities", groups=None)
    runs = [make_run(tmp_path / "a", "small", dataset), make_run(tmp_path / "b", "large", dataset)]
    compare(runs, tmp_path / "both")
    assert len(pd.read_parquet(tmp_path / "both" / "differences.parquet")) == 1


def perturbed() -> ConceptDataset:
    return examples("cities", texts=[f"statemnet {i} of cities" for i in range(N)])


def test_a_perturbation_is_what_compare_is_for(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "plain"),
        make_run(tmp_path / "typed", dataset=perturbed(), of_dataset={"perturb": "typos"}, seed=1),
    ]
    compare(runs, tmp_path / "both")
    assert curves_of(tmp_path / "both") == [("small", "cities"), ("small", "cities (typos)")]
    (row,) = pd.read_parquet(tmp_path / "both" / "differences.parquet").to_dict("records")
    assert (row["dataset_a"], row["dataset_b"]) == ("cities", "cities (typos)")
    assert (row["model_a"], row["model_b"]) == ("small", "small")
    assert {"cities", "cities (typos)"} == set(read_results(tmp_path / "both").examples["dataset"])
    made_of = yaml.safe_load((tmp_path / "both" / "config.yaml").read_text())["compare"]
    assert made_of["differs"] == {"cities: perturb": ["none", "kind typos"]}


def test_other_labels_are_not_excused_by_a_perturbation(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a"),
        make_run(
            tmp_path / "b", dataset=examples("cities", labels=FLIPPED),
            of_dataset={"perturb": "typos"},
        ),
    ]  # fmt: skip
    with pytest.raises(UserError, match="the label of 2 of 40 examples of cities differs"):
        compare(runs, tmp_path / "both")


def test_perturbations_of_one_kind_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    runs = [
        make_run(
            tmp_path / f"run{seed}", seed=seed,
            dataset=examples("cities", texts=[f"text {seed} {i}" for i in range(N)]),
            of_dataset={"perturb": {"kind": "typos", "seed": seed}},
        )
        for seed in (0, 1, 2)
    ]  # fmt: skip
    compare(runs, tmp_path / "all")
    assert [dataset for _, dataset in curves_of(tmp_path / "all")] == [
        "cities", "cities (seed 1)", "cities (seed 2)",
    ]  # fmt: skip
    assert len(pd.read_parquet(tmp_path / "all" / "differences.parquet")) == 3


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        ({}, {"revision": "step1000"}, ["small", "small (step1000)"]),
        ({"revision": "v1"}, {"revision": "v2"}, ["small (v1)", "small (v2)"]),
        ({"dtype": "float32"}, {"dtype": "bfloat16"}, ["small (float32)", "small (bfloat16)"]),
        ({"id": "a/small"}, {"id": "b/small"}, ["small (a/small)", "small (b/small)"]),
        (
            {"quantization": "nf4", "name": "small"},
            {"name": "small", "quantization": "int8"},
            ["small (nf4)", "small (int8)"],
        ),
        ({}, {}, ["small (one)", "small (two)"]),  # Such as other hardware.
        ({}, {"revision": "a\nb" * 30}, ["small (one)", "small (two)"]),
    ],
)
def test_one_name_for_two_models_says_what_differs(
    first: dict[str, Any], second: dict[str, Any], names: list[str], tmp_path: Path
) -> None:
    runs = [
        make_run(tmp_path / "one", seed=1, of_model=first),
        make_run(tmp_path / "two", seed=2, of_model=second),
    ]
    compare(runs, tmp_path / "both")
    both = read_results(tmp_path / "both")
    assert list(both.summary["model"]) == names
    for table in (both.table, both.predictions):
        assert list(table["model"].unique()) == names
    assert [model["name"] for model in both.environment["models"]] == names
    (row,) = pd.read_parquet(tmp_path / "both" / "differences.parquet").to_dict("records")
    assert [row["model_a"], row["model_b"]] == names


def test_what_both_runs_have_is_taken_once(tmp_path: Path) -> None:
    """One run is the other and a dataset more; a third has another model on that."""
    runs = [
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b"),
        make_run(tmp_path / "c", dataset=examples("rivers")),
        make_run(tmp_path / "d", "large", examples("rivers")),
    ]
    compare(runs, tmp_path / "all")
    assert curves_of(tmp_path / "all") == [
        ("small", "cities"), ("small", "rivers"), ("large", "rivers"),
    ]  # fmt: skip
    both = read_results(tmp_path / "all")
    assert len(both.table) == 3 * 5
    assert len(both.predictions) == 3 * 5 * N
    assert len(both.examples) == 2 * N


def test_a_models_curves_stand_together(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / f"{model}-{dataset}", model, examples(dataset))
        for dataset in ("cities", "rivers")
        for model in ("small", "large")
    ]
    compare(runs, tmp_path / "all")
    expected = [(m, d) for m in ("small", "large") for d in ("cities", "rivers")]
    assert curves_of(tmp_path / "all") == expected
    results = read_results(tmp_path / "all").table
    assert list(results["model"].unique()) == ["small", "large"]
    assert (results["model"] == "small")[:10].all()


def test_runs_are_called_by_their_folders_where_their_names_are_one(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", name="mine"),
        make_run(tmp_path / "b", "large", name="mine", extract={"position": "mean"}),
    ]
    with pytest.raises(UserError, match="last in a, mean in b"):
        compare(runs, tmp_path / "both")
    (tmp_path / "deep").mkdir()
    shutil.move(runs[1], tmp_path / "deep" / "a")
    with pytest.raises(UserError, match=r"last in .*/a, mean in .*/deep/a"):
        compare([runs[0], tmp_path / "deep" / "a"], tmp_path / "both")


def test_an_unfinished_run_is_compared_as_far_as_it_is(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", "large")]
    config = yaml.safe_load((runs[1] / "config.yaml").read_text())
    config["datasets"].append({"name": "rivers"})
    (runs[1] / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(
        UserError, match=r"b/config.yaml: missing or damaged .it is not as it was w"
    ):
        compare(runs, tmp_path / "both")
    (runs[1] / "digests.json").unlink()
    compare(runs, tmp_path / "both")
    assert notes_of(tmp_path / "both") == [
        f"{runs[1]}: not finished: of 2 curves, it lacks large on rivers; run the config again to "
        "go on"
    ]
    assert len(pd.read_parquet(tmp_path / "both" / "differences.parquet")) == 1


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda run: (run / "examples.parquet").unlink(),
            "which examples of cities b is about, or their folds, cannot be read",
        ),
        (
            lambda run: (run / "examples.parquet").write_bytes(b"PAR1"),
            "which examples of cities b is about, or their folds, cannot be read",
        ),
        (
            lambda run: (run / "predictions.parquet").write_bytes(b"PAR1"),
            "which examples of cities b is about, or their folds, cannot be read",
        ),
    ],
)
def test_what_cannot_be_checked_is_not_taken_for_the_same(
    damage: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", "large")]
    damage(runs[1])
    with pytest.raises(UserError, match=f"not comparable: {said}"):
        compare(runs, tmp_path / "both")
    compare(runs, tmp_path / "both", anyway=True)
    assert said in " ".join(notes_of(tmp_path / "both"))
    assert {model for model, _ in curves_of(tmp_path / "both")} == {"small", "large"}
    assert not (tmp_path / "both" / "differences.parquet").exists()


def sanity_folder(folder: Path) -> Path:
    make_run(folder)
    (folder / "config.yaml").write_text("sanity: xor\n")
    return folder


def comparison_folder(folder: Path) -> Path:
    compare([make_run(folder / "a"), make_run(folder / "b", "large")], folder / "both")
    return folder / "both"


def empty_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (sanity_folder, "not a run of language models but an experiment of `llmprobe sanity`"),
        (comparison_folder, "a comparison; give the runs that it was made of"),
        (empty_folder, "not a run folder (the folder is empty)"),
        (lambda folder: folder, "not a run folder (there is no such folder)"),
    ],
)
def test_what_is_no_run_is_said(make: Callable[[Path], Path], said: str, tmp_path: Path) -> None:
    other = make(tmp_path / "other")
    run = make_run(tmp_path / "run")
    for runs in ([run, other], [other, run]):
        with pytest.raises(UserError) as error:
            compare(runs, tmp_path / "new")
        assert str(error.value).startswith(f"{other}: ")
        assert said in str(error.value)
    assert not (tmp_path / "new").exists()


def test_two_different_runs_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(UserError, match="takes two run folders or more, and 1 was given"):
        compare([run], tmp_path / "new")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="given twice"):
        compare([run, Path("run")], tmp_path / "new")


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("a", "is one of the runs"),
        ("b/figures/new", "is inside "),
        ("", "holds something that is not a comparison"),
        ("other", "holds something that is not a comparison"),
        ("file", "cannot be written: it is a file"),
    ],
)
def test_a_comparison_overwrites_nothing_else(where: str, said: str, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", "large")]
    make_run(tmp_path / "other")
    (tmp_path / "file").touch()
    before = everything_in(tmp_path)
    with pytest.raises(UserError, match=r"^--out .*") as error:
        compare(runs, tmp_path / where)
    assert said in str(error.value)
    assert everything_in(tmp_path) == before


def test_an_earlier_comparison_is_replaced(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", probe={"learning_curve": [0.5]})
    b = make_run(tmp_path / "b", "large", examples("rivers"))
    c = make_run(tmp_path / "c", "huge", examples("rivers"))
    compare([a, b], tmp_path / "out")
    assert len(read_results(tmp_path / "out").learning_curve) == 5
    compare([b, c], tmp_path / "out")
    assert curves_of(tmp_path / "out") == [("large", "rivers"), ("huge", "rivers")]
    assert not list((tmp_path / "out").glob("learning_curve*"))


def test_lines_are_at_most_100_wide_and_names_are_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> $x$ \x1b[31m 🙂 " + "long" * 60
    runs = [
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", "large"),
        make_run(tmp_path / "c", seed=1, of_model={"revision": "step" + "0" * 200}),
    ]
    for run in runs:
        for table in ("results", "summary", "predictions", "examples"):
            path = run / f"{table}.parquet"
            pd.read_parquet(path).assign(dataset=evil).to_parquet(path)
        (run / "digests.json").unlink()
    compare(runs, tmp_path / "both")
    text = terminal_text(tmp_path / "both").plain
    assert max(map(len, text.splitlines())) <= 100
    assert "<script>" in text
    assert "\x1b" not in text
    assert "→" in text
    plain = terminal_text(tmp_path / "both", unicode=False).plain
    assert plain.isascii()
    assert "-> large" in plain
    assert "..." in plain


def test_a_comparison_is_no_config_of_a_run(tmp_path: Path) -> None:
    compare([make_run(tmp_path / "a"), make_run(tmp_path / "b", "large")], tmp_path / "both")
    assert kind_of(tmp_path / "both") == "compare"
    assert kind_of(tmp_path / "a") == "run"
    with pytest.raises(UserError, match="of a comparison; its command is `llmprobe compare`"):
        load_config(tmp_path / "both" / "config.yaml")


def test_the_command_draws_it_and_report_draws_it_again_without_the_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", "large", signal=3.0)
    assert main(["compare", "a", "b", "--out", "both"]) == 0
    first = capsys.readouterr().out
    assert "small → large" in first
    assert f"report   {Path('both') / 'report.html'}" in first
    page = Path("both/report.html").read_text()
    assert "small" in page
    assert "llmprobe compare" in page
    shutil.rmtree("a")
    shutil.rmtree("b")
    Path("both/report.html").unlink()
    assert main(["report", "both"]) == 0
    assert capsys.readouterr().out == first
    assert Path("both/report.html").read_text() == page


def test_without_its_differences_the_rest_of_a_comparison_is_shown(tmp_path: Path) -> None:
    compare([make_run(tmp_path / "a"), make_run(tmp_path / "b", "large")], tmp_path / "both")
    (tmp_path / "both" / "differences.parquet").write_bytes(b"PAR1")
    text = " ".join(terminal_text(tmp_path / "both").plain.split())
    assert "small → large" not in text
    assert "differences.parquet: missing or damaged" in text
    assert "llmprobe compare" in text


def test_what_is_refused_ends_with_2_and_what_is_told_to_with_a_note_on_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", "large", extract={"position": "mean"})
    words = ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "both")]
    assert main(words) == 2
    assert "extract.position is last in a, mean in b" in capsys.readouterr().err
    assert main([*words, "--anyway"]) == 0
    said = "Not comparable: extract.position is last in a, mean in b."
    assert said in capsys.readouterr().out
    page = (tmp_path / "both" / "report.html").read_text()
    assert said in page
    assert "--anyway" in page


def test_two_precisions_of_a_model_are_told_apart_by_what_the_runs_found_out(
    tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    """From the models themselves: ``auto`` is what it turned out to be."""
    table = write_table(tmp_path / "toy.csv")
    runs = []
    for dtype in ("auto", "float16"):
        model = {"id": str(tiny_model("llama")), "dtype": dtype, "device": "cpu"}
        config = write_config(tmp_path / f"{dtype}.yaml", model, table)
        runs.append(tmp_path / dtype)
        Run(load_config(config), runs[-1]).probe(extract=True)
    compare(runs, tmp_path / "both")
    names = read_results(tmp_path / "both").summary["model"].to_list()
    assert names[1] == "tiny-llama (float16)"
    assert names[0] in ("tiny-llama (float32)", "tiny-llama (bfloat16)")


def test_strips_of_one_dataset_stand_side_by_side(tmp_path: Path) -> None:
    runs = []
    for model in ("small", "large"):
        run = make_run(tmp_path / model, model)
        results = read_results(run)
        said = results.table.assign(said_auroc=0.6)
        write_results(run, replace(results, table=said))
        runs.append(run)
    compare(runs, tmp_path / "both")
    drawn = said_used(read_results(tmp_path / "both"))
    assert drawn is not None
    left, right = (ax.get_position() for ax in drawn.axes)
    assert left.y0 == pytest.approx(right.y0)
    assert [ax.get_title(loc="left").split()[-1] for ax in drawn.axes] == ["small", "large"]
