"""A saved probe answers as the fitted one does, and a file that is none is called so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import llmprobe
from llmprobe import UserError
from llmprobe.probing.workers import threads
from llmprobe.results.saved_probe import SavedProbe, load_probe

N, LAYERS = 120, {2: 10, 3: 10, 7: 6}
"""Examples; layers and their widths."""
KINDS = {
    "text": ("logistic", ["no", "yes"]),
    "bool": ("logistic", [False, True]),
    "int": ("logistic", [3, 7]),
    "three": ("logistic", ["a", "b", "c"]),
    "mass mean": ("mass_mean", [3, 7]),
    "mass mean, four": ("mass_mean", [0, 1, 2, 9]),
    "numbers": ("ridge", []),
}
each_kind = pytest.mark.parametrize("name", KINDS)
each_of_classes = pytest.mark.parametrize("name", [name for name in KINDS if name != "numbers"])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threads(1):
        yield


@cache
def data(name: str) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Layers of which 3 tells most of the labels; features of different sizes and means."""
    rng = np.random.default_rng(0)
    classes = KINDS[name][1]
    number = rng.normal(size=N)
    if classes:
        number = rng.permutation(N) % len(classes)
    layers = {}
    for layer, d in LAYERS.items():
        X = rng.normal(size=(N, d))
        if layer != 2:
            X[:, 0] += {3: 1.5, 7: 0.7}[layer] * number
        layers[layer] = X * rng.uniform(0.5, 5, size=d) + 10 * rng.normal(size=d)
    return layers, np.asarray(classes)[number] if classes else 3 * number + 50


@cache
def fitted(name: str) -> SavedProbe:
    results = llmprobe.probe_layers(
        *data(name), kind=KINDS[name][0], l2=2.0, permutations=0, controls=(), progress=False
    )
    (probe,) = results.probes
    assert isinstance(probe, SavedProbe)
    return probe


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return fitted("three").save(tmp_path / "probe.safetensors")


@each_kind
def test_a_probe_comes_back_from_its_file_as_it_was(name: str, tmp_path: Path) -> None:
    probe = fitted(name)
    path = probe.save(tmp_path / "new folder" / "probe.safetensors")
    again = load_probe(path)
    assert again.layers == probe.layers == list(LAYERS)
    for layer, d in LAYERS.items():
        for one, other in ((probe.coef, again.coef), (probe.intercept, again.intercept)):
            assert other[layer].dtype == np.float64
            np.testing.assert_array_equal(one[layer], other[layer])
        assert again.coef[layer].shape[1] == d
    assert again.classes == probe.classes == tuple(KINDS[name][1])
    assert [type(label) for label in again.classes] == [type(label) for label in KINDS[name][1]]
    assert again.facts == probe.facts
    assert again.facts["kind"] == KINDS[name][0]
    np.testing.assert_equal(again.scores, probe.scores)  # some are NaN
    assert again.best_layer == probe.best_layer == 3
    assert list(path.parent.iterdir()) == [path]


@each_kind
def test_logits_are_the_states_times_the_direction_of_the_best_layer(name: str) -> None:
    probe, (layers, _) = fitted(name), data(name)
    for given, layer in ((None, 3), (3, 3), (2, 2), (7, 7)):
        X = layers[layer].astype(np.float32)
        expected = X.astype(float) @ probe.coef[layer].T + probe.intercept[layer]
        logits = probe.decision_function(X, given)
        classes = len(KINDS[name][1])
        assert logits.shape == ((N, classes) if classes > 2 else (N,))
        np.testing.assert_array_equal(logits, expected if classes > 2 else expected[:, 0])
        np.testing.assert_array_equal(probe.decision_function(X.tolist(), given), logits)
        np.testing.assert_array_equal(probe.decision_function(torch.as_tensor(X), given), logits)


@each_of_classes
def test_probabilities_sum_to_1_and_the_largest_is_predicted(name: str) -> None:
    probe, (layers, y) = fitted(name), data(name)
    for X in (layers[3], 1e6 * layers[3]):  # logits whose exponentials are infinite
        probabilities = probe.predict_proba(X)
        assert probabilities.shape == (N, len(KINDS[name][1]))
        assert probabilities.min() >= 0
        assert probabilities.sum(axis=1) == pytest.approx(1)
        logits = probe.decision_function(X)
        largest = (logits > 0).astype(int) if logits.ndim == 1 else logits.argmax(axis=1)
        np.testing.assert_array_equal(probabilities.argmax(axis=1), largest)
        np.testing.assert_array_equal(probe.predict(X), np.asarray(KINDS[name][1])[largest])
    predicted = probe.predict(layers[3])
    assert predicted.dtype == y.dtype
    assert (predicted == y).mean() > 1 / len(KINDS[name][1]) + 0.2
    if len(KINDS[name][1]) == 2:
        p = probe.predict_proba(layers[3])
        log_odds = np.log(p[:, 1] / p[:, 0])
        assert log_odds == pytest.approx(probe.decision_function(layers[3]))


def test_a_probe_of_numbers_predicts_them_in_their_own_units() -> None:
    probe, (layers, y) = fitted("numbers"), data("numbers")
    predicted = probe.predict(layers[3])
    np.testing.assert_array_equal(predicted, probe.decision_function(layers[3]))
    assert np.corrcoef(predicted, y)[0, 1] > 0.7
    assert predicted.mean() == pytest.approx(y.mean())
    with pytest.raises(UserError, match="predicts a number, which has no probabilities"):
        probe.predict_proba(layers[3])


@pytest.mark.parametrize("name", ["text", "three", "numbers"])
def test_the_probe_is_scikit_learns_on_all_examples(name: str) -> None:
    probe, (layers, y) = fitted(name), data(name)
    assert probe.scores["l2"] == [2.0] * 3
    for layer, X in layers.items():
        if name == "numbers":  # The penalty is on standardised numbers, as are the features.
            model = make_pipeline(StandardScaler(), Ridge(2, solver="cholesky")).fit(X, y)
            expected = model.predict(X)
        else:
            logistic = LogisticRegression(C=1 / 2, tol=1e-10, solver="newton-cholesky")
            model = make_pipeline(StandardScaler(), logistic).fit(X, y)
            expected = model.decision_function(X)
        found = probe.decision_function(X, layer)
        assert found == pytest.approx(expected, abs=5e-3)
        direction = probe.coef[layer] * X.std(axis=0)
        np.testing.assert_allclose(direction, np.atleast_2d(model[-1].coef_), atol=5e-4)


def test_a_probe_can_be_fitted_again_at_its_own_penalty() -> None:
    layers, y = data("text")
    (probe,) = llmprobe.probe_layers(layers, y, progress=False).probes
    for layer, l2 in zip(probe.layers, probe.scores["l2"], strict=True):
        fits = llmprobe.fit_many(layers[layer], (y == np.unique(y)[1])[:, None], l2=l2)
        assert probe.coef[layer][0] == pytest.approx(fits.coef[:, 0], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", ["text", "mass mean", "numbers"])
def test_scores_are_those_of_the_table(name: str) -> None:
    """Of new examples, not of those that the saved probe was fitted on."""
    results = llmprobe.probe_layers(*data(name), kind=KINDS[name][0], progress=False)
    (probe,) = results.probes
    assert {"accuracy", "accuracy_low", "auroc", "r2", "l2", "p_value"} <= set(probe.scores)
    for metric, values in probe.scores.items():
        if metric != "l2":  # its own, where the table has the folds'
            np.testing.assert_array_equal(values, results.table[metric])
    assert probe.best_layer == results.summary["peak_layer"].item()


@pytest.mark.parametrize(
    ("states", "layer", "message"),
    [
        (np.zeros((4, 9)), None, "states: shape (4, 9), expected (n, 10)"),
        (np.zeros((4, 10)), 7, "states: shape (4, 10), expected (n, 6)"),
        (np.zeros(10), None, "states: shape (10,), expected (n, 10)"),
        (np.zeros((1, 4, 10)), None, "states: shape (1, 4, 10), expected (n, 10)"),
        (np.zeros((4, 10)), 5, "the probe has no layer 5"),
        (np.zeros((4, 10)), -1, "the probe has no layer -1"),
        (np.full((4, 10), np.nan), None, "states: has values that are not finite"),
        ([["a"] * 10], None, "states: not an array of numbers of shape (n, 10)"),
        ([[1.0], [1.0, 2.0]], None, "states: not an array of numbers of shape (n, 10)"),
    ],
)
@pytest.mark.parametrize("verb", ["decision_function", "predict_proba", "predict"])
def test_wrong_states_and_layers_are_named(
    verb: str, states: np.ndarray, layer: int | None, message: str
) -> None:
    probe = fitted("three")
    with pytest.raises(UserError, match=re.escape(message)):
        getattr(probe, verb)(states, layer)


def header_of(path: Path) -> dict[str, str]:
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + size])["__metadata__"]
    del metadata["own_sha256"]  # As other programs write it, which know nothing of it.
    return metadata


def without(path: Path, left_out: str) -> None:
    """Write the file anew with an entry less in its header."""
    header = header_of(path)
    del header[left_out]
    save_file(load_file(path), path, header)


def with_entry(path: Path, **entry: Any) -> None:
    """Write the file anew with another entry in its header."""
    (name, value), *_ = entry.items()
    save_file(load_file(path), path, header_of(path) | {name: json.dumps(value)})


def with_number(path: Path, name: str, number: float) -> None:
    """Write the file anew with another number at the beginning of a tensor."""
    tensors = load_file(path)
    tensors[name].flat[0] = number
    save_file(tensors, path, header_of(path))


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


GOLDEN = {"token_ids": [1, 5], "positions": [1], "layer": 3, "logit": [0.5, 1.0, 0.0]}

WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path.unlink(), "there is no such file"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "is a folder; a probe is one"),
    "empty": (lambda path: path.write_bytes(b""), "not a saved probe, or damaged"),
    "text": (lambda path: path.write_text("layer,accuracy\n" * 9), "not a saved probe, or damaged"),
    "cut in the header": (lambda path: cut(path, 0.1), "not a saved probe, or damaged"),
    "cut in the tensors": (lambda path: cut(path, 0.9), "not a saved probe, or damaged"),
    "other tensors": (
        lambda path: save_file({"weight": np.zeros(3)}, path), "but not one of a saved probe"
    ),
    "another format": (
        lambda path: save_file(load_file(path), path, header_of(path) | {"format": "pt"}),
        "but not one of a saved probe",
    ),
    "odd tensors": (
        lambda path: save_file({"weight": np.zeros(3)}, path, header_of(path)),
        "not a saved probe, or damaged",
    ),
    "no number of a layer": (
        lambda path: save_file({"coef.last": np.zeros(3)}, path, header_of(path)),
        "not a saved probe, or damaged",
    ),
    "no classes": (lambda path: without(path, "classes"), "not a saved probe, or damaged"),
    "no scores": (lambda path: without(path, "scores"), "not a saved probe, or damaged"),
    "no intercept of a layer": (
        lambda path: save_file(
            {k: v for k, v in load_file(path).items() if k != "intercept.3"}, path, header_of(path)
        ),
        "not a saved probe, or damaged",
    ),
    "classes of another probe": (
        lambda path: with_entry(path, classes=["a", "b"]), "does not fit 2 classes",
    ),
    "one class": (lambda path: with_entry(path, classes=["a"]), "not two or more different ones"),
    "a class twice": (
        lambda path: with_entry(path, classes=["a", "b", "a"]), "not two or more different ones"
    ),
    "a class in two types": (
        lambda path: with_entry(path, classes=["1", 1, "a"]), "not two or more different ones"
    ),
    "classes that are none": (
        lambda path: with_entry(path, classes=[None, {"a": 1}, "a"]), "are not words or numbers"
    ),
    "NaN": (lambda path: with_number(path, "coef.3", np.nan), "numbers that are not finite"),
    "infinite": (lambda path: with_number(path, "intercept.7", np.inf), "that are not finite"),
    "widths that differ": (
        lambda path: with_entry(path, facts={"model_id": "m"}), "its layers differ in width"
    ),
    "facts of another type": (
        lambda path: with_entry(path, facts={"template": 5}), "template is 5, which is no str"
    ),
    "facts in a list": (lambda path: with_entry(path, facts=[1]), "not a saved probe, or damaged"),
    "scores of other layers": (
        lambda path: with_entry(path, scores={"accuracy": [1.0], "log_loss": [1.0]}),
        "are not one for each layer",
    ),
    "deep": (
        lambda path: save_file(
            load_file(path), path, header_of(path) | {"facts": "[" * 100_000}
        ),
        "maximum recursion depth",
    ),
    "no list of classes": (
        lambda path: save_file(load_file(path), path, header_of(path) | {"classes": "null"}),
        "not a saved probe, or damaged",
    ),
    "scores of no layer": (
        lambda path: save_file(load_file(path), path, header_of(path) | {"scores": "{}"}),
        "not a saved probe, or damaged",
    ),
    **{
        f"golden with {key} {value}": (
            lambda path, key=key, value=value: with_entry(path, golden=[GOLDEN | {key: value}]),
            "golden example" if key != "logit" or value else "not a saved probe, or damaged",
        )
        for key, value in (
            ("token_ids", [1, -1]), ("token_ids", [1, 0.5]), ("token_ids", []), ("positions", []),
            ("positions", [2]), ("layer", 5), ("layer", True), ("logit", 0.5),
            ("logit", [1e999, 0, 0]),
        )
    },
    "golden examples that are none": (
        lambda path: with_entry(path, golden=["x"]), "not a saved probe, or damaged"
    ),
    "no JSON": (
        lambda path: save_file(load_file(path), path, header_of(path) | {"facts": "{model"}),
        "not a saved probe, or damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_file_that_is_no_probe_is_called_so_in_a_sentence(wrong: str, saved: Path) -> None:
    spoil, message = WRONG[wrong]
    spoil(saved)
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        load_probe(saved)
    assert str(raised.value).startswith(f"{saved}: ")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < len(str(saved)) + 200


def test_equal_probes_are_equal_bytes(saved: Path) -> None:
    """The library orders the entries of a header anew in every process and at every save."""
    for _ in range(5):
        assert fitted("three").save(saved.with_name("again")).read_bytes() == saved.read_bytes()


@pytest.mark.parametrize("place", [0.05, 0.3, 0.7, 0.999])
def test_a_probe_with_another_byte_is_refused(place: float, saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[int(place * len(content))] ^= 1
    saved.write_bytes(content)
    with pytest.raises(UserError, match="not a saved probe, or damaged"):
        load_probe(saved)


def test_saving_again_replaces_the_file_whole(saved: Path) -> None:
    fitted("int").save(saved)
    assert load_probe(saved).classes == (3, 7)
    assert list(saved.parent.iterdir()) == [saved]
