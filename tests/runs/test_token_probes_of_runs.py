"""A run with ``position: tokens`` has a curve for each pooling, and its probes read new texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from toy import QUICK, write_config, write_table

import llmprobe
from llmprobe.cli.main import main
from llmprobe.config.load import load_config
from llmprobe.ground.errors import UserError
from llmprobe.monitors.scoring import score_file
from llmprobe.probing.pooling import Pooling, pooled
from llmprobe.probing.token_probes import logits_of_texts
from llmprobe.reporting.trace.view import TraceView
from llmprobe.results.folder import missing_curves, read_results
from llmprobe.results.results import Results
from llmprobe.results.saved_probe import load_probe
from llmprobe.results.trace import traces_of_run
from llmprobe.runs.pipeline import Run

POOLED = ["tokens:mean", "tokens:max", "tokens:last-2", "tokens:softmax-0.5", "tokens:attention"]
LEARNED = ["tokens:max", "tokens:softmax-0.5", "tokens:attention"]
PROBE = QUICK | {
    "controls": ["majority", "random_labels", "token_embeddings", "random_weights"],
    "permutations": 20, "pooling": [name.removeprefix("tokens:") for name in POOLED],
}  # fmt: skip


class Toy:
    """A folder with a run at the last token and at all tokens, of texts of unlike lengths."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.model = {"id": str(model), "dtype": "float32"}
        self.table = write_table(folder / "toy.csv")
        rows = pd.read_csv(self.table)
        rows["text"] = [text + " one two" * (i % 3) for i, text in enumerate(rows["text"])]
        rows.to_csv(self.table, index=False)
        self.config = write_config(
            folder / "toy.yaml", self.model, self.table, probe=PROBE,
            extract={"position": ["last", "tokens"]}, report={"traces": 1},
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LLMPROBE_CACHE", str(folder / "cache"))
            assert main(["run", str(self.config), "--out", str(folder / "run")]) == 0
        self.cache, self.run = folder / "cache", read_results(folder / "run")

    def probe_file(self, position: str) -> Path:
        (path,) = self.run.folder.glob(f"probes/*/toy@{position.replace(':', '-')}.safetensors")
        return path


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Toy:
    return Toy(tmp_path_factory.mktemp("tokens"), tiny_model("llama"))


def test_each_pooling_is_a_row_of_every_table_beside_the_last_token(toy: Toy) -> None:
    run = toy.run
    for table in (run.table, run.summary, run.predictions, run.rivals):
        assert list(dict.fromkeys(table["position"])) == ["last", *POOLED]
    assert run.table.groupby("position")["layer"].nunique().eq(3).all()
    assert not [*missing_curves(run, load_config(run.folder / "config.yaml"))]
    assert (run.folder / "report.html").is_file()
    assert run.summary["random_weights_accuracy"].notna().all()
    assert run.summary["token_embeddings_accuracy"].notna().all()


def test_what_is_not_computed_where_scores_are_pooled_is_empty(toy: Toy) -> None:
    table = toy.run.table.set_index("position")
    for column in ("p_value", "control_accuracy"):
        assert table.loc[LEARNED, column].isna().all()
        assert table.loc[["last", "tokens:mean", "tokens:last-2"], column].notna().all()
    for column in ("accuracy", "accuracy_low", "auroc", "skill", "l2"):
        assert table.loc[LEARNED, column].notna().all()


def test_folds_are_those_of_the_other_positions(toy: Toy) -> None:
    first = toy.run.predictions.query("repeat == 0")
    fold_of = first.pivot_table("fold", "example", ["position", "layer"])
    assert fold_of.nunique(axis=1).eq(1).all()


@pytest.mark.parametrize("position", POOLED)
def test_a_saved_probe_scores_a_text_as_the_states_of_its_tokens(
    position: str, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMPROBE_CACHE", str(toy.cache))
    path = toy.probe_file(position)
    probe = load_probe(path)
    scored = score_file(path, toy.table).table["score"].to_numpy()
    dataset = llmprobe.load_dataset(toy.table)
    states = llmprobe.extract(str(toy.model["id"]), dataset, position="tokens", dtype="float32",
                              cache=False, progress=False)  # fmt: skip
    X = pooled(states, position).layer(probe.best_layer)
    logits = (
        logits_of_texts(probe, probe.best_layer, X, states.n_tokens)
        if position in LEARNED
        else probe.decision_function(X)
    )
    np.testing.assert_allclose(scored, probe.outputs_of(logits)[:, 1], atol=1e-4)


@pytest.mark.parametrize("position", ["tokens:mean", "tokens:last-2"])
def test_golden_examples_of_mean_states_agree_with_the_model(
    position: str, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMPROBE_CACHE", str(toy.cache))
    assert main(["verify", str(toy.probe_file(position)), "--model", str(toy.model["id"])]) == 0
    assert main(["verify", str(toy.probe_file("tokens:max"))]) == 2


@pytest.mark.parametrize("position", LEARNED)
def test_an_exported_probe_says_how_scores_are_pooled(
    position: str, toy: Toy, tmp_path: Path
) -> None:
    path = str(toy.probe_file(position))
    assert main(["export", path, "--to", "numpy", "--out", str(tmp_path)]) == 0
    assert "Rows are the tokens of a text, whose logit" in (tmp_path / "README.md").read_text()
    arrays = np.load(tmp_path / "probe.npz")
    assert ("query_1" in arrays) == (position == "tokens:attention")


def test_only_attention_has_a_query(toy: Toy) -> None:
    for position in ["last", *POOLED]:
        probe = load_probe(toy.probe_file(position))
        assert (sorted(probe.query) == probe.layers) == (position == "tokens:attention")


def test_a_run_goes_on_with_what_it_has(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMPROBE_CACHE", str(toy.cache))
    monkeypatch.setattr("llmprobe.runs.parts.probe", None)
    Run(load_config(toy.run.folder / "config.yaml"), toy.run.folder).probe(extract=True)


def test_states_in_memory_have_the_same_curves(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMPROBE_CACHE", str(toy.cache))
    dataset = llmprobe.load_dataset(toy.table)
    states = llmprobe.extract(str(toy.model["id"]), dataset, position="tokens", dtype="float32",
                              progress=False)  # fmt: skip
    options = PROBE | {"controls": ["majority"], "permutations": 0}
    results: Results = llmprobe.probe(states, progress=False, **options)
    assert list(results.summary["position"]) == POOLED
    theirs = toy.run.table[toy.run.table["position"].isin(LEARNED)]
    ours = results.table[results.table["position"].isin(LEARNED)]
    np.testing.assert_allclose(ours["accuracy"], theirs["accuracy"], atol=0.03)


@pytest.mark.parametrize(
    ("kind", "pooling", "said"),
    [("mass_mean", ["max"], "say pooling: [mean, last-5]"),
     ("ridge", ["softmax"], "numbers have a unit"),
     ("logistic", ["median"], "should be mean, max, attention"),
     ("logistic", ["last-0"], "should be mean, max, attention")],
)  # fmt: skip
def test_poolings_that_cannot_be_are_refused_before_a_model_is_loaded(
    kind: str, pooling: list[str], said: str, toy: Toy, tmp_path: Path
) -> None:
    config = write_config(
        tmp_path / "toy.yaml", "no-such-model", toy.table, extract={"position": "tokens"},
        probe=QUICK | {"kind": kind, "pooling": pooling},
    )  # fmt: skip
    with pytest.raises(UserError) as error:
        Run(load_config(config), tmp_path / "out")
    assert said in str(error.value)


def test_examples_are_traced_by_probes_over_tokens(toy: Toy) -> None:
    traces = {trace.position: trace for trace in traces_of_run(toy.run.folder)}
    assert list(traces) == ["last", *POOLED]
    n = len(traces["last"].tokens)
    assert {position: list(trace.read) for position, trace in traces.items()} == {
        "last": [n - 1], "tokens:last-2": [n - 2, n - 1],
        **{position: list(range(n)) for position in ("tokens:mean", *LEARNED)},
    }  # fmt: skip
    view = TraceView(traces["tokens:last-2"], most_tokens=3)
    assert view.read == [False, True, True]
    assert "fitted at the mean of the last 2 tokens (in bold); elsewhere (pale)" in view.caution
    assert "a text's score is the largest." in TraceView(traces["tokens:max"]).caution
    page = (toy.run.folder / "report.html").read_text()
    assert page.count('<th scope="col" class="read">') == 4 * n + 3


def test_pooling_is_of_positions_of_tokens_alone() -> None:
    assert Pooling.of("mean") is None
    assert Pooling.of("token:-2") is None
    assert Pooling.of("tokens") is None
    assert json.dumps(vars(Pooling.of("tokens:softmax-0.5") or Pooling("mean"))) == (
        '{"kind": "softmax", "number": 0.5}'
    )
