"""A plan runs each distinct text once, within its budget, and is always the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmprobe.extraction import plan as planning
from llmprobe.extraction.plan import make_plan

TEXTS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=1, max_size=40)


@given(TEXTS, st.integers(1, 30), st.booleans(), st.integers(1, planning.SHARD_BYTES))
def test_every_text_has_the_row_of_its_tokens(
    texts: list[list[int]], budget: int, padding: bool, row_bytes: int
) -> None:
    plan = make_plan(texts, budget, row_bytes, padding)
    assert [plan.unique[row] for row in plan.row_of] == texts
    assert len(plan.unique) == len({tuple(t) for t in texts})
    rows = [row for shard in plan.shards for batch in shard for row in batch]
    assert rows == list(range(len(plan.unique)))


@given(TEXTS, st.integers(1, 30), st.booleans())
def test_batches_stay_within_the_budget_unless_a_text_alone_exceeds_it(
    texts: list[list[int]], budget: int, padding: bool
) -> None:
    plan = make_plan(texts, budget, 1, padding)
    for batch in plan.shards[0]:
        lengths = [len(plan.unique[row]) for row in batch]
        assert max(lengths) * len(batch) <= budget or len(batch) == 1
        assert padding or len(set(lengths)) == 1


@given(TEXTS, st.randoms())
def test_the_layout_does_not_depend_on_the_order_of_the_texts(
    texts: list[list[int]], random
) -> None:
    shuffled = list(texts)
    random.shuffle(shuffled)
    assert make_plan(texts, 20, 1).fingerprint == make_plan(shuffled, 20, 1).fingerprint


def test_shards_stay_within_their_size() -> None:
    texts = [[i] for i in range(10)]
    plan = make_plan(texts, 1, planning.SHARD_BYTES // 3)
    assert [len(shard) for shard in plan.shards] == [3, 3, 3, 1]
    assert plan.fingerprint != make_plan(texts, 1, 1).fingerprint
