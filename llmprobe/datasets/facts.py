"""Facts about the world, from tables that come with the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.options import require_choice, require_flag, require_whole
from llmprobe.datasets.registry import dataset
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import shipped

STATEMENT: Mapping[str, Any] = {
    "question": "{text} The statement is",
    "answers": {"0": ("false", "False"), "1": ("true", "True")},
}
"""What a model is asked about statements that are true (1) or false (0)."""
NEGATIVES = ("mixed", "hard", "easy")


@dataset("capitals", "facts", summary="Is a city the capital of a country, true or false?")
def capitals(
    negatives: str = "mixed", templates: str | Sequence[str] = "all", negated: bool = False
) -> ConceptDataset:
    """Is a statement about the capital of a country true (1) or false (0)?

    181 members of the UN with one undisputed capital, in twelve affirmed templates ("Lima is the
    capital of Peru.") and five negated ones ("Lima is not the capital of Peru."). In each
    template a country has a true statement and a false one: one names its capital, the other a
    wrong city. A hard wrong city is another city of the same country, an easy one the capital
    of a country in another continent. ``groups`` are pairs of countries that exchange their
    capitals for the easy statements, so that no city stands on both sides of a split;
    ``scripts/build_capitals.py`` has the rules.

    The field ``kind`` says which city it is: "true" (the capital), "hard" or "easy". Where all
    statements are affirmed there are variants with the same label: "paraphrase_template", the
    same city in the affirmed templates that were not chosen (or, with "all", in the other ones),
    and "negation", which turns "Lima is the capital of Peru." into "Trujillo is not the capital of
    Peru.", and "Trujillo is the capital of Peru." into "Lima is not the capital of Peru."

    Parameters
    ----------
    negatives
        "hard" or "easy": only that kind; ten countries without a second city, such as
        Singapore, have no hard statement and are left out with "hard". "mixed": both kinds
        alternate over countries and templates; easy where there is no hard one.
    templates
        "all" the affirmed ones, or the ids of those to keep: capital_is, is_capital, possessive,
        called, serves, has_as, whose, is_possessive, in_country, name_of, cleft, lives; negated:
        capital_is_not, is_not_capital, possessive_not, not_called, does_not_serve.
    negated
        Add all the negated ones.

    Raises
    ------
    UserError
        An option has a value that is not allowed.
    """
    table = _read("capitals.csv")
    of_form = {
        form: ids.tolist() for form, ids in table.groupby("form")["template"].unique().items()
    }
    chosen = _chosen_templates(templates, negated, of_form["affirmed"], of_form["negated"])
    require_choice("capitals", "negatives", negatives, NEGATIVES)
    has_hard = table["country"].isin(table.loc[table["kind"] == "hard", "country"])
    turn = table["country"].factorize()[0] + table["template"].factorize()[0]
    alternately = np.where(has_hard & (turn % 2 == 0), "hard", "easy")
    # The kind of the wrong city, also in rows that name the right one.
    table["wrong"] = alternately if negatives == "mixed" else negatives
    keep = (table["kind"] == "true") | (table["kind"] == table["wrong"])
    keep &= table["template"].isin(chosen) & (has_hard | (negatives != "hard"))
    rows = table[keep].reset_index(drop=True)
    variants = {}
    if (rows["form"] == "affirmed").all():
        variants = _variants(table, rows, of_form["affirmed"], of_form["negated"])
    return ConceptDataset(
        name="capitals",
        texts=rows["statement"].tolist(),
        labels=rows["label"].to_numpy(),
        groups=rows["group"].to_numpy(dtype=str),
        fields=rows[["kind", "country", "city", "template", "form"]],
        variants=variants,
        source="GeoNames (geonames.org) and the CIA World Factbook; scripts/build_capitals.py",
        licence="CC BY 4.0",
        version="2",
        description="Is this city the capital of that country: true (1) or false (0)?",
        **STATEMENT,
    )


def _chosen_templates(
    templates: object, negated: object, affirmed_ids: list[str], negated_ids: list[str]
) -> list[str]:
    """Return the ids of the templates that the two options ask for."""
    require_flag("capitals", "negated", negated)
    known = affirmed_ids + negated_ids
    asked = list(templates) if isinstance(templates, list | tuple) else [templates]
    if templates == "all":
        asked = [*affirmed_ids]
    if not asked or not all(template in known for template in asked):
        raise UserError(
            f"dataset 'capitals': templates is {templates!r}; "
            f"allowed: 'all', or some of {', '.join(known)}"
        )
    return [one for one in known if one in asked or (negated and one in negated_ids)]


def _variants(
    table: pd.DataFrame, rows: pd.DataFrame, affirmed_ids: list[str], negated_ids: list[str]
) -> dict[str, list[list[str]]]:
    """Return other statements with the label and group of each of ``rows``, all affirmed."""
    says = table.set_index(["country", "kind", "template"])["statement"].to_dict()
    used = rows["template"].unique().tolist()
    unused = [template for template in affirmed_ids if template not in used]
    others = {one: unused or [other for other in affirmed_ids if other != one] for one in used}
    # In order: each of the first five has a negated form of its own, so that no text repeats.
    denial = {one: negated_ids[i % len(negated_ids)] for i, one in enumerate(affirmed_ids)}
    paraphrases, negations = [], []
    columns = rows[["country", "kind", "template", "wrong"]]
    for country, kind, template, wrong in columns.itertuples(index=False):
        paraphrases.append([says[country, kind, other] for other in others[template]])
        denied = wrong if kind == "true" else "true"
        negations.append([says[country, denied, denial[template]]])
    return {"paraphrase_template": paraphrases, "negation": negations}


@dataset("cities", "facts", summary="Is a city in a country, true or false?")
def cities(min_population: int = 0) -> ConceptDataset:
    """Is a city in that country: true (1) or false (0)?

    "The city of Cairo is in Egypt." 2,266 cities of 150,000 inhabitants or more, each in a true
    and a false statement. ``groups`` are pairs of cities, of about the same population, that
    exchange their countries for the false statements: within a group every city and every country
    is in one true and one false statement. ``scripts/build_cities.py`` has the rules.

    The field ``kind`` is "true", "hard" (false, the two countries in one continent) or "easy"
    (false, in two). The variant "negation" has the same label: "The city of Cairo is not in
    Bangladesh." for the statement above.

    Parameters
    ----------
    min_population
        Keep only pairs of cities that both have at least so many inhabitants.

    Raises
    ------
    UserError
        ``min_population`` is no whole number, or leaves fewer than two pairs.
    """
    table = _read("cities.csv")
    smaller = table.groupby("group")["population"].transform("min")
    second_largest = int(smaller.drop_duplicates().nlargest(2).min())
    require_whole("cities", "min_population", min_population, 0, second_largest)
    rows = table[smaller >= min_population].reset_index(drop=True)
    # The true and the false row of a city stand together; each one's negation denies the other.
    other = rows["statement"].to_numpy()[np.arange(len(rows)) ^ 1]
    return ConceptDataset(
        name="cities",
        texts=rows["statement"].tolist(),
        labels=rows["label"].to_numpy(),
        groups=rows["group"].to_numpy(dtype=str),
        fields=rows[["kind", "city", "country", "population"]],
        variants={"negation": [[text.replace(" is in ", " is not in ")] for text in other]},
        source="GeoNames (geonames.org) and the CIA World Factbook; scripts/build_cities.py",
        licence="CC BY 4.0",
        version="1",
        description="Is this city in that country: true (1) or false (0)?",
        **STATEMENT,
    )


def _read(file: str) -> pd.DataFrame:
    """Read a table of ``data``; "NA" and the like are text in it."""
    return pd.read_csv(shipped("data") / file, keep_default_na=False)
