"""What a curve is evidence of: a row of questions with their answers, and a line written from them.

A question that nothing was computed for is “not asked”, and the line then says nothing of it. “No”
is a claim as “yes” is: it needs an interval that ends within `MARGIN`. What neither can be said of
is “unclear”, with the number of units that it would take.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf, isnan, log10
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from llmprobe.ground.text import listed, number_text, p_text
from llmprobe.results.curve import FAR_BELOW, FEWEST_RELABELLINGS, SURE, Curve

Word = Literal["yes", "no", "unclear", "does not apply", "not asked"]

MARKS: Mapping[Word, str] = {
    "yes": "✓",
    "no": "✗",
    "unclear": "?",
    "does not apply": "–",
    "not asked": "·",
}
"""What stands for each answer where there is little room."""
MARGIN = 0.05
"""What counts as nothing, in accuracy, AUROC or R²: “no” needs an interval that ends within it. It
is the least that a few hundred units can exclude, since at chance 400 have an interval of ± 0.05,
and half of a gain of 0.1 that one would go by."""
USED_SHARE = 0.1
"""The share of what an answer differs between the classes that an effect needs to be called use:
some have been the largest of all of the null, and 3 % of it."""
TRANSFER_MARGIN = 0.1
"""The same for the AUROC elsewhere, which moves faster: where two normal classes of equal size have
0.6, their accuracy is 0.57."""
FEW_UNITS = 50
"""Independent examples below which one draw of them is much unlike another."""
POWER = 0.8
"""How often the number of units that an unclear answer names would be enough."""
_NAN = float("nan")
_NORMAL = NormalDist()
_ENDS = _NORMAL.inv_cdf(0.975)
_ENOUGH = _ENDS + _NORMAL.inv_cdf(POWER)
"""Standard errors between an effect and what is to be excluded, two-sided at 0.05."""


@dataclass(frozen=True)
class Question:
    """What is asked of every curve."""

    name: str
    """As tables and the line call it."""
    asks: str
    """As a sentence."""
    unasked: str
    """Why there is no answer, where nothing was computed for one."""


QUESTIONS: Mapping[str, Question] = {
    "above_chance": Question(
        "above chance", "Is any layer above chance, given that the best is the best of many?", ""
    ),
    "beyond_text": Question(
        "beyond text",
        "Does the best layer tell more than the text alone, such as its words?",
        "No rival that reads the text alone was asked for (probe.controls).",
    ),
    "beyond_untrained": Question(
        "beyond untrained",
        "Does it tell more than the same network with random weights?",
        "The untrained network was not asked for (probe.controls: random_weights).",
    ),
    "stable": Question(
        "stable", "Would other examples, folds or groups give such a curve?", "Nothing to tell by."
    ),
    "transfers": Question(
        "transfers",
        "Does its probe read the same in other forms or datasets?",
        "No other form, wording or dataset was tried (transfer): it may read one of them alone.",
    ),
    "said": Question(
        "said",
        "Does the model’s own last layer say it?",
        "What the model says was not asked (question and answers of a dataset).",
    ),
    "used": Question(
        "used", "Does the model use it?",
        "Nothing was changed in the model, so whether it uses the direction is not known.",
    ),
    "linear": Question(
        "linear", "Is all of it linear?", "No probe that is not linear was compared."
    ),
}  # fmt: skip
"""By the key that evidence.json has, in the order in which they are asked."""

_TEXT = {
    "bag_of_words": ("bag of words", "words"),
    "token_embeddings": ("mean token embedding", "tokens"),
    "text_encoder": ("text encoder", "a text encoder"),
    "length": ("length", "length"),
    "perplexity": ("the model’s perplexity of the text", "perplexity"),
}
"""Rivals that read the text alone, or how likely it is: what each is called, and what it knows."""
_UNTRAINED = {"random_weights": ("untrained network", "the untrained network")}


@dataclass(frozen=True)
class Answer:
    """The answer to one question about one curve."""

    answer: Word
    sentence: str
    """What it rests on."""
    value: float = _NAN
    """The number that it was decided by, if any."""
    low: float = _NAN
    """The lower end of its 95 % interval."""
    high: float = _NAN
    """The upper end of its 95 % interval."""
    number: str = ""
    """The same as text."""
    clause: str = ""
    """What the line says; empty where it says nothing."""

    def as_json(self) -> dict[str, Any]:
        """Return the answer as evidence.json has it; what is not known is null."""
        numbers = {name: getattr(self, name) for name in ("value", "low", "high")}
        known = {name: None if isnan(number) else number for name, number in numbers.items()}
        return {"answer": self.answer, **known, "sentence": self.sentence}


@dataclass(frozen=True)
class Evidence:
    """All answers about one curve."""

    model: str
    dataset: str
    position: str
    questions: Mapping[str, Answer]
    """Key of `QUESTIONS` -> the answer, in their order."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Return model, dataset and position, as `Curve.key` does."""
        return self.model, self.dataset, self.position

    @property
    def line(self) -> str:
        """Return the verdict: what was answered, and last what was not asked."""
        clauses = [answer.clause for answer in self.questions.values() if answer.clause]
        unasked = [
            QUESTIONS[key].name
            for key, answer in self.questions.items()
            if answer.answer == "not asked"
        ]
        return "; ".join([*clauses, *([f"not asked: {', '.join(unasked)}"] if unasked else [])])

    @property
    def doubts(self) -> list[str]:
        """Return the sentences of what was answered with “no” or is unclear."""
        answers = self.questions.values()
        return [one.sentence for one in answers if one.answer in ("no", "unclear")]

    def as_json(self) -> dict[str, Any]:
        """Return an entry of evidence.json."""
        return {
            "model": self.model,
            "dataset": self.dataset,
            "position": self.position,
            "line": self.line,
            "questions": {key: answer.as_json() for key, answer in self.questions.items()},
        }


def evidence_of(curve: Curve, findings: Iterable[Mapping[str, Any]] = ()) -> Evidence:
    """Answer every question about a curve.

    Parameters
    ----------
    findings
        Of the dataset's checks: ``level``, ``check`` and ``message``.
    """
    if curve.layer is None or isnan(curve.score):
        unscored = Answer("does not apply", "No layer was scored.")
        answers = dict.fromkeys(QUESTIONS, unscored)
        answers["above_chance"] = Answer("unclear", unscored.sentence, clause="not scored")
        return Evidence(*curve.key, answers)
    read = _above_chance(curve)
    is_read = read.answer == "yes"
    texts = _beyond(curve, _TEXT, "beyond_text", is_read)
    if texts.answer == "not asked" and not curve.position:
        texts = Answer("does not apply", "The states are of no text that a rival could read.")
    answers = {
        "above_chance": _beside_masked(curve, read),
        "beyond_text": texts,
        "beyond_untrained": _beyond(curve, _UNTRAINED, "beyond_untrained", is_read),
        "stable": _stable(curve, findings, is_read),
        "transfers": _transfers(curve, is_read),
        "said": _said(curve, is_read),
        "used": _used(curve),
        "linear": _linear(curve, is_read),
        **_noted(curve),
    }
    return Evidence(*curve.key, answers)


def units_needed(units: float, error: float, distance: float, errors: float = _ENOUGH) -> float:
    """Compute how many units would put an effect so far from what is to be excluded.

    ``units * (errors * error / distance) ** 2``: a standard error shrinks with the root of the
    number of independent examples, and an effect that lies ``errors`` = 1.96 + 0.84 of them away
    is found 80 % of the time at 0.05, if it is as large as it seems here.

    Parameters
    ----------
    units
        How many there are.
    error
        The standard error with these.
    distance
        From the effect to what is to be excluded; infinitely many are needed where it is not
        positive.
    """
    return units * (errors * error / distance) ** 2 if distance > 0 else inf


def place_text(curve: Curve) -> str:
    """Return the best layer as ``layer 11 of 18``, in a plain network with its name."""
    name = "" if curve.layer_name is None else f" ({curve.layer_name})"
    blocks = "" if curve.blocks is None else f" of {curve.blocks}"
    return f"layer {curve.layer}{name}{blocks}"


def _above_chance(curve: Curve) -> Answer:
    chance, (value, low, high) = curve.chance(), (curve.score, curve.low, curve.high)
    number = _with_interval(value, low, high)
    sentence = (
        f"{_capital(curve.metric.label)} {number} at {place_text(curve)}, "
        f"chance {number_text(chance)}; {_p_sentence(curve)}."
    )

    def answered(word: Word, clause: str, more: str = "") -> Answer:
        return Answer(word, sentence + more, value, low, high, number, clause)

    tested = not (isnan(curve.p_value) and isnan(low))
    if curve.above_chance and tested:
        return answered("yes", f"readable{_whence(curve)} ({number} at {place_text(curve)})")
    highs = curve.column(f"{curve.metric.name}_high")
    if not curve.above_chance and (highs <= chance + MARGIN).all():
        return answered(
            "no",
            f"not readable (no layer more than {MARGIN} above chance)",
            f" The intervals of all layers end within {MARGIN} of chance.",
        )
    p = curve.adjusted_p_value
    known = f", p {_equals(p)}" if not isnan(p) else ""
    more = "" if tested else " There is neither an interval nor a p-value."
    return answered(
        "unclear",
        f"unclear whether above chance ({number} at {place_text(curve)}{known})",
        more + _would_tell(_units(curve), _for_chance(curve)),
    )


def _beside_masked(curve: Curve, read: Answer) -> Answer:
    """Add what is read of texts without a field to the answer on what is readable, if asked."""
    measure = _auroc_or_rank(curve, "masked")
    if read.answer != "yes" or isnan(measure.value):
        return read
    field, number = curve.summary["masked_field"], measure.number
    sentence = (
        f" With another word for {field} in every text, the same probe has {measure.name} {number} "
        f"there (chance {measure.chance:.2f}): "
    )
    if measure.low > measure.chance:
        told, clause = f"it reads something else than {field} too.", f"without {field} too"
    elif measure.high < measure.chance:
        told, clause = "it reads the opposite.", f"without {field} the opposite"
    elif measure.high <= measure.chance + measure.margin:
        told, clause = f"what is read needs {field}.", f"not without {field}"
    else:
        told = f"whether it reads something else than {field} is unclear."
        clause = f"unclear whether without {field}"
    return replace(
        read,
        sentence=read.sentence + sentence + told,
        clause=f"{read.clause}, {clause} ({measure.name} {number})",
    )


@dataclass(frozen=True)
class _Measure:
    """What a cell of a transfer says of two classes or of numbers, in units of its own."""

    name: str
    chance: float
    margin: float
    """What is within it counts as nothing."""
    value: float
    low: float
    high: float

    @property
    def number(self) -> str:
        return _with_interval(self.value, self.low, self.high)


def _auroc_or_rank(curve: Curve, prefix: str) -> _Measure:
    """Return the AUROC of a cell, of numbers the rank correlation; NaN where there is neither."""
    area, rank = (
        [curve.number(f"{prefix}_{score}{end}") for end in ("", "_low", "_high")]
        for score in ("auroc", "rank_correlation")
    )
    if isnan(area[0]):
        # Pairs are in order at a rank correlation of r as at an AUROC of about (1 + r) / 2.
        return _Measure("rank correlation", 0.0, 2 * TRANSFER_MARGIN, *rank)
    return _Measure("AUROC", 0.5, TRANSFER_MARGIN, *area)


def _whence(curve: Curve) -> str:
    """Return at which layers a curve is above half of its rise: `` from layer 5 on``."""
    start, end = (
        curve.number(f"{name}_half_depth") * (curve.blocks or _NAN)
        for name in ("stays_above", "falls_below")
    )
    if isnan(start):
        return ""
    return f" from layer {round(start)} " + ("on" if isnan(end) else f"to {round(end)}")


def _p_sentence(curve: Curve) -> str:
    p, adjusted, refits = curve.p_value, curve.adjusted_p_value, curve.permutations
    if isnan(p):
        few = curve.number("relabellings")
        if few < FEWEST_RELABELLINGS:
            return (
                f"labels can be exchanged between groups of like size in {few:,.0f} ways only, "
                "too few for a p-value"
            )
        return "no p-value was asked for"
    if refits is not None and refits < 19:
        return f"{refits} shuffles are too few for a p-value to say much"
    by = "" if refits is None else f" by {refits:,} shuffles of the labels"
    # What looks the same when it is rounded is said once.
    beside = p_text(adjusted) != p_text(p)
    more = f", {p_text(adjusted)} adjusted for the other curves" if beside else ""
    return f"p {_equals(p)}{by}{more}"


def _for_chance(curve: Curve) -> float:
    """Compute how many units would say whether a curve is above chance or within the margin."""
    units, error = _units(curve), (curve.high - curve.low) / (2 * _ENDS)
    rise, p = curve.score - curve.chance(), curve.adjusted_p_value
    of_many = _NORMAL.inv_cdf(1 - SURE / 2 / max(len(curve.rows), 1)) + _NORMAL.inv_cdf(POWER)
    above = units_needed(units, error, rise, of_many)
    if above <= units and 0 < p < 0.5:  # Then the p-value says how far it is from chance.
        above = units_needed(units, 1, _NORMAL.inv_cdf(1 - p), _ENOUGH)
    return _fewest(units, above, units_needed(units, error, MARGIN - rise))


def _beyond(curve: Curve, rivals: Mapping[str, tuple[str, str]], key: str, is_read: bool) -> Answer:
    """Compare a curve with each of some rivals that was asked for, by paired intervals."""
    known = [rival for rival in rivals if not isnan(curve.rival(rival))]
    if not known:
        return _unasked(key)
    if not is_read:
        return Answer(
            "does not apply",
            "Nothing is shown to be above chance, so there is nothing that a rival could explain.",
        )
    inverted = [rival for rival in known if curve.is_inverted(rival)]
    gains = {rival: curve.gain_over(rival) for rival in known if rival not in inverted}
    words: dict[str, Word] = {rival: _compared(gain) for rival, gain in gains.items()}
    said = [
        *(
            f"{rivals[rival][0]} {curve.rival(rival):.2f}, which is {_gain_text(*gain)}"
            for rival, gain in gains.items()
        ),
        *(
            f"{rivals[rival][0]} {curve.rival(rival):.2f}, below chance: what it reads goes with "
            "the other label in other groups, so it is no floor"
            for rival in inverted
        ),
    ]
    sentence = _capital(f"{'; '.join(said)}.")
    if not gains:
        more = " Another rival could tell." if key == "beyond_text" else ""
        names = listed([rivals[rival][1] for rival in inverted])
        clause = f"unclear whether beyond text ({names} below chance)"
        return Answer("unclear", sentence + more, clause=clause)
    word: Word = next(w for w in ("no", "unclear", "yes") if w in words.values())
    decisive = [rival for rival in gains if words[rival] == word]
    worst = min(decisive, key=lambda rival: gains[rival])
    value, low, high = gains[worst]
    names = listed([rivals[rival][1] for rival in decisive])
    rise = curve.score - curve.chance()
    most = [rivals[rival][1] for rival in gains if curve.rival(rival) - curve.chance() > rise / 2]
    clauses = {
        "yes": f"{'a little ' if most else ''}more than {names} tell",
        "no": f"no more than {names} tell",
        "unclear": f"unclear whether more than {names} tell",
    }
    more = f" More than half of the rise may be {listed(most)}." if most and word != "no" else ""
    if word == "no":
        more = f" So the best layer is at most {MARGIN} better, and the curve may be that."
    if word == "unclear":
        more += (
            " The run has no paired interval; run the config again."
            if isnan(curve.number(f"gain_over_{worst}_low"))
            else _would_tell(_units(curve), _for_difference(_units(curve), *gains[worst]))
        )
    if key == "beyond_untrained":
        clauses = {word: text.replace(" tell", " tells") for word, text in clauses.items()}
    return Answer(word, sentence + more, value, low, high, _signed(value, low, high), clauses[word])


def _compared(gain: tuple[float, float, float]) -> Word:
    """Return whether something is better, by the interval of the difference.

    Without one, both of its ends are the difference itself.
    """
    value, low, high = gain
    if low == high == value:
        return "unclear"
    return "yes" if low > 0 else "no" if high <= MARGIN else "unclear"


def _for_difference(units: float, value: float, low: float, high: float) -> float:
    """Compute how many units would put a difference above 0 or within the margin."""
    error = (high - low) / (2 * _ENDS)
    return _fewest(units, *(units_needed(units, error, far) for far in (value, MARGIN - value)))


def _stable(curve: Curve, findings: Iterable[Mapping[str, Any]], is_read: bool) -> Answer:
    units = _units(curve)
    number = "" if isnan(units) else f"{units:,.0f} units"
    warnings = [
        f"In the dataset, {finding['message']}."
        for finding in findings
        # Of labels that are probed as numbers, too many classes are no fault.
        if finding.get("level") == "warning"
        and not (curve.metric.target == "numbers" and finding.get("check") == "classes")
    ]
    below = curve.column("accuracy_high") < curve.chance() - FAR_BELOW
    if curve.metric.target == "classes" and curve.metric.name == "accuracy" and below.any():
        torn = f"{below.sum()} of {len(below)} layers are far below chance"
        sentence = (
            f"{torn}: texts that share something may stand on both sides of a split, which a group "
            "would prevent."
        )
        return Answer("no", " ".join([sentence, *warnings]), units, number=number, clause=torn)
    if not is_read:
        return Answer(
            "does not apply", " ".join(["Nothing is shown to be above chance.", *warnings]), units
        )
    doubts = [*_few(curve), *((warning, "the dataset’s checks warn") for warning in warnings)]
    if doubts:
        sentences, clauses = zip(*doubts, strict=True)
        clause = ", ".join(dict.fromkeys(clauses))
        return Answer("unclear", " ".join(sentences), units, number=number, clause=clause)
    if isnan(units) or isnan(curve.low):
        return _unasked("stable")
    repeats = curve.number("repeats")
    dealt = "" if isnan(repeats) else f", dealt out to folds {_times(repeats)}"
    sentence = (
        f"{units:,.0f} independent examples{dealt}; the interval keeps the rise above half of what "
        "it is, no layer is far below chance, and the dataset’s checks do not warn."
    )
    return Answer("yes", sentence, units, number=number, clause="stable over examples and folds")


def _few(curve: Curve) -> Iterator[tuple[str, str]]:
    """Yield what says that other examples could give another curve, as a sentence and a clause."""
    units, rise = _units(curve), curve.score - curve.chance()
    if units < FEW_UNITS:
        sentence = (
            f"Only {units:,.0f} independent examples: other ones could give another curve; "
            f"{FEW_UNITS} would tell."
        )
        yield sentence, f"few independent examples ({units:,.0f})"
    elif curve.low - curve.chance() < rise / 2:
        needed = units * ((curve.score - curve.low) / (rise / 2)) ** 2
        sentence = "Other examples could halve its rise, by the interval."
        yield sentence + _would_tell(units, needed), "other examples could halve its rise"


def _transfers(curve: Curve, is_read: bool) -> Answer:
    measure = _auroc_or_rank(curve, "worst_transfer")
    value, low, high = measure.value, measure.low, measure.high
    chance, margin = measure.chance, measure.margin
    if isnan(value):
        return _unasked("transfers")
    if not is_read:
        return Answer(
            "does not apply", "Nothing is shown to be above chance that could be read elsewhere."
        )
    p = curve.number("worst_transfer_p_value")
    train, test = (
        str(curve.summary.get(f"worst_transfer_{end}") or "") for end in ("train", "test")
    )
    # The curve's own probe is fitted on all of the dataset; that of a part of it is another one.
    is_part = train not in ("", "nan", curve.dataset)
    whence = f"from {train} " if is_part else ""
    number = measure.number
    known = "" if isnan(p) else f", p {_equals(p)}"
    how = f"fitted on {train} and scored on {test}" if is_part else f"scored on {test}"
    sentence = f"At worst, {how}, {measure.name} {number}{known}; chance {chance:.2f}."

    def answered(word: Word, clause: str, more: str = "") -> Answer:
        return Answer(word, sentence + more, value, low, high, number, f"{clause} ({number})")

    if high < chance:
        clause = f"reads the opposite on {test}"
        clause = f"fitted on {train} it {clause}" if is_part else clause
        return answered("no", clause, " There it reads the opposite.")
    if high <= chance + margin:
        return answered(
            "no", f"does not transfer {whence}to {test}", f" It ends within {margin} of that."
        )
    if low > chance + margin and not p > SURE:
        return answered("yes", f"transfers, at worst {whence}to {test}")
    clause, error = f"unclear whether it transfers {whence}to {test}", (high - low) / (2 * _ENDS)
    more = ""
    if error > 0:
        distances = value - chance - margin, chance + margin - value, chance - value
        times = _fewest(1, *(units_needed(1, error, distance) for distance in distances))
        more = (
            "" if times == inf else f" About {_rounded_up(times)} times as many units would tell."
        )
    return answered("unclear", clause, more)


def _noted(curve: Curve) -> dict[str, Answer]:
    """Return the questions that a run has noted why they cannot be asked of this curve."""
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
        return _unasked("said")
    gap, gap_low, gap_high = (
        curve.number(f"readable_minus_said{end}") for end in ("", "_low", "_high")
    )
    share = curve.number("said_next_token_share")
    number = _with_interval(value, low, high)
    sentence = (
        f"By its own last layer the answers have AUROC {number}, accuracy "
        f"{curve.number('said_accuracy'):.2f}; chance 0.50. What is read at the best layer is "
        f"{_gain_text(-gap, -gap_high, -gap_low)}."
    )
    if share < 0.5:
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
    units, error = _units(curve), (high - low) / (2 * _ENDS)
    needed = (units_needed(units, error, far) for far in (value - 0.5, 0.5 + MARGIN - value))
    more = _would_tell(units, _fewest(units, *needed))
    return answered("unclear", "unclear whether the model says it", more)


def _used(curve: Curve) -> Answer:
    value, low, high = (curve.number(f"used_share{end}") for end in ("", "_low", "_high"))
    p, layer = curve.number("used_p_value"), curve.number("used_layer")
    if isnan(value):
        return _unasked("used")
    number = _with_interval(value, low, high)
    direction = str(curve.summary.get("used_direction", "")).replace("_", " ")
    known = "" if isnan(p) else f"; p {_equals(p)} by directions that say nothing"
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
    if p < SURE and value >= USED_SHARE and low > 0:
        return answered("yes", f"used for this answer at layer {layer:.0f}")
    return answered("unclear", "unclear whether it is used for this answer")


def _linear(curve: Curve, is_read: bool) -> Answer:
    value, low, high = (curve.number(f"linearity_gap{end}") for end in ("", "_low", "_high"))
    if isnan(value):
        return _unasked("linear")
    p, detectable = (curve.number(f"linearity_gap_{end}") for end in ("p_value", "detectable"))
    number = _signed(value, low, high)
    known = "" if isnan(p) else f", p {_equals(p)}"
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


def _unasked(key: str) -> Answer:
    return Answer("not asked", QUESTIONS[key].unasked)


def _units(curve: Curve) -> float:
    """Return how many independent examples there are, NaN where that is not known."""
    units = float(np.nanmax(curve.column("n_groups"), initial=-1))
    return _NAN if units < 0 else units


def _fewest(units: float, *needed: float) -> float:
    """Return the least number that is more than there are; infinity for none."""
    return min((number for number in needed if units < number < inf), default=inf)


def _would_tell(units: float, needed: float) -> str:
    if isnan(needed) or needed == inf or isnan(units):
        return ""
    return f" About {_rounded_up(needed)} independent examples would tell (there are {units:,.0f})."


def _rounded_up(number: float) -> str:
    """Return a number with two digits that count, never less than it: ``3,500``."""
    step = 10 ** (ceil(log10(number)) - 2) if number > 100 else 1
    return f"{ceil(number / step) * step:,.0f}"


def _times(repeats: float) -> str:
    return "once" if repeats == 1 else f"{repeats:.0f} times"


def _equals(p: float) -> str:
    """Return ``= 0.010`` or ``< 0.001``."""
    return p_text(p) if p < 0.001 else f"= {p_text(p)}"


def _with_interval(value: float, low: float, high: float, form: str = ".2f") -> str:
    interval = "" if isnan(low) else f" [{low:{form}}, {high:{form}}]"
    return number_text(value, form) + interval


def _signed(value: float, low: float, high: float) -> str:
    return _with_interval(value, _NAN if low == high else low, high, "+.2f")


def _gain_text(value: float, low: float, high: float) -> str:
    """Return ``0.33 [0.30, 0.36] less``, or how much more a rival reaches."""
    if value < 0:
        value, low, high = -value, -high, -low
        return f"{_with_interval(value, _NAN if low == high else low, high)} more"
    return f"{_with_interval(value, _NAN if low == high else low, high)} less"


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def all_evidence(curves: Sequence[Curve], datasets: Iterable[Mapping[str, Any]]) -> list[Evidence]:
    """Answer every question about each curve.

    Parameters
    ----------
    datasets
        What is known of them: ``name`` and, where they were checked, ``findings``.
    """
    findings = {facts.get("name"): facts.get("findings") or [] for facts in datasets}
    return [evidence_of(curve, findings.get(curve.dataset, ())) for curve in curves]
