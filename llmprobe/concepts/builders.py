"""The datasets that come with the package: one shipped, one generated."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from llmprobe.concepts.dataset import ConceptDataset
from llmprobe.concepts.registry import dataset
from llmprobe.errors import UserError
from llmprobe.files import shipped

NEGATIVES = ("mixed", "hard", "easy")
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


@dataset("capitals", "facts")
def capitals(negatives: str = "mixed", templates: str | Sequence[str] = "all") -> ConceptDataset:
    """Is a statement about the capital of a country true (1) or false (0)?

    181 members of the UN with one undisputed capital, in five templates; as many true statements
    as false ones. A hard false statement names another city of the country, an easy one the
    capital of a country in another continent. ``groups`` are pairs of countries that exchange
    their capitals for the easy statements, so that no city stands on both sides of a split;
    ``scripts/build_capitals.py`` has the rules.

    Parameters
    ----------
    negatives
        "hard" or "easy": only that kind; ten countries without a second city, such as
        Singapore, have no hard statement and are left out with "hard". "mixed": alternately, over
        countries and templates; easy where there is no hard one.
    templates
        "all", or the ids of those to keep: capital_is, is_capital, possessive, called, serves.

    Raises
    ------
    UserError
        An option has a value that is not allowed.
    """
    table = pd.read_csv(shipped("data") / "capitals.csv", keep_default_na=False)
    if negatives not in NEGATIVES:
        raise UserError(
            f"dataset 'capitals': negatives is {negatives!r}; allowed: {', '.join(NEGATIVES)}"
        )
    known = table["template"].unique().tolist()
    chosen = list(templates) if isinstance(templates, list | tuple) else [templates]
    if templates == "all":
        chosen = known
    if not chosen or not all(template in known for template in chosen):
        raise UserError(
            f"dataset 'capitals': templates is {templates!r}; "
            f"allowed: 'all', or some of {', '.join(known)}"
        )
    has_hard = table["country"].isin(table.loc[table["kind"] == "hard", "country"])
    turn = table["country"].factorize()[0] + table["template"].factorize()[0]
    alternately = np.where(has_hard & (turn % 2 == 0), "hard", "easy")
    wanted = alternately if negatives == "mixed" else negatives
    keep = (table["kind"] == "true") | (table["kind"] == wanted)
    keep &= table["template"].isin(chosen) & (has_hard | (negatives != "hard"))
    table = table[keep].reset_index(drop=True)
    return ConceptDataset(
        name="capitals",
        texts=table["statement"].tolist(),
        labels=table["label"].to_numpy(),
        groups=table["group"].to_numpy(dtype=str),
        fields=table[["kind", "country", "city", "template"]],
        source="GeoNames (geonames.org) and the CIA World Factbook; scripts/build_capitals.py",
        licence="CC BY 4.0",
        description="Is this city the capital of that country: true (1) or false (0)?",
    )


@dataset("coin_flip", "reasoning", dial="people")
def coin_flip(n: int = 1000, seed: int = 0, people: int = 4) -> ConceptDataset:
    """After some people flip a coin and others do not, is it still heads up (yes or no)?

    The task of Wei et al. (2022, "Chain-of-thought prompting elicits reasoning in large language
    models", section 5), probed by Jin et al. (2024). The answer is the parity of the flips. Every
    pattern of flips with that parity is equally likely; then, from two people on, the mean number
    of flips is the same for both answers, and a linear classifier of word counts is at chance.
    One person alone would flip or not, and a single word would give the answer away.

    Parameters
    ----------
    n
        Texts, no two the same: half "yes", half "no"; an odd ``n`` has one "yes" more.
    seed
        The same one gives the same texts.
    people
        Distinct names in each text, two or more.

    Raises
    ------
    UserError
        A number is out of its range, or there are fewer than ``n`` different texts.
    """
    _check_whole("people", people, 2, len(GIVEN_NAMES))
    # Ordered names, times the patterns of flips of one parity, for each of the two answers.
    texts_in_all = 2 * math.perm(len(GIVEN_NAMES), people) * 2 ** (people - 1)
    _check_whole("n", n, 2, texts_in_all)
    _check_whole("seed", seed, 0, 2**63)

    rng = np.random.default_rng(seed)
    flips_of: dict[str, int] = {}
    for odd in rng.permutation(np.arange(n) % 2):
        while True:
            flips = rng.integers(2, size=people)
            flips[-1] = (odd + flips[:-1].sum()) % 2
            names = rng.choice(GIVEN_NAMES, size=people, replace=False)
            acts = " ".join(
                f"{name} {'flips' if flip else 'does not flip'} the coin."
                for name, flip in zip(names, flips, strict=True)
            )
            text = f"A coin is heads up. {acts} Is the coin still heads up?"
            if text not in flips_of:
                break
        flips_of[text] = int(flips.sum())
    count = np.array(list(flips_of.values()))
    return ConceptDataset(
        name="coin_flip",
        texts=list(flips_of),
        labels=np.where(count % 2 == 0, "yes", "no"),
        fields=pd.DataFrame({"flips": count, "people": people}),
        source="generated, after Wei et al. (2022)",
        licence="Apache-2.0",
        description="Is the coin still heads up: yes or no?",
    )


def _check_whole(option: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UserError(
            f"dataset 'coin_flip': {option} is {value!r}; allowed: a whole number "
            f"from {low} to {high}"
        )
