"""The merged tables of several runs, in which each name means one model or dataset."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from llmprobe.ground.text import flatten
from llmprobe.results.columns import CURVE, columns_of
from llmprobe.results.folder import TABLES
from llmprobe.runs.comparable import ComparedRun, Dimension, Facts, each_once, plain, without

SELF_EXPLAINING = {
    "id", "revision", "dtype", "quantization", "weights", "kind", "site", "template"
}  # fmt: skip
"""Settings whose value is clear without the name of the setting."""
WHERE = ("name", "path", "hub", "text", "label", "group", "encoding", "delimiter", "quoting")
"""Keys of a dataset that say where it comes from, not what is done to it."""
SHORT = r"[\w ./,+-]{,40}"
"""A pattern for what can be added to a name, in tables and in file names."""


def disambiguate_names(members: Sequence[ComparedRun]) -> list[ComparedRun]:
    """Rename models and datasets by what differs, if one name means several of them.

    Datasets of two runs are the same if their examples are. Models, which are renamed after the
    datasets, are the same if their predictions are identical to the last digit, or, if the runs
    share no curve, if their configs agree.
    """
    members = _renamed(members, "dataset", _same_examples, _what_is_done)
    return _renamed(members, "model", _same_answers, _how_it_is_read)


def merged(members: Sequence[ComparedRun]) -> dict[str, Any]:
    """Merge the tables of all runs, by name of the table; a curve in several runs appears once."""
    models = each_once(member.known["model"] for member in members)
    frames = {}
    for table in TABLES.values():
        parts = [getattr(member.run, table).assign(run=i) for i, member in enumerate(members)]
        rows = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
        curve = [key for key in (*CURVE, "train", "test") if key in rows]
        rows = rows[rows["run"] == rows.groupby(curve)["run"].transform("min")]
        if "model" in rows:  # Sort the curves by model, from whatever run they come.
            place = rows["model"].map({model: i for i, model in enumerate(models)})
            rows = rows.loc[place.sort_values(kind="stable").index]
        frames[table] = rows.drop(columns="run").reset_index(drop=True)
    return frames


def _renamed(
    members: Sequence[ComparedRun],
    kind: Dimension,
    same: Callable[[ComparedRun, ComparedRun, str], bool],
    facts: Callable[[ComparedRun, str], Facts],
) -> list[ComparedRun]:
    new: dict[str, dict[str, str]] = {member.name: {} for member in members}
    for name in each_once(member.known[kind] for member in members):
        meanings: list[list[ComparedRun]] = []
        for member in members:
            if name not in member.known[kind]:
                continue
            alike = (m for m in meanings if all(same(other, member, name) for other in m))
            meaning = next(alike, None)
            if meaning is None:
                meanings.append(meaning := [])
            meaning.append(member)
        firsts = [meaning[0] for meaning in meanings]
        ends = _ends([facts(one, name) for one in firsts], [one.name for one in firsts])
        for meaning, end in zip(meanings, ends, strict=True):
            for member in meaning:
                new[member.name][name] = f"{name} ({end})" if end else name
    return [member.renamed(kind, new[member.name]) for member in members]


def _ends(facts: Sequence[Facts], runs: Sequence[str]) -> list[str]:
    """Return what to add to each name: what differs, or else the run."""
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
    mine, theirs = (run.examples(dataset).drop(columns="fold").astype(object) for run in (a, b))
    return mine.equals(theirs)


def _what_is_done(member: ComparedRun, dataset: str) -> Facts:
    return without(member.known["dataset"][dataset], *WHERE)


def _same_answers(a: ComparedRun, b: ComparedRun, model: str) -> bool:
    mine, theirs = _answers(a, model), _answers(b, model)
    shared = mine.keys() & theirs.keys()
    if not shared:
        return _how_it_is_read(a, model) == _how_it_is_read(b, model)
    return all(mine[curve].equals(theirs[curve]) for curve in shared)


def _answers(member: ComparedRun, model: str) -> dict[Any, pd.DataFrame]:
    """Return the predictions of a model, sorted by layer and example, by dataset and position."""
    table = member.run.predictions
    rows = table[table["model"] == model].reindex(columns=columns_of("predictions"))
    rows = rows.sort_values(["layer", "example"])
    return {name: of.reset_index(drop=True) for name, of in rows.groupby(list(CURVE[1:]))}


def _how_it_is_read(member: ComparedRun, model: str) -> Facts:
    """Collect what a model's predictions depend on, besides the position.

    The digest of the weights is left out, since the revision identifies them.
    """
    facts = without(member.known["model"][model], "digest")
    extract, probe = (member.settings(section) for section in ("extract", "probe"))
    return facts | {"extract": without(extract, "position"), "probe": probe}
