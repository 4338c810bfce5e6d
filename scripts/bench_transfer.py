"""Compare the cost of a train × test matrix with that of probing each of its sets.

    python scripts/bench_transfer.py                                    # 10 sets, 30 layers
    python scripts/bench_transfer.py --sets 4 --layers 6 --rows 200     # in a minute

States are synthetic: a linear concept in a power-law spectrum. The sets are statements about the
same things in other wordings, so they share all units. The matrix is timed with its intervals,
p-values and scores at every layer. The sets are probed one after another in two ways: bare (nested
penalties, scores and intervals, as the matrix does at home) and with permutations and controls.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from bench_common import head, parsed, parser_of, report, spread, turns

from llmprobe.config.schema import ProbeConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.probing.protocol import probe_layers
from llmprobe.probing.transfer import transfer
from llmprobe.probing.transfer_plan import plan_transfer
from llmprobe.probing.transfer_sets import TransferSet, sets_of
from llmprobe.probing.workers import Arrays

BARE = ProbeConfig(controls=(), permutations=0, description_length=False, repeats=1)


def wordings(options: argparse.Namespace) -> list[TransferSet]:
    """Make sets of statements about the same things; the concept gets fainter from set to set.

    -> [sets], each with states of all layers [rows, width]
    """
    draw = np.random.default_rng(0)
    n, d = options.rows, options.width
    labels = np.tile(np.arange(n) % 2, options.sets)
    sizes = np.arange(1, d + 1, dtype=np.float32) ** -0.5
    fainter = np.linspace(1, 0.2, options.sets).repeat(n)
    layers = {}
    for layer in range(options.layers):
        X = draw.normal(size=(len(labels), d)).astype(np.float32) * sizes
        X[:, 1] += (2 * labels - 1) * fainter * sizes[1]
        layers[layer] = X @ np.linalg.qr(draw.normal(size=(d, d)))[0].astype(np.float32)
    dataset = ConceptDataset(
        "statements", [f"wording {i // n} of thing {i % n}" for i in range(len(labels))], labels,
        groups=np.tile(np.arange(n), options.sets),
        fields=pd.DataFrame({"wording": np.arange(options.sets).repeat(n)}),
    )  # fmt: skip
    return sets_of(dataset, Arrays(layers), "wording")


def probe_each(sets: list[TransferSet], config: ProbeConfig) -> None:
    """Probe every set alone."""
    for one in sets:
        layers = {layer: one.states.layer(layer)[one.rows] for layer in one.states.layers}
        probe_layers(layers, one.labels, config=config, progress=False)


def main() -> None:
    parser = parser_of(__doc__)
    for name, default in (("sets", 10), ("layers", 30), ("rows", 500), ("width", 576)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--permutations", type=int, default=20, help="of the full protocol")
    options = parsed(parser)
    sets = wordings(options)
    full = ProbeConfig(permutations=options.permutations, controls=("majority", "random_labels"))
    jobs = {
        "the matrix": lambda: transfer(plan_transfer(sets, BARE), progress=False),
        "probing, bare": lambda: probe_each(sets, BARE),
        f"probing, {options.permutations} permutations and controls": lambda: probe_each(
            sets, full
        ),
    }
    took, _ = turns(jobs, options.rounds, "transfer")
    head("A matrix beside probing its sets", options.out)
    lines = [
        f"{options.sets} sets of {options.rows:,} rows, {options.layers} layers of width "
        f"{options.width:,}; median [least, most] of {options.rounds} rounds.\n",
        "| way | seconds | the matrix takes so many times that |", "|---|--:|--:|",
    ]  # fmt: skip
    for name, seconds in took.items():
        ratios = [ours / theirs for ours, theirs in zip(took["the matrix"], seconds, strict=True)]
        lines.append(f"| {name} | {spread(seconds)} | {spread(ratios)} |")
    report("\n".join(lines), options.out)


if __name__ == "__main__":
    main()
