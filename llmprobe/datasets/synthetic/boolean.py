"""Whether a nested logical expression is true."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from llmprobe.datasets.options import require_whole
from llmprobe.datasets.synthetic.common import Write, synthetic

OPERANDS = 8
# With 6, what is left inside is one pair, and without "not (" it has the value opposite to the
# answer.
DEPTHS = (1, 5)
TRUE, FALSE = ("True", "not False"), ("False", "not True")

_AT_ONCE = 128
"""Arrangements that are drawn at a time; nearly always, one of them fits."""


@synthetic(
    "boolean",
    "Is a nested expression of and, or, not true?",
    answers=("false", "true"),
    description="Is the value of the expression true or false?",
    source="generated, after Suzgun et al. (2022)",
    dial="depth",
)
def boolean(depth: int = 3) -> Write:
    """Is a nested expression of "and", "or" and "not" true or false?

    "False or ( not ( True and ( … ) ) and True ) is", as the boolean expressions of BIG-Bench Hard
    (Suzgun et al. 2022, "Challenging BIG-Bench tasks and whether chain-of-thought can solve
    them"), except that parentheses leave nothing to precedence. Every expression is a chain of
    seven operators: each joins one operand, on its left or right, with everything further inside,
    in parentheses; the innermost joins two operands. Of the eight operands ("True", "not False",
    "False" or "not True"), three to five are true. "and" occurs as often as true operands do, or
    once less. At most two of the parentheses are negated.

    The dial changes only the arrangement. From outside, the first operand that decides ("False and"
    or "True or", whatever is inside) is at operator number ``depth``. The operands before it ("True
    and", "False or") leave the value open.

    Operands, operators, negations and sides are drawn before the answer; then they are shuffled
    until the expression has that value. So a text has the same words for both answers and for every
    ``depth``, and parentheses are words of their own. Only the places of the words tell something.
    Pairs of neighbouring words alone reach an accuracy of 0.70 to 0.72 at depth 1 and of 0.50 to
    0.56 from 2 to 5. The 14 words at each end, each with its place, reach 0.99 at depth 1, where
    the first operand or the last decides; then 0.75, 0.63, 0.55 and 0.52. And at every depth, the
    innermost pair has the value opposite to the answer in about six texts of ten: both answers have
    the same words, but use up different ones outside.

    Fields: ``expression``, ``trues`` (true operands), ``ands``, ``depth``.

    Parameters
    ----------
    depth
        The dial: how many operators deep one has to look for the value, from 1 to 5. "not" does
        not count.

    Raises
    ------
    UserError
        A number is out of its range.
    """
    require_whole("boolean", "depth", depth, *DEPTHS)

    def write(rng: np.random.Generator, answer: int) -> tuple[str, Mapping[str, object]]:
        trues = int(rng.integers(3, 6))
        # "True and" and "False or" fill the outside in pairs. If the two numbers differed more,
        # what remains would tell more of the answer, or allow only one.
        ands = trues - int(rng.integers(2))
        negated = int(rng.integers(3))
        words = np.append(rng.choice(TRUE, trues), rng.choice(FALSE, OPERANDS - trues))
        operand_first = rng.integers(2, size=OPERANDS - 1).astype(bool)
        fitting: list[int] = []
        while not fitting:
            operands = _shuffles(rng, OPERANDS)
            are_and = _shuffles(rng, OPERANDS - 1) < ands
            are_not = _shuffles(rng, OPERANDS - 2) < negated
            decided, value = _decided(operands < trues, are_and, are_not, depth)
            fitting = np.flatnonzero(decided & (value == bool(answer))).tolist()
        drawn = fitting[0]
        expression = _expression(
            words[operands[drawn]].tolist(), are_and[drawn], are_not[drawn], operand_first
        )
        fields = {"expression": expression, "trues": trues, "ands": ands, "depth": depth}
        return f"{expression} is", fields

    return write


def _shuffles(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw random orders of the numbers from 0 to ``size`` - 1. [_AT_ONCE, size]"""
    return rng.permuted(np.tile(np.arange(size), (_AT_ONCE, 1)), axis=1)


def _decided(
    operands: np.ndarray, are_and: np.ndarray, are_not: np.ndarray, depth: int
) -> tuple[np.ndarray, np.ndarray]:
    """Whether the operand at operator ``depth`` is the first to decide, and the value if so.

    Parameters
    ----------
    operands
        Which operands are true, from the outermost to the innermost. [m, OPERANDS]
    are_and
        Which operators are "and", in the same order. [m, OPERANDS - 1]
    are_not
        Which operators have "not" before what is inside. [m, OPERANDS - 2]

    Returns
    -------
    [m] and [m]
    """
    decides = operands[:, :depth] != are_and[:, :depth]  # "False and", "True or"
    first = decides[:, -1] & ~decides[:, :-1].any(axis=1)
    inverted = are_not[:, : depth - 1].sum(axis=1) % 2 == 1
    return first, operands[:, depth - 1] ^ inverted


def _expression(
    operands: list[str], are_and: np.ndarray, are_not: np.ndarray, operand_first: np.ndarray
) -> str:
    """Write the chain from the innermost operand outwards, without parentheses around it all.

    From the outermost to the innermost: operands [OPERANDS], the rest as in ``_decided``, and
    whether an operator's operand is on its left [OPERANDS - 1].
    """
    *outer, inside = operands
    for level in reversed(range(len(outer))):
        sides = (outer[level], inside) if operand_first[level] else (inside, outer[level])
        inside = (" and " if are_and[level] else " or ").join(sides)
        if level > 0:
            inside = f"not ( {inside} )" if are_not[level - 1] else f"( {inside} )"
    return inside
