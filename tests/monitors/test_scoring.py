"""``llmprobe score``: a probe answers new texts as it would those of its own extraction."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from probes import fit, save
from toy import write_table
from transformers import AutoTokenizer

import llmprobe
from llmprobe.cli.main import main
from llmprobe.config.schema import ModelConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction.activations import Activations
from llmprobe.extraction.extract import Extractor
from llmprobe.ground.errors import UserError
from llmprobe.monitors import tracing
from llmprobe.monitors.new_texts import ReadingOptions
from llmprobe.monitors.scoring import score_file
from llmprobe.reporting.trace.view import TraceView
from llmprobe.results.operating import OperatingPoints
from llmprobe.results.saved_probe import SavedProbe, load_probe


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("llama", bos=True)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("table") / "toy.csv", place="Bern")


@pytest.fixture(scope="module")
def dataset(table: Path) -> ConceptDataset:
    return llmprobe.load_dataset(table)


@pytest.fixture(scope="module")
def fitted(model: Path, dataset: ConceptDataset) -> tuple[SavedProbe, Activations]:
    return fit(model, dataset)


@pytest.fixture(scope="module")
def probe(fitted: tuple[SavedProbe, Activations], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(fitted[0], tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def monitor(fitted: tuple[SavedProbe, Activations], tmp_path_factory) -> tuple[SavedProbe, Path]:
    """A probe with planted thresholds, of which those for 10 % are guaranteed."""
    saved, activations = fitted
    median = {
        layer: float(np.median(saved.predict_proba(activations.layer(layer), layer)[:, 1]))
        for layer in saved.layers
    }
    points = OperatingPoints("set aside", 40, {0.1: [median[layer] for layer in saved.layers]})
    saved = replace(saved, operating=points)
    return saved, save(saved, tmp_path_factory.mktemp("monitor"))


@pytest.fixture
def score(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture):
    """``score(probe, file, …)``: the table on stdout, and the last line logged."""

    def score(*words: object) -> tuple[pd.DataFrame, str]:
        probe, file, *more = map(str, words)
        caplog.set_level("INFO", logger="llmprobe")
        assert main(["score", probe, "--file", file, *more]) == 0
        return pd.read_csv(io.StringIO(capsys.readouterr().out)), caplog.messages[-1]

    return score


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]):
    """``fails(probe, file, …)``: exits with 2, and the one line that it says."""

    def fails(*words: object) -> str:
        probe, file, *more = map(str, words)
        assert main(["score", probe, "--file", file, *more]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        said = captured.err.splitlines()[-1]
        assert said.startswith("llmprobe: ")
        return said

    return fails


def test_each_text_gets_what_the_probe_says_of_its_extracted_state(
    fitted: tuple[SavedProbe, Activations], probe: Path, table: Path, score
) -> None:
    saved, activations = fitted
    scored, said = score(probe, table)
    assert [*scored.columns] == ["text", "label", "place", "predicted", "score"]
    pd.testing.assert_frame_equal(scored.iloc[:, :3], pd.read_csv(table))
    states = activations.layer(saved.best_layer)
    np.testing.assert_array_equal(scored["predicted"], saved.predict(states))
    np.testing.assert_allclose(scored["score"], saved.predict_proba(states)[:, 1], atol=1e-4)
    assert said == (
        f"toy.csv: 40 texts, scored by the probe of toy in tiny-llama at layer {saved.best_layer}: "
        "predicted 20 × '0', 20 × '1'"
    )


def test_another_layer_can_be_asked(
    fitted: tuple[SavedProbe, Activations], probe: Path, table: Path, score, fails
) -> None:
    saved, activations = fitted
    for layer in saved.layers:
        scored, said = score(probe, table, "--layer", layer)
        expected = saved.predict_proba(activations.layer(layer), layer)[:, 1]
        np.testing.assert_allclose(scored["score"], expected, atol=1e-4)
        assert f"at layer {layer}:" in said
    assert "has no layer 4: its layers are 0 to 3" in fails(probe, table, "--layer", 4)


def test_of_several_classes_each_has_its_probability(
    model: Path, dataset: ConceptDataset, table: Path, tmp_path: Path, score
) -> None:
    labels = np.array(["a", "b", "c"])[np.arange(len(dataset)) % 3]
    saved, activations = fit(model, replace(dataset, labels=labels))
    scored, said = score(save(saved, tmp_path / "run"), table)
    names = ["probability a", "probability b", "probability c"]
    p = saved.predict_proba(activations.layer(saved.best_layer))
    np.testing.assert_allclose(scored[names], p, atol=1e-4)
    np.testing.assert_allclose(scored["score"], p.max(axis=1), atol=1e-4)
    assert scored["predicted"].tolist() == [saved.classes[k] for k in p.argmax(axis=1)]
    assert "AUROC" not in said


def test_a_probe_of_numbers_predicts_them(
    model: Path, dataset: ConceptDataset, tmp_path: Path, score
) -> None:
    numbers = np.sin(np.arange(len(dataset)))
    saved, activations = fit(model, replace(dataset, labels=numbers), "ridge")
    file = tmp_path / "numbers.jsonl"
    pd.DataFrame({"text": dataset.texts, "y": numbers}).to_json(file, orient="records", lines=True)
    scored, said = score(save(saved, tmp_path / "run"), file, "--label", "y")
    predicted = saved.predict(activations.layer(saved.best_layer))
    np.testing.assert_allclose(scored["predicted"], predicted, atol=1e-4)
    np.testing.assert_array_equal(scored["predicted"], scored["score"])
    r2 = 1 - ((numbers - predicted) ** 2).sum() / ((numbers - numbers.mean()) ** 2).sum()
    assert said.endswith(f"; R² {r2:.3f}")


def test_texts_above_the_threshold_of_a_false_positive_rate_are_flagged(
    monitor: tuple[SavedProbe, Path], table: Path, score
) -> None:
    saved, path = monitor
    for words in ((), ("--layer", "1")):
        scored, said = score(path, table, "--fpr", "0.1", *words)
        threshold = saved.threshold(0.1, layer=int(words[1]) if words else None)
        assert [*scored.columns][-2:] == ["score", "flagged"]
        away = (scored["score"] - threshold.value).abs() > 1e-4
        above = scored["score"] > threshold.value
        pd.testing.assert_series_equal(scored["flagged"][away], above[away], check_names=False)
        assert said.endswith(f"; {scored['flagged'].sum()} flagged, {threshold.sentence}")
        assert "guaranteed at 95 % confidence: of units like the 40" in said


def test_texts_above_a_threshold_of_ones_own_are_flagged_without_a_guarantee(
    monitor: tuple[SavedProbe, Path], table: Path, tmp_path: Path, score
) -> None:
    scored, said = score(monitor[1], table, "--threshold", "0.5", "--label", "label")
    assert (scored["flagged"] == (scored["score"] > 0.5)).all()
    assert "20 flagged, threshold 0.5, no guarantee: it was chosen by hand; accuracy 1.0" in said
    main(["score", str(monitor[1]), "--file", str(table), "--threshold", "1", "--out",
          str(tmp_path / "scored.parquet")])  # fmt: skip
    assert pd.read_parquet(tmp_path / "scored.parquet")["flagged"].tolist() == [False] * 40


def test_texts_that_are_read_in_another_way_have_no_guarantee(
    monitor: tuple[SavedProbe, Path], model: Path, table: Path, score
) -> None:
    for words in (("--template", "true {text}"), ("--model", model)):
        said = score(monitor[1], table, "--fpr", "0.1", *words)[1]
        assert "no guarantee: it was calibrated with another model or template" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--fpr", "0.01"), "too few negatives to tell a false positive rate of 1 %: 40 units set "
         "aside have one, 299 needed"),
        (("--fpr", "0.3"), "fpr 0.3: a probe has thresholds for 0.1, 0.05, 0.01 and 0.001"),
        (("--threshold", "7"), "threshold 7.0: should be a probability, from 0 to 1"),
        (("--threshold", "nan"), "threshold nan: should be a probability, from 0 to 1"),
        (("--fpr", "0.1", "--threshold", "0.5"), "one of the two"),
    ],
)  # fmt: skip
def test_a_threshold_that_is_none_is_refused_before_the_model_is_loaded(
    words: tuple[str, ...], message: str, monitor: tuple[SavedProbe, Path], table: Path, fails,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(Extractor, "__init__", lambda *_, **__: pytest.fail("loaded"))
    assert message in fails(monitor[1], table, *words)


def test_a_table_with_a_column_flagged_is_not_overwritten(
    monitor: tuple[SavedProbe, Path], table: Path, tmp_path: Path, fails
) -> None:
    pd.read_csv(table).assign(flagged=1).to_csv(tmp_path / "new.csv", index=False)
    said = fails(monitor[1], tmp_path / "new.csv", "--threshold", "0.5")
    assert "has a column 'flagged' already" in said


def test_labels_say_how_right_the_probe_is(probe: Path, table: Path, tmp_path: Path, score) -> None:
    assert score(probe, table, "--label", "label")[1].endswith("accuracy 1.000, AUROC 1.000")
    rows = pd.read_csv(table)
    # One class spelled as a number with a fraction, every fourth label wrong, some missing.
    wrong = [label if i % 4 else 1 - label for i, label in enumerate(rows["label"])]
    rows["truth"] = ["" if i >= 36 else f"{label}.0" for i, label in enumerate(wrong)]
    rows.drop(columns="label").to_csv(tmp_path / "new.csv", index=False)
    said = score(probe, tmp_path / "new.csv", "--label", "truth")[1]
    assert "accuracy 0.750, AUROC " in said
    assert said.endswith(" (36 with a label)")
    rows[:8:2].to_csv(tmp_path / "one.csv", index=False)
    said = score(probe, tmp_path / "one.csv", "--label", "label")[1]
    assert said.endswith("accuracy 1.000, AUROC undefined (one class only)")


def test_the_template_of_the_probes_own_texts_is_filled_from_the_columns(
    model: Path, table: Path, tmp_path: Path, score, fails
) -> None:
    template = "city {place} true or false {text}"
    dataset = llmprobe.load_dataset(table, template=template)
    saved, activations = fit(model, dataset)
    path = save(saved, tmp_path / "run")
    rows = pd.read_csv(table).rename(columns={"text": "claim"})
    rows.to_csv(tmp_path / "new.tsv", index=False, sep="\t")
    scored, _ = score(path, tmp_path / "new.tsv", "--text", "claim")
    p = saved.predict_proba(activations.layer(saved.best_layer))[:, 1]
    np.testing.assert_allclose(scored["score"], p, atol=1e-4)
    whole = pd.DataFrame({"text": dataset.texts})
    whole.to_csv(tmp_path / "whole.csv", index=False)
    again, _ = score(path, tmp_path / "whole.csv", "--template", "{text}")
    np.testing.assert_allclose(again["score"], p, atol=1e-4)
    assert "has the field 'place', which is not there" in fails(path, tmp_path / "whole.csv")


def test_a_probe_of_a_span_finds_it_in_new_texts(
    model: Path, table: Path, tmp_path: Path, score
) -> None:
    dataset = llmprobe.load_dataset(table, template="{text} city {place} true")
    saved, activations = fit(model, dataset, position="span:text")
    path = save(saved, tmp_path / "run")
    scored, _ = score(path, table)
    p = saved.predict_proba(activations.layer(saved.best_layer))[:, 1]
    np.testing.assert_allclose(scored["score"], p, atol=1e-4)


@pytest.mark.parametrize("position", ["mean", "first"])
def test_texts_are_read_at_the_probes_position(
    position: str, tiny_model: Callable[..., Path], dataset: ConceptDataset, table: Path,
    tmp_path: Path, score,
) -> None:  # fmt: skip
    saved, activations = fit(tiny_model("llama"), dataset, position=position)
    scored, _ = score(save(saved, tmp_path / "run"), table)
    p = saved.predict_proba(activations.layer(saved.best_layer))[:, 1]
    np.testing.assert_allclose(scored["score"], p, atol=1e-4)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_tables_of_each_kind_are_read_and_written(
    suffix: str, probe: Path, table: Path, tmp_path: Path
) -> None:
    rows = pd.read_csv(table)
    file, out = tmp_path / f"new{suffix}", tmp_path / "made" / f"scored{suffix}"
    write = {".csv": rows.to_csv, ".tsv": lambda path: rows.to_csv(path, sep="\t"),
             ".jsonl": lambda path: rows.to_json(path, orient="records", lines=True),
             ".parquet": rows.to_parquet}  # fmt: skip
    write[suffix](file)
    assert main(["score", str(probe), "--file", str(file), "--out", str(out)]) == 0
    read = {".csv": pd.read_csv, ".tsv": lambda path: pd.read_csv(path, sep="\t"),
            ".jsonl": lambda path: pd.read_json(path, lines=True),
            ".parquet": pd.read_parquet}  # fmt: skip
    scored = read[suffix](out)
    expected = score_file(probe, table).table
    assert scored["predicted"].tolist() == expected["predicted"].tolist()
    np.testing.assert_allclose(scored["score"], expected["score"], atol=1e-6)
    assert scored["text"].tolist() == rows["text"].tolist()


def test_a_file_in_another_encoding_and_with_another_delimiter_is_read(
    probe: Path, tmp_path: Path, score, fails
) -> None:
    file = tmp_path / "old.csv"
    file.write_text("text;where\ncity is red;Zürich\n", encoding="latin-1")
    assert "encoding: latin-1" in fails(probe, file, "--delimiter", ";")
    scored, _ = score(probe, file, "--encoding", "latin-1", "--delimiter", ";")
    assert scored["where"].tolist() == ["Zürich"]


def test_a_copy_of_the_model_may_be_named(
    model: Path, probe: Path, table: Path, tmp_path: Path, score
) -> None:
    expected, _ = score(probe, table)
    copy = shutil.copytree(model, tmp_path / "copy")
    scored, said = score(probe, table, "--model", copy)
    pd.testing.assert_frame_equal(scored, expected)
    assert "in copy at layer" in said


def rows_of(**columns: list[object]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        pd.DataFrame(columns).to_csv(folder / "bad.csv", index=False)
        return folder / "bad.csv"

    return write


WRONG = {
    "no file": (lambda folder: folder / "none.csv", [], "none.csv: no such file"),
    "no text": (rows_of(words=["red"]), [], "no column 'text' or 'statement' or 'sentence'"),
    "no such column": (rows_of(text=["red"]), ["--text", "x"], "no column 'x' (text)"),
    "empty text": (rows_of(text=["red", " "], a=[1, 2]), [], "row 2: no value in column 'text'"),
    "too long": (rows_of(text=["red", "red " * 99]), [], "row 2: 100 tokens, and tiny-llama reads"),
    "scored": (rows_of(text=["red"], score=[1]), [], "has a column 'score' already"),
    "no such label": (rows_of(text=["red"]), ["--label", "x"], "no column 'x' (label)"),
    "unknown label": (rows_of(text=["red", "red"], y=[0, 7]), ["--label", "y"],
                      "row 2, column 'y': '7' is no class of the probe; its classes are 0, 1"),
    "no labels": (rows_of(text=["red", "red"], y=[None, None]), ["--label", "y"], "has no labels"),
    "out": (rows_of(text=["red"]), ["--out", "x.doc"], "--out x.doc: should end in .csv"),
    "template": (rows_of(text=["red"]), ["--template", "x"], "has no field"),
    "conversion": (rows_of(text=["red"]), ["--template", "{text!x}"], "cannot be filled"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_said_with_its_file_and_row(
    wrong: str, probe: Path, tmp_path: Path, fails
) -> None:
    write, options, message = WRONG[wrong]
    file = write(tmp_path)
    said = fails(probe, file, *options)
    assert message in said
    assert file.name in said or wrong == "out"


def test_what_is_no_probe_is_said(probe: Path, table: Path, tmp_path: Path, fails) -> None:
    assert f"a probe is one .safetensors file, such as {probe}" in fails(probe.parents[2], table)
    assert "not a saved probe, or damaged" in fails(table, table)
    assert "there is no such file" in fails(tmp_path / "none", table)


@pytest.mark.parametrize("revision", ["", "0" * 64])
def test_a_model_on_this_disk_that_only_a_probe_names_is_not_read(
    revision: str, probe: Path, table: Path, tmp_path: Path, fails, score
) -> None:
    own = load_probe(probe)
    facts = {**own.facts, "revision": revision}
    foreign = replace(own, facts=facts).save(tmp_path / "p.safetensors")
    assert repr(own.facts["model_id"]) in fails(foreign, table)
    score(foreign, table, "--model", own.facts["model_id"])


def test_the_file_that_is_read_is_never_written(probe: Path, table: Path, fails) -> None:
    before = table.read_bytes()
    assert "is the file that is read" in fails(probe, table, "--out", table)
    assert table.read_bytes() == before


def test_a_text_that_is_too_long_can_be_cut_at_its_beginning(
    probe: Path, tmp_path: Path, score
) -> None:
    saved = load_probe(probe)
    assert saved.facts["too_long"] == "error"
    rows_of(text=["red " * n + "city is blue two" for n in (99, 80)])(tmp_path)
    scored, _ = score(probe, tmp_path / "bad.csv", "--too-long", "cut_left")
    assert scored["score"].nunique() == 1


def test_a_probe_of_chats_reads_the_turns_of_others(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_model("llama"), tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }} {{ m.content }} {{ end }} {% endfor %}"
    )
    tokenizer.save_pretrained(model)
    rows = [{"messages": [{"role": "user", "content": f"{color} {word}"},
                          {"role": "assistant", "content": answer}], "label": answer}
            for color in ("red", "green", "blue") for word in ("one", "two", "three", "four")
            for answer in ("true", "false")]  # fmt: skip
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = llmprobe.load_dataset(file, chat={"end": "</s>"})
    activations = llmprobe.extract(str(model), data, position="turn:assistant", dtype="float32",
                          cache=False, progress=False)  # fmt: skip
    results = llmprobe.probe(activations, permutations=0, progress=False)
    path = tmp_path / "probe.safetensors"
    results.probes[0].save(path)
    scored = score_file(path, file, options=ReadingOptions(model=str(model))).table
    layer = results.probes[0].best_layer
    expected = results.probes[0].predict_proba(activations.layer(layer))[:, 1]
    np.testing.assert_allclose(scored["score"], expected, atol=1e-6)
    (trace,) = tracing.trace(
        Extractor(ModelConfig(id=str(model), dtype="float32")), results.probes[0],
        data.texts[:1], data.turns and data.turns[:1],
    )  # fmt: skip
    assert "".join(trace.tokens).split() == "<unk> red one </s> <unk> true </s>".split()
    plain = tmp_path / "plain.csv"
    plain.write_text("text\nred one\n")
    with pytest.raises(UserError, match="no column 'messages'"):
        score_file(path, plain, options=ReadingOptions(model=str(model)))


def test_a_probe_of_words_scores_no_texts(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    rows = [
        {"tokens": ["the", color, word], "tags": ["other", "color", "number"]}
        for color in ("red", "green", "blue")
        for word in ("one", "two", "three", "four")
    ]
    file = tmp_path / "words.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = llmprobe.load_dataset(file, tokens="tokens", tags="tags")
    activations = llmprobe.extract(
        str(tiny_model("llama")), data, position="mean", cache=False, progress=False
    )
    results = llmprobe.probe(activations, permutations=0, progress=False)
    path = tmp_path / "probe.safetensors"
    results.probes[0].save(path)
    (trace,) = llmprobe.trace(path, "the red one", model=str(tiny_model("llama")))
    assert "the tokens of a labelled word; elsewhere (pale)" in TraceView(trace).caution
    assert not trace.read
    plain = tmp_path / "plain.csv"
    plain.write_text("text\nred one\n")
    with pytest.raises(UserError, match="labels are of words"):
        score_file(path, plain)
