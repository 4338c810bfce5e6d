"""Whether runs can be compared, and what differs between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from llmprobe.config.schema import DatasetConfig, ModelConfig, RunConfig, Section
from llmprobe.ground.errors import UserError
from llmprobe.ground.text import flatten, listed
from llmprobe.results.folder import TABLES
from llmprobe.results.results import Results
from llmprobe.results.saved_probe import load_probe
from llmprobe.runs.parts import KEYS_WITHOUT_EFFECT

Facts = dict[str, Any]
"""The settings of a model or a dataset in a config that differ from the defaults."""
Dimension = Literal["model", "dataset"]
SECTIONS: Mapping[Dimension, type[ModelConfig] | type[DatasetConfig]] = {
    "model": ModelConfig,
    "dataset": DatasetConfig,
}
NAMING: Mapping[Dimension, tuple[str, ...]] = {
    "model": ("model",),
    "dataset": (
        *("dataset", "train_dataset", "test_dataset", "train", "test"),
        *("worst_transfer_train", "worst_transfer_test"),
    ),
}
"""The columns that hold names of models or datasets; sets of a transfer are named DATASET or
DATASET:VALUE."""

MUST_AGREE = (
    *("extract.site", "extract.chat_template"),
    *("probe.kind", "probe.folds", "probe.l2", "probe.controls", "probe.seed"),
)
"""Settings that must be equal, or curves of the same examples are not comparable."""


def _renamed(names: pd.Series, new: Mapping[str, str]) -> pd.Series:
    """Replace names; in DATASET:VALUE, the name before the colon."""

    def renamed(name: Any) -> Any:
        if not isinstance(name, str) or name in new:
            return new.get(name, name)
        of = max((old for old in new if name.startswith(f"{old}:")), key=len, default="")
        return new.get(of, of) + name[len(of) :]

    return names.map(renamed)


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """One of the runs in a comparison."""

    name: str
    """A name that no other run of the comparison has."""
    config: RunConfig
    run: Results
    known: Mapping[Dimension, Mapping[str, Facts]]
    """The facts about the models and datasets of its curves, by their names in the tables."""

    @classmethod
    def of(cls, name: str, config: RunConfig, run: Results) -> ComparedRun:
        """Collect what the config and the saved probes say about the models and datasets."""
        models = {
            model.name: _facts(model, "model") | _loaded(run.folder / "probes" / model.name)
            for model in config.sources
        }
        datasets = {dataset.title: _facts(dataset, "dataset") for dataset in config.datasets}
        asked: dict[Dimension, dict[str, Facts]] = {"model": models, "dataset": datasets}
        known: dict[Dimension, Mapping[str, Facts]] = {
            kind: {name: facts.get(name, {}) for name in run.summary[kind].unique()}
            for kind, facts in asked.items()
        }
        return cls(name, config, run, known)

    def renamed(self, kind: Dimension, new: Mapping[str, str]) -> ComparedRun:
        """Return the run with its models or datasets renamed, in its tables too."""
        frames = {table: getattr(self.run, table) for table in TABLES.values()}
        tables: dict[str, Any] = {
            table: frame.assign(
                **{
                    column: _renamed(frame[column], new)
                    for column in NAMING[kind]
                    if column in frame
                }
            )
            for table, frame in frames.items()
        }
        environment = {**self.run.environment}
        environment[f"{kind}s"] = [
            {**facts, "name": new.get(facts["name"], facts["name"])}
            for facts in environment[f"{kind}s"]
        ]
        run = replace(self.run, **tables, environment=environment)
        known = {new[name]: facts for name, facts in self.known[kind].items()}
        return replace(self, run=run, known={**self.known, kind: known})

    def examples(self, dataset: str) -> pd.DataFrame:
        """Return text, label, group and fold by example; empty if the run's tables lack them."""
        texts, folds = (
            table[table["dataset"] == dataset].drop_duplicates("example").set_index("example")
            for table in (self.run.examples, self.run.predictions)
        )
        return texts[["text", "label", "group"]].join(folds["fold"], how="inner").sort_index()

    def settings(self, section: str) -> Facts:
        """Return the settings in ``extract`` or ``probe`` that differ from the defaults."""
        return _facts(getattr(self.config, section), section)

    def all_facts(self) -> dict[str, str]:
        """Return everything that can differ between runs as text: ``{"probe.folds": "5"}``."""
        without_effect = {section: KEYS_WITHOUT_EFFECT[section] for section in ("extract", "probe")}
        settings = self.config.model_dump(
            mode="json", include=set(without_effect), exclude=without_effect
        )
        settings["probe"]["controls"].sort()  # Their order has no effect.
        facts = {f"{kind}s": ", ".join(known) for kind, known in self.known.items()}
        for kind, known in self.known.items():
            for name, beside_defaults in known.items():
                values = _defaults(kind) | beside_defaults
                facts |= {f"{name}: {key}": value for key, value in values.items()}
        facts |= flatten(settings)
        facts |= without(self.run.environment, "models", "datasets", "date")
        return {what: plain(value) for what, value in facts.items()}


def by_run(runs: Sequence[str], values: Sequence[str]) -> str:
    """Return which runs have which value: ``5 in a, 10 in b and c``; empty values are left out."""
    having: dict[str, list[str]] = {}
    for name, value in zip(runs, values, strict=True):
        if value:
            having.setdefault(value, []).append(name)
    return ", ".join(f"{value} in {listed(names)}" for value, names in having.items())


def what_differs(members: Sequence[ComparedRun]) -> dict[str, list[str]]:
    """Return all settings and facts that differ between the runs, whether or not they may.

    -> the value in each run, "" if it has none, by the name of the setting or fact
    """
    facts = [member.all_facts() for member in members]
    values = {what: [of_run.get(what, "") for of_run in facts] for what in each_once(facts)}
    return {what: of_runs for what, of_runs in values.items() if len({*of_runs} - {""}) > 1}


def incompatibilities(members: Sequence[ComparedRun]) -> Iterator[str]:
    """Yield the reasons why curves of these runs are not comparable, a clause each."""
    runs = [member.name for member in members]
    shared = set.intersection(*(set(member.config.positions) for member in members))
    for what, values in what_differs(members).items():
        if what in MUST_AGREE or (what == "extract.position" and not shared):
            yield f"{what} is {by_run(runs, values)}"
    for dataset in each_once(member.known["dataset"] for member in members):
        first, *others = (member for member in members if dataset in member.known["dataset"])
        yield from filter(None, (_unlike(dataset, first, other) for other in others))


def plain(value: Any) -> str:
    """Return a value of a config as readable text."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def without(facts: Mapping[str, Any], *keys: str) -> Facts:
    """Return the facts without some keys."""
    return {key: value for key, value in facts.items() if key not in keys}


def each_once(mappings: Iterable[Iterable[str]]) -> list[str]:
    """List all items of some mappings or lists, each once, by first appearance."""
    return list(dict.fromkeys(chain.from_iterable(mappings)))


def _facts(config: Section, section: str) -> Facts:
    excluded = KEYS_WITHOUT_EFFECT[section]
    return config.model_dump(mode="json", exclude_defaults=True, exclude=excluded)


def _defaults(kind: Dimension) -> Facts:
    fields = SECTIONS[kind].model_fields.items()
    return {
        key: field.get_default(call_default_factory=True)
        for key, field in fields
        if not field.is_required()
    }


def _loaded(probes: Path) -> dict[str, str]:
    """Read the dtype and the identity of a model's weights from its saved probes."""
    for path in sorted(probes.glob("*.safetensors")):
        try:
            facts = load_probe(path).facts
        except UserError:
            continue
        found = {"dtype": facts.get("dtype", ""), "digest": facts.get("revision", "")[:12]}
        return {key: value for key, value in found.items() if value}
    return {}


def _unlike(dataset: str, a: ComparedRun, b: ComparedRun) -> str:
    """Return how a dataset differs between two runs; empty if it does not."""
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
        one, other = (table[column].reset_index(drop=True) for table in (mine, theirs))
        unequal = mine.index[(one != other) & ~(one.isna() & other.isna())]
        if len(unequal):
            return (
                f"the {column} of {len(unequal):,} of {len(mine):,} examples of {dataset} differs "
                f"between {a.name} and {b.name}, first of example {unequal[0]}"
            )
    return ""
