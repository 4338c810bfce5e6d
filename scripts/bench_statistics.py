"""Simulations of what the numbers promise: the truth is known, the numbers are made as in a run.

    python scripts/bench_statistics.py                            # all of them
    python scripts/bench_statistics.py compression --draws 10     # one of them, quickly

A simulation is a function of the number of draws that returns a Markdown table.
"""

from __future__ import annotations

import argparse
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
