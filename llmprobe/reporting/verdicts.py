"""Whether to believe a curve: what its baselines, controls and dataset say against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any, Literal

from llmprobe.results.curve import SURE, Curve

Level = Literal["holds", "doubt", "chance", "unknown"]
NO_RISE = 0.03
"""What a baseline without any signal may be above chance by luck."""
FAR_BELOW = 0.05
FEW_GROUPS = 50
"""Independent examples below which one draw of them is much unlike another."""


@dataclass(frozen=True)
class Verdict:
    """What to think of the best layer of one model on one dataset."""

    level: Level
    """``holds``: nothing speaks against it. ``doubt``: something does. ``chance``: it is not above
    chance. ``unknown``: it was not scored."""
    against: tuple[str, ...]
    """What speaks against it, a sentence each."""
    reasons: tuple[str, ...]
    """What speaks for it, and what was not looked at."""

    @property
    def title(self) -> str:
        """In a word or three."""
        return {
            "holds": "holds up",
            "doubt": "be careful",
            "chance": "not above chance",
            "unknown": "not scored",
        }[self.level]


def verdict(curve: Curve, findings: Sequence[Mapping[str, Any]]) -> Verdict:
    """Weigh one curve.

    Parameters
    ----------
    curve
        One model on one dataset.
    findings
        Of the dataset's checks: ``level`` and ``message``.
    """
    if curve.layer is None or isnan(curve.score):
        return Verdict("unknown", (), ())
    numbers = curve.metric.target == "numbers"
    warnings = [
        str(finding["message"])
        for finding in findings
        # Of labels that are probed as numbers, too many classes are no fault.
        if finding.get("level") == "warning" and not (numbers and finding.get("check") == "classes")
    ]
    against = [
        *_words(curve), *_untrained(curve), *_below_chance(curve), *_few(curve),
        *(f"In the dataset, {message}." for message in warnings),
    ]  # fmt: skip
    reasons = tuple(_for(curve))
    if not curve.above_chance:
        return Verdict("chance", tuple(against), reasons)
    return Verdict("doubt" if against else "holds", tuple(against), reasons)


def _words(curve: Curve) -> Iterator[str]:
    yield from _surface(curve, "A bag of words", curve.bag_of_words, "the texts’ surface")


def _untrained(curve: Curve) -> Iterator[str]:
    meaning = "the tokens, not what training made of them"
    yield from _surface(curve, "The untrained network", curve.random_weights, meaning)


def _surface(curve: Curve, name: str, reached: float, meaning: str) -> Iterator[str]:
    """Yield a sentence where a baseline reaches as much without the model, or its training."""
    if isnan(reached) or not curve.above_chance:
        return
    chance = curve.chance()
    rise = curve.score - chance
    if reached - chance <= max(NO_RISE, rise / 4):
        return  # An interval that reaches down to chance says that examples are few.
    least = curve.score if isnan(curve.low) else curve.low
    if reached >= least:
        yield f"{name} reaches {reached:.2f}: this curve may be {meaning}."
    elif reached - chance > rise / 2:
        yield f"{name} reaches {reached:.2f}: more than half of the rise may be {meaning}."


def _below_chance(curve: Curve) -> Iterator[str]:
    """Yield a sentence where layers are far below chance: the sign of what a split tears apart.

    A little below it is where cross-validation puts layers without any signal.
    """
    below = curve.column("accuracy_high") < curve.chance() - FAR_BELOW
    if below.any():
        yield (
            f"{below.sum()} of {len(below)} layers are far below chance: texts that share "
            "something may stand on both sides of a split, which a group would prevent."
        )


def _few(curve: Curve) -> Iterator[str]:
    groups = curve.column("n_groups").max(initial=-1)
    if 0 <= groups < FEW_GROUPS:
        yield f"Only {groups:,.0f} independent examples: other ones could give another curve."


def _for(curve: Curve) -> Iterator[str]:
    """Yield what speaks for a curve, and what was not looked at."""
    p, refits = curve.p_value, curve.permutations
    if isnan(p):
        yield "no p-value was asked for"
    elif refits is not None and refits < 19:
        yield f"{refits} shuffles are too few for a p-value to say much"
    elif p > SURE:
        yield f"shuffled labels do as well in {p:.0%} of refits"
    else:
        number = "" if refits is None else f"{refits} refits, "
        yield f"shuffled labels do not do as well ({number}p = {p:.2g})"
    if isnan(curve.bag_of_words):
        yield "no bag of words to compare with"
    elif not any(_words(curve)):
        yield f"words alone reach {curve.bag_of_words:.2f}"
    if not isnan(curve.random_weights) and not any(_untrained(curve)):
        yield f"the untrained network reaches {curve.random_weights:.2f}"
