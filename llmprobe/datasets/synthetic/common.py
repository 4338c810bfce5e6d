"""What all synthetic tasks share: names, balanced answers, no text twice."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps

import numpy as np
import pandas as pd

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.options import require_whole
from llmprobe.datasets.registry import Builder, dataset
from llmprobe.ground.errors import UserError

# From many languages.
_NAMES = """
Aaron Abigail Adam Aisha Akira Alejandro Alice Amara Amir Ana Andrea Anton Arjun Astrid Ayumi
Beatriz Benjamin Bilal Boris Camila Carlos Chen Chidi Chloe Clara Connor Daniel Dara David Deepa
Diego Dmitri Elena Eli Emma Erik Esther Fatima Felix Femi Fiona Francesca Gabriel Giulia Grace
Gustav Hana Hannah Hassan Henry Hiroshi Hugo Ibrahim Imani Ines Ingrid Isaac Ivan Jamal James
Jasmine Javier Jin John Jorge Julia Kai Kamala Karim Katya Kenji Kofi Kwame Lars Laura Layla Leila
Leo Liam Lina Lucas Luis Malik Marco Maria Mei Miguel Mira Mohammed Nadia Naomi Nia Nikolai Noah
Nora Oliver Olga Omar Oscar Paolo Pedro Petra Priya Quinn Rafael Rania Ravi Rosa Ruth Samuel Sana
Sara Sofia Stefan Sven Tariq Tessa Thabo Thomas Tomas Uma Valentina Victor Wei Yara Yusuf Zainab
Zoe
"""
GIVEN_NAMES = _NAMES.split()

Write = Callable[[np.random.Generator, int], tuple[str, Mapping[str, object]]]
"""From a random generator and the wanted answer (0 or 1) to a text and its fields."""

MOST = 1_000_000
"""The most texts of one dataset; they take minutes to make."""

_TRIES = 1000
"""After this many repeats in a row there are taken to be no more different texts."""


def synthetic(
    name: str,
    summary: str,
    *,
    answers: Sequence[str],
    description: str = "",
    source: str = "generated",
    family: str = "reasoning",
    dial: str | None = None,
) -> Callable[[Callable[..., Write]], Builder]:
    """Return a decorator that registers a dataset of texts that a function writes.

    The function takes the dataset's options as keywords with defaults, checks them, and returns
    a function that writes one text. The options ``n`` (different texts, half of each answer; if
    odd, one more of the second) and ``seed`` (the same seed gives the same texts) are added.

    Parameters
    ----------
    summary
        What is asked of a text, in the line that lists show.
    answers
        What the labels 0 and 1 are called.
    description
        What ``show`` says is asked; by default the summary.
    dial
        The option that makes the task more difficult.
    """

    def decorator(writer: Callable[..., Write]) -> Builder:
        @wraps(writer)
        def build(n: int = 1000, seed: int = 0, **options: object) -> ConceptDataset:
            write = writer(**options)
            return generate(
                name, write, n=n, seed=seed, answers=answers,
                description=description or summary, source=source,
            )  # fmt: skip

        added = inspect.signature(build, follow_wrapped=False).parameters
        options = inspect.signature(writer).parameters
        parameters = [added["n"], added["seed"], *options.values()]
        build.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return dataset(name, family, dial=dial, summary=summary)(build)

    return decorator


def generate(
    name: str,
    write: Write,
    *,
    n: int,
    seed: int,
    answers: Sequence[str],
    description: str,
    source: str = "generated",
) -> ConceptDataset:
    """Generate ``n`` different texts, half for each answer; if odd, one more for the second.

    Parameters
    ----------
    write
        Called with the random generator and 0 or 1, the answer that the text must have.
    answers
        What the labels 0 and 1 are called.

    Raises
    ------
    UserError
        ``n`` or ``seed`` is out of its range, or there are fewer than ``n`` different texts.
    """
    require_whole(name, "n", n, 2, MOST)
    require_whole(name, "seed", seed, 0, 2**63)
    rng = np.random.default_rng(seed)
    labels = rng.permutation((np.arange(n) + 1) % 2)
    rows: dict[str, Mapping[str, object]] = {}
    for label in labels.tolist():
        for _ in range(_TRIES):
            text, fields = write(rng, label)
            if text not in rows:
                break
        else:
            raise UserError(
                f"dataset {name!r}: n is {n}, and with these options there are hardly more than "
                f"{len(rows)} different texts"
            )
        rows[text] = fields
    return ConceptDataset(
        name=name,
        texts=list(rows),
        labels=np.array(answers)[labels],
        fields=pd.DataFrame(list(rows.values())),
        question="{text} Answer:",
        answers={answer: (answer, answer.capitalize()) for answer in answers},
        source=source,
        licence="Apache-2.0",
        version="1",
        description=description,
    )
