"""The convnet's probes on scikit-learn's digits, and the folder, page and words made of them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from llmprobe import load_probe
from llmprobe.cli.main import main
from llmprobe.results.folder import read_results
from llmprobe.results.results import Results
from llmprobe.runs.report import terminal_text
from llmprobe.sanity import experiments, image_networks
from llmprobe.sanity.config import MnistConfig
from llmprobe.sanity.image_findings import (
    clear_changes,
    error_figure,
    errors,
    image_findings,
)
from llmprobe.sanity.image_networks import plan_convnet, run_network
from llmprobe.sanity.images import load_images
from llmprobe.sanity.networks import CONVNET_POINTS, convnet, section_3_5_schedule, train


@pytest.fixture(scope="module")
def run(digits: Path) -> Results:
    return read_results(digits)


@pytest.fixture(scope="module")
def results(run: Results) -> pd.DataFrame:
    return run.table


@pytest.fixture(scope="module")
def summary(run: Results) -> pd.DataFrame:
    return run.summary


@pytest.fixture(scope="module")
def error(run: Results) -> pd.DataFrame:
    """Of each point, in %; columns trained and untrained."""
    return (
        errors(run)
        .pivot(index="layer_name", columns="model", values="error")
        .loc[[*CONVNET_POINTS]]
    )


def test_the_ten_points_are_those_of_the_paper(results: pd.DataFrame) -> None:
    for _, rows in results.groupby("model"):
        assert tuple(rows["layer_name"]) == CONVNET_POINTS
        assert rows["layer"].to_list() == list(range(10))
    assert set(results["model"]) == {"untrained", "trained"}


def test_random_features_help_and_most_at_the_first_relu(error: pd.DataFrame) -> None:
    falls = error["untrained"].diff()
    assert falls.idxmin() == "conv1_postact"
    assert error["untrained"].min() < error["untrained"]["input"] / 2


def test_the_untrained_network_loses_again_what_its_last_layers_cannot_hold(
    error: pd.DataFrame,
) -> None:
    assert error["untrained"]["logits"] > 10 * error["untrained"].min()


def test_trained_errors_fall_with_depth(error: pd.DataFrame) -> None:
    trained = error["trained"]
    assert trained["input":"conv1_preact"].min() > trained["conv1_postact":].max()
    assert trained.min() < 1.0 < 2.0 < trained["input"]


def test_trained_errors_are_below_untrained_ones(error: pd.DataFrame) -> None:
    assert (error["trained"] <= error["untrained"] + 0.5).all()
    deep = error["conv2_postpool":]
    assert (2 * deep["trained"] < deep["untrained"]).all()


def test_the_input_is_the_same_before_and_after_training(error: pd.DataFrame) -> None:
    assert error["trained"]["input"] == error["untrained"]["input"]


def test_training_shortens_the_description_of_labels_it_never_saw(results: pd.DataFrame) -> None:
    kbit = results.pivot(index="layer_name", columns="model", values="code_length")
    assert kbit["trained"]["fc1_postact"] < kbit["trained"]["input"] / 1.5
    assert kbit["trained"]["fc1_postact"] < kbit["untrained"]["fc1_postact"] / 2


def test_scores_are_of_the_test_images(results: pd.DataFrame, digits: Path) -> None:
    images = load_images("digits")
    assert (results["n_examples"] == len(images.test)).all()
    predictions = pd.read_parquet(digits / "predictions.parquet")
    one = predictions[(predictions["model"] == "trained") & (predictions["layer"] == 9)]
    assert one["label"].astype(int).to_list() == images.test_labels.tolist()
    assert one["example"].min() == len(images.train)


def test_the_summary_has_the_networks_own_accuracy(summary: pd.DataFrame, digits: Path) -> None:
    images = load_images("digits")
    network = convnet(8, 8)
    weights = next((digits / "parts").glob("trained-*/network.safetensors"))
    from safetensors.torch import load_file

    network.load_state_dict(load_file(weights))
    network.eval()
    with torch.no_grad():
        right = network(torch.from_numpy(images.test)).argmax(1).numpy() == images.test_labels
    row = summary[summary["model"] == "trained"].iloc[0]
    assert row["network_accuracy"] == pytest.approx(right.mean())
    assert row["network_accuracy_low"] < row["network_accuracy"] < row["network_accuracy_high"]
    assert row["network_accuracy"] > 0.97


def test_saved_probes_score_the_networks_states(digits: Path, results: pd.DataFrame) -> None:
    images = load_images("digits")
    probe = load_probe(digits / "probes" / "untrained" / "digits.safetensors")
    predicted = probe.predict(images.test.reshape(len(images.test), -1), layer=0)
    row = results[(results["model"] == "untrained") & (results["layer"] == 0)].iloc[0]
    assert (predicted == images.test_labels).mean() == pytest.approx(row["accuracy"])


def test_the_figure_draws_the_table(run: Results) -> None:
    above, below = error_figure(run).axes
    table = errors(run)
    for ax, column in ((above, "error"), (below, "kbit")):
        drawn = [line.get_ydata() for line in ax.lines if len(line.get_xdata()) == 10]
        for model in ("untrained", "trained"):
            expected = table.loc[table["model"] == model, column].to_numpy()
            assert any(np.allclose(line, expected) for line in drawn)
    assert [tick.get_text() for tick in below.get_xticklabels()] == [*CONVNET_POINTS]


def test_the_papers_numbers_stand_beside_mnist_alone(run: Results) -> None:
    def words(mnist: bool) -> str:
        figure = error_figure(run, mnist)
        return " ".join(note.get_text() for note in figure.axes[0].texts)

    assert "paper: the network\n0.7 %" in words(mnist=True)
    assert "paper" not in words(mnist=False)


def test_a_change_is_clear_by_an_exact_test_on_the_same_images() -> None:
    def changes(lost: int, won: int) -> int:
        right = np.ones((100, 2), dtype=bool)
        right[:lost, 1] = False
        right[lost : lost + won, 0] = False
        table = pd.DataFrame(
            {
                "layer": np.repeat([0, 1], 100),
                "example": np.tile(np.arange(100), 2),
                "label": "a",
                "predicted": np.where(right.T.ravel(), "a", "b"),
            }
        )
        return clear_changes(table)[1]

    assert changes(lost=6, won=0) == 1  # p = 2 · 0.5⁶ = 0.031
    assert changes(lost=0, won=6) == -1
    assert changes(lost=5, won=0) == 0  # p = 2 · 0.5⁵ = 0.063
    assert changes(lost=26, won=20) == 0
    assert changes(lost=0, won=0) == 0


def test_what_clearly_falls_and_rises_is_told(run: Results) -> None:
    findings = image_findings(run)
    untrained = next(s for s in findings if s.startswith("Untrained"))
    _, rises = untrained.split("clearly falls at ")[1].split("; it clearly rises at ")
    assert "logits" in rises
    assert "conv1_postact" not in rises
    assert "8 × 8" in findings[0]
    data = [{"name": "digits", "source": "IDX files in digits"}]
    of_a_folder = replace(run, environment={**run.environment, "datasets": data})
    assert image_findings(of_a_folder) == findings[1:]


def test_an_error_of_none_is_drawn_all_the_same(run: Results) -> None:
    table = run.table.assign(accuracy=1.0, accuracy_high=1.0)
    summary = run.summary.assign(network_accuracy=1.0)
    figure = error_figure(replace(run, table=table, summary=summary))
    figure.canvas.draw()
    drawn = [line.get_ydata() for line in figure.axes[0].lines if len(line.get_xdata()) == 10]
    assert any(np.allclose(line, 50 / 599) for line in drawn)


def test_the_terminal_table_has_every_point_in_100_columns(digits: Path) -> None:
    lines = terminal_text(digits, unicode=False).plain.splitlines()
    assert all(len(line) <= 100 and line.isascii() for line in lines)
    assert [line.split()[0] for line in lines[2:12]] == [*CONVNET_POINTS]
    assert "scikit-learn's digits" in lines[-1]


def test_the_page_says_what_the_images_are_and_how_to_do_it_again(digits: Path) -> None:
    page = (digits / "report.html").read_text(encoding="utf-8")
    assert "come with scikit-learn" in page
    assert f"llmprobe sanity mnist --data digits --out {digits}" in page
    assert "test set that neither they nor the network saw" in page
    assert "fc1_postact" in page


def test_report_draws_the_folder_again(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(digits, tmp_path / "mnist")
    page, figure = folder / "report.html", folder / "figures" / "errors.png"
    assert main(["report", str(folder)]) == 0
    before = page.read_bytes(), figure.read_bytes()
    page.unlink()
    figure.unlink()
    assert main(["report", str(folder)]) == 0
    assert (page.read_bytes(), figure.read_bytes()) == before
    assert "conv1_postact" in capsys.readouterr().out


def test_what_is_finished_is_not_done_again(
    digits: Path, tmp_path: Path, results: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(digits, tmp_path / "mnist")
    for work in ("train", "probe_network"):
        monkeypatch.setattr(image_networks, work, lambda *_, **__: pytest.fail("done again"))
    again = run_network(load_images("digits"), MnistConfig(data="digits"), folder, progress=False)
    columns = ["accuracy", "code_length"]
    assert again.table[columns].equals(results[columns])


def test_the_large_network_has_the_papers_sizes() -> None:
    network = convnet(28, 28)
    sizes, states = [], torch.zeros(1, 1, 28, 28)
    for name, part in network.named_children():
        states = part(states)
        if name in CONVNET_POINTS:
            sizes.append(states.numel())
    assert sizes == [25088, 25088, 6272, 12544, 12544, 3136, 512, 512, 10]
    drawn = [p.detach().flatten() for n, p in network.named_parameters() if "weight" in n]
    weights = torch.cat(drawn)
    assert float(weights.abs().max()) <= 0.2
    assert float(weights.std()) == pytest.approx(
        0.088, abs=0.003
    )  # of a normal cut off at 2 deviations


def test_only_dense_layers_are_decayed() -> None:
    network = convnet(8, 8)
    optimizer = section_3_5_schedule(network).optimizer
    decay = {
        id(values): group["weight_decay"]
        for group in optimizer.param_groups
        for values in group["params"]
    }
    for name, values in network.named_parameters():
        assert decay[id(values)] == (5e-4 if name.startswith(("fc1", "logits")) else 0)


def test_training_is_reproducible_and_tells_of_each_step() -> None:
    images = load_images("digits")
    few = replace(images, train=images.train[:100], train_labels=images.train_labels[:100])

    def once() -> tuple[list[int], torch.Tensor]:
        torch.manual_seed(0)
        network, told = convnet(8, 8), []
        train(
            network, few, section_3_5_schedule(network), 4,
            seed=1, before_step=told.append, progress=False,
        )  # fmt: skip
        return told, nn.utils.parameters_to_vector(network.parameters())

    (told, weights), (_, again) = once(), once()
    assert told == [0, 1, 2, 3, 4]
    assert torch.equal(weights, again)


def test_quick_asks_for_less(tmp_path: Path) -> None:
    images = load_images("digits")
    full, quick, few = (
        plan_convnet(images, MnistConfig(**options))
        for options in ({}, {"quick": True}, {"probe_images": 500})
    )
    assert max(quick.moments) < max(full.moments)
    assert few.images == (500, full.images[1])
    assert experiments.command(MnistConfig(quick=True, data="digits"), tmp_path).startswith(
        "llmprobe sanity mnist --data digits --quick --out"
    )
