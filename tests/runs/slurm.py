"""A SLURM cluster of two nodes on this machine, for as long as a test lasts."""

from __future__ import annotations

import getpass
import os
import resource
import secrets
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil

# The daemons are where not every user looks.
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "srun")

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SlurmdTimeout=10
KillWait=2
MinJobAge=86400
NodeName=n1 NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[1]} CPUs=1 State=UNKNOWN
NodeName=n2 NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[2]} CPUs=1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def what_is_missing() -> list[str]:
    """The commands of SLURM that this machine lacks."""
    return [name for name in COMMANDS if shutil.which(name, path=PATH) is None]


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _few_files() -> None:
    """With a large limit, a job hangs while slurmd closes as many descriptors."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))


class Cluster:
    """The daemons; ``variables`` are those of the environment by which commands find them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, folder / "slurm.conf"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.variables = {"SLURM_CONF": str(self.config), "PATH": PATH}

    def __enter__(self) -> Cluster:
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _begin(self) -> None:
        for name in ("state", "spool-n1", "spool-n2"):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        host = socket.gethostname().partition(".")[0]
        self.config.write_text(CONFIG.format(
            folder=self.folder, host=host, user=getpass.getuser(), ports=_free_ports(3)
        ))  # fmt: skip
        files = {name: f"--{name}={self.folder}/munge.{name[:4]}"
                 for name in ("pid-file", "log-file", "seed-file")}  # fmt: skip
        self._start("munged", "--force", "--foreground", f"--key-file={key}",
                    f"--socket={self.folder}/munge.sock", *files.values())  # fmt: skip
        self._start("slurmctld", "-D", "-f", str(self.config))
        for node in ("n1", "n2"):
            self._start("slurmd", "-D", "-N", node, "-f", str(self.config), name=node)
        end = time.monotonic() + 180
        while self.ask("sinfo", "--noheader", "--format=%T %D").strip() != "idle 2":
            assert time.monotonic() < end, "the nodes do not come up"
            time.sleep(0.5)

    def _start(self, *command: str, name: str = "") -> None:
        with (self.folder / f"{name or command[0]}.out").open("wb") as output:
            self.processes[name or command[0]] = subprocess.Popen(
                command, stdout=output, stderr=output, preexec_fn=_few_files,
                env={**os.environ, **self.variables},
            )  # fmt: skip

    def ask(self, *command: str) -> str:
        """What a command of SLURM prints."""
        environment = {**os.environ, **self.variables}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60
        ).stdout

    def kill_node(self, process: int) -> None:
        """Kill the node that a process of a job runs on, and all that runs there."""
        job = psutil.Process(process)
        node = job.environ()["SLURMD_NODENAME"]
        above = [one for one in job.parents() if one.name() in ("slurmstepd", "slurm_script")]
        self.processes[node].kill()
        for one in (*above[::-1], job):
            one.kill()

    def __exit__(self, *_: object) -> None:
        with suppress(Exception):  # Jobs outlive the daemons.
            self.ask("scancel", "--signal=KILL", "--full", "--user", str(os.getuid()))
            time.sleep(1)
        for process in self.processes.values():
            process.kill()
            process.wait()
