"""Whether to believe a curve: what its baselines, controls and dataset say against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import Any, Literal

import pandas as pd

from llmprobe.results.peaks import Peak

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


def verdict(
    peak: Peak, layers: pd.DataFrame, random_weights: float, findings: Sequence[Mapping[str, Any]]
) -> Verdict:
    """Weigh one curve.

    Parameters
    ----------
    layers
        The rows of its layers in the results.
    random_weights
        Best score of the untrained network; NaN where that was not asked for.
    findings
        Of the dataset's checks: ``level`` and ``message``.
    """
    if peak.layer is None or isnan(peak.score):
        return Verdict("unknown", (), ())
    numbers = bool(layers["accuracy"].isna().all())
    warnings = [
        str(found["message"])
        for found in findings
        # Of labels that are probed as numbers, too many classes are no fault.
        if found.get("level") == "warning" and not (numbers and found.get("check") == "classes")
    ]
    against = [
        *_surface(peak, random_weights), *_below_chance(peak, layers), *_few(layers),
        *(f"In the dataset, {message}." for message in warnings),
    ]  # fmt: skip
    reasons = list(_for(peak, random_weights))
    if not peak.above_chance:
        return Verdict("chance", tuple(against), tuple(reasons))
    return Verdict("doubt" if against else "holds", tuple(against), tuple(reasons))


def _surface(peak: Peak, random_weights: float) -> Iterator[str]:
    """What reaches as much without the model, or without its training."""
    for name, reached, meaning in (
        ("A bag of words", peak.bag_of_words, "the texts’ surface"),
        ("The untrained network", random_weights, "the tokens, not what training made of them"),
    ):
        if isnan(reached) or not peak.above_chance:
            continue
        rise = peak.score - peak.chance
        if reached - peak.chance <= max(NO_RISE, rise / 4):
            continue  # An interval that reaches down to chance says that examples are few.
        least = peak.score if isnan(peak.low) else peak.low
        if reached >= least:
            yield f"{name} reaches {reached:.2f}: this curve may be {meaning}."
        elif reached - peak.chance > rise / 2:
            yield f"{name} reaches {reached:.2f}: more than half of the rise may be {meaning}."


def _below_chance(peak: Peak, layers: pd.DataFrame) -> Iterator[str]:
    """Layers far below chance: the sign of what a split tears apart.

    A little below it is where cross-validation puts layers without any signal.
    """
    below = layers["accuracy_high"].astype(float) < peak.chance - FAR_BELOW
    if below.any():
        yield (
            f"{below.sum()} of {len(below)} layers are far below chance: texts that share "
            "something may stand on both sides of a split, which a group would prevent."
        )


def _few(layers: pd.DataFrame) -> Iterator[str]:
    groups = layers["n_groups"].max() if "n_groups" in layers else float("nan")
    if pd.notna(groups) and groups < FEW_GROUPS:
        yield f"Only {groups:,.0f} independent examples: other ones could give another curve."


def _for(peak: Peak, random_weights: float) -> Iterator[str]:
    if isnan(peak.p_value):
        yield "no p-value was asked for"
    elif peak.permutations is not None and peak.permutations < 19:
        yield f"{peak.permutations} shuffles are too few for a p-value to say much"
    elif peak.p_value <= 0.05:
        done = "" if peak.permutations is None else f"{peak.permutations} refits, "
        yield f"shuffled labels do not do as well ({done}p = {peak.p_value:.2g})"
    else:
        yield f"shuffled labels do as well in {peak.p_value:.0%} of refits"
    if isnan(peak.bag_of_words):
        yield "no bag of words to compare with"
    elif not any(_surface(peak, float("nan"))):
        yield f"words alone reach {peak.bag_of_words:.2f}"
    wordless = replace(peak, bag_of_words=float("nan"))
    if not isnan(random_weights) and not any(_surface(wordless, random_weights)):
        yield f"the untrained network reaches {random_weights:.2f}"
