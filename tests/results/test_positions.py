"""What was probed at several positions: a curve for each, told apart in tables, files and words."""

from __future__ import annotations

import re
from dataclasses import replace
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
from probes import at

from llmprobe.config.schema import ProbeConfig
from llmprobe.probing.protocol import probe_layers
from llmprobe.reporting.charts.heatmaps import positions
from llmprobe.reporting.page.compared import Compared
from llmprobe.reporting.page.payload import payload
from llmprobe.reporting.page.tables import cost_table, layer_tables
from llmprobe.reporting.terminal import summary_lines
from llmprobe.results.columns import CURVE
from llmprobe.results.curve import curve_file_name
from llmprobe.results.differences import differences
from llmprobe.results.figures import draw_figures
from llmprobe.results.folder import read_results, write_results
from llmprobe.results.results import Results
from llmprobe.results.saved_probe import load_probe

N, WIDTH, BLOCKS = 40, 3, 4
BARE = ProbeConfig(
    folds=2, repeats=1, l2=1.0, permutations=0, controls=["majority"], description_length=False
)


def probed(model: str, dataset: str, position: str, strength: float) -> Results:
    """Pairs of which the first is labelled 1, with a curve that rises."""
    rng = np.random.default_rng(crc32(f"{model} {dataset} {position}".encode()))
    labels = np.tile([1, 0], N // 2)
    states = {
        layer: rng.normal(size=(N, WIDTH)) + strength * layer * (labels[:, None] - 0.5)
        for layer in range(BLOCKS + 1)
    }
    found = probe_layers(
        states, labels, np.arange(N) // 2, model=model, dataset=dataset, config=BARE, progress=False
    )
    return at(found, position)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Two models on cities at three positions, and one of them on rivers at one."""
    places = {"last": 1.0, "span:city": 2.0, "mean": 0.5}
    parts = [
        probed(model, "cities", position, strength)
        for model in ("small", "large")
        for position, strength in places.items()
    ]
    parts.append(probed("small", "rivers", "last", 1.0))
    examples = pd.DataFrame(
        [
            {"dataset": name, "example": i, "text": f"{name} {i}", "label": str(1 - i % 2)}
            for name in ("cities", "rivers")
            for i in range(N)
        ]
    ).assign(group=None, fields="{}")
    out = tmp_path_factory.mktemp("run")
    write_results(out, replace(Results.concatenate(parts), examples=examples))
    return read_results(out)


TITLES = ["cities @ last", "cities @ span:city", "cities @ mean", "rivers"]


def test_each_position_is_a_curve_with_rows_of_its_own(run: Results) -> None:
    keys = [
        *((m, "cities", p) for m in ("small", "large") for p in ("last", "span:city", "mean")),
        ("small", "rivers", "last"),
    ]
    assert [curve.key for curve in run.curves] == keys
    assert [curve.title for curve in run.curves] == [*TITLES[:3], *TITLES]
    assert all(curve.layers == list(range(BLOCKS + 1)) for curve in run.curves)
    for table in (run.table, run.summary, run.predictions):
        assert list(dict.fromkeys(table["position"])) == ["last", "span:city", "mean"]
    # What is read back is what was probed, each by itself.
    alone = probed("large", "cities", "span:city", 2.0)
    curve = run.curves[4]
    for column in ("accuracy", "auroc", "log_loss"):
        np.testing.assert_array_equal(curve.column(column), alone.table[column])


def test_files_of_probes_have_the_position_where_there_are_several(run: Results) -> None:
    paths = {path.relative_to(run.folder / "probes").as_posix(): path
             for path in run.folder.glob("probes/*/*")}  # fmt: skip
    assert {path for path in paths if path.startswith("small/")} == {
        *(f"small/cities@{place}.safetensors" for place in ("last", "span-city", "mean")),
        "small/rivers.safetensors",
    }
    assert load_probe(paths["small/cities@span-city.safetensors"]).facts["position"] == "span:city"


def test_no_two_positions_share_a_file_and_any_system_takes_the_name() -> None:
    of_fields = ["a", "a-b", "a b", "a/b", "a:b", "a%3Ab", "a%2Fb", "ä", "@", '<"*?|\\\n>']
    places = [
        *("last", "first", "mean", "tokens", "token:-2", "token:2", "turn:user"),
        *(f"{kind}:{field}" for kind in ("span", "mean", "first") for field in of_fields),
    ]
    names = [curve_file_name("x/y", place) for place in places]
    assert len(set(names)) == len(places)
    assert all(re.fullmatch(r'x-y@[^/\\:*?"<>|\n]+', name) for name in names)
    assert curve_file_name("x/y") == "x-y"


def test_words_and_pages_tell_positions_apart(run: Results) -> None:
    page = payload(run)
    assert [dataset["name"] for dataset in page["datasets"]] == TITLES
    assert [TITLES[curve["dataset"]] for curve in page["curves"]] == [*TITLES[:3], *TITLES]
    assert page["datasets"][1]["examples"]["text"][:2] == ["cities 0", "cities 1"]
    points = [curve["points"]["right"] for curve in page["curves"]]
    assert len(set(points)) == len(points)
    assert [one.position for one in run.evidence] == [curve.position for curve in run.curves]
    lines = "\n".join(line.plain for line in summary_lines(run.curves, run.evidence, width=100))
    captions = [table.caption for table in layer_tables(run.table)[0]]
    for title in TITLES:
        assert lines.count(f"  {title} ") == (1 if title == "rivers" else 2)
        assert f"small, {title}, logistic probe" in captions
    assert [row[1] for row in cost_table(run.summary).rows] == [*TITLES[:3], *TITLES]


def test_positions_of_one_model_and_models_at_one_position_are_compared(run: Results) -> None:
    pairs = differences(run)
    assert len(pairs) == 2 * 3 + 3
    two = [
        tuple(tuple(row[f"{name}_{end}"] for name in CURVE) for end in "ab")
        for row in pairs.to_dict("records")
    ]
    assert (("small", "cities", "last"), ("small", "cities", "mean")) in two
    assert (("small", "cities", "mean"), ("large", "cities", "mean")) in two
    sentences = Compared(pairs.head(5)).sentences()
    assert sentences[0].startswith("small: accuracy")
    assert " for cities @ span:city, " in sentences[0]


def test_the_heatmap_of_positions_has_a_row_for_each(run: Results) -> None:
    (figure,) = positions(run).values()
    for ax, model in zip(figure.axes, ("small", "large"), strict=False):
        assert ax.get_title(loc="left") == model
        rows = [label.get_text() for label in ax.get_yticklabels()]
        assert rows == ["last", "span:city", "mean"]
        curves = [
            curve for curve in run.curves if (curve.model, curve.dataset) == (model, "cities")
        ]
        expected = [curve.levels(curve.metric) for curve in curves]
        np.testing.assert_allclose(ax.images[0].get_array(), expected)
    alone = replace(run, summary=run.summary[run.summary["position"] == "last"])
    assert positions(alone) == {}
    drawn = draw_figures(run)
    assert {"positions_cities", "projection_cities@span-city", "projection_rivers"} <= set(drawn)
