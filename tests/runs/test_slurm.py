"""A run by jobs of a real SLURM, with a node and with the submitter killed in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from same_bytes import changed_at, recorded
from slurm import Cluster, what_is_missing
from test_engines import ROOT, Toy, wait_for

from llmprobe.runs.engines import Slurm

HOW = "bash scripts/slurm.sh && CI=1 pytest tests/runs/test_slurm.py (Debian; starts daemons)"


@pytest.mark.skipif(not os.environ.get("CI"), reason=f"starts daemons only in CI: {HOW}")
def test_jobs_of_slurm_do_a_run_whatever_is_killed(
    tmp_path: Path, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not what_is_missing(), HOW
    toy = Toy(tmp_path, tiny_model)
    toy.models = toy.models[:1]
    controls = {"folds": 2, "l2": 1.0, "controls": ["majority"], "permutations": 0,
                "description_length": False, "kind": "held"}  # fmt: skip
    config = toy.config(toy.first, toy.second, probe=controls)
    monkeypatch.setattr(Slurm, "POLL", 0.5)
    monkeypatch.setattr(Slurm, "PATIENCE", 6)
    with Cluster(tmp_path / "slurm") as slurm:
        for name, value in {**slurm.variables, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
                            "OMP_WAIT_POLICY": "PASSIVE"}.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        out = toy.folder / "run"
        engine = ["engine.kind=slurm", "engine.workers=2"]
        command = [sys.executable, "-m", "llmprobe", "run", str(config), "--out", str(out),
                   *(word for key in engine for word in ("--set", key))]  # fmt: skip
        toy.hold.touch()
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as submitter:
            try:
                wait_for(lambda: len(toy.held()) == 2, 600)
            except BaseException:
                toy.hold.unlink()
                raise
            finally:
                submitter.kill()
        slurm.kill_node(toy.held()[0])
        toy.hold.unlink()
        toy.run(config, "run", *engine)

        # The job whose node lived was found again, and the other's task had one more.
        for _ in range(2):
            assert slurm.ask("scontrol", "--oneliner", "show", "job").count("JobId=") == 3
            finished = changed_at(out)
            toy.run(config, "run", *engine)
            assert changed_at(out) == finished
        assert recorded(out) == recorded(toy.run(config, "here"))
