"""What a notebook shows: a table and a picture, small, escaped, of anything that there can be."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from conftest import Tables
from synthetic_runs import capitals, curve_of, results_of
from test_trace_pictures import a_trace
from test_transfer_pictures import matrix_of

import llmprobe
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.reporting.notebook import MOST_BYTES
from llmprobe.results.columns import TRANSFER
from llmprobe.results.results import Results
from llmprobe.results.saved_probe import SavedProbe
from llmprobe.results.transfer import TransferMatrix

NASTY = '<script>alert("1")</script>&amp;\x1b[31m\u202e$x$\n' + "x" * 500


class Seen(HTMLParser):
    """What a browser would make of HTML: its elements, its text, its pictures."""

    def __init__(self, thing: object) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.pictures: list[np.ndarray] = []
        self.html = thing._repr_html_()
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "img":
            kind, content = str(dict(attrs)["src"]).split(",")
            assert kind == "data:image/png;base64"
            assert dict(attrs)["alt"]
            self.pictures.append(matplotlib.image.imread(io.BytesIO(base64.b64decode(content))))

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def a_probe(name: str = "toy", layers: int = 3) -> SavedProbe:
    one = {layer: np.ones((1, 4)) for layer in range(layers)}
    scores = {
        "accuracy": np.linspace(0.5, 0.9, layers).tolist(), "skill": list(range(layers)),
        "accuracy_low": np.linspace(0.4, 0.8, layers).tolist(),
        "accuracy_high": np.linspace(0.6, 0.95, layers).tolist(),
    }  # fmt: skip
    facts = {"model": name, "dataset": name, "template": name, "position": "last"}
    return SavedProbe(one, {layer: np.zeros(1) for layer in one}, (0, name), facts, scores)


def run_of(tables: Callable[..., Tables], models: int, datasets: int, name: str = "") -> Results:
    blocks = {f"m{i}{name}": 12 for i in range(models)}
    return results_of(*tables(blocks, [f"d{i}{name}" for i in range(datasets)]))


@pytest.fixture
def activations(tiny_model: Callable[..., Path]) -> llmprobe.Activations:
    dataset = ConceptDataset(NASTY, ["Lima is " + NASTY, "Bern is"], np.array([NASTY[:9], "b"]))
    return llmprobe.extract(
        tiny_model(), dataset, name="tiny", dtype="float32", cache=False, progress=False,
        too_long="cut_left",
    )  # fmt: skip


def test_results_show_a_row_for_each_curve_and_the_heatmap(tables: Callable[..., Tables]) -> None:
    run = run_of(tables, 2, 3)
    scores = [curve.score for curve in run.curves]
    assert repr(run) == (
        f"Results(6 curves, of 2 models on 3 datasets, best scores {min(scores):.2f} to "
        f"{max(scores):.2f})"
    )
    seen = Seen(run)
    assert seen.html.count("<tr>") == 1 + 6
    for curve, evidence in zip(run.curves, run.evidence, strict=True):
        assert f"{curve.score:.2f} [{curve.low:.2f}, {curve.high:.2f}]" in seen.text
        assert evidence.line in seen.text
    (picture,) = seen.pictures
    assert picture.std() > 0.1
    assert len(Seen(run.curves[0]).pictures) == 1


def test_each_kind_has_its_picture() -> None:
    curve = curve_of()
    assert repr(curve).endswith("accuracy 0.90 [0.88, 0.92] at layer 13 of 18)")
    assert repr(a_trace()) == "Trace(' w0 w1 w2 w3 w4 w5': 6 tokens × 5 layers, 'toy' in 'tiny')"
    assert repr(a_probe()) == "SavedProbe('toy' in 'toy': 3 layers, the best 2)"
    matrix = matrix_of(["a", "b"])
    assert repr(matrix) == "TransferMatrix(2 × 2 sets, 1 models, worst AUROC 0.20: a on b)"
    for thing in (curve, a_trace(), a_probe(), matrix):
        assert len(Seen(thing).pictures) == 1
    assert "0.90 [0.80, 0.95], out-of-fold" in Seen(a_probe()).text
    assert "0.20 [0.15, 0.25]" in Seen(matrix).text


def test_a_dataset_shows_its_classes_and_first_texts() -> None:
    seen = Seen(capitals())
    assert "ConceptDataset('capitals': 120 texts in 60 groups, labels 0, 1)" in seen.text
    assert "1 (60), 0 (60)" in seen.text
    assert "true (60), 0 (60)" in Seen(replace(capitals(), class_names={"1": "true"})).text
    assert "The capital of country 003 is Oslo." in seen.text
    assert "112 more texts are left out here: .to_pandas()" in seen.text


def test_nothing_of_a_users_words_is_markup(
    tables: Callable[..., Tables], activations: llmprobe.Activations
) -> None:
    trace = a_trace([NASTY, "b"], dataset=NASTY, model=NASTY, label=NASTY, title=NASTY)
    things = [run_of(tables, 1, 2, NASTY), trace, a_probe(NASTY), matrix_of([NASTY, "b"]),
              activations.dataset]  # fmt: skip
    things.append(things[0].curves[0])
    things.append(replace(activations, facts={**activations.facts, "model": NASTY}))
    for thing in things:
        seen = Seen(thing)
        assert seen.tags <= {"div", "b", "table", "tr", "th", "td", "img"}
        assert "<script>" in seen.text
        assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", seen.html + repr(thing))
        assert len(repr(thing)) < 400


def test_the_largest_is_small(tables: Callable[..., Tables]) -> None:
    many = run_of(tables, 3, 20, NASTY)
    long = ConceptDataset("long", ["&" * 100_000 + str(i) for i in range(500)], np.arange(500) % 50)
    names = [f"{i}{NASTY}" for i in range(24)]
    things = [many, long, a_trace(5000, layers=20), a_probe(NASTY, 120), matrix_of(names)]
    for thing in things:
        assert len(Seen(thing).html.encode()) < MOST_BYTES
    assert "40 more curves are left out here: .summary" in Seen(many).text
    assert "556 more cells are left out here: .table" in Seen(things[-1]).text
    assert "and 40 more" in Seen(long).text


def test_what_is_empty_is_shown_too(tables: Callable[..., Tables]) -> None:
    none = pd.DataFrame()
    run = run_of(tables, 1, 1)
    unscored = run.table.assign(accuracy=np.nan)
    nothing = {"peak_layer": np.nan, "peak_accuracy": np.nan, "peak_score": np.nan}
    empty = [
        Results(none, none, none),
        Results(unscored, run.summary.assign(**nothing), none),
        Results(run.table.head(0), run.summary.assign(**nothing), none),
        TransferMatrix(pd.DataFrame(columns=list(TRANSFER))),
        a_trace(0),
        replace(a_probe(), scores={}),
        ConceptDataset("numbers", ["a", "b"], np.array([0.5, 1.5])),
    ]
    for thing in [*empty, *empty[1].curves, *empty[2].curves]:
        assert len(repr(thing)) < 300
        assert not Seen(thing).pictures
    assert "numbers from 0.5 to 1.5" in Seen(empty[-1]).text


def test_to_print_an_object_loads_nothing_to_draw_with() -> None:
    code = (
        "import sys, numpy as np, pandas as pd, llmprobe\n"
        "none = pd.DataFrame()\n"
        "print(llmprobe.Results(none, none, none))\n"
        "print(llmprobe.ConceptDataset('a', ['b', 'c'], [0, 1]))\n"
        "sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_states_say_what_they_are_without_their_numbers(activations: llmprobe.Activations) -> None:
    assert "4 layers of [n, 32] at last)" in repr(activations)
    assert "0, 1, 2, 3" in Seen(activations).text


def test_figures_are_drawn_without_a_warning_where_matplotlib_is_interactive(
    tables: Callable[..., Tables],
) -> None:
    with matplotlib.rc_context({"interactive": True}), warnings.catch_warnings():
        warnings.simplefilter("error")
        run_of(tables, 1, 1).plot.heatmap()
