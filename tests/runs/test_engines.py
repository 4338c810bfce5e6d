"""Work that others do: the same bytes, whoever is killed, and nothing that is finished twice."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from threading import Thread, Timer
from typing import Any

import pytest
import torch
import yaml
from same_bytes import changed_at, recorded
from toy import QUICK, write_config, write_table

from llmprobe import UserError
from llmprobe.cli.main import main
from llmprobe.config.load import load_config
from llmprobe.config.probe_kinds import PROBE_KINDS
from llmprobe.config.schema import EngineConfig, RunConfig
from llmprobe.runs import cluster, engines, tasks
from llmprobe.runs.cluster import run_of
from llmprobe.runs.engines import Slurm, WorkerEndedError, do_all
from llmprobe.runs.tasks import Outcome, Task, _threads, perform

ROOT = Path(__file__).parents[2]


class Toy:
    """A config of two models and two datasets that includes a probe which can be held up."""

    def __init__(self, folder: Path, tiny_model: Callable[..., Path]) -> None:
        PROBE_KINDS.remove("held")  # That of another test is of another file.
        self.folder, self.hold = folder, folder / "hold"
        shutil.copy(Path(__file__).with_name("held.py"), folder)
        self.models = [
            {"id": str(tiny_model(name)), "dtype": "float32"} for name in ("llama", "gpt2")
        ]
        self.first = write_table(folder / "first.csv")
        self.second = write_table(folder / "second.csv", words=("green", "blue"))

    def config(self, *datasets: Path, **sections: Any) -> Path:
        probe = QUICK | {"kind": "held", "controls": ["majority", "random_weights"]}
        sections = {"models": self.models, "probe": probe, "include": "held.py"} | sections
        return write_config(self.folder / "toy.yaml", "", *datasets, **sections)

    def run(self, config: Path, out: str, *overrides: str) -> Path:
        folder = self.folder / out
        run_of(load_config(config, overrides), folder).probe(extract=True)
        return folder

    def held(self) -> list[int]:
        """The processes that wait."""
        return [int(path.name.split("-")[1]) for path in self.folder.glob("held-*")]


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.1)


@pytest.fixture
def toy(tmp_path: Path, tiny_model: Callable[..., Path]) -> Toy:
    return Toy(tmp_path, tiny_model)


@contextmanager
def dask(folder: Path) -> Iterator[str]:
    """Yield the address of a scheduler with two workers, each a process."""
    address, processes = folder / "scheduler.json", []
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"
    }  # fmt: skip

    def start(*arguments: str) -> None:
        command = [sys.executable, "-m", *arguments, "--no-dashboard", "--scheduler-file", address]
        quiet = subprocess.DEVNULL
        processes.append(subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet))

    try:
        start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0")
        wait_for(address.exists)
        for number in "12":
            start("distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny",
                  "--local-directory", str(folder / number))  # fmt: skip
        wait_for(lambda: address.read_text().strip().endswith("}"))
        yield str(yaml.safe_load(address.read_text())["address"])
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_workers_of_dask_do_a_run_and_one_that_is_killed_costs_its_task(toy: Toy) -> None:
    pytest.importorskip("distributed", reason="pip install 'llmprobe[dask]'")
    with dask(toy.folder) as address:
        engine = ["engine.kind=dask", f"engine.scheduler={address}", "engine.workers=2"]
        toy.run(toy.config(toy.first, report={"traces": 0}), "run", *engine)
        finished = changed_at(toy.folder / "run")
        both = toy.config(toy.first, toy.second, transfer=True)

        toy.hold.touch()
        work = Thread(target=toy.run, args=(both, "run", *engine))
        work.start()
        wait_for(toy.held)
        os.kill(toy.held()[0], signal.SIGKILL)
        toy.hold.unlink()
        work.join()

        here = toy.run(both, "here")
        assert recorded(toy.folder / "run") == recorded(here)
        assert finished.items() <= changed_at(toy.folder / "run").items()

        # Whoever asks again finds all of it done, by nobody.
        finished = changed_at(toy.folder / "run")
        toy.run(both, "run", "engine={kind: dask, scheduler: 'tcp://127.0.0.1:9'}")
        assert finished == changed_at(toy.folder / "run")

        # What is wrong is said as it is said here, and the rest is done.
        long = toy.folder / "long.csv"
        long.write_text(toy.first.read_text().replace(" is ", f" is{' the' * 99} "))
        wrong = toy.config(toy.first, long)
        sentences = []
        for out, overrides in (("wrong", engine), ("wrong-here", [])):
            with pytest.raises(UserError) as said:
                toy.run(wrong, out, *overrides)
            sentences.append(str(said.value))
        assert sentences[0] == sentences[1]
        assert "tokens" in sentences[0]
        assert len([*(toy.folder / "wrong").glob("parts/*-first-*")]) == 4

        # One extraction is shared where there are fewer than workers.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cluster, "LEAST_SHARE", 1e-9)
            rows = [f"{text},{i % 2}" for i, text in enumerate(WORDS)]
            many = toy.folder / "many.csv"
            many.write_text("\n".join(["text,label", *rows]))
            small = {"models": toy.models[:1], "probe": QUICK, "report": {"traces": 0}}
            config = load_config(toy.config(many, **small), engine)
            patch.setenv("LLMPROBE_CACHE", str(toy.folder / "shared"))
            shared = [a.store for a in run_of(config, toy.folder / "many").extract()]
            patch.setenv("LLMPROBE_CACHE", str(toy.folder / "alone"))
            alone = [a.store for a in run_of(load_config(toy.config(many, **small)),
                                             toy.folder / "many-here").extract()]  # fmt: skip
        shards = [{p.name for p in one.folder.glob("shard-*")} for one in (*shared, *alone)]
        assert shards[0] == shards[1]
        assert len(shards[0]) > 1


WORDS = [
    " ".join(words)
    for words in product(
        "red green blue".split(), "one two three four five six".split(),
        "a the is of to not and up still nine ten or".split(), "coin city capital".split(),
    )
]  # fmt: skip


def test_what_is_wrong_with_an_engine_is_said_in_a_sentence(
    toy: Toy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = str(toy.config(toy.first))
    monkeypatch.setenv("PATH", "")
    for wrong, sentence in (
        (["--engine", "slrum"], "should be 'local', 'slurm' or 'dask'"),
        (["--engine", "dask"], "needs the address of its scheduler"),
        (["--engine", "slurm"], "there is no sbatch on this machine"),
        (["--set", "engine={kind: dask, scheduler: 'tcp://127.0.0.1:9'}"],
         "no Dask scheduler answers at tcp://127.0.0.1:9"),
        (["--set", "engine={kind: dask, scheduler: nonsense://x}"], "no Dask scheduler answers"),
        (["--set", "engine.options={mem: 4G}"], "options are those of sbatch"),
        (["--set", "engine={kind: slurm, options: {time: 4:00:00}}"], "options.time: quote it"),
    ):  # fmt: skip
        assert main(["run", config, "--out", str(toy.folder / "run"), *wrong]) == 2
        printed = capsys.readouterr().err
        assert sentence in printed
        assert "Traceback" not in printed
    for kind, module in (("slurm", "submitit"), ("dask", "distributed")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            asked = ["--set", f"engine={{kind: {kind}, scheduler: 'tcp://127.0.0.1:9'}}"]
            assert main(["run", config, "--out", str(toy.folder / "run"), *asked]) == 2
        assert f"pip install 'llmprobe[{kind}]'" in capsys.readouterr().err


def test_a_dry_run_says_how_many_tasks_there_are(
    toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(toy.config(toy.first, toy.second))
    assert main(["run", config, "--engine", "slurm", "--dry-run"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("engine slurm: 8 tasks; with 4 workers")


def test_an_engine_names_no_result(toy: Toy) -> None:
    config = load_config(toy.config(toy.first), ["engine={kind: slurm, options: {mem: 4G}}"])
    run = run_of(config, toy.folder / "run")
    assert "engine" not in yaml.safe_load(run.written.to_yaml())
    assert RunConfig.model_validate(
        yaml.safe_load(run.given.to_yaml()), context={"include": True}
    ).engine == config.engine  # fmt: skip
    for local in ("{workers: 8}", "{cores: 2, retries: 0}"):
        config = load_config(toy.config(toy.first), [f"engine={local}"])
        assert "engine" not in yaml.safe_load(run_of(config, toy.folder / "run").written.to_yaml())


def test_another_engine_than_that_of_the_file_leaves_its_options_behind(toy: Toy) -> None:
    config = str(toy.config(toy.first, engine={"kind": "slurm", "options": {"mem": "4G"}}))
    for engine in ("slurm", "local"):
        assert main(["run", config, "--engine", engine, "--dry-run"]) == 0


def test_a_job_has_the_threads_that_slurm_gives_and_a_worker_of_dask_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", str(before + 1))
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    with _threads(None):
        assert torch.get_num_threads() == before
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    with _threads(None):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


class Queue:
    """A SLURM without daemons: what is in its queue, and the jobs that ``sbatch`` was asked for."""

    engine: Slurm

    def __init__(self, out: Path) -> None:
        self.queued: set[str] | None = set()
        self.jobs: list[Any] = []
        self.task = Task("parts", "", str(out), "a task")

    def sbatch(self, task: Task) -> Any:
        from submitit import SlurmJob

        number = str(len(self.jobs) + 1)
        self.jobs.append(SlurmJob(folder=task.folder, job_id=number, tasks=[0]))
        if self.queued is not None:
            self.queued.add(number)
        return self.jobs[-1]

    def leave(self, *result: Any) -> None:
        """Leave a result of the last job, as submitit does."""
        path = self.jobs[-1].paths.result_pickle
        (path.parent / "partial").write_bytes(pickle.dumps(result))
        (path.parent / "partial").rename(path)


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue]:
    pytest.importorskip("submitit", reason="pip install 'llmprobe[slurm]'")
    queue = Queue(tmp_path)
    monkeypatch.setattr(shutil, "which", str)
    monkeypatch.setattr(engines, "_queue", lambda: queue.queued)
    monkeypatch.setattr(Slurm, "_sbatch", lambda _, task: queue.sbatch(task))
    monkeypatch.setattr(Slurm, "POLL", 0.01)
    queue.engine = Slurm(EngineConfig(kind="slurm"))
    yield queue
    queue.engine.close()


def test_a_file_that_cannot_be_looked_at_is_looked_at_again(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    exists, failures = Path.exists, [OSError(errno.ESTALE, "Stale file handle")] * 2

    def stale(path: Path, **options: Any) -> bool:
        if path.name.endswith("_result.pkl") and failures:
            raise failures.pop()
        return exists(path, **options)

    monkeypatch.setattr(Path, "exists", stale)
    future = queue.engine.submit(queue.task)
    queue.leave("success", Outcome(None))
    assert future.result(60) == Outcome(None)
    assert "Stale file handle; looking again" in caplog.text


def test_the_queue_is_asked_also_by_a_user_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text('#!/bin/sh\ncase "$*" in *" --user $(id -u) "*) echo 7;; esac\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("getpass.getuser", lambda: {}["no such user"])
    assert engines._queue() == {"7"}
    squeue.write_text("#!/bin/sh\nexit 1\n")
    assert engines._queue() is None


def test_a_job_is_waited_for_while_slurm_says_nothing_and_its_log_is_kept(queue: Queue) -> None:
    queue.engine.submit(queue.task)
    log = queue.jobs[0].paths.stdout
    log.write_text("why it ended")
    queue.queued = None
    again = queue.engine.submit(queue.task)
    assert len(queue.jobs) == 1
    queue.queued = set()
    with pytest.raises(WorkerEndedError, match=f"job 1 ended without a result .*{log.name}"):
        again.result(60)
    queue.engine.submit(queue.task)
    assert len(queue.jobs) == 2
    assert log.read_text() == "why it ended"


def test_a_job_that_fails_before_its_task_is_submitted_again(queue: Queue) -> None:
    future = queue.engine.submit(queue.task)
    queue.leave("error", "ModuleNotFoundError: no torch on this node")
    with pytest.raises(WorkerEndedError, match=r"job 1 failed: .*_log\.out"):
        future.result(60)
    # Although it is in the queue still.
    future = queue.engine.submit(queue.task)
    assert len(queue.jobs) == 2
    queue.leave("success", Outcome(None))
    assert future.result(60) == Outcome(None)
    wait_for(lambda: not queue.task.folder.exists())


def test_a_result_counts_that_is_seen_after_its_job_left_the_queue(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Slurm, "PATIENCE", 10**9)
    future = queue.engine.submit(queue.task)
    queue.queued = set()
    wait_for(lambda: queue.engine._missing["1"] > 2 or future.done())
    queue.leave("success", Outcome(None))
    assert future.result(60) == Outcome(None)


def test_sbatch_is_asked_for_the_options_of_the_config_and_says_why_it_takes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitit = pytest.importorskip("submitit", reason="pip install 'llmprobe[slurm]'")
    asked: list[Any] = []

    class Executor:
        def __init__(self, **_: Any) -> None:
            pass

        def update_parameters(self, **parameters: Any) -> None:
            asked.append((parameters["cpus_per_task"], parameters["additional_parameters"]))

        def submit(self, *_: Any) -> None:
            raise RuntimeError("Command failed:\nsbatch: error: invalid qos")

    monkeypatch.setattr(shutil, "which", str)
    monkeypatch.setattr(submitit, "SlurmExecutor", Executor)
    for config in ({}, {"cores": 3, "options": {"mem": "4G", "no-requeue": False}}):
        engine = Slurm(EngineConfig(kind="slurm", **config))
        try:
            with pytest.raises(UserError, match=r"takes no job: sbatch: error: invalid qos$"):
                engine.submit(Task("parts", "", str(tmp_path), "a task"))
        finally:
            engine.close()
    assert asked == [(None, {"no-requeue": True}), (3, {"mem": "4G"})]


class Picky:
    """An engine that takes one task at a time, or none."""

    def __init__(self, most: int) -> None:
        self.most, self.running, self.done = most, list[Any](), list[Task]()

    def submit(self, task: Task) -> Any:
        if sum(not future.done() for future in self.running) >= self.most:
            raise UserError("engine: slurm: sbatch takes no job: QOSMaxSubmitJobPerUserLimit")
        self.running.append(future := Future[Outcome]())
        self.done.append(task)
        Timer(0.05, future.set_result, [Outcome(None)]).start()
        return future

    def close(self) -> None:
        pass


def test_a_refused_job_is_asked_for_again_when_another_is_done(tmp_path: Path) -> None:
    asked = [Task("parts", "", str(tmp_path), title) for title in "abc"]
    config = EngineConfig(kind="slurm", workers=3)
    engine = Picky(1)
    do_all(engine, asked, config)
    assert engine.done == asked
    with pytest.raises(UserError, match="sbatch takes no job"):
        do_all(Picky(0), asked, config)


class Scripted:
    """An engine whose tasks end as is written for their titles, the first of a list each time."""

    def __init__(self, **ends: list[Any]) -> None:
        self.ends, self.futures = ends, list[Future[Outcome]]()
        self.most = 0

    def submit(self, task: Task) -> Any:
        end = self.ends[task.title].pop(0)
        if isinstance(end, KeyboardInterrupt):
            raise end
        self.futures.append(future := Future[Outcome]())
        self.most = max(self.most, sum(not one.done() for one in self.futures))
        if isinstance(end, WorkerEndedError):
            future.set_exception(end)
        elif end is not None:
            Timer(0.05, future.set_result, [end]).start()
        return future

    def close(self) -> None:
        pass


def scripted(folder: Path, workers: int, **ends: list[Any]) -> Scripted:
    engine = Scripted(**ends)
    asked = [Task("parts", "", str(folder), title) for title in ends]
    do_all(engine, asked, EngineConfig(kind="slurm", workers=workers, retries=2))
    return engine


def test_a_task_whose_worker_ends_is_tried_as_often_as_is_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = WorkerEndedError("its worker ended")
    scripted(tmp_path, 1, a=[gone, gone, Outcome(None)])
    assert caplog.text.count("a: its worker ended; it is submitted again") == 2
    with pytest.raises(UserError, match="a: its worker ended, 3 times; what it finished is kept"):
        scripted(tmp_path, 1, a=[gone] * 9)


def test_an_error_is_told_when_all_others_are_done_and_the_first_is_raised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, other = UserError("first"), UserError("other")
    gone, heard = WorkerEndedError("gone"), Outcome(None, ["a text is odd"])
    with pytest.raises(UserError, match="first"):
        scripted(tmp_path, 1, a=[gone, Outcome(first)], b=[Outcome(other)], c=[heard])
    assert "a text is odd" in caplog.text
    assert "other" in caplog.text


def test_no_more_tasks_than_workers_are_begun_and_whoever_is_interrupted_ends_them(
    tmp_path: Path,
) -> None:
    assert scripted(tmp_path, 2, **{title: [Outcome(None)] for title in "abcde"}).most == 2
    engine = Scripted(a=[None], b=[KeyboardInterrupt()])
    asked = [Task("parts", "", str(tmp_path), title) for title in "ab"]
    with pytest.raises(KeyboardInterrupt):
        do_all(engine, asked, EngineConfig(kind="slurm"))
    assert engine.futures[0].cancelled()


class UnpicklableError(Exception):
    """Whose pickle is made and cannot be read."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def test_an_error_comes_back_as_a_sentence_or_with_where_it_came_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task("parts", "", str(tmp_path), "a task", variables={"LLMPROBE_TOY": "1"})
    assert "does not see it" in str(perform(task).error)
    assert "LLMPROBE_TOY" not in os.environ
    task.done.parent.mkdir(parents=True)
    for error in (ValueError("odd"), UnpicklableError("o", "dd")):

        def fail(_: Task, error: Exception = error) -> None:
            assert os.environ["LLMPROBE_TOY"] == "1"
            raise error

        monkeypatch.setattr(tasks, "_do", fail)
        outcome = pickle.loads(pickle.dumps(perform(task)))
        assert "odd" in str(outcome.error)
        told = "".join(traceback.format_exception(outcome.error))
        assert "on host" in told
        assert "in fail" in told
        assert not task.done.exists()


def test_workers_compute_in_one_precision_and_only_they_need_the_device(toy: Toy) -> None:
    asked = ["engine={kind: dask, scheduler: x}", "models.0.device=cuda:7"]
    config = toy.config(toy.first, models=toy.models[:1])
    run = run_of(load_config(config, [*asked, "probe.device=cuda:7"]), toy.folder / "run")
    assert isinstance(run, cluster.ClusterRun)
    sent = yaml.safe_load(run._task("parts", run._units[0]).config)
    assert sent["models"][0]["device"] == sent["probe"]["device"] == "cuda:7"
    auto = [*asked[:1], "models.0.dtype=auto"]
    run = run_of(load_config(config, auto), toy.folder / "run")
    assert isinstance(run, cluster.ClusterRun)
    assert yaml.safe_load(run._task("parts", run._units[0]).config)["models"][0]["dtype"] != "auto"
    with pytest.raises(UserError, match="set the dtype they compute in"):
        run_of(load_config(config, [*asked, "models.0.dtype=auto"]), toy.folder / "run")
