"""The tables of several runs as one, in which each name means one thing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from llmprobe.config.schema import Section
from llmprobe.ground.text import flatten
from llmprobe.results.columns import columns_of
from llmprobe.run.comparable import (
    FRAMES,
    ComparedRun,
    Facts,
    Kind,
    each_once,
    plain,
    unequal,
    without,
)
from llmprobe.run.parts import KEYS_WITHOUT_EFFECT

SELF_EXPLAINING = {
    "id", "revision", "dtype", "quantization", "weights", "kind", "site", "position", "template"
}  # fmt: skip
"""Settings whose value says what is set."""
WHERE = ("name", "path", "hub", "text", "label", "group", "encoding", "delimiter")
"""Keys of a dataset that say where it comes from, not what is done to it."""
SHORT = r"[\w ./,+-]{,40}"
"""What can stand behind a name, in tables and in the names of files."""
Frames = dict[str, Any]


def disambiguate_names(members: Sequence[ComparedRun]) -> list[ComparedRun]:
    """Rename models and datasets by what differs, where one name would mean two things.

    Datasets first, then models: of the first the examples decide; of the second what they answer,
    to the last digit, or where no dataset is in both runs, what the configs say of them.
    """
    members = _renamed(members, "dataset", _same_examples, _what_is_done)
    return _renamed(members, "model", _same_answers, _how_it_is_read)


def merged(members: Sequence[ComparedRun]) -> Frames:
    """Put the tables of all runs together, by name; what two runs have stands there once."""
    order = {
        name: i for i, name in enumerate(each_once(member.known["model"] for member in members))
    }
    frames = {}
    for table in FRAMES:
        parts: dict[Any, pd.DataFrame] = {}
        for member in members:
            frame: pd.DataFrame = getattr(member.run, table)
            keys = [key for key in ("model", "dataset") if key in frame]
            for place, rows in frame.groupby(keys, sort=False):
                parts.setdefault(place, rows)
        places = list(parts)
        if table != "examples":  # A model's curves stand together, whatever run they are of.
            places.sort(key=lambda place: order.get(place[0], len(order)))
        empty = pd.DataFrame(columns=columns_of("results" if table == "table" else table))
        frames[table] = pd.concat([parts[place] for place in places] or [empty], ignore_index=True)
    return frames


def _renamed(
    members: Sequence[ComparedRun],
    kind: Kind,
    same: Callable[[ComparedRun, ComparedRun, str], bool],
    facts: Callable[[ComparedRun, str], Facts],
) -> list[ComparedRun]:
    new: dict[str, dict[str, str]] = {member.name: {} for member in members}
    for name in each_once(member.known[kind] for member in members):
        meanings: list[list[ComparedRun]] = []
        for member in members:
            if name not in member.known[kind]:
                continue
            for meaning in meanings:
                if all(same(other, member, name) for other in meaning):
                    meaning.append(member)
                    break
            else:
                meanings.append([member])
        firsts = [meaning[0] for meaning in meanings]
        ends = _ends([facts(one, name) for one in firsts], [one.name for one in firsts])
        for meaning, end in zip(meanings, ends, strict=True):
            for member in meaning:
                new[member.name][name] = f"{name} ({end})" if end else name
    return [member.renamed(kind, new[member.name]) for member in members]


def _ends(facts: Sequence[Facts], runs: Sequence[str]) -> list[str]:
    """Say what stands behind each name: what differs, or else in which run it is."""
    flat = [dict(flatten(of_one)) for of_one in facts]
    differing = [
        key
        for key in each_once(flat)
        if any(of_one.get(key) != flat[0].get(key) for of_one in flat)
    ]
    ends = [
        ", ".join(_said(key, of_one[key]) for key in differing if key in of_one) for of_one in flat
    ]
    ends = [end if re.fullmatch(SHORT, end) else "" for end in ends]
    times = Counter(ends)
    return [
        end if times[end] == 1 else ", ".join(filter(None, (end, run)))
        for end, run in zip(ends, runs, strict=True)
    ]


def _said(key: str, value: Any) -> str:
    key = key.rpartition(".")[2]
    return plain(value) if key in SELF_EXPLAINING else f"{key} {plain(value)}"


def _same_examples(a: ComparedRun, b: ComparedRun, dataset: str) -> bool:
    mine, theirs = a.examples(dataset), b.examples(dataset)
    return mine.index.equals(theirs.index) and not any(
        unequal(mine[column], theirs[column]).any() for column in ("text", "label", "group")
    )


def _what_is_done(member: ComparedRun, dataset: str) -> Facts:
    return without(member.known["dataset"][dataset], *WHERE)


def _same_answers(a: ComparedRun, b: ComparedRun, model: str) -> bool:
    shared = [
        (mine, theirs)
        for dataset in a.known["dataset"]
        if dataset in b.known["dataset"]
        for mine, theirs in [(_answers(a, model, dataset), _answers(b, model, dataset))]
        if not mine.empty and not theirs.empty
    ]
    if not shared:
        return _how_it_is_read(a, model) == _how_it_is_read(b, model)
    return all(mine.equals(theirs) for mine, theirs in shared)


def _answers(member: ComparedRun, model: str, dataset: str) -> pd.DataFrame:
    table = member.run.predictions
    rows = table[(table["model"] == model) & (table["dataset"] == dataset)]
    rows = rows.sort_values(["layer", "example"], ignore_index=True)
    return rows[columns_of("predictions")]


def _how_it_is_read(member: ComparedRun, model: str) -> Facts:
    """Collect what a model's answers depend on; which weights they are shows in its revision."""
    facts = without(member.known["model"][model], "digest")
    for section in ("extract", "probe"):
        config: Section = getattr(member.config, section)
        facts[section] = config.model_dump(
            mode="json", exclude_defaults=True, exclude=KEYS_WITHOUT_EFFECT[section]
        )
    return facts
