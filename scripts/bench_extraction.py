"""Compare llmprobe's extraction with the ways to do it by hand.

    python scripts/bench_extraction.py --data FOLDER --out table.md     # the three corpora
    python scripts/bench_extraction.py --scaling                        # 1,000 to 50,000 texts
    python scripts/bench_extraction.py --layers                         # one layer, two, all
    python scripts/bench_extraction.py --gpu                            # a model shaped like 7B

The data folder (or ``$LLMPROBE_DATA``) holds ``jin2024/cities.csv`` and
``jin2024/StrategyQA_task.json``. Every way takes texts and returns the states of each text's last
token at every layer; all ways take turns in one process. Each ratio compares two times of the same
round. Nothing else should be running.

The batches by hand are sorted by length and padded on the right, without a mask. For a causal model
that is faster than with a mask and as correct: a text's last token does not see padding after it.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from bench_common import (
    CORPORA,
    PACKAGED,
    WORDS,
    corpus,
    dataset,
    head,
    made_up_cities,
    packaged,
    parsed,
    parser_of,
    peak_bytes,
    peak_speed,
    planner_of,
    report,
    run_plan,
    runs,
    spaced,
    spread,
    turns,
)
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, LlamaConfig

from llmprobe.config.schema import ModelConfig
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.plan import PADDED, PREFIX_TREE
from llmprobe.extraction.tree import common
from llmprobe.ground.files import size as n_bytes
from llmprobe.models.layers import find_blocks, hidden_state, hooked, verify_blocks
from llmprobe.models.loading import LoadedModel, example_input
from llmprobe.models.source import locate

ONE_BY_ONE, BATCHES, SHARED_CACHE, ENGINE = "one at a time", "batches", "shared cache", "llmprobe"
SAMPLE = {ONE_BY_ONE: 48}
"""How many texts a slow way is measured on, evenly spaced by length."""
WARM_UP = 64
LONG = 8000
"""Tokens of a long text."""
LEAST_PREAMBLE = 4
"""The fewest common first tokens for which a shared cache is tried."""

LEGEND = """- Medians of all rounds [least, most]; "÷ llmprobe" is a way's time over llmprobe's in \
the same round. Operations are 2 × weights × computed tokens, padding included, attention and \
vocabulary not; the peak is what this machine reaches in one large product of matrices in that \
precision. Memory is the most that a process of its own takes, the model included, while it runs \
256 of the texts (one at a time: 48) and the longest."""


@dataclass(frozen=True)
class Model:
    """The measured model: the packaged one, or a Llama of a given shape with random weights."""

    title: str
    dtypes: tuple[str, ...]
    sizes: tuple[int, ...]
    """Batch sizes to choose from, in texts."""
    shape: tuple[int, int, int, int] | None = None
    """Width, width inside the MLP, blocks, heads."""
    device: str = "cpu"
    tokenizer_folder: Path | None = None

    @cached_property
    def tokenizer(self) -> Any:
        """The given tokenizer, or the packaged model's, which has to be downloaded."""
        folder = self.tokenizer_folder or locate(ModelConfig(id=PACKAGED)).folder
        return AutoTokenizer.from_pretrained(folder)


SMOLLM2 = Model(PACKAGED, ("float32", "bfloat16"), (16, 32, 64))
LLAMA_7B = Model("Llama shaped like 7B, random weights", ("bfloat16",), (16, 32, 64, 128, 256),
                 (4096, 11008, 32, 32), "cuda")  # fmt: skip
TINY = Model("tiny Llama, random weights", ("bfloat16",), (4, 8), (64, 172, 3, 4))


@cache
def causal(model: Model, dtype: str) -> Any:
    """Load the language model with its head by hand, or make a random one on its device."""
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
    """Return llmprobe's extractor, with the model in memory."""
    made = packaged(dtype)
    if model.shape is not None:
        module, device = causal(model, dtype).model, torch.device(model.device)
        example = example_input(module, device)
        blocks = find_blocks(module, example)
        made._loaded.model = LoadedModel(
            name=model.title, module=module, blocks=blocks, tokenizer=model.tokenizer,
            device=device, dtype=module.dtype, causal=True,
            final_norm=verify_blocks(module, blocks, example),
        )  # fmt: skip
    _ = made.model
    return made


@dataclass(frozen=True)
class Outcome:
    """States of some texts."""

    tokens: int
    """The computed tokens, padding included."""
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
        """The name in a table."""
        alone = ", passes alone" if self.kind in (PREFIX_TREE, PADDED) else ""
        return f"{self.kind}{f' of {self.size}' if self.size else ''}, {self.dtype}{alone}"

    @torch.inference_mode()
    def __call__(self, model: Model, texts: Sequence[str]) -> Outcome:
        """Get the states of some texts."""
        if self.kind == ONE_BY_ONE:
            return one_by_one(model, self.dtype, texts)
        if self.kind in (BATCHES, SHARED_CACHE):
            return batches(model, self.dtype, texts, self.size, self.kind == SHARED_CACHE)
        engine = extractor(model, self.dtype)
        if self.kind == ENGINE:
            found = engine.extract(dataset(texts), cache=False, progress=False)
            return Outcome(found.facts["computed_tokens"], found.layer, found.facts["way"])
        planner = planner_of(engine, texts)
        plan = planner.plan(self.kind)
        states = run_plan(engine.model, plan)
        rows = [row for (row,) in plan.row_of]
        return Outcome(plan.cost.tokens, lambda i: states[i, rows].float().numpy())


def one_by_one(model: Model, dtype: str, texts: Sequence[str]) -> Outcome:
    """Run each text alone; the model returns all states of all tokens, and the last are kept."""
    lm, kept, n_tokens = causal(model, dtype), [], 0
    for text in texts:
        inputs = model.tokenizer(text, return_tensors="pt").to(lm.device)
        states = lm(**inputs, output_hidden_states=True).hidden_states
        kept.append(torch.stack([layer[0, -1] for layer in states]).cpu())
        n_tokens += inputs["input_ids"].shape[1]
    together = torch.stack(kept, dim=1)
    return Outcome(n_tokens, lambda i: together[i].float().numpy())


def batches(model: Model, dtype: str, texts: Sequence[str], size: int, share: bool) -> Outcome:
    """Run batches of similar length; with ``share``, a cache holds the beginning of all texts."""
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
    """Return how many first tokens all texts share, short of the whole of a text."""
    return min(common(min(ids), max(ids)), min(map(len, ids)) - 1)


@contextmanager
def last_tokens(base: Any, last: Tensor) -> Iterator[list[Tensor]]:
    """Yield a list to which each layer appends the states of each row's last token, [rows, d]."""
    kept: list[Tensor] = []
    index = (torch.arange(len(last), device=base.device), last.to(base.device))

    def enters(_: Any, args: tuple[Any, ...]) -> None:
        kept.append(args[0][index])

    def leaves(_: Any, __: tuple[Any, ...], output: Any) -> None:
        kept.append(hidden_state(output)[index])

    hooks = [base.layers[0].register_forward_pre_hook(enters)]
    hooks += [block.register_forward_hook(leaves) for block in base.layers]
    with hooked(hooks):
        yield kept


def peak_memory(options: argparse.Namespace, way: Way, texts: Sequence[str], n: int) -> str:
    """Return the peak memory of a separate process: this script with --rss."""
    if options.no_memory:
        return "–"
    command = [sys.executable, __file__, *sys.argv[1:], "--rss", str(way)]
    given = json.dumps([*spaced(texts, n), max(texts, key=len)])
    done = subprocess.run(command, input=given, stdout=subprocess.PIPE, text=True, check=False)
    return n_bytes(int(done.stdout.split()[-1])) if done.returncode == 0 else "failed"


def tuned(model: Model, kind: str, dtype: str, texts: Sequence[str]) -> Way:
    """Return the way with the batch size that is fastest on some of the texts."""
    some = runs(texts, 4, max(model.sizes))
    ways = [Way(kind, dtype, size) for size in model.sizes]
    ways[0](model, some[:WARM_UP])
    took, _ = turns({way: partial(way, model, some) for way in ways}, 2, "tuning")
    return min(ways, key=lambda way: min(took[way]))


def ways_for(model: Model, which: str, texts: Sequence[str], dtypes: Sequence[str]) -> list[Way]:
    """Return the ways to compare on a corpus; the last ones are llmprobe's."""
    ways = [Way(ONE_BY_ONE, model.dtypes[0])]
    ways += [tuned(model, BATCHES, dtype, texts) for dtype in dtypes]
    if preamble(model.tokenizer(list(texts))["input_ids"]) >= LEAST_PREAMBLE:
        ways.append(tuned(model, SHARED_CACHE, dtypes[-1], texts))
    if which == "unshared" or model.shape:
        ways += [Way(PREFIX_TREE, dtypes[-1]), Way(PADDED, dtypes[-1])]
    return ways + [Way(ENGINE, dtype) for dtype in dtypes]


def compare(model: Model, which: str, options: argparse.Namespace) -> str:
    """Return a report with a table of all ways on one corpus."""
    called, texts = corpus(which, options.data, options.limit)
    if not texts:
        return f"### {called}\n"
    dtypes = [d for d in model.dtypes if d in options.dtype] or model.dtypes[-1:]
    ways = ways_for(model, which, texts, dtypes)
    given = {way: spaced(texts, SAMPLE.get(way.kind, len(texts))) for way in ways}
    for way in ways:
        way(model, spaced(texts, 8 if way.kind == ONE_BY_ONE else WARM_UP))
    peak = {dtype: peak_speed(model.device, dtype) for dtype in {way.dtype for way in ways}}
    took, outcome = turns({way: partial(way, model, given[way]) for way in ways},
                          options.rounds, called)  # fmt: skip
    peak = {dtype: max(speed, peak_speed(model.device, dtype)) for dtype, speed in peak.items()}
    ms = {way: [1e3 * t / len(given[way]) for t in took[way]] for way in ways}
    planner = planner_of(extractor(model, dtypes[-1]), texts)
    tokens, weights = planner.texts, planner.shape.weights
    unique, lengths = tokens.n_unique_tokens / tokens.n_tokens, list(map(len, tokens.ids))
    at_peak = {way: 2e3 * weights * outcome[way].tokens / len(given[way]) / peak[way.dtype]
               for way in ways}  # fmt: skip
    lines = [
        f"### {called}\n",
        f"{len(texts):,} texts of {min(lengths)} to {max(lengths)} tokens, {fmean(lengths):.1f} on "
        f"average, {preamble(tokens.ids)} in common; {unique:.1%} of the tokens are unique.\n",
        *table(texts, options, ms, at_peak, fmean(lengths)),
        "",
        *(f"- {way.title} chose {outcome[way].note}." for way in ways if way.kind == ENGINE),
        LEGEND,
    ]
    if dtypes[0] == model.dtypes[0] == "float32":
        few, blocks = given[ways[0]], len(extractor(model, "float32").model.blocks)
        far = difference(Way(ENGINE, "float32")(model, few), outcome[ways[0]], blocks)
        lines.append(f"- Largest relative difference between the states of {len(few)} texts by "
                     f"llmprobe in float32 and one at a time: {far:.1e}.")  # fmt: skip
    return "\n".join(lines) + "\n"


def table(
    texts: Sequence[str],
    options: argparse.Namespace,
    ms: Mapping[Way, list[float]],
    at_peak: Mapping[Way, float],
    mean_length: float,
) -> Iterator[str]:
    """Yield a table with a row for each way.

    Parameters
    ----------
    at_peak
        The ms per text if all time went into matrix products at the machine's peak speed.
    """
    engines = [way for way in ms if way.kind == ENGINE]
    heads = ["way", "ms per text", "tokens/s", "of matmul peak", "peak memory"]
    heads += [f"÷ {way.title}" for way in engines]
    yield f"| {' | '.join(heads)} |"
    yield f"|---|{'--:|' * (len(heads) - 1)}"
    for way, times in ms.items():
        row = [way.title, spread(times), f"{1e3 * mean_length / median(times):,.0f}",
               f"{at_peak[way] / median(times):.0%}",
               peak_memory(options, way, texts, SAMPLE.get(way.kind, 256))]  # fmt: skip
        row += [spread([a / b for a, b in zip(times, ms[engine], strict=True)])
                for engine in engines]  # fmt: skip
        yield f"| {' | '.join(row)} |"


def difference(states: Outcome, expected: Outcome, layers: int) -> float:
    """Return the largest relative difference over texts and ``layers`` layers.

    The last layer is left out: by hand it is after the final norm.
    """
    pairs = ((states.layer(i), expected.layer(i)) for i in range(layers))
    norm = partial(np.linalg.norm, axis=1)
    return max(float((norm(a - b) / norm(b)).max()) for a, b in pairs)


def scaling(model: Model, options: argparse.Namespace) -> str:
    """Return llmprobe's cost per text for 1,000 to 50,000 texts, and the cost of long texts."""
    most = options.limit or 50_000
    sizes = [n for n in (1000, 5000, 20_000, 50_000) if n <= most] or [most]
    way = Way(ENGINE, [d for d in model.dtypes if d in options.dtype][-1])
    texts = {n: made_up_cities(n) for n in sizes}
    way(model, texts[sizes[0]][:WARM_UP])
    took, _ = turns({n: partial(way, model, texts[n]) for n in sizes}, options.rounds, "scaling")
    lines = [f"### {way.title} on more and more made-up cities\n",
             "| texts | unique tokens | ms per text | ÷ fewest texts | peak memory |",
             "|--:|--:|--:|--:|--:|"]  # fmt: skip
    for n in sizes:
        ids = planner_of(extractor(model, way.dtype), texts[n]).texts
        ratio = [a / n / (b / sizes[0]) for a, b in zip(took[n], took[sizes[0]], strict=True)]
        row = [f"{n:,}", f"{ids.n_unique_tokens / ids.n_tokens:.1%}",
               spread([1e3 * t / n for t in took[n]]), spread(ratio),
               peak_memory(options, way, texts[n], n)]  # fmt: skip
        lines.append(f"| {' | '.join(row)} |")
    # Each word is about one token, and SmolLM2's window has 8,192.
    long = [" ".join(random.Random(i).choices(WORDS, k=LONG)) for i in range(2)]
    took, _ = turns({LONG: partial(way, model, long)}, options.rounds, "long")
    lines += ["", f"Two texts of {LONG:,} tokens: {spread(took[LONG])} s, and at most "
                  f"{peak_memory(options, way, long, 2)}."]  # fmt: skip
    return "\n".join(lines) + "\n"


def few_layers(model: Model, options: argparse.Namespace) -> str:
    """Return llmprobe's cost of a few layers compared with that of all."""
    _, texts = corpus("cities", options.data, options.limit)
    dtype = [d for d in model.dtypes if d in options.dtype][-1]
    blocks = len(extractor(model, dtype).model.blocks)
    some = [(8, 12), (blocks // 2,), (1,), (0,)]
    wanted = [tuple(range(blocks + 1)), *(layers for layers in some if layers[-1] <= blocks)]
    engines = {layers: copy(extractor(model, dtype)) for layers in wanted}
    for layers, engine in engines.items():
        engine.config = engine.config.model_copy(update={"layers": layers})

    def extract(engine: Extractor) -> None:
        engine.extract(dataset(texts), cache=False, progress=False)

    extract(engines[wanted[0]])
    jobs = {layers: partial(extract, engine) for layers, engine in engines.items()}
    took, _ = turns(jobs, options.rounds, "layers")
    lines = [
        f"### Some layers of {len(texts):,} texts, {dtype}\n",
        "| layers | of all blocks | ms per text | ÷ all layers |",
        "|---|--:|--:|--:|",
    ]
    for layers, times in took.items():
        ratio = [a / b for a, b in zip(times, took[wanted[0]], strict=True)]
        called = "all" if layers == wanted[0] else ", ".join(map(str, layers))
        row = [called, f"{layers[-1] / blocks:.0%}",
               spread([1e3 * t / len(texts) for t in times]), spread(ratio)]  # fmt: skip
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what the options ask for."""
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--corpus", nargs="+", choices=CORPORA, help="default: all three")
    add("--scaling", action="store_true", help="cost per text for 1,000 to 50,000, and long ones")
    add("--layers", action="store_true", help="cost of one or two layers, compared with all")
    add("--gpu", action="store_true", help="a random model shaped like Llama 7B, on CUDA")
    add("--tiny", action="store_true", help="with --gpu: a tiny model on the CPU instead")
    add("--tokenizer", type=Path, metavar="DIR", help="for --gpu without the packaged model")
    add("--no-memory", action="store_true", help="leave out peak memory, which starts processes")
    add("--rss", metavar="WAY", help="print the peak bytes of one way on texts from stdin (JSON)")
    options = parsed(parser)
    if options.gpu and not options.tiny and not torch.cuda.is_available():
        raise SystemExit("--gpu needs CUDA, which is not here; --gpu --tiny runs it on the CPU")
    model = SMOLLM2
    if options.gpu:
        model = replace(TINY if options.tiny else LLAMA_7B, tokenizer_folder=options.tokenizer)
    if options.rss:
        kind, dtype, size = options.rss.split(":")
        way, texts = Way(kind, dtype, int(size)), json.load(sys.stdin)
        way(model, texts[:2])
        print(peak_bytes(partial(way, model, texts), model.device == "cuda"))
        return
    head(model.title, options.out)
    if options.layers:
        report(few_layers(model, options), options.out)
    for which in options.corpus or ([] if options.scaling or options.layers else CORPORA):
        report(compare(model, which, options), options.out)
    if options.scaling:
        report(scaling(model, options), options.out)


if __name__ == "__main__":
    main()
