"""Where the work of a run is done."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from llmprobe.config.schema.section import Section


class EngineConfig(Section):
    """Where the work of a run is done; it changes no result, and is not written into its folder."""

    kind: Literal["local", "slurm", "dask"] = "local"
    """``local``: this process. ``slurm``: jobs of a SLURM cluster, which are submitted from here
    (``pip install 'llmprobe[slurm]'``). ``dask``: the workers of a Dask scheduler (``pip install
    'llmprobe[dask]'``). Jobs and workers must find the run's folder, the cache, the data and the
    same installation at the same paths."""
    workers: PositiveInt = 4
    """How many tasks are done at a time. The work is divided for this number of workers, SLURM has
    at most this many jobs in its queue, and a dry run estimates the time for them."""
    scheduler: str | None = Field(default=None, min_length=1)
    """The address of Dask's scheduler, such as ``tcp://login:8786``."""
    cores: PositiveInt | None = None
    """The cores of a worker: the number that SLURM is asked for, and the threads of a task. By
    default, those that the worker is given."""
    options: dict[str, str | int | bool] = Field(default={})
    """More options of ``sbatch`` by their long names: ``{partition: gpu, gpus-per-node: 8, mem:
    400G, time: "4:00:00"}``."""
    retries: NonNegativeInt = 2
    """How often a task is submitted again if its worker or job ends without a result."""

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> EngineConfig:
        if self.kind == "dask" and self.scheduler is None:
            raise ValueError("dask needs the address of its scheduler: give scheduler: "
                             "tcp://HOST:8786 (`dask scheduler` prints it)")  # fmt: skip
        if self.kind != "slurm" and self.options:
            raise ValueError("options are those of sbatch, for kind: slurm")
        for key in ("time", "time-min"):
            if isinstance(self.options.get(key), int):
                raise ValueError(f'options.{key}: quote it, as in {key}: "4:00:00", or minutes as '
                                 '"240"; without quotes YAML reads 4:00:00 as 14400')  # fmt: skip
        return self
