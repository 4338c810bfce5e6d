"""The stages in their order: extract, probe, report. What is done is never done again."""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pandas as pd
import pyarrow

from llmprobe.concepts.dataset import ConceptDataset
from llmprobe.concepts.groups import units
from llmprobe.concepts.include import include
from llmprobe.concepts.load import loaded, tell
from llmprobe.concepts.published.files import without_downloads
from llmprobe.config import ModelConfig, RunConfig, file_name
from llmprobe.config_file import load_config
from llmprobe.environment import environment
from llmprobe.errors import NotOnDiskError, UserError
from llmprobe.extraction.activations import Activations
from llmprobe.extraction.estimate import describe
from llmprobe.extraction.extract import Extractor
from llmprobe.files import disk_is_full, whole_file, write_text
from llmprobe.launch import launched
from llmprobe.models.devices import resolve_device
from llmprobe.models.source import check, expected_size, is_local
from llmprobe.probing.protocol import RESULT_COLUMNS, SUMMARY_COLUMNS, ProbeResults, probe
from llmprobe.probing.questions import ask
from llmprobe.probing.saved import load_probe

log = logging.getLogger(__name__)

TABLES = ("results", "summary", "predictions")
CURVE = "learning_curve"
"""The table that a run has only where it was asked for."""
PROBES = "probes.safetensors"
COLUMNS: Mapping[str, Sequence[str]] = {
    "results": RESULT_COLUMNS,
    "summary": SUMMARY_COLUMNS,
    "predictions": "model dataset layer example fold label predicted score".split(),
    CURVE: "model dataset layer fraction accuracy r2".split(),
}
"""What a table of this version has, at least."""

BARE: Mapping[str, Any] = {
    "controls": (), "permutations": 0, "description_length": False, "learning_curve": ()
}  # fmt: skip
"""Changes of a probe config that leave the accuracies as they are."""

PLACES = {"device"}
"""Keys of a probe config that do not change what it gives."""

RESULTS_VERSION = 2
"""Raise when the same activations and config would give other numbers."""


@dataclass(frozen=True)
class Part:
    """The results of one model on one dataset, in a folder named by all that they depend on."""

    folder: Path

    def load(self) -> ProbeResults | None:
        """The results, if they are there, whole and readable."""
        try:
            table, summary, predictions, learning_curve = (
                _read_table(self.folder / f"{name}.parquet") for name in (*TABLES, CURVE)
            )
            probes = (load_probe(self.folder / PROBES),)
        except UserError:
            return None
        return ProbeResults(table, summary, predictions, learning_curve, probes)

    def save(self, results: ProbeResults) -> None:
        """Write probes and tables; without any of them the part does not count."""
        results.probes[0].save(self.folder / PROBES)
        for name, table in _tables(results):
            with whole_file(self.folder / f"{name}.parquet") as partial:
                table.to_parquet(partial, index=False)


class Run:
    """One config with one output folder."""

    def __init__(self, config: RunConfig, out: Path, download: bool = True) -> None:
        """Load and check the datasets.

        Parameters
        ----------
        download
            Whether to fetch datasets that are not on this disk; else they are left out, and
            ``missing`` says which.

        Raises
        ------
        UserError
            Anything that can be seen to be wrong before a model is loaded.
        """
        self.config, self.out = config, out
        if config.probe.device != "auto":
            resolve_device(config.probe.device, "probe.device")
        for path in config.include:
            include(path)
        self.datasets: list[ConceptDataset] = []
        self.missing: list[str] = []
        with nullcontext() if download else without_downloads():
            for dataset_config in config.datasets:
                try:
                    dataset = loaded(dataset_config)
                except NotOnDiskError as error:
                    self.missing.append(str(error))
                    continue
                _check(dataset, dataset_config.n, config)
                self.datasets.append(dataset)
        if self.missing and download:
            raise NotOnDiskError("\n".join(self.missing))

    def extract(self) -> Iterator[Activations]:
        """Activations of every model on every dataset, into the cache."""
        for extractor, dataset, _ in self._work():
            yield extractor.extract(dataset)

    def estimates(self) -> Iterator[str]:
        """A line for each model and dataset: what an extraction would cost. Downloads nothing."""
        yield from self.missing
        texts = sum(map(len, self.datasets))
        for model, is_control in self._models():
            if not is_local(model):
                if not is_control:
                    yield (
                        f"{model.name}: {expected_size(model)} is not on this disk and would be "
                        f"downloaded first, for {texts:,} texts of {len(self.datasets)} datasets"
                    )
                continue
            extractor = Extractor(model, self.config.extract)
            for dataset in self.datasets:
                line = f"{model.name} on {dataset.name}: {len(dataset):,} texts"
                done = extractor.find(dataset) is not None
                cost = "already extracted" if done else describe(extractor.estimate(dataset))
                yield f"{line}, {cost}"

    def probe(self, extract: bool = False) -> ProbeResults:
        """Probe every model on every dataset, extracting what is missing if told to.

        Parts that were probed before with the same config are read, not computed; when the work
        is interrupted, the tables hold the parts that were finished.

        Raises
        ------
        UserError
            An extraction is missing and ``extract`` is false; several processes were launched.
        """
        if launched() > 1:
            raise UserError(
                "several processes share `llmprobe extract` only; launch that, then start "
                "`llmprobe probe` with the same config by itself"
            )
        self._claim_folder()
        parts: list[ProbeResults] = []
        untrained: dict[tuple[str, str], ProbeResults] = {}
        try:
            for extractor, dataset, is_control in self._work():
                place = extractor.model_config.id, dataset.name
                if is_control:
                    untrained[place] = self._probe_one(extractor, dataset, extract, BARE)
                    continue
                part = self._probe_one(extractor, dataset, extract)
                control = untrained.get(place)
                parts.append(part if control is None else _beside(part, control))
        finally:
            if parts:
                self._write(ProbeResults.concatenate(parts))
        return ProbeResults.concatenate(parts)

    def _probe_one(
        self,
        extractor: Extractor,
        dataset: ConceptDataset,
        extract: bool,
        changes: Mapping[str, Any] | None = None,
    ) -> ProbeResults:
        config = self.config.probe.model_copy(update=changes)
        # The untrained control is a part of its own, and the order of the others says nothing.
        controls = tuple(sorted(set(config.controls) - {"random_weights"}))
        config = config.model_copy(update={"controls": controls})
        name = extractor.model_config.name
        not_extracted = UserError(
            f"{name} on {dataset.name}: not extracted yet; run `llmprobe extract` with the "
            "same config first, or `llmprobe run` for everything"
        )
        if not extract and not is_local(extractor.model_config):
            raise not_extracted
        key = {
            "version": RESULTS_VERSION,
            "names": [name, dataset.name],
            "activations": extractor.folder(dataset).name,
            "dataset": dataset.content_hash,
            "probe": config.model_dump(mode="json", exclude=PLACES),
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        part = Part(self.out / "parts" / f"{name}-{file_name(dataset.name)}-{digest[:16]}")
        found = part.load()
        if found is not None:
            log.info("%s on %s: already probed", name, dataset.name)
            return found
        activations = extractor.extract(dataset) if extract else extractor.find(dataset)
        if activations is None:
            raise not_extracted
        results = probe(activations, config)
        part.save(results)
        return results

    def _work(self) -> Iterator[tuple[Extractor, ConceptDataset, bool]]:
        """Models outside, datasets inside: one model in memory at a time, loaded at most once."""
        for model, is_control in self._models():
            extractor = Extractor(model, self.config.extract)
            for dataset in self.datasets:
                yield extractor, dataset, is_control

    def _models(self) -> list[tuple[ModelConfig, bool]]:
        """Each model, right after its untrained control if there is one; True is the control.

        What can be seen to be wrong with any of them is said before the first is loaded.
        """
        wanted = "random_weights" in self.config.probe.controls
        models: list[tuple[ModelConfig, bool]] = []
        for model in self.config.models:
            check(model)
            if wanted and model.weights == "pretrained":
                models.append((_untrained(model), True))
            models.append((model, False))
        return models

    def _claim_folder(self) -> None:
        """Find out that the folder cannot be written before hours of work, not after."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self.out):
                pass
        except OSError as error:
            if disk_is_full(error):
                raise
            reason = "it is a file" if self.out.is_file() else error.strerror
            raise UserError(f"--out {self.out}: cannot be written: {reason}") from None

    def _write(self, results: ProbeResults) -> None:
        """The tables, and the config and the environment that they came from."""
        write_text(self.out / "config.yaml", self.config.to_yaml())
        facts = json.dumps(environment(self.config.models, self.datasets), indent=2)
        write_text(self.out / "environment.json", facts)
        for name, table in _tables(results):
            if table.empty:  # One may be left of another config.
                for path in self.out.glob(f"{name}.*"):
                    path.unlink()
                continue
            with whole_file(self.out / f"{name}.parquet") as partial:
                table.to_parquet(partial, index=False)
            if name != "predictions":
                write_text(self.out / f"{name}.csv", table.to_csv(index=False))
        probes = {
            self.out / "probes" / model / f"{file_name(dataset)}.safetensors": probe_of_all
            for probe_of_all in results.probes
            for model, dataset in [(probe_of_all.facts["model"], probe_of_all.facts["dataset"])]
        }
        # Like the tables, they are those of this config that are finished; parts keep the others.
        _remove_others(self.out / "probes", "*/*.safetensors", probes)
        for path, probe_of_all in probes.items():
            probe_of_all.save(path)


def report(out: Path) -> list[Path]:
    """Figures and page of a run folder, from its tables. -> the files written, page last

    Raises
    ------
    UserError
        ``out`` is not a run folder, or its tables are missing or damaged.
    """
    from llmprobe.reporting.figures import draw_all
    from llmprobe.reporting.page import write_report

    if not (out / "config.yaml").is_file():
        raise UserError(f"{out}: not a run folder (it has no config.yaml)")
    config = load_config(out / "config.yaml")
    results, summary = (_read_table(out / f"{name}.parquet") for name in TABLES[:2])
    facts = _environment_of(out)
    models = facts.pop("models")
    facts.pop("datasets", None)
    written = draw_all(results, summary, out / "figures")
    for figures in ("heatmap_*.png", "heatmap_*.svg"):
        _remove_others(out / "figures", figures, written)
    if not config.report.html:
        (out / "report.html").unlink(missing_ok=True)
    else:
        command = shlex.join(["llmprobe", "run", str(out / "config.yaml"), "--out", str(out)])
        written.append(
            write_report(
                out / "report.html",
                results,
                summary,
                models=models,
                title=config.name,
                config=config.to_yaml(),
                environment=facts,
                command=command,
                permutations=config.probe.permutations,
            )
        )
    return written


def terminal_summary(out: Path, unicode: bool = True) -> str:
    """The summary of a run folder as a short table of text."""
    from llmprobe.reporting.terminal import summary_table

    results, summary = (_read_table(out / f"{name}.parquet") for name in TABLES[:2])
    return summary_table(summary, results, _environment_of(out)["models"], unicode=unicode)


def _check(dataset: ConceptDataset, n: int | None, config: RunConfig) -> None:
    """Raise ``UserError`` for what would stop the run later; ``n`` is how many were asked for."""
    try:
        tell(dataset, refuse=True)
        _check_folds(dataset, config)
    except UserError as error:
        if n is None or dataset.groups is None:
            raise
        largest = Counter(dataset.groups.tolist()).most_common(1)[0][1]
        raise UserError(
            f"{error}; with n (or --limit) {n}, whole groups of up to {largest} are drawn, so it "
            f"takes {2 * config.probe.folds * largest} or more"
        ) from None
    if config.extract.position.startswith("span:"):
        dataset.span_ends(config.extract.position.removeprefix("span:"))


def _check_folds(dataset: ConceptDataset, config: RunConfig) -> None:
    whole = units(dataset.groups, dataset.texts)
    ask(dataset.labels, whole, config.probe.model_copy(update=BARE), dataset.name)


def _untrained(model: ModelConfig) -> ModelConfig:
    """The control of a model: the same architecture with random weights."""
    return model.model_copy(update={"weights": "random", "name": f"{model.name}-random"})


def _beside(part: ProbeResults, control: ProbeResults) -> ProbeResults:
    """A part with the accuracies of the untrained control."""
    table, summary = part.table.copy(), part.summary.copy()
    table["random_weights_accuracy"] = control.table["accuracy"].to_numpy()
    for metric in ("accuracy", "r2"):
        summary[f"random_weights_{metric}"] = control.summary[f"peak_{metric}"].to_numpy()
    return replace(part, table=table, summary=summary)


def _tables(results: ProbeResults) -> list[tuple[str, pd.DataFrame]]:
    tables = (results.table, results.summary, results.predictions, results.learning_curve)
    return list(zip((*TABLES, CURVE), tables, strict=True))


def _read_table(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; the run has no results yet") from None
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise _damaged(path, error) from None
    absent = set(COLUMNS.get(path.stem, ())) - set(table.columns)
    if absent:
        raise UserError(
            f"{path}: has no column {min(absent)!r}, so another version of llmprobe made it; run "
            "the config again, which probes again and extracts only what is not in the cache"
        )
    return table


def _remove_others(folder: Path, pattern: str, kept: Collection[Path]) -> None:
    """Remove the files of an earlier config, and folders that are empty then."""
    for path in sorted(folder.glob(pattern)):
        if path not in kept and path.is_file():
            path.unlink()
            if path.parent != folder and not any(path.parent.iterdir()):
                path.parent.rmdir()


def _environment_of(out: Path) -> dict[str, Any]:
    path = out / "environment.json"
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        facts["models"] = [dict(model) for model in facts["models"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _damaged(path, error) from None
    return facts


def _damaged(path: Path, reason: Exception | str) -> UserError:
    said = (str(reason).strip().splitlines() or ["empty"])[0]
    return UserError(f"{path}: missing or damaged ({said}); run the config again")


def default_out(config: RunConfig) -> Path:
    """``runs/<name>``."""
    return Path("runs") / config.name
