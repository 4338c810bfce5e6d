"""Whether runs can be compared, and what differs between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from llmprobe.config.schema import DatasetConfig, ModelConfig, RunConfig
from llmprobe.ground.errors import UserError
from llmprobe.ground.text import listed
from llmprobe.results.results import Results
from llmprobe.results.saved_probe import load_probe
from llmprobe.run.parts import KEYS_WITHOUT_EFFECT

Facts = dict[str, Any]
"""What a config says of a model or a dataset, beside the defaults."""
Kind = Literal["model", "dataset"]

MUST_AGREE = {
    "extract": ("site", "position", "chat_template"),
    "probe": ("kind", "folds", "l2", "controls", "seed"),
}
"""Settings without which curves of the same examples do not mean the same."""
FRAMES = ("table", "summary", "predictions", "examples", "learning_curve")
"""The tables of `Results` that say of which dataset a row is."""


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A run among those that are compared."""

    name: str
    """Different from the others'."""
    config: RunConfig
    run: Results
    known: Mapping[Kind, Mapping[str, Facts]]
    """What is known of the models and the datasets of its curves, by their names in the tables."""

    @classmethod
    def of(cls, name: str, config: RunConfig, run: Results) -> ComparedRun:
        """Read all that is known of the run's models and datasets."""
        models = {
            model.name: _facts(model, "model") | _loaded(run.folder / "probes" / model.name)
            for model in config.models
        }
        datasets = {dataset.title: _facts(dataset, "dataset") for dataset in config.datasets}
        asked: dict[Kind, dict[str, Facts]] = {"model": models, "dataset": datasets}
        known: dict[Kind, Mapping[str, Facts]] = {
            kind: {name: facts.get(name, {}) for name in run.summary[kind].unique()}
            for kind, facts in asked.items()
        }
        return cls(name, config, run, known)

    def renamed(self, kind: Kind, new: Mapping[str, str]) -> ComparedRun:
        """Give other names to some of its models or datasets, in its tables too."""
        tables: dict[str, Any] = {}
        for table in FRAMES:
            frame: pd.DataFrame = getattr(self.run, table)
            if kind in frame:  # Examples are of no model.
                tables[table] = frame.assign(**{kind: frame[kind].replace(new)})
        many = f"{kind}s"
        named = [
            {**facts, "name": new.get(facts.get("name", ""), facts.get("name", ""))}
            for facts in self.run.environment[many]
        ]
        run = replace(self.run, **tables, environment={**self.run.environment, many: named})
        facts_of = {new.get(name, name): facts for name, facts in self.known[kind].items()}
        return replace(self, run=run, known={**self.known, kind: facts_of})

    def examples(self, dataset: str) -> pd.DataFrame:
        """Return text, label, group and fold of each example in order, if all that is known."""
        tables = [
            table[table["dataset"] == dataset].drop_duplicates("example").set_index("example")
            for table in (self.run.examples, self.run.predictions)
        ]
        return (
            tables[0][["text", "label", "group"]].join(tables[1]["fold"], how="inner").sort_index()
        )


class Differing(NamedTuple):
    """Something that is not the same in all runs."""

    what: str
    values: Sequence[str]
    """One for each run, empty where it has none."""

    def by_run(self, runs: Sequence[str]) -> str:
        """Say which runs have which value: ``5 in a, 10 in b and c``."""
        having: dict[str, list[str]] = {}
        for name, value in zip(runs, self.values, strict=True):
            if value:
                having.setdefault(value, []).append(name)
        return ", ".join(f"{value} in {listed(names)}" for value, names in having.items())


def incompatibilities(members: Sequence[ComparedRun]) -> list[str]:
    """Say why curves of these runs do not mean the same, a clause each."""
    runs = [member.name for member in members]
    found = [
        f"{differing.what} is {differing.by_run(runs)}"
        for section, keys in MUST_AGREE.items()
        for differing in _settings(members, section, keys)
    ]
    for dataset in each_once(member.known["dataset"] for member in members):
        first, *others = (member for member in members if dataset in member.known["dataset"])
        found += filter(None, (_unlike(dataset, first, other) for other in others))
    return found


def what_differs(members: Sequence[ComparedRun]) -> list[Differing]:
    """List what is not the same in these runs, allowed or not, beside what they found."""
    found = [
        Differing("models", [", ".join(member.known["model"]) for member in members]),
        Differing("datasets", [", ".join(member.known["dataset"]) for member in members]),
    ]
    kinds: tuple[tuple[Kind, type[ModelConfig] | type[DatasetConfig]], ...] = (
        ("model", ModelConfig),
        ("dataset", DatasetConfig),
    )
    for kind, section in kinds:
        for name in each_once(member.known[kind] for member in members):
            facts = [member.known[kind].get(name) for member in members]
            for key in each_once(filter(None, facts)):
                field = section.model_fields.get(key)
                default = "" if field is None else field.get_default(call_default_factory=True)
                values = ["" if one is None else plain(one.get(key, default)) for one in facts]
                found.append(Differing(f"{name}: {key}", values))
    for section_name in MUST_AGREE:
        found += _settings(members, section_name)
    environments = [member.run.environment for member in members]
    for key in each_once(environments):
        if key not in ("models", "datasets", "date"):
            found.append(Differing(key, [plain(one.get(key, "")) for one in environments]))
    return [one for one in found if len(set(filter(None, one.values))) > 1]


def plain(value: Any) -> str:
    """Write a value of a config as one reads it."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def without(facts: Facts, *keys: str) -> Facts:
    """Return all facts but some."""
    return {key: value for key, value in facts.items() if key not in keys}


def each_once(mappings: Iterable[Iterable[str]]) -> list[str]:
    """List what is in some mappings or lists, each once, by first appearance."""
    return list(dict.fromkeys(chain.from_iterable(mappings)))


def _facts(config: ModelConfig | DatasetConfig, kind: Kind) -> Facts:
    return config.model_dump(mode="json", exclude_defaults=True, exclude=KEYS_WITHOUT_EFFECT[kind])


def _loaded(probes: Path) -> dict[str, str]:
    """Read how a model's weights were held in the end, and which they were, from its probes."""
    for path in sorted(probes.glob("*.safetensors")):
        try:
            facts = load_probe(path).facts
        except UserError:
            continue
        found = {"dtype": facts.get("dtype", ""), "digest": facts.get("revision", "")[:12]}
        return {key: value for key, value in found.items() if value}
    return {}


def _settings(
    members: Sequence[ComparedRun], section: str, keys: Iterable[str] | None = None
) -> Iterator[Differing]:
    sections = [getattr(member.config, section) for member in members]
    for key in keys or type(sections[0]).model_fields:
        values = [getattr(one, key) for one in sections]
        if key == "controls":  # Their order says nothing.
            values = [sorted(value) for value in values]
        if key not in KEYS_WITHOUT_EFFECT[section] and any(value != values[0] for value in values):
            yield Differing(f"{section}.{key}", [plain(value) for value in values])


def _unlike(dataset: str, a: ComparedRun, b: ComparedRun) -> str:
    """Say in what a dataset of two runs is not the same; empty where it is."""
    mine, theirs = a.examples(dataset), b.examples(dataset)
    for member, table in ((a, mine), (b, theirs)):
        if table.empty:
            return (
                f"which examples of {dataset} {member.name} is about, or their folds, cannot be "
                "read (an earlier version made it, or examples.parquet or predictions.parquet is "
                "damaged; run its config again)"
            )
    if len(mine) != len(theirs):
        return f"{dataset} has {len(mine):,} examples in {a.name}, {len(theirs):,} in {b.name}"
    asked, other_asked = a.known["dataset"][dataset], b.known["dataset"][dataset]
    reworded = asked != other_asked and without(asked, "perturb") == without(other_asked, "perturb")
    for column in mine.columns[1:] if reworded else mine.columns:
        other = unequal(mine[column], theirs[column])
        if other.any():
            return (
                f"the {column} of {other.sum():,} of {len(other):,} examples of {dataset} differs "
                f"between {a.name} and {b.name}, first of example {mine.index[other][0]}"
            )
    return ""


def unequal(a: pd.Series, b: pd.Series) -> np.ndarray:
    """Find where two columns differ; to be missing in both is no difference. [n]"""
    found: np.ndarray = (a.to_numpy() != b.to_numpy()) & ~(a.isna() & b.isna()).to_numpy()
    return found.astype(bool)
