"""Simulations of what the numbers promise: the truth is known, the numbers are made as in a run.

    python scripts/bench_statistics.py                            # all of them
    python scripts/bench_statistics.py compression --draws 10     # one of them, quickly

A simulation is a function of the number of draws that returns a Markdown table.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits

from llmprobe.config.schema import ProbeConfig
from llmprobe.probing.layer import probe_layer
from llmprobe.probing.online_code import code_lengths_without_states
from llmprobe.probing.tasks import build_tasks
from llmprobe.results.depth import above_half, half_depths

Result = TypeVar("Result")


class Simulation(NamedTuple):
    """A simulation, and how many draws the table in the documentation has."""

    table: Callable[[int], str]
    draws: int


SIMULATIONS: dict[str, Simulation] = {}


def simulation(draws: int) -> Callable[[Callable[[int], str]], Callable[[int], str]]:
    """Register a function of the number of draws under its name."""

    def register(table: Callable[[int], str]) -> Callable[[int], str]:
        SIMULATIONS[table.__name__] = Simulation(table, draws)
        return table

    return register


def each(draw: Callable[..., Result], settings: Iterable[Sequence[object]]) -> list[Result]:
    """Call a function with each of the settings, in one thread on every core."""

    def alone(setting: Sequence[object]) -> Result:
        torch.set_num_threads(1)
        with threadpool_limits(1):
            return draw(*setting)

    results: list[Result] = Parallel(n_jobs=-1)(delayed(alone)(setting) for setting in settings)
    return results


def markdown(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table whose first column is aligned to the left, the others to the right."""
    lines = [headers, ["---", *["--:"] * (len(headers) - 1)], *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


# ------------------------------------------------------------------------------------- compression


def random_labels_compression(
    share: float, seed: int, n: int = 2_000, d: int = 64
) -> tuple[float, float]:
    """Compute the compression of n labels that d features say nothing about.

    -> against an intercept alone, and against a uniform code
    """
    draw = np.random.default_rng([seed, round(1_000 * share)])
    X = draw.normal(size=(n, d)).astype(np.float32)
    labels = draw.permutation(np.arange(n) < round(share * n)).astype(int)
    config = ProbeConfig(permutations=0, controls=())
    tasks = build_tasks(labels, None, config, "random labels")
    length = probe_layer(X, tasks).code_lengths.mean()
    return code_lengths_without_states(tasks).mean() / length, n * np.log(2) / length


@simulation(draws=100)
def compression(draws: int) -> str:
    """Compression of random labels: 1 against an intercept alone, however rare a class is."""
    rows = []
    for share in (0.5, 0.25, 0.1, 0.03):
        ratios = np.array(each(random_labels_compression, [(share, i) for i in range(draws)]))
        mean, uniform = ratios.mean(axis=0)
        low, high = np.quantile(ratios[:, 0], [0.025, 0.975])
        cells = (f"{mean:.3f}", f"{low:.2f} – {high:.2f}", f"{uniform:.2f}")
        rows.append((f"{100 * share:.0f} %", *cells))
    return markdown(
        ["positives", "compression, mean", "95 % of draws", "against a uniform code"], rows
    )


# ------------------------------------------------------------------------------------------ depths


def simulated_depths(n: int, n_layers: int, seed: int) -> list[tuple[float, ...]]:
    """Return truth, low end, estimate and high end of where a curve stays above half: from, to.

    n answers are right independently, with a chance that rises from .5 to .9 and falls again.
    """
    depths = np.linspace(0, 1, n_layers)
    truth = 0.5 + 0.2 * (np.tanh((depths - 0.3) / 0.12) - np.tanh((depths - 0.7) / 0.12))
    draw = np.random.default_rng([seed, n, n_layers])
    right = draw.random((n, n_layers)) < truth
    resampled = draw.multinomial(n, np.full(n, 1 / n), size=300) @ right / n
    curve = right.mean(axis=0)
    found = half_depths(curve, resampled, depths, 0.5, int(curve.argmax()))
    true_ends = above_half(truth, depths, 0.5, int(truth.argmax()))
    names = ("stays_above_half_depth", "falls_below_half_depth")
    return [
        (float(end), *(found[f"{name}{which}"] for which in ("_low", "", "_high")))
        for name, end in zip(names, true_ends, strict=True)
    ]


@simulation(draws=1_000)
def depths(draws: int) -> str:
    """Depths between which a curve is above half of its rise, and how often the interval covers."""
    rows = []
    for n, n_layers in itertools.product((200, 500), (12, 24, 48)):
        ends = np.array(each(simulated_depths, [(n, n_layers, i) for i in range(draws)]))
        truth, low, estimate, high = np.moveaxis(ends, 2, 0)  # [draws, from and to]
        covered = ((low <= truth) & (truth <= high)).mean(axis=0)
        error = np.abs(estimate - truth).mean(axis=0)
        cells = (f"{100 * share:.0f} %, {by:.3f}" for share, by in zip(covered, error, strict=True))
        rows.append((f"{n} examples, {n_layers} layers", *cells))
    return markdown(["", "from: covered, mean error", "to: covered, mean error"], rows)


# --------------------------------------------------------------------------------- the command line


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SIMULATIONS))
    parser.add_argument("--draws", type=int, help="fewer for a quick look")
    parser.add_argument("--out", type=Path, metavar="FILE.md")
    options = parser.parse_args()
    if unknown := set(options.names) - set(SIMULATIONS):
        parser.error(f"no simulation {', '.join(unknown)}; there are {', '.join(SIMULATIONS)}")
    parts = [f"```\n{shlex.join(['python', *sys.argv])}\n```\n"]
    for name in options.names or SIMULATIONS:
        table, draws = SIMULATIONS[name]
        draws = options.draws or draws
        parts.append(f"{table.__doc__} {draws:,} draws.\n\n{table(draws)}\n")
        print(parts[-1], flush=True)
        if options.out:
            options.out.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
