"""Who is taller, when it takes several comparisons to know."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from llmprobe.datasets.options import require_whole
from llmprobe.datasets.synthetic.common import GIVEN_NAMES, Write, synthetic

RELATIONS = "braver faster happier heavier kinder louder older quicker richer stronger taller wiser"
PEOPLE = (5, 10)


@synthetic(
    "transitive_order",
    "Who is taller, by comparisons in between?",
    answers=("no", "yes"),
    description="Is the first person taller (older, …) than the second: yes or no?",
    source="generated, after Clark (1969) and Bryant and Trabasso (1971)",
    dial="distance",
)
def transitive_order(distance: int = 2, people: int = 8) -> Write:
    """Is one person taller (older, …) than another, as a chain of comparisons tells (yes or no)?

    "Cem is older than Bo. Al is older than Cem. … Is Al older than Bo is?": the linear
    syllogism of Clark (1969, "Linguistic processes in deductive reasoning"). The sentences stand
    in random order, and the two people asked about are ``distance`` places apart. As in Bryant and
    Trabasso (1971, "Transitive inferences and memory in young children"), neither is an end of
    the order, which would give itself away by being named only first, or only second.

    For the other answer the two names in the question change places; neither stands next to the
    question mark. So a text has the same words for both answers, and the dial does not change how
    many.

    Parameters
    ----------
    distance
        Comparisons to be joined, from 1, where one sentence has the answer, to ``people - 3``.
    people
        People in the order, from 5, as in the experiment of 1971, to 10.

    Raises
    ------
    UserError
        A number is out of its range.
    """
    require_whole("transitive_order", "people", people, *PEOPLE)
    require_whole("transitive_order", "distance", distance, 1, people - 3)

    def write(rng: np.random.Generator, answer: int) -> tuple[str, Mapping[str, object]]:
        relation = str(rng.choice(RELATIONS.split()))
        order = rng.choice(GIVEN_NAMES, size=people, replace=False).tolist()
        place = int(rng.integers(1, people - 1 - distance))
        before, after = order[place], order[place + distance]
        first, second = (before, after) if answer else (after, before)
        premises = [f"{one} is {relation} than {next_}." for one, next_ in pairwise(order)]
        question = f"Is {first} {relation} than {second} is?"
        text = " ".join([*rng.permutation(premises), question])
        fields = {"relation": relation, "first": first, "second": second}
        return text, {**fields, "distance": distance, "people": people}

    return write
