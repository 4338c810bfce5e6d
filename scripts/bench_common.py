"""Code that the benchmarks share: texts, extraction, timing and memory, the command line."""

from __future__ import annotations

import argparse
import csv
import gc
import json
import math
import os
import platform
import random
import resource
import shlex
import sys
import time
import timeit
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch
import transformers
from torch import Tensor

from llmprobe.config.schema import ModelConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction.capture import Capture
from llmprobe.extraction.estimate import matmul_speed
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.memory import Budget
from llmprobe.extraction.plan import ExtractionPlan
from llmprobe.extraction.runner import Planner, make_runner
from llmprobe.extraction.workers import Workers
from llmprobe.models.loading import LoadedModel

PACKAGED = "smollm2-135m"
DTYPES = ["float32", "bfloat16"]

CORPORA = ("cities", "strategyqa", "unshared")

JUDGE = "Judge the statement is True or False. "
PREAMBLE = (
    "Judge the question is true or false?\nQ: Will Queen Elizabeth be buried in the Pantheon?\n"
    "Let us think step by step. The stem of the sentence is Queen Elizabeth, burial, pantheon. "
    "Inference: First, the Pantheon is a church, so it is possible that she could be buried there. "
    "Second, Queen Elizabeth II is still alive, so she has not been buried yet. Third, even if she "
    "were to be buried in the Pantheon, it is unlikely that we would know about it ahead of time, "
    "so it is hard to say for sure.\npred_ans: no"
)
SYLLABLES = "ba den kor lim mo ner pas qui ral sto tur vel win xan yor zel an eth or is".split()
COUNTRIES = "Peru,France,Ghana,Japan,Chile,South Africa,Norway,India,Kenya,Egypt,Oman".split(",")
WORDS = """the a of to and in that it was his her with for on as at by from they we she he not but
had have which one all there when what some time could them other than then now look only come its
over think also back after use two how our work first well way even new want because any these give
day most us river house stone letter winter morning garden market window harbour teacher soldier
bread silver music shadow mountain village machine question answer history science weather carried
found opened built crossed promised remembered followed quiet heavy narrow distant sudden careful
bright broken ancient common slowly often never almost perhaps together""".split()


# -------------------------------------------------------------------------------------------- texts


def name(draw: random.Random) -> str:
    """Return a made-up word."""
    return "".join(draw.choices(SYLLABLES, k=draw.randint(2, 5))).capitalize()


def made_up_cities(n: int) -> list[str]:
    """Return statements shaped like those of cities.csv: two countries for each made-up city."""
    draw, texts = random.Random(0), dict[str, None]()
    while len(texts) < n:
        city = name(draw)
        for country in draw.sample(COUNTRIES, 2):
            texts[f"{JUDGE}The city of {city} is in {country}."] = None
    return list(texts)[:n]


def prose(n: int) -> list[str]:
    """Return texts of 20 to 400 tokens, mostly short, that begin differently."""
    draw, texts = random.Random(0), []
    for _ in range(n):
        length = math.exp(draw.uniform(math.log(20), math.log(400)))
        words = [name(draw)]
        while len(words) < length / 1.16 - 2:
            sentence = draw.choices(WORDS, k=draw.randint(5, 20))
            words += [sentence[0].capitalize(), *sentence[1:-1], f"{sentence[-1]}."]
        texts.append(" ".join(words[: max(1, int(length / 1.16 - 2))]))
    return texts


def corpus(which: str, data: Path | None, limit: int | None) -> tuple[str, list[str]]:
    """Return the title of a corpus and its texts; no texts if its file is missing."""
    if which == "unshared":
        return "prose that shares nothing", prose(limit or 1000)
    file = "cities.csv" if which == "cities" else "StrategyQA_task.json"
    path = data / "jin2024" / file if data else None
    if path is None or not path.is_file():
        if which == "cities":
            return "made-up cities (no cities.csv in --data)", made_up_cities(limit or 1496)
        return f"{which}: skipped, no jin2024/{file} in --data", []
    with path.open(encoding="utf-8", newline="") as opened:
        if which == "cities":
            texts = [JUDGE + row["statement"] for row in csv.DictReader(opened)]
            return "cities with instruction", texts[:limit]
        examples = json.load(opened)["examples"]
    half = (limit or 400) // 2
    answers = {"Yes": list[str](), "No": list[str]()}
    for example in examples:
        answer = max(example["target_scores"], key=example["target_scores"].get)
        because = example["target"].removeprefix(f"{answer}.").strip()
        text = f"{PREAMBLE}{example['input']} {because} Let us think step by step..."
        answers[answer].append(text)
    return "StrategyQA with preamble", answers["Yes"][:half] + answers["No"][:half]


def spaced(texts: Sequence[str], n: int) -> list[str]:
    """Return ``n`` of the texts, evenly spaced by length."""
    ordered, n = sorted(texts, key=len), min(n, len(texts))
    return [ordered[int((i + 0.5) * len(texts) / n)] for i in range(n)]


def runs(texts: Sequence[str], n_runs: int, length: int) -> list[str]:
    """Return runs of similarly long texts, whose batches are padded as little as those of all."""
    ordered, step = sorted(texts, key=len), max(len(texts) // n_runs, length)
    return [text for i in range(0, len(ordered), step) for text in ordered[i : i + length]]


# --------------------------------------------------------------------------------------- the engine


def packaged(dtype: str, model: str = PACKAGED) -> Extractor:
    """Return an extractor for a packaged model on the CPU."""
    return Extractor(ModelConfig.model_validate({"id": model, "dtype": dtype, "device": "cpu"}))


def dataset(texts: Sequence[str]) -> ConceptDataset:
    """Return texts as a dataset; llmprobe requires labels, so they alternate."""
    return ConceptDataset("bench", list(texts), np.arange(len(texts)) % 2)


def planner_of(engine: Extractor, texts: Sequence[str]) -> Planner:
    """Return a planner for the tokens of some texts and the shape of the model."""
    model = engine.model
    tokens = engine.tokens(dataset(texts), model.tokenizer, model.module)
    return engine.planner(tokens, model)


def run_plan(model: LoadedModel, plan: ExtractionPlan) -> Tensor:
    """Run only the forward passes of a plan. -> [layers, rows, d]"""
    with Capture(model, "residual") as capture:
        way = make_runner(plan, capture, Budget(plan.budget))
        with Workers(model, len(plan.strands)) as workers:
            workers.submit(way.prepare).result()
            running = [workers.submit(way, plan.texts[s.start : s.stop]) for s in plan.strands]
            return torch.cat([strand.result().result() for strand in running], dim=1)


# ------------------------------------------------------------------------------------- measurements

Job = TypeVar("Job")
Result = TypeVar("Result")


def turns(
    jobs: Mapping[Job, Callable[[], Result]], rounds: int, what: str
) -> tuple[dict[Job, list[float]], dict[Job, Result]]:
    """Return the seconds of each job in each round, and its last result.

    Each round begins with another job.
    """
    took: dict[Job, list[float]] = defaultdict(list)
    results: dict[Job, Result] = {}
    order = list(jobs)
    for n in range(rounds):
        for job in order[n % len(order) :] + order[: n % len(order)]:
            began = time.perf_counter()
            result = jobs[job]()
            took[job].append(time.perf_counter() - began)
            results[job] = result
            said = f"{what}, round {n + 1} of {rounds}: {job}: {took[job][-1]:.2f} s"
            print(said, file=sys.stderr, flush=True)
    return took, results


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return the median, minimum and maximum as text; of one value, that value."""
    ends = f" [{min(values):.{digits}f}, {max(values):.{digits}f}]" if len(values) > 1 else ""
    return f"{median(values):.{digits}f}{ends}"


def best(run: Callable[[], object], times: int = 10) -> float:
    """Return the least seconds of several tries."""
    return min(timeit.repeat(run, number=1, repeat=times))


def peak_speed(device: str, dtype: str) -> float:
    """Measure the operations a second of a matrix product that is large enough for the device."""
    numbers = getattr(torch, dtype)
    if device == "cpu":
        return max(matmul_speed(torch.device(device), numbers) for _ in range(5))
    a = torch.ones(8192, 8192, dtype=numbers, device=device)
    return 2 * 8192**3 / best(lambda: float((a @ a)[0, 0]))


def peak_bytes(run: Callable[[], object], cuda: bool) -> int:
    """Return the peak memory of this process, or of its GPU, while ``run`` runs."""
    gc.collect()
    forget, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    elif forget.exists():
        # Reset the kernel's peak, which is otherwise that of loading the model.
        forget.write_text("5")
    run()
    if cuda:
        return torch.cuda.max_memory_allocated()
    if forget.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines()
                    if line.startswith("VmHWM"))  # fmt: skip
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# --------------------------------------------------------------------------------- the command line


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, default=os.environ.get("LLMPROBE_DATA"), help="folder of the corpora")
    add("--dtype", nargs="+", choices=DTYPES, default=DTYPES)
    add("--rounds", type=int, default=3)
    add("--limit", type=int, help="texts per corpus")
    add("--out", type=Path, metavar="FILE.md")
    add(
        "--wait-policy",
        choices=["active", "passive", "default"],
        default=os.environ.get("OMP_WAIT_POLICY", "passive").lower(),
        help="how idle OpenMP threads wait",
    )
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the options; restart if idle threads should wait otherwise.

    torch reads the wait policy only when it is loaded.
    """
    options = parser.parse_args()
    policy = options.wait_policy
    if os.environ.get("OMP_WAIT_POLICY", "default").lower() != policy:
        environment = {**os.environ, "OMP_WAIT_POLICY": policy.upper()}
        if policy == "default":
            del environment["OMP_WAIT_POLICY"]
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    transformers.utils.logging.disable_progress_bar()
    return options


def machine() -> str:
    """Return the processor, cores, versions and load, for the head of a report."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return (
        f"{gpu}{(names or [platform.processor()])[0]}, {torch.get_num_threads()} cores, "
        f"torch {torch.__version__}, transformers {transformers.__version__}, idle threads wait: "
        f"{os.environ.get('OMP_WAIT_POLICY', 'default').lower()}, load at the start "
        f"{os.getloadavg()[0]:.1f}"
    )


def head(title: str, out: Path | None) -> None:
    """Begin a report with its title, the machine and the command."""
    command = shlex.join(["python", *sys.argv])
    report(f"{title} on {machine()}.\n\n```\n{command}\n```\n", out, new=True)


def report(text: str, out: Path | None, new: bool = False) -> None:
    """Print a part of the report and append it to ``out``; a whole benchmark takes an hour."""
    print(text, flush=True)
    if out:
        with out.open("w" if new else "a", encoding="utf-8") as opened:
            opened.write(f"{text}\n")
