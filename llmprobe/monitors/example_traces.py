"""Token by token through a few examples of a run, by probes that did not see them."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction.extract import Extractor
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import write_text
from llmprobe.monitors.tracing import trace
from llmprobe.results.results import Results
from llmprobe.results.trace import Trace

log = logging.getLogger(__name__)

FILE = "example_traces.json"
_BLIND_FOLD = 0
"""The fold that the fold-0 probes did not see."""


@dataclass(frozen=True)
class ExampleTrace:
    """The trace of one example, and why it was chosen."""

    title: str
    trace: Trace


def telling_examples(results: Results, most: int) -> list[int]:
    """Of each class the example that is answered most surely, then those most surely wrong; of
    labels that are numbers those predicted best, then those worst.

    Numbers of at most ``most`` examples, all of the fold that the fold-0 probes did not see.
    """
    predictions, layer = results.predictions, int(results.summary["peak_layer"].iloc[0])
    rows = predictions[(predictions["layer"] == layer) & (predictions["fold"] == _BLIND_FOLD)]
    classes, worst = results.fold0_probes[0].classes, max(1, most // 3)
    if classes:
        # Of two classes the score is the last one's probability, of more the predicted one's.
        sure = (rows["score"] - 0.5).abs() if len(classes) == 2 else rows["score"]
        rows = rows.assign(sure=sure).sort_values("sure", ascending=False, kind="stable")
        right = rows["predicted"] == rows["label"]
        wrong = rows[~right].head(worst)
        best = rows[right].groupby("label", sort=True).head(1).sort_values("label")
    else:
        error = (rows["score"] - rows["label"].astype(float)).abs()
        best = rows.assign(error=error).sort_values("error", kind="stable")
        wrong = best[::-1].head(worst)
    chosen = pd.concat([best.head(most - len(wrong)), wrong]).drop_duplicates("example")
    return [int(example) for example in chosen["example"]]


def example_traces(
    extractor: Extractor,
    dataset: ConceptDataset,
    results: Results,
    examples: Sequence[int],
) -> list[ExampleTrace]:
    """Traces of some examples, with what the best layer answers; none where a text cannot be read.

    Parameters
    ----------
    results
        Of one model on one dataset.
    examples
        Numbers of examples of fold 0.
    """
    layer = int(results.summary["peak_layer"].iloc[0])
    rows = results.predictions[results.predictions["layer"] == layer].set_index("example")
    texts = [dataset.texts[example] for example in examples]
    try:
        traces = trace(extractor, results.fold0_probes[0], texts)
    except UserError as error:
        log.warning("%s on %s: no traces: %s", extractor.model_config.name, dataset.name, error)
        return []
    return [
        ExampleTrace(f"label {row.label}, answered {_short(str(row.predicted))}", its)
        for row, its in zip(rows.loc[list(examples)].itertuples(), traces, strict=True)
    ]


def _short(answer: str) -> str:
    """Of numbers four digits."""
    try:
        return answer if answer.isdecimal() else f"{float(answer):.4g}"
    except ValueError:
        return answer


def save(traces: Sequence[ExampleTrace], path: Path) -> None:
    """As JSON."""
    found = [{"title": one.title, "trace": one.trace.to_json()} for one in traces]
    write_text(path, json.dumps(found))


def load(path: Path) -> list[ExampleTrace]:
    """What ``save`` wrote.

    Raises
    ------
    UserError
        It is missing or damaged.
    """
    try:
        found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return [ExampleTrace(str(one["title"]), Trace.from_json(one["trace"])) for one in found]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, UserError) as error:
        raise UserError(f"{path}: missing or damaged ({str(error).splitlines()[0]})") from None
