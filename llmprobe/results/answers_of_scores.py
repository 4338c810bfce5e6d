"""Answers from the scores of probes: about chance, rivals, other examples and other sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf, isnan, nan
from typing import Any

from llmprobe.ground.text import (
    capitalised,
    equals_text,
    gain_text,
    interval_text,
    listed,
    number_text,
    p_text,
    signed_text,
)
from llmprobe.results.curve import FAR_BELOW, FEWEST_RELABELLINGS, SURE, Curve
from llmprobe.results.questions import MARGIN, TRANSFER_MARGIN, Answer, Word, unasked
from llmprobe.results.units_needed import (
    ENDS,
    NORMAL,
    POWER,
    fewest,
    rounded_up,
    units_needed,
    units_of,
    would_tell,
)

FEW_UNITS = 50
"""With fewer independent examples than this, one draw of them differs much from another."""
TEXT_RIVALS = {
    "bag_of_words": ("bag of words", "words"),
    "token_embeddings": ("mean token embedding", "tokens"),
    "text_encoder": ("text encoder", "a text encoder"),
    "length": ("length", "length"),
    "perplexity": ("the model’s perplexity of the text", "perplexity"),
}
"""Rivals that read the text alone, or how likely it is -> their names in sentences and verdicts."""
UNTRAINED = {"random_weights": ("untrained network", "the untrained network")}


def place_text(curve: Curve) -> str:
    """Return the best layer as ``layer 11 of 18``; for a plain network, with the layer's name."""
    name = "" if curve.layer_name is None else f" ({curve.layer_name})"
    blocks = "" if curve.blocks is None else f" of {curve.blocks}"
    return f"layer {curve.layer}{name}{blocks}"


def above_chance(curve: Curve) -> Answer:
    """Answer whether any layer is above chance."""
    chance, (value, low, high) = curve.chance(), (curve.score, curve.low, curve.high)
    number = interval_text(value, low, high)
    sentence = (
        f"{capitalised(curve.metric.label)} {number} at {place_text(curve)}, "
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
    known = f", p {equals_text(p)}" if not isnan(p) else ""
    more = "" if tested else " There is neither an interval nor a p-value."
    return answered(
        "unclear",
        f"unclear whether above chance ({number} at {place_text(curve)}{known})",
        more + would_tell(units_of(curve), _for_chance(curve)),
    )


def beside_masked(curve: Curve, read: Answer) -> Answer:
    """Add to the answer about chance what is read of masked texts, if that was tried."""
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
    """The score of a cell of a transfer: an AUROC, or for numbers a rank correlation."""

    name: str
    chance: float
    margin: float
    """A score that is no further above chance counts as nothing."""
    value: float
    low: float
    high: float

    @property
    def number(self) -> str:
        return interval_text(self.value, self.low, self.high)


def _auroc_or_rank(curve: Curve, prefix: str) -> _Measure:
    """Return the AUROC of a cell, or for numbers its rank correlation; NaN where it has neither."""
    area, rank = (
        [curve.number(f"{prefix}_{score}{end}") for end in ("", "_low", "_high")]
        for score in ("auroc", "rank_correlation")
    )
    if isnan(area[0]):
        # A rank correlation of r is like an AUROC of about (1 + r) / 2.
        return _Measure("rank correlation", 0.0, 2 * TRANSFER_MARGIN, *rank)
    return _Measure("AUROC", 0.5, TRANSFER_MARGIN, *area)


def _whence(curve: Curve) -> str:
    """Return at which layers a curve is above half of its rise: `` from layer 5 on``."""
    start, end = (
        curve.number(f"{name}_half_depth") * (curve.blocks or nan)
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
    # Two p-values that round to the same text are said once.
    beside = p_text(adjusted) != p_text(p)
    more = f", {p_text(adjusted)} adjusted for the other curves" if beside else ""
    return f"p {equals_text(p)}{by}{more}"


def _for_chance(curve: Curve) -> float:
    """Compute how many units would tell whether a curve is above chance, or within the margin."""
    units, error = units_of(curve), (curve.high - curve.low) / (2 * ENDS)
    rise, p = curve.score - curve.chance(), curve.adjusted_p_value
    of_many = NORMAL.inv_cdf(1 - SURE / 2 / max(len(curve.rows), 1)) + NORMAL.inv_cdf(POWER)
    above = units_needed(units, error, rise, of_many)
    if above <= units and 0 < p < 0.5:  # Then the p-value says how far the curve is from chance.
        above = units_needed(units, 1, NORMAL.inv_cdf(1 - p))
    return fewest(units, above, units_needed(units, error, MARGIN - rise))


def beyond(curve: Curve, rivals: Mapping[str, tuple[str, str]], key: str, is_read: bool) -> Answer:
    """Answer whether a curve is better than the rivals that were asked for, by paired intervals."""
    known = [rival for rival in rivals if not isnan(curve.rival(rival))]
    if not known:
        return unasked(key)
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
            f"{rivals[rival][0]} {curve.rival(rival):.2f}, which is {gain_text(*gain)}"
            for rival, gain in gains.items()
        ),
        *(
            f"{rivals[rival][0]} {curve.rival(rival):.2f}, below chance: what it reads goes with "
            "the other label in other groups, so it is no floor"
            for rival in inverted
        ),
    ]
    sentence = capitalised(f"{'; '.join(said)}.")
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
            else would_tell(units_of(curve), _for_difference(units_of(curve), *gains[worst]))
        )
    if key == "beyond_untrained":
        clauses = {word: text.replace(" tell", " tells") for word, text in clauses.items()}
    return Answer(
        word, sentence + more, value, low, high, signed_text(value, low, high), clauses[word]
    )


def _compared(gain: tuple[float, float, float]) -> Word:
    """Return whether something is better, by the interval of the difference.

    Where there is no interval, both of its ends equal the difference.
    """
    value, low, high = gain
    if low == high == value:
        return "unclear"
    return "yes" if low > 0 else "no" if high <= MARGIN else "unclear"


def _for_difference(units: float, value: float, low: float, high: float) -> float:
    """Compute how many units would put a difference above 0 or within the margin."""
    error = (high - low) / (2 * ENDS)
    return fewest(units, *(units_needed(units, error, far) for far in (value, MARGIN - value)))


def stable(curve: Curve, findings: Iterable[Mapping[str, Any]], is_read: bool) -> Answer:
    """Answer whether other examples, folds or groups would give such a curve."""
    units = units_of(curve)
    number = "" if isnan(units) else f"{units:,.0f} units"
    warnings = [
        f"In the dataset, {finding['message']}."
        for finding in findings
        # Labels that are probed as numbers may have many values.
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
        return unasked("stable")
    repeats = curve.number("repeats")
    dealt = "" if isnan(repeats) else f", dealt out to folds {_times(repeats)}"
    sentence = (
        f"{units:,.0f} independent examples{dealt}; the interval keeps the rise above half of what "
        "it is, no layer is far below chance, and the dataset’s checks do not warn."
    )
    return Answer("yes", sentence, units, number=number, clause="stable over examples and folds")


def _few(curve: Curve) -> Iterator[tuple[str, str]]:
    """Yield reasons why other examples could give another curve, as a sentence and a clause."""
    units, rise = units_of(curve), curve.score - curve.chance()
    if units < FEW_UNITS:
        sentence = (
            f"Only {units:,.0f} independent examples: other ones could give another curve; "
            f"{FEW_UNITS} would tell."
        )
        yield sentence, f"few independent examples ({units:,.0f})"
    elif curve.low - curve.chance() < rise / 2:
        needed = units * ((curve.score - curve.low) / (rise / 2)) ** 2
        sentence = "Other examples could halve its rise, by the interval."
        yield sentence + would_tell(units, needed), "other examples could halve its rise"


def transfers(curve: Curve, is_read: bool) -> Answer:
    """Answer whether the probe reads the same on other sets, by its worst cell."""
    measure = _auroc_or_rank(curve, "worst_transfer")
    value, low, high = measure.value, measure.low, measure.high
    chance, margin = measure.chance, measure.margin
    if isnan(value):
        return unasked("transfers")
    if not is_read:
        return Answer(
            "does not apply", "Nothing is shown to be above chance that could be read elsewhere."
        )
    p = curve.number("worst_transfer_p_value")
    train, test = (
        str(curve.summary.get(f"worst_transfer_{end}") or "") for end in ("train", "test")
    )
    # The curve's own probe is fitted on the whole dataset; one fitted on a part is another probe.
    is_part = train not in ("", "nan", curve.dataset)
    whence = f"from {train} " if is_part else ""
    number = measure.number
    known = "" if isnan(p) else f", p {equals_text(p)}"
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
    clause, error = f"unclear whether it transfers {whence}to {test}", (high - low) / (2 * ENDS)
    more = ""
    if error > 0:
        distances = value - chance - margin, chance + margin - value, chance - value
        times = fewest(1, *(units_needed(1, error, distance) for distance in distances))
        more = "" if times == inf else f" About {rounded_up(times)} times as many units would tell."
    return answered("unclear", clause, more)


def _times(repeats: float) -> str:
    return "once" if repeats == 1 else f"{repeats:.0f} times"
