"""Pieces of a run that a process does by itself, wherever it runs.

A task finds in the files of the run and in the cache what is done already, so it can be begun again
wherever it was stopped. What it makes is kept there too: nothing but its errors and warnings comes
back.
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
"""The folder among the parts of a run that has a file for each finished task."""
_ALONE = Lock()
"""A worker of several threads does one task at a time, which has all of its cores."""


Kind = Literal["extract", "parts", "permutations", "transfer"]


@dataclass(frozen=True)
class Task:
    """A piece of a run."""

    kind: Kind
    """What is done: hidden states; all that is asked of each curve; its probes again with more
    permutations; the transfer between the datasets."""
    config: str
    """The run's config as YAML, with the one model and the datasets that the task is about."""
    out: str
    """The run's folder."""
    title: str
    """What it is called in messages."""
    is_control: bool = False
    """Whether it is about the untrained control of the model, not the model itself."""
    extract: bool = True
    """Whether to extract what is missing."""
    share: tuple[int, int] = (0, 1)
    """Which share of how many, of an extraction that is divided."""
    examples: Mapping[str, Sequence[int]] | None = None
    """The examples to trace of each dataset, those of a dataset that is not named by its own
    results; None traces nothing."""
    permutations: Sequence[tuple[str, str, int]] = ()
    """How many for each dataset and position."""
    transfer: str = ""
    """What to transfer, as YAML."""
    depends_on: Sequence[str] = ()
    """Digests of what the config names by path alone, and versions."""
    cores: int | None = None
    """The threads that it has; None leaves that to the worker."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """What it needs to find of the environment."""

    @property
    def name(self) -> str:
        """The name of a file or a folder, by all that it depends on."""
        facts = {key: value for key, value in asdict(self).items()
                 if key not in ("title", "cores", "variables")}  # fmt: skip
        title = re.sub(r"[^\w.+-]+", "-", self.title)[:80]
        return f"{title}-{self.kind}-{digest(facts)[:16]}"

    @property
    def folder(self) -> Path:
        """What is kept while it is being done, in the cache: nobody else writes there."""
        return cache_folder() / "jobs" / self.name

    @property
    def done(self) -> Path:
        """The file that is there when it is done."""
        return Path(self.out) / "parts" / TASKS / f"{self.name}.done"


@dataclass(frozen=True)
class Outcome:
    """What a task has to say when it is over."""

    error: BaseException | None
    """What ended it."""
    warnings: Sequence[str] = ()
    """In the order in which they came up."""


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
                # Of an extraction the cache says whether it is done.
                if task.kind == "extract":
                    _do(task)
                elif not task.done.exists():
                    _do(task)
                    write_text(task.done, "")
        except Exception as error:
            return Outcome(_portable(error), warnings)
    return Outcome(None, warnings)


class Piece(Run):
    """A run with one model, of which either itself or its untrained control is meant."""

    def __init__(self, task: Task) -> None:
        """Load and check the datasets; raise ``UserError`` where something is wrong with them."""
        super().__init__(load_config(yaml.safe_load(task.config)), Path(task.out))
        self.is_control = task.is_control
        if task.transfer:
            asked = TransferConfig.model_validate(yaml.safe_load(task.transfer))
            # After the checks, which are of all datasets together.
            self.config = self.config.model_copy(update={"transfer": asked})
        self._intervene = self.config.intervene
        self._traced = {name: list(chosen) for name, chosen in (task.examples or {}).items()}

    def _models(self) -> Sequence[tuple[ModelConfig | ActivationsConfig, bool]]:
        return [one for one in super()._models() if one[1] == self.is_control]

    def extract_share(self, share: int, shares: int) -> None:
        """Make a share of each extraction."""
        for source, dataset, _ in self._work():
            assert isinstance(source, Extractor)
            source.extract_share(dataset, share, shares)

    def parts(self, task: Task) -> None:
        """Do all that is asked of each curve, and keep it."""
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
        """Probe with more permutations where that is asked."""
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
    """Set variables of the environment while the block lasts."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def _threads(cores: int | None) -> Iterator[None]:
    """Have so many threads; as a job as many as SLURM gives, whatever else the machine has."""
    # Workers of Dask in an allocation share what that gives.
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
    """Keeps what is said from warnings on."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Yield the warnings that come up while the block lasts."""
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
    """Return an error as it can be sent, with where it came up if it is not the user's."""
    if not isinstance(error, UserError):
        where = "".join(traceback.format_exception(error))
        error.add_note(f"on host {socket.gethostname()}:\n{where}")
    try:
        sent: Exception = pickle.loads(pickle.dumps(error))
        return sent
    except Exception:  # Of others' classes, which may raise anything there.
        notes = getattr(error, "__notes__", ())
        return RuntimeError("\n".join([f"{type(error).__name__}: {error}", *notes]))
