"""Groups of texts that are no column of their own: which texts no split may tear apart."""

from __future__ import annotations

import re

import pandas as pd

from llmprobe.datasets.groups import joined


def number_pair(table: pd.DataFrame) -> pd.Series:
    """Return one group for "a is larger than b" and "b is larger than a"."""
    numbers = table[["n1", "n2"]]
    return numbers.min(axis=1).astype(str) + " " + numbers.max(axis=1).astype(str)


def translation(table: pd.DataFrame) -> pd.Series:
    """Group what shares a Spanish or an English word, along chains too: at most six statements.

    With the Spanish word alone a bag of words scores .44, since the English ones come in pairs.
    """
    words = table["text"].str.extract(r"word '(.+?)' (?:means|does not mean) '(.+)'\.$")
    words = words.fillna({0: table["text"], 1: table["text"]})
    return pd.Series(joined(words[0].to_numpy(), words[1].tolist()), index=table.index)


def city_pair(table: pd.DataFrame) -> pd.Series:
    """Group statements on the same two cities, in either order.

    The statements are drawn at random, so that sharing a city chains nearly all of them into one
    group, and there is nothing to split. Nor does it mislead: no city comes with its opposite.
    """
    pairs = zip(table["city1"], table["city2"], strict=True)
    return pd.Series(["|".join(sorted(pair)) for pair in pairs], index=table.index)


def company(table: pd.DataFrame) -> pd.Series:
    """Group statements by the company that they begin with.

    Most have a statement of a fixed form that tells the name; then it is the longest such name,
    else what stands before the first verb.
    """
    fixed = r"^(.+?) (?:has headquarters in|operates in the industry of) "
    names = set(table["text"].str.extract(fixed, expand=False).dropna())
    verb = re.compile(r" (?:engages|operates|has|is|provides|offers|acts|designs|manufactures) ")

    def name_in(text: str) -> str:
        known = [name for name in names if text.startswith(f"{name} ")]
        return max(known, key=len) if known else verb.split(text, maxsplit=1)[0]

    return table["text"].map(name_in)


GROUPINGS = {
    function.__name__: function for function in (number_pair, translation, city_pair, company)
}
"""The functions that ``group`` of an entry in ``sets.yaml`` can name; another is a column."""
