"""Arithmetic: is a sum right, where only the carries tell?"""

from __future__ import annotations

import numpy as np

from llmprobe.datasets.options import require_whole
from llmprobe.datasets.synthetic.common import Write, synthetic

LEAST_DIGITS, MOST_DIGITS = 3, 12


@synthetic(
    "arithmetic",
    "Is a sum right, or wrong by a carry?",
    answers=("no", "yes"),
    description="Is this sum of two numbers right: yes or no?",
    dial="carries",
)
def arithmetic(carries: int = 2, digits: int = 5) -> Write:
    """Is the sum of two numbers right (yes or no)? A wrong one has a carry in the wrong place.

    "45271 + 31564 = 76835. Is this right?" Transformers add digits and carries separately, in
    different layers (Kruthoff 2024, "Carrying over algorithm in transformers").

    In a wrong sum one carry is forgotten and one is made up: one digit is 1 too small, another 1
    too large. So the last digit, the sum of the digits and the number of carries are right.

    No cue is left. First the columns that carry are drawn; then each column's sum modulo 10, from
    the same distribution whether it carries or not; then digits with that sum; then the columns
    that carry in the claimed sum. So each of the three numbers has the same distribution under
    both answers. For that, no column adds up to 9 or 19 before its carry, so that no carry causes
    the next, and the first column does not carry: all three numbers have ``digits`` digits.

    Fields: ``a``, ``b``, ``claimed`` (what the text says their sum is), ``sum`` (what it is),
    ``carries``, ``digits``.

    Parameters
    ----------
    carries
        The dial: columns that carry, from 1 to ``digits`` - 2, since a wrong sum needs a column
        that carries, and one that could carry and does not.
    digits
        Of each of the three numbers, from 3 to 12.

    Raises
    ------
    UserError
        A number is out of its range.
    """
    require_whole("arithmetic", "digits", digits, LEAST_DIGITS, MOST_DIGITS)
    require_whole("arithmetic", "carries", carries, 1, digits - 2)
    place_values = 10 ** np.arange(digits)

    def write(rng: np.random.Generator, yes: int) -> tuple[str, dict[str, object]]:
        # From the units upwards; the last column, the numbers' first, does not carry.
        carry = np.append(rng.permutation(digits - 1) < carries, False)
        believed = carry.copy()
        if not yes:
            forgotten = rng.choice(np.flatnonzero(carry))
            made_up = rng.choice(np.flatnonzero(~carry[:-1]))
            believed[[forgotten, made_up]] = False, True
        column = rng.integers(9, size=digits)
        column[-1] = rng.integers(2, 9)
        least, most = np.where(carry, column + 1, 0), np.where(carry, 9, column)
        least[-1], most[-1] = 1, column[-1] - 1  # No number begins with 0.
        a_digits = rng.integers(least, most + 1)
        a = int(a_digits @ place_values)
        b = int((column + 10 * carry - a_digits) @ place_values)
        claimed = int((column + np.roll(believed, 1)) @ place_values)
        text = f"{a} + {b} = {claimed}. Is this right?"
        fields = {"a": a, "b": b, "claimed": claimed, "sum": a + b}
        return text, {**fields, "carries": carries, "digits": digits}

    return write
