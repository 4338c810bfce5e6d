"""Does a conclusion about nonsense nouns follow from its premises?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

from llmprobe.datasets.options import require_whole
from llmprobe.datasets.synthetic.common import Write, synthetic

PREMISES = (2, 5)
WORDING = {
    "A": "all {} are {}",
    "E": "no {} are {}",
    "I": "some {} are {}",
    "O": "some {} are not {}",
}
_STARTS = "blo cli dro fle fri glo gre ju klo kru mu ni plo qua ro sku sno spa sti thi tro vi wo zu"
_ENDS = "bbid ckem ddup fflan gdon lbot lpeg mbrit mmud ndrap ngob pprig rlen rvud skem ttog zzik"
NOUNS = [f"{start}{end}s" for start in _STARTS.split() for end in _ENDS.split()]
"""Plurals; no singular and no plural is a word of English."""


class Statement(NamedTuple):
    """A statement ``WORDING[kind]`` about two terms, which are numbers."""

    kind: str
    subject: int
    predicate: int


Argument = list[Statement]
"""Premises that join term 0 to 1, 1 to 2, …, and a conclusion about the first and the last."""


@synthetic(
    "syllogism",
    "Does a conclusion about nonsense nouns follow?",
    answers=("invalid", "valid"),
    description="Does the conclusion follow from the premises: is the argument valid?",
    source="generated, after Dasgupta et al. (2022)",
    dial="premises",
)
def syllogism(premises: int = 2) -> Write:
    """Does the conclusion of an argument about nonsense nouns follow (valid or invalid)?

    "No glongobs are vilpegs. All blogdons are glongobs. Therefore, no blogdons are vilpegs.": the
    syllogism and, from three premises on, the sorites, with nouns about which nobody believes
    anything (Dasgupta et al. 2022, "Language models show human-like content effects on
    reasoning"). The premises form a chain from the one noun of the conclusion to the other, and
    stand in random order.

    The statements say "all", "no", "some", or "some … not". First the quantifiers are drawn, and
    how many nouns are a subject twice, from the choices that allow both answers; then the answer;
    then which quantifier and noun goes where. So a text has the same words for both answers, and as
    many of each before a full stop. These choices leave out arguments that are valid only for
    Aristotle (all A are B, all B are C, so some A are C): the answer is the same whether or not
    nouns may have no instance, as in modern logic.

    Parameters
    ----------
    premises
        From 2 to 5.

    Raises
    ------
    UserError
        A number is out of its range.
    """
    require_whole("syllogism", "premises", premises, *PREMISES)
    choices = _arguments(premises)

    def write(rng: np.random.Generator, answer: int) -> tuple[str, Mapping[str, object]]:
        arguments = choices[rng.integers(len(choices))]
        nouns = rng.choice(NOUNS, size=premises + 1, replace=False).tolist()
        argument = arguments[answer][rng.integers(len(arguments[answer]))]
        # Ordered by how often they are a subject, so that this does not depend on the answer.
        terms = sorted(range(premises + 1), key=_subjects(argument).count)
        noun_of = dict(zip(terms, nouns, strict=True))
        *before, conclusion = (
            WORDING[kind].format(noun_of[subject], noun_of[predicate])
            for kind, subject, predicate in argument
        )
        sentences = [f"{sentence.capitalize()}." for sentence in rng.permutation(before).tolist()]
        fields = {
            "mood": "".join(statement.kind for statement in argument),
            "subject": noun_of[argument[-1].subject],
            "predicate": noun_of[argument[-1].predicate],
            "premises": premises,
        }
        return " ".join([*sentences, f"Therefore, {conclusion}."]), fields

    return write


@cache
def _arguments(premises: int) -> list[tuple[list[Argument], list[Argument]]]:
    """Return invalid and valid arguments with the same words, wherever there are both."""
    by_words: dict[tuple[object, ...], tuple[list[Argument], list[Argument]]] = defaultdict(
        lambda: ([], [])
    )
    # A type of things is a number, with a bit for each term that is true of it. A set of types is
    # a number with a bit for each type.
    types = range(2 ** (premises + 1))
    within = [sum(1 << t for t in types if t >> term & 1) for term in range(premises + 1)]
    links = [
        [Statement(kind, *ends) for kind in WORDING for ends in ((i, i + 1), (i + 1, i))]
        for i in range(premises)
    ]
    for chain in product(*links):
        for kind in WORDING:
            argument = [*chain, Statement(kind, 0, premises)]
            subjects = _subjects(argument)
            twice = len(subjects) - len(set(subjects))
            quantifiers = sorted(statement.kind for statement in chain)
            by_words[*quantifiers, kind, twice][_is_valid(argument, within)].append(argument)
    return [arguments for arguments in by_words.values() if all(arguments)]


def _subjects(argument: Argument) -> list[int]:
    return [statement.subject for statement in argument]


def _is_valid(argument: Argument, within: list[int]) -> bool:
    """Whether nothing that may exist, given the premises, contradicts the conclusion.

    Parameters
    ----------
    within
        For each term, the set of types of which it is true.
    """
    *premises, conclusion = argument
    possible = -1  # every type
    for premise in premises:
        if premise.kind in "AE":
            possible &= ~_at_issue(premise, within)
    at_issue = _at_issue(conclusion, within)
    if conclusion.kind in "AE":
        return not possible & at_issue
    # A "some" premise says that a thing of one of these types exists; the conclusion follows if it
    # is true of every one of them.
    witnesses = [possible & _at_issue(p, within) for p in premises if p.kind in "IO"]
    return any(not types & ~at_issue for types in witnesses)


def _at_issue(statement: Statement, within: list[int]) -> int:
    """Return the types that "all" and "no" exclude, and of which "some" says that one exists."""
    kind, subject, predicate = statement
    return within[subject] & (within[predicate] if kind in "EI" else ~within[predicate])
