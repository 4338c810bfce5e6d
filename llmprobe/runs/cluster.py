"""A run whose work is divided into tasks for the workers of an engine.

This process decides which tasks there are. Their results come back as files alone: when the tasks
are done, the run goes through the same stages as on one machine, and finds all parts computed.
"""

from __future__ import annotations

import heapq
import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import llmprobe
from llmprobe.config.schema import (
    DatasetConfig,
    EngineConfig,
    ModelConfig,
    RunConfig,
    TransferConfig,
)
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction.activations import Activations
from llmprobe.extraction.elsewhere import StatesFromElsewhere
from llmprobe.extraction.estimate import duration
from llmprobe.extraction.extract import Extractor
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import cache_folder
from llmprobe.ground.lease import lease
from llmprobe.models.devices import dtype_name, resolve_device, resolve_dtype
from llmprobe.monitors.example_traces import examples_to_trace
from llmprobe.results.results import Results
from llmprobe.runs.engines import Engine, do_all, engine_of
from llmprobe.runs.parts import RESULTS_VERSION, probe_part
from llmprobe.runs.pipeline import Place, Run
from llmprobe.runs.tasks import Kind, Task

log = logging.getLogger(__name__)

TASKS_A_WORKER = 4
"""The approximate number of tasks for each worker, so that all end at about the same time."""
LEAST_SHARE = 60.0
"""The least seconds of work in a share of an extraction, since each share loads the model. These
are the nominal seconds of the plan, so that a restarted run divides the work as before."""


@dataclass(frozen=True)
class Unit:
    """A model or its untrained control, with some of the datasets: the work of one task."""

    number: int
    """The index of the model, or the file of states, in the config."""
    is_control: bool
    name: str
    """The name of the model or the control."""
    datasets: tuple[DatasetConfig, ...]


def run_of(config: RunConfig, out: Path, download: bool = True) -> Run:
    """Return the run of a config on its engine; raise ``UserError`` as ``Run`` does."""
    kind = Run if config.engine.kind == "local" else ClusterRun
    return kind(config, out, download)


class ClusterRun(Run):
    """A run whose work is done by the workers of an engine."""

    def __init__(self, config: RunConfig, out: Path, download: bool = True) -> None:
        """Load and check the datasets, as ``Run`` does."""
        self._sent = config.model_copy(
            update={"models": [_with_dtype(model) for model in config.models],
                    "engine": EngineConfig()}
        )  # fmt: skip
        # The devices are those of the workers; this machine may lack them.
        here = {
            "models": [model.model_copy(update={"device": "auto"}) for model in self._sent.models],
            "probe": config.probe.model_copy(update={"device": "auto"}),
        }
        super().__init__(config.model_copy(update=here), out.absolute(), download)
        self.given = config
        self.written = config.model_copy(update={"engine": EngineConfig()})
        self._engine: Engine | None = None
        self._tasks: list[tuple[Unit, Task]] = []
        self._finished: set[tuple[str, str]] | None = None

    def extract(self) -> Iterator[Activations]:
        """Yield the activations of every model on every dataset, extracted by the workers."""
        if not self.config.activations:
            with self._with_engine():
                self._locate()
                self._share_extractions()
                tasks = (self._task("extract", unit) for unit in self._units)
                self._do([task for task, unit in zip(tasks, self._units, strict=True)
                          if not self._is_extracted(unit)])  # fmt: skip
        yield from super().extract()

    def estimates(self) -> Iterator[str]:
        """Yield the cost of each piece of work, and the time that all workers need together."""
        yield from super().estimates()
        if self.missing:
            return
        engine = self.config.engine
        pieces, loads = list[float](), [0.0] * engine.workers
        for unit in self._units:
            seconds = [self.seconds.get((unit.name, dataset.title), (0.0, 0.0))
                       for dataset in unit.datasets]  # fmt: skip
            extraction, probing = map(sum, zip(*seconds, strict=True))
            shares = self._n_shares(unit)
            pieces += [extraction / shares] * shares if shares > 1 else []
            pieces.append(probing + (0 if shares > 1 else extraction))
        for piece in sorted(pieces, reverse=True):
            heapq.heappush(loads, heapq.heappop(loads) + piece)
        tasks = f"{len(pieces):,} task{'s' * (len(pieces) != 1)}"
        workers = f"{engine.workers} worker{'s' * (engine.workers != 1)}"
        yield (
            f"engine {engine.kind}: {tasks}; with {workers} as fast as this machine "
            f"{duration(max(loads))}, one after the other {duration(sum(pieces))}"
        )

    def _probe(self, extract: bool) -> Results:
        with self._with_engine():
            try:
                self._parts_ahead(extract)
            except (Exception, KeyboardInterrupt):
                self._write_finished()
                raise
            return super()._probe(extract)

    def _write_finished(self) -> None:
        """Write the tables of the parts that are finished, if there are any."""
        finished: dict[str, set[str]] = defaultdict(set)
        controls = {unit.name for unit in self._units if unit.is_control}
        for unit, task in self._tasks:
            if task.done.exists():
                finished[unit.name].update(dataset.title for dataset in unit.datasets)
        self._finished = {
            (name, title) for name, titles in finished.items() for title in titles
            if f"{name}-random" not in controls or title in finished[f"{name}-random"]
        }  # fmt: skip
        if any(name not in controls for name, _ in self._finished):
            self.config = self.config.model_copy(update={"transfer": None})
            with suppress(UserError):  # It would hide the error that stopped the run.
                super()._probe(extract=False)

    def _work(self) -> Iterator[tuple[Extractor | StatesFromElsewhere, ConceptDataset, bool]]:
        for source, dataset, is_control in super()._work():
            title = dataset.stem or dataset.name
            if self._finished is None or (source.model_config.name, title) in self._finished:
                yield source, dataset, is_control

    def _sharpen(self, *arguments: Any) -> bool:
        return self._finished is None and super()._sharpen(*arguments)

    def _parts_ahead(self, extract: bool) -> None:
        """Let workers compute all that the config asks of each curve."""
        if extract:
            self._locate()
            self._share_extractions()
        traces = bool(self.config.report.traces) and extract
        first = self.config.sources[0].name
        self._tasks = [
            (unit, self._task("parts", unit, extract=extract,
                              examples={} if traces and unit.name == first else None))
            for unit in self._units
        ]  # fmt: skip
        self._do([task for _, task in self._tasks])
        others = [unit for unit in self._units
                  if not unit.is_control and unit.name != first]  # fmt: skip
        if traces and others and self.config.models:
            examples = self._chosen_examples()
            self._do([
                self._task("parts", unit, examples={dataset.name: examples[dataset.name]
                                                    for one in unit.datasets
                                                    for dataset in self._of(one)})
                for unit in others
            ])  # fmt: skip

    def _chosen_examples(self) -> dict[str, list[int]]:
        """Choose the examples of each dataset to trace, by the answers for the first model."""
        source = self._source(self.config.sources[0])
        parts = (
            probe_part(self.out, self._states(source, dataset, extract=False),
                       self.config.positions[0], self.config.probe)[0]
            for dataset in self.datasets
        )  # fmt: skip
        most = self.config.report.traces
        return {dataset.name: examples_to_trace(results, most)
                for dataset, results in zip(self.datasets, parts, strict=True)}  # fmt: skip

    def _before_sharpening(self, coarse: Sequence[tuple[*Place, int]], extract: bool) -> None:
        tasks = []
        for unit in self._units:
            names = {dataset.name for one in unit.datasets for dataset in self._of(one)}
            wanted = [(dataset.name, position, n) for model, dataset, position, n in coarse
                      if model.name == unit.name and dataset.name in names]  # fmt: skip
            if wanted:
                tasks.append(self._task("permutations", unit, extract=extract, permutations=wanted))
        self._do(tasks)

    def _before_transfer(self, config: TransferConfig, extract: bool) -> None:
        asked = config.model_dump_json()
        with self._with_engine():
            self._do([
                self._task("transfer", replace(unit, datasets=tuple(self.config.datasets)),
                           extract=extract, transfer=asked)
                for unit in {unit.name: unit for unit in self._units}.values()
                if not unit.is_control
            ])  # fmt: skip

    # ------------------------------------------------------------------------------------ tasks

    @cached_property
    def _units(self) -> list[Unit]:
        """The pairs of a model and some datasets that tasks are made of, in the tables' order."""
        models, engine = self._models(), self.config.engine
        numbers = {source.name: i for i, source in enumerate(self.config.sources)}
        datasets = [one for one in self.config.datasets if self._of(one)]
        most = max(1, len(models) * len(datasets) // (TASKS_A_WORKER * engine.workers))
        units = []
        for place, (source, is_control) in enumerate(models):
            # A control stands before its model.
            number = numbers[models[place + 1][0].name if is_control else source.name]
            for first in range(0, len(datasets), most):
                few = tuple(datasets[first : first + most])
                units.append(Unit(number, is_control, source.name, few))
        return units

    def _of(self, config: DatasetConfig) -> list[ConceptDataset]:
        """Return the datasets of an entry of the config: one, or one for each concept."""
        return [one for one in self.datasets if (one.stem or one.name) == config.title]

    @cached_property
    def _extractors(self) -> dict[str, Extractor | StatesFromElsewhere]:
        """The source of the states of each model and control, by name."""
        return {source.name: self._source(source) for source, _ in self._models()}

    def _task(self, kind: Kind, unit: Unit, **options: Any) -> Task:
        sources = "models" if self._sent.models else "activations"
        config = self._sent.model_copy(update={
            sources: [getattr(self._sent, sources)[unit.number]],
            "datasets": [*unit.datasets],
            "transfer": None,
        })  # fmt: skip
        if self.config.transfer is not None and self.config.transfer.mask:
            # So that masked texts are extracted too, while the model is loaded.
            masks = TransferConfig(mask=self.config.transfer.mask).model_dump_json()
            options = {"transfer": masks} | options
        extractor = self._extractors[unit.name]
        depends_on = [str(RESULTS_VERSION), llmprobe.__version__]
        for dataset in (dataset for one in unit.datasets for dataset in self._of(one)):
            depends_on += [extractor.folder(dataset).name, dataset.content_hash]
        names = ", ".join(dataset.title for dataset in unit.datasets)
        return Task(
            kind, config.to_yaml(), str(self.out), f"{unit.name} on {names}",
            is_control=unit.is_control, depends_on=depends_on, cores=self.config.engine.cores,
            **options,
        )  # fmt: skip

    def _do(self, tasks: Sequence[Task]) -> None:
        """Let the engine do the tasks that are not done yet."""
        left = [task for task in tasks if task.kind == "extract" or not task.done.exists()]
        if not left:
            return
        if self._engine is None:
            self._engine = engine_of(self.config.engine)
        left[0].done.parent.mkdir(parents=True, exist_ok=True)
        variables = {name: value for name, value in os.environ.items()
                     if name.startswith("LLMPROBE_")}  # fmt: skip
        variables["LLMPROBE_CACHE"] = str(cache_folder().absolute())
        do_all(self._engine, [replace(t, variables=variables) for t in left], self.config.engine)

    @contextmanager
    def _with_engine(self) -> Iterator[None]:
        """Close the engine at the end of the block, if it was used."""
        try:
            yield
        finally:
            if self._engine is not None:
                self._engine.close()
                self._engine = None

    # ------------------------------------------------------------------------------- extraction

    def _locate(self) -> None:
        """Download the models here, since some workers have no network access."""
        for model in self.config.models:
            _ = Extractor(model).source
        if self._encoder is not None:
            _ = self._encoder.source

    def _is_extracted(self, unit: Unit) -> bool:
        """Whether a unit is known to be extracted completely."""
        asked, controls = self.config.transfer, self.config.probe.controls
        if (asked is not None and asked.mask) or "text_encoder" in controls:
            return False
        embeddings = "token_embeddings" in controls and not unit.is_control
        extractor = self._extractors[unit.name]
        return all(extractor.find(dataset, embeddings=embeddings)
                   for one in unit.datasets for dataset in self._of(one)[:1])  # fmt: skip

    def _n_shares(self, unit: Unit) -> int:
        """Return how many tasks share the extraction of a unit: several if units are few."""
        engine, extractor = self.config.engine, self._extractors[unit.name]
        most = -(-engine.workers // len(self._units))
        if most == 1 or not isinstance(extractor, Extractor) or not extractor.is_local:
            return 1
        (dataset,) = (self._of(one)[0] for one in unit.datasets)
        if extractor.find(dataset) is not None:
            return 1
        estimate = extractor.estimate(dataset)
        return max(1, min(most, estimate.shards, int(estimate.nominal_seconds / LEAST_SHARE)))

    def _share_extractions(self) -> None:
        """Divide each large extraction among several workers, if there are few extractions."""
        tasks, folders = list[Task](), set[Path]()
        for unit in self._units:
            shares = self._n_shares(unit)
            if shares > 1:
                (dataset,) = (self._of(one)[0] for one in unit.datasets)
                folders.add(self._extractors[unit.name].folder(dataset))
                whole = self._task("extract", unit)
                tasks += [
                    replace(whole, share=(i, shares),
                            title=f"{whole.title}, share {i + 1} of {shares}")
                    for i in range(shares)
                ]  # fmt: skip
        with ExitStack() as leases:
            # In sorted order, so that two runs never deadlock.
            for folder in sorted(folders):
                folder.mkdir(parents=True, exist_ok=True)
                leases.enter_context(lease(folder, wait=True, tidy=False))
            self._do(tasks)


def _with_dtype(model: ModelConfig) -> ModelConfig:
    """Return a model with ``dtype: auto`` resolved on this machine, so that all workers agree.

    Raises
    ------
    UserError
        The model's device does not exist on this machine, so ``auto`` cannot be resolved.
    """
    if model.dtype != "auto":
        return model
    try:
        dtype = dtype_name(resolve_dtype("auto", resolve_device(model.device)))
    except UserError as error:
        raise UserError(f"model {model.name}: {error}; if the workers have it, set the dtype they "
                        "compute in, such as dtype: bfloat16") from None  # fmt: skip
    log.info("%s: computes in %s, as dtype: auto does on this machine", model.name, dtype)
    return model.model_copy(update={"dtype": dtype})
