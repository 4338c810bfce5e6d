"""Whether to believe a curve: what its baselines, controls and dataset say against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any, Literal

from llmprobe.results.curve import FAR_BELOW, FEWEST_RELABELLINGS, SURE, Curve

Level = Literal["holds", "doubt", "chance", "unknown"]
NO_RISE = 0.03
"""What a baseline without any signal may be above chance by luck."""
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
        *_surface(curve), *_below_chance(curve), *_few(curve),
        *(f"In the dataset, {message}." for message in warnings),
    ]  # fmt: skip
    reasons = tuple(_for(curve))
    if not curve.above_chance:
        return Verdict("chance", tuple(against), reasons)
    return Verdict("doubt" if against else "holds", tuple(against), reasons)


_SURFACE = {
    "bag_of_words": ("A bag of words", "words alone reach", "the texts’ surface"),
    "token_embeddings": (
        "The mean token embedding",
        "the mean token embedding reaches",
        "which tokens there are, not what the network makes of them",
    ),
    "random_weights": (
        "The untrained network",
        "the untrained network reaches",
        "the tokens, not what training made of them",
    ),
}
"""Of each rival: its name, how a sentence about it begins, and what a curve that it reaches may
be."""


def is_matched(curve: Curve, rival: str) -> bool:
    """Whether a curve above chance is not clearly better than a rival that is above chance too.

    By the paired interval of their difference. A rival that is hardly above chance explains
    nothing, however wide the interval: it says that examples are few.
    """
    reached, chance = curve.rival(rival), curve.chance()
    if isnan(reached) or not curve.above_chance:
        return False
    if reached - chance <= max(NO_RISE, (curve.score - chance) / 4):
        return False
    return curve.gain_over(rival)[1] <= 0


def _surface(curve: Curve) -> Iterator[str]:
    """Yield a sentence for each rival that explains a curve, or more than half of its rise."""
    for rival, (name, _, meaning) in _SURFACE.items():
        reached, chance = curve.rival(rival), curve.chance()
        if is_matched(curve, rival):
            yield (
                f"{name} reaches {reached:.2f}: this curve may be {meaning}; its best layer is "
                f"better by {_gain_text(curve, rival)} only."
            )
        elif curve.above_chance and reached - chance > max(NO_RISE, (curve.score - chance) / 2):
            yield f"{name} reaches {reached:.2f}: more than half of the rise may be {meaning}."


def _gain_text(curve: Curve, rival: str) -> str:
    """Return how much better a curve is than a rival, with the interval where there is one."""
    gain, low, high = curve.gain_over(rival)
    return f"{gain:.2f}" + (f" [{low:.2f}, {high:.2f}]" if low < high else "")


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
    p, refits = curve.adjusted_p_value, curve.permutations
    beside = ", adjusted for the other curves" if p > curve.p_value else ""
    if isnan(p):
        few = curve.number("relabellings")
        yield (
            f"labels can be exchanged between groups of like size in {few:,.0f} ways only, too few "
            "for a p-value"
            if few < FEWEST_RELABELLINGS
            else "no p-value was asked for"
        )
    elif refits is not None and refits < 19:
        yield f"{refits} shuffles are too few for a p-value to say much"
    elif p > SURE:
        yield f"shuffled labels do as well in {p:.0%} of refits{beside}"
    else:
        number = "" if refits is None else f"{refits} refits, "
        yield f"shuffled labels do not do as well ({number}p = {p:.2g}{beside})"
    if isnan(curve.rival("bag_of_words")):
        yield "no bag of words to compare with"
    explained = tuple(_surface(curve))
    for rival, (name, begins, _) in _SURFACE.items():
        reached = curve.rival(rival)
        if isnan(reached) or any(line.startswith(name) for line in explained):
            continue
        line = f"{begins} {reached:.2f}"
        if curve.is_inverted(rival):
            yield (
                f"{line}, below chance: they go with the other label in other groups, so they are "
                "no floor for the curve"
            )
        else:
            yield f"{line}, {_gain_text(curve, rival)} less"
