"""The ways of running a set of texts: planned, made, and checked against each text alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
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
from llmprobe.extraction.prefix_tree import MOST_MULTIPLIED, PrefixTree, multiplied
from llmprobe.extraction.tokens import Reading, Text, TokenisedTexts
from llmprobe.extraction.tree import common
from llmprobe.extraction.workers import Workers

log = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 0.06, torch.float16: 0.01}
"""Relative difference to a text run alone that rounding explains, at whatever site."""

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
        longest = max(len(text.tokens) for text in plan.texts)
        multiply = longest <= MOST_MULTIPLIED and multiplied(capture.model)
        prefix = plan.texts[0].tokens[: plan.prefix]
        return PrefixTree(capture, reading, budget, prefix, multiply)
    return PaddedBatches(capture, reading, budget, masked=plan.way == MASKED)


def checked(planner: Planner, capture: Capture, reading: Reading) -> tuple[str, float]:
    """The first way that agrees with running texts alone, and how far it is from that.

    It is tried on a few texts of this extraction: short, long, and with a beginning in common.
    """
    sample = Sample(planner.texts, capture, reading)
    way, difference = ONE_LENGTH, math.nan
    for plan in planner.plans():
        way, difference = plan.way, sample.difference(plan)
        # A comparison with NaN is false, so states that are not finite pass on to their own error.
        if not difference > TOLERANCE[capture.model.dtype]:
            break
        log.warning(
            "%s: %s: differs by %.1e from a text run alone; %s",
            capture.model.name, way, difference,
            "trying another way" if way != ONE_LENGTH else "its states depend on their batch",
        )  # fmt: skip
    return way, difference


class Sample:
    """A few texts of an extraction with their states run alone, whole and unmasked."""

    def __init__(self, texts: TokenisedTexts, capture: Capture, reading: Reading) -> None:
        self.capture, self.reading = capture, reading
        wanted = texts.texts(cut=False)
        self.chosen = _chosen(wanted)
        # Of several, the last one in the tree, which has most before it.
        self.longest = max(self.chosen, key=lambda i: (len(wanted[i].tokens), wanted[i]))
        alone = PaddedBatches(capture, reading, Budget(1), masked=False)
        with Workers(capture.model, len(self.chosen)) as workers:
            tasks = [workers.submit(alone, [wanted[i]]) for i in self.chosen]
            self.states = torch.cat([task.result().result() for task in tasks], dim=1).float()

    def difference(self, plan: Plan) -> float:
        """How far the texts' states, run in the way of a plan, are from those."""
        rows = [plan.row_of[i] for i in self.chosen]
        longest = max(len(plan.texts[row].tokens) for row in rows)
        # Of padded batches, the shortest text beside the longest.
        extremes = [min(rows, key=lambda row: len(plan.texts[row].tokens)),
                    plan.row_of[self.longest]]  # fmt: skip
        trials = {Budget(longest * 2): extremes}
        if plan.way == PREFIX_TREE:
            # Small slices, so that paths go from one to the next; and a whole one, since what is
            # wrong may be so in a large one only. The longest text stands at its end.
            end = plan.row_of[self.longest]
            whole = list(range(_slice_start(plan, end), end + 1))
            trials = {Budget(max(longest // 2, 1)): rows, Budget(plan.budget): whole}
        ways = {make_way(plan, self.capture, self.reading, b): r for b, r in trials.items()}
        try:
            with Workers(self.capture.model, len(ways)) as workers, next(iter(ways)).running():
                tasks = [workers.submit(self._difference, plan, *trial) for trial in ways.items()]
                return max(task.result() for task in tasks)
        except (TypeError, ValueError, IndexError, KeyError, AttributeError, RuntimeError) as error:
            log.info("%s does not run in a %s: %s", self.capture.model.name, plan.way, error)
            return math.inf

    def _difference(self, plan: Plan, way: Way, rows: Sequence[int]) -> float:
        """That of those of some rows that are in the sample."""
        ordered = sorted(set(rows))
        texts = [plan.texts[row] for row in ordered]
        # Texts of one length, which in a sample are few: each beside itself.
        batches = [[text, text] for text in texts] if plan.way == ONE_LENGTH else [texts]
        way.prepare()
        parts = [way(batch).result() for batch in batches]
        states = torch.cat([part[:, : len(texts) // len(batches)] for part in parts], dim=1)
        ours = [k for k, i in enumerate(self.chosen) if plan.row_of[i] in ordered]
        theirs = [ordered.index(plan.row_of[self.chosen[k]]) for k in ours]
        return relative_difference(states[:, theirs].float(), self.states[:, ours])


def _chosen(wanted: list[Text]) -> list[int]:
    """The shortest, the middle and the longest text, and the one that shares most with that."""
    by_length = sorted(range(len(wanted)), key=lambda i: (len(wanted[i].tokens), wanted[i]))
    longest = wanted[by_length[-1]]
    ordered = sorted(set(wanted))
    place = ordered.index(longest)
    beside = [ordered[i] for i in (place - 1, place + 1) if 0 <= i < len(ordered)]
    chosen = {by_length[0], by_length[len(by_length) // 2], by_length[-1]}
    if beside:
        nearest = max(beside, key=lambda text: common(text.tokens, longest.tokens))
        chosen.add(wanted.index(nearest))
    return sorted(chosen)


def _slice_start(plan: Plan, end: int) -> int:
    """The first of the rows before ``end`` that fit into one slice with it."""
    start, new = end, len(plan.texts[end].tokens) - plan.prefix
    while start > 0:
        a, b = plan.texts[start - 1].tokens, plan.texts[start].tokens
        new += len(a) - common(a, b)
        if new > plan.budget:
            break
        start -= 1
    return start


def relative_difference(states: Tensor, expected: Tensor) -> float:
    """|states - expected| / |expected|: the upper quartile over layers, of the worst text.

    A few layers can round badly; a wrong state is wrong from some layer on.
    """
    if states.shape != expected.shape:
        return math.inf
    smallest = torch.finfo(torch.float32).tiny
    relative = (states - expected).norm(dim=2) / expected.norm(dim=2).clamp_min(smallest)
    # NumPy's quantile of a column with a NaN is NaN.
    return float(np.quantile(relative.numpy(), 0.75, axis=0).max())
