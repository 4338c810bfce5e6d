"""Facts that need no table: which number is larger, and the order of weekdays and months."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import pandas as pd

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.facts import STATEMENT
from llmprobe.datasets.options import require_choice, require_flag, require_whole
from llmprobe.datasets.registry import dataset
from llmprobe.datasets.synthetic.common import generate

LARGEST = 999_999
_ONES = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen
""".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()

_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_MONTHS = """
January February March April May June July August September October November December
""".split()
NAMES = {"weekdays": ("day", _DAYS), "months": ("month", _MONTHS)}
# Each template that says "before" has a counterpart that says "after", so that the name that comes
# last in the text does not go with a label.
ORDER = {
    "comes_before": "{earlier} [comes] before {later} in the calendar year.",
    "comes_after": "{later} [comes] after {earlier} in the calendar year.",
    "is_earlier": "{earlier} [is] earlier in the year than {later}.",
    "is_later": "{later} [is] later in the year than {earlier}.",
}
OFFSET = {
    "is_after": "{later} [is] {gap} after {earlier}.",
    "is_before": "{earlier} [is] {gap} before {later}.",
    "the_one_after": "The {unit} {gap} after {earlier} [is] {later}.",
    "the_one_before": "The {unit} {gap} before {later} [is] {earlier}.",
    "will_be": "If it is {earlier} now, it [will be] {later} in {gap}.",
    "was": "If it is {later} now, it [was] {earlier} {gap} ago.",
}
NEGATED = {"comes": "does not come", "is": "is not", "will be": "will not be", "was": "was not"}
"""What replaces the verb, which stands in brackets."""
TEMPLATES = {"order": ORDER, "offset": OFFSET}


@dataset(
    "number_comparison",
    "facts",
    dial="distance",
    summary="Is a number larger, or smaller, than another?",
)
def number_comparison(
    n: int = 1000,
    seed: int = 0,
    low: int = 1,
    high: int = 99,
    distance: int = 20,
    digits: bool = False,
) -> ConceptDataset:
    """Is a statement that one number is larger or smaller than another true (1) or false (0)?

    "Seventy-one is larger than fifty-eight." The first number is at least ``distance`` away from
    both ends of the range, and the second is as often above it as below. The word is chosen so that
    the statement has its label. So the first number and the word together tell nothing, and the
    second number tells something only near the ends. ``groups`` are the unordered pairs of numbers.
    The variant "negation" has the same label: "Fifty-eight is not larger than seventy-one."

    Parameters
    ----------
    n
        How many different texts; half of them are true, and with an odd ``n`` one more.
    seed
        The same seed gives the same texts.
    low, high
        The smallest and the largest number.
    distance
        The largest difference of the two numbers; closer ones are harder.
    digits
        "81" instead of "eighty-one".

    Raises
    ------
    UserError
        An option is out of its range, or there are fewer than ``n`` different texts.
    """
    name = "number_comparison"
    require_whole(name, "low", low, 0, LARGEST - 2)
    require_whole(name, "high", high, low + 2, LARGEST)
    require_whole(name, "distance", distance, 1, (high - low) // 2)
    require_flag(name, "digits", digits)

    def write(rng: np.random.Generator, true: int) -> tuple[str, dict[str, object]]:
        first = int(rng.integers(low + distance, high - distance, endpoint=True))
        gap = int(rng.integers(1, distance, endpoint=True))
        second = first + gap * int(rng.choice([-1, 1]))
        word = "larger" if (first > second) == bool(true) else "smaller"
        start, end = (str(number) if digits else spelled(number) for number in (first, second))
        start = start.capitalize()
        fields = {"first": start, "second": end, "word": word, "distance": gap}
        return f"{start} is {word} than {end}.", fields

    statements = generate(
        name,
        write,
        n=n,
        seed=seed,
        answers=("false", "true"),
        description="Is the comparison of the two numbers true (1) or false (0)?",
    )
    firsts, seconds = statements.fields["first"].str.lower(), statements.fields["second"]
    return replace(
        statements,
        labels=(statements.labels == "true").astype(int),
        groups=_groups(firsts, seconds),
        **STATEMENT,
        variants={
            "negation": [
                [f"{second.capitalize()} is not {word} than {first}."]
                for first, second, word in zip(
                    firsts, seconds, statements.fields["word"], strict=True
                )
            ]
        },
    )


def _groups(ones: Iterable[str], others: Iterable[str]) -> np.ndarray:
    """Return the unordered pair of names that each row is about. [n]"""
    return np.array(["|".join(sorted(pair)) for pair in zip(ones, others, strict=True)])


def spelled(number: int) -> str:
    """Return a number up to ``LARGEST`` in words: ``81 -> "eighty-one"``."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")
    size, unit = (100, "hundred") if number < 1000 else (1000, "thousand")
    count, rest = divmod(number, size)
    return f"{spelled(count)} {unit}" + (f" {spelled(rest)}" if rest else "")


@dataset("calendar", "facts", summary="Do weekdays or months stand in this order?")
def calendar(names: str = "both") -> ConceptDataset:
    """Is a statement about the order of weekdays or months true (1) or false (0)?

    All statements of two relations. *offset*: "Thursday is two days after Tuesday.", "If it is
    June now, it was March three months ago."; weeks and years are cycles. *order*, only of months
    since weeks begin on different days: "March comes before June in the calendar year." A false
    statement is a true one with the two names exchanged, so it has the same words. Months half a
    year apart have no offset, since the exchanged statement would be true as well. ``groups`` are
    the unordered pairs of names.

    Fields: ``earlier`` and ``later``, as the statement has it; ``gap``, by how many days or
    months; ``unit``, ``relation``, ``template``. The variants have the same label:
    "paraphrase_template", what the statement says in the other templates, and "negation", which
    turns "March comes before June …" into "June does not come before March …".

    Parameters
    ----------
    names
        "weekdays", "months" or "both".

    Raises
    ------
    UserError
        ``names`` is none of these.
    """
    require_choice("calendar", "names", names, (*NAMES, "both"))
    units = NAMES if names == "both" else {names: NAMES[names]}
    rows, paraphrases, negations = [], [], []
    for claim in (claim for unit, cycle in units.values() for claim in _claims(unit, cycle)):
        texts = claim.texts()
        denied = claim.exchanged().texts(negated=True)
        for template, text in texts.items():
            rows.append({"text": text, "template": template, **vars(claim)})
            paraphrases.append([other for other in texts.values() if other != text])
            negations.append([denied[template]])
    table = pd.DataFrame(rows)
    return ConceptDataset(
        name="calendar",
        texts=table["text"].tolist(),
        labels=table["true"].to_numpy(dtype=int),
        groups=_groups(table["earlier"], table["later"]),
        fields=table[["unit", "relation", "template", "earlier", "later", "gap"]],
        variants={"paraphrase_template": paraphrases, "negation": negations},
        source="generated",
        licence="Apache-2.0",
        version="1",
        description="Is the order of these weekdays or months true (1) or false (0)?",
        **STATEMENT,
    )


@dataclass(frozen=True)
class _Claim:
    """A claim that a weekday or month is ``gap`` before another, or before it in the year."""

    relation: str
    unit: str
    earlier: str
    later: str
    gap: int
    true: bool

    def exchanged(self) -> _Claim:
        """Return the claim with its names exchanged, which is true where this one is false."""
        return replace(self, earlier=self.later, later=self.earlier, true=not self.true)

    def texts(self, *, negated: bool = False) -> dict[str, str]:
        """Return what the claim says in each template of its relation, or its negation."""
        gap = f"{spelled(self.gap)} {self.unit}" + ("s" if self.gap > 1 else "")
        words = {"earlier": self.earlier, "later": self.later, "unit": self.unit, "gap": gap}

        def verb(match: re.Match[str]) -> str:
            return NEGATED[match[1]] if negated else match[1]

        return {
            key: re.sub(r"\[(.+?)\]", verb, template).format_map(words)
            for key, template in TEMPLATES[self.relation].items()
        }


def _claims(unit: str, cycle: list[str]) -> Iterator[_Claim]:
    """Yield each true claim, followed by the false one that exchanges its names."""
    for (i, one), (j, other) in permutations(enumerate(cycle), 2):
        gap = (j - i) % len(cycle)
        if 2 * gap != len(cycle):
            claim = _Claim("offset", unit, one, other, gap, true=True)
            yield from (claim, claim.exchanged())
        if unit == "month" and i < j:
            claim = _Claim("order", unit, one, other, gap, true=True)
            yield from (claim, claim.exchanged())
