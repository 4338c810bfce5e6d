"""Measure llmprobe's extraction beside the ways in which one would do it by hand.

    python scripts/bench_extraction.py --data FOLDER --out table.md     # the three corpora
    python scripts/bench_extraction.py --scaling                        # 1,000 to 20,000 texts
    python scripts/bench_extraction.py --sweep                          # what plan.py assumes
    python scripts/bench_extraction.py --gpu                            # a model shaped like 7B

The data folder (or ``$LLMPROBE_DATA``) holds ``jin2024/cities.csv`` and
``jin2024/StrategyQA_task.json``. Every way takes texts and gives the states of each text's last
token at every layer; all of them take turns in one process. Each ratio is of two times of the same
round. Nothing else should be running.

By hand, a causal model gets length-sorted batches padded on the right without a mask, which is
faster than with one and as right: the last token of a text sees nothing of the padding behind it.
"""

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
import subprocess
import sys
import time
import timeit
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean, median
from typing import Any, TypeVar

# Before torch loads, as llmprobe's command does; --wait-policy starts the script again.
if "BENCH_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llmprobe.concepts.dataset import ConceptDataset
from llmprobe.config import ModelConfig
from llmprobe.extraction.capture import Capture
from llmprobe.extraction.estimate import matmul_speed
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.memory import Budget
from llmprobe.extraction.plan import (
    CPU,
    PADDED,
    PREFIX_TREE,
    ModelShape,
    Plan,
    machine_of,
    plan_padded,
    plan_tree,
)
from llmprobe.extraction.tokens import Reading, TokenisedTexts
from llmprobe.extraction.tree import common
from llmprobe.extraction.ways import Planner, make_way
from llmprobe.files import size as n_bytes
from llmprobe.models.layers import find_blocks, verify_blocks
from llmprobe.models.loading import LoadedModel, active_weights, example_input
from llmprobe.models.source import locate

PACKAGED = "smollm2-135m"
CORPORA = ("cities", "strategyqa", "unshared")
ONE_BY_ONE, BATCHES, SHARED_CACHE, ENGINE = "one at a time", "batches", "shared cache", "llmprobe"
SAMPLE = {ONE_BY_ONE: 48}
"""Texts that a slow way is measured on, evenly spaced by length."""
WARM_UP = 64
LEAST_PREAMBLE = 4
"""Tokens that all texts must begin with for a cache of them to be tried."""

LEGEND = """- Medians of all rounds [least, most]; "÷ llmprobe" is a way's time over llmprobe's in \
the same round. Operations are 2 × weights × computed tokens, padding included, attention and \
vocabulary not; the peak is what this machine reaches in one large product of matrices in that \
precision. Memory is the most that a process of its own takes, the model included, while it runs \
256 of the texts (one at a time: 48) and the longest."""

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


# ---------------------------------------------------------------------------------------- texts


def name(draw: random.Random) -> str:
    """A word that is in no dictionary."""
    return "".join(draw.choices(SYLLABLES, k=draw.randint(2, 5))).capitalize()


def made_up_cities(n: int) -> list[str]:
    """Statements shaped like those of cities.csv: two countries for each city."""
    draw, texts = random.Random(0), dict[str, None]()
    while len(texts) < n:
        city = name(draw)
        for country in draw.sample(COUNTRIES, 2):
            texts[f"{JUDGE}The city of {city} is in {country}."] = None
    return list(texts)[:n]


def prose(n: int) -> list[str]:
    """Texts of 20 to 400 tokens, more short ones than long, that begin differently."""
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
    """What a corpus is called, and its texts; none where its file is missing."""
    if which == "unshared":
        return "prose that shares nothing", prose(limit or 1000)
    if which == "generated":
        return "made-up cities", made_up_cities(limit or 1496)
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
    """``n`` of the texts, evenly spaced by length."""
    ordered, n = sorted(texts, key=len), min(n, len(texts))
    return [ordered[int((i + 0.5) * len(texts) / n)] for i in range(n)]


def runs(texts: Sequence[str], n_runs: int, length: int) -> list[str]:
    """Neighbours by length, so that a batch of them is padded as little as one of all texts."""
    ordered, step = sorted(texts, key=len), max(len(texts) // n_runs, length)
    return [text for i in range(0, len(ordered), step) for text in ordered[i : i + length]]


# ------------------------------------------------------------------------------------ the models


@dataclass(frozen=True)
class Model:
    """What is measured: the packaged model, or a Llama of some shape with random weights."""

    title: str
    dtypes: tuple[str, ...]
    sizes: tuple[int, ...]
    """Texts in a batch, to choose from."""
    shape: tuple[int, int, int, int] | None = None
    """Width, width inside the MLP, blocks, heads."""
    device: str = "cpu"
    tokenizer_folder: Path | None = None

    @property
    def tokenizer(self) -> Any:
        """The packaged model's unless another is given, which spares a GPU machine its weights."""
        return load_tokenizer(self.tokenizer_folder)


SMOLLM2 = Model(PACKAGED, ("float32", "bfloat16"), (16, 32, 64))
LLAMA_7B = Model("Llama shaped like 7B, random weights", ("bfloat16",), (16, 32, 64, 128, 256),
                 (4096, 11008, 32, 32), "cuda")  # fmt: skip
TINY = Model("tiny Llama, random weights", ("bfloat16",), (4, 8), (64, 172, 3, 4))


@cache
def load_tokenizer(folder: Path | None) -> Any:
    """As one does by hand."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder or locate(ModelConfig(id=PACKAGED)).folder)


@cache
def causal(model: Model, dtype: str) -> Any:
    """The language model with its head, loaded by hand; a random one is made on its device."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    numbers = getattr(torch, dtype)
    if model.shape is None:
        folder = locate(ModelConfig(id=PACKAGED)).folder
        return AutoModelForCausalLM.from_pretrained(folder, dtype=numbers).eval()
    width, inner, blocks, heads = model.shape
    config = LlamaConfig(
        vocab_size=len(model.tokenizer), hidden_size=width, intermediate_size=inner,
        num_hidden_layers=blocks, num_attention_heads=heads, max_position_embeddings=2048,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(model.device):
        return AutoModelForCausalLM.from_config(config, dtype=numbers).eval()


@cache
def extractor(model: Model, dtype: str) -> Extractor:
    """llmprobe's, with its model in memory."""
    made = Extractor(ModelConfig.model_validate({"id": PACKAGED, "dtype": dtype, "device": "cpu"}))
    if model.shape is not None:
        module, device = causal(model, dtype).model, torch.device(model.device)
        example = example_input(module, device)
        blocks = find_blocks(module, example)
        made._model = LoadedModel(
            name=model.title, module=module, blocks=blocks, tokenizer=model.tokenizer,
            device=device, dtype=module.dtype, causal=True,
            final_norm=verify_blocks(module, blocks, example),
        )  # fmt: skip
    _ = made.model
    return made


# -------------------------------------------------------------------------------------- the ways


@dataclass(frozen=True)
class Outcome:
    """States of some texts."""

    tokens: int
    """Computed, padding included."""
    layer: Callable[[int], np.ndarray]
    """States of a layer. -> [n, d]"""
    note: str = ""


@dataclass(frozen=True)
class Way:
    """A way of getting the states."""

    kind: str
    dtype: str
    size: int = 0
    """Texts in a batch."""

    def __str__(self) -> str:
        return f"{self.kind}:{self.dtype}:{self.size}"

    @property
    def title(self) -> str:
        """In a table."""
        alone = ", passes alone" if self.kind in (PREFIX_TREE, PADDED) else ""
        return f"{self.kind}{f' of {self.size}' if self.size else ''}, {self.dtype}{alone}"

    @torch.inference_mode()
    def __call__(self, model: Model, texts: Sequence[str]) -> Outcome:
        """Run it."""
        if self.kind == ONE_BY_ONE:
            return one_by_one(model, self.dtype, texts)
        if self.kind in (BATCHES, SHARED_CACHE):
            return batches(model, self.dtype, texts, self.size, self.kind == SHARED_CACHE)
        engine = extractor(model, self.dtype)
        if self.kind == ENGINE:
            found = engine.extract(dataset(texts), cache=False, progress=False)
            return Outcome(found.facts["computed_tokens"], found.layer, found.facts["way"])
        tokens, shape = tokens_and_shape(engine, texts)
        machine = machine_of(engine.model.device)
        plan = Planner(tokens, shape, machine, None, causal=True, tree=True).plan(self.kind)
        states = run_plan(engine.model, plan, tokens, torch.get_num_threads())
        return Outcome(plan.cost.tokens, lambda i: states[i, plan.row_of].float().numpy())


def dataset(texts: Sequence[str]) -> ConceptDataset:
    """Texts with labels, which llmprobe wants."""
    return ConceptDataset("bench", list(texts), np.arange(len(texts)) % 2)


def one_by_one(model: Model, dtype: str, texts: Sequence[str]) -> Outcome:
    """Each text alone, with all states of all its tokens."""
    lm, kept, n_tokens = causal(model, dtype), [], 0
    for text in texts:
        inputs = model.tokenizer(text, return_tensors="pt").to(lm.device)
        states = lm(**inputs, output_hidden_states=True).hidden_states
        kept.append(torch.stack([layer[0, -1] for layer in states]).cpu())
        n_tokens += inputs["input_ids"].shape[1]
    together = torch.stack(kept, dim=1)
    return Outcome(n_tokens, lambda i: together[i].float().numpy())


def batches(model: Model, dtype: str, texts: Sequence[str], size: int, share: bool) -> Outcome:
    """Texts of similar length side by side; ``share``: what all begin with comes from a cache."""
    from transformers import DynamicCache

    base = causal(model, dtype).model
    ids = model.tokenizer(list(texts))["input_ids"]
    prefix, past = preamble(ids) if share else 0, []
    if share:
        begin = torch.tensor([ids[0][:prefix]], device=base.device)
        done = base(input_ids=begin, use_cache=True).past_key_values
        past = [(layer.keys, layer.values) for layer in done.layers]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    states = torch.empty(len(base.layers) + 1, len(ids), base.config.hidden_size, dtype=base.dtype)
    n_tokens = prefix
    for start in range(0, len(ids), size):
        rows = order[start : start + size]
        rest = [torch.tensor(ids[i][prefix:]) for i in rows]
        padded = pad_sequence(rest, batch_first=True).to(base.device)
        options: dict[str, Any] = {"use_cache": share}
        if share:
            wide = [tuple(t.expand(len(rows), -1, -1, -1) for t in layer) for layer in past]
            options["past_key_values"] = DynamicCache(wide)
        with last_tokens(base, torch.tensor([len(t) - 1 for t in rest])) as kept:
            base(input_ids=padded, **options)
        states[:, rows] = torch.stack(kept).cpu()
        n_tokens += padded.numel()
    return Outcome(n_tokens, lambda i: states[i].float().numpy())


def preamble(ids: Sequence[list[int]]) -> int:
    """Tokens that all texts begin with; at least one of each text is left."""
    return min(common(min(ids), max(ids)), min(map(len, ids)) - 1)


@contextmanager
def last_tokens(base: Any, last: Tensor) -> Iterator[list[Tensor]]:
    """A list into which each layer puts its states of each row's last token, [rows, d]."""
    kept: list[Tensor] = []
    index = (torch.arange(len(last), device=base.device), last.to(base.device))

    def enters(_: Any, args: tuple[Any, ...]) -> None:
        kept.append(args[0][index])

    def leaves(_: Any, __: tuple[Any, ...], output: Any) -> None:
        kept.append((output if isinstance(output, Tensor) else output[0])[index])

    hooks = [base.layers[0].register_forward_pre_hook(enters)]
    hooks += [block.register_forward_hook(leaves) for block in base.layers]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def tokens_and_shape(engine: Extractor, texts: Sequence[str]) -> tuple[TokenisedTexts, ModelShape]:
    """What a plan is made of."""
    model, blocks = engine.model, len(engine.model.blocks)
    module: Any = model.module
    weights = active_weights(module)
    shape = ModelShape.of(module.config, weights, blocks, blocks + 1, model.dtype)
    return engine.tokens(dataset(texts), model.tokenizer, module), shape


@torch.inference_mode()
def run_plan(model: LoadedModel, plan: Plan, tokens: TokenisedTexts, cores: int) -> Tensor:
    """A plan's forward passes alone. -> [layers, rows, d]"""
    before = torch.get_num_threads()
    workers = min(cores, len(plan.strands)) if model.device.type == "cpu" else 1
    torch.set_num_threads(cores // workers)
    pool = ThreadPoolExecutor(workers, "", torch.set_num_threads, (cores // workers,))
    try:
        with Capture(model, "residual") as capture, pool:
            reading = Reading(False, tokens.special)
            way = make_way(plan, capture, reading, Budget(plan.budget))
            pool.submit(way.prepare).result()
            running = [pool.submit(way, plan.texts[s.start : s.stop]) for s in plan.strands]
            return torch.cat([strand.result().result() for strand in running], dim=1)
    finally:
        torch.set_num_threads(before)


# --------------------------------------------------------------------------------- measurements

Job = TypeVar("Job")
Result = TypeVar("Result")


def turns(
    jobs: Mapping[Job, Callable[[], Result]], rounds: int, what: str
) -> tuple[dict[Job, list[float]], dict[Job, Result]]:
    """Seconds of each job in each round, which begins with another job, and its last result."""
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
    """Median, least and most."""
    return f"{median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def peak_speed(device: torch.device, dtype: str) -> float:
    """Operations a second in a product of matrices that is large enough for the device."""
    numbers = getattr(torch, dtype)
    if device.type == "cpu":
        return max(matmul_speed(device, numbers) for _ in range(5))
    a = torch.ones(8192, 8192, dtype=numbers, device=device)
    return 2 * 8192**3 / best(lambda: float((a @ a)[0, 0]))


def best(run: Callable[[], object], times: int = 10) -> float:
    """Least seconds of several tries."""
    return min(timeit.repeat(run, number=1, repeat=times))


def peak_memory(options: argparse.Namespace, which: str, way: Way, limit: int | None) -> str:
    """Of a process that does nothing else, measured by ``run_alone``."""
    if options.no_memory:
        return "–"
    command = [sys.executable, __file__, *sys.argv[1:], "--rss", str(way), "--corpus", which]
    command += ["--limit", str(limit)] if limit else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return n_bytes(int(done.stdout.split()[-1])) if done.returncode == 0 else "failed"


def run_alone(model: Model, way: Way, texts: Sequence[str]) -> int:
    """The most bytes of this process, or of its GPU, while ``way`` runs; the model is in memory."""
    way(model, texts[:2])
    gc.collect()
    if model.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        way(model, texts)
        return torch.cuda.max_memory_allocated()
    forget, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if forget.exists():
        # Resets what the kernel holds for the most memory so far, that of loading the model.
        forget.write_text("5")
        way(model, texts)
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines()
                    if line.startswith("VmHWM"))  # fmt: skip
    way(model, texts)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def tuned(model: Model, kind: str, dtype: str, texts: Sequence[str]) -> Way:
    """The best batch size on some of the texts."""
    some = runs(texts, 4, max(model.sizes))
    ways = [Way(kind, dtype, size) for size in model.sizes]
    ways[0](model, some[:WARM_UP])
    took, _ = turns({way: partial(way, model, some) for way in ways}, 2, "tuning")
    return min(ways, key=lambda way: min(took[way]))


def ways_for(model: Model, which: str, texts: Sequence[str], dtypes: Sequence[str]) -> list[Way]:
    """The ways that are compared on a corpus; the last ones are llmprobe's."""
    ways = [Way(ONE_BY_ONE, model.dtypes[0])]
    ways += [tuned(model, BATCHES, dtype, texts) for dtype in dtypes]
    if preamble(model.tokenizer(list(texts))["input_ids"]) >= LEAST_PREAMBLE:
        ways.append(tuned(model, SHARED_CACHE, dtypes[-1], texts))
    if which == "unshared" or model.shape:
        ways += [Way(PREFIX_TREE, dtypes[-1]), Way(PADDED, dtypes[-1])]
    return ways + [Way(ENGINE, dtype) for dtype in dtypes]


def compare(model: Model, which: str, options: argparse.Namespace) -> str:
    """A table of all ways on one corpus."""
    called, texts = corpus(which, options.data, options.limit)
    if not texts:
        return f"### {called}\n"
    dtypes = [d for d in model.dtypes if d in options.dtype] or model.dtypes[-1:]
    ways = ways_for(model, which, texts, dtypes)
    given = {way: spaced(texts, SAMPLE.get(way.kind, len(texts))) for way in ways}
    for way in ways:
        way(model, spaced(texts, 8 if way.kind == ONE_BY_ONE else WARM_UP))
    where = torch.device(model.device)
    peak = {dtype: peak_speed(where, dtype) for dtype in {way.dtype for way in ways}}
    took, outcome = turns({way: partial(way, model, given[way]) for way in ways},
                          options.rounds, called)  # fmt: skip
    peak = {dtype: max(speed, peak_speed(where, dtype)) for dtype, speed in peak.items()}
    ms = {way: [1e3 * t / len(given[way]) for t in took[way]] for way in ways}
    tokens = tokens_and_shape(extractor(model, dtypes[-1]), texts)[0]
    unique, lengths = tokens.n_unique_tokens / tokens.n_tokens, list(map(len, tokens.ids))
    weights = active_weights(causal(model, dtypes[-1]).model)
    at_peak = {way: 2e3 * weights * outcome[way].tokens / len(given[way]) / peak[way.dtype]
               for way in ways}  # fmt: skip
    lines = [
        f"### {called}\n",
        f"{len(texts):,} texts of {min(lengths)} to {max(lengths)} tokens, {fmean(lengths):.1f} on "
        f"average, {preamble(tokens.ids)} in common; {unique:.1%} of the tokens are unique.\n",
        *table(which, options, ms, at_peak, fmean(lengths)),
        "",
        *(f"- {way.title} chose {outcome[way].note}." for way in ways if way.kind == ENGINE),
        LEGEND,
    ]
    if dtypes[0] == model.dtypes[0] == "float32":
        few = given[ways[0]]
        layers = len(causal(model, "float32").model.layers)
        far = difference(Way(ENGINE, "float32")(model, few), outcome[ways[0]], layers)
        lines.append(f"- Largest relative difference between the states of {len(few)} texts by "
                     f"llmprobe in float32 and one at a time: {far:.1e}.")  # fmt: skip
    return "\n".join(lines) + "\n"


def table(
    which: str,
    options: argparse.Namespace,
    ms: Mapping[Way, list[float]],
    at_peak: Mapping[Way, float],
    mean_length: float,
) -> Iterator[str]:
    """A row for each way; ``at_peak``: ms per text if all were products at the machine's peak."""
    engines = [way for way in ms if way.kind == ENGINE]
    heads = ["way", "ms per text", "tokens/s", "of matmul peak", "peak memory"]
    heads += [f"÷ {way.title}" for way in engines]
    yield f"| {' | '.join(heads)} |"
    yield f"|---|{'--:|' * (len(heads) - 1)}"
    for way, times in ms.items():
        row = [way.title, spread(times), f"{1e3 * mean_length / median(times):,.0f}",
               f"{at_peak[way] / median(times):.0%}",
               peak_memory(options, which, way, None)]  # fmt: skip
        for engine in engines:
            row.append(spread([a / b for a, b in zip(times, ms[engine], strict=True)]))
        yield f"| {' | '.join(row)} |"


def difference(states: Outcome, expected: Outcome, layers: int) -> float:
    """The largest, relative, over texts and layers but the last: by hand that is after the norm."""
    pairs = ((states.layer(i), expected.layer(i)) for i in range(layers))
    norm = partial(np.linalg.norm, axis=1)
    return max(float((norm(a - b) / norm(b)).max()) for a, b in pairs)


def scaling(model: Model, options: argparse.Namespace) -> str:
    """The engine's cost per text from 1,000 to 20,000 texts."""
    most = options.limit or 20_000
    sizes = [n for n in (1000, 5000, 20_000) if n <= most] or [most]
    way = Way(ENGINE, [d for d in model.dtypes if d in options.dtype][-1])
    texts = {n: made_up_cities(n) for n in sizes}
    way(model, texts[sizes[0]][:WARM_UP])
    took, _ = turns({n: partial(way, model, texts[n]) for n in sizes}, options.rounds, "scaling")
    lines = [f"### {way.title} on more and more made-up cities\n",
             "| texts | unique tokens | ms per text | ÷ fewest texts | peak memory |",
             "|--:|--:|--:|--:|--:|"]  # fmt: skip
    for n in sizes:
        ids = tokens_and_shape(extractor(model, way.dtype), texts[n])[0]
        ratio = [a / n / (b / sizes[0]) for a, b in zip(took[n], took[sizes[0]], strict=True)]
        row = [f"{n:,}", f"{ids.n_unique_tokens / ids.n_tokens:.1%}",
               spread([1e3 * t / n for t in took[n]]), spread(ratio),
               peak_memory(options, "generated", way, n)]  # fmt: skip
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------- what plan.py's CPU assumes


def sweep(model: Model, options: argparse.Namespace) -> str:
    """One core: time per token by size of a pass, and the parts of a forward pass."""
    torch.set_num_threads(1)
    n = min(options.limit or 400, 400)
    cities, others = corpus("cities", options.data, n)[1], prose(max(n // 8, 8))
    lines = ["### One core: ms per computed token, and what plan.py expects\n",
             "| way, texts | dtype | tokens of a pass | measured | expected |",
             "|---|---|--:|--:|--:|"]  # fmt: skip
    dtypes = [d for d in model.dtypes if d in options.dtype]
    for dtype in dtypes:
        engine = extractor(model, dtype)
        plans, jobs = {}, {}
        for title, texts in (("cities", cities), ("prose", others)):
            tokens, shape = tokens_and_shape(engine, texts)
            made = {("tree", size): plan_tree(tokens, shape, CPU, size) for size in CPU.slices}
            if texts is others:
                made |= {("padded", size): plan_padded(tokens, shape, CPU, size)
                         for size in (256, 512, 1024, 2048, 4096)}  # fmt: skip
            for (way, size), plan in made.items():
                plans[f"{way}, {title}", size] = plan
                jobs[f"{way}, {title}", size] = partial(run_plan, engine.model, plan, tokens, 1)
        took, _ = turns(jobs, options.rounds, f"one core, {dtype}")
        for (title, size), plan in plans.items():
            each = [1e3 * t / plan.cost.tokens for t in took[title, size]]
            expected = 1e3 * plan.cost.seconds / plan.cost.tokens
            lines.append(f"| {title} | {dtype} | {size} | {spread(each, 3)} | {expected:.3f} |")
    lines += ["", "### One core: the parts of a forward pass\n",
              "| what | dtype | measured | plan.py |", "|---|---|--:|--:|"]  # fmt: skip
    for dtype in dtypes:
        lines += constants(model, dtype)
    return "\n".join(lines) + "\n"


@torch.inference_mode()
def constants(model: Model, dtype: str) -> Iterator[str]:
    """What a pass of n tokens costs, as a + b n + c n²: each pass, each token, each pair."""
    engine = extractor(model, dtype).model
    shape = tokens_and_shape(extractor(model, dtype), ["a", "b"])[1]
    lengths, took = (8, 16, 32, 64, 96, 128, 192, 256, 384, 512), []
    for n in lengths:
        ids = torch.arange(n)[None] + 100
        hidden = torch.full((n, n), torch.finfo(engine.dtype).min).triu(1)[None, None]
        options = {"attention_mask": hidden.to(engine.dtype), "use_cache": False}
        took.append(best(partial(engine.module, input_ids=ids, **options)))
    powers = np.array(lengths, dtype=float)[:, None] ** [0, 1, 2]
    # Weighted so that the relative error is least: short passes count as much as long ones.
    weight = 1 / np.array(took)
    a, b, c = np.linalg.lstsq(powers * weight[:, None], np.ones(len(took)), rcond=None)[0]
    weights = torch.ones(2**26 // 4096, 4096)
    read = weights.nbytes / best(lambda: weights @ weights[0])
    block = (a - shape.weight_bytes / read) / shape.blocks
    module: Any = engine.module
    heads = int(module.config.num_attention_heads)
    q, k = (torch.ones(1, heads, n, engine.hidden_size // heads, dtype=engine.dtype)
            for n in (256, 512))  # fmt: skip
    mask = torch.zeros(1, 1, 256, 512, dtype=engine.dtype)
    attend = partial(torch.nn.functional.scaled_dot_product_attention, q, k, k, attn_mask=mask)
    pairs = 4 * engine.hidden_size * 256 * 512
    a_pass = shape.weight_bytes / CPU.memory + shape.blocks * CPU.block
    product = matmul_speed(engine.device, engine.dtype)
    assumed = CPU.products[engine.dtype.itemsize]
    for what, measured, plan, unit in (
        ("product of 1,024 rows", product / 1e12, assumed / 1e12, "TFLOP/s"),
        ("products in a pass, fitted", 2e-12 * shape.weights / b, assumed / 1e12, "TFLOP/s"),
        ("attention of 256 to 512", pairs / best(attend) / 1e12, CPU.attention / 1e12, "TFLOP/s"),
        ("attention in a pass, fitted", 1e-12 * shape.pair / c, CPU.attention / 1e12, "TFLOP/s"),
        ("reading of weights", read / 1e9, CPU.memory / 1e9, "GB/s"),
        ("a pass by itself, fitted", 1e3 * a, 1e3 * a_pass, "ms"),
        ("a block in each pass, fitted", 1e6 * block, 1e6 * CPU.block, "µs"),
    ):
        yield f"| {what} | {dtype} | {measured:.3g} {unit} | {plan:.3g} {unit} |"


# ------------------------------------------------------------------------------- the command line


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, default=os.environ.get("LLMPROBE_DATA"), help="folder of the corpora")
    add("--corpus", nargs="+", choices=[*CORPORA, "generated"], help="default: all three")
    add("--dtype", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    add("--rounds", type=int, default=3)
    add("--limit", type=int, help="texts per corpus")
    add("--out", type=Path, metavar="FILE.md")
    add("--scaling", action="store_true", help="cost per text from 1,000 to 20,000 texts")
    add("--sweep", action="store_true", help="sizes of a pass, and the constants of plan.py")
    add("--gpu", action="store_true", help="a random model shaped like Llama 7B, on CUDA")
    add("--tiny", action="store_true", help="with --gpu: a tiny model on the CPU instead")
    add("--tokenizer", type=Path, metavar="DIR", help="for --gpu without the packaged model")
    add("--wait-policy", choices=["active", "passive", "default"], help="of idle OpenMP threads")
    add("--no-memory", action="store_true", help="leave peak memory out, which needs processes")
    add("--rss", metavar="WAY", help="run one way and print its peak memory in bytes")
    return parser.parse_args()


def start_again(policy: str) -> None:
    """Run this script with another wait policy; torch reads it only when it loads."""
    environment = {**os.environ, "BENCH_WAIT_POLICY": policy, "OMP_WAIT_POLICY": policy.upper()}
    if policy == "default":
        del environment["OMP_WAIT_POLICY"]
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def machine() -> str:
    """Processor, cores, versions, and what else runs."""
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


def main() -> None:
    """Measure what the options say."""
    options = parse()
    if options.wait_policy not in (None, os.environ.get("BENCH_WAIT_POLICY")):
        start_again(options.wait_policy)
    if options.gpu and not options.tiny and not torch.cuda.is_available():
        raise SystemExit("--gpu needs CUDA, which is not here; --gpu --tiny runs it on the CPU")
    transformers.utils.logging.disable_progress_bar()
    model = SMOLLM2
    if options.gpu:
        model = replace(TINY if options.tiny else LLAMA_7B, tokenizer_folder=options.tokenizer)
    if options.rss:
        kind, dtype, size = options.rss.split(":")
        texts = corpus(options.corpus[0], options.data, options.limit)[1]
        n = len(texts) if options.corpus == ["generated"] else SAMPLE.get(kind, 256)
        way = Way(kind, dtype, int(size))
        print(run_alone(model, way, [*spaced(texts, n), max(texts, key=len)]))
        return
    command = shlex.join(["python", *sys.argv])
    report(f"{model.title} on {machine()}.\n\n```\n{command}\n```\n", options.out, new=True)
    for which in options.corpus or ([] if options.scaling or options.sweep else CORPORA):
        report(compare(model, which, options), options.out)
    if options.scaling:
        report(scaling(model, options), options.out)
    if options.sweep:
        report(sweep(model, options), options.out)


def report(text: str, out: Path | None, new: bool = False) -> None:
    """Print, and write: each part when it is there, since a whole benchmark takes an hour."""
    print(text, flush=True)
    if out:
        with out.open("w" if new else "a", encoding="utf-8") as opened:
            opened.write(f"{text}\n")


if __name__ == "__main__":
    main()
