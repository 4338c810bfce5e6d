"""One table of architectures: every way gives the states of each text run plainly and alone.

For every site and position, with texts of mixed lengths and shared beginnings of many shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import ARCHITECTURES, BOTH_WAYS, WORDS
from torch import nn
from transformers import AutoModel, PreTrainedTokenizerFast

from llmprobe.config import sites
from llmprobe.config.schema import ExtractConfig, ModelConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction import extract as extraction
from llmprobe.extraction import runner
from llmprobe.extraction.capture import Capture
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.memory import Budget
from llmprobe.extraction.padded import PaddedBatches
from llmprobe.extraction.plan import MASKED, ONE_LENGTH, PADDED, PREFIX_TREE, ExtractionPlan
from llmprobe.extraction.prefix_tree import _Blocks
from llmprobe.extraction.runner import Sample, make_runner, relative_difference
from llmprobe.extraction.tokens import Text, TokenisedTexts
from llmprobe.extraction.tree import build_tree
from llmprobe.ground.errors import UserError
from llmprobe.models.layers import block_input
from llmprobe.models.loading import LoadedModel, load_model
from llmprobe.models.position_wise import find_position_wise
from llmprobe.models.private import in_float32

SITES = ("residual", "attention", "mlp", "post_attention_norm")
POSITIONS = ("last", "first", "mean", "span:word")

WITHOUT_TREE = {"bloom", "gpt_neo", "mamba", *BOTH_WAYS}
"""BLOOM (ALiBi) and GPT-Neo (its windows) go by the order of keys, Mamba has a state, BERT looks
ahead."""
WITHOUT_SITES = {"mamba": SITES[1:], "falcon": ("post_attention_norm",)}


def _words(*lengths: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=n)) for n in lengths]


def _shared(beginning: str, texts: list[str]) -> list[str]:
    return [f"{beginning} {text}" for text in texts]


CORPORA = {
    "nothing shared": [f"{WORDS[i]} {text}" for i, text in enumerate(_words(*range(1, 9)))],
    "one instruction": _shared(*_words(9), _words(*[1, 5, 3, 12, 2, 7], seed=1)),
    "instructions within instructions": [
        *_shared(_words(6)[0], _shared(_words(5, seed=2)[0], _words(1, 4, 2, seed=3))),
        *_shared(_words(6)[0], _shared(_words(7, seed=4)[0], _words(3, 9, seed=5))),
        *_shared(_words(4, seed=6)[0], _words(2, 2, 14, seed=7)),
    ],
    "each the beginning of the next": [
        " ".join(_words(13)[0].split()[:n]) for n in (3, 1, 2, 13, 7, 8)
    ],
    "twice the same": [*_words(4, 9, 4), *_words(4, 9, 4)],
    "a single text": _words(17),
}


@pytest.fixture(scope="module")
def loaded(tiny_model: Callable[..., Path]) -> Callable[..., LoadedModel]:
    @cache
    def load(architecture: str, bos: bool = True) -> LoadedModel:
        folder = str(tiny_model(architecture, bos=bos, left=True))
        model = load_model(ModelConfig(id=folder, dtype="float32"))
        # Qwen2's own class of tokenizer would take these words apart.
        return replace(model, tokenizer=PreTrainedTokenizerFast.from_pretrained(folder))

    return load


def dataset(texts: list[str]) -> ConceptDataset:
    """A dataset with a span: the second word of each text, or the only one."""
    spans = []
    for text in texts:
        words = text.split()[:2]
        spans.append((len(" ".join(words)) - len(words[-1]), len(" ".join(words))))
    labels = np.arange(max(len(texts), 2)) % 2
    texts = texts if len(texts) > 1 else texts * 2
    return ConceptDataset("words", texts, labels, spans={"word": (spans * 2)[: len(texts)]})


def plain_states(model: LoadedModel, site: str, text: str) -> np.ndarray:
    """One text alone, as transformers' users run it, without a mask or cache. -> [layers, t, d]"""
    states: list[torch.Tensor] = []

    def keep(_: object, __: object, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        # Falcon adds to this tensor afterwards.
        states.append(output.reshape(1, len(ids), -1).clone())

    ids = model.tokenizer(text)["input_ids"]
    handles = [module.register_forward_hook(keep) for module in model.site(site)]
    with torch.inference_mode():
        embedding = model.module(
            input_ids=torch.tensor([ids]), output_hidden_states=True
        ).hidden_states[0]
    for handle in handles:
        handle.remove()
    if site == "residual":
        if model.module.config.model_type == "mamba":
            embedding = model.module.embeddings(torch.tensor([ids])).detach()
        states.insert(0, embedding)
    return torch.cat(states).numpy()


def expected_states(model: LoadedModel, site: str, data: ConceptDataset) -> dict[str, np.ndarray]:
    """Return the states of each text run alone by position, each [n, layers, d]."""
    rows: dict[str, list[np.ndarray]] = {position: [] for position in POSITIONS}
    for text in data.texts:
        states = plain_states(model, site, text)
        # A word is a token; before them stands the BOS, which is special, or nothing.
        words = states[:, -len(text.split()) :]
        rows["last"].append(words[:, -1])
        rows["first"].append(words[:, 0])
        rows["mean"].append(words.mean(axis=1))
        rows["span:word"].append(words[:, :2][:, -1])
    return {position: np.stack(states) for position, states in rows.items()}


def states_in_way(
    model: LoadedModel, data: ConceptDataset, way: str, budget: int | None, **options: str
) -> np.ndarray:
    """Return the states of each text by one way, [n, layers, d]."""
    return positions_in_way(model, data, way, budget, **options)[0][:, 0]


def positions_in_way(
    model: LoadedModel,
    data: ConceptDataset,
    way: str,
    budget: int | None,
    block: int = 4,
    parts: Sequence[nn.Module] = (),
    **options: Any,
) -> tuple[np.ndarray, ExtractionPlan]:
    """Return the states of each text at each position by one way, [n, positions, layers, d].

    Slices of the prefix tree of more than four tokens are several blocks, of which the last is
    filled up.

    Parameters
    ----------
    parts
        Of the last block that is read, those that run at tokens that are read alone.
    """
    one = Extractor(
        ModelConfig(id="unused"), ExtractConfig(batch_tokens=budget or 10**6, **options)
    )
    texts = one.tokens(data, model.tokenizer, model.module)
    plan = replace(one.planner(texts, model).plan(way), block=block)
    capture = Capture(model, one.config.site, one.config.layers)
    capture.position_wise = parts
    with capture:
        run = make_runner(plan, capture, Budget(plan.budget))
        run.prepare()
        parts = [run(plan.texts[s.start : s.stop]).result() for s in plan.strands]
    return torch.cat(parts, dim=1).transpose(0, 1).numpy()[plan.row_of], plan


def assert_same(states: np.ndarray, expected: np.ndarray) -> None:
    assert states.shape == expected.shape
    difference = np.linalg.norm(states - expected, axis=2)
    assert (difference <= 1e-5 * np.linalg.norm(expected, axis=2)).all()


def ways(architecture: str) -> list[str]:
    if architecture in BOTH_WAYS:
        return [MASKED, ONE_LENGTH]
    return [PADDED, ONE_LENGTH] + [PREFIX_TREE] * (architecture not in WITHOUT_TREE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("site", SITES)
def test_every_site_and_position_is_that_of_the_text_alone(
    architecture: str, site: str, loaded: Callable[..., LoadedModel]
) -> None:
    model, data = loaded(architecture), dataset(CORPORA["instructions within instructions"])
    if site in WITHOUT_SITES.get(architecture, ()):
        with pytest.raises(UserError, match=site):
            model.site(site)
        return
    for position, expected in expected_states(model, site, data).items():
        assert expected.shape[1] == len(model.blocks) + (site == "residual")
        for way in ways(architecture):
            budget = 7 if way == PREFIX_TREE else 60
            options = {"site": site, "position": position}
            assert_same(states_in_way(model, data, way, budget, **options), expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("corpus", CORPORA)
def test_every_shape_of_shared_beginnings_gives_the_states_of_the_texts_alone(
    architecture: str, corpus: str, loaded: Callable[..., LoadedModel]
) -> None:
    # Where a tree is cut does not depend on the model, but its masks and its cache do.
    thorough = architecture in ("llama", "gpt_oss")
    for bos in (True, False) if thorough else (True,):
        model, data = loaded(architecture, bos), dataset(CORPORA[corpus])
        expected = expected_states(model, "residual", data)
        for way in ways(architecture):
            for budget in (1, 5, 16, None) if thorough else (5, None):
                for position in ("last", "mean"):
                    states = states_in_way(model, data, way, budget, position=position)
                    assert_same(states, expected[position])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("corpus", CORPORA)
def test_several_positions_of_one_pass_are_those_of_the_texts_alone(
    architecture: str, corpus: str, loaded: Callable[..., LoadedModel]
) -> None:
    model, data = loaded(architecture), dataset(CORPORA[corpus])
    expected = expected_states(model, "residual", data)
    expected["token:0"] = expected["first"]
    expected["first:word"] = expected["mean:word"] = expected["span:word"]  # A word is a token.
    alone = Extractor(ModelConfig(id="unused"), ExtractConfig(position="last"))
    n_tokens = alone.tokens(data, model.tokenizer, model.module).n_unique_tokens
    for way in ways(architecture):
        for budget in (3, None):
            states, plan = positions_in_way(model, data, way, budget, position=tuple(expected))
            for column, position in enumerate(expected):
                assert_same(states[:, column], expected[position])
            assert way != PREFIX_TREE or budget or plan.cost.tokens >= n_tokens
            if way == PREFIX_TREE and len(plan.strands) == 1:
                assert plan.cost.tokens == n_tokens


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_token_has_the_state_that_it_has_in_the_text_alone(
    architecture: str, loaded: Callable[..., LoadedModel]
) -> None:
    model, data = loaded(architecture), dataset(CORPORA["instructions within instructions"])
    positions = ("mean", "tokens", "last")
    one = Extractor(ModelConfig(id=architecture), ExtractConfig(position=positions, layers=(0, 3)))
    one._loaded.model = model
    activations = one.extract(data, cache=False)
    expected = [
        plain_states(model, "residual", text)[[0, 3], -len(text.split()) :] for text in data.texts
    ]
    every = activations.at("tokens")
    assert every.n_tokens is not None
    assert every.n_tokens.tolist() == [len(text.split()) for text in data.texts]
    states = np.stack([every.layer(0), every.layer(3)], axis=1)
    assert_same(states, np.concatenate(expected, axis=1).transpose(1, 0, 2))
    last = activations.at("last").layer(3)
    np.testing.assert_array_equal(last, every.layer(3)[every.n_tokens.cumsum() - 1])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_is_left_after_the_last_layer_that_is_read(
    architecture: str, loaded: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = loaded(architecture), dataset(CORPORA["instructions within instructions"])
    one = Extractor(ModelConfig(id=architecture), ExtractConfig(layers=(1, 2), position="mean"))
    one._loaded.model = model
    monkeypatch.setattr(model.blocks[2], "forward", None)
    activations = one.extract(data, cache=False)
    monkeypatch.undo()
    assert activations.layers == [1, 2]
    assert activations.facts["layers"] == len(model.blocks)
    assert activations.facts["way"] == ways(architecture)[0 if architecture in WITHOUT_TREE else -1]
    expected = expected_states(model, "residual", data)["mean"][:, 1:3]
    assert_same(np.stack([activations.layer(i) for i in (1, 2)], axis=1), expected)
    with pytest.raises(UserError, match="no layer 0: these are layers 1 to 2"):
        activations.layer(0)


@pytest.mark.parametrize(
    ("architecture", "site"),
    [*((name, "residual") for name in ARCHITECTURES),
     *((name, site) for name in ("gemma3", "opt", "bert") for site in SITES[1:])],
)  # fmt: skip
def test_the_last_block_need_not_run_at_tokens_that_are_not_read(
    architecture: str,
    site: str,
    loaded: Callable[..., LoadedModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, data = loaded(architecture), dataset(CORPORA["instructions within instructions"])
    parts, expected = find_position_wise(model, 2), expected_states(model, site, data)
    run: list[int] = []
    forward = parts[-1].forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        run.append(block_input(args, kwargs).numel())
        return forward(*args, **kwargs)

    monkeypatch.setattr(parts[-1], "forward", counted)
    for way in ways(architecture):
        sizes = []
        for position, some in (("last", ()), ("last", parts), ("mean", parts)):
            run.clear()
            options = {"position": position, "site": site, "layers": (1, 2), "parts": some}
            states, _ = positions_in_way(model, data, way, 30, **options)
            sizes.append(sum(run))
            assert_same(states[:, 0], expected[position][:, -3:-1])
        # What stands after the site is not run at all.
        assert sizes[1] < min(sizes[0], sizes[2]) or sizes == [0, 0, 0]


@pytest.mark.parametrize(
    ("module", "reads"), [("mlp.down_proj", "output"), ("mlp", "input"), ("mlp", "output")]
)
def test_what_is_read_inside_of_a_part_is_read_of_all_tokens(
    module: str, reads: Literal["input", "output"], loaded: Callable[..., LoadedModel]
) -> None:
    model, data = loaded("llama"), dataset(CORPORA["instructions within instructions"])
    parts = find_position_wise(model, 2)
    assert model.blocks[1].mlp in parts
    sites.site("inside", reads=reads)(lambda m: [block.get_submodule(module) for block in m.blocks])
    try:
        for way in ways("llama"):
            some, every = (
                positions_in_way(
                    model, data, way, 30, site="inside", position="last", layers=(1, 2), parts=few
                )[0]
                for few in (parts, ())
            )
            np.testing.assert_allclose(some, every, rtol=1e-5, atol=1e-6)
    finally:
        sites.SITES.remove("inside")


def test_every_node_of_a_block_sees_itself_also_those_that_fill_it_up() -> None:
    """In float16 the states of one that sees nothing are NaN, and then those of its block."""
    tree = build_tree([(4, 5, 6, 8), (4, 7)], [(3,), (1,)])
    blocks = _Blocks.of(tree, range(len(tree)), 3, 0, torch.device("cpu"))
    assert blocks.token.numel() > len(tree)
    size = blocks.shape[1]
    own = blocks.seen[:, :, blocks.n_above :]
    assert own[:, torch.arange(size), torch.arange(size)].all()


def test_a_part_that_other_tokens_look_at_is_run_at_all_of_them(
    loaded: Callable[..., LoadedModel],
) -> None:
    model = loaded("llama")
    one = Extractor(ModelConfig(id="unused"), ExtractConfig(layers=(1, 2)))
    data = dataset(CORPORA["one instruction"])
    texts = one.tokens(data, model.tokenizer, model.module)
    for part, stays in ((model.blocks[1].self_attn.k_proj, False), (model.blocks[1].mlp, True)):
        capture = Capture(model, "residual", (1, 2))
        capture.position_wise = [part]
        with capture:
            Sample(texts, capture)
        assert bool(capture.position_wise) == stays


def test_a_last_block_that_is_wrong_is_noticed_whatever_the_layers_before_it(
    loaded: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, compared = loaded("llama"), list[float]()
    one = Extractor(ModelConfig(id="unused"))
    texts = one.tokens(dataset(CORPORA["one instruction"]), model.tokenizer, model.module)

    def counted(*states: torch.Tensor) -> float:
        compared.append(relative_difference(*states))
        return compared[-1]

    monkeypatch.setattr(runner, "relative_difference", counted)
    for _ in range(2):
        capture = Capture(model, "residual")
        capture.position_wise = [model.blocks[2].self_attn.k_proj]
        with capture:
            Sample(texts, capture)
        assert not capture.position_wise
        # Allow two thirds of what the last block alone differs by.
        allowed = 2 / 3 * compared[-1] / runner.SLACK
        monkeypatch.setitem(runner.ROUNDING, torch.float32, allowed)


class Twice(nn.Module):
    """Has two parts of which each alone, and not both, can be left out at other tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one = nn.Linear(width, width)
        self.other = deepcopy(self.one)

    def forward(self, states: torch.Tensor, **_: object) -> torch.Tensor:
        largest = torch.maximum(self.one(states), self.other(states))
        return states + largest.amax(dim=1, keepdim=True)


def test_parts_that_can_be_left_out_alone_and_not_together_are_run(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As all are of a block that does not run in float32."""
    model = load_model(ModelConfig(id=str(tiny_model("llama")), dtype="float32"))
    assert find_position_wise(model, 2)
    with monkeypatch.context() as patch:
        patch.setitem(model.blocks[1].mlp._forward_pre_hooks, 0, lambda *_: {}[None])
        assert find_position_wise(model, 2) == []
    model.module.layers[1] = Twice(model.hidden_size)
    model = replace(model, blocks=list(model.module.layers))
    assert find_position_wise(model, 2) == []


def test_a_whole_extraction_leaves_out_what_nobody_reads(
    loaded: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is large enough, and never of a model that others may have hooked."""
    data = dataset(CORPORA["one instruction"])
    captures: list[Capture] = []
    enter = Capture.__enter__
    monkeypatch.setattr(Capture, "__enter__", lambda c: captures.append(c) or enter(c))
    for few, in_memory in ((0, None), (0, object()), (10**6, None)):
        monkeypatch.setattr(extraction, "FEW_UNREAD", few)
        one = Extractor(ModelConfig(id="llama"), ExtractConfig(layers=(1, 2)))
        one._loaded.model, one._loaded.in_memory = loaded("llama"), in_memory
        activations = one.extract(data, cache=False)
        assert bool(captures[-1].position_wise) == (few == 0 and in_memory is None)
        expected = expected_states(one.model, "residual", data)["last"][:, 1:3]
        assert_same(np.stack([activations.layer(i) for i in (1, 2)], axis=1), expected)


@pytest.mark.parametrize("site", SITES)
def test_in_bfloat16_the_tree_rounds_as_a_text_alone_does(
    site: str, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Also where large biases make large scores, of which bfloat16 has two digits."""
    folder = tiny_model("qwen2")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = AutoModel.from_pretrained(folder, dtype=torch.bfloat16)
        with torch.no_grad():
            for block in module.layers:
                for projection in (block.self_attn.q_proj, block.self_attn.k_proj):
                    projection.bias.normal_(std=8)
    module.save_pretrained(tmp_path)
    model = load_model(
        ModelConfig(id=str(tmp_path), tokenizer=str(folder), dtype="bfloat16", device="cpu")
    )
    ids = np.random.default_rng(0).integers(4, 40, size=(40, 12))
    ids[:, :6] = ids[0, :6]
    texts = TokenisedTexts(ids.tolist(), [[(i,) for i in range(6, 12)]] * 40)
    one = Extractor(ModelConfig(id="unused"))
    plan = replace(one.planner(texts, model).plan(PREFIX_TREE), block=16)
    with Capture(model, site) as capture:
        tree = make_runner(plan, capture, Budget(plan.budget))
        alone = PaddedBatches(capture, Budget(1), masked=False)
        tree.prepare()
        states = torch.cat([tree(plan.texts[s.start : s.stop]).result() for s in plan.strands], 1)
        single = torch.cat([alone([text]).result() for text in plan.texts], dim=1)
        with in_float32():
            exact = torch.cat([alone([text]).result() for text in plan.texts], dim=1)
    assert exact.dtype == torch.float32

    def error(states: torch.Tensor) -> float:
        return float(((states.float() - exact).norm(dim=2) / exact.norm(dim=2)).mean())

    assert error(single) > 1e-3
    assert error(states) < 1.1 * error(single)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_extraction_takes_a_way_that_is_right_for_the_model(
    architecture: str, loaded: Callable[..., LoadedModel]
) -> None:
    data = dataset(CORPORA["one instruction"])
    one = Extractor(ModelConfig(id=architecture))
    one._loaded.model = loaded(architecture)
    activations = one.extract(data, cache=False)
    assert activations.facts["way"] == ways(architecture)[0 if architecture in WITHOUT_TREE else -1]
    assert activations.facts["check"] < 1e-5
    states = np.stack([activations.layer(i) for i in activations.layers], axis=1)
    assert_same(states, expected_states(one.model, "residual", data)["last"])


@st.composite
def texts_with_places(draw: st.DrawFn) -> TokenisedTexts:
    """Texts of few words, which share much; of each, means over any of its tokens."""
    tokens = st.integers(4, 6)
    ids = draw(st.lists(st.lists(tokens, min_size=1, max_size=9), min_size=1, max_size=9))
    shared = draw(st.lists(tokens, max_size=4))
    ids = [shared + text for text in ids]
    places = [
        [tuple(sorted(draw(st.sets(st.integers(0, len(text) - 1), min_size=1)))) for _ in range(2)]
        for text in ids
    ]
    return TokenisedTexts(ids, places)


@settings(max_examples=80, deadline=None)
@given(texts=texts_with_places(), budget=st.integers(1, 9))
def test_a_mean_over_any_tokens_is_that_of_the_text_alone(
    texts: TokenisedTexts, budget: int, loaded: Callable[..., LoadedModel]
) -> None:
    model = loaded("llama")
    one = Extractor(ModelConfig(id="unused"), ExtractConfig(batch_tokens=budget))
    plan = replace(one.planner(texts, model).plan(PREFIX_TREE), block=3)
    with Capture(model, "residual") as capture:
        tree = make_runner(plan, capture, Budget(budget))
        alone = PaddedBatches(capture, Budget(1), masked=False)
        tree.prepare()
        parts = [tree(plan.texts[s.start : s.stop]).result() for s in plan.strands]
        states = torch.cat(parts, dim=1)
        for rows, tokens, places in zip(plan.row_of, texts.ids, texts.places, strict=True):
            expected = alone([Text(tuple(tokens), tuple(places))]).result()
            torch.testing.assert_close(states[:, rows], expected, rtol=1e-4, atol=1e-5)
