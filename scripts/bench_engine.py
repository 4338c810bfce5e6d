"""Compare a run by two Dask workers of one core with a run by one; write configs for a dry run.

    python scripts/bench_engine.py --limit 400                  # minutes on a quiet machine
    python scripts/bench_engine.py --shapes FOLDER              # 70b.yaml, family.yaml; no weights
    llmprobe run FOLDER/70b.yaml --engine slurm --dry-run

Each run has its own cache and folder. Before the clock starts, a small run makes the workers import
all that they need. The time is that of the whole run, tables included.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import yaml
from bench_common import head, parsed, parser_of, report

from llmprobe.config.load import load_config
from llmprobe.models.packaged import PACKAGED
from llmprobe.models.source import locate
from llmprobe.runs.cluster import run_of

WIDTHS = (512, 768, 1024, 2048, 2560, 4096, 5120, 6144, 7168, 8192)


@contextmanager
def workers(n: int, folder: Path) -> Iterator[str]:
    """Yield the address of a scheduler with n workers of one core each."""
    file = folder / "scheduler.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = []

    def start(*arguments: str) -> None:
        command = [
            sys.executable,
            "-m",
            *arguments,
            "--no-dashboard",
            "--scheduler-file",
            str(file),
        ]
        quiet = subprocess.DEVNULL
        processes.append(subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet))

    try:
        start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0")
        while not file.exists():
            time.sleep(0.1)
        for number in range(n):
            start("distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny",
                  "--local-directory", str(folder / f"worker-{number}"))  # fmt: skip
        yield str(json.loads(file.read_text())["address"])
    finally:
        for process in processes:
            process.kill()
            process.wait()


def seconds(n: int, limit: int, datasets: int, dtype: str) -> float:
    """Return how long a run takes with n workers."""
    with TemporaryDirectory(prefix="bench-engine-") as name, workers(n, Path(name)) as address:
        folder = Path(name)
        names = [{"name": "coin_flip", "seed": i, "n": limit, "as": f"coins-{i}"}
                 for i in range(datasets)]  # fmt: skip
        engine = {"kind": "dask", "scheduler": address, "workers": n, "cores": 1}
        config = {"models": [{"id": "smollm2-135m", "dtype": dtype}], "datasets": names,
                  "report": {"traces": 0}, "engine": engine}  # fmt: skip
        small = {**config, "datasets": [{**one, "n": 60} for one in names],
                 "probe": {"permutations": 0, "repeats": 1}}  # fmt: skip
        models = Path(os.environ["LLMPROBE_CACHE"]) / "models"
        for what, asked in (("warm", small), ("run", config)):
            own = folder / what
            own.mkdir()
            (own / "models").symlink_to(models)
            os.environ["LLMPROBE_CACHE"] = str(own)
            try:
                began = time.perf_counter()
                run_of(load_config(asked), folder / f"out-{what}").probe(extract=True)
                took = time.perf_counter() - began
            finally:
                os.environ["LLMPROBE_CACHE"] = str(models.parent)
    return took


def write_shapes(folder: Path) -> None:
    """Write models that have a config but no weights, and configs that run them: for a dry run."""
    from transformers import AutoTokenizer, LlamaConfig

    source = locate(load_config({"models": ["smollm2-135m"], "datasets": ["capitals"]}).models[0])
    tokenizer = AutoTokenizer.from_pretrained(source.folder)

    def model(name: str, width: int, blocks: int, inner: int, words: int) -> dict[str, str]:
        heads = max(width // 128, 1)
        LlamaConfig(
            hidden_size=width, num_hidden_layers=blocks, num_attention_heads=heads,
            num_key_value_heads=max(heads // 8, 1), intermediate_size=inner, vocab_size=words,
            max_position_embeddings=8192, architectures=["LlamaForCausalLM"],
        ).save_pretrained(folder / name)  # fmt: skip
        tokenizer.save_pretrained(folder / name)
        return {"id": str(folder / name), "weights": "random", "name": name, "dtype": "bfloat16"}

    probe = {"controls": ["majority", "bag_of_words", "token_embeddings", "random_labels"]}
    large = model("llama-70b", 8192, 80, 28672, 128_256)
    family = [model(f"family-{i:02d}", width, 12 + 2 * i, 4 * width, 50_304)
              for i, width in enumerate(sorted(WIDTHS * 2))]  # fmt: skip
    coins = [{"name": "coin_flip", "n": 200, "seed": i, "as": f"coins-{i:02d}"} for i in range(40)]
    slurm = {"kind": "slurm", "workers": 16}
    for name, models, datasets, engine in (
        ("70b", [large], ["capitals"], {"kind": "slurm", "workers": 1}),
        ("family", family, coins, slurm),
    ):  # fmt: skip
        config = {"name": name, "models": models, "datasets": datasets, "probe": probe,
                  "engine": engine}  # fmt: skip
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def main() -> None:
    """Write the shapes, or measure one worker and two."""
    parser = parser_of(__doc__)
    parser.add_argument("--datasets", type=int, default=6)
    parser.add_argument("--shapes", type=Path, metavar="FOLDER")
    parser.set_defaults(limit=300, rounds=1, dtype=["float32"])
    options = parsed(parser)
    if options.shapes:
        options.shapes.mkdir(parents=True, exist_ok=True)
        write_shapes(options.shapes.resolve())
        return
    os.environ.setdefault("LLMPROBE_CACHE", str(Path.home() / ".cache" / "llmprobe"))
    logging.basicConfig(level=logging.ERROR)
    assert "smollm2-135m" in PACKAGED
    head(f"{options.datasets} datasets of {options.limit} coin flips, SmolLM2", options.out)
    for dtype in options.dtype:
        took: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(options.rounds):
            for n, times in took.items():
                times.append(seconds(n, options.limit, options.datasets, dtype))
        ratios = [one / two for one, two in zip(took[1], took[2], strict=True)]
        report(
            f"{dtype}: one worker {median(took[1]):.1f} s, two {median(took[2]):.1f} s: "
            f"{median(ratios):.2f} times as fast [{min(ratios):.2f}, {max(ratios):.2f}]",
            options.out,
        )


if __name__ == "__main__":
    main()
