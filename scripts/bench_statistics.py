"""Simulate data with a known truth, and check what llmprobe's numbers promise about it.

    python scripts/bench_statistics.py                            # all of them
    python scripts/bench_statistics.py compression --draws 10     # one of them, quickly

A simulation is a function from the number of draws to a Markdown table; its docstring is the title.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, permutation_test_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from llmprobe.api.states import probe_layers
from llmprobe.config.schema import InterveneConfig, ProbeConfig
from llmprobe.extraction.tokens import Text
from llmprobe.ground.errors import UserError
from llmprobe.monitors.intervene import intervene, tasks_config
from llmprobe.probing.labels import relabellings
from llmprobe.probing.layer import probe_layer
from llmprobe.probing.online_code import code_lengths_without_states
from llmprobe.probing.tables import p_values
from llmprobe.probing.tasks import build_tasks
from llmprobe.probing.workers import Arrays
from llmprobe.results.depth import above_half, half_depths
from llmprobe.results.many_curves import more_permutations, with_adjusted_p_values

Result = TypeVar("Result")


class Simulation(NamedTuple):
    """A simulation, and how many draws it makes by default."""

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
    """Call a function with each of the settings, on all cores with one thread each."""

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
    """Compute the compression of n labels that are independent of d features.

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
    """Return the two depths between which a curve stays above half.

    -> for each of the two: truth, low end of the interval, estimate, high end

    The n answers are right independently, with a chance that rises from .5 to .9 and falls again.
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


# ------------------------------------------------------------------------- p-values of no signal


@dataclass(frozen=True)
class Labelled:
    """Rows in groups, with labels that are independent of the states."""

    groups: np.ndarray
    """The group of each row. [n]"""
    labels: np.ndarray
    """Classes or numbers. [n]"""

    def states(self, draw: np.random.Generator, layers: int = 2, d: int = 8) -> list[np.ndarray]:
        """Draw states [n, d], of whose variance 70 % is shared within a group."""
        n, n_groups = len(self.groups), int(self.groups.max()) + 1
        return [
            (
                np.sqrt(0.7) * draw.normal(size=(n_groups, d))[self.groups]
                + np.sqrt(0.3) * draw.normal(size=(n, d))
            ).astype(np.float32)
            for _ in range(layers)
        ]


def in_groups(
    sizes: Callable[[np.random.Generator], np.ndarray],
    label: Callable[[np.random.Generator, np.ndarray], np.ndarray],
) -> Callable[[np.random.Generator], Labelled]:
    """Return a function that draws groups of some sizes, with labels of their rows by ``label``."""

    def labelled(draw: np.random.Generator) -> Labelled:
        groups = np.repeat(np.arange(len(size := sizes(draw))), size)
        return Labelled(groups, label(draw, groups))

    return labelled


def constant(classes: int = 2) -> Callable[[np.random.Generator, np.ndarray], np.ndarray]:
    """Return a function that gives each group one label, with equally frequent classes."""
    return lambda draw, groups: draw.permutation(np.arange(groups.max() + 1) % classes)[groups]


def half_constant(draw: np.random.Generator, groups: np.ndarray) -> np.ndarray:
    """Return labels that are constant in every other group, and free in the rest."""
    return np.where(groups % 2, constant()(draw, groups), draw.integers(2, size=len(groups)))


def by_size(draw: np.random.Generator, groups: np.ndarray) -> np.ndarray:
    """Return labels of groups; the chance of a 1 grows with the group, from 10 % to 90 %."""
    sizes = np.bincount(groups)
    rank = sizes.argsort().argsort() / (len(sizes) - 1)
    labels: np.ndarray = (draw.random(len(sizes)) < 0.1 + 0.8 * rank).astype(int)[groups]
    return labels


def free(share: float) -> Callable[[np.random.Generator, np.ndarray], np.ndarray]:
    """Return a function that labels a share of the rows 1, regardless of groups."""
    return lambda draw, groups: draw.permutation(np.arange(len(groups)) < share * len(groups)) * 1


def numbers(draw: np.random.Generator, groups: np.ndarray) -> np.ndarray:
    """Return a number for each group."""
    labels: np.ndarray = draw.normal(size=int(groups.max()) + 1)[groups]
    return labels


def geometric(groups: int) -> Callable[[np.random.Generator], np.ndarray]:
    """Return a function that draws geometric sizes of groups, with mean 7."""
    return lambda draw: draw.geometric(1 / 7, size=groups)


def fixed(*sizes: int) -> Callable[[np.random.Generator], np.ndarray]:
    """Return a function that gives fixed sizes of groups."""
    return lambda _: np.array(sizes)


WITHOUT_SIGNAL = {
    "100 single rows, balanced": in_groups(fixed(*[1] * 100), free(0.5)),
    "100 single rows, 80/20": in_groups(fixed(*[1] * 100), free(0.2)),
    "30 equal groups, constant labels": in_groups(fixed(*[7] * 30), constant()),
    "30 equal groups, free labels": in_groups(fixed(*[7] * 30), free(0.5)),
    "20 groups of 2 and 20 of 12, constant": in_groups(fixed(*[2] * 20, *[12] * 20), constant()),
    "12 geometric groups, constant": in_groups(geometric(12), constant()),
    "40 geometric groups, constant": in_groups(geometric(40), constant()),
    "40 geometric groups, half constant": in_groups(geometric(40), half_constant),
    "40 geometric groups, free labels": in_groups(geometric(40), free(0.5)),
    "40 geometric groups, labels go with size": in_groups(geometric(40), by_size),
    "40 geometric groups, three classes": in_groups(geometric(40), constant(3)),
    "40 geometric groups, numbers (ridge)": in_groups(geometric(40), numbers),
}


def best_p_value(
    states: Sequence[np.ndarray], labelled: Labelled, permutations: int, seed: int
) -> tuple[float, int]:
    """Compute the p-value of the best layer, and which layer that is."""
    kind = "ridge" if labelled.labels.dtype.kind == "f" else "logistic"
    config = ProbeConfig(
        kind=kind, permutations=permutations, repeats=1, controls=(), description_length=False,
        seed=seed,
    )  # fmt: skip
    tasks = build_tasks(labelled.labels, labelled.groups, config, "simulated")
    # The nested choice of penalties is only for scores, which are not used here.
    skills = np.stack([probe_layer(X, replace(tasks, inner=())).skill for X in states])
    return float(p_values(skills.max(axis=0)[None])[0]), int(skills[:, 0].argmax())


def p_value_of_no_signal(name: str, seed: int) -> tuple[float, float]:
    """Compute the best layer's p-value in one draw, and the number of relabellings."""
    draw = np.random.default_rng([seed, len(name)])
    while True:
        labelled = WITHOUT_SIGNAL[name](draw)
        with suppress(UserError):  # Too few groups of a class for the folds.
            p, _ = best_p_value(labelled.states(draw), labelled, 39, seed)
            return p, relabellings(labelled.labels, labelled.groups)


@simulation(draws=1000)
def permutations(draws: int) -> str:
    """Sets without signal that are above chance at 5 %: the best of two layers, 39 permutations."""
    rows = []
    for name in WITHOUT_SIGNAL:
        drawn = np.array(each(p_value_of_no_signal, [(name, i) for i in range(draws)]))
        tested = np.isfinite(drawn[:, 0])
        share = (drawn[tested, 0] <= 0.05).mean()
        error = np.sqrt(share * (1 - share) / tested.sum())
        few = (drawn[tested, 1] < 1000).mean()
        rows.append((name, f"{100 * share:.1f} ± {100 * error:.1f} %", f"{100 * few:.0f} %",
                     f"{100 * (1 - tested.mean()):.0f} %"))  # fmt: skip
    return markdown(
        ["setting", "above chance", "with fewer than 1,000 relabellings", "without p"], rows
    )


# ---------------------------------------------------------------------------------------- power


def planted(share: float, effect: float, seed: int) -> tuple[bool, bool, bool]:
    """Plant a class at the third of five layers of 200 rows, and look for it.

    -> whether this layer alone is above chance; whether it is by scikit-learn's permutation test
    on the AUROC; and whether it is the best of the five
    """
    draw = np.random.default_rng([seed, round(1000 * share), round(100 * effect)])
    y = draw.permutation(np.arange(200) < round(200 * share)).astype(int)
    states = [draw.normal(size=(200, 16)).astype(np.float32) for _ in range(5)]
    states[2][:, 0] += effect * y
    labelled = Labelled(np.arange(200), y)
    p, _ = best_p_value(states[2:3], labelled, 39, seed)
    _, best = best_p_value(states, labelled, 0, seed)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    estimator = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
    _, _, p_auroc = permutation_test_score(
        estimator, states[2], y, scoring="roc_auc", cv=folds, n_permutations=39, random_state=seed
    )
    return p <= 0.05, p_auroc <= 0.05, best == 2


@simulation(draws=300)
def power(draws: int) -> str:
    """Power at 5 % with one informative direction of 16, and how often its layer is the best."""
    rows = []
    for share, effects in ((0.5, (0.5, 0.8)), (0.25, (0.6, 0.9)), (0.1, (0.8, 1.3)),
                           (0.04, (1.2, 2.0))):  # fmt: skip
        for effect in effects:
            drawn = np.array(each(planted, [(share, effect, i) for i in range(draws)]))
            ours, theirs, named = drawn.mean(axis=0)
            error = np.sqrt(((drawn[:, 0] * 1.0 - drawn[:, 1]) ** 2).mean() / draws)
            rows.append((f"{100 * share:.0f} %", effect, f"{ours:.3f}", f"{theirs:.3f}",
                         f"{error:.3f}", f"{named:.3f}"))  # fmt: skip
    return markdown(
        ["positives", "effect, σ", "held-out log loss", "scikit-learn, AUROC",
         "standard error of the difference", "planted layer is the best of five"], rows
    )  # fmt: skip


# ------------------------------------------------------------------------------------- coverage


def scored(groups: int, equal: bool, by_group: bool, effect: float, seed: int) -> np.ndarray:
    """Return accuracy and AUROC with their intervals, for a layer with six rows a group. [2, 3]"""
    draw = np.random.default_rng(seed)
    d = 32 if effect else 8
    while True:
        sizes = np.full(groups, 6) if equal else draw.geometric(1 / 6, size=groups)
        group_of = np.repeat(np.arange(groups), sizes)
        y = draw.permutation(np.arange(groups) % 2)[group_of]
        if not by_group:
            y = draw.integers(2, size=len(group_of))
        X = draw.normal(size=(groups, d))[group_of] + draw.normal(size=(len(group_of), d))
        X[:, 0] += np.sqrt(2) * effect * (2 * y - 1)
        with suppress(UserError):
            table = probe_layers(
                {0: X.astype(np.float32)}, y, group_of, permutations=0, repeats=3, controls=[],
                description_length=False, seed=seed, progress=False,
            ).table.iloc[0]  # fmt: skip
            return np.array(
                [[table[f"{name}{end}"] for end in ("", "_low", "_high")]
                 for name in ("accuracy", "auroc")], dtype=float
            )  # fmt: skip


@simulation(draws=1000)
def coverage(draws: int) -> str:
    """Share of intervals that cover the mean score over such datasets."""
    rows = []
    for groups, equal, by_group, effect in product(
        (10, 20, 60), (True, False), (True, False), (0.0, 1.0)
    ):
        settings = [(groups, equal, by_group, effect, i) for i in range(draws)]
        drawn = np.stack(each(scored, settings))
        expected = np.nanmean(drawn[:, :, :1], axis=0)
        inside = (drawn[:, :, 1] <= expected.T) & (drawn[:, :, 2] >= expected.T)
        width = np.nanmean(drawn[:, :, 2] - drawn[:, :, 1], axis=0)
        rows.append((f"{groups} {'equal' if equal else 'geometric'} groups, labels by "
                     f"{'group' if by_group else 'row'}, {'signal' if effect else 'no signal'}",
                     *(f"{expected[i, 0]:.2f} | {100 * inside[:, i].mean():.1f} % | {width[i]:.2f}"
                       for i in range(2))))  # fmt: skip
    return markdown(["setting", "accuracy", "covered", "width", "AUROC", "covered", "width"], rows)


# ---------------------------------------------------------------------------------- many curves


def run_of_curves(curves: int, real: int, seed: int) -> tuple[int, int, int]:
    """Simulate the p-values of a run with ``real`` curves among others without signal.

    -> how many without signal are above chance, how many real ones are, and all permutations

    For a curve without signal, the share of shuffles that do as well is uniform between 0 and 1;
    for a real one it is 1 in 10,000.
    """
    draw = np.random.default_rng([seed, curves, real])
    chances = np.where(np.arange(curves) < real, 1e-4, draw.random(curves))
    shuffles = np.full(curves, 100)
    as_good = draw.binomial(shuffles, chances)
    while True:
        summary = with_adjusted_p_values(
            pd.DataFrame({"peak_p_value": (as_good + 1) / (shuffles + 1), "permutations": shuffles})
        )
        more = more_permutations(summary)
        if not more.any():
            above = (summary["peak_p_value_adjusted"] <= 0.05).to_numpy()
            return int(above[real:].sum()), int(above[:real].sum()), int(shuffles.sum())
        further = np.maximum(more - shuffles, 0)
        as_good, shuffles = as_good + draw.binomial(further, chances), shuffles + further


@simulation(draws=2000)
def many_curves(draws: int) -> str:
    """Curves that are called above chance, with p-values adjusted over all curves of a run."""
    rows = []
    for curves, real in ((5, 0), (5, 1), (28, 0), (28, 1), (28, 14), (40, 0), (40, 2)):
        drawn = np.array([run_of_curves(curves, real, i) for i in range(draws)])
        false, found, shuffles = drawn.T
        called = np.maximum(false + found, 1)
        rows.append((curves, real, f"{100 * (false > 0).mean():.1f} %",
                     f"{100 * (false / called).mean():.1f} %",
                     f"{100 * found.mean() / real:.1f} %" if real else "–",
                     f"{shuffles.mean() / curves:.0f}"))  # fmt: skip
    return markdown(
        ["curves", "real", "runs with a false one", "false of those above chance",
         "real ones found", "permutations a curve"], rows
    )  # fmt: skip


# ------------------------------------------------------------------------------------ intervention


class Planted(NamedTuple):
    """A case: states of some classes, and a linear model with a direction for each answer."""

    separation: float
    """Distance of the classes, in standard deviations; 0 where nothing is readable."""
    uses: float | None = None
    """The cosine between the direction of the classes and that of the answer. None draws the latter
    at random, so that the direction of the classes is like any other."""
    falling: bool = False
    """Whether the variance falls from axis to axis, for the states and for all directions."""
    classes: int = 2


class Linear:
    """A stand-in for a model whose blocks leave the states as they are."""

    device = torch.device("cpu")

    def keep(self, _: Sequence[Text]) -> None:
        """Keep nothing."""

    def run(self, _: None, __: int, states: torch.Tensor) -> torch.Tensor:
        """Return the states."""
        return states


def p_of_use(planted: Planted, seed: int, n: int = 60, d: int = 12) -> float:
    """Return ``used_p_value`` of one draw: n states of width d, in two similar layers."""
    draw = np.random.default_rng([seed, round(10 * planted.separation), planted.falling])
    scales = np.arange(1, d + 1.0) ** (-0.5 if planted.falling else 0)
    axes = np.linalg.qr(draw.normal(size=(d, d)))[0] * scales[:, None]
    C = planted.classes
    of_classes, answers = draw.normal(size=(2, C - 1, d)) @ axes
    of_classes, answers = (rows / np.linalg.norm(rows, axis=1)[:, None]
                           for rows in (of_classes, answers))  # fmt: skip
    if planted.uses is not None:
        span = np.linalg.qr(of_classes.T)[0]
        beside = answers - answers @ span @ span.T
        beside *= np.sqrt(1 - planted.uses**2) / np.linalg.norm(beside, axis=1)[:, None]
        answers = planted.uses * of_classes + beside
    # Corners of a simplex; with two classes they are -1/2 and 1/2.
    corners = np.linalg.qr(np.eye(C) - 1 / C)[0][:, : C - 1] / np.sqrt(2)
    labels = draw.permutation(np.arange(n) % C)
    spread = np.linalg.norm(axes @ of_classes.T, axis=0)
    X = draw.normal(size=(n, d)) @ axes
    X += planted.separation * corners[labels] @ (spread[:, None] * of_classes)
    layers = {0: X, 1: X + 0.3 * draw.normal(size=(n, d)) @ axes}
    states = Arrays({i: layer.astype(np.float32) for i, layer in layers.items()})
    asked, to_answers = InterveneConfig(null=19, n=n), torch.from_numpy(answers.T @ corners.T)
    tasks = build_tasks(labels, None, tasks_config(ProbeConfig(folds=3, l2=10.0), asked), "planted")
    changed = intervene(
        Linear(), lambda ends: ends.double() @ to_answers, [Text((0,), ((0,),))] * n, states, tasks,
        None, asked, peak=0, seed=seed,
    )  # fmt: skip
    return float(changed.summary["used_p_value"].iloc[0])


@simulation(draws=500)
def intervention(draws: int) -> str:
    """P-values for use of a direction that is like any other, without influence, or used."""
    rows = []
    for classes, falling in ((2, False), (2, True), (3, False), (3, True)):
        for name, separation, uses in (
            ("nothing is readable", 0.0, None),
            ("readable, answered by any direction", 2.0, None),
            ("the same, further apart", 6.0, None),
            ("readable, without influence", 4.0, 0.0),
            ("readable and used a little", 2.0, 0.4),
            ("readable and used", 2.0, 0.7),
        ):
            case = Planted(separation, uses, falling, classes)
            p = np.array(each(p_of_use, [(case, i) for i in range(draws)]))
            # P-values are multiples of 1/20; there the uniform distribution is the diagonal.
            steps = np.arange(1, 21) / 20
            distance = np.abs((p[:, None] <= steps + 1e-9).mean(axis=0) - steps).max()
            shares = (f"{100 * (p <= level + 1e-9).mean():.1f} %" for level in (0.05, 0.2, 0.5))
            variances = "falling" if falling else "alike"
            rows.append((name, classes, variances, *shares, f"{distance:.3f}"))
    return markdown(
        ["planted", "classes", "variances", "p ≤ .05", "p ≤ .2", "p ≤ .5", "distance from uniform"],
        rows,
    )


# --------------------------------------------------------------------------------- the command line


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SIMULATIONS))
    parser.add_argument("--draws", type=int, help="how many, e.g. fewer for a quick look")
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
