"""A comparison of runs: a folder with all their tables, how their curves differ, and one page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import Field

from llmprobe.config.load import load_config, parsed_yaml, validated
from llmprobe.config.schema import Section
from llmprobe.ground.errors import UserError
from llmprobe.ground.text import elide, listed
from llmprobe.reporting.description import Description
from llmprobe.results.differences import differences
from llmprobe.results.folder import (
    claimed,
    missing_curves,
    read_results,
    whole_config,
    write_results,
)
from llmprobe.results.published import jin2024
from llmprobe.results.results import Results
from llmprobe.runs.comparable import (
    ComparedRun,
    by_run,
    each_once,
    incompatibilities,
    plain,
    what_differs,
)
from llmprobe.runs.report import FOLDER_KINDS, FolderKind, kind_of, summary_text
from llmprobe.runs.side_by_side import disambiguate_names, merged
from llmprobe.runs.wordings import wordings

if TYPE_CHECKING:
    from rich.text import Text

OTHER_KINDS = {
    "compare": "a comparison; give the runs that it was made of",
    "sanity": "an experiment of `llmprobe sanity`",
}

MOST_INCOMPATIBILITIES = 8
"""The most incompatibilities that an error lists; one cause often explains them all."""

LONGEST_LINE = 400
"""The most characters of a line about the runs in the terminal; names can be of any length."""

MOST_NAMES = 6
"""The most names in a title."""

NO_PAIRS = "No two curves are of the same examples, so none are compared."


class RunRecord(Section):
    """A run as it was at the time of the comparison."""

    name: str
    path: Path
    config: dict[str, Any]


class Comparison(Section):
    """A comparison of runs."""

    runs: list[RunRecord] = Field(min_length=1)
    anyway: bool
    """Whether the runs may be compared although their curves are not comparable."""
    differs: dict[str, list[str]]
    """The value in each run of every setting or fact that is not the same in all."""
    notes: list[str]
    """What a reader must know about the runs, a sentence each."""
    published: Literal["jin2024"] | None = None
    """The study whose published curves are drawn behind those of the runs."""

    @property
    def title(self) -> str:
        """Return the names of the runs: ``a · b · c``."""
        names = [run.name for run in self.runs]
        more = len(names) - MOST_NAMES
        return " · ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")

    def command(self, out: Path) -> str:
        """Return the command that makes this comparison again."""
        words = ["llmprobe", "compare", *(str(run.path) for run in self.runs), "--out", str(out)]
        words += ["--anyway"] * self.anyway
        return shlex.join([*words, "--published", self.published] if self.published else words)


class ComparisonConfig(Section):
    """The whole config.yaml in the folder of a comparison."""

    compare: Comparison


def compare(
    runs: Sequence[Path],
    out: Path,
    *,
    anyway: bool = False,
    published: Literal["jin2024"] | None = None,
) -> None:
    """Write the merged tables of several runs, and how their curves differ, to a folder.

    Runs may differ in anything that a comparison can be about: models, sizes, revisions,
    precision, perturbations, datasets. If two different models or datasets have one name, what
    differs is added to their names.

    Parameters
    ----------
    anyway
        Whether to compare runs whose curves are not comparable: with different examples, folds,
        sites, positions or probes. Only identical examples are ever paired.
    published
        A study whose published curves are drawn behind those of the runs; then one run is enough.

    Raises
    ------
    UserError
        There are fewer than two run folders; ``out`` holds something other than a comparison; the
        curves are not comparable; no dataset is one of the published study.
    """
    if len(runs) < 2 and published is None:
        raise UserError(
            f"compare takes two run folders or more, and {len(runs)} was given; `llmprobe report` "
            "draws one alone, and --published draws it over a study's curves"
        )
    members = _members(runs)
    _require_own_folder(out, runs)
    notes = _incomparable(members, anyway)
    for member in members:
        notes += [*member.run.notes, *missing_curves(member.run, member.config)]
    comparison = Comparison(
        runs=[
            RunRecord(
                name=member.name,
                path=member.run.folder.resolve(),
                config=yaml.safe_load(member.config.to_yaml()),
            )
            for member in members
        ],
        anyway=anyway,
        differs=what_differs(members),
        notes=notes,
        published=published,
    )
    members = disambiguate_names(members)
    results = Results(**merged(members), environment=_environment(members))
    if published and not set(results.summary["dataset"]) & set(jin2024().peaks["dataset"]):
        names = listed(sorted(jin2024().peaks["dataset"].unique()))
        raise UserError(f"--published {published}: no run has a dataset of that study: {names}")
    found = differences(
        results, wordings(pair for member in members for pair in member.known["dataset"].items())
    )
    if found.empty:
        comparison.notes.append(NO_PAIRS)
    config = ComparisonConfig(compare=comparison).model_dump(mode="json")
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    with claimed(out):
        write_results(out, replace(results, differences=found, config=text))


def _describe(run: Results) -> Description:
    from llmprobe.reporting.page.compared import Compared

    comparison, notes = _read(run)
    illustrations = {}
    if comparison.published is not None:
        from llmprobe.reporting.charts.published import under_published

        study = jin2024()
        if (figure := under_published(run, study)) is not None:
            caption = f"Accuracy over relative depth; grey: as published by {study.citation}."
            alt = "Line chart: a panel for each dataset, the runs' models over published curves."
            illustrations["published"] = (figure, caption, alt)
    return Description(
        title=comparison.title,
        command=comparison.command(run.folder),
        compared=Compared(
            run.differences,
            {one.name: str(one.path) for one in comparison.runs},
            comparison.differs,
        ),
        illustrations=illustrations,
        notes=notes,
    )


def _text(run: Results, width: int, unicode: bool) -> Text:
    """Return the best layers, how the curves differ, and how the runs differ, as text."""
    from rich.text import Text

    from llmprobe.reporting.terminal_differences import difference_table

    comparison, notes = _read(run)
    names = [one.name for one in comparison.runs]
    lines = [
        *(f"{one.name}: {one.path}" for one in comparison.runs),
        *(f"{what}: {by_run(names, values)}" for what, values in comparison.differs.items()),
        *(f"note: {note}" for note in (*run.notes, *notes)),
    ]
    about = "\n".join(
        fill(elide(line, LONGEST_LINE, "…"), width, subsequent_indent="  ") for line in lines
    )
    parts = [
        summary_text(run, width, unicode),
        Text(difference_table(run.differences, unicode=unicode)),
        Text(about if unicode else about.replace("…", "...").encode("ascii", "replace").decode()),
    ]
    return Text("\n\n").join(part for part in parts if part)


def _read(run: Results) -> tuple[Comparison, list[str]]:
    """Return the comparison in a folder, and the notes on it."""
    path = whole_config(run.folder)
    comparison = validated(ComparisonConfig, parsed_yaml(path), str(path)).compare
    notes = list(comparison.notes)
    if run.differences.empty and NO_PAIRS not in notes:
        notes.append(
            f"{run.folder / 'differences.parquet'}: missing or damaged; to make it again: "
            f"{comparison.command(run.folder)}"
        )
    return comparison, notes


FOLDER_KINDS.add("compare", FolderKind(_describe, _text))


def _members(runs: Sequence[Path]) -> list[ComparedRun]:
    members: list[ComparedRun] = []
    for i, run in enumerate(runs):
        if run.resolve() in [other.resolve() for other in runs[:i]]:
            raise UserError(f"{run}: given twice; a run does not differ from itself")
        tables = read_results(run)
        if (kind := kind_of(run)) in OTHER_KINDS:
            raise UserError(f"{run}: not a run of language models but {OTHER_KINDS[kind]}")
        config = load_config(whole_config(run))
        members.append(ComparedRun.of(config.name, config, tables))
    ways_to_name = (
        [member.name for member in members],
        [run.resolve().name for run in runs],
        [str(run) for run in runs],
    )
    names = next(way for way in ways_to_name if len(set(way)) == len(way))
    return [replace(member, name=name) for member, name in zip(members, names, strict=True)]


def _require_own_folder(out: Path, runs: Sequence[Path]) -> None:
    """Raise ``UserError`` if ``out`` is inside a run or holds something else than a comparison."""
    for run in runs:
        if run.resolve() in (out.resolve(), *out.resolve().parents):
            where = "is one of the runs" if run.resolve() == out.resolve() else f"is inside {run}"
            raise UserError(f"--out {out}: {where}; give the comparison a folder of its own")
    holds = [path for path in out.iterdir() if path.name[0] != "."] if out.is_dir() else []
    if holds and kind_of(out) != "compare":
        raise UserError(
            f"--out {out}: holds something that is not a comparison; give a new folder, or that of "
            "an earlier comparison to replace it"
        )


def _incomparable(members: Sequence[ComparedRun], anyway: bool) -> list[str]:
    """Return why curves are not comparable, a sentence each; raise ``UserError`` unless anyway."""
    found = list(incompatibilities(members))
    if not found or anyway:
        return [f"Not comparable: {one}." for one in found]
    more = len(found) - MOST_INCOMPATIBILITIES
    lines = [f"not comparable: {one}" for one in found[:MOST_INCOMPATIBILITIES]]
    lines += [f"and {more} more like these"] if more > 0 else []
    raise UserError(
        "\n".join(lines) + "\ngive runs of the same examples, folds and settings, or add --anyway "
        "to see these side by side with a note"
    )


def _environment(members: Sequence[ComparedRun]) -> dict[str, Any]:
    """Merge the environments of runs; a value that differs is listed for each run."""
    environments = [member.run.environment for member in members]
    environment: dict[str, Any] = {}
    for key in each_once(environments):
        values = [one.get(key, "") for one in environments]
        if key in ("models", "datasets"):
            by_name = {facts["name"]: facts for value in values for facts in value}
            environment[key] = list(by_name.values())
        elif all(value == values[0] for value in values):
            environment[key] = values[0]
        else:
            environment[key] = "; ".join(
                f"{member.name}: {plain(value)}"
                for member, value in zip(members, values, strict=True)
            )
    return environment
