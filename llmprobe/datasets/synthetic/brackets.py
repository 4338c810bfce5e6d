"""Brackets: does each closing bracket match the last one that is open?"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from llmprobe.datasets.options import require_whole
from llmprobe.datasets.synthetic.common import Write, synthetic

KINDS = ("()", "[]", "{}", "<>")
PAIRS = 12


@synthetic(
    "brackets",
    "Is a sequence of brackets balanced?",
    answers=("no", "yes"),
    description="Are these brackets balanced: yes or no?",
    dial="nesting",
)
def brackets(nesting: int = 4) -> Write:
    """Is a sequence of 24 brackets of four kinds balanced (yes or no)?

    "Take the brackets ( [ ] { } ) … in this order. Are they balanced?" Balanced sequences of k
    kinds, nested at most m deep, are the language Dyck-(k, m) of Hewitt et al. (2020, "RNNs can
    generate bounded hierarchical languages with optimal memory").

    No cue is left: the places of opening and closing brackets and their kinds are drawn first,
    then the answer, and for "no" two closing brackets of different kinds change places. So each
    bracket is equally frequent under both answers. Each of these two closes a pair that encloses
    something, but not everything: neither two neighbours nor the two ends show the error. Four
    neighbours do if the pair encloses only one other, as in "( [ ] }".

    Fields: ``sequence``, ``wrong`` (which bracket, counted from 1, is the first that does not
    match; 0 where balanced), ``nesting``.

    Parameters
    ----------
    nesting
        The dial: the most brackets that are open at a time, from 2 to 12. With 1, partners are
        neighbours, and any error would be seen in two of them.

    Raises
    ------
    UserError
        A number is out of its range.
    """
    require_whole("brackets", "nesting", nesting, 2, PAIRS)

    def write(rng: np.random.Generator, yes: int) -> tuple[str, dict[str, object]]:
        swaps: list[tuple[int, int]] = []
        while not swaps:
            steps = _steps(rng, nesting)
            opening_of = _partners(steps)
            kind = np.empty(2 * PAIRS, dtype=int)
            drawn = rng.integers(len(KINDS), size=PAIRS)
            kind[list(opening_of)] = kind[list(opening_of.values())] = drawn
            inner = [i for i, opening in opening_of.items() if 1 < i - opening < 2 * PAIRS - 1]
            swaps = [
                (i, j)
                for i, j in combinations(inner, 2)
                # Otherwise ") (" of one kind would be more frequent in unbalanced sequences.
                if kind[i] != kind[j] and opening_of[j] != i + 1
            ]
        wrong = 0
        if not yes:
            i, j = swaps[rng.integers(len(swaps))]
            kind[[i, j]] = kind[[j, i]]
            wrong = i + 1
        sequence = " ".join(KINDS[k][step < 0] for k, step in zip(kind, steps, strict=True))
        text = f"Take the brackets {sequence} in this order. Are they balanced?"
        return text, {"sequence": sequence, "wrong": wrong, "nesting": nesting}

    return write


def _steps(rng: np.random.Generator, nesting: int) -> list[int]:
    """Draw 1 for an opening bracket, -1 for a closing one; at most ``nesting`` are open. [2 PAIRS]

    Start with ``nesting`` pairs, one inside the other; insert the others wherever fewer are open.
    """
    steps = [1] * nesting + [-1] * nesting
    for _ in range(PAIRS - nesting):
        depth = np.cumsum([0, *steps])
        place = int(rng.choice(np.flatnonzero(depth < nesting)))
        steps[place:place] = [1, -1]
    return steps


def _partners(steps: list[int]) -> dict[int, int]:
    """Return the place of each closing bracket, in order, with that of the one that it closes."""
    still_open: list[int] = []
    opening_of = {}
    for place, step in enumerate(steps):
        if step > 0:
            still_open.append(place)
        else:
            opening_of[place] = still_open.pop()
    return opening_of
