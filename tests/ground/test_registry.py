"""Registries: what is registered is found by its name, from this package and from others."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from llmprobe.ground import registry
from llmprobe.ground.errors import UserError
from llmprobe.ground.registry import Registry


def test_what_is_registered_is_found_by_its_name_in_order() -> None:
    colours: Registry[object] = Registry("colour")
    colours.add("teal", 1)
    decorated = colours.register("amber")(print)
    assert decorated is print
    assert list(colours) == ["teal", "amber"]
    assert dict(colours) == {"teal": 1, "amber": print}
    assert "teal" in colours
    colours.remove("teal")
    assert "teal" not in colours
    assert len(colours) == 1


def test_an_unknown_name_is_an_error_with_the_nearest_one() -> None:
    colours: Registry[int] = Registry("colour")
    colours.add("teal", 1)
    with pytest.raises(UserError, match=r"^colour 'teel' is not known; did you mean 'teal'\?$"):
        colours["teel"]
    assert "teel" not in colours


def test_a_name_is_taken_once() -> None:
    colours: Registry[object] = Registry("colour")
    colours.add("teal", print)
    colours.add("teal", print)
    with pytest.raises(UserError, match=r"^colour 'teal': there is one of that name already$"):
        colours.add("teal", len)
    assert colours["teal"] is print


def test_a_file_that_is_run_again_replaces_its_own_entries_and_no_others() -> None:
    colours: Registry[int] = Registry("colour")
    colours.add("teal", 1)
    mine, other = Path("mine.py"), Path("other.py")
    for entry in (2, 3):
        with registry.registrations_of(mine):
            colours.add("amber", entry)
    assert dict(colours) == {"teal": 1, "amber": 3}
    for file, name in ((other, "amber"), (mine, "teal")):
        with registry.registrations_of(file), pytest.raises(UserError, match="already"):
            colours.add(name, 4)
    with pytest.raises(UserError, match="already"):
        colours.add("amber", 4)


def test_homes_are_imported_at_the_first_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "home_of_colours"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from llmprobe.ground.registry import Registry\n"
        "colours = Registry('colour', homes=[__name__])\n"
    )
    for name in ("teal", "amber"):
        (package / f"{name}.py").write_text(
            f"from home_of_colours import colours\ncolours.add({name!r}, 1)\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    import home_of_colours  # type: ignore[import-not-found]

    assert "home_of_colours.teal" not in sys.modules
    assert set(home_of_colours.colours) == {"teal", "amber"}


def test_plugins_are_loaded_at_the_first_look_and_a_broken_one_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken_plugin.py").write_text("1 / 0\n")
    (tmp_path / "good_plugin.py").write_text(
        "from llmprobe.ground import registry\n"
        "registry.colours.add('teal', len(registry.colours))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    colours: Registry[int] = Registry("colour")
    monkeypatch.setattr(registry, "colours", colours, raising=False)
    monkeypatch.setattr(registry, "_plugins_are_loaded", False)
    names = ("broken_plugin", "good_plugin")
    points = {registry.PLUGINS: [EntryPoint(name, name, registry.PLUGINS) for name in names]}
    monkeypatch.setattr(registry, "entry_points", lambda group: points[group])
    assert colours["teal"] == 0
    assert caplog.messages == [
        "plugin broken_plugin (broken_plugin) is left out: ZeroDivisionError: division by zero"
    ]
