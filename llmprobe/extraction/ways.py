"""The ways of running a set of texts: planned, made, and checked against each text alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from llmprobe.extraction.capture import Capture
from llmprobe.extraction.memory import Budget
from llmprobe.extraction.padded import PaddedBatches
from llmprobe.extraction.plan import (
    MASKED,
    ONE_LENGTH,
    PADDED,
    PREFIX_TREE,
    Machine,
    ModelShape,
    Plan,
    plan_padded,
    plan_tree,
)
from llmprobe.extraction.prefix_tree import PrefixTree
from llmprobe.extraction.tokens import Reading, Text, TokenisedTexts

log = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 0.06, torch.float16: 0.01}
"""Relative difference to texts run alone that rounding explains, at whatever site and layer."""

Way = PrefixTree | PaddedBatches


@dataclass(frozen=True)
class Planner:
    """Plans the ways that a model may run some texts in."""

    texts: TokenisedTexts
    shape: ModelShape
    machine: Machine
    budget: int | None
    """Most tokens of a forward pass; None lets each way choose."""
    causal: bool
    tree: bool
    """Whether the model takes what the tree gives it."""

    def plan(self, way: str) -> Plan:
        """The work, when it is done in this way."""
        if way == PREFIX_TREE:
            return plan_tree(self.texts, self.shape, self.machine, self.budget)
        return plan_padded(
            self.texts, self.shape, self.machine, self.budget,
            way=way, cut=way == PADDED, padding=way != ONE_LENGTH,
        )  # fmt: skip

    def plans(self) -> Iterator[Plan]:
        """The ways in the order in which to try them: of the two for causal models the cheaper one
        first, then those that are right for more and more models.
        """
        fast = [PREFIX_TREE] * (self.causal and self.tree) + [PADDED] * self.causal
        yield from sorted(map(self.plan, fast), key=lambda plan: plan.cost.seconds)
        yield self.plan(MASKED)
        yield self.plan(ONE_LENGTH)


def make_way(plan: Plan, capture: Capture, reading: Reading, budget: Budget) -> Way:
    """What runs the strands of ``plan``."""
    if plan.way == PREFIX_TREE:
        return PrefixTree(capture, reading, budget, plan.texts[0].tokens[: plan.prefix])
    return PaddedBatches(capture, reading, budget, masked=plan.way == MASKED)


def checked(planner: Planner, capture: Capture, reading: Reading) -> tuple[str, float]:
    """The first way that agrees with running texts alone, and the largest relative difference.

    It is tried on a few texts of this extraction: short, long, and with a beginning in common.
    """
    for plan in planner.plans():
        if plan.way == ONE_LENGTH:
            break
        difference = difference_in_way(plan, planner.texts, capture, reading)
        # A comparison with NaN is false, so states that are not finite pass on to their own error.
        if not difference > TOLERANCE[capture.model.dtype]:
            return plan.way, difference
        log.warning(
            "%s: %s: differs by %.1e from a text run alone; trying another way",
            capture.model.name, plan.way, difference,
        )  # fmt: skip
    return ONE_LENGTH, 0.0


def difference_in_way(
    plan: Plan, texts: TokenisedTexts, capture: Capture, reading: Reading
) -> float:
    """How far the states of a few texts, run in a way, are from those of each text alone."""
    wanted = texts.texts(cut=False)
    sample = _sample(wanted)
    alone = PaddedBatches(capture, reading, Budget(1), masked=False)
    expected = alone([wanted[i] for i in sample]).result().float()
    states = _sample_states(plan, [plan.texts[plan.row_of[i]] for i in sample], capture, reading)
    return relative_difference(states, expected)


def _sample(wanted: list[Text]) -> list[int]:
    """The shortest, the middle and the longest text, and the neighbour of the longest in the tree.

    -> their indices, as the tree sorts them
    """
    by_length = sorted(range(len(wanted)), key=lambda i: (len(wanted[i].tokens), wanted[i]))
    ordered = sorted(range(len(wanted)), key=lambda i: wanted[i])
    place = ordered.index(by_length[-1])
    neighbour = ordered[place - 1] if place else ordered[min(1, len(ordered) - 1)]
    chosen = {by_length[0], by_length[len(by_length) // 2], by_length[-1], neighbour}
    return [i for i in ordered if i in chosen]


def _sample_states(plan: Plan, texts: list[Text], capture: Capture, reading: Reading) -> Tensor:
    """States of some of a plan's texts in its way, or NaN where it does not run."""
    if plan.way != PREFIX_TREE:
        budget = Budget(sum(len(text.tokens) for text in texts) * len(texts))
        return make_way(plan, capture, reading, budget)(texts).result().float()
    # Small slices, so that paths go from one to the next.
    budget = Budget(max(plan.prefix, max(len(text.tokens) for text in texts) // 2, 1))
    try:
        way = make_way(plan, capture, reading, budget)
        way.prepare()
        ordered = sorted(set(texts))
        states = way(ordered).result().float()
    except (TypeError, ValueError, IndexError, KeyError, AttributeError, RuntimeError) as error:
        log.info("%s does not run as a prefix tree: %s", capture.model.name, error)
        return torch.full((1,), math.inf)
    return states[:, [ordered.index(text) for text in texts]]


def relative_difference(states: Tensor, expected: Tensor) -> float:
    """The largest over layers of |states - expected| / |expected|, all texts together."""
    if states.shape != expected.shape:
        return math.inf
    return float(((states - expected).norm(dim=(1, 2)) / expected.norm(dim=(1, 2))).max())
