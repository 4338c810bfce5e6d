"""Write data/capitals.csv: true and false statements about the capitals of the world.

Run ``python scripts/build_capitals.py`` after ``pip install "llmprobe[builders]"``; ``geonames.py``
describes the sources.

A country is included if it passes these rules, in this order:

1. *member*: the Factbook lists the UN among its organizations;
2. *one capital*: the Factbook names one place and does not qualify it as "legislative capital",
   "commercial capital", …;
3. *undisputed*: no other entry of GeoNames claims a part of that city as its own capital ("East
   Jerusalem");
4. *agreed*: the two sources name the same place: the Factbook's name is a name, in any spelling,
   of the place that is the capital in GeoNames.

In each template, every country has a statement about each of three cities. ``label`` is the truth
of the statement; negation reverses it:

- *true*: its capital;
- *hard*: another city of the same country. Of the three most populous candidates it is the best
  known, that is, the one with the most names in GeoNames (a population can be that of a whole
  district). A candidate has 1,000 inhabitants or more, is 25 km or more from the capital (no
  suburbs), and is not in the Factbook's remarks on the capital (seats of government). Its name is
  not that of any capital of the world, nor that of the hard city of another country, and neither
  contains nor is contained in the name of its country or capital. A country without a candidate
  has no hard statement;
- *easy*: the capital of a country in another continent.

Countries are matched in pairs (and one triple if their number is odd) that exchange their capitals
for the easy statements, and ``group`` is the pair. So no city is on both sides of a split that
respects groups. If each country were a group, a probe that learned "Paris → true" in training would
meet "Paris … false" in the test, and score below chance.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from geonames import (
    Place,
    city_name,
    country_name,
    distance_km,
    factbook,
    fold,
    key,
    names,
    overlap,
    plain,
    read_geonames,
    with_article,
    write_csv,
)

TARGET = Path(__file__).parents[1] / "data" / "capitals.csv"
SEED = 0
SUBURB_KM = 25
CITY_POPULATION = 1000
COLUMNS = ["statement", "label", "kind", "country", "city", "template", "form", "group"]
AFFIRMED = {
    "capital_is": "the capital of {country} is {city}.",
    "is_capital": "{city} is the capital of {country}.",
    "possessive": "{possessive} capital is {city}.",
    "called": "the capital city of {country} is called {city}.",
    "serves": "{city} serves as the capital city of {country}.",
    "has_as": "{country} has {city} as its capital.",
    "whose": "{country} is a country whose capital is {city}.",
    "is_possessive": "{city} is {possessive} capital city.",
    "in_country": "in {country}, the capital city is {city}.",
    "name_of": "the name of the capital of {country} is {city}.",
    "cleft": "it is {city} that is the capital of {country}.",
    "lives": "whoever lives in {city} lives in the capital of {country}.",
}
NEGATED = {
    "capital_is_not": "the capital of {country} is not {city}.",
    "is_not_capital": "{city} is not the capital of {country}.",
    "possessive_not": "{possessive} capital is not {city}.",
    "not_called": "the capital city of {country} is not called {city}.",
    "does_not_serve": "{city} does not serve as the capital city of {country}.",
}


@dataclass(frozen=True)
class Country:
    name: str
    """Without an article."""
    continent: str
    capital: str
    hard: str | None
    """Another city of the country; None if there is no candidate."""


def find(name: str, places: list[Place]) -> Place | None:
    """Return the most populous place with that main name, or else with that alternate name."""
    same = [place for place in places if key(place["name"]) == key(name)]
    same = same or [place for place in places if key(name) in names(place)]
    return max(same, key=lambda place: place["population"], default=None)


def hard_city(capital: Place, country: str, places: list[Place], taken: set[str]) -> str | None:
    """Return the best known of the three largest candidates in ``places``, the country's cities.

    ``taken`` are the keys of names that it must not have.
    """
    banned = [country, city_name(capital)]

    def allowed(place: Place) -> bool:
        own = city_name(place)
        return (
            place["population"] >= CITY_POPULATION
            and distance_km(place, capital) >= SUBURB_KM
            and plain(own)
            and key(own) not in taken
            and not any(overlap(own, other) for other in banned)
        )

    by_size = sorted(places, key=lambda place: (-place["population"], place["geonameid"]))
    best = max(
        islice(filter(allowed, by_size), 3),
        key=lambda place: len(place["alternatenames"]),
        default=None,
    )
    return None if best is None else city_name(best)


def collect() -> list[Country]:
    """Return the countries that pass the four rules, and print the others."""
    entries, all_places = read_geonames()
    capitals = [entry["capital"] for entry in entries.values() if entry["capital"]]
    cities: defaultdict[str, list[Place]] = defaultdict(list)
    for city in all_places:
        cities[city["countrycode"]].append(city)

    taken = {key(capital) for capital in capitals}
    countries = []
    for member in factbook(entries):
        entry, places = entries[member.code], cities[member.code]
        capital = fold(re.split(r" ?[(,]| in ", member.capital)[0])
        place = find(entry["capital"], places)
        reason = ""
        if re.search(";|capital", member.capital):
            reason = "several capitals"
        elif any(re.search(rf"\w {re.escape(entry['capital'])}$", other) for other in capitals):
            reason = "disputed"
        elif place is None or key(capital) not in names(place):
            reason = "no agreement"
        if reason or place is None:
            print(f"left out, {reason}: {entry['name']}: {entry['capital']} / {member.capital}")
            continue
        name = country_name(member, entry)
        remarks = key(member.remarks)
        places = [other for other in places if key(city_name(other)) not in remarks]
        hard = hard_city(place, name, places, taken)
        taken.add(key(hard or capital))
        countries.append(Country(name, entry["continentcode"], capital, hard))
    return sorted(countries, key=lambda country: country.name)


def match(countries: list[Country]) -> list[list[Country]]:
    """Return pairs of countries in different continents, and one triple if their number is odd.

    In a list sorted by continent, two countries half the list apart are in different continents,
    unless one continent has more than half of them.
    """
    order = random.Random(SEED).sample(countries, len(countries))
    order.sort(key=lambda country: country.continent)
    half = len(order) // 2
    pairs = [[a, b] for a, b in zip(order[:half], order[half : 2 * half], strict=True)]
    for single in order[2 * half :]:
        next(p for p in pairs if single.continent not in {c.continent for c in p}).append(single)
    return pairs


def statements(country: Country, partner: Country, group: str) -> Iterator[list[str | int]]:
    """Yield the rows of one country, in the order of ``COLUMNS``."""
    name = with_article(country.name)
    possessive = name + ("'" if name.endswith("s") else "'s")
    cities = {"true": country.capital, "hard": country.hard, "easy": partner.capital}
    forms = [("affirmed", *item) for item in AFFIRMED.items()]
    forms += [("negated", *item) for item in NEGATED.items()]
    for form, template, sentence in forms:
        for kind, city in cities.items():
            if city is not None:
                text = sentence.format(country=name, possessive=possessive, city=city)
                text = text[0].upper() + text[1:]
                label = int((kind == "true") == (form == "affirmed"))
                yield [text, label, kind, country.name, city, template, form, group]


def rows() -> list[list[str | int]]:
    """Return all rows of the file, sorted by country."""
    found: list[list[str | int]] = []
    for pair in match(collect()):
        group = "|".join(sorted(country.name for country in pair))
        for country, partner in zip(pair, pair[1:] + pair[:1], strict=True):
            found += statements(country, partner, group)
    return sorted(found, key=lambda row: str(row[COLUMNS.index("country")]))


def main(target: Path = TARGET) -> None:
    found = rows()
    write_csv(target, COLUMNS, found)
    print(f"{len(found)} statements about {len({row[3] for row in found})} countries")


if __name__ == "__main__":
    main()
