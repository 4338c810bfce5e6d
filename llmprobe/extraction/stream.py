"""States of texts that are used once and not kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from llmprobe.extraction.capture import Capture
from llmprobe.extraction.executor import ShardExecutor
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.plan import ExtractionPlan
from llmprobe.extraction.runner import Planner, verified_plan
from llmprobe.extraction.tokens import TokenisedTexts
from llmprobe.ground.progress import Progress


def stream_states(
    extractor: Extractor,
    texts: TokenisedTexts,
    name: str,
    layers: Sequence[int] | None = None,
    *,
    progress: bool = True,
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield the states of all texts in parts: indices of texts, and their states [layers, rows, d].

    A text has a row for each place that is read, in their order. The states are those that an
    extraction would keep; memory does not grow with the number of texts. An extractor checks a way
    of running texts once, on the first texts that it is given.

    Parameters
    ----------
    name
        What errors call the texts.
    layers
        The layers that are read, by default every one; no block after the last of them is run.

    Raises
    ------
    UserError
        A state is not finite, or one text alone does not fit into memory.
    """
    model = extractor.model
    with extractor.capture(layers) as capture:
        plan = _verified_once(extractor, extractor.planner(texts, model), capture)
        executor = ShardExecutor(plan, capture, name)
        first = np.array([rows[0] for rows in plan.row_of])
        label, n_rows = f"reading {name} with {model.name}", int(plan.first_row[-1])
        with Progress(label, n_rows, shown=progress) as bar:
            for index, states in executor.shards(list(range(len(plan.shards))), bar):
                rows = plan.rows(index)
                # Equal texts are run once.
                indices = np.flatnonzero((first >= rows.start) & (first < rows.stop))
                of_these = [row - rows.start for i in indices for row in plan.row_of[i]]
                yield indices, states[:, of_these]


def _verified_once(extractor: Extractor, planner: Planner, capture: Capture) -> ExtractionPlan:
    """Return the plan of texts, by an earlier self-check if it began with the same way."""
    first = next(planner.plans())
    if first.way not in extractor.right_way:
        plan, _ = verified_plan(planner, capture)
        extractor.right_way[first.way] = plan.way
        return plan
    way = extractor.right_way[first.way]
    return first if first.way == way else planner.plan(way)
