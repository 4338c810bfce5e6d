"""Traces of a few examples of a run, by probes that did not see them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction.extract import Extractor
from llmprobe.ground.errors import UserError
from llmprobe.monitors.tracing import trace
from llmprobe.results.predictions import first_repeat
from llmprobe.results.results import Results
from llmprobe.results.trace import Trace

log = logging.getLogger(__name__)

_UNSEEN_FOLD = 0
"""The fold that the fold-0 probes did not see."""


def examples_to_trace(results: Results, most: int) -> list[int]:
    """Choose at most ``most`` examples, all of the fold that the fold-0 probes did not see.

    For classes: of each, the right answer with the most confidence, then the most confident wrong
    answers. For labels that are numbers: the best predictions, then the worst. -> row numbers
    """
    predictions = _at_best_layer(results)
    rows = predictions[predictions["fold"] == _UNSEEN_FOLD]
    classes, most_wrong = results.fold0_probes[0].classes, max(1, most // 3)
    if classes:
        # The score is the probability of the second of two classes, or of the predicted of more.
        sure = (rows["score"] - 0.5).abs() if len(classes) == 2 else rows["score"]
        rows = rows.assign(sure=sure).sort_values("sure", ascending=False, kind="stable")
        right = rows["predicted"] == rows["label"]
        wrong = rows[~right].head(most_wrong)
        best = rows[right].groupby("label", sort=True).head(1).sort_values("label")
    else:
        error = (rows["score"] - rows["label"].astype(float)).abs()
        best = rows.assign(error=error).sort_values("error", kind="stable")
        wrong = best[::-1].head(most_wrong)
    chosen = pd.concat([best.head(most - len(wrong)), wrong]).drop_duplicates("example")
    return [int(example) for example in chosen["example"]]


def trace_examples(
    extractor: Extractor,
    dataset: ConceptDataset,
    results: Results,
    examples: Sequence[int],
) -> list[Trace]:
    """Trace some examples, each titled with its label and the best layer's answer.

    Parameters
    ----------
    results
        Of one model on one dataset.
    examples
        Numbers of examples of fold 0.

    Returns
    -------
    list[Trace]
        Empty, after a warning, if a text cannot be read.
    """
    texts = [dataset.texts[example] for example in examples]
    turns = dataset.turns and [dataset.turns[example] for example in examples]
    probe = results.fold0_probes[0]
    parts = dataset.ranges(str(probe.facts.get("position", "last")), extractor.config.occurrence)
    try:
        ranges = parts and [parts[example] for example in examples]
        traces = trace(extractor, probe, texts, turns, ranges)
    except UserError as error:
        log.warning("%s on %s: no traces: %s", extractor.model_config.name, dataset.name, error)
        return []
    rows, names = _at_best_layer(results).set_index("example"), dataset.class_names
    shown = []
    for example, made in zip(examples, traces, strict=True):
        label, answer = (str(rows.at[example, column]) for column in ("label", "predicted"))
        title = f"label {names.get(label, label)}, answered {names.get(answer, _short(answer))}"
        shown.append(replace(made, label=names.get(made.label or "", made.label), title=title))
    return shown


def _at_best_layer(results: Results) -> pd.DataFrame:
    layer = int(results.summary["peak_layer"].iloc[0])
    predictions = first_repeat(results.predictions)
    return predictions[predictions["layer"] == layer]


def _short(answer: str) -> str:
    """Round a decimal number to four digits; return other answers as they are."""
    try:
        return answer if answer.isdecimal() else f"{float(answer):.4g}"
    except ValueError:
        return answer
