"""Directions that a model uses move what it says, and such as it only carries do not."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llmprobe.config.schema import InterveneConfig, ProbeConfig
from llmprobe.extraction.rerun import Rerun
from llmprobe.extraction.tokens import Text
from llmprobe.models.loading import LoadedModel, described
from llmprobe.monitors.intervene import (
    Edit,
    LayerOfTexts,
    _pairs,
    checked_rerun,
    effects,
    intervene,
    tasks_config,
)
from llmprobe.probing.directions import Directions
from llmprobe.probing.tasks import build_tasks
from llmprobe.probing.workers import Arrays
from llmprobe.results.interventions import Measured
from llmprobe.results.resampling import Resamples

CLASS, ONE, USED, CARRIED, ANSWER = range(5)
"""Axes of the stream: the class where the text says it, a constant, the two directions that block
2 writes, and what block 4 writes for the head. Further ones have noise."""
A, B, END = 0, 1, 2
WIDTH, NOISE = 48, 43


@pytest.fixture(scope="module")
def by_hand() -> LoadedModel:
    """A Llama in which block 2 moves the class to the last token, and block 4 answers from it."""
    config = LlamaConfig(
        vocab_size=3 + 40, hidden_size=WIDTH, num_hidden_layers=5, num_attention_heads=1,
        intermediate_size=WIDTH, head_dim=WIDTH,
    )  # fmt: skip
    module = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
        embed = module.model.embed_tokens.weight
        embed[A, CLASS], embed[B, CLASS] = 0.3, -0.3
        embed[:, ONE] = 1.0
        noise = 2 * torch.randn(40, NOISE, generator=torch.manual_seed(0))
        embed[3:, -NOISE:] = noise
        blocks = module.model.layers
        # All tokens are looked at alike; what they say of the class and their noise come along.
        attention = blocks[1].self_attn
        attention.v_proj.weight.copy_(torch.eye(WIDTH))
        attention.o_proj.weight[USED, CLASS] = attention.o_proj.weight[CARRIED, CLASS] = 1.0
        for axis in range(WIDTH - NOISE, WIDTH):
            attention.o_proj.weight[axis, axis] = 4.0
        # A gate that is open wherever the constant stands, so that the block is nearly linear.
        mlp = blocks[3].mlp
        mlp.gate_proj.weight[USED, ONE], mlp.up_proj.weight[USED, USED] = 4.0, 1.0
        mlp.down_proj.weight[ANSWER, USED] = 0.5
        module.lm_head.weight[A, ANSWER], module.lm_head.weight[B, ANSWER] = 1.0, -1.0
    model = described("by hand", module.model, None, torch.device("cpu"), torch.float32)
    _clear(model)
    return SimpleNamespace(head=module, model=model)


def _clear(model) -> None:
    """Let block 4 take away what it read, which depends on the size of the states there."""
    with torch.no_grad():
        states = _states(model, [[A, 3, END], [B, 3, END]])
        before, after = states[3], states[4]
        wrote = after[0, ANSWER] - before[0, ANSWER]
        mlp = model.blocks[3].mlp
        mlp.down_proj.weight[USED, USED] = float(-0.5 * before[0, USED] / wrote)


def _states(model, texts) -> dict[int, torch.Tensor]:
    with torch.no_grad():
        read = model.module(
            input_ids=torch.tensor(texts), output_hidden_states=True, use_cache=False
        ).hidden_states
        states = {i: state[:, -1].clone() for i, state in enumerate(read[:-1])}
        kept: list[torch.Tensor] = []
        handle = model.blocks[-1].register_forward_hook(lambda *args: kept.append(args[-1][:, -1]))
        model.module(input_ids=torch.tensor(texts), use_cache=False)
        handle.remove()
        return states | {model.n_blocks: kept[0]}


def _texts(n: int, seed: int = 0) -> tuple[list[list[int]], np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    return [[A if y else B, int(rng.integers(3, 43)), END] for y in labels], labels


def _at_last(texts: list[list[int]]) -> list[Text]:
    return [Text(tuple(ids), ((len(ids) - 1,),)) for ids in texts]


def _answers(by_hand):
    def answers(states):
        with torch.no_grad():
            return by_hand.head.lm_head(by_hand.model.module.norm(states))[:, [B, A]]

    return answers


def test_a_direction_is_used_from_where_it_is_written_to_where_it_is_read(by_hand) -> None:
    texts, labels = _texts(40)
    states = _states(by_hand.model, texts)
    acts = np.eye(WIDTH, dtype=np.float32)[[USED, CARRIED]]
    directions = Directions(acts, acts, np.zeros(2), np.ones(2), np.arange(2))
    fold = np.zeros(len(texts), dtype=int)
    pairs, of_fold = (
        np.tile([0, 1], (len(texts), 1)),
        SimpleNamespace(between=lambda *_: directions),
    )
    layers = [LayerOfTexts(i, X.numpy(), fold, pairs, [of_fold]) for i, X in states.items()]
    edits = [Edit(0, "reflect"), Edit(1, "reflect")]
    plain, changed = effects(
        Rerun(by_hand.model), _answers(by_hand), _at_last(texts), layers, edits
    )  # fmt: skip
    gap = Measured(labels, pairs, plain, Resamples(40), ()).gap
    moved = np.array([(-c.sides * c.log_odds).mean(axis=0) for c in changed]) / gap
    used, carried = moved.T
    np.testing.assert_allclose(used[2:4], 1, atol=0.05)
    np.testing.assert_allclose(np.delete(used, [2, 3]), 0, atol=0.05)
    np.testing.assert_allclose(carried, 0, atol=0.05)
    # Both are as readable, in the same layers.
    assert (
        np.sign(states[3][:, [USED, CARRIED]].numpy()) == np.where(labels, 1, -1)[:, None]
    ).all()


def _intervene(by_hand, labels, texts, **config):
    asked = InterveneConfig(null=20, n=60, **config)
    probe = tasks_config(ProbeConfig(l2=100.0, folds=3), asked)
    tasks = build_tasks(labels, None, probe, "texts")
    states = Arrays({i: X.numpy() for i, X in _states(by_hand.model, texts).items()})
    asked_of = _at_last(texts)
    runner = checked_rerun(by_hand.model, asked_of, states, asked)
    return intervene(runner, _answers(by_hand), asked_of, states, tasks, None, asked, peak=3)


def test_what_a_model_answers_by_is_found_and_compared_with_the_null(by_hand) -> None:
    texts, labels = _texts(60)
    result = _intervene(by_hand, labels, texts)
    summary, table = result.summary.iloc[0], result.table
    assert summary["used_p_value"] == pytest.approx(1 / 21)
    assert summary["used_share"] > 0.5
    shares = result.by_layer.set_index("layer")["used_share"]
    assert (shares[:2].abs() < 0.05).all()  # Nothing is there yet.
    doses = table[(table["edit"] == "shift") & (table["direction"] == "mean_difference")]
    assert doses["effect"].is_monotonic_increasing
    leace = table[(table["direction"] == "leace") & (table["layer"] == summary["used_layer"])]
    assert leace["said_auroc"].item() < 0.95  # Of 1.


@pytest.fixture(scope="module")
def simulated() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "scripts")
        yield importlib.import_module("bench_statistics")


def test_p_values_are_uniform_where_the_answer_comes_from_any_direction(simulated) -> None:
    """Of well separated classes one in four was below .05, as theirs were moved furthest."""
    p = np.array(
        [simulated.p_of_use(simulated.Planted(6.0), seed, n=40, d=8) for seed in range(60)]
    )
    steps = np.arange(1, 21) / 20
    of_all = (p[:, None] <= steps + 1e-9).mean(axis=0)
    assert np.abs(of_all - steps).max() < 1.63 / np.sqrt(len(p))  # Kolmogorov-Smirnov, p = .01.
    assert of_all[0] <= 0.1


def test_a_direction_without_influence_is_not_used_and_a_small_effect_is_found(simulated) -> None:
    without, some = (
        np.array([simulated.p_of_use(simulated.Planted(2.0, uses), seed) for seed in range(12)])
        for uses in (0.0, 0.7)
    )
    assert (without > 0.05 + 1e-9).all()
    assert (some <= 0.05 + 1e-9).mean() > 0.6


def test_p_values_of_three_classes_are_uniform_and_what_is_used_is_found(simulated) -> None:
    def p_of(planted, draws: int) -> np.ndarray:
        return np.array([simulated.p_of_use(planted, i, n=42, d=8) for i in range(draws)])

    by_any, steps = p_of(simulated.Planted(6.0, classes=3), 20), np.arange(1, 21) / 20
    distance = np.abs((by_any[:, None] <= steps + 1e-9).mean(axis=0) - steps).max()
    assert distance < 1.63 / np.sqrt(len(by_any))
    assert (p_of(simulated.Planted(3.0, 0.9, classes=3), 4) <= 0.05 + 1e-9).sum() >= 3


def test_two_classes_of_three_are_compared_whatever_the_third_is_given() -> None:
    labels, rng = np.arange(60) % 3, np.random.default_rng(0)
    logits = rng.normal(size=(60, 1)) + 2.0 * np.eye(3)[labels] + [0, 5, -5]
    measured = Measured(labels, _pairs(labels, 3, 0), logits, Resamples(60), ("logistic",))
    assert measured.gap == pytest.approx(4)  # A word that is likelier anyway changes nothing.
    assert measured.auroc(measured.log_odds) == 1
    pairs, counts = np.unique(measured.pairs, axis=0, return_counts=True)
    assert pairs.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert counts.tolist() == [20, 20, 20]
    assert (measured.pairs == labels[:, None]).any(axis=1).all()


@pytest.mark.parametrize(("gap", "within", "scale"), [(4.0, 1.0, 4.0), (0.1, 2.0, 2.0)])
def test_shares_are_of_the_gap_or_of_what_varies_within_a_class(
    gap: float, within: float, scale: float
) -> None:
    labels = np.arange(40) // 20
    log_odds = gap * labels + within * np.where(np.arange(40) % 2, 1.0, -1.0)
    logits, pairs = np.column_stack([0 * log_odds, log_odds]), np.tile([0, 1], (40, 1))
    measured = Measured(labels, pairs, logits, Resamples(40), ("logistic",))
    assert measured.gap == pytest.approx(gap)
    assert measured.scale == pytest.approx(scale)
