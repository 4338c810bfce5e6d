"""States of texts that are used once and kept nowhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from llmprobe.extraction.capture import Capture
from llmprobe.extraction.executor import Work
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.runner import checked
from llmprobe.extraction.tokens import Reading, TokenisedTexts
from llmprobe.ground.progress import Progress


def passing_states(
    extractor: Extractor, texts: TokenisedTexts, what: str
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """The states of ``texts``, some at a time: of which of them, and [layers, those, d].

    They are those that an extraction would keep; what is in memory at a time does not grow with
    the number of texts. ``what`` names the texts in errors.

    Raises
    ------
    UserError
        A state is not finite, or one text alone does not fit into memory.
    """
    model = extractor.model
    reading = Reading(extractor.config.position == "mean", texts.special)
    with Capture(model, extractor.config.site) as capture:
        planner = extractor.planner(
            texts, model.module, len(model.blocks), model.causal, model.device, model.dtype
        )
        name, _ = checked(planner, capture, reading)
        plan = planner.plan(name)
        work = Work(plan, capture, reading, what, processes=1)
        row_of = np.array(plan.row_of)
        with Progress(f"reading {what} with {model.name}", len(plan.texts)) as bar:
            for index, states in work.shards(list(range(len(plan.shards))), bar):
                rows = plan.rows(index)
                # Equal texts are run once.
                these = np.flatnonzero((row_of >= rows.start) & (row_of < rows.stop))
                yield these, states[:, row_of[these] - rows.start]
