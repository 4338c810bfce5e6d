"""An accelerator gives the CPU's numbers, mixes no devices, and rarely makes the host wait."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pretend_accelerator
import pytest
import torch
from pretend_accelerator import NAME, Waits, counted
from small_images import make_cheap, small_images
from tiny import WORDS
from toy import write_config, write_table

import llmprobe
from llmprobe.config.load import load_config
from llmprobe.config.schema import ExtractConfig, ModelConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction.capture import Capture
from llmprobe.extraction.executor import ShardExecutor
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.plan import MASKED, ONE_LENGTH, PADDED, PREFIX_TREE
from llmprobe.ground.progress import Progress
from llmprobe.probing.descent import Descent
from llmprobe.probing.losses import Logistic
from llmprobe.probing.pooling import Pooling
from llmprobe.probing.token_probes import Tokens, fit_token_probes
from llmprobe.runs.pipeline import Run
from llmprobe.sanity.config import MnistConfig
from llmprobe.sanity.image_networks import run_network
from llmprobe.sanity.images import load_images

DEVICES = ("cpu", NAME)
SITES = ("residual", "attention", "mlp", "post_attention_norm")
POSITIONS = ["last", "mean", "first", "span:word"]
WAYS = {PREFIX_TREE: ("llama", "gemma2"), PADDED: ("llama", "gemma2"), MASKED: ("llama", "bert"),
        ONE_LENGTH: ("llama", "bert")}  # fmt: skip
MOST = {"an iteration": 0.4, "a fit": 3, "a layer": 35}
"""Waits in probing: what an iteration, a fit of many problems and a layer may take."""

Accelerator = Callable[..., Any]


@pytest.fixture(scope="module")
def accelerator() -> Iterator[Accelerator]:
    """``accelerator(check, …)``: what a function of this module returns, in a process of its own
    that has the pretend accelerator.
    """
    context = get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=pretend_accelerator.install) as pool:
        yield lambda check, *arguments: pool.submit(check, *arguments).result()


def test_the_pretend_accelerator_refuses_and_counts_as_a_gpu_does(
    accelerator: Accelerator,
) -> None:
    refused, waits = accelerator(_rules)
    assert refused == ["add", "mm", "cat", "index"]
    assert waits == {
        "bool": 1, "item": 1, "equal": 1, "tolist": 1, "copy to the host": 1, "copy from it": 1,
        "made of a list": 1, "index by a mask": 1, "index of the host": 1, "nonzero": 1,
        "repeats": 1, "bincount": 1, "eigenvalues": 1, "singular values": 1, "a check": 1,
        "distinct rows": 1, "asynchronous copy": 0, "product": 0, "index by numbers": 0,
        "filled by a mask": 0, "set by a mask": 0, "where": 0,
    }  # fmt: skip


def _rules() -> tuple[list[str], dict[str, int]]:
    x, host, at = torch.randn(4, 3).to(NAME), torch.ones(4, 3), torch.tensor([0, 2])
    refused = []
    for name, mix in {
        "add": lambda: x + host, "mm": lambda: x @ host.T, "cat": lambda: torch.cat([x, host]),
        "index": lambda: host[at.to(NAME)], "scalar": lambda: x + torch.tensor(1.0),
    }.items():  # fmt: skip
        try:
            mix()
        except RuntimeError:
            refused.append(name)
    mask, numbers, positive = x[:, 0] > 0, at.to(NAME), x > 0
    each: dict[str, Callable[[], Any]] = {
        "bool": lambda: bool(mask.any()), "item": lambda: x[0, 0].item(),
        "equal": lambda: torch.equal(x, x), "tolist": x.tolist,
        "copy to the host": x.cpu, "copy from it": lambda: host.to(NAME),
        "made of a list": lambda: torch.tensor([1, 2], device=NAME),
        "index by a mask": lambda: x[mask], "index of the host": lambda: x[at],
        "nonzero": mask.nonzero, "repeats": lambda: x[:2].repeat_interleave(numbers, dim=0),
        "bincount": lambda: torch.bincount(numbers),
        "eigenvalues": lambda: torch.linalg.eigh(x.T @ x),
        "singular values": lambda: torch.linalg.svd(x),
        "a check": lambda: torch.linalg.inv(x.T @ x),
        "distinct rows": lambda: torch.unique(x, dim=0),
        "asynchronous copy": lambda: host.to(NAME, non_blocking=True), "product": lambda: x @ x.T,
        "index by numbers": lambda: x[numbers],
        "filled by a mask": lambda: x.clone().masked_fill_(positive, 0),
        "set by a mask": lambda: x.clone().__setitem__(positive, 0),
        "where": lambda: torch.where(positive, x, 0.0),
    }  # fmt: skip
    waits = {}
    for name, call in each.items():
        with counted() as counts:
            call()
        waits[name] = counts.total()
    return refused, waits


# -------------------------------------------------------------------------------------- extraction


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "mixtral", "bert"])
def test_every_site_and_position_has_the_states_of_the_cpu(
    architecture: str, accelerator: Accelerator, tiny_model: Callable[..., Path]
) -> None:
    sites = SITES if architecture == "llama" else SITES[:1]
    for site, difference, waits in accelerator(_sites, tiny_model(architecture, bos=True), sites):
        assert difference < 1e-5, site
        assert waits == 0, site


@pytest.mark.parametrize("way", WAYS)
def test_every_way_has_the_states_of_the_cpu_and_waits_once_a_pass(
    way: str, accelerator: Accelerator, tiny_model: Callable[..., Path]
) -> None:
    for architecture in WAYS[way]:
        folder = tiny_model(architecture, bos=True)
        difference, passes, waits = accelerator(_way, way, folder)
        assert difference < 1e-5
        # That of its states' copy, which CUDA makes while it goes on.
        assert waits <= passes


def _words() -> ConceptDataset:
    rng = np.random.default_rng(0)
    texts = [f"{rng.choice(WORDS)} the is {' '.join(rng.choice(WORDS, size=n))}"
             for n in rng.integers(1, 9, size=8)]  # fmt: skip
    spans = {"word": [(0, len(text.split()[0])) for text in texts]}
    return ConceptDataset("words", texts, np.arange(8) % 2, spans=spans)


def _engine(folder: Path, device: str, **extract: Any) -> Extractor:
    config = ModelConfig(id=str(folder), dtype="float32", device=device)
    return Extractor(config, ExtractConfig(**extract))


def _own(waits: Waits) -> int:
    """Return how many are in llmprobe's own lines, but for the copy of a pass's states."""
    return sum(n for (_, where), n in waits.counts.items()
               if not where.endswith("transformers") and "extraction/capture" not in where
               and "extraction/estimate" not in where)  # fmt: skip


def _sites(folder: Path, sites: Sequence[str]) -> list[tuple[str, float, int]]:
    """Return of each site the largest difference between devices, and the waits of llmprobe."""
    found = []
    positions = [*POSITIONS, "tokens"]
    engines = {device: _engine(folder, device) for device in DEVICES}
    for site in sites:
        states = {}
        for device, engine in engines.items():
            engine.config = ExtractConfig(site=site, position=positions)
            engine.model.site(site)  # Finding it waits as it likes.
            with counted() as waits:
                activations = engine.extract(_words(), cache=False, progress=False)
            assert activations.facts["device"].startswith(device)
            at = map(activations.at, positions)
            states[device] = [one.layer(layer) for one in at for layer in one.layers]
        found.append((site, _difference(*states.values()), _own(waits)))
    return found


def _difference(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))


def _way(way: str, folder: Path) -> tuple[float, int, int]:
    """Return the largest difference between devices, and the passes and waits on the accelerator.

    Slices are small, so that paths go from one to the next.
    """
    states = []
    for device in DEVICES:
        engine = _engine(folder, device, position=POSITIONS, batch_tokens=16)
        model = engine.model
        texts = engine.tokens(_words(), model.tokenizer, model.module)
        plan = engine.planner(texts, model).plan(way)
        passes = Counter[str]()
        handle = model.module.register_forward_pre_hook(partial(_add_one, passes))
        with Capture(model, "residual") as capture, Progress("", 1, shown=False) as bar:
            executor = ShardExecutor(plan, capture, "words")
            with counted() as waits:
                shards = dict(executor.shards(list(range(len(plan.shards))), bar))
        handle.remove()
        states.append([shards[i].numpy() for i in sorted(shards)])
    own = sum(n for (_, where), n in waits.counts.items() if not where.endswith("transformers"))
    return _difference(*states), passes.total(), own


def _add_one(passes: Counter[str], *_: Any) -> None:
    passes["passes"] += 1


# ----------------------------------------------------------------------------------------- probing

PROBES: dict[str, tuple[str, dict[str, Any]]] = {
    "two classes, controls, permutations": ("two", {"controls": ("majority", "random_labels")}),
    "many classes": ("many", {}),
    "numbers": ("numbers", {"kind": "ridge", "controls": ()}),
    "class means": ("two", {"kind": "mass_mean"}),
    "means of many classes": ("many", {"kind": "mass_mean"}),
    "one penalty": ("two", {"l2": 1.0, "permutations": 0, "description_length": False}),
    "learning curve, set aside": (
        "two",
        {"learning_curve": (0.5, 1.0), "calibrate": 0.3, "l2": 1.0, "permutations": 0},
    ),
}


@pytest.mark.parametrize("case", PROBES)
def test_probing_of_every_kind_has_the_tables_of_the_cpu(
    case: str, accelerator: Accelerator
) -> None:
    (ours, on_cpu), (theirs, steps), waits = accelerator(_probed, case)
    for name, table in ours.items():
        # The solver asks an accelerator less often whether it has arrived.
        pd.testing.assert_frame_equal(table, theirs[name], rtol=1e-3, atol=5e-3, obj=name)
    most = MOST["an iteration"] * sum(steps) + MOST["a fit"] * len(steps) + MOST["a layer"]
    assert waits.total() <= most, f"{sum(steps)} iterations of {len(steps)} fits\n{waits}"
    # It looks at every fourth iteration.
    assert all(there <= here + 12 for here, there in zip(on_cpu, steps, strict=True))


def _probed(case: str) -> tuple[Any, Any, Waits]:
    """Return of both devices the tables and each fit's iterations, and the accelerator's waits."""
    labels, options = PROBES[case]
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 12)).astype(np.float32)
    number = X[:, 0] + 0.7 * rng.normal(size=90)
    y = {"two": (number > 0).astype(int), "many": np.digitize(number, [-0.5, 0.5]),
         "numbers": number}[labels]  # fmt: skip
    tables = []
    for device in DEVICES:
        with pytest.MonkeyPatch.context() as patch, counted() as waits:
            steps = _steps(patch)
            results = llmprobe.probe_layers(
                {0: X}, y, progress=False, device=device,
                **({"folds": 3, "permutations": 10, "repeats": 1} | options),
            )  # fmt: skip
        tables.append((_tables(results), steps))
    return *tables, waits


def _tables(results: Any) -> dict[str, pd.DataFrame]:
    tables = {name: getattr(results, name) for name in ("table", "summary", "predictions")}
    return {name: table.drop(columns=[c for c in table if "seconds" in c or c == "predicted"])
            for name, table in tables.items()}  # fmt: skip


def _steps(patch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of iterations of each descent of the solver."""
    steps: list[int] = []
    own = Descent.run

    def run(descent: Any, *arguments: Any) -> Any:
        solution, iterations = own(descent, *arguments)
        steps.append(iterations)
        return solution, iterations

    patch.setattr(Descent, "run", run)
    return steps


@pytest.mark.parametrize("name", ["max", "softmax", "attention"])
def test_probes_over_tokens_are_those_of_the_cpu_and_wait_for_none_of_their_steps(
    name: str, accelerator: Accelerator
) -> None:
    difference, waits = accelerator(_over_tokens, name)
    assert difference < 1e-4
    assert waits <= 4


def _over_tokens(name: str) -> tuple[float, int]:
    """Return how far probes are from the CPU's, and how much more ten steps wait than one."""
    rng = np.random.default_rng(0)
    n_tokens = rng.integers(1, 6, size=30)
    X, y = rng.normal(size=(n_tokens.sum(), 4)).astype(np.float32), np.arange(30) % 2
    pooling, fitted, waited = Pooling.of(f"tokens:{name}"), [], {}
    assert pooling is not None
    for device in DEVICES:
        tokens = Tokens(X, n_tokens, device)
        targets, train = torch.tensor(y)[None].float(), torch.ones(2, 30, dtype=torch.bool)
        train[0, ::3] = False
        arrays = [values.to(device) for values in (targets, train, torch.tensor([1.0, 10.0]))]
        for steps in (1, 10):
            with counted() as waits:
                probes = fit_token_probes(tokens, pooling, Logistic(), *arrays, steps=steps)
                logits = probes.logits(tokens)
            waited[steps] = waits.total()
        fitted.append(logits.cpu().numpy())
    return _difference(*fitted), waited[10] - waited[1]


# -------------------------------------------------------------------------------------- whole runs


def test_a_whole_run_has_the_numbers_of_the_cpu(
    accelerator: Accelerator, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Several labels, transfer, what is said and what is used."""
    folder = tiny_model("llama", head=True)
    for name, (ours, theirs) in accelerator(_runs, folder, tmp_path).items():
        assert len(ours), name
        pd.testing.assert_frame_equal(ours, theirs, rtol=1e-3, atol=5e-3, obj=name)


def _runs(folder: Path, scratch: Path) -> dict[str, list[pd.DataFrame]]:
    table = write_table(scratch / "toy.csv")
    frame = pd.read_csv(table)
    half = np.arange(len(frame)) % 4 < 2
    frame.assign(half=half.astype(int), place=np.where(half, "Bern", "Paris")).to_csv(table)
    asked = {"path": str(table), "question": "the statement {text} is",
             "answers": {"1": ["true", "one"], "0": ["false"]}}  # fmt: skip
    several = {"path": str(table), "as": "several", "label": ["label", "half"]}
    found: dict[str, list[pd.DataFrame]] = {}
    for device in DEVICES:
        os.environ["LLMPROBE_CACHE"] = str(scratch / f"cache-{device}")
        config = write_config(
            scratch / f"{device}.yaml", {"id": str(folder), "dtype": "float32", "device": device},
            asked, several,
            probe={"folds": 2, "permutations": 3, "device": device, "repeats": 1, "l2": 10.0,
                   "controls": ["majority"]},
            said=True, intervene={"null": 19, "n": 20, "layers": [2]}, transfer={"by": "place"},
            report={"traces": 0},
        )  # fmt: skip
        results = Run(load_config(config), scratch / device).probe(extract=True)
        more = {name: getattr(results, name) for name in ("transfer", "interventions")}
        for name, part in (_tables(results) | more).items():
            found.setdefault(name, []).append(part)
    return found


def test_the_sanity_experiment_trains_and_probes_there(
    accelerator: Accelerator, tmp_path: Path
) -> None:
    ours, theirs = accelerator(_sanity, small_images(tmp_path / "images"), tmp_path)
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-3, atol=1e-4)


def _sanity(folder: Path, scratch: Path) -> list[pd.DataFrame]:
    tables = []
    with pytest.MonkeyPatch.context() as patch:
        make_cheap(patch)
        for device in DEVICES:
            images, config = load_images(folder), MnistConfig(quick=True, device=device)
            out = scratch / device
            out.mkdir()
            tables.append(run_network(images, config, out, progress=False).table)
    return tables
