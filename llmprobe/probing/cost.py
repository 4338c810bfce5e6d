"""The cost of probing, before anything is probed.

Every fold, penalty, permutation, control label and portion of an online code is a column of one
product of matrices, so a layer takes one core about

    LAYER + columns · COLUMN + (columns + SHARED) · rows · min(rows, d) · OPERATIONS / speed

with a column for each class where there are more than two. The constants are those of
``python scripts/bench_dry_run.py`` (docs/performance.md has its table); how separable the classes
are changes the time by a third either way.
"""

from __future__ import annotations

import torch

from llmprobe.config.probe_kinds import PROBE_KINDS
from llmprobe.config.schema import ProbeConfig
from llmprobe.probing.multi_layer import AUTO
from llmprobe.probing.splits import INNER_FOLDS
from llmprobe.probing.tasks import CODE_ORDERS, CONTROL_DRAWS
from llmprobe.probing.workers import MOST_WORKERS

NOMINAL_SPEED = 0.12e12
"""Operations a second of one core in products of float32, at which the seconds below hold."""
LAYER = 0.05
"""Seconds of a layer that do not depend on its size: scores, intervals, the probe that is kept."""
COLUMN = 0.48e-3
"""Seconds of a column that do not depend on its size, in the solver's steps."""
OPERATIONS = 110.0
"""Operations for each row and dimension of a column: about 27 steps of the solver down the path of
penalties, of two products each."""
SHARED = 400.0
"""Columns that cost as much as what all of a layer share: its scaling, components and scores."""
PORTIONS = 10
"""Portions of an online code that a probe encodes."""
CLOSED_FORM = 0.35
"""The share of that time that probes without a penalty take, such as the difference of means."""
BAG_OF_WORDS = 1e-3
"""Seconds that the bag of words of all folds takes for each text, on one core."""


def columns(config: ProbeConfig, n_classes: int) -> int:
    """Return how many problems a layer has.

    Parameters
    ----------
    n_classes
        0 or 2 for labels that are numbers or two classes.
    """
    folds, repeats = config.folds, config.n_repeats
    count = folds * (1 + config.permutations)
    count += repeats * folds * (1 + INNER_FOLDS * (config.l2 == "auto"))
    count += 2 * CONTROL_DRAWS * folds * ("random_labels" in config.controls)
    count += CODE_ORDERS * PORTIONS * config.description_length
    count += folds * len(config.learning_curve)
    return count * (n_classes if n_classes > 2 else 1)


def probing_seconds(
    config: ProbeConfig, rows: int, hidden_size: int, layers: int, n_classes: int, speed: float
) -> float:
    """Estimate how many seconds it takes to probe some layers with one set of labels.

    Parameters
    ----------
    rows, hidden_size
        The shape of the states of a layer.
    n_classes
        As for ``columns``.
    speed
        Operations a second of one core in a large product of float32.
    """
    problems = columns(config, n_classes)
    cells = rows * min(rows, hidden_size)
    seconds = problems * COLUMN + (problems + SHARED) * cells * OPERATIONS / NOMINAL_SPEED
    if not PROBE_KINDS[config.kind].has_penalty:
        seconds *= CLOSED_FORM
    workers = min(layers, torch.get_num_threads(), MOST_WORKERS)
    words = rows * BAG_OF_WORDS * ("bag_of_words" in config.controls)
    total = (layers / workers * (LAYER + seconds) + words) * NOMINAL_SPEED / speed
    if config.multi_layer is None:
        return total
    together = min(layers, AUTO) if config.multi_layer == "auto" else len(config.multi_layer)
    alone = config.alone(repeats=config.n_repeats)
    return total + probing_seconds(alone, rows, hidden_size * together, 1, n_classes, speed)
