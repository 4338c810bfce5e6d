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
"""Usual relative rounding of a text run alone, at any site. The self-check takes it where a model
cannot be compared with float32, and bounds what it measures by it."""
SLACK = 3.0
"""The most that a way of running texts may differ from a text alone, in units of what a text alone
rounds. Two ways that round equally and independently differ by 1.4 on average; of four texts that
share a beginning, and so its rounding, the worst was seen to differ by 1.8."""
SEVERAL_BLOCKS = 4
"""Blocks in the large slice of the tree that the self-check runs: more would show no more, and cost
as much as a tenth of a small extraction."""

Runner = PrefixTree | PaddedBatches


@dataclass(frozen=True)
class Planner:
    """The plans of some texts on a model, one for each way of running them."""

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

        First come the two for causal models, the cheaper one before the other; then those that are
        right for more models.
        """
        fast = [PREFIX_TREE] * (self.causal and self.tree) + [PADDED] * self.causal
        yield from sorted(map(self.plan, fast), key=lambda plan: plan.cost.seconds)
        yield self.plan(MASKED)
        yield self.plan(ONE_LENGTH)


def make_runner(plan: ExtractionPlan, capture: Capture, budget: Budget) -> Runner:
    """Return the runner of the strands of ``plan``."""
    if plan.way == PREFIX_TREE:
        prefix = plan.texts[0].tokens[: plan.prefix]
        read = {i for text in plan.texts for place in text.places for i in place if i < plan.prefix}
        return PrefixTree(capture, budget, prefix, read, plan.block)
    return PaddedBatches(capture, budget, masked=plan.way == MASKED)


def verified_plan(planner: Planner, capture: Capture) -> tuple[ExtractionPlan, float]:
    """Return the first plan that agrees with texts run alone, and how far it differs from them.

    Plans are tried on a few texts of this extraction: short, long, and with a beginning in common.
    The last plan, with texts of one length in a batch, is returned even if it does not agree.
    """
    sample = Sample(planner.texts, capture)
    name = capture.model.name
    for plan in planner.plans():
        difference = sample.difference(plan)
        # Comparisons with NaN are false: states that are not finite pass, and get their own error.
        if not difference > sample.allowed:
            break
        log.warning(
            "%s: %s: differs by %.1e from a text run alone, and %.1e can be rounding; %s", name,
            plan.way, difference, sample.allowed,
            "trying another way" if plan.way != ONE_LENGTH else "its states depend on their batch",
        )  # fmt: skip
    return plan, difference


class Sample:
    """A few texts of an extraction, and their states when each is run alone, whole and unmasked."""

    allowed: float
    """The most that a way of running texts may differ from those states: ``SLACK`` times what a
    text alone rounds, within bounds."""

    def __init__(self, texts: TokenisedTexts, capture: Capture) -> None:
        self.capture = capture
        wanted = texts.whole
        self.chosen = _choose(wanted)
        self.places = [wanted[i].places for i in self.chosen]
        # Of texts of that length, the last in the tree, which has most nodes before it.
        self.longest = max(self.chosen, key=lambda i: (len(wanted[i].tokens), wanted[i]))
        alone = PaddedBatches(capture, Budget(1), masked=False, whole=True)
        problem = f"model {capture.model.name!r} cannot be run on a text alone"
        with (
            foreign_errors(problem, out_of_memory),
            Workers(capture.model, len(self.chosen)) as workers,
        ):
            # One text in float32 shows how much this model rounds, and takes as long as all others.
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
        # The lower bound is for a text that rounds little by chance, the upper one for a model that
        # rounds so much that a wrong way would pass. In this order of the arguments NaN, of states
        # that are not finite, stays NaN, and they get their own error.
        self.allowed = min(max(SLACK * rounding, usual), 10 * usual)
        if capture.position_wise:
            # Only the last layer can be wrong, which the quartile over layers would hide.
            text, whole = wanted[self.longest], self.states[self.chosen.index(self.longest)]
            states = PaddedBatches(capture, Budget(1), masked=False)([text]).result().float()
            if relative_difference(states[-1:], whole[-1:]) > SLACK * usual:
                log.warning("%s: its last block is run at every token", capture.model.name)
                capture.position_wise.clear()

    def difference(self, plan: ExtractionPlan) -> float:
        """Return how far the sample's states by a plan differ from those of each text alone."""
        texts = [plan.text_of[i] for i in self.chosen]
        longest = max(len(plan.texts[text].tokens) for text in texts)
        end = plan.text_of[self.longest]
        # Padded batches are tried with the shortest text beside the longest.
        trials = {Budget(longest * 2): [min(texts, key=lambda t: len(plan.texts[t].tokens)), end]}
        if plan.way == PREFIX_TREE:
            # The tree is tried in small slices, between which paths are passed on; and in one of
            # several blocks, since some errors show only there. The longest text stands at its end.
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
        """Run the plan's texts with these numbers; return the difference of those in the sample."""
        ordered = sorted(set(numbers))
        texts = [plan.texts[number] for number in ordered]
        # Few texts of a sample have the same length, so each is run beside itself.
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

    None where the model is in float32 anyway, or cannot be run in it: quantised weights, for
    example, have their own matrix products.
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
    """Return the indices of the texts of the self-check.

    They are the shortest, the middle and the longest text, and the neighbour of the longest in
    sorted order that shares most with it.
    """
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
    """Return the first text from which on all texts up to ``end`` fit into ``size`` nodes."""
    start, new = end, len(plan.texts[end].tokens) - plan.prefix
    while start > 0:
        a, b = plan.texts[start - 1].tokens, plan.texts[start].tokens
        new += len(a) - common(a, b)
        if new > size:
            break
        start -= 1
    return start


def relative_difference(states: Tensor, expected: Tensor) -> float:
    """Return |states - expected| / |expected|: its upper quartile over layers, of the worst row.

    A few layers can round badly; a wrong state is wrong from some layer on.
    """
    if states.shape != expected.shape:
        return math.inf
    smallest = torch.finfo(torch.float32).tiny
    relative = (states - expected).norm(dim=2) / expected.norm(dim=2).clamp_min(smallest)
    # NumPy's quantile of a column with a NaN is NaN.
    return float(np.quantile(relative.numpy(), 0.75, axis=0).max())
