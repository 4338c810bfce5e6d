"""A wrong name is answered by the nearest one, or by what is known."""

from __future__ import annotations

from llmprobe.ground.errors import MOST_KNOWN, suggestion


def test_the_nearest_name_is_asked_for_whatever_its_letters() -> None:
    assert suggestion("flods", ["folds", "kind"]) == "did you mean 'folds'?"
    assert suggestion("blues", ["Blues", "RdBu"]) == "did you mean 'Blues'?"


def test_without_a_near_one_the_known_are_listed_but_not_without_end() -> None:
    assert suggestion("xyz", ["kind", "folds"]) == "known: folds, kind"
    names = [f"name{number:03}" for number in range(MOST_KNOWN + 1)]
    listed = suggestion("xyz", names)
    assert listed.endswith(f"name{MOST_KNOWN - 1:03}, … ({MOST_KNOWN + 1} in all)")
