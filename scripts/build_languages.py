"""Write data/capitals_languages.csv: the capitals of the world in eight languages.

Run ``python scripts/build_languages.py`` after ``pip install babel==2.19.0`` (Unicode CLDR 49, see
data/LICENSE.unicode). The facts are those of data/capitals.csv, the names those of CLDR:

- the name of a country is that of its territory in the language, in the nominative without article;
- the name of a capital is that of its time zone's city. If CLDR has none in a language, it is the
  city in the zone's identifier, as CLDR says (UTS 35, "Time Zone Names"), in languages of Latin
  script.

A country is included if its capital is the city of a time zone, and if in every language neither
name contains the other, and neither has brackets. A statement is a list of two entries, "Country:
Peru. Capital: Lima.", so that names need neither case nor article. Its words are the headings of
these entries in the language's Wikipedia (in the box of a country's article). Each country is once
true, and once false with the capital of its partner; partners are drawn with seed 0. ``group`` is
the pair, in all languages.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pandas as pd
from babel import Locale

DATA = Path(__file__).resolve().parents[1] / "data"

TEMPLATES = {
    "en": "Country: {country}. Capital: {city}.",
    "fr": "Pays : {country}. Capitale : {city}.",
    "de": "Staat: {country}. Hauptstadt: {city}.",
    "es": "País: {country}. Capital: {city}.",
    "it": "Stato: {country}. Capitale: {city}.",
    "nl": "Land: {country}. Hoofdstad: {city}.",
    "pl": "Państwo: {country}. Stolica: {city}.",
    "ru": "Страна: {country}. Столица: {city}.",
}
"""The template of each language."""


def names() -> dict[str, dict[str, tuple[str, str]]]:
    """Return the country and the capital in each language, by the country's English name."""
    table = pd.read_csv(DATA / "capitals.csv", keep_default_na=False)
    facts = table[(table["kind"] == "true") & (table["template"] == "capital_is")]
    locales = {language: Locale.parse(language) for language in TEMPLATES}
    english, all_zones = locales["en"], locales["ru"].time_zones
    code = {name: key for key, name in english.territories.items() if len(key) == 2}

    def city(language: str, zone: str) -> str:
        here = locales[language].time_zones.get(zone, {}).get("city", "")
        return here or zone.rsplit("/", 1)[-1].replace("_", " ")

    zones = {city("en", zone): zone for zone in sorted(all_zones)}
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for country, capital in zip(facts["country"], facts["city"], strict=True):
        if country in code and capital in zones:
            found[country] = {
                language: (locale.territories[code[country]], city(language, zones[capital]))
                for language, locale in locales.items()
            }
    return {country: pairs for country, pairs in found.items() if _tells(pairs)}


def _tells(pairs: dict[str, tuple[str, str]]) -> bool:
    """Return whether neither name of any pair contains the other or has brackets."""
    return all(
        a.lower() not in b.lower() and b.lower() not in a.lower() and "(" not in a + b
        for a, b in pairs.values()
    )


def main() -> None:
    """Write data/capitals_languages.csv."""
    known = names()
    order = sorted(known)
    random.Random(0).shuffle(order)
    order = order[: len(order) // 2 * 2]
    rows = []
    for language, template in TEMPLATES.items():
        for i, country in enumerate(order):
            partner = order[i ^ 1]
            group = " and ".join(sorted((country, partner)))
            here = known[country][language][0]
            for label, other in ((1, country), (0, partner)):
                city = known[other][language][1]
                statement = template.format(country=here, city=city)
                rows.append([statement, label, language, here, city, country, group])
    with (DATA / "capitals_languages.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["statement", "label", "language", "country", "city", "fact", "group"])
        writer.writerows(rows)
    print(f"{len(order)} countries, {len(rows)} statements")


if __name__ == "__main__":
    main()
