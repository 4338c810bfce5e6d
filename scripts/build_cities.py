"""Write data/cities.csv: true and false statements about the country a city is in.

Run ``python scripts/build_cities.py`` after ``pip install "llmprobe[builders]"``; ``geonames.py``
describes the sources.

A place of GeoNames with 150,000 inhabitants or more is included if it passes these rules:

1. *member*: its country is a member of the UN by the Factbook. This alone leaves out Taiwan,
   Hong Kong, Macao, Kosovo, Palestine, Western Sahara and every dependency;
2. *undisputed*: it is in none of the regions of ``DISPUTED``, which another member, or a state
   that governs itself there, claims: Crimea, Kashmir, Jerusalem, …;
3. *a city*: it is not a suburb or district. Of places in one country less than 25 km apart, the
   city is the best known one: the product of its inhabitants and of its names in GeoNames is the
   largest (Brooklyn has many inhabitants and few names). GeoNames has other names for it; in China
   one of them ends in 市, "city", since districts, counties and towns are as large there. Its name,
   folded to ASCII, is of letters, begins with a capital, and is not that of an administrative unit
   (``ADMINISTRATIVE``); and the place is not in ``NOT_CITIES``;
4. *the one of its name*: its name is not among the names of another place in its country that is
   at least as large, or of a place in another country with at least a tenth of its inhabitants;
5. *no hint*: its name neither contains nor is contained in that of its country ("Mexico City",
   "Tunis"), and is not that of another country ("Georgia").

Cities are matched in pairs from different countries. Each is said to be in its own country (true)
and in the other's (false). ``group`` is the pair: in it every city and every country is once true
and once false, so that words alone tell nothing. The two cities are close to each other in the
order of population, so that fame tells nothing either, and a higher threshold keeps whole pairs. A
false statement is *hard* if both countries are in one continent, else *easy*. It is surely false:

- no place of the other country, however small, has the city's name among its names, and the name
  neither contains nor is contained in that of the country;
- the Factbook mentions no province, island, port or other place of that name in the other country
  (Surrey, in Canada, is a county of the United Kingdom), and ``ALSO_IN`` lists none;
- the two countries are not neighbours: Minna is not in Niger, but it is in Niger State, Nigeria,
  and Belfast is in Ireland in another sense. Nor are they the United States and Georgia.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from geonames import (
    Place,
    city_name,
    country_name,
    distance_km,
    factbook,
    key,
    names,
    overlap,
    plain,
    read_geonames,
    with_article,
    words,
    write_csv,
)

TARGET = Path(__file__).parents[1] / "data" / "cities.csv"
SEED = 0
POPULATION = 150_000
SUBURB_KM = 25
PARTNERS = 20
"""The number of next most populous cities that fit, from which the partner is drawn."""
COLUMNS = ["statement", "label", "kind", "city", "country", "population", "group"]
# First-level units by GeoNames' code, by the ISO code of the country; also units in which no city
# is large enough now.
DISPUTED = {
    "AZ": {"61", "64"},  # Khankendi and Khojaly, of the former Nagorno-Karabakh
    "CY": {"01", "02", "04"},  # Famagusta, Kyrenia and Nicosia, divided
    "ES": {"CE", "ML"},  # Ceuta and Melilla, claimed by Morocco
    "GE": {"02", "73"},  # Abkhazia; Shida Kartli, with South Ossetia
    "IL": {"00", "06", "WE"},  # the Golan Heights, Jerusalem, the West Bank
    "IN": {"12", "30", "41"},  # Jammu and Kashmir, Arunachal Pradesh, Ladakh
    "MA": {"11", "12"},  # of Western Sahara
    "MD": {"58", "62"},  # Transnistria and Bender
    "PK": {"06", "07"},  # Azad Kashmir, Gilgit-Baltistan
    "SO": {"12", "19", "20", "21", "22"},  # Somaliland
    "UA": {"05", "08", "11", "14", "20", "26"},  # Crimea, Sevastopol and the four annexed in 2022
}
CONFUSABLE = {"US": {"GE"}, "GE": {"US"}}
ADMINISTRATIVE = re.compile(
    "^Thi Tran |(-si|-shi|-up| County| District| Province| Qu| Sadr| Poblacion| Chengguanzhen)$"
)
# Places of GeoNames that no rule can tell from cities, by the code of the country.
NOT_CITIES = {
    "AO": {"Calumbo"},  # a commune of Viana
    "AU": {"Central Coast", "Sunshine Coast"},  # regions
    # Villages, with the inhabitants of the subdistrict; Naogaon and Ashuganj under another name.
    "BD": {"Mohammadpur", "Nagar Naluakot", "Nagarpur", "Par Naogaon", "Ashuganj City"},
    "BR": {"Planaltina"},  # a district of Brasilia
    # The central districts or towns of cities with other names; Shangyu, a district of Shaoxing.
    "CN": {"Basuo", "Guankou", "Gujangbagh", "Heshan", "Jinshanlu", "Longshan", "Nada", "Nianbo"}
    | {"Shangyu", "Zhenzhou"},
    "IN": {"Bahraigh"},  # Bahraich, misspelled
    "JP": {"Shinagawa"},  # a ward of Tokyo
    "KP": {"Changam-ch'on"},  # a part of Kimchaek
    "PH": {"NIA Valencia"},  # Valencia, with the name of an authority
    "SO": {"El Dibir"},  # a village
    "SS": {"Winejok"},  # a village
    "US": {"Cypress", "Meads", "Tri-Cities"},  # two unincorporated places, three cities
    "VN": {"Xuan Loc"},  # a district
    "ZA": {"Somerset West", "Soshanguve"},  # parts of Cape Town and of Tshwane
}
# By the code of a country: names that a region, county, island, suburb or hamlet in it also has, or
# is known by, though neither source says so.
ALSO_IN = {
    "AF": {"Turkistan"},
    "AR": {"El Tigre", "Regina"},
    "BR": {"Campeche"},
    "CD": {"Banda", "Gombe"},
    "CN": {"Turkistan"},
    "DZ": {"Arak"},
    "ES": {"La Serena"},
    "ET": {"Guna"},
    "GB": {"Calgary", "Denver", "East London", "Moscow", "Pomona", "Sydney", "Toronto"},
    "GH": {"Banda"},
    "ID": {"Kota"},
    "IE": {"Baltimore", "Munster"},
    "IN": {"Malacca", "Salt Lake City"},
    "KE": {"Mau"},
    "MG": {"Sofia"},
    "MM": {"Bago City"},
    "MY": {"Kota"},
    "NZ": {"Portland"},
    "PH": {"Metro"},
    "PK": {"Turkistan"},
    "PT": {"Beira"},
    "TJ": {"Turkistan"},
    "TZ": {"Gombe"},
    "US": {"Agra", "Budapest", "Calgary", "Cardiff", "Johannesburg", "Karlsruhe", "Krakow"}
    | {"Lahore", "Lublin", "Luton", "Lyon", "Malmo", "Munich", "Oslo", "Oulu", "Pretoria", "Riga"}
    | {"Shanghai", "Stockholm", "Turin", "Vigo", "Zurich"},
    "ZA": {"Orlando", "Phoenix"},
}


@dataclass(frozen=True)
class City:
    name: str
    country: str
    """Without an article."""
    code: str
    continent: str
    confusable: frozenset[str]
    """The codes of countries that no statement may put it in."""
    places: str
    """The ``Member.places`` of its country."""
    population: int
    geonameid: int


Bearers = Mapping[str, list[Place]]
"""The places that have a name, by the key of the name."""


def bearers_of(places: list[Place]) -> Bearers:
    found = defaultdict(list)
    for place in places:
        for name in names(place):
            found[name].append(place)
    return found


def fame(place: Place) -> tuple[int, int]:
    """Return the rank that decides which of several nearby places is the city."""
    return place["population"] * len(place["alternatenames"]), -place["geonameid"]


def without_suburbs(places: list[Place]) -> Iterator[Place]:
    """Yield the places of one country that have no better known place near them."""
    for place in places:
        near = (other for other in places if distance_km(place, other) < SUBURB_KM)
        if max(near, key=fame) is place:
            yield place


def is_city(name: str, place: Place) -> bool:
    """Return whether a place passes rule 3, apart from suburbs."""
    code, others = place["countrycode"], [other for other in place["alternatenames"] if other]
    return (
        plain(name)
        and name[0].isupper()
        and not ADMINISTRATIVE.search(name)
        and name not in NOT_CITIES.get(code, ())
        and any(code != "CN" or other.endswith("市") for other in others)
    )


def collect(entries: dict[str, dict[str, Any]], places: list[Place]) -> Iterator[City]:
    """Yield the cities that pass the first three rules."""
    large: defaultdict[str, list[Place]] = defaultdict(list)
    for place in places:
        if place["population"] >= POPULATION:
            large[place["countrycode"]].append(place)
    for member in factbook(entries):
        entry = entries[member.code]
        neighbours = {member.code, *entry["neighbours"].split(",")}
        for place in without_suburbs(large[member.code]):
            name = city_name(place).rstrip("'")
            disputed = place["admin1code"] in DISPUTED.get(member.code, ())
            if is_city(name, place) and not disputed:
                yield City(
                    name=name,
                    country=country_name(member, entry),
                    code=member.code,
                    continent=entry["continentcode"],
                    confusable=frozenset(neighbours | CONFUSABLE.get(member.code, set())),
                    places=member.places,
                    population=place["population"],
                    geonameid=place["geonameid"],
                )


def is_plain_fact(city: City, bearers: Bearers, countries: set[str]) -> bool:
    """Return whether a city passes rules 4 and 5; ``countries`` are the keys of their names."""

    def rivals(other: Place) -> bool:
        margin = 1 if other["countrycode"] == city.code else 10
        same = other["geonameid"] == city.geonameid
        return not same and bool(margin * other["population"] >= city.population)

    return (
        not any(map(rivals, bearers[key(city.name)]))
        and not overlap(city.name, city.country)
        and key(city.name) not in countries
    )


def match(cities: list[City], bearers: Bearers) -> list[tuple[City, City]]:
    """Return pairs of cities that may exchange their countries, the most populous first."""
    unfit = {
        city.name: city.confusable | {place["countrycode"] for place in bearers[key(city.name)]}
        for city in cities
    }

    def may_be_said_of(city: City, other: City) -> bool:
        return (
            other.code not in unfit[city.name]
            and not overlap(city.name, other.country)
            and words(city.name) not in other.places
            and city.name not in ALSO_IN.get(other.code, ())
        )

    rng = random.Random(SEED)
    waiting = sorted(cities, key=lambda city: (-city.population, city.geonameid))
    pairs = []
    while waiting:
        city = waiting.pop(0)
        fits = (o for o in waiting if may_be_said_of(city, o) and may_be_said_of(o, city))
        partners = list(islice(fits, PARTNERS))
        if partners:
            partner = rng.choice(partners)
            waiting.remove(partner)
            pairs.append((city, partner))
        else:
            print(f"without a partner: {city.name}, {city.country}")
    return pairs


def statements(city: City, partner: City, group: str) -> Iterator[list[str | int]]:
    """Yield the true and the false row of a city, in the order of ``COLUMNS``."""
    false_kind = "hard" if city.continent == partner.continent else "easy"
    for kind, country in (("true", city.country), (false_kind, partner.country)):
        text = f"The city of {city.name} is in {with_article(country)}."
        yield [text, int(kind == "true"), kind, city.name, country, city.population, group]


def rows() -> list[list[str | int]]:
    """Return all rows of the file, the pair with the most populous city first."""
    entries, places = read_geonames()
    bearers = bearers_of(places)
    cities = list(collect(entries, places))
    countries = {key(entry["name"]) for entry in entries.values()}
    kept = [c for c in cities if is_plain_fact(c, bearers, countries)]
    print(f"{len(kept)} of {len(cities)} cities are the one of their name, which is no hint")
    found: list[list[str | int]] = []
    for pair in match(kept, bearers):
        group = "|".join(sorted(city.name for city in pair))
        for city, partner in (pair, pair[::-1]):
            found += statements(city, partner, group)
    return found


def main(target: Path = TARGET) -> None:
    found = rows()
    write_csv(target, COLUMNS, found)
    print(f"{len(found)} statements about {len({row[3] for row in found})} cities")


if __name__ == "__main__":
    main()
