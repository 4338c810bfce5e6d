"""The stages of a run in order: extract, probe, trace. Finished work is never repeated."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from llmprobe.config.load import load_config
from llmprobe.config.probe_kinds import PROBE_KINDS
from llmprobe.config.schema import (
    ActivationsConfig,
    EngineConfig,
    ModelConfig,
    RunConfig,
    TransferConfig,
)
from llmprobe.config.sites import SITES
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.from_config import dataset_from_config
from llmprobe.datasets.include import include
from llmprobe.datasets.jin2024 import split_of_jin2024
from llmprobe.datasets.published.files import without_downloads
from llmprobe.extraction.activations import Activations
from llmprobe.extraction.elsewhere import StatesFromElsewhere
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.text_encoder import TextEncoder, encoder_config
from llmprobe.ground.digests import written_together
from llmprobe.ground.errors import NotOnDiskError, UserError
from llmprobe.ground.files import write_text
from llmprobe.ground.launch import launched
from llmprobe.ground.text import listed
from llmprobe.models.devices import resolve_device, slow_dtype
from llmprobe.models.loading import LoadedModel, load_language_model, load_model
from llmprobe.models.source import ModelSource, check, expected_size, is_local
from llmprobe.monitors.example_traces import examples_to_trace
from llmprobe.probing.multi_layer import layers_together
from llmprobe.probing.pooling import Pooling, config_of_pooling
from llmprobe.reporting.trackers import require_trackers
from llmprobe.results.folder import (
    Part,
    add_transfer,
    claimed,
    examples_of,
    read_environment,
    whole_config,
    write_results,
)
from llmprobe.results.many_curves import more_permutations, of_one_run
from llmprobe.results.results import Results
from llmprobe.results.trace import EXAMPLE_TRACES, Trace, write_traces
from llmprobe.results.transfer import TransferMatrix
from llmprobe.runs.environment import dataset_facts, environment, model_facts
from llmprobe.runs.intervene import describe_use, intervened, why_not_used
from llmprobe.runs.linearity import linearity_beside
from llmprobe.runs.parts import (
    KEYS_WITHOUT_EFFECT,
    StatesOf,
    probe_part,
    trace_part,
    with_answers_of,
)
from llmprobe.runs.probeable import probeable_concepts
from llmprobe.runs.probing_cost import describe_probing, part_seconds
from llmprobe.runs.said import said_beside
from llmprobe.runs.transfer import check_transfer, masked_datasets, transfer_part
from llmprobe.runs.untrained import untrained_control, with_untrained

log = logging.getLogger(__name__)

WORK_PER_WRITING = 20
"""Tables are written while the run goes on, so that the finished parts can be read if it is killed.
Between two writings, at least this many times the duration of one goes by."""


Place = tuple[ModelConfig | ActivationsConfig, ConceptDataset, str]
"""The model, dataset and position of a curve."""


class Run:
    """A run: a config and its output folder."""

    def __init__(self, config: RunConfig, out: Path, download: bool = True) -> None:
        """Load and check the datasets.

        Parameters
        ----------
        download
            Whether to download datasets that are not on this disk; otherwise they are left out
            and listed in ``missing``.

        Raises
        ------
        UserError
            Any error that can be found before a model is loaded.
        """
        self.config, self.out = config, out
        self.given = config
        """The config as the user gave it."""
        self.written = config.model_copy(update={"engine": EngineConfig()})
        """The config as it is written to the folder, without the engine."""
        self.seconds: dict[tuple[str, str], tuple[float, float]] = {}
        """The seconds of extraction and of probing that ``estimates`` found, by model and dataset.
        """
        self._asked = config
        self._written: Results | None = None
        self._traces: list[Trace] = []
        self._traced: dict[str, list[int]] = {}
        self._with_head: tuple[ModelConfig, tuple[Any, LoadedModel]] | None = None
        require_trackers(config.report.log_to)
        if config.probe.device != "auto":
            resolve_device(config.probe.device, "probe.device")
        for path in config.include:
            include(path)
        # Included files may register sites and kinds of probes, so unknown names are refused here.
        _ = SITES[config.extract.site], PROBE_KINDS[config.probe.kind]
        for model in config.models:
            if slow := slow_dtype(model.dtype, model.device):
                log.warning("%s: %s", model.name, slow)
        without = [position for position in config.positions
                   if config_of_pooling(config.probe, position) is not config.probe]  # fmt: skip
        if without:
            log.info(
                "%s: no p-values, control tasks, description lengths or probes of several layers, "
                "since each refit would be a search by gradient descent", ", ".join(without),
            )  # fmt: skip
        self.datasets: list[ConceptDataset] = []
        self.missing: list[str] = []
        with nullcontext() if download else without_downloads():
            for dataset_config in config.datasets:
                try:
                    dataset = dataset_from_config(dataset_config)
                    if config.protocol == "jin2024":
                        dataset = split_of_jin2024(dataset)
                except NotOnDiskError as error:
                    self.missing.append(str(error))
                    continue
                probeable = probeable_concepts(dataset, dataset_config.n, config)
                for states in config.activations:
                    StatesFromElsewhere(states, config.extract).of(dataset)
                self.datasets += probeable
        if self.missing and download:
            raise NotOnDiskError("\n".join(self.missing))
        self._matrix: TransferMatrix | None = None
        if config.transfer is not None and not self.missing:
            check_transfer(config.transfer, config.probe, self.datasets, bool(config.models))

    def extract(self) -> Iterator[Activations]:
        """Yield the activations of every model on every dataset, extracted into the cache.

        Raises
        ------
        UserError
            The hidden states come from another engine, so there is nothing to extract.
        """
        if self.config.activations:
            raise UserError("the config has hidden states from elsewhere (activations), so there "
                            "is nothing to extract; `llmprobe run` probes them")  # fmt: skip
        yield from self._encode()
        embeddings = "token_embeddings" in self.config.probe.controls
        for extractor, dataset, is_control in self._work():
            assert isinstance(extractor, Extractor)
            if embeddings and not is_control:
                yield extractor.extract_with_embeddings(dataset)
            else:
                yield extractor.extract(dataset)
            if not is_control:
                yield from map(extractor.extract, self._masked(dataset))

    def _masked(self, dataset: ConceptDataset) -> Iterable[ConceptDataset]:
        """Return a dataset once for each field that ``transfer`` masks, with that field masked."""
        asked = self.config.transfer
        return () if asked is None else masked_datasets(asked, dataset).values()

    @property
    def _read(self) -> list[ConceptDataset]:
        """The datasets to extract: one for all concepts of a file, since they share their texts."""
        return [*{dataset.stem or dataset.name: dataset for dataset in self.datasets}.values()]

    def estimates(self) -> Iterator[str]:
        """Yield the cost of each extraction and its probing, a line each, without a download."""
        yield from self.missing
        texts = sum(map(len, self._read))
        name = self.config.probe.text_encoder
        if "text_encoder" in self.config.probe.controls:
            yield from self._estimates_of(encoder_config(name), lambda: TextEncoder(name))
        for model, is_control in self._models():
            if isinstance(model, ActivationsConfig):
                yield f"{model.name}: {texts:,} rows of {model.path}, nothing to extract"
            elif is_local(model) or not is_control:
                make = partial(Extractor, model, self.config.extract)
                yield from self._estimates_of(model, make, is_control)

    def _estimates_of(
        self, model: ModelConfig, make: Callable[[], Extractor], is_control: bool = False
    ) -> Iterator[str]:
        """Yield the cost of the work on one model; ``make`` returns its extractor."""
        if not is_local(model):
            texts = sum(map(len, self._read))
            yield (
                f"{model.name}: {expected_size(model)} is not on this disk and would be "
                f"downloaded first, for {texts:,} texts of {len(self._read)} datasets"
            )
            return
        extractor = make()
        for dataset in self._read:
            line = f"{model.name} on {dataset.stem or dataset.name}: {len(dataset):,} texts"
            is_rival = isinstance(extractor, TextEncoder)
            beside = () if is_control or is_rival else self._masked(dataset)
            extraction = 0.0
            for read in (dataset, *beside):
                cost = "already extracted"
                if extractor.find(read) is None:
                    cost, seconds, *_ = extractor.estimate(read)
                    extraction += seconds
                name = read.stem or read.name
                yield f"{model.name} on {name}: {len(read):,} texts, {cost}"
            if "perplexity" in self.config.probe.controls and not (is_control or is_rival):
                yield f"{line}, {extractor.estimate_perplexity(dataset)}"
            if not is_rival:
                of_file = dataset.stem or dataset.name
                concepts = [one for one in self.datasets if (one.stem or one.name) == of_file]
                asked_of = (extractor, concepts, self.config, is_control)
                yield f"{line}, {describe_probing(*asked_of)}"
                self.seconds[model.name, of_file] = extraction, part_seconds(*asked_of)[0]
            asked = self.config.intervene
            for position in self.config.positions if asked and model.weights != "random" else ():
                if asked and not why_not_used(dataset, position):
                    yield f"{line}, {describe_use(extractor, dataset, asked, position)}"

    def probe(self, extract: bool = False) -> Results:
        """Probe every model on every dataset, and write the tables.

        Parts that were probed before with the same config are read, not computed. If the run is
        interrupted, the tables hold the parts that are finished.

        Parameters
        ----------
        extract
            Whether to extract what is missing.

        Raises
        ------
        UserError
            An extraction is missing and ``extract`` is false; several processes were launched;
            another process works in the folder.
        """
        if launched() > 1:
            raise UserError(
                "several processes share `llmprobe extract` only; launch that, then start "
                "`llmprobe probe` with the same config by itself"
            )
        with claimed(self.out, tidy=self.config.engine.kind == "local"):
            return self._probe(extract)

    def _probe(self, extract: bool) -> Results:
        asked, self._matrix = self._transferred_before()
        self._asked = self.written
        if self._matrix is not None:
            self._asked = self.written.model_copy(update={"transfer": asked})
        self._intervene = self.config.intervene or self._section_before("intervene")
        if not (self.out / "results.parquet").exists():  # Otherwise the config is that of these.
            with written_together(self.out) as new:
                write_text(new("config.yaml"), self._asked.to_yaml())
        parts: list[Results] = []
        places: list[Place] = []
        self._traces = []
        untrained: dict[tuple[str, str, str], Results] = {}
        written, due = 0, 0.0
        encoder = encoder_config(self.config.probe.text_encoder)
        if "text_encoder" in self.config.probe.controls and not (extract or is_local(encoder)):
            raise UserError(f"{encoder.name}: not extracted yet, nor on this disk; run `llmprobe "
                            "extract` with the same config first, or `llmprobe run`")  # fmt: skip
        for _ in self._encode() if extract else ():
            pass
        try:
            for states, position, is_control in self._work_at_positions(extract):
                model, dataset = states.extractor.model_config, states.dataset
                key = model.id, dataset.name, position
                if is_control:
                    untrained[key] = self._control_part(states, position)
                    continue
                results, part, is_new = self._part(states, position, untrained.get(key))
                parts.append(results)
                places.append((model, dataset, position))
                self._trace(states, results, part)
                began = time.monotonic()
                if is_new and began >= due:
                    self._write(parts)
                    written = len(parts)
                    due = began + (1 + WORK_PER_WRITING) * (time.monotonic() - began)
            if self._sharpen(parts, places, untrained, extract):
                written = 0
            if self.config.transfer is not None:
                self._matrix, written = self._transfer(self.config.transfer, extract), 0
        finally:
            if len(parts) > written:
                self._write(parts)
        assert self._written is not None
        return self._written

    def _control_part(self, states: StatesOf, position: str) -> Results:
        """Probe an untrained control on a dataset at a position."""
        config = self.config.probe
        return probe_part(self.out, states, position, config.alone(repeats=config.n_repeats))[0]

    def _part(
        self, states: StatesOf, position: str, control: Results | None = None
    ) -> tuple[Results, Part, bool]:
        """Probe a model on a dataset at a position, and add all else that the config asks for.

        -> results, part, and whether the results are new
        """
        config = self.config.probe
        results, part, is_new = probe_part(self.out, states, position, config)
        if control is not None:
            results = with_untrained(results, control, states.dataset, config.seed)
        results = self._beside_said(states, position, results, part)
        results = self._beside_used(states, position, results, part)
        if self.config.linear is not None:
            results = linearity_beside(part, states, position, results, self.config.linear, config)
        # Masked texts are extracted here, while the model is loaded.
        if states.extract and isinstance(states.extractor, Extractor):
            for texts in self._masked(states.dataset):
                states.extractor.extract(texts)
        return results, part, is_new

    def transfer(self) -> TransferMatrix:
        """Do only what the section ``transfer`` asks for, and write its tables.

        Missing states are extracted; nothing else is probed. If the folder holds a run of the same
        states, the worst cell is added to its summary and evidence.

        Raises
        ------
        UserError
            A set is too small; the folder holds a run of other states, or another process works
            there.
        """
        config = self.config.transfer
        assert config is not None
        with claimed(self.out, tidy=self.config.engine.kind == "local"):
            before = self.written
            if (self.out / "results.parquet").exists():
                before = load_config(whole_config(self.out))
                self._require_same_states(before)
            matrix = self._transfer(config, extract=True)
            asked = before.model_copy(update={"transfer": config})
            add_transfer(self.out, matrix, asked.to_yaml())
        return matrix

    def _require_same_states(self, before: RunConfig) -> None:
        """Raise ``UserError`` if the run in the folder has other states under the same names.

        Models and datasets that only one of the two runs has are not compared.

        Parameters
        ----------
        before
            The config of the run in the folder.
        """
        known = read_environment(self.out)
        facts: dict[str, dict[str, dict[str, str]]] = {
            "models": {model.name: model_facts(model) for model in self.config.sources},
            "datasets": {one.name: {"content": one.content_hash} for one in self.datasets},
        }
        other = [
            one["name"]
            for kind, ours in facts.items()
            for one in known[kind]
            if any(one.get(key) != fact for key, fact in ours.get(one["name"], {}).items())
        ]
        without = KEYS_WITHOUT_EFFECT["extract"]
        a, b = (one.extract.model_dump(exclude=without) for one in (before, self.config))
        other += [f"extract.{key}" for key in a if a[key] != b[key]]
        other += ["probe.kind"] if before.probe.kind != self.config.probe.kind else []
        if other:
            raise UserError(
                f"--out {self.out}: holds a run with another {listed(other)}, whose page would "
                "show this transfer as its own; give another --out, or run the config there first"
            )

    def _transferred_before(self) -> tuple[TransferConfig | None, TransferMatrix | None]:
        """Return the ``transfer`` section of the config or the folder, and its stored cells."""
        config = self.config.transfer or self._section_before("transfer")
        try:
            kept = [] if config is None else self._matrices(config, extract=False, compute=False)
        except UserError:  # The data may have changed and lack the field or set.
            return config, None
        return config, TransferMatrix.concatenate(kept) if kept else None

    def _section_before(self, name: str) -> Any:
        """Return a section that `llmprobe transfer` or `intervene` added to the folder's config."""
        try:
            return getattr(load_config(whole_config(self.out)), name)
        except UserError:
            return None

    def _transfer(self, config: TransferConfig, extract: bool) -> TransferMatrix:
        """Compute the transfer between the datasets, in each model and at each position."""
        self._before_transfer(config, extract)
        matrices = self._matrices(config, extract)
        if not matrices:
            raise UserError("transfer: probes that pool the scores of tokens cannot be transferred;"
                            " add a position, or tokens:mean to probe.pooling")  # fmt: skip
        return TransferMatrix.concatenate(matrices)

    def _matrices(
        self, config: TransferConfig, extract: bool, compute: bool = True
    ) -> list[TransferMatrix]:
        """Return the transfer in each model at each position, or only what is stored of it."""
        matrices = []
        for model, is_control in self._models():
            source = self._source(model)
            if is_control or not (compute or source.is_local):
                continue
            states = [
                replace(self._states(source, dataset, extract), embeddings=False)
                for dataset in self.datasets
            ]
            for position in self.config.positions:
                pooling = Pooling.of(position)
                if pooling is None or pooling.is_of_states:
                    matrices.append(
                        transfer_part(
                            self.out, states, position, self.config.probe, config, compute=compute
                        )
                    )
        return [matrix for matrix in matrices if matrix is not None]

    def _together(self, parts: Sequence[Results]) -> Results:
        """Merge the parts into the results of the run, with environment, config and transfer."""
        models = [model_facts(source) for source in self.config.sources]
        results = replace(
            of_one_run(parts),
            examples=examples_of(self.datasets),
            environment=environment(models, self._dataset_facts),
            config=self._asked.to_yaml(),
            folder=self.out,
        )
        return results if self._matrix is None else results.with_transfer(self._matrix)

    def _sharpen(
        self,
        parts: list[Results],
        places: Sequence[Place],
        untrained: Mapping[tuple[str, str, str], Results],
        extract: bool,
    ) -> bool:
        """Add permutations to parts whose p-value is too coarse for so many curves.

        Such parts are replaced in ``parts`` by ones with more permutations. -> whether there were
        any
        """
        # Shufflings that no folds fit are left out, so there may be fewer than were asked for.
        asked = np.zeros(len(parts), dtype=int)
        while ((more := more_permutations(of_one_run(parts).summary)) > asked).any():
            coarse = np.flatnonzero(more > asked).tolist()
            self._before_sharpening([(*places[i], int(more[i])) for i in coarse], extract)
            for i in coarse:
                asked[i] = more[i]
                model, dataset, position = places[i]
                states = self._states(self._source(model), dataset, extract)
                log.info(
                    "%s: its p-value is too coarse beside %d other curves; going on to %d "
                    "permutations", states.where(position), len(parts) - 1, more[i],
                )  # fmt: skip
                config = self.config.probe
                results = self._with_permutations(states, position, int(more[i]))
                control = untrained.get((model.id, dataset.name, position))
                if control is not None:
                    results = with_untrained(results, control, dataset, config.seed)
                parts[i] = with_answers_of(parts[i], results)
        return bool(asked.any())

    def _with_permutations(self, states: StatesOf, position: str, permutations: int) -> Results:
        """Probe a model on a dataset at a position, with this number of permutations."""
        config = self.config.probe.model_copy(update={"permutations": permutations})
        return probe_part(self.out, states, position, config)[0]

    def _before_sharpening(self, coarse: Sequence[tuple[*Place, int]], extract: bool) -> None:
        """Let an engine probe with more permutations, before this process does what is left."""

    def _before_transfer(self, config: TransferConfig, extract: bool) -> None:
        """Let an engine compute transfers, before this process does what is left."""

    def _write(self, parts: Sequence[Results]) -> None:
        self._written = self._together(parts)
        write_results(self.out, self._written)
        with written_together(self.out) as new:
            write_traces(new(EXAMPLE_TRACES), self._traces)

    def _trace(self, states: StatesOf, results: Results, part: Part) -> None:
        """Trace a few examples, the same for all models and positions."""
        most, dataset = self.config.report.traces, states.dataset
        if most:
            if dataset.name not in self._traced:
                self._traced[dataset.name] = examples_to_trace(results, most)
            self._traces += trace_part(part, states, results, self._traced[dataset.name])

    def _beside_said(
        self, states: StatesOf, position: str, results: Results, part: Part
    ) -> Results:
        """Add what the model itself says to the results of a part, if the config asks for it."""
        if not self.config.said or not states.dataset.answers:
            return results
        return said_beside(part, states, position, results, self.config, self._language_model)

    def _beside_used(
        self, states: StatesOf, position: str, results: Results, part: Part
    ) -> Results:
        """Add the effect of changed states to the results of a part.

        Unless the config asks for it, only results that are stored for the same states are added.
        """
        if self._intervene is None:
            return results
        asked = self.config.intervene is not None
        changed = intervened(
            part, states, position, results, self.config, self._intervene,
            self._language_model, compute=asked and states.extract,
        )  # fmt: skip
        if asked:
            return changed
        if changed.interventions.empty:
            return results
        self._asked = self._asked.model_copy(update={"intervene": self._intervene})
        return changed

    def _language_model(self, config: ModelConfig) -> tuple[Any, LoadedModel]:
        """Load a model with its head; the one that was loaded last is kept in memory."""
        if self._with_head is None or self._with_head[0] != config:
            self._with_head = None
            self._with_head = config, load_language_model(config)
        return self._with_head[1]

    def _asks_head(self, model: ModelConfig) -> bool:
        """Whether a model is run with its head too: for what it says, or for perplexities."""
        asked = self.config.said or self.config.intervene is not None
        answers = asked and any(dataset.answers for dataset in self.datasets)
        return model.weights != "random" and (answers or "perplexity" in self.config.probe.controls)

    def _load_with_head(self, config: ModelConfig, source: ModelSource) -> LoadedModel:
        """Load the base of a model with its head, so that its weights are in memory once."""
        try:
            return self._language_model(config)[1]
        except UserError:  # It may have no head, which is reported when the head is used.
            return load_model(config, source)

    @cached_property
    def _dataset_facts(self) -> list[dict[str, Any]]:
        return [dataset_facts(dataset) for dataset in self.datasets]

    def _source(self, model: ModelConfig | ActivationsConfig) -> Extractor | StatesFromElsewhere:
        """Return the source of the hidden states of a model."""
        if isinstance(model, ModelConfig):
            load = self._load_with_head if self._asks_head(model) else None
            return Extractor(model, self.config.extract, load)
        return StatesFromElsewhere(model, self.config.extract)

    def _states(
        self, source: Extractor | StatesFromElsewhere, dataset: ConceptDataset, extract: bool
    ) -> StatesOf:
        embeddings = "token_embeddings" in self.config.probe.controls
        asked = "perplexity" in self.config.probe.controls
        load_head = self._language_model if asked else None
        return StatesOf(source, dataset, extract, embeddings, self._encoder, load_head)

    @cached_property
    def _encoder(self) -> TextEncoder | None:
        """The text encoder, if the config asks for it; it is downloaded on first use."""
        asked = "text_encoder" in self.config.probe.controls
        return TextEncoder(self.config.probe.text_encoder) if asked else None

    def _encode(self) -> Iterator[Activations]:
        """Yield the sentence embeddings of each dataset, if the config asks for them.

        They are computed before any model is loaded; then the encoder is released.
        """
        if self._encoder is not None:
            for model in self.config.models:
                check(model)
            for dataset in self.datasets:
                yield self._encoder.extract(dataset)
            self._encoder.release()

    def _work_at_positions(self, extract: bool) -> Iterator[tuple[StatesOf, str, bool]]:
        """Yield each model's states on each dataset, each position, and whether it is a control."""
        for source, dataset, is_control in self._work():
            states = self._states(source, dataset, extract)
            if is_control:
                states = replace(states, embeddings=False, encoder=None, load_head=None)
            for position in self.config.positions:
                yield states, position, is_control

    def _work(self) -> Iterator[tuple[Extractor | StatesFromElsewhere, ConceptDataset, bool]]:
        """Yield the source of each model with each dataset, and whether it is an untrained control.

        All datasets of a model come together, so that it is loaded once, and no other with it.
        """
        for model, is_control in self._models():
            source = self._source(model)
            for dataset in self.datasets:
                yield source, dataset, is_control

    def _models(self) -> Sequence[tuple[ModelConfig | ActivationsConfig, bool]]:
        """List each model, after its untrained control if it has one, and whether it is a control.

        All models are checked before the first is loaded.
        """
        if self.config.activations:
            log.info(
                "hidden states from elsewhere: no model, so no token embeddings to compare with, "
                "no untrained control, and no traces of tokens"
            )
            return [(states, False) for states in self.config.activations]
        wanted = "random_weights" in self.config.probe.controls
        models: list[tuple[ModelConfig, bool]] = []
        for model in self.config.models:
            check(model)
            if self.config.probe.multi_layer is not None and is_local(model):
                extractor = Extractor(model, self.config.extract)
                read = extractor.layers(extractor.architecture.n_blocks)
                layers_together(self.config.probe.multi_layer, sorted(read))
            if wanted and model.weights == "pretrained":
                models.append((untrained_control(model), True))
            models.append((model, False))
        return models


def default_out(config: RunConfig) -> Path:
    """Return the default folder of a run: ``runs/<name>``."""
    return Path("runs") / config.name
