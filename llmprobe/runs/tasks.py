"""Tasks: pieces of a run that a process can do by itself, on any machine.

A task finds what is already done in the run's folder and the cache, so it can be repeated after it
was stopped at any point. Its results are written there too; only errors and warnings come back.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import socket
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Literal

import yaml

from llmprobe.config.load import load_config
from llmprobe.config.schema import ActivationsConfig, ModelConfig, TransferConfig
from llmprobe.extraction.extract import Extractor
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import cache_folder, digest, write_text
from llmprobe.ground.lease import lease
from llmprobe.runs.pipeline import Run

TASKS = "tasks"
"""The folder, among the parts of a run, with a file for each finished task."""
_ALONE = Lock()
"""A lock, so that a worker with several threads does one task at a time, with all of its cores."""


Kind = Literal["extract", "parts", "permutations", "transfer"]


@dataclass(frozen=True)
class Task:
    """A piece of a run."""

    kind: Kind
    """What the task does. ``extract``: hidden states. ``parts``: all that the config asks of each
    curve. ``permutations``: the probes again, with more permutations. ``transfer``: the transfer
    between the datasets."""
    config: str
    """The run's config as YAML, with the task's model and datasets alone."""
    out: str
    """The run's folder."""
    title: str
    """Its name in messages."""
    is_control: bool = False
    """Whether it is about the untrained control of the model, not the model itself."""
    extract: bool = True
    """Whether to extract what is missing."""
    share: tuple[int, int] = (0, 1)
    """The index of its share of a divided extraction, and the number of shares."""
    examples: Mapping[str, Sequence[int]] | None = None
    """The examples to trace, by dataset; for a dataset without an entry, the task chooses them by
    its own results. None traces nothing."""
    permutations: Sequence[tuple[str, str, int]] = ()
    """Datasets and positions, with the number of permutations of each."""
    transfer: str = ""
    """The ``transfer`` section as YAML."""
    depends_on: Sequence[str] = ()
    """Versions, and digests of what the config names by path alone."""
    cores: int | None = None
    """The number of threads; None leaves it to the worker."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables that the task needs."""

    @property
    def name(self) -> str:
        """A name for a file or folder, with a digest of all that the task depends on."""
        facts = {key: value for key, value in asdict(self).items()
                 if key not in ("title", "cores", "variables")}  # fmt: skip
        title = re.sub(r"[^\w.+-]+", "-", self.title)[:80]
        return f"{title}-{self.kind}-{digest(facts)[:16]}"

    @property
    def folder(self) -> Path:
        """The task's own folder in the cache, for files it needs while it is being done."""
        return cache_folder() / "jobs" / self.name

    @property
    def done(self) -> Path:
        """The file that exists once the task is done."""
        return Path(self.out) / "parts" / TASKS / f"{self.name}.done"


@dataclass(frozen=True)
class Outcome:
    """The outcome of a task."""

    error: BaseException | None
    """The error that ended the task, if any."""
    warnings: Sequence[str] = ()
    """The warnings, in the order in which they were logged."""


def perform(task: Task) -> Outcome:
    """Do a task in this process, unless it was done before."""
    with _ALONE, _environment(task.variables), _warnings() as warnings:
        try:
            folder = task.done.parent
            if not folder.is_dir():
                raise UserError(
                    f"{folder}: the worker on host {socket.gethostname()} does not see it; the "
                    "run's folder, the cache, the models and the data have to be at the same "
                    "paths everywhere"
                )
            task.folder.mkdir(parents=True, exist_ok=True)
            with lease(task.folder, wait=True, tidy=False), _threads(task.cores):
                # An extraction has no ``done`` file: the cache shows whether it is complete.
                if task.kind == "extract":
                    _do(task)
                elif not task.done.exists():
                    _do(task)
                    write_text(task.done, "")
        except Exception as error:
            return Outcome(_portable(error), warnings)
    return Outcome(None, warnings)


class Piece(Run):
    """The part of a run that one task does: one model, or its untrained control."""

    def __init__(self, task: Task) -> None:
        """Load and check the datasets; raise ``UserError`` if something is wrong with them."""
        super().__init__(load_config(yaml.safe_load(task.config)), Path(task.out))
        self.is_control = task.is_control
        if task.transfer:
            asked = TransferConfig.model_validate(yaml.safe_load(task.transfer))
            # Set after the checks, which need all datasets of the run.
            self.config = self.config.model_copy(update={"transfer": asked})
        self._intervene = self.config.intervene
        self._traced = {name: list(chosen) for name, chosen in (task.examples or {}).items()}

    def _models(self) -> Sequence[tuple[ModelConfig | ActivationsConfig, bool]]:
        return [one for one in super()._models() if one[1] == self.is_control]

    def extract_share(self, share: int, shares: int) -> None:
        """Do one share of each extraction."""
        for source, dataset, _ in self._work():
            assert isinstance(source, Extractor)
            source.extract_share(dataset, share, shares)

    def parts(self, task: Task) -> None:
        """Compute and store all that the config asks of each curve."""
        for _ in self._encode() if task.extract and not self.is_control else ():
            pass
        for states, position, is_control in self._work_at_positions(task.extract):
            if is_control:
                self._control_part(states, position)
                continue
            results, part, _ = self._part(states, position)
            if task.examples is not None:
                self._trace(states, results, part)

    def permute(self, task: Task) -> None:
        """Probe with more permutations at the datasets and positions of a task."""
        asked = {(dataset, position): n for dataset, position, n in task.permutations}
        for states, position, _ in self._work_at_positions(task.extract):
            n = asked.get((states.dataset.name, position))
            if n is not None:
                self._with_permutations(states, position, n)


def _do(task: Task) -> None:
    piece = Piece(task)
    if task.kind == "extract" and task.share[1] > 1:
        piece.extract_share(*task.share)
    elif task.kind == "extract":
        for _ in piece.extract():
            pass
    elif task.kind == "parts":
        piece.parts(task)
    elif task.kind == "permutations":
        piece.permute(task)
    else:
        assert piece.config.transfer is not None
        piece._matrices(piece.config.transfer, task.extract)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables during the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def _threads(cores: int | None) -> Iterator[None]:
    """Limit the number of threads during the block; in a SLURM job, to the cores of the job."""
    # Not for Dask workers in an allocation, which share its cores.
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        cores = cores or int(os.environ.get("SLURM_CPUS_ON_NODE", 0))
    if not cores:
        yield
        return
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        with threadpool_limits(cores):
            yield
    finally:
        torch.set_num_threads(before)


class _Heard(logging.Handler):
    """A handler that keeps messages of warnings and errors."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Yield a list that collects the warnings during the block."""
    handler, logger = _Heard(), logging.getLogger("llmprobe")
    logging.basicConfig(level=logging.WARNING)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler.messages
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _portable(error: Exception) -> Exception:
    """Return an error that can be pickled, with host and traceback unless it is a ``UserError``."""
    if not isinstance(error, UserError):
        where = "".join(traceback.format_exception(error))
        error.add_note(f"on host {socket.gethostname()}:\n{where}")
    try:
        sent: Exception = pickle.loads(pickle.dumps(error))
        return sent
    except Exception:  # Classes of other libraries may raise anything while pickled.
        notes = getattr(error, "__notes__", ())
        return RuntimeError("\n".join([f"{type(error).__name__}: {error}", *notes]))
