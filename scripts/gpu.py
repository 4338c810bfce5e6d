"""Check and measure llmprobe on one GPU in five minutes, without a network; bash scripts/gpu.sh.

The models have random weights. Are the states those of the CPU? Which share of the measured peak of
matrix products does extraction reach, and how much memory does it take? How much faster than
scikit-learn are many probes? The results are written line by line; a part that would begin too late
is left out, with a line that says so. The exit code is 1 if numbers differ from the CPU's.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LATEST = 240
"""Seconds after which no further part begins."""
SHARE, TIMES = 0.6, 200
"""The targets: the share of the peak, and the speed-up over scikit-learn."""
LLAMA_7B, TINY = (4096, 11008, 32, 32), (64, 172, 3, 4)
"""Width, width inside the MLP, blocks, and heads of the models."""


def unpack(wheels: Path) -> None:
    """Make packages that this Python lacks importable, from wheels that were brought along."""
    target = Path(tempfile.mkdtemp(prefix="llmprobe-wheels-"))
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            tops = {name.split("/")[0].removesuffix(".py") for name in archive.namelist()
                    if name.endswith(".py") and ".dist-info/" not in name}  # fmt: skip
            known = any(importlib.util.find_spec(top) for top in tops if top.isidentifier())
            if not known:
                archive.extractall(target)
    sys.path.append(str(target))


class Report:
    """A Markdown table that is printed and written as it grows."""

    def __init__(self, out: Path | None, title: str) -> None:
        self.out, self.failed = out, False
        self._write(f"{title}\n\n| what | measured | wanted | |\n|---|--:|--:|---|", new=True)

    def row(self, what: str, measured: str, wanted: str = "", right: bool | None = None) -> None:
        """Add a line; ``right`` says whether the target was reached."""
        mark = {True: "yes", False: "**no**", None: ""}[right]
        self._write(f"| {what} | {measured} | {wanted} | {mark} |")

    def check(self, what: str, measured: float, most: float) -> None:
        """Add a line with a difference; one above ``most`` makes the whole check fail."""
        self.failed |= not measured <= most
        self.row(what, f"{measured:.1e}", f"≤ {most:.0e}", measured <= most)

    def _write(self, text: str, new: bool = False) -> None:
        print(text, flush=True)
        if self.out is not None:
            with self.out.open("w" if new else "a", encoding="utf-8") as opened:
                opened.write(f"{text}\n")


def commit(wheels: Path) -> str:
    """Return the commit of this code: from git, or from the file beside the wheels."""
    noted = wheels / "commit"
    asked = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    )
    if asked.returncode:
        return noted.read_text().strip() if noted.is_file() else "unknown"
    return asked.stdout.strip()


def title(device: str, options: argparse.Namespace) -> str:
    """Return a heading with the machine, the versions, the date and the commit."""
    import torch
    import transformers

    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    command = "bash scripts/gpu.sh" + " --tiny" * options.tiny
    return (
        f"    {command}\n\n{name}, CUDA {torch.version.cuda}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, Python {sys.version.split()[0]}, "
        f"{os.cpu_count()} cores; {date.today()}, commit {commit(options.carried)}."
    )


def tokenizer() -> Any:
    """Return the word-level tokenizer of the tests."""
    from tiny import save_tokenizer  # type: ignore[import-not-found]
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(Path(folder))
        return PreTrainedTokenizerFast.from_pretrained(folder)


def texts(n: int, least: int, most: int, beginning: int = 0) -> list[str]:
    """Return n texts of ``least`` to ``most`` - 1 words, after ``beginning`` shared words."""
    import numpy as np
    from tiny import WORDS

    rng = np.random.default_rng(0)
    shared = list(rng.choice(WORDS, size=beginning))
    return [" ".join([*shared, *rng.choice(WORDS, size=size)])
            for size in rng.integers(least, most, size=n)]  # fmt: skip


def states(module: Any, some: list[str]) -> tuple[Any, str]:
    """Return the states of each text's last token, [layers, n, d], and how they were computed."""
    import numpy as np
    from bench_common import dataset

    from llmprobe.extraction.extract import Extractor
    from llmprobe.models.in_memory import ModelInMemory

    engine = Extractor(ModelInMemory(module, tokenizer()))
    found = engine.extract(dataset(some), cache=False, progress=False)
    return np.stack([found.layer(layer) for layer in found.layers]), found.facts["way"]


def difference(ours: Any, theirs: Any) -> float:
    """Return the relative difference of states: the upper quartile over layers, worst text."""
    import numpy as np

    relative = np.linalg.norm(ours - theirs, axis=2) / np.linalg.norm(theirs, axis=2).clip(1e-30)
    return float(np.quantile(relative, 0.75, axis=0).max())


def small_models(report: Report, device: str, tiny: bool) -> None:
    """Compare the states of a tiny model of each architecture with the CPU's, in float32."""
    import torch
    from tiny import ARCHITECTURES, tiny_config
    from transformers import AutoModel

    worst, ways = {}, set()
    for architecture in ARCHITECTURES[:3] if tiny else ARCHITECTURES:
        torch.manual_seed(0)
        module = AutoModel.from_config(tiny_config(architecture)).eval()
        on_cpu, way = states(module, texts(40, 1, 9, 3))
        on_device, _ = states(module.to(device), texts(40, 1, 9, 3))
        worst[architecture] = difference(on_device, on_cpu)
        ways.add(way)
    name = max(worst, key=lambda architecture: worst[architecture])
    what = f"states of {len(worst)} tiny architectures, float32, by {', '.join(sorted(ways))}"
    report.check(f"{what}; the worst: {name}", worst[name], 1e-3)


def large_model(shape: tuple[int, int, int, int], device: str) -> Any:
    """Return a Llama with random bfloat16 weights, made on the device."""
    import torch
    from transformers import AutoModel, LlamaConfig

    width, inner, blocks, heads = shape
    config = LlamaConfig(
        vocab_size=len(tokenizer()), hidden_size=width, intermediate_size=inner,
        num_hidden_layers=blocks, num_attention_heads=heads, max_position_embeddings=2048,
        bos_token_id=1, eos_token_id=2, pad_token_id=3,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModel.from_config(config, dtype=torch.bfloat16).eval()


def extraction(report: Report, device: str, tiny: bool) -> None:
    """Measure extraction from a large model, then compare its states with those of the CPU."""
    import torch
    from bench_common import best, peak_bytes, peak_speed, planner_of, run_plan

    from llmprobe.extraction.extract import Extractor
    from llmprobe.models.in_memory import ModelInMemory

    peak = peak_speed(device, "bfloat16")
    report.row("peak of a product of matrices, bfloat16", f"{peak / 1e12:.3g} Tflop/s")
    module = large_model(TINY if tiny else LLAMA_7B, device)
    n_weights = sum(p.numel() for p in module.parameters())
    engine = Extractor(ModelInMemory(module, tokenizer()))
    n, longest = (40, 30) if tiny else (1496, 400)
    corpora = {
        "statements of 6 to 12 words after an instruction of 12": texts(n, 6, 13, 12),
        f"texts of 20 to {longest} words that share next to nothing": texts(n // 6, 20, longest),
    }
    name = f"Llama, {n_weights / 1e9:.2g}B random weights"
    for what, some in corpora.items():
        planner = planner_of(engine, some)
        plan = next(planner.plans())
        run = partial(run_plan, engine.model, plan)
        seconds = best(run, times=2)
        share = plan.cost.operations / seconds / peak
        report.row(f"{name}, {len(some):,} {what}, {plan.way}: share of that peak", f"{share:.0%}",
                   f"≥ {SHARE:.0%}", share >= SHARE)  # fmt: skip
        total = planner.texts.n_tokens
        report.row("its tokens a second; computed, of all",
                   f"{total / seconds:,.0f}; {plan.cost.tokens:,} of {total:,}")  # fmt: skip
        n_bytes = peak_bytes(run, device == "cuda")
        report.row("its peak memory, the model included", f"{n_bytes / 1e9:.1f} GB")
    few = texts(8, 4, 20, 4)
    on_device, way = states(module, few)
    import psutil

    room = psutil.virtual_memory().available
    dtype = torch.float32 if room > 6 * n_weights else torch.bfloat16
    if room < 3 * n_weights:
        report.row(f"{name}: states beside the CPU's", "left out: no memory for them")
        return
    on_cpu, _ = states(module.to("cpu", dtype), few)
    what = f"{name}: states in bfloat16 by {way} beside the CPU's in {str(dtype)[6:]}"
    report.check(what, difference(on_device, on_cpu), 0.06)


def probes(report: Report, device: str, tiny: bool) -> None:
    """Compare many probes fitted at once with scikit-learn's, fitted one on each core."""
    import numpy as np
    import torch
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    from llmprobe.probing.fit_many import fit_many

    cores = os.cpu_count() or 1
    l2 = 100.0
    for n, d, K in [(200, 32, 8)] if tiny else [(1500, 4096, 500), (20_000, 4096, 100)]:
        rng = np.random.default_rng(0)
        X = rng.normal(size=(n, d)).astype(np.float32)
        X -= X.mean(axis=0)
        X /= X.std(axis=0)
        noisy = X @ rng.normal(size=(d, K)) / d**0.5 + rng.normal(size=(n, K))
        labels = (noisy > 0).astype(np.float32)

        def ours(X: Any = X, labels: Any = labels) -> Any:
            given = torch.from_numpy(X).to(device)
            return fit_many(given, torch.from_numpy(labels).to(device), l2=l2)

        ours()
        began = time.perf_counter()
        fits = ours()
        seconds = time.perf_counter() - began
        few = min(cores, K, 16)

        def theirs(k: int, X: Any = X, labels: Any = labels) -> Any:
            return LogisticRegression(C=1 / l2, max_iter=1000, tol=1e-4).fit(X, labels[:, k])

        began = time.perf_counter()
        with threadpool_limits(1), ThreadPoolExecutor(few) as pool:
            fitted = list(pool.map(theirs, range(few)))
        others = (time.perf_counter() - began) * K / few
        losses = [_objective(X, labels[:, k], one.coef_[0], one.intercept_[0], l2)
                  for k, one in enumerate(fitted)]  # fmt: skip
        times = others / seconds
        what = f"{K} probes of {n:,} × {d:,}, all converged: {bool(fits.converged.all())}"
        report.row(what, f"{seconds:.3g} s")
        report.row(f"scikit-learn's time for them on {few} cores ({few} fitted, times {K / few:g}) "
                   "÷ that", f"{times:.0f}", f"≥ {TIMES}", times >= TIMES)  # fmt: skip
        above = max(float(a / b - 1) for a, b in zip(fits.loss, losses, strict=False))
        report.check("how far its objective is above scikit-learn's", max(above, 0.0), 1e-4)


def _objective(X: Any, y: Any, coef: Any, intercept: float, l2: float) -> float:
    import numpy as np

    logits = X.astype(float) @ coef + intercept
    return float(np.logaddexp(0, (1 - 2 * y) * logits).sum() + l2 / 2 * (coef**2).sum())


def main() -> int:
    """Run all parts, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a tiny model, on a CPU too")
    parser.add_argument("--out", type=Path, metavar="FILE.md")
    parser.add_argument(
        "--carried", type=Path, default=ROOT / "gpu-wheels", metavar="DIR", help="the wheels"
    )
    options = parser.parse_args()
    began = time.monotonic()
    unpack(options.carried)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "scripts")]
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.tiny:
        print("there is no CUDA here; --tiny tries the code on the CPU", file=sys.stderr)
        return 2
    report = Report(options.out, title(device, options))
    for part in (small_models, extraction, probes):
        if time.monotonic() - began > LATEST:
            report.row(part.__name__.replace("_", " "), f"left out after {LATEST} s")
            continue
        part(report, device, options.tiny)
    report.row("seconds of all this", f"{time.monotonic() - began:.0f}")
    return int(report.failed)


if __name__ == "__main__":
    sys.exit(main())
