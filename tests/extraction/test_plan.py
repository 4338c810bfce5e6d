"""A plan runs each distinct text once, within its budget, and is always the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprobe.extraction import plan as planning
from llmprobe.extraction.plan import (
    CPU,
    GPU,
    MASKED,
    ONE_LENGTH,
    PADDED,
    PREFIX_TREE,
    ExtractionPlan,
    ModelShape,
    plan_padded,
    plan_tree,
)
from llmprobe.extraction.runner import Planner
from llmprobe.extraction.tokens import Place, TokenisedTexts

SHAPE = ModelShape(
    weights=10**8, weight_bytes=2 * 10**8, pair=4 * 576 * 30, blocks=30, row_bytes=35_712,
    itemsize=2,
)  # fmt: skip
IDS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=1, max_size=40)
WAYS = st.sampled_from([PREFIX_TREE, PADDED, MASKED, ONE_LENGTH])


def tokenised(ids: list[list[int]], places: list[list[Place]] | None = None) -> TokenisedTexts:
    return TokenisedTexts(ids, places or [[(len(tokens) - 1,)] for tokens in ids])


def planner(texts: TokenisedTexts, budget: int | None = None, **options: bool) -> Planner:
    return Planner(texts, SHAPE, CPU, budget, **({"causal": True, "tree": True} | options))


def tokens_of_strand(plan: ExtractionPlan, strand: range) -> list[int]:
    return [len(plan.texts[row].tokens) for row in strand]


@given(IDS, WAYS, st.integers(1, 30), st.data())
def test_every_text_has_the_row_of_what_is_read_of_it(
    ids: list[list[int]], way: str, budget: int, data: st.DataObject
) -> None:
    places = [
        [
            tuple(sorted(data.draw(st.sets(st.integers(0, len(t) - 1), min_size=1))))
            for _ in range(2)
        ]
        for t in ids
    ]
    plan = planner(tokenised(ids, places), budget).plan(way)
    of_row = [(text, place) for text in plan.texts for place in text.places]
    assert len(of_row) == len(set(of_row)) == plan.first_row[-1]
    for tokens, own, rows in zip(ids, places, plan.row_of, strict=True):
        for place, row in zip(own, rows, strict=True):
            text, read = of_row[row]
            assert read == place
            end = len(text.tokens)
            assert text.tokens == tuple(tokens[:end])
            assert end > place[-1]
            assert end == len(tokens) or way in (PREFIX_TREE, PADDED)
    assert len(plan.texts) == len({text.tokens for text in plan.texts})
    texts = [text for strand in plan.strands for text in strand]
    assert texts == list(range(len(plan.texts)))
    strands = [strand for shard in plan.shards for strand in shard]
    assert strands == list(range(len(plan.strands)))


@given(IDS, WAYS, st.integers(1, 30))
def test_batches_stay_within_the_budget_unless_a_text_alone_exceeds_it(
    ids: list[list[int]], way: str, budget: int
) -> None:
    if way == PREFIX_TREE:
        return
    plan = planner(tokenised(ids), budget).plan(way)
    for strand in plan.strands:
        lengths = tokens_of_strand(plan, strand)
        assert max(lengths) * len(strand) <= budget or len(strand) == 1
        assert way != ONE_LENGTH or len(set(lengths)) == 1


@given(IDS, WAYS, st.randoms())
def test_the_layout_does_not_depend_on_the_order_of_the_texts(
    ids: list[list[int]], way: str, random
) -> None:
    shuffled = list(ids)
    random.shuffle(shuffled)
    plans = [planner(tokenised(texts), 20).plan(way) for texts in (ids, shuffled)]
    assert plans[0].fingerprint == plans[1].fingerprint


def test_another_layout_has_another_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [[i, j] for i in range(40) for j in range(40)]
    first = plan_tree(tokenised(ids), SHAPE, CPU)
    assert first.fingerprint != plan_padded(tokenised(ids), SHAPE, CPU).fingerprint
    assert first.fingerprint == plan_tree(tokenised(ids), SHAPE, CPU, 7).fingerprint
    monkeypatch.setattr(planning, "LEAST_SHARDS", 3)
    assert first.fingerprint != plan_tree(tokenised(ids), SHAPE, CPU).fingerprint


@pytest.mark.parametrize("machine", [CPU, GPU])
@pytest.mark.parametrize("plan_of", [plan_tree, plan_padded])
def test_shards_stay_within_their_size_and_their_time(plan_of, machine) -> None:
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 50, size=20).tolist() for _ in range(40_000)]
    plan = plan_of(tokenised(ids), SHAPE, machine)
    rows = [plan.rows(i) for i in range(len(plan.shards))]
    assert max(map(len, rows)) * SHAPE.row_bytes <= planning.SHARD_BYTES
    assert sum(map(len, rows)) == len(plan.texts)
    work = plan.cost.seconds * max(map(len, rows)) / len(plan.texts)
    assert work < 1.2 * machine.shard_seconds
    assert len(rows) < 2.2 * max(
        len(plan.texts) * SHAPE.row_bytes / planning.SHARD_BYTES,
        plan.cost.seconds / machine.shard_seconds,
    )


def test_a_small_extraction_has_shards_to_share_and_a_tiny_one_does_not() -> None:
    ids = [[i, j] for i in range(30) for j in range(50)]
    assert len(plan_tree(tokenised(ids), SHAPE, CPU).shards) >= 4
    assert len(plan_tree(tokenised(ids[:200]), SHAPE, CPU).shards) == 1


def test_strands_are_cut_where_texts_share_little() -> None:
    """Ten beginnings of 100 tokens with 30 ends each: no strand repeats a beginning."""
    beginnings = [[i] * 100 for i in range(10)]
    ids = [[*beginning, 50 + i, 90] for beginning in beginnings for i in range(30)]
    plan = plan_tree(tokenised(ids), SHAPE, CPU)
    assert len(plan.strands) > 1
    assert plan.cost.tokens == tokenised(ids).n_unique_tokens


def test_what_all_texts_begin_with_is_the_prefix_but_never_a_whole_text() -> None:
    def prefix(*ids: list[int]) -> int:
        return plan_tree(tokenised(list(ids)), SHAPE, CPU).prefix

    assert prefix([1, 2, 3], [1, 2, 4, 5]) == 2
    assert prefix([1, 2], [1, 2, 4, 5]) == 1
    assert prefix([1, 2, 3]) == 2
    assert prefix([1], [2]) == 0


def test_the_tree_is_first_where_texts_share_and_padding_where_they_do_not() -> None:
    rng = np.random.default_rng(0)
    ends = [rng.integers(0, 1000, size=30).tolist() for _ in range(300)]
    preamble = rng.integers(0, 1000, size=100).tolist()
    shared = planner(tokenised([[*preamble, *end] for end in ends]))
    assert [plan.way for plan in shared.plans()] == [PREFIX_TREE, PADDED, MASKED, ONE_LENGTH]
    apart = planner(tokenised([rng.integers(0, 1000, size=200).tolist() for _ in range(300)]))
    assert [plan.way for plan in apart.plans()] == [PADDED, PREFIX_TREE, MASKED, ONE_LENGTH]


@pytest.mark.parametrize(
    ("causal", "tree", "ways"),
    [(True, False, [PADDED, MASKED, ONE_LENGTH]), (False, True, [MASKED, ONE_LENGTH])],
)
def test_ways_that_a_model_cannot_take_are_not_planned(
    causal: bool, tree: bool, ways: list[str]
) -> None:
    plans = planner(tokenised([[1, 2], [1, 3]]), causal=causal, tree=tree).plans()
    assert [plan.way for plan in plans] == ways


def test_blocks_grow_with_the_path_that_each_copies() -> None:
    rng = np.random.default_rng(0)
    preamble = rng.integers(0, 99, size=4000).tolist()

    def block(preamble: list[int]) -> int:
        texts = [[*preamble, *rng.integers(0, 99, size=20).tolist()] for _ in range(500)]
        return plan_tree(tokenised(texts), SHAPE, CPU).block

    assert block(preamble) > block(preamble[:200]) >= block([])


def test_what_strands_repeat_is_counted_and_little() -> None:
    """Two beginnings of 1,000 tokens: strands are long beside them, or cut between them."""
    rng = np.random.default_rng(0)
    preambles = [rng.integers(0, 99, size=1000).tolist() for _ in range(2)]
    ids = [[*preambles[i % 2], *rng.integers(0, 99, size=10).tolist()] for i in range(2000)]
    texts = tokenised(ids)
    plan = plan_tree(texts, SHAPE, CPU)
    starts = [plan.texts[strand.start].tokens for strand in plan.strands]
    ends = [plan.texts[strand.start - 1].tokens for strand in plan.strands[1:]]
    repeated = sum(
        next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
        for a, b in zip(starts[1:], ends, strict=True)
    )
    assert plan.cost.tokens == texts.n_unique_tokens + repeated
    assert repeated < 0.4 * texts.n_unique_tokens
