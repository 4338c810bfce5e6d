"""What a curve is evidence of: questions with their answers, and a verdict written from them.

A question that nothing was computed for is “not asked”, and the verdict lists it at its end. “No”
is a claim, as “yes” is: it needs an interval that ends within `MARGIN`. Where neither holds, the
answer is “unclear”, with the number of units that it would take.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from typing import Any

from llmprobe.ground.text import equals_text, gain_text, interval_text, signed_text
from llmprobe.results.answers_of_scores import (
    TEXT_RIVALS,
    UNTRAINED,
    above_chance,
    beside_masked,
    beyond,
    stable,
    transfers,
)
from llmprobe.results.curve import SURE, Curve
from llmprobe.results.questions import MARGIN, QUESTIONS, Answer, Evidence, Word, unasked
from llmprobe.results.units_needed import ENDS, fewest, units_needed, units_of, would_tell

USED_SHARE = 0.1
"""The least effect that is called use, as a share of the difference in answers between the classes:
effects of 3 % have been larger than all of the null."""


def evidence_of(curve: Curve, findings: Iterable[Mapping[str, Any]] = ()) -> Evidence:
    """Answer every question about a curve.

    Parameters
    ----------
    findings
        Findings of the dataset's checks: ``level``, ``check`` and ``message``.
    """
    if curve.layer is None or isnan(curve.score):
        unscored = Answer("does not apply", "No layer was scored.")
        answers = dict.fromkeys(QUESTIONS, unscored)
        answers["above_chance"] = Answer("unclear", unscored.sentence, clause="not scored")
        return Evidence(*curve.key, answers)
    read = above_chance(curve)
    is_read = read.answer == "yes"
    texts = beyond(curve, TEXT_RIVALS, "beyond_text", is_read)
    if texts.answer == "not asked" and not curve.position:
        texts = Answer("does not apply", "The states are of no text that a rival could read.")
    answers = {
        "above_chance": beside_masked(curve, read),
        "beyond_text": texts,
        "beyond_untrained": beyond(curve, UNTRAINED, "beyond_untrained", is_read),
        "stable": stable(curve, findings, is_read),
        "transfers": transfers(curve, is_read),
        "said": _said(curve, is_read),
        "used": _used(curve),
        "linear": _linear(curve, is_read),
        **_noted(curve),
    }
    return Evidence(*curve.key, answers)


def _noted(curve: Curve) -> dict[str, Answer]:
    """Return the answers to questions that do not apply here, for the reasons the run has noted."""
    notes = {"said": "said_note", "used": "used_note", "linear": "linearity_note"}
    known = {key: curve.summary.get(column) for key, column in notes.items()}
    return {
        key: Answer("does not apply", note)
        for key, note in known.items()
        if isinstance(note, str) and note
    }


def _said(curve: Curve, is_read: bool) -> Answer:
    value, low, high = (curve.number(f"said_auroc{end}") for end in ("", "_low", "_high"))
    if isnan(value):
        return unasked("said")
    gap, gap_low, gap_high = (
        curve.number(f"readable_minus_said{end}") for end in ("", "_low", "_high")
    )
    share = curve.number("said_next_token_share")
    number = interval_text(value, low, high)
    sentence = (
        f"By its own last layer the answers have AUROC {number}, accuracy "
        f"{curve.number('said_accuracy'):.2f}; chance 0.50. What is read at the best layer is "
        f"{gain_text(-gap, -gap_high, -gap_low)}."
    )
    if share < 1:
        sentence += (
            f" After {1 - share:.0%} of the texts that were tried the model would write something "
            "else than an answer."
        )
    start = curve.number("said_layer")
    whence = "" if isnan(start) else f" from layer {start:.0f} on"

    def answered(word: Word, clause: str, more: str = "") -> Answer:
        return Answer(word, sentence + more, value, low, high, number, f"{clause} ({number})")

    if low > 0.5:
        less = "less of it than is readable" if gap_low > MARGIN and is_read else "it"
        return answered("yes", f"the model says {less}{whence}")
    if high < 0.5:
        return answered("no", "the model says the opposite", " It says the opposite.")
    if high <= 0.5 + MARGIN:
        return answered("no", "the model does not say it", f" It ends within {MARGIN} of chance.")
    units, error = units_of(curve), (high - low) / (2 * ENDS)
    needed = (units_needed(units, error, far) for far in (value - 0.5, 0.5 + MARGIN - value))
    more = would_tell(units, fewest(units, *needed))
    return answered("unclear", "unclear whether the model says it", more)


def _used(curve: Curve) -> Answer:
    value, low, high = (curve.number(f"used_share{end}") for end in ("", "_low", "_high"))
    p, layer = curve.number("used_p_value"), curve.number("used_layer")
    if isnan(value):
        return unasked("used")
    number = interval_text(value, low, high)
    direction = str(curve.summary.get("used_direction", "")).replace("_", " ")
    known = "" if isnan(p) else f"; p {equals_text(p)} by directions that say nothing"
    sentence = (
        f"Reflecting the state at layer {layer:.0f} along the {direction} direction moves this "
        f"answer at this position by {number} of what it "
        f"differs between the classes (or varies within one, if that is more){known}."
    )

    def answered(word: Word, clause: str, more: str = "") -> Answer:
        return Answer(word, sentence + more, value, low, high, number, f"{clause} ({number})")

    if not low < high:
        return answered(
            "unclear", "unclear whether it is used for this answer", " It is of one unit alone."
        )
    if high < USED_SHARE:
        return answered(
            "no",
            "not used for this answer at this position",
            f" No layer moves it by {USED_SHARE:.0%}.",
        )
    if p <= SURE and value >= USED_SHARE and low > 0:
        return answered("yes", f"used for this answer at layer {layer:.0f}")
    return answered("unclear", "unclear whether it is used for this answer")


def _linear(curve: Curve, is_read: bool) -> Answer:
    value, low, high = (curve.number(f"linearity_gap{end}") for end in ("", "_low", "_high"))
    if isnan(value):
        return unasked("linear")
    p, detectable = (curve.number(f"linearity_gap_{end}") for end in ("p_value", "detectable"))
    number = signed_text(value, low, high)
    known = "" if isnan(p) else f", p {equals_text(p)}"
    sentence = (
        f"At the best layer a curved probe reads {number}{known} more; a parity of the two leading "
        f"components, planted in these states, would have given {detectable:+.2f}."
    )

    def answered(word: Word, clause: str, more: str = "") -> Answer:
        return Answer(word, sentence + more, value, low, high, number, clause)

    if low > 0 and not p > SURE:
        less = "part of it is not linear" if is_read else "there, but not linear"
        return answered("no", f"{less} (a curved probe reads {number} more)")
    if high <= MARGIN and detectable > MARGIN:
        return answered("yes", "all of it is linear" if is_read else "nothing more by a curve")
    more = "" if detectable > MARGIN else " So a gap could hardly have been found in these rows."
    return answered("unclear", "unclear whether all of it is linear", more)


def all_evidence(curves: Sequence[Curve], datasets: Iterable[Mapping[str, Any]]) -> list[Evidence]:
    """Answer every question about each curve.

    Parameters
    ----------
    datasets
        Facts about them: ``name`` and, where they were checked, ``findings``.
    """
    findings = {facts.get("name"): facts.get("findings") or [] for facts in datasets}
    return [evidence_of(curve, findings.get(curve.dataset, ())) for curve in curves]
