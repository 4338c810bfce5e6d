"""Features of a network are those that it computes, at every point, however they are read."""

from __future__ import annotations

import re
import weakref
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from llmprobe import UserError
from llmprobe.extraction import network
from llmprobe.extraction.network import NetworkStates

N = 20


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    torch.manual_seed(0)


class Convnet(nn.Module):
    """Modules only, declared in another order than that in which they run."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(3 * 4 * 4, 5)
        self.kept = nn.Identity()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU()
        self.flat = nn.Flatten()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.flat(self.kept(self.pool(self.relu(self.conv(x)))))
        return self.dense(self.dropout(x))


class Residual(nn.Module):
    """Functional operations around two convolutions, one of which runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding=1)
        self.again = nn.Conv2d(2, 2, 3, padding=1)
        self.dense = nn.Linear(2 * 4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu(self.first(x))
        x = nn.functional.relu(x + self.again(self.again(x)))
        x = nn.functional.dropout(nn.functional.max_pool2d(x, 2), 0.5, self.training)
        return self.dense(x.flatten(1))


class Blocks(nn.Module):
    """Submodules that have submodules."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5))
            for _ in range(3)
        )
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class Choosy(nn.Module):
    """What runs depends on the values, which torch.fx cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.large(x) if x.abs().sum() > 1e6 else self.small(x)


def images(n: int = N) -> Tensor:
    return torch.randn(n, 1, 8, 8)


def vectors(n: int = N) -> Tensor:
    return torch.randn(n, 6)


def features(states: NetworkStates) -> dict[str, np.ndarray]:
    return {name: states.layer(index) for index, name in enumerate(states.names)}


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, Tensor]) -> None:
    """Of the same names in the same order, and of the same values."""
    assert list(found) == list(expected)
    for name, X in expected.items():
        assert found[name].dtype == np.float32
        flat = X.detach().flatten(1).float().numpy()
        np.testing.assert_allclose(found[name], flat, rtol=1e-5, atol=1e-6, err_msg=name)


def test_features_of_modules_are_those_of_the_same_computation_by_hand() -> None:
    net, x = Convnet(), images()
    conv = nn.functional.conv2d(x, net.conv.weight, net.conv.bias, padding=1)
    relu = conv.clamp_min(0)
    pool = relu.unflatten(3, (4, 2)).unflatten(2, (4, 2)).amax(dim=(3, 5))
    dense = pool.flatten(1) @ net.dense.weight.T + net.dense.bias
    states = NetworkStates(net, x)
    assert states.layers == [0, 1, 2, 3, 4]
    assert states.sizes == [64, 3 * 64, 3 * 64, 3 * 16, 5]
    assert [states.n_bytes(layer) for layer in states.layers] == [4 * N * d for d in states.sizes]
    expected = {"input": x, "conv": conv, "relu": relu, "pool": pool, "dense": dense}
    assert_equal(features(states), expected)


def test_operations_are_those_of_the_same_computation_by_hand() -> None:
    net, x = Residual(), images()

    def again(x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, net.again.weight, net.again.bias, padding=1)

    first = nn.functional.conv2d(x, net.first.weight, net.first.bias, padding=1)
    relu = first.clamp_min(0)
    total = relu + again(again(relu))
    pool = nn.functional.max_pool2d(total.clamp_min(0), 2)
    expected = {
        "input": x,
        "first": first,
        "relu": relu,
        "again": again(relu),
        "again#2": again(again(relu)),
        "add": total,
        "relu_1": total.clamp_min(0),
        "max_pool2d": pool,
        "dense": pool.flatten(1) @ net.dense.weight.T + net.dense.bias,
    }
    assert_equal(features(NetworkStates(net, x, "operations")), expected)


def test_a_module_that_runs_again_is_numbered() -> None:
    relu = nn.ReLU()
    net = nn.Sequential(nn.Linear(6, 5), relu, nn.Linear(5, 4), relu, nn.Linear(4, 3), relu)
    states = NetworkStates(net, vectors())
    assert states.names == ["input", "0", "1", "2", "1#2", "4", "1#3"]
    assert states.sizes == [6, 5, 5, 4, 4, 3, 3]
    assert_equal(
        features(NetworkStates(net, states.inputs, ["1#2", "1"])),
        {"1": net[:2](states.inputs), "1#2": net[:4](states.inputs)},
    )


def test_an_activation_in_place_is_a_point_and_leaves_the_one_before_it_as_it_was() -> None:
    net, x = nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 2)), vectors()
    dense = nn.functional.linear(x, net[0].weight, net[0].bias)
    relu = dense.clamp_min(0)
    expected = {"input": x, "0": dense, "1": relu, "2": net[2](relu)}
    assert_equal(features(NetworkStates(net, x)), expected)
    assert_equal(features(NetworkStates(net, x, "operations")), expected)


def test_a_network_that_works_in_place_leaves_the_inputs_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(network, "MOST_HELD", 1)
    x = vectors()
    before = x.clone()
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 2))
    states = NetworkStates(net, x)
    states.layer(1)
    assert torch.equal(x, before)
    np.testing.assert_array_equal(states.layer(0), before.numpy())


def test_named_layers_come_in_the_order_in_which_they_run() -> None:
    net, x = Convnet(), images()
    found = features(NetworkStates(net, x, ["dense", "input", "conv", "dropout", "dense"]))
    pooled = net.pool(net.relu(net.conv(x)))
    expected = {
        "input": x,
        "conv": net.conv(x),
        "dropout": pooled,
        "dense": net.dense(net.flat(pooled)),
    }
    assert_equal(found, expected)


def test_a_submodule_that_has_submodules_can_be_named() -> None:
    net, x = Blocks().eval(), vectors()
    first = net.blocks[0](x)
    second = net.blocks[1](x + first)
    found = features(NetworkStates(net, x, ["blocks.1", "blocks.0"]))
    assert_equal(found, {"blocks.0": first, "blocks.1": second})


def test_modules_and_operations_can_be_named_together() -> None:
    net, x = Residual(), images()
    states = NetworkStates(net, x, ["add", "first", "flatten"])
    assert states.names == ["first", "add", "flatten"]
    np.testing.assert_allclose(states.layer(0), net.first(x).detach().flatten(1), rtol=1e-5)


def test_a_network_that_cannot_be_traced_is_read_by_its_modules() -> None:
    net, x = Choosy(), vectors()
    assert_equal(features(NetworkStates(net, x)), {"input": x, "small": net.small(x)})
    assert_equal(features(NetworkStates(net, x, ["small"])), {"small": net.small(x)})
    for layers in ("operations", ["no such"]):
        with pytest.raises(UserError) as raised:
            NetworkStates(net, x, layers)
        message = str(raised.value)
        assert message.startswith("layers: torch.fx cannot trace this network (")
        assert message.endswith("); use 'all', or names of its modules: small, large")
        assert "\n" not in message


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["conv", "dens"], "layers: 'dens' is no point here; did you mean 'dense'?"),
        (["relu#2"], "layers: 'relu#2' is no point here; did you mean 'relu'?"),
        (["zzz"], "layers: 'zzz' is no point here; known: conv, dense, dropout, flat, input, "),
        ("everything", "layers: 'everything'; expected 'all', 'operations' or a list of names"),
        ("conv", "layers: 'conv'; expected 'all', 'operations' or a list of names"),
    ],
)
def test_a_name_that_is_no_point_is_an_error_with_a_suggestion(
    layers: str | list[str], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        NetworkStates(Convnet(), images(), layers)


@pytest.mark.parametrize("layers", ["all", "operations"])
@pytest.mark.parametrize("batch_size", [1, 7, 19])
def test_features_of_many_batches_are_those_of_one(layers: str, batch_size: int) -> None:
    net, x = Blocks(), vectors()
    whole = features(NetworkStates(net, x, layers, batch_size=N))
    parts = features(NetworkStates(net, x, layers, batch_size))
    assert len(whole) > 5
    assert_equal(parts, {name: torch.from_numpy(X) for name, X in whole.items()})


def test_the_order_in_which_points_are_asked_for_does_not_matter() -> None:
    states = NetworkStates(Convnet(), images(), batch_size=6)
    expected = features(states)
    for index in (4, 0, 2, 2, 1, 3):
        np.testing.assert_array_equal(states.layer(index), expected[states.names[index]])


class Watched(nn.Module):
    """Linear layers that count how often each is run."""

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(6, 6) for _ in range(depth))
        self.runs: Counter[int] = Counter()

    def forward(self, x: Tensor) -> Tensor:
        for i, part in enumerate(self.parts):
            self.runs[i] += 1
            x = part(x)
        return x


def kept_in(states: NetworkStates) -> Callable[[], int]:
    """Counts the arrays of features that are in memory now and were read after this call."""
    alive: list[weakref.ref[np.ndarray]] = []
    read = states._read

    def noted(points: Sequence[int]) -> dict[int, np.ndarray]:
        arrays = read(points)
        alive.extend(map(weakref.ref, arrays.values()))
        return arrays

    states._read = noted  # type: ignore[method-assign]
    return lambda: sum(array() is not None for array in alive)


def test_of_large_points_one_is_read_and_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = Watched(), vectors()
    expected = features(NetworkStates(net, x, batch_size=5))
    monkeypatch.setattr(network, "MOST_HELD", 4 * N * 6)
    states = NetworkStates(net, x, batch_size=5)
    in_memory = kept_in(states)
    net.runs.clear()
    for index in states.layers:
        X = states.layer(index)
        np.testing.assert_array_equal(X, expected[states.names[index]])
        assert in_memory() == 1
        del X
        assert in_memory() == 0
    # Of the four passes that each batch takes beside that of the input, each ends at its point.
    assert net.runs == {0: 4 * 4, 1: 3 * 4, 2: 2 * 4, 3: 4}


def test_points_that_fit_are_read_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "MOST_HELD", 3 * 4 * N * 6)
    net = Watched()
    states = NetworkStates(net, vectors())
    in_memory = kept_in(states)
    net.runs.clear()
    held = []
    for index in states.layers:
        states.layer(index)
        held.append(in_memory())
    assert held == [2, 1, 0, 1, 0]
    # The first pass reads the input and two layers, the second two more.
    assert net.runs == {0: 2, 1: 2, 2: 1, 3: 1}


def test_a_pass_ends_at_the_last_point_that_was_named() -> None:
    net = Watched()
    states = NetworkStates(net, vectors(), ["parts.1"], batch_size=5)
    net.runs.clear()
    states.layer(0)
    assert net.runs == {0: 4, 1: 4}


def trained_in_part() -> Blocks:
    """One block is frozen in evaluation mode, the rest are in training."""
    net = Blocks().train()
    net.blocks[1].eval()
    return net


def modes(net: nn.Module) -> list[bool]:
    return [part.training for part in net.modules()]


@pytest.mark.parametrize("layers", ["all", "operations", ["blocks.0"]])
def test_every_submodule_gets_its_mode_back(layers: str | list[str]) -> None:
    net = trained_in_part()
    before = modes(net)
    assert len(set(before)) == 2
    features(NetworkStates(net, vectors(), layers))
    assert modes(net) == before


@pytest.mark.parametrize("layers", ["all", "operations"])
@pytest.mark.parametrize("wrong", [torch.ones(4, 5), torch.full((4, 6), torch.nan)])
def test_every_submodule_gets_its_mode_back_after_an_error(layers: str, wrong: Tensor) -> None:
    net = trained_in_part()
    before = modes(net)
    with pytest.raises(UserError):
        features(NetworkStates(net, wrong, layers))
    assert modes(net) == before
    assert not any(part._forward_hooks for part in net.modules())


@pytest.mark.parametrize("layers", ["all", "operations"])
def test_reading_changes_neither_the_network_nor_the_random_stream(layers: str) -> None:
    net, x = Blocks().train(), vectors().requires_grad_()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    stream = torch.get_rng_state()
    first = features(NetworkStates(net, x, layers))
    second = features(NetworkStates(net, x, layers))
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(weight.grad is None for weight in net.parameters())
    assert x.grad is None
    # Dropout, were it on, would give other features the second time.
    assert_equal(second, {name: torch.from_numpy(X) for name, X in first.items()})
    last = net.eval()(x).detach()
    np.testing.assert_allclose(first["head"], last, rtol=1e-5, atol=1e-6)


def test_no_gradients_are_recorded() -> None:
    seen = []

    class Asks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.is_grad_enabled() or x.requires_grad)
            return 2 * x

    features(NetworkStates(nn.Sequential(nn.Linear(6, 2), Asks()), vectors()))
    assert seen == [False, False]
    assert torch.is_grad_enabled()


class Reciprocal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 1 / x


@pytest.mark.parametrize("layers", ["all", ["1"]])
def test_a_feature_that_is_not_finite_is_named_with_its_example(layers: str | list[str]) -> None:
    net, x = nn.Sequential(nn.ReLU(), Reciprocal(), nn.Flatten()), vectors().abs() + 1
    x[13, 2] = x[17, 1] = 0
    states = NetworkStates(net, x, layers, batch_size=5)
    with pytest.raises(UserError, match=r"^1: example 13 has features that are not finite$"):
        features(states)


def test_an_operation_that_is_not_finite_is_named_with_its_example() -> None:
    x = vectors().abs() + 1
    x[13, 2] = 0
    states = NetworkStates(nn.Sequential(Reciprocal()), x, "operations", batch_size=5)
    with pytest.raises(UserError, match=r"^truediv: example 13 has features that are not finite$"):
        features(states)


def test_an_input_that_is_not_finite_is_named_with_its_example() -> None:
    x = vectors()
    x[3, 0] = torch.inf
    with pytest.raises(UserError, match=r"^input: example 3 has features that are not finite$"):
        features(NetworkStates(nn.Linear(6, 2), x))


@pytest.mark.parametrize("layers", ["all", "operations"])
def test_inputs_that_the_network_does_not_take_are_named_by_their_shape(layers: str) -> None:
    with pytest.raises(UserError) as raised:
        NetworkStates(Convnet(), torch.zeros(20, 1, 6, 6), layers, batch_size=8)
    message = str(raised.value)
    assert message.startswith("the network fails on inputs of shape (8, 1, 6, 6): ")
    assert "\n" not in message


def test_an_error_inside_the_network_is_told_in_one_sentence() -> None:
    class Unfinished(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise ValueError("first line\nsecond line")

    message = r"^the network fails on inputs of shape \(20, 6\): first line$"
    with pytest.raises(UserError, match=message):
        NetworkStates(Unfinished(), vectors())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((Convnet, images()), "module: 'type', expected a torch.nn.Module"),
        ((Convnet(), images()[:0]), "inputs: shape (0, 1, 8, 8), expected one row an example"),
        ((Convnet(), torch.tensor(1.0)), "inputs: shape (), expected one row an example"),
        ((Convnet(), images(), "all", 0), "batch_size: 0, expected 1 or more"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        NetworkStates(*arguments)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_numpy_inputs_are_taken_in_the_precision_of_the_weights(dtype: type) -> None:
    x = vectors().numpy().astype(dtype)
    for net in (nn.Linear(6, 3), nn.Linear(6, 3).double()):
        weight, bias = (value.detach().double().numpy() for value in (net.weight, net.bias))
        (X,) = features(NetworkStates(net, x, ["linear"])).values()
        np.testing.assert_allclose(X, x.astype(float) @ weight.T + bias, rtol=1e-5, atol=1e-5)


def test_whole_numbers_stay_whole_and_are_no_features() -> None:
    net = nn.Sequential(nn.Embedding(11, 4), nn.Flatten(), nn.Linear(12, 2))
    tokens = torch.randint(11, (N, 3))
    embedded = net[0].weight[tokens]
    expected = {"0": embedded, "2": net[2](embedded.flatten(1))}
    assert_equal(features(NetworkStates(net, tokens)), expected)
    assert_equal(features(NetworkStates(net, tokens.numpy().astype(np.int32))), expected)


def test_of_a_module_that_returns_several_things_the_first_is_read() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 4, batch_first=True)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0][:, -1])

    net, x = Recurrent(), torch.randn(N, 5, 3)
    states = NetworkStates(net, x, batch_size=6)
    assert_equal(features(states), {"input": x, "lstm": net.lstm(x)[0], "head": net(x)})


def test_a_network_of_one_module_is_a_point_of_its_own() -> None:
    net, x = nn.Linear(6, 3), vectors()
    for layers in ("all", "operations"):
        assert_equal(features(NetworkStates(net, x, layers)), {"input": x, "linear": net(x)})


class Changing(nn.Module):
    """What runs, and of what shape it is, depends on the first number of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.same, self.other = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.same(2 * x) if x[0, 0] > 0 else self.same(2 * x[:, 1:])


def test_a_point_whose_shape_changes_is_an_error() -> None:
    x = vectors().abs() + 1
    x[10:] *= -1
    with pytest.raises(
        UserError,
        match=r"^same: has features of shape \(10, 5\) for examples 10 to 19; expected \(10, 6\)$",
    ):
        features(NetworkStates(Changing(), x, batch_size=10))


def test_a_point_that_some_batches_do_not_reach_is_an_error() -> None:
    x = vectors()
    x[10:] *= 1e7
    with pytest.raises(UserError, match=r"^small: was not reached by examples 10 and after$"):
        features(NetworkStates(Choosy(), x, batch_size=10))


def test_a_module_that_is_called_input_is_a_point_beside_the_input() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input, self.output = nn.Linear(6, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.output(self.input(x))

    states = NetworkStates(Named(), vectors())
    assert states.sizes == [6, 4, 2]
    features(states)


def test_layers_that_are_no_names_are_an_error() -> None:
    with pytest.raises(UserError, match="layers"):
        NetworkStates(Convnet(), images(), [1, 2])  # type: ignore[list-item]


def test_the_points_are_found_without_holding_all_their_features() -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    class Noted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal most
            x = x + 1
            alive.append(weakref.ref(x.untyped_storage()))
            most = max(most, sum(storage() is not None for storage in alive))
            return x

    NetworkStates(nn.Sequential(*(Noted() for _ in range(8))), vectors())
    assert most < 4


class Routed(nn.Module):
    """Of which one module sees the rows with a positive first feature only."""

    def __init__(self) -> None:
        super().__init__()
        self.expert = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        chosen = x[:, 0] > 0
        x = x.clone()
        x[chosen] = self.expert(x[chosen])
        return self.head(x)


def test_a_module_that_sees_a_part_of_a_batch_is_an_error() -> None:
    inputs = torch.rand(20, 4)
    inputs[12, 0] = -1  # in the second batch
    states = NetworkStates(Routed(), inputs, batch_size=10)
    assert states.names == ["input", "expert", "head"]
    message = r"expert: has features of shape \(9, 4\) for examples 10 to 19; expected \(10, 4\)"
    with pytest.raises(UserError, match=message):
        states.layer(1)


@pytest.mark.parametrize("parametrized", ["spectral_norm", "weight_norm"])
def test_a_module_with_computed_weights_is_a_point(parametrized: str) -> None:
    layer = getattr(nn.utils.parametrizations, parametrized)(nn.Linear(4, 4))
    states = NetworkStates(nn.Sequential(layer, nn.ReLU()), torch.randn(4, 4))
    assert states.names == ["input", "0", "1"]


def test_attention_is_a_point() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert "self_attn" in NetworkStates(layer, torch.randn(6, 3, 8)).names


def test_a_module_has_each_name_that_it_was_given() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net.add_module("last", net[1])
    states = NetworkStates(net, torch.randn(6, 4), ["last"])
    assert states.names == ["last"]
    assert (states.layer(0) >= 0).all()


def test_an_operation_and_a_module_of_one_name_are_two_points() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.relu = nn.ReLU()
            self.second = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.second(torch.relu(self.first(x))))

    names = NetworkStates(Both(), torch.randn(6, 4), "operations").names
    assert names == ["input", "first", "relu()", "second", "relu"]


def test_a_network_without_features_is_an_error() -> None:
    class Sign(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x > 0

    with pytest.raises(UserError, match="no module of the network gives features"):
        NetworkStates(Sign(), torch.randn(6, 4))
    with pytest.raises(UserError, match="layers: none given"):
        NetworkStates(Convnet(), images(), [])
