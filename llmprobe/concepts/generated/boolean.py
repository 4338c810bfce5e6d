"""Whether a nested logical expression is true."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from llmprobe.concepts.dataset import ConceptDataset
from llmprobe.concepts.generated.common import check_whole, generated
from llmprobe.concepts.registry import dataset

OPERANDS = 8
DEPTHS = (1, 6)
TRUE, FALSE = ("True", "not False"), ("False", "not True")

_AT_ONCE = 128
"""Arrangements that are tried together; of so many, one is nearly always as wanted."""


@dataset(
    "boolean", "reasoning", dial="depth", summary="Is a nested expression of and, or, not true?"
)
def boolean(n: int = 1000, seed: int = 0, depth: int = 4) -> ConceptDataset:
    """Is a nested expression of "and", "or" and "not" true or false?

    Parameters
    ----------
    n
        Texts, no two the same: half "true", half "false"; an odd ``n`` has one "true" more.
    seed
        The same one gives the same texts.
    depth
        How many operators one has to look into, from the outermost on.

    Raises
    ------
    UserError
        A number is out of its range.
    """
    check_whole("boolean", "depth", depth, *DEPTHS)

    def write(rng: np.random.Generator, answer: int) -> tuple[str, Mapping[str, object]]:
        trues = int(rng.integers(3, 6))
        ands = trues - int(rng.integers(2))
        words = np.append(rng.choice(TRUE, trues), rng.choice(FALSE, OPERANDS - trues))
        negated = int(rng.integers(3))
        operand_first = rng.integers(2, size=OPERANDS - 1).astype(bool)
        while True:
            operands = _shuffles(rng, OPERANDS)
            are_and = _shuffles(rng, OPERANDS - 1) < ands
            are_not = _shuffles(rng, OPERANDS - 2) < negated
            needed, value = _evaluate(operands < trues, are_and, are_not)
            (fitting,) = np.nonzero((needed == depth) & (value == bool(answer)))
            if len(fitting):
                break
        i = fitting[0]
        expression = _expression(words[operands[i]], are_and[i], are_not[i], operand_first)
        fields = {"expression": expression, "trues": trues, "ands": ands}
        return f"{expression} is", {**fields, "depth": depth}

    return generated(
        "boolean",
        write,
        n=n,
        seed=seed,
        answers=("false", "true"),
        description="Is the value of the expression true or false?",
        source="generated, after Suzgun et al. (2022)",
    )


def _shuffles(rng: np.random.Generator, size: int) -> np.ndarray:
    """Independent random orders of 0 … size - 1. -> [_AT_ONCE, size]"""
    return rng.permuted(np.tile(np.arange(size), (_AT_ONCE, 1)), axis=1)


def _evaluate(
    operands: np.ndarray, are_and: np.ndarray, are_not: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How many operators decide the value of each chain, and the value. -> [m], [m]

    Where no operand decides before the innermost operator, all of them do.

    Parameters
    ----------
    operands
        Whether each is true, from the outermost to the innermost. [m, OPERANDS]
    are_and
        Whether each operator is "and". [m, OPERANDS - 1]
    are_not
        Whether "not" stands before what is inside each operator. [m, OPERANDS - 2]
    """
    decides = (operands[:, :-1] != are_and)[:, : DEPTHS[1]]  # "False and", "True or"
    level = np.where(decides.any(axis=1), decides.argmax(axis=1), -1)
    deciding = np.take_along_axis(operands, level[:, None], axis=1)[:, 0]
    nots_around = (are_not & (np.arange(OPERANDS - 2) < level[:, None])).sum(axis=1)
    return level + 1, deciding ^ (nots_around % 2 == 1)


def _expression(
    operands: np.ndarray, are_and: np.ndarray, are_not: np.ndarray, operand_first: np.ndarray
) -> str:
    """The chain from the innermost operand outwards, without parentheses around it all."""
    *outer, inside = operands.tolist()
    for level in range(OPERANDS - 2, -1, -1):
        if level < OPERANDS - 2:
            inside = f"not ( {inside} )" if are_not[level] else f"( {inside} )"
        operator = " and " if are_and[level] else " or "
        sides = (outer[level], inside)
        inside = operator.join(sides if operand_first[level] else sides[::-1])
    return inside
