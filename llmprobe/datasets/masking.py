"""Texts without their evidence: the value of a field is replaced, labels and groups stay."""

from __future__ import annotations

import re
from dataclasses import replace

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.ground.errors import UserError

MASK = "something"
"""What replaces a field's value in every text: it can be a thing, a place or a kind."""


def masked(dataset: ConceptDataset, field: str) -> ConceptDataset:
    """Return a dataset ``NAME:without FIELD`` in which ``MASK`` replaces the value of a field.

    If the same words occur in a text again, they are replaced too.

    Raises
    ------
    UserError
        There is no such field, or a text has none of it; a dataset of chats or labelled words.
    """
    where = f"dataset {dataset.name!r}: mask"
    if dataset.turns is not None or dataset.words is not None:
        what = "chats" if dataset.words is None else "labelled words"
        raise UserError(f"{where}: changes texts, and not {what}")
    ranges = dataset.ranges(f"span:{field}", "last")
    assert ranges is not None
    texts = []
    spans: dict[str, list[tuple[int, int]]] = {name: [] for name in dataset.spans}
    for row, (text, place) in enumerate(zip(dataset.texts, ranges, strict=True)):
        changed, edits = _without(text, *place)
        texts.append(changed)
        for name, of_name in spans.items():
            start, stop = dataset.spans[name][row]
            of_name.append((_moved(start, edits), _moved(stop, edits)))
    ending = f":without {field}"
    return replace(
        dataset,
        name=dataset.name + ending,
        stem=dataset.stem and dataset.stem + ending,
        texts=texts,
        spans=spans,
        variants={},
    )


def _without(text: str, start: int, stop: int) -> tuple[str, list[tuple[int, int]]]:
    """Mask a part of a text; return the text, and the end and growth in length of each edit."""
    again = re.finditer(rf"(?<!\w){re.escape(text[start:stop])}(?!\w)", text, re.IGNORECASE)
    places = [found.span() for found in again]
    places = [(a, b) for a, b in places if b <= start or a >= stop]
    changed, edits, end = "", [], 0
    for a, b in sorted([*places, (start, stop)]):
        filler = MASK if text[:a].strip() else MASK.capitalize()
        changed += text[end:a] + filler
        edits.append((b, len(filler) - (b - a)))
        end = b
    return changed + text[end:], edits


def _moved(place: int, edits: list[tuple[int, int]]) -> int:
    return place + sum(by for stop, by in edits if stop <= place)
