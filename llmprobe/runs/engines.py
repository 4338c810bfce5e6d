"""Engines that do tasks, as SLURM jobs or by Dask workers, and return futures."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from llmprobe.config.schema import EngineConfig
from llmprobe.ground.errors import UserError, first_line
from llmprobe.ground.files import write_text
from llmprobe.ground.progress import Progress
from llmprobe.runs.tasks import Outcome, Task, perform

log = logging.getLogger(__name__)


class WorkerEndedError(Exception):
    """A job or worker ended before its task had an outcome."""


class Engine(Protocol):
    """A service that runs tasks and returns a future for each."""

    def submit(self, task: Task) -> Future[Outcome]:
        """Submit a task; its future raises ``WorkerEndedError`` if the worker ends too early."""

    def close(self) -> None:
        """Release connections and threads; tasks that are running go on."""


def engine_of(config: EngineConfig) -> Engine:
    """Return the engine that a config asks for.

    Raises
    ------
    UserError
        The engine is not installed, or cannot be reached from here.
    """
    return Slurm(config) if config.kind == "slurm" else Dask(config)


def do_all(engine: Engine, tasks: Sequence[Task], config: EngineConfig) -> None:
    """Run tasks on an engine until all are done, and submit those again whose worker ended.

    An interruption cancels the tasks that are running.

    Raises
    ------
    Exception
        The error of the first task that failed, once all others are done.
    UserError
        The engine refuses a task while no other is running.
    """
    left, running = [*tasks][::-1], dict[Future[Outcome], Task]()
    tries = Counter[str]()
    errors = dict[str, BaseException]()
    with Progress(f"tasks of {config.kind}", len(tasks)) as progress:
        try:
            while left or running:
                while left and len(running) < config.workers:
                    task = left.pop()
                    try:
                        running[engine.submit(task)] = task
                    except UserError as error:
                        if not running:
                            raise
                        log.warning("%s; it is asked again when another task is done", error)
                        left.append(task)
                        break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task = running.pop(future)
                    tries[task.name] += 1
                    try:
                        outcome = future.result()
                    except WorkerEndedError as error:
                        if tries[task.name] <= config.retries:
                            log.warning("%s: %s; it is submitted again", task.title, error)
                            left.append(task)
                            continue
                        outcome = Outcome(UserError(
                            f"{task.title}: {error}, {tries[task.name]} times; what it finished is "
                            "kept, so run the same command again, perhaps with more memory or time"
                        ))  # fmt: skip
                    for warning in outcome.warnings:
                        log.warning("%s", warning)
                    if outcome.error is not None:
                        errors[task.name] = outcome.error
                    progress.advance(1)
        finally:
            for future in running:
                with suppress(Exception):  # So that the others are cancelled too.
                    future.cancel()
    if errors:
        first, *others = (errors[task.name] for task in tasks if task.name in errors)
        for other in others:
            log.error("%s", first_line(other))
        raise first


def _needed(module: str, kind: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(
            f"engine: {kind} needs {module}, which is not installed: pip install 'llmprobe[{kind}]'"
        ) from None


class Dask:
    """The workers of a Dask scheduler."""

    def __init__(self, config: EngineConfig) -> None:
        distributed = _needed("distributed", "dask")
        self.address = config.scheduler
        # It would log a lost connection with a traceback; ``submit`` reports it in a sentence.
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        try:
            self._client = distributed.Client(self.address, timeout=10, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"engine.scheduler: no Dask scheduler answers at {self.address} "
                f"({first_line(error)}); start one with `dask scheduler`, and workers with "
                "`dask worker ADDRESS --nthreads 1`"
            ) from None
        if not self._client.scheduler_info()["workers"]:
            log.warning("%s: no worker has joined yet; waiting for one: `dask worker %s "
                        "--nthreads 1`", self.address, self.address)  # fmt: skip
        self._killed = distributed.scheduler.KilledWorker

    def submit(self, task: Task) -> Future[Outcome]:
        """Submit a task to the workers."""
        ours: Future[Outcome] = _Cancelling(
            theirs := self._client.submit(perform, task, pure=False)
        )

        def over(_: Any) -> None:
            try:
                ours.set_result(theirs.result())
            except self._killed:
                ours.set_exception(WorkerEndedError("the workers that did it ended"))
            except BaseException as error:
                # Not every cancellation is an Exception.
                if ours.cancelled():
                    return
                if type(error).__name__.endswith("CancelledError"):
                    gone = f"engine.scheduler: the Dask scheduler at {self.address} is gone"
                    error = UserError(f"{gone}; start it and the same command again")
                ours.set_exception(error)

        theirs.add_done_callback(over)
        return ours

    def close(self) -> None:
        """Disconnect from the scheduler."""
        self._client.close()


class _Cancelling(Future[Outcome]):
    """A future that cancels its job when it is cancelled."""

    def __init__(self, work: Any) -> None:
        super().__init__()
        self.work = work

    def cancel(self) -> bool:
        cancelled = super().cancel()
        self.work.cancel()
        return cancelled


class Slurm:
    """Jobs of a SLURM cluster, which outlive this process and are found again by the next one."""

    POLL = 2.0
    """Seconds between two looks at the queue."""
    PATIENCE = 45
    """The number of looks after which a job that has left the queue counts as ended without a
    result: NFS can show files that others wrote up to a minute late."""

    def __init__(self, config: EngineConfig) -> None:
        self._submitit, self._config = _needed("submitit", "slurm"), config
        for command in ("sbatch", "squeue", "srun"):
            if shutil.which(command) is None:
                raise UserError(
                    f"engine: slurm: there is no {command} on this machine; start llmprobe where "
                    "SLURM's commands are, such as the login node of the cluster"
                )
        self._jobs: dict[Future[Outcome], Any] = {}
        self._missing = Counter[str]()
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def submit(self, task: Task) -> Future[Outcome]:
        """Submit a task as a job, or wait for its job that is in the queue already."""
        job = self._in_queue(task.folder)
        if job is None:
            job = self._sbatch(task)
            write_text(task.folder / "job", job.job_id)
        future: Future[Outcome] = _Cancelling(job)
        self._jobs[future] = job
        return future

    def _in_queue(self, folder: Path) -> Any:
        """Return the job of a task that was submitted before, or None if it left the queue."""
        try:
            number = (folder / "job").read_text()
        except OSError:
            return None
        queued = _queue()
        if queued is not None and number not in queued:
            return None
        return self._submitit.SlurmJob(folder=folder, job_id=number, tasks=[0])

    def _sbatch(self, task: Task) -> Any:
        # Requeued by SLURM itself after a node is lost, a job would wait for minutes.
        asked = {"no-requeue": True, **self._config.options}
        options = {key: value for key, value in asked.items() if value is not False}
        executor = self._submitit.SlurmExecutor(folder=task.folder)
        executor.update_parameters(
            job_name="llmprobe", time=None, cpus_per_task=self._config.cores, signal_delay_s=0,
            stderr_to_stdout=True, use_srun=False, additional_parameters=options,
        )  # fmt: skip
        try:
            return executor.submit(_in_job, task)
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f"engine: slurm: sbatch takes no job: {reason[-1]}") from None

    def _watch(self) -> None:
        """Set the result of each future when its job has ended, until this engine is closed."""
        while not self._over.wait(self.POLL):
            queued = _queue()
            for future, job in [*self._jobs.items()]:
                try:
                    self._look(future, job, queued)
                except Exception as error:
                    # Such as a stale handle of a file system.
                    log.warning("engine: slurm: job %s: %s; looking again", job.job_id,
                                first_line(error))  # fmt: skip

    def _look(self, future: Future[Outcome], job: Any, queued: set[str] | None) -> None:
        if future.done():
            del self._jobs[future]
        elif job.paths.result_pickle.exists():
            try:
                outcome = job.result()
            except Exception as error:  # It failed before it began the task.
                self._give_up(future, job, f"failed: {first_line(error)}")
                return
            future.set_result(outcome)
            shutil.rmtree(job.paths.folder, ignore_errors=True)
        elif queued is not None and job.job_id not in queued:
            self._missing[job.job_id] += 1
            if self._missing[job.job_id] >= self.PATIENCE:
                self._give_up(future, job, "ended without a result")

    def _give_up(self, future: Future[Outcome], job: Any, how: str) -> None:
        # The job may still be in the queue; the next try must not find it there.
        (job.paths.folder / "job").unlink(missing_ok=True)
        message = f"job {job.job_id} {how} ({job.paths.stdout})"
        future.set_exception(WorkerEndedError(message))

    def close(self) -> None:
        """Stop watching the queue."""
        self._over.set()
        self._watcher.join()


def _in_job(task: Task) -> Outcome:
    """Do a task as a job, with the default handling of signals: they end the process."""
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    return perform(task)


def _queue() -> set[str] | None:
    """Return the numbers of the user's jobs that wait or run; None if squeue fails."""
    # By user id, since the user may have no name here; --all includes hidden partitions.
    user = str(os.getuid())
    command = ["squeue", "--noheader", "--all", "--user", user, "--format", "%i"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return set(answer.stdout.split())
