"""Which concepts of a dataset can be probed: checks before a model is loaded."""

from __future__ import annotations

import logging
from collections import Counter

from llmprobe.config.schema import RunConfig
from llmprobe.datasets.checks import log_findings
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.ground.errors import UserError
from llmprobe.probing.pooling import config_of_pooling
from llmprobe.probing.tasks import build_tasks

log = logging.getLogger(__name__)


def probeable_concepts(
    dataset: ConceptDataset, n: int | None, config: RunConfig
) -> list[ConceptDataset]:
    """Return a dataset for each concept that can be probed, and log why others cannot.

    Parameters
    ----------
    n
        The number of examples that the config asks for.

    Raises
    ------
    UserError
        No concept can be probed.
    """
    if dataset.concepts:
        log_findings(dataset)
    probeable, problems = [], []
    for concept in dataset.by_concept():
        try:
            _check(concept, n, config)
            probeable.append(concept)
        except UserError as error:
            problems.append(error)
    if not probeable:
        raise problems[0]
    for problem in problems:
        log.warning("left out: %s", problem)
    return probeable


def _check(dataset: ConceptDataset, n: int | None, config: RunConfig) -> None:
    """Raise ``UserError`` for what would stop the run later; ``n`` is as in the config."""
    try:
        if not dataset.stem:  # For concepts, the findings on all of them together were logged.
            log_findings(dataset, refuse=True)
        several = any(config_of_pooling(config.probe, position).multi_layer
                      for position in config.positions)  # fmt: skip
        probe = config.probe.alone(
            repeats=config.probe.n_repeats, calibrate=config.probe.calibrate,
            multi_layer=config.probe.multi_layer if several else None,
        )  # fmt: skip
        build_tasks(dataset.labels, dataset.units, probe, dataset.name, dataset.test)
    except UserError as error:
        if n is None or dataset.groups is None:
            raise
        largest = Counter(dataset.groups.tolist()).most_common(1)[0][1]
        raise UserError(
            f"{error}; with n (or --limit) {n}, whole groups of up to {largest} are drawn, so it "
            f"takes {2 * config.probe.folds * largest} or more"
        ) from None
    for position in config.extract.positions:
        dataset.ranges(position, config.extract.occurrence)
