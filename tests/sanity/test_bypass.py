"""The deep network with a bypass: what it computes, and which half its training leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from llmprobe.results.results import Results
from llmprobe.sanity import image_networks
from llmprobe.sanity.config import MnistConfig
from llmprobe.sanity.image_findings import error_figure, errors, image_findings, image_text
from llmprobe.sanity.image_networks import run_network
from llmprobe.sanity.images import Images, load_images
from llmprobe.sanity.networks import LAYERS, BypassNetwork

EVERY, STEPS = 32, (0, 200)
CONFIG = MnistConfig(data="digits", network="bypass")


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    """Fewer points, steps and images."""
    patch = pytest.MonkeyPatch()
    patch.setattr(image_networks, "EVERY", EVERY)
    patch.setattr(image_networks, "BYPASS_STEPS", STEPS)
    patch.setattr(image_networks, "BYPASS_IMAGES", 300)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def images() -> Images:
    return load_images("digits")


@pytest.fixture(scope="module")
def results(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run_network(images, CONFIG, tmp_path_factory.mktemp("bypass"), progress=False)


@pytest.fixture(scope="module")
def error(results: Results) -> pd.DataFrame:
    """Of each point, in %; a column for each step."""
    return errors(results).pivot(index="layer_name", columns="model", values="error")


def test_the_network_computes_what_its_weights_say() -> None:
    torch.manual_seed(0)
    network = BypassNetwork(64, classes=3).double()
    pixels = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    weights = {name: values.detach().numpy() for name, values in network.named_parameters()}

    def dense(states: np.ndarray, name: str) -> np.ndarray:
        return states @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    entered = states = dense(pixels.numpy().reshape(5, 64), "entry.1")
    for number in range(1, LAYERS + 1):
        half = "bypassed" if number <= LAYERS // 2 else "rest"
        if number == LAYERS // 2 + 1:
            states = states + entered
        states = dense(states, f"{half}.{number}_preact")
        states = np.where(states > 0, states, 0.01 * states)
    expected = dense(states, "logits")
    assert expected.shape == (5, 3)
    np.testing.assert_allclose(network(pixels).detach().numpy(), expected, rtol=1e-9)


def test_states_keep_their_size_from_layer_to_layer() -> None:
    torch.manual_seed(0)
    sizes: list[float] = []
    network = BypassNetwork(64)
    for part in [*network.bypassed, *network.rest]:
        if isinstance(part, nn.LeakyReLU):
            part.register_forward_hook(lambda _, __, out: sizes.append(float(out.detach().norm())))
    network(torch.randn(50, 1, 8, 8))
    assert len(sizes) == LAYERS
    assert all(0.5 < after / before < 2 for before, after in pairwise(sizes[: LAYERS // 2]))


def test_probes_stand_at_every_few_layers_of_both_halves(results: Results) -> None:
    names = ["input", "entry", "bypassed.32", "bypassed.64", "rest.96", "rest.128", "logits"]
    for step, rows in results.table.groupby("model", sort=False):
        assert rows["layer_name"].to_list() == names, step
    assert results.summary["model"].to_list() == ["step 0", "step 200"]
    assert (results.table["n_examples"] == 300).all()


def test_training_helps_the_half_behind_the_bypass_and_not_the_other(error: pd.DataFrame) -> None:
    gain = error["step 0"] - error["step 200"]
    assert gain["rest.128"] > 15
    assert gain["bypassed.64"] < gain["rest.128"] / 2
    assert error["step 200"]["rest.128"] < error["step 200"]["bypassed.64"] - 15
    assert gain["input"] == 0


def test_a_second_run_gives_the_same_numbers(
    images: Images, results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_networks, "BYPASS_STEPS", (0,))
    torch.manual_seed(9)
    again = run_network(images, CONFIG, tmp_path, progress=False).table
    first = results.table[results.table["model"] == "step 0"]
    np.testing.assert_allclose(again["log_loss"], first["log_loss"], rtol=1e-4)


def test_the_figure_draws_the_table_and_shades_the_bypassed_half(
    results: Results, error: pd.DataFrame
) -> None:
    (ax,) = error_figure(results).axes
    drawn = [line.get_ydata() for line in ax.lines if len(line.get_xdata()) == 7]
    names = results.table["layer_name"].unique()
    for step in STEPS:
        expected = error.loc[names, f"step {step}"]
        assert any(np.allclose(line, expected) for line in drawn)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(names)
    shaded = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert (shaded.x0, shaded.x1) == pytest.approx((1.5, 3.5))


def test_words_state_the_numbers_in_100_columns(results: Results, error: pd.DataFrame) -> None:
    trained = error["step 200"]
    (sentence,) = (text for text in image_findings(results) if text.startswith("Step 200: "))
    for name in ("input", "bypassed.32", "bypassed.64", "rest.96", "rest.128", "logits"):
        assert f"{trained[name]:.2f} % at {name}" in sentence
    lines = image_text(results).split("\n\n")[0].splitlines()
    assert all(len(line) <= 100 and line.isascii() for line in lines)
    assert lines[0].split() == ["step", "0", "step", "200"]
    for line in lines[2:]:
        name, *numbers = line.replace("[", "").replace("]", "").replace(",", "").split()
        assert numbers[::3] == [f"{value:.2f}" for value in error.loc[name]]
