"""Figures as a paper wants them: as wide as its columns, legible, in the user's style."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from legible import assert_legible
from matplotlib.figure import Figure
from matplotlib.text import Text
from synthetic_runs import results_of
from test_transfer_pictures import matrix_of

from llmprobe.cli.main import main
from llmprobe.ground.errors import UserError
from llmprobe.reporting.charts.curves import curves
from llmprobe.results.figures import FIGURES, WIDTHS, Look, figure
from llmprobe.results.folder import write_results
from llmprobe.results.results import Results

Tables = tuple[pd.DataFrame, pd.DataFrame]
MODELS = {
    "smollm2-135m": 30, "gemma-3-270m": 18, "Qwen/Qwen2.5-0.5B": 24, "smollm2-360m": 32,
    "meta-llama/Llama-3.2-1B-Instruct": 16, "EleutherAI/pythia-1.4b-deduped": 24,
}  # fmt: skip
DATASETS = (
    "capitals", "coin_flip", "geometry_of_truth/cities", "geometry_of_truth/neg_cities",
    "jin2024/comparative_sentences", "moods:surprise", "moods:fear", "syllogisms", "numbers",
    "multi_hop_relations", "boolean_expressions", "brackets",
)  # fmt: skip


@pytest.fixture(scope="module")
def run_of(tables: Callable[..., Tables]) -> Callable[[int, int], Results]:
    """The maker of results that every figure is drawn of."""

    def made(n_models: int, n_datasets: int) -> Results:
        models = dict(list(MODELS.items())[:n_models])
        rounds = [f"_{number}" if number else "" for number in range(n_datasets)]
        names = [f"{name}{end}" for end in rounds for name in DATASETS][:n_datasets]
        table, summary = tables(models, names)
        rng = np.random.default_rng(1)
        starts = rng.uniform(0.2, 0.8, len(summary))
        ends = {f"stays_above_half_depth{end}": starts + by
                for end, by in (("", 0), ("_low", -0.1), ("_high", 0.1))}  # fmt: skip
        sizes = {model: 1.35e8 * 1.9**number for number, model in enumerate(models)}
        summary = summary.assign(**ends, parameters=summary["model"].map(sizes))
        table = table.assign(said_auroc=table["auroc"] - 0.1, used_share=table["depth"],
                             linearity_gap=0.02, random_weights_accuracy=0.55)  # fmt: skip
        places = ["model", "dataset", "position", "layer"]
        learning = summary.rename(columns={"peak_layer": "layer"})[places]
        examples = pd.DataFrame({"example": range(20), "label": list("01") * 10})
        first = table.loc[table["dataset"] == names[0], places].merge(examples, how="cross")
        matrix = matrix_of(names, layers=4, is_crossed=n_datasets < 12)
        results = results_of(
            table, summary,
            first.assign(along=rng.normal(size=len(first)), across=rng.normal(size=len(first))),
            learning.assign(fraction=0.3, accuracy=0.6, r2=np.nan),
        )  # fmt: skip
        transfer, by_layer = (
            pd.concat([cells.assign(model=model) for model in models])
            for cells in (matrix.table, matrix.layers)
        )
        edits = pd.DataFrame(
            {"direction": direction, "edit": edit, "layer": 3, x: number, "effect": number,
             "effect_low": number - 1.0, "effect_high": number + 1.0}
            for direction in ("null", "logistic", "mean_difference")
            for edit, x in (("reflect", "layer"), ("shift", "dose"))
            for number in range(-2 if edit == "shift" else 0, 9)
        )  # fmt: skip
        curves_of_edits = summary[places[:3]].merge(edits, how="cross")
        return replace(
            results, summary=summary.assign(used_layer=3), interventions=curves_of_edits,
            transfer=transfer, transfer_layers=by_layer,
        )  # fmt: skip

    return made


@pytest.fixture(scope="module")
def run(run_of: Callable[[int, int], Results]) -> Results:
    """Two models on three datasets."""
    return run_of(2, 3)


CASES = [
    *(("heatmap", 1, 40), ("heatmap_by_model", 2, 2)),
    *(("curves", 1, 12), ("curves", 6, 2), ("learning_curve", 2, 2), ("projection", 2, 2)),
    *(("depth", 1, 2), ("depth", 6, 12), ("depth", 1, 40), ("size", 6, 2)),
    *(("difficulty", 2, 12), ("difficulty", 1, 40), ("said_used", 2, 2), ("doses", 2, 2)),
    *(("transfer", 1, 2), ("transfer", 1, 12), ("transfer", 1, 40)),
    *(("transfer_by_layer", 2, 2), ("transfer_across_layers", 2, 2)),
]


@pytest.mark.parametrize(("name", "n_models", "n_datasets"), CASES)
def test_nothing_is_clipped_and_no_words_overlap(
    run_of: Callable[[int, int], Results], name: str, n_models: int, n_datasets: int
) -> None:
    results = run_of(n_models, n_datasets)
    of = {"metric": "auroc"} if name == "heatmap" else {}
    for width in WIDTHS.values():
        (figure,) = FIGURES[name].drawn(results, Look(width=width, **of)).values()
        assert figure.get_figwidth() == width
        assert_legible(figure)


@pytest.mark.parametrize("name", ["heatmap", "curves", "difficulty", "projection", "transfer"])
def test_larger_letters_take_more_room(run: Results, name: str) -> None:
    assert_legible(run.plot(name, width="column", style={"font.size": 11}))


def test_every_figure_is_among_those_that_are_measured() -> None:
    # A run's heatmaps of accuracy, R² and positions are drawn by what draws heatmaps.
    measured = {name for name, _, _ in CASES} | {"heatmap_accuracy", "heatmap_r2", "positions"}
    assert measured == set(FIGURES)


def texts_of(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.findobj(Text)}


def test_models_datasets_and_layers_are_chosen_in_the_users_order(run: Results) -> None:
    figure = run.plot.heatmap(
        models=["gemma-3-270m"], datasets=["geometry_of_truth/cities", "capitals"], layers=range(9)
    )
    panel, _ = figure.axes
    names = [name.get_text() for name in panel.get_yticklabels()]
    assert [name[-6:] for name in names] == ["cities", "pitals"]
    assert panel.images[0].get_array().shape == (2, 9)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("curvs", {}, "figure 'curvs' is not known; did you mean 'curves'"),
        ("curves", {"modles": ["a"]}, "no option 'modles'; did you mean 'models'"),
        ("curves", {"models": "gema-3-270m"}, "did you mean 'gemma-3-270m'"),
        ("curves", {"datasets": ["capital"]}, "did you mean 'capitals'"),
        ("curves", {"layers": 31}, "layers: 31 is not in these results, which have 0 to 30"),
        ("curves", {"metric": "aurok"}, "did you mean 'auroc'"),
        ("curves", {"width": "colum"}, "did you mean 'column'"),
        ("curves", {"width": 0.5}, "width: 0.5 inches; give 1.5 to 100"),
        ("curves", {"width": 3, "figsize": (3, 2)}, "give one of figsize and width"),
        ("curves", {"cmap": "viridis"}, "curves: takes no cmap; heatmap, "),
        ("heatmap", {"cmap": "viridi"}, "did you mean 'viridis'"),
        ("heatmap_auruc", {}, "did you mean 'auroc'"),
        ("curves", {"style": "ggplott"}, "style: "),
    ],
)
def test_what_is_not_known_is_refused_with_the_nearest(
    run: Results, name: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        run.plot(name, **options)


def test_another_metric_is_drawn_in_place_of_the_main_one(run: Results) -> None:
    panel = run.plot.curves(metric="auroc", models="gemma-3-270m", datasets="capitals").axes[0]
    rows = run.table[(run.table["model"] == "gemma-3-270m") & (run.table["dataset"] == "capitals")]
    assert any(np.array_equal(line.get_ydata(), rows["auroc"]) for line in panel.lines)
    assert panel.get_ylabel() == "AUROC"
    bar = run.plot.heatmap(metric="auroc").axes[-1]
    assert bar.get_xlabel() == "AUROC"


def test_the_users_settings_win_and_a_runs_own_files_do_not_heed_them(run: Results) -> None:
    own = curves(run)
    with matplotlib.rc_context({"font.size": 11, "axes.titleweight": "light", "axes.grid": True}):
        theirs, files = run.plot.curves(), curves(run)
    sizes = [one.axes[0].title.get_fontsize() for one in (own, theirs, files)]
    assert sizes == [8, 11, 8]
    weights = [one.axes[0]._left_title.get_weight() for one in (own, theirs, files)]  # type: ignore[attr-defined]
    assert weights == ["bold", "light", "bold"]
    styled = run.plot.curves(style={"font.size": 9})
    assert styled.axes[0].yaxis.label.get_fontsize() == 9
    assert matplotlib.rcParams["font.size"] == matplotlib.rcParamsDefault["font.size"]


def test_a_figure_of_one_panel_goes_into_the_users_axes(run: Results) -> None:
    figure = Figure(figsize=(7, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    one = {"models": "gemma-3-270m", "datasets": "capitals"}
    assert run.plot.heatmap(ax=left, **one, title="left") is figure
    assert run.plot.depth(ax=right, title="") is figure
    assert left.images
    assert left.get_title(loc="left") == "left"
    assert right.get_title(loc="left") == ""
    with pytest.raises(UserError, match=r"ax: there are 3 panels, .* choose with models="):
        run.plot.curves(ax=left)


def test_a_title_stands_above_all_panels(run: Results) -> None:
    for name in ("curves", "heatmap"):
        figure = run.plot(name, title="Where it is read", width="column")
        assert "Where it is read" in texts_of(figure)
        assert_legible(figure)


def test_a_figure_that_knows_of_no_look_is_as_wide_as_is_asked(run: Results) -> None:
    figure("plain", caption="Nothing.")(lambda _: Figure(figsize=(5, 2), layout="constrained"))
    try:
        drawn = run.plot("plain", width="column", title="Nothing", models="gemma-3-270m")
        assert list(drawn.get_size_inches()) == [3.3, 2]
        assert drawn.get_suptitle() == "Nothing"
        assert run.plot.caption("plain", models="gemma-3-270m").startswith("Nothing. gemma-3-270m")
        with pytest.raises(UserError, match="plain: takes no ax"):
            run.plot("plain", ax=drawn.subplots())
    finally:
        FIGURES.remove("plain")


def test_letters_stay_letters_in_files(run: Results, tmp_path: Path) -> None:
    figure = run.plot.depth(tmp_path / "depth.svg", width=3.3)
    assert "capitals</text>" in (tmp_path / "depth.svg").read_text(encoding="utf-8")
    figure.savefig(tmp_path / "again.pdf")
    assert b"/Type3" not in (tmp_path / "again.pdf").read_bytes()
    run.plot.depth(tmp_path / "depth.pdf", width=3.3)
    first = (tmp_path / "depth.pdf").read_bytes()
    run.plot.depth(tmp_path / "depth.pdf", width=3.3)
    assert (tmp_path / "depth.pdf").read_bytes() == first
    with pytest.raises(UserError, match="'pgn' is no format; did you mean 'png'"):
        run.plot.depth(tmp_path / "depth.pgn")


def test_a_caption_says_what_is_shown_and_of_what(run: Results) -> None:
    caption = run.plot.caption("heatmap", metric="auroc", models="gemma-3-270m", layers=[0, 5])
    assert caption.startswith("AUROC of a probe on each layer. Blue is above chance, orange below")
    assert "gemma-3-270m on capitals, coin_flip and geometry_of_truth/cities" in caption
    assert "(1,000 examples each). Site: residual; position: last. Layers: 0 and 5." in caption
    assert "Blue" not in run.plot.caption("heatmap", cmap="viridis")
    for name in FIGURES:
        if name not in ("heatmap_r2", "positions"):
            assert run.plot.caption(name).count(".") > 3, name


def test_the_command_writes_one_figure_and_prints_its_caption(
    run: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(tmp_path / "run", run)
    out = tmp_path / "figure.pdf"
    words = ["figure", str(tmp_path / "run"), "heatmap", "--metric", "auroc", "--width", "column"]
    assert main([*words, "--out", str(out), "--models", "gemma-3-270m", "--layers", "0", "9"]) == 0
    assert out.read_bytes().startswith(b"%PDF")
    printed = capsys.readouterr().out
    assert printed.startswith(f"figure   {out}\n\nAUROC of a probe on each layer. ")
    assert main([*words, "--out", str(out), "--format", "svg"]) == 2
    assert (
        main(
            [
                "figure",
                str(tmp_path / "run"),
                "curves",
                "--models",
                "gema-3-270m",
                "--out",
                str(out),
            ]
        )
        == 2
    )
    assert "did you mean 'gemma-3-270m'" in capsys.readouterr().err
