"""Probing a network equals probing its features, and does not change its training."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import llmprobe
from llmprobe import ProbeCallback, UserError, probe_network
from llmprobe.extraction.network import NetworkStates

N = 80
QUICK = {
    "l2": 1.0, "permutations": 0, "controls": (), "description_length": False, "folds": 2,
    "progress": False,
}  # fmt: skip


class Network(nn.Module):
    """With all that behaves otherwise in training: batch normalisation and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(0.5)
        self.dense = nn.Linear(3 * 4 * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv(x)))
        return self.dense(self.dropout(x.flatten(1)))


POINTS = ["input", "conv", "norm", "relu", "dense"]


def made() -> Network:
    torch.manual_seed(0)
    return Network()


def examples() -> tuple[Tensor, np.ndarray]:
    """Noise, with a bright spot in those of class 1."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(N, 1, 6, 6)).astype(np.float32), np.arange(N) % 2
    x[:, 0, 2:4, 2:4] += y[:, None, None]
    return torch.from_numpy(x), y


def train(net: Network, before_step: Callable[[int], object], steps: int = 6) -> Network:
    """The network after some steps, each announced before it is made."""
    x, y = examples()
    optimizer = torch.optim.SGD(net.train().parameters(), lr=0.1, momentum=0.9)
    for step in range(steps):
        before_step(step)
        chosen = torch.randperm(N)[:16]
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[chosen]), torch.as_tensor(y)[chosen]).backward()
        optimizer.step()
    return net


def equal_in_all_but_time(one: llmprobe.Results, other: llmprobe.Results) -> None:
    """Of the tables' numbers, and not only nearly."""
    for name in ("table", "summary", "predictions", "learning_curve"):
        both = [getattr(results, name) for results in (one, other)]
        left = {"layer_name", "parameters", "seconds_probe", "model", "dataset", "site", "position"}
        pd.testing.assert_frame_equal(
            *(table.drop(columns=left & set(table)) for table in both), check_exact=True
        )


def test_the_table_has_a_row_for_each_point_in_forward_order() -> None:
    results = probe_network(made(), *examples(), **QUICK)
    table = results.table
    assert table["layer_name"].to_list() == POINTS
    assert table["layer"].to_list() == [0, 1, 2, 3, 4]
    assert table["depth"].to_list() == [0, 0.25, 0.5, 0.75, 1]
    assert set(table["model"]) == {"network"}
    assert set(table["dataset"]) == {"inputs"}
    assert set(table["n_examples"]) == {N}
    summary = results.summary.iloc[0]
    assert summary["parameters"] == 3 * 9 + 3 + 3 + 3 + 48 * 2 + 2
    assert summary["layers"] == 4
    assert results.predictions["layer"].nunique() == 5


def test_the_layers_and_names_are_those_asked_for() -> None:
    results = probe_network(made(), *examples(), ["dense", "conv"], model="a", dataset="b", **QUICK)
    assert results.table["layer_name"].to_list() == ["conv", "dense"]
    assert results.table["depth"].to_list() == [0, 1]
    assert set(results.table["model"]) == set(results.predictions["model"]) == {"a"}
    assert results.summary["dataset"].to_list() == ["b"]
    operations = probe_network(made(), *examples(), "operations", **QUICK)
    assert operations.table["layer_name"].to_list() == POINTS


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"l2": "auto", "permutations": 3, "controls": ("majority", "random_labels")},
        {"kind": "mass_mean", "learning_curve": [0.5], "description_length": True},
        {"test": np.arange(N) % 8 < 4, "groups": np.arange(N) // 4, "l2": "auto"},
    ],
    ids=["plain", "search", "mass-mean", "test"],
)
def test_the_results_are_those_of_the_same_features(options: dict[str, object]) -> None:
    x, y = examples()
    states = NetworkStates(made(), x)
    layers = {layer: states.layer(layer) for layer in states.layers}
    found = probe_network(made(), x, y, **{**QUICK, **options})
    expected = llmprobe.probe_layers(layers, y, **{**QUICK, **options})
    equal_in_all_but_time(found, expected)
    for layer, coef in expected.probes[0].coef.items():
        np.testing.assert_array_equal(found.probes[0].coef[layer], coef)


def test_batches_make_no_difference() -> None:
    x, y = examples()
    whole, parts = (
        probe_network(made(), x.numpy(), y.tolist(), batch_size=size, **QUICK) for size in (N, 7)
    )
    pd.testing.assert_frame_equal(whole.table, parts.table, rtol=1e-4, check_exact=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.arange(N - 1) % 2}, f"labels: shape ({N - 1},), expected ({N},)"),
        ({"labels": np.zeros((N, 2))}, f"labels: shape ({N}, 2), expected ({N},)"),
        ({"labels": np.zeros(N)}, "inputs: one class only"),
        ({"groups": np.zeros(N + 1)}, f"groups: shape ({N + 1},), expected ({N},)"),
        ({"groups": np.zeros(N)}, "1 group is too few for 2 folds"),
        ({"test": np.zeros(3, bool)}, f"test: shape (3,), expected ({N},)"),
        ({"test": np.zeros(N, bool)}, "no row is of the test set"),
        ({"layers": ["con"]}, "layers: 'con' is no point here; did you mean 'conv'?"),
        (
            {"inputs": torch.zeros(N, 1, 5, 5)},
            f"the network fails on inputs of shape ({N}, 1, 5, 5",
        ),
        ({"inputs": torch.full((N, 1, 6, 6), torch.nan)}, "input: example 0 has features that"),
        ({"module": "resnet"}, "module: 'str', expected a torch.nn.Module"),
        ({"fold": 3}, "probe_network: "),
        ({"controls": ("random_weights",)}, "probe_network: controls: random_weights needs"),
    ],
)
def test_wrong_input_is_named(change: dict[str, object], message: str) -> None:
    x, y = examples()
    right = {"module": made(), "inputs": x, "labels": y, **QUICK}
    with pytest.raises(UserError, match=re.escape(message)):
        probe_network(**{**right, **change})


def test_a_callback_probes_at_its_steps_only() -> None:
    net = made()
    callback = ProbeCallback(net, *examples(), steps=[0, 2, 5, 99], layers=["conv"], **QUICK)
    as_it_was = {}

    def before_step(step: int) -> None:
        callback(step)
        states = NetworkStates(net, examples()[0], ["conv"])
        as_it_was[f"step {step}"] = llmprobe.probe_layers(
            {0: states.layer(0)}, examples()[1], **QUICK
        )

    train(net, before_step)
    results = callback.results
    assert results.table["model"].to_list() == ["step 0", "step 2", "step 5"]
    assert results.summary["model"].to_list() == ["step 0", "step 2", "step 5"]
    assert [probe.facts["model"] for probe in results.probes] == ["step 0", "step 2", "step 5"]
    assert results.table["log_loss"].nunique() == 3
    for model, log_loss in zip(results.table["model"], results.table["log_loss"], strict=True):
        assert log_loss == as_it_was[model].table["log_loss"].item()


def test_every_step_of_a_callback_has_the_same_points() -> None:
    x, y = examples()
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.ReLU())
    callback = ProbeCallback(net, x, y, steps=[0, 1], **QUICK)
    callback(0)
    with torch.no_grad():  # The ReLU then changes nothing.
        net[1].weight.zero_()
        net[1].weight[:, 0] = 1e-3
        net[1].bias.fill_(10)
    callback(1)
    by_step = callback.results.table.groupby("model")["layer_name"].apply(list)
    assert by_step["step 0"] == by_step["step 1"] == ["input", "1", "2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 5}, "steps: 5, expected the numbers of steps"),
        ({"fold": 3}, "fold: unknown key"),
        ({"model": "mine"}, "model: unknown key"),
        ({"layers": ["con"]}, "'con' is no point here"),
    ],
)
def test_a_wrong_callback_is_refused_before_the_training(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        ProbeCallback(made(), *examples(), **{"steps": [0], **options})


def test_a_callback_leaves_training_as_it_is_without() -> None:
    alone = train(made(), lambda _: None).state_dict()
    net = made()
    callback = ProbeCallback(net, *examples(), range(6), **{**QUICK, "permutations": 2})
    watched = train(net, callback).state_dict()
    assert callback.results.table["model"].nunique() == 6
    assert all(part.training for part in net.modules())
    assert alone.keys() == watched.keys()
    for name, value in alone.items():
        assert torch.equal(value, watched[name]), name
    # The steps themselves do change the network.
    assert not torch.equal(made().conv.weight, alone["conv.weight"])


def test_results_before_any_step_are_an_error() -> None:
    callback = ProbeCallback(made(), *examples(), steps=(30, 10), **QUICK)
    callback(0)
    with pytest.raises(UserError, match=r"^none of the steps \[10, 30\] has come yet$"):
        _ = callback.results


def test_results_can_be_read_at_any_step() -> None:
    callback = ProbeCallback(made(), *examples(), steps=np.asarray([1, 3]), **QUICK)
    lengths = []
    for step in range(1, 5):
        callback(step)
        lengths.append(len(callback.results.table))
    assert lengths == [5, 5, 10, 10]


def test_a_curved_probe_reads_more_before_the_fold_and_not_after_it() -> None:
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 2, (200, 2))
    points = (corners + rng.normal(0, 0.1, corners.shape)).astype(np.float32)
    labels = corners[:, 0] ^ corners[:, 1]
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
        network[2].weight.copy_(torch.tensor([[1.0, 1.0]]))
    results = probe_network(
        network, points, labels, permutations=0, controls=("majority",), progress=False,
        linear={"layers": [0, 2], "null": 0, "features": 128, "rank": False},
    )  # fmt: skip
    gap = results.table.set_index("layer_name")["linearity_gap"]
    assert gap["input"] > 0.3
    assert abs(gap["1"]) < 0.05
    assert np.isnan(gap["0"])  # Not asked about.
    with pytest.raises(UserError, match="there is no layer 9"):
        probe_network(network, points, labels, permutations=0, progress=False,
                      linear={"layers": [9]})  # fmt: skip


def test_a_curved_probe_is_compared_on_the_rows_and_in_the_groups_of_the_linear_one() -> None:
    rng = np.random.default_rng(0)
    network = nn.Sequential(nn.Identity())
    options = {"permutations": 0, "controls": (), "description_length": False, "progress": False,
               "linear": {"layers": [0], "null": 0, "features": 256, "rank": False}}  # fmt: skip
    corners = rng.integers(0, 2, (200, 2))
    points = (corners + rng.normal(0, 0.1, corners.shape)).astype(np.float32)
    test = np.arange(200) >= 100
    opposite = corners[:, 0] ^ corners[:, 1] ^ test
    results = probe_network(network, points, opposite, ["input"], test=test, **options)
    assert results.table["linearity_gap"].item() < -0.3

    places = np.repeat(rng.normal(size=(40, 2)), 5, axis=0).astype(np.float32)
    by_heart = np.repeat(rng.permutation(np.arange(40) % 2), 5)
    groups = np.repeat(np.arange(40), 5)
    results = probe_network(network, places, by_heart, ["input"], groups=groups, **options)
    assert results.table["linearity_gap"].item() < 0.2
