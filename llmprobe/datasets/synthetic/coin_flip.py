"""Coin flip: which way up is a coin after some people flipped it?"""

from __future__ import annotations

import numpy as np

from llmprobe.datasets.options import require_flag, require_whole
from llmprobe.datasets.synthetic.common import GIVEN_NAMES, Write, synthetic

SIDES = ("heads", "tails")
MOST_PEOPLE = 20
_LEAST = {False: 2, True: 3}
"""The fewest people, by ``published``: with fewer, words tell the answer or texts are too few."""


@synthetic(
    "coin_flip",
    "Which side of a coin is up after some flipped it?",
    answers=("no", "yes"),
    description="Is the coin heads (or: tails) up: yes or no?",
    source="generated, after Wei et al. (2022)",
    dial="people",
)
def coin_flip(people: int = 4, published: bool = False) -> Write:
    """After some people flip a coin and others do not, is it heads (or tails) up (yes or no)?

    "A coin is heads up. Ana flips the coin. Bob does not flip the coin. Is the coin now tails
    up?", after Wei et al. (2022, "Chain-of-thought prompting elicits reasoning in large language
    models", section 5), probed by Jin et al. (2024).

    No cue is left: the side at first and who flips are fair draws, and the answer decides which
    side is asked for. So neither the number of flips nor a side says anything alone. As
    published, the coin begins heads up and the question is whether it still is; then the number
    of flips is even for "yes". A bag of words still cannot tell, from three people on, but a model
    that counts can: of four people, "exactly two flips" alone is right 7 times in 8.

    Fields: ``start`` and ``asked`` (heads or tails), ``acts`` (the sentences in between;
    ``span:acts`` is where the model has read all flips and not yet what is asked), ``flips``,
    ``people``.

    Parameters
    ----------
    people
        The dial: distinct names in each text, from 2 (3 as published) to 20.
    published
        Whether the coin always begins heads up and the question is "still heads up?".

    Raises
    ------
    UserError
        A number is out of its range.
    """
    require_flag("coin_flip", "published", published)
    require_whole("coin_flip", "people", people, _LEAST[published], MOST_PEOPLE)

    def write(rng: np.random.Generator, yes: int) -> tuple[str, dict[str, object]]:
        flips = rng.integers(2, size=people)
        if published:
            flips[-1] = (flips[:-1].sum() + 1 - yes) % 2
        acts = " ".join(
            f"{name} {'flips' if flip else 'does not flip'} the coin."
            for name, flip in zip(rng.permutation(GIVEN_NAMES), flips, strict=False)
        )
        start = 0 if published else rng.integers(2)
        tails = (start + flips.sum()) % 2
        asked = tails if yes else 1 - tails
        when = "still" if published else "now"
        text = f"A coin is {SIDES[start]} up. {acts} Is the coin {when} {SIDES[asked]} up?"
        fields = {
            "start": SIDES[start],
            "acts": acts,
            "flips": int(flips.sum()),
            "people": people,
            "asked": SIDES[asked],
        }
        return text, fields

    return write
