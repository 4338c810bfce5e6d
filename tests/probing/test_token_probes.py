"""Probes over tokens: what they find, and that padding, order and held-out texts move nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from llmprobe.config.schema import ProbeConfig
from llmprobe.ground.errors import UserError
from llmprobe.probing import token_probes
from llmprobe.probing.fit_many import fit_many
from llmprobe.probing.layer import LayerFit, probe_layer
from llmprobe.probing.losses import Logistic
from llmprobe.probing.pooling import Pooling, config_of_pooling
from llmprobe.probing.tasks import ProbingTasks, build_tasks
from llmprobe.probing.token_probes import TokenProbes, Tokens, fit_token_probes, probe_tokens
from llmprobe.probing.workers import threads

LENGTHS = np.array([17, 1, 200, 2, 17, 5, 1, 30])
LEARNED = ("max", "softmax", "softmax-0.5", "attention")
each_pooling = pytest.mark.parametrize("name", LEARNED)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threads(1):
        yield


def pooling(name: str) -> Pooling:
    made = Pooling.of(f"tokens:{name}")
    assert made is not None
    return made


def tasks_of(y: np.ndarray, **options: object) -> ProbingTasks:
    settings = {"permutations": 0, "controls": (), "description_length": False, "folds": 3}
    return build_tasks(y, None, ProbeConfig(**(settings | options)), "test")


def fitted(X: np.ndarray, n_tokens: np.ndarray, name: str, tasks: ProbingTasks) -> LayerFit:
    way = pooling(name)
    if way.is_of_states:
        return probe_layer(way.states(X, n_tokens), tasks)
    return probe_tokens(X, tasks, n_tokens=n_tokens, pooling=way)


def one_token_tells(
    n: int, length: int, classes: int = 2, d: int = 8
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texts of noise, in each of which one token, at a random place, is marked and has the class.

    -> states [n · length, d], tokens of each text [n], classes [n]
    """
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, length, d)).astype(np.float32)
    y = np.arange(n) % classes
    place = rng.integers(length, size=n)
    X[np.arange(n), place, 0] += 6
    X[np.arange(n), place, 1 + y] += 6
    return X.reshape(-1, d), np.full(n, length), y


def probes_of(name: str, d: int = 6, K: int = 2, C: int = 3) -> TokenProbes:
    rng = np.random.default_rng(1)
    coef, intercept, query = (
        torch.as_tensor(rng.normal(size=shape), dtype=torch.float32)
        for shape in ((K, C, d), (K, C), (K, d))
    )
    return TokenProbes(pooling(name), coef, intercept, query if name == "attention" else None)


def plain_logits(X: np.ndarray, probes: TokenProbes) -> np.ndarray:
    """The score of one text, by the definition. [tokens, d] -> [K, C]"""
    scores = np.einsum("td,kcd->ktc", X, probes.coef.numpy()) + probes.intercept.numpy()[:, None]
    if probes.pooling.kind == "max":
        return scores.max(axis=1)
    if probes.query is None:
        weights = np.exp(scores / probes.pooling.number)
    else:
        weights = np.exp(X @ probes.query.numpy().T).T[..., None]
    return (weights * scores).sum(axis=1) / weights.sum(axis=1)


def test_attention_finds_the_one_token_of_200_that_tells_and_the_mean_does_not() -> None:
    X, n_tokens, y = one_token_tells(120, 200)
    tasks = tasks_of(y)
    right = {
        name: (fitted(X, n_tokens, name, tasks).predicted[0].argmax(axis=1) == y).mean()
        for name in ("mean", "last-5", "attention")
    }
    assert right["mean"] < 0.65
    assert right["last-5"] < 0.65
    assert right["attention"] > 0.9


@each_pooling
def test_each_pooling_of_scores_finds_one_token_of_several_classes(name: str) -> None:
    X, n_tokens, y = one_token_tells(90, 20, classes=3)
    fit = fitted(X, n_tokens, name, tasks_of(y, l2=1))
    assert (fit.predicted[0].argmax(axis=1) == y).mean() > 0.9
    assert fit.coef.shape == (8, 3)
    assert fit.skill[0] > 0.5


def test_numbers_are_predicted_in_their_own_units() -> None:
    X, n_tokens, _ = one_token_tells(90, 10)
    y = 1000 + 50 * X.reshape(90, 10, 8).max(axis=1)[:, 2]
    fit = fitted(X, n_tokens, "max", tasks_of(y, kind="ridge", l2=1))
    assert 1 - ((fit.predicted[0, :, 0] - y) ** 2).mean() / y.var() > 0.5


@each_pooling
def test_a_text_has_one_score_whatever_it_is_padded_and_read_with(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    texts = [rng.normal(size=(n, 6)).astype(np.float32) for n in LENGTHS]
    probes = probes_of(name)
    expected = np.stack([plain_logits(text, probes) for text in texts], axis=-1)
    for most in (1, 40, 2**14):
        monkeypatch.setattr(token_probes, "MOST_TOKENS", most)
        for order in (np.arange(len(texts)), rng.permutation(len(texts))):
            X = np.concatenate([texts[i] for i in order])
            logits = probes.logits(Tokens(X, LENGTHS[order])).numpy()
            np.testing.assert_allclose(logits, expected[..., order], rtol=2e-5, atol=2e-5)


def test_means_are_of_the_tokens_of_each_text_alone() -> None:
    rng = np.random.default_rng(3)
    texts = [rng.normal(size=(n, 4)).astype(np.float32) for n in LENGTHS]
    X = np.concatenate(texts)
    for name, last in (("mean", None), ("last-1", 1), ("last-5", 5), ("last-500", 500)):
        expected = [text[-(last or len(text)) :].mean(axis=0) for text in texts]
        np.testing.assert_allclose(pooling(name).states(X, LENGTHS), expected, atol=1e-6)
        read = np.split(pooling(name).read(LENGTHS), LENGTHS.cumsum()[:-1])
        assert [int(of_text.sum()) for of_text in read] == [
            min(n, last or n) for n in LENGTHS.tolist()
        ]
        assert all(of_text[-1] for of_text in read)


@each_pooling
def test_texts_of_one_token_have_the_logistic_regression_of_their_states(name: str) -> None:
    rng = np.random.default_rng(4)
    X = (rng.normal(size=(120, 5)) * [1, 30, 1, 1, 0.01] + 7).astype(np.float32)
    y = (X[:, 0] - 7 + rng.normal(size=120) > 0).astype(np.float32)
    train = torch.ones(1, 120, dtype=torch.bool)
    probes = fit_token_probes(
        Tokens(X, np.ones(120, dtype=int)), pooling(name), Logistic(),
        torch.as_tensor(y[None]), train, torch.tensor([10.0]),
    )  # fmt: skip
    exact = fit_many(X, y[:, None], l2=10.0)
    logits = probes.logits(Tokens(X, np.ones(120, dtype=int)))[0, 0].numpy()
    np.testing.assert_allclose(logits, (X @ exact.coef + exact.intercept)[:, 0], atol=0.02)


@each_pooling
def test_what_is_held_out_moves_no_prediction(name: str) -> None:
    X, n_tokens, y = one_token_tells(60, 6)
    tasks = tasks_of(y, folds=2)
    before = fitted(X, n_tokens, name, tasks)
    held_out = tasks.fold_of[0] == 0
    flipped = replace(tasks, targets=np.where(held_out, 1 - tasks.targets, tasks.targets))
    after = fitted(X, n_tokens, name, flipped)
    np.testing.assert_array_equal(before.predicted[0][held_out], after.predicted[0][held_out])
    one = np.flatnonzero(held_out)[0]
    louder = np.where(np.repeat(np.arange(60) == one, n_tokens)[:, None], 1000 * X, X)
    after = fitted(louder, n_tokens, name, tasks)
    others = held_out & (np.arange(60) != one)
    np.testing.assert_allclose(before.predicted[0][others], after.predicted[0][others], atol=1e-6)


def test_a_kind_without_a_loss_has_no_pooling_of_scores() -> None:
    config = ProbeConfig(kind="mass_mean")
    assert config_of_pooling(config, "tokens:last-5") is config
    with pytest.raises(UserError, match="pooling max: needs a kind"):
        config_of_pooling(config, "tokens:max")


def test_states_and_lengths_that_do_not_fit_are_refused() -> None:
    for lengths in ([2, 2], [5, 0]):
        with pytest.raises(ValueError, match="one or more"):
            Tokens(np.ones((5, 3), np.float32), np.array(lengths))
