"""Groups of texts that no split may tear apart, where no column has them."""

from __future__ import annotations

import re

import pandas as pd

from llmprobe.datasets.groups import joined


def number_pair(table: pd.DataFrame) -> pd.Series:
    """Return one group for "a is larger than b" and "b is larger than a"."""
    numbers = table[["n1", "n2"]]
    return numbers.min(axis=1).astype(str) + " " + numbers.max(axis=1).astype(str)


def translation(table: pd.DataFrame) -> pd.Series:
    """Group statements that share a Spanish or an English word, along chains too: at most six.

    Grouped by the Spanish word alone, a bag of words scores .44, since English words come in pairs.
    """
    words = table["text"].str.extract(r"word '(.+?)' (?:means|does not mean) '(.+)'\.$")
    words = words.fillna({0: table["text"], 1: table["text"]})
    return pd.Series(joined(words[0].to_numpy(), words[1].tolist()), index=table.index)


def city_pair(table: pd.DataFrame) -> pd.Series:
    """Group statements on the same two cities, in either order.

    The statements are drawn at random, so shared cities would chain nearly all of them into one
    group, with nothing to split. Nor do they mislead: no city comes with its opposite.
    """
    pairs = zip(table["city1"], table["city2"], strict=True)
    return pd.Series(["|".join(sorted(pair)) for pair in pairs], index=table.index)


def company(table: pd.DataFrame) -> pd.Series:
    """Group statements by the company that they begin with.

    Statements of a fixed form give the names of most companies; a text gets the longest such name
    that it begins with, or else the words before its first verb.
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
