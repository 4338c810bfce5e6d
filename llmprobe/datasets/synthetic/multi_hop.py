"""Who is the boss of someone's friend, with two chains of people that have both relations?"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from llmprobe.datasets.options import require_whole
from llmprobe.datasets.synthetic.common import GIVEN_NAMES, Write, synthetic

RELATIONS = "boss coach dentist doctor friend landlord lawyer mentor neighbor tailor teacher tutor"
HOPS = (1, 8)


@synthetic(
    "multi_hop",
    "Does a chain of relations lead to this person?",
    answers=("no", "yes"),
    description="Is the person asked about where the chain of relations leads: yes or no?",
    source="generated, after Weston et al. (2015)",
    dial="hops",
)
def multi_hop(hops: int = 2) -> Write:
    """Does a chain of relations lead from one person to another (yes or no)?

    "The boss of Bo is Cem. The friend of Dee is Eli. The friend of Al is Bo. The boss of Eli is
    Fay. Is Cem the boss of the friend of Al?": a question that takes several supporting facts
    (Weston et al. 2015, "Towards AI-complete question answering", tasks 2 and 3). A second chain
    has the same relations in the same order, but starts at somebody else; all sentences stand in
    random order.

    If the answer is "no", the chains have exchanged their last people, so that the person asked
    about is the end of the other chain. So a text has the same words for both answers.

    Parameters
    ----------
    hops
        Different relations in each chain, from 1, where one sentence has the answer, to 8.

    Raises
    ------
    UserError
        A number is out of its range.
    """
    require_whole("multi_hop", "hops", hops, *HOPS)

    def write(rng: np.random.Generator, answer: int) -> tuple[str, Mapping[str, object]]:
        relations = rng.choice(RELATIONS.split(), size=hops, replace=False).tolist()
        people = rng.choice(GIVEN_NAMES, size=2 * (hops + 1), replace=False).tolist()
        chain, other = people[: hops + 1], people[hops + 1 :]
        start, asked = chain[0], chain[-1]
        if not answer:
            chain[-1], other[-1] = other[-1], chain[-1]
        premises = [
            f"The {relation} of {one} is {next_}."
            for way in (chain, other)
            for relation, (one, next_) in zip(relations, pairwise(way), strict=True)
        ]
        path = " of the ".join(reversed(relations))
        question = f"Is {asked} the {path} of {start}?"
        text = " ".join([*rng.permutation(premises), question])
        fields = {"asked": asked, "path": path, "start": start}
        return text, {**fields, "bridge": chain[-2], "answer": chain[-1], "hops": hops}

    return write
