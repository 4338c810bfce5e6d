"""The choice between the ways of running texts: the cheapest that agrees with each text alone."""

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
    ExtractionPlan,
    Machine,
    ModelShape,
    plan_padded,
    plan_tree,
)
from llmprobe.extraction.prefix_tree import PrefixTree
from llmprobe.extraction.tokens import Text, TokenisedTexts
from llmprobe.extraction.tree import common
from llmprobe.extraction.workers import Workers
from llmprobe.ground.errors import foreign_errors, out_of_memory
from llmprobe.models.private import in_float32

log = logging.getLogger(__name__)

ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 0.03, torch.float16: 0.005}
"""What a text alone rounds, relative, at whatever site: where that is not compared with float32."""
SLACK = 3.0
"""The most that a way of running texts may differ from each alone, in units of what one of them
alone rounds. Two ways that round equally and by chance differ by 1.4 on average; of four texts that
share a beginning, and with it the chance, the worst was seen to differ by 1.8."""
SEVERAL_BLOCKS = 4
"""Blocks of a slice of the tree that the self-check runs: more would show no more, and cost as much
as a tenth of a small extraction."""

Runner = PrefixTree | PaddedBatches


@dataclass(frozen=True)
class Planner:
    """Plans of some texts on a model, one for each way in which it may run them."""

    texts: TokenisedTexts
    shape: ModelShape
    machine: Machine
    budget: int | None
    """Most tokens of a forward pass; None lets each way choose."""
    causal: bool
    """Whether a state depends on nothing to its right."""
    tree: bool
    """Whether the model takes the prefix tree's input."""

    def plan(self, way: str) -> ExtractionPlan:
        """Return the plan of one way."""
        if way == PREFIX_TREE:
            return plan_tree(self.texts, self.shape, self.machine, self.budget)
        return plan_padded(
            self.texts, self.shape, self.machine, self.budget,
            way=way, cut=way == PADDED, padding=way != ONE_LENGTH,
        )  # fmt: skip

    def plans(self) -> Iterator[ExtractionPlan]:
        """Yield the plans in the order in which to try them.

        Of the two for causal models the cheaper one is first, then come those that are right for
        more and more models.
        """
        fast = [PREFIX_TREE] * (self.causal and self.tree) + [PADDED] * self.causal
        yield from sorted(map(self.plan, fast), key=lambda plan: plan.cost.seconds)
        yield self.plan(MASKED)
        yield self.plan(ONE_LENGTH)


def make_runner(plan: ExtractionPlan, capture: Capture, budget: Budget) -> Runner:
    """Return what runs the strands of ``plan``."""
    if plan.way == PREFIX_TREE:
        prefix = plan.texts[0].tokens[: plan.prefix]
        read = {i for text in plan.texts for place in text.places for i in place if i < plan.prefix}
        return PrefixTree(capture, budget, prefix, read, plan.block)
    return PaddedBatches(capture, budget, masked=plan.way == MASKED)


def verified_plan(planner: Planner, capture: Capture) -> tuple[ExtractionPlan, float]:
    """Return the first plan that agrees with running texts alone, and how far it is from that.

    It is tried on a few texts of this extraction: short, long, and with a beginning in common. The
    last plan, of texts of one length together, is returned even if it does not agree.
    """
    sample = Sample(planner.texts, capture)
    name = capture.model.name
    for plan in planner.plans():
        difference = sample.difference(plan)
        # A comparison with NaN is false, so states that are not finite pass on to their own error.
        if not difference > sample.allowed:
            break
        log.warning(
            "%s: %s: differs by %.1e from a text run alone, and %.1e can be rounding; %s", name,
            plan.way, difference, sample.allowed,
            "trying another way" if plan.way != ONE_LENGTH else "its states depend on their batch",
        )  # fmt: skip
    return plan, difference


class Sample:
    """A few texts of an extraction with their states run alone, whole and unmasked."""

    allowed: float
    """How far from those a way of running texts may be: as far as rounding takes a text alone from
    its states in float32."""

    def __init__(self, texts: TokenisedTexts, capture: Capture) -> None:
        self.capture = capture
        wanted = texts.whole
        self.chosen = _choose(wanted)
        self.places = [wanted[i].places for i in self.chosen]
        # Of several, the last one in the tree, which has most before it.
        self.longest = max(self.chosen, key=lambda i: (len(wanted[i].tokens), wanted[i]))
        alone = PaddedBatches(capture, Budget(1), masked=False, whole=True)
        problem = f"model {capture.model.name!r} cannot be run on a text alone"
        with (
            foreign_errors(problem, out_of_memory),
            Workers(capture.model, len(self.chosen)) as workers,
        ):
            # One is enough to know how much this model rounds, and takes as long as all others.
            middle = _by_length(wanted)[len(wanted) // 2]
            exact = workers.submit(_in_float32, alone, wanted[middle])
            tasks = [workers.submit(alone, [wanted[i]]) for i in self.chosen]
            self.states = [task.result().result().float() for task in tasks]
        rounding = ROUNDING[capture.model.dtype]
        states = exact.result()
        if states is not None:
            own = self.states[self.chosen.index(middle)]
            rounding = relative_difference(own, states)
        usual = ROUNDING[capture.model.dtype]
        # One text may round little by chance, and a wrong way must not pass in a model that rounds
        # without bounds. NaN, in this order, where states are not finite: their own error tells.
        self.allowed = min(max(SLACK * rounding, usual), 10 * usual)
        if capture.position_wise:
            # One layer of many, which the quartile over layers would not see.
            text, whole = wanted[self.longest], self.states[self.chosen.index(self.longest)]
            states = PaddedBatches(capture, Budget(1), masked=False)([text]).result().float()
            if relative_difference(states[-1:], whole[-1:]) > SLACK * usual:
                log.warning("%s: its last block is run at every token", capture.model.name)
                capture.position_wise.clear()

    def difference(self, plan: ExtractionPlan) -> float:
        """Return how far the sample's states by a plan are from those of its texts alone."""
        texts = [plan.text_of[i] for i in self.chosen]
        longest = max(len(plan.texts[text].tokens) for text in texts)
        end = plan.text_of[self.longest]
        # Of padded batches, the shortest text beside the longest.
        trials = {Budget(longest * 2): [min(texts, key=lambda t: len(plan.texts[t].tokens)), end]}
        if plan.way == PREFIX_TREE:
            # Small slices, so that paths go from one to the next; and one of several blocks, since
            # what is wrong may be so beside others only. The longest text stands at its end.
            size = min(plan.budget, SEVERAL_BLOCKS * plan.block)
            large = list(range(_slice_start(plan, end, size), end + 1))
            trials = {Budget(max(longest // 2, 1)): texts, Budget(size): large}
        runners = {make_runner(plan, self.capture, b): texts for b, texts in trials.items()}
        try:
            with Workers(self.capture.model, len(runners)) as workers:
                tasks = [workers.submit(self._difference, plan, *t) for t in runners.items()]
                return max(task.result() for task in tasks)
        except (TypeError, ValueError, IndexError, KeyError, AttributeError, RuntimeError) as error:
            log.info("%s does not run in a %s: %s", self.capture.model.name, plan.way, error)
            return math.inf

    def _difference(self, plan: ExtractionPlan, runner: Runner, numbers: Sequence[int]) -> float:
        """Return the difference of those of some texts that are in the sample."""
        ordered = sorted(set(numbers))
        texts = [plan.texts[number] for number in ordered]
        # Texts of one length, which in a sample are few: each beside itself.
        batches = [[text, text] for text in texts] if plan.way == ONE_LENGTH else [texts]
        runner.prepare()
        parts = [runner(batch).result() for batch in batches]
        if plan.way == ONE_LENGTH:
            parts = [part[:, : len(text.places)] for part, text in zip(parts, texts, strict=True)]
        states = torch.cat(parts, dim=1).float()
        places = [(number, place) for number in ordered for place in plan.texts[number].places]
        row = {place: i for i, place in enumerate(places)}
        ours, theirs = [], []
        for i, own, alone in zip(self.chosen, self.places, self.states, strict=True):
            if plan.text_of[i] in ordered:
                ours.append(states[:, [row[plan.text_of[i], place] for place in own]])
                theirs.append(alone)
        return relative_difference(torch.cat(ours, dim=1), torch.cat(theirs, dim=1))


def _in_float32(alone: PaddedBatches, text: Text) -> Tensor | None:
    """Return a text's states, [layers, rows, d], computed in float32 with the same weights.

    None where they are computed in that anyway, or where it is not possible: quantised weights, for
    one, have products of their own.
    """
    model = alone.capture.model
    if model.dtype == torch.float32 or model.quantised:
        return None
    try:
        with in_float32():
            return alone([text]).result()
    except (TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        log.info("%s does not run in float32: %s", model.name, error)
        return None


def _by_length(wanted: list[Text]) -> list[int]:
    return sorted(range(len(wanted)), key=lambda i: (len(wanted[i].tokens), wanted[i]))


def _choose(wanted: list[Text]) -> list[int]:
    """Return the shortest, middle and longest text, and the one that shares most with that."""
    by_length = _by_length(wanted)
    longest = wanted[by_length[-1]]
    ordered = sorted(set(wanted))
    place = ordered.index(longest)
    beside = [ordered[i] for i in (place - 1, place + 1) if 0 <= i < len(ordered)]
    chosen = {by_length[0], by_length[len(by_length) // 2], by_length[-1]}
    if beside:
        nearest = max(beside, key=lambda text: common(text.tokens, longest.tokens))
        chosen.add(wanted.index(nearest))
    return sorted(chosen)


def _slice_start(plan: ExtractionPlan, end: int, size: int) -> int:
    """Return the first of the rows before ``end`` that fit into a slice of ``size`` with it."""
    start, new = end, len(plan.texts[end].tokens) - plan.prefix
    while start > 0:
        a, b = plan.texts[start - 1].tokens, plan.texts[start].tokens
        new += len(a) - common(a, b)
        if new > size:
            break
        start -= 1
    return start


def relative_difference(states: Tensor, expected: Tensor) -> float:
    """Return |states - expected| / |expected|: the upper quartile over layers, of the worst text.

    A few layers can round badly; a wrong state is wrong from some layer on.
    """
    if states.shape != expected.shape:
        return math.inf
    smallest = torch.finfo(torch.float32).tiny
    relative = (states - expected).norm(dim=2) / expected.norm(dim=2).clamp_min(smallest)
    # NumPy's quantile of a column with a NaN is NaN.
    return float(np.quantile(relative.numpy(), 0.75, axis=0).max())
