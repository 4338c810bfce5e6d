"""True and false statements of "The geometry of truth" (Marks and Tegmark, 2023).

Label 1 is true. Groups keep together what differs in the answer alone: without them a statement's
twin, with the other label, is trained on, and a probe that knows the entity answers the opposite.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from llmprobe.datasets.groups import units
from llmprobe.datasets.published.entry import Group, PublishedDataset, register
from llmprobe.datasets.published.files import on_github
from llmprobe.datasets.published.reading import read_separated

_CITATION = (
    "Marks and Tegmark (2023), The geometry of truth: emergent linear structure in large language "
    "model representations of true/false datasets, arXiv 2310.06824"
)
_CODE = (
    "geometry_of_truth", "saprmarks/geometry-of-truth", "5d1c630c44f7e50bda7ad86d601ccadf9abc5ddb",
)  # fmt: skip
_TWINS = {"cities": "jin2024/cities.csv", "counterfact_true_false": "jin2024/counterfact.csv"}


def _statements(path: Path) -> pd.DataFrame:
    return read_separated(path).rename(columns={"statement": "text"})


def _number_pair(table: pd.DataFrame) -> pd.Series:
    """Return one group for "a is larger than b" and "b is larger than a"."""
    numbers = table[["n1", "n2"]]
    return numbers.min(axis=1).astype(str) + " " + numbers.max(axis=1).astype(str)


def _translation(table: pd.DataFrame) -> pd.Series:
    """Group what shares a Spanish or an English word, along chains too: at most six statements.

    With the Spanish word alone a bag of words scores .44, since the English ones come in pairs.
    """
    words = table["text"].str.extract(r"word '(.+?)' (?:means|does not mean) '(.+)'\.$")
    words = words.fillna({0: table["text"], 1: table["text"]})
    return pd.Series(units(words[0].to_numpy(), words[1].tolist()), index=table.index)


def _city_pair(table: pd.DataFrame) -> pd.Series:
    """Group statements on the same two cities, in either order.

    The statements are drawn at random, so that sharing a city chains nearly all of them into one
    group, and there is nothing to split. Nor does it mislead: no city comes with its opposite.
    """
    pairs = zip(table["city1"], table["city2"], strict=True)
    return pd.Series(["|".join(sorted(pair)) for pair in pairs], index=table.index)


def _company(table: pd.DataFrame) -> pd.Series:
    """Group statements by the company that they begin with.

    Most have a statement of a fixed form that tells the name; then it is the longest such name,
    else what stands before the first verb.
    """
    fixed = r"^(.+?) (?:has headquarters in|operates in the industry of) "
    names = set(table["text"].str.extract(fixed, expand=False).dropna())
    verb = re.compile(r" (?:engages|operates|has|is|provides|offers|acts|designs|manufactures) ")

    def company(text: str) -> str:
        known = [name for name in names if text.startswith(f"{name} ")]
        return max(known, key=len) if known else verb.split(text, maxsplit=1)[0]

    return table["text"].map(company)


_SETS: tuple[tuple[str, str, Group, str, int], ...] = (
    ("cities", "Is a city in that country?", "city",
     "f2560a0c1758c69935b50125111b574b71896bb75930dd87b1d8c973c1fa086e", 95_041),
    ("neg_cities", "Is a city not in that country?", "city",
     "66c5c84de98ca15570138c205ab0e3907b57750083fac72a4eacafc3d9ebcea7", 101_025),
    ("sp_en_trans", "Does a Spanish word mean that?", _translation,
     "9afa97c1b8af539a05f47655a80a5c7832c6fdb914885fd24cb4bcccbe2795b5", 15_231),
    ("neg_sp_en_trans", "Does a Spanish word not mean that?", _translation,
     "bec33e37047135b15cdd18c0cb0c66b65fb435ace08910cbcc220ce1ef610c96", 18_063),
    ("larger_than", "Is one number larger than another?", _number_pair,
     "406d6872e97910f3af5a031600d4932b5a567b8666e7545c8b446057471ad723", 105_858),
    ("smaller_than", "Is one number smaller than another?", _number_pair,
     "ee6b7cf668d7e0fb3f49a84ca8d510cb7e484ae029ef86ed238362e26ef61a44", 107_838),
    ("cities_cities_conj", "Are two statements both true?", _city_pair,
     "80e9987e8abcdd56ac8256d22b8ad6c2d6211e06a6c925c32cfcb0bc93d9d56d", 360_000),
    ("cities_cities_disj", "Is at least one of two true?", _city_pair,
     "5f4883382bb3f8664fa9b0a51cfadec507e130bf21c94f3d04776ca923646565", 360_000),
    ("companies_true_false", "Is a statement on a company true?", _company,
     "75a31139def9838dcaa4e2f1e5f3680f44f09f3c94553f9ad3b3a5a476124c8c", 91_000),
    ("common_claim_true_false", "Do people call a claim true?", None,
     "1889b4793c2ebd13c767eea8b65ebd4a5c2da700567677d512097b495a262576", 292_000),
    ("counterfact_true_false", "Is a statement of fact true?", "subject",
     "5af51456d6dbd3a53d8e2ee6e4aadaca7eb02ff9136ad825866458e7283b5273", 3_110_000),
)  # fmt: skip
"""Each set's stem, question, group, and its file's digest and size in bytes."""

for _stem, _question, _group, _sha256, _size in _SETS:
    _twin = _TWINS.get(_stem, "")
    _file = on_github(*_CODE, f"datasets/{_stem}.csv", _sha256, _size, twin=_twin)
    register(
        PublishedDataset(
            f"geometry_of_truth/{_stem}", _question, (_file,), _CITATION, _statements, _group,
            description=f"{_question} Yes (1) or no (0).", family="geometry_of_truth",
        )
    )  # fmt: skip
