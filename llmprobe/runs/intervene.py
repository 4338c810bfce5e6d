"""What a run's models say after their states are changed, stored with each part."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pandas as pd

from llmprobe.config.schema import InterveneConfig, RunConfig
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.extraction.extract import Extractor
from llmprobe.extraction.tokens import Text
from llmprobe.ground.errors import UserError
from llmprobe.ground.files import digest
from llmprobe.models.answer_head import AnswerHead, answer_tokens
from llmprobe.monitors.intervene import checked_rerun, describe, intervene, tasks_config
from llmprobe.monitors.said import why_not
from llmprobe.probing.pooling import Pooling
from llmprobe.probing.tasks import build_tasks
from llmprobe.results.columns import INTERVENE, INTERVENE_EXAMPLES, USED, with_layer_columns
from llmprobe.results.folder import Part
from llmprobe.results.interventions import Intervention
from llmprobe.results.results import Results
from llmprobe.runs.parts import StatesOf, kept_tables
from llmprobe.runs.said import LoadHead

log = logging.getLogger(__name__)


def intervened(
    part: Part,
    states: StatesOf,
    position: str,
    results: Results,
    config: RunConfig,
    asked: InterveneConfig,
    load_head: LoadHead,
    *,
    compute: bool,
) -> Results:
    """Add the effect of changed states to the results of a part, or why it cannot be measured.

    Parameters
    ----------
    compute
        Whether to run the model; otherwise only stored results are added.
    """
    extractor, dataset = states.extractor, states.dataset
    note = why_not_used(dataset, position) or why_not(
        extractor.model_config, dataset, config.extract.site, "last"
    )
    words = {label: list(words) for label, words in dataset.answers.items()}
    name = f"intervene-{digest([words, asked.model_dump(mode='json')])[:16]}"

    def changed_states() -> list[pd.DataFrame]:
        assert isinstance(extractor, Extractor)
        changed = _intervene(extractor, states, position, results, config, asked, load_head)
        return [changed.table, changed.by_layer, changed.summary, changed.examples]

    if not note:
        try:
            names = [name, *(f"{name}-{what}" for what in ("layers", "summary", "examples"))]
            tables = kept_tables(part, names, changed_states if compute else None)
            return results if tables is None else _beside(results, Intervention(*tables), dataset)
        except UserError as error:
            note = str(error)
    log.warning("%s: whether the model uses it is not known: %s", states.where(position), note)
    return replace(results, summary=results.summary.assign(used_note=note))


def why_not_used(dataset: ConceptDataset, position: str) -> str:
    """Return why an intervention on a dataset at a position makes no sense; empty if it does."""
    if not dataset.answers:
        return ("The dataset has no question and answers, so the model cannot be asked what it "
                "says (question: true).")  # fmt: skip
    if Pooling.of(position) is not None:
        return "The probe pools many tokens, so there is no one state to change."
    return ""


def texts_with_places(
    extractor: Extractor, dataset: ConceptDataset, position: str, tokenizer: Any, module: Any
) -> list[Text]:
    """Return the tokens of each text up to where the answer begins, with the position's index."""
    tokens = extractor.tokens_at(["last", position], dataset, tokenizer, module)
    return [Text(tuple(ids[: last[-1] + 1]), (place,))
            for ids, (last, place) in zip(tokens.ids, tokens.places, strict=True)]  # fmt: skip


def describe_use(
    extractor: Extractor, dataset: ConceptDataset, asked: InterveneConfig, position: str
) -> str:
    """Return one line with the token passes and the time that changing states would take."""
    model = extractor.architecture
    texts = texts_with_places(extractor, dataset, position, extractor.tokenizer, model.module)
    return describe(model, asked, texts, position)


def _intervene(
    extractor: Extractor,
    states: StatesOf,
    position: str,
    results: Results,
    config: RunConfig,
    asked: InterveneConfig,
    load_head: LoadHead,
) -> Intervention:
    """Change the states of a part's texts."""
    dataset, seed = states.dataset, config.probe.seed
    head, base = load_head(extractor.model_config)
    texts = texts_with_places(extractor, dataset, position, base.tokenizer, base.module)
    answers = {str(label): dataset.answers[str(label)] for label in dataset.classes}
    asked_head = AnswerHead(
        head, base, answer_tokens(base.tokenizer, texts[0].tokens, answers, dataset.name)
    )
    probe = tasks_config(config.probe, asked)
    tasks = build_tasks(dataset.labels, dataset.units, probe, dataset.name, dataset.test)
    peak = results.curves[0].layer
    of_texts = states.at(position)
    return intervene(
        checked_rerun(base, texts, of_texts, asked),
        asked_head.label_logits, texts, of_texts, tasks, dataset.units, asked,
        peak=base.n_blocks // 2 if peak is None else peak, next_tokens=asked_head.next_tokens,
        seed=seed,
        label=f"changing the states of {dataset.name} in {base.name}",
    )  # fmt: skip


def _beside(results: Results, kept: Intervention, dataset: ConceptDataset) -> Results:
    """Add the effect of changed states to the results of one model, dataset and position."""
    of_curve = {
        name: results.summary[name].iloc[0] for name in ("model", "dataset", "position")
    }  # fmt: skip
    return replace(
        results,
        table=with_layer_columns(results.table, kept.by_layer, USED),
        summary=results.summary.assign(**kept.summary.iloc[0]),
        interventions=kept.table.assign(**of_curve)[list(INTERVENE)],
        intervention_examples=kept.examples.assign(
            **of_curve, text=[dataset.texts[i] for i in kept.examples["example"]]
        )[list(INTERVENE_EXAMPLES)],
    )
