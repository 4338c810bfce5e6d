"""Words as they stand in sentences, and mappings as lists of their leaves."""

from llmprobe.ground.files import digest
from llmprobe.ground.text import elide, flatten, listed, printable, shortened


def test_words_are_listed_as_in_a_sentence() -> None:
    assert [listed("abc"[:n]) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]


def test_a_terminal_gets_visible_characters_alone() -> None:
    hostile = "a\x1b[31mred\x07\x9b2J\u202e\ud800\r\nb"
    assert printable(hostile) == "a?[31mred??2J????b"
    assert printable(hostile, kept="\n") == "a?[31mred??2J???\nb"
    assert elide(hostile, 8) == "a?[3…??b"
    assert printable("é 表 😀 a\u00a0b") == "é 表 😀 a\u00a0b"


def test_a_long_list_is_cut_and_says_how_long_it_was() -> None:
    lines = [str(i) for i in range(1000)]
    assert shortened(lines) == [*lines[:10], "and 990 more"]
    assert shortened(lines[:10]) == lines[:10]


def test_leaves_have_the_path_that_leads_to_them() -> None:
    nested = {"a": 1, "b": {"c": 2, "d": {"e": [3]}}, "f": {}}
    assert list(flatten(nested)) == [("a", 1), ("b.c", 2), ("b.d.e", [3])]


def test_a_digest_is_of_what_a_mapping_says_and_not_of_its_order() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest({"a": [1, 2]}) != digest({"a": [2, 1]})
