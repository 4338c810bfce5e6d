"""Work that others do: the same bytes, whoever is killed, and nothing that is finished twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from same_bytes import changed_at, recorded
from toy import QUICK, write_config, write_table

from llmprobe import UserError
from llmprobe.cli.main import main
from llmprobe.config.load import load_config
from llmprobe.config.probe_kinds import PROBE_KINDS
from llmprobe.config.schema import RunConfig
from llmprobe.runs import cluster
from llmprobe.runs.cluster import run_of

ROOT = Path(__file__).parents[2]


class Toy:
    """A config of two models and two datasets that includes a probe which can be held up."""

    def __init__(self, folder: Path, tiny_model: Callable[..., Path]) -> None:
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
    PROBE_KINDS.remove("held")  # That of another test is of another file.
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
