"""Texts put into a template, and where each field stands in the result."""

from __future__ import annotations

import string
from dataclasses import replace

import numpy as np
import pandas as pd

from llmprobe.config.schema import template_fields
from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.spans import Spans
from llmprobe.ground.errors import UserError, suggestion


def templated(dataset: ConceptDataset, template: str) -> ConceptDataset:
    """Put the texts into ``template``, whose fields are text and the dataset's other fields.

    Raises
    ------
    UserError
        The texts are chats; the template cannot be filled, or changes labelled words.
    """
    where = f"dataset {dataset.name!r}"
    if dataset.turns is not None:
        raise UserError(f"{where}: template: a chat is put into the model's own chat template; "
                        "`chat: {…}` has options for it")  # fmt: skip
    texts, spans = filled(dataset, template)
    words = None
    if dataset.words is not None:
        starts = [start for start, _ in spans.get("text", ())]
        words = [(s + a, s + b) for s, (a, b) in zip(starts, dataset.words, strict=False)]
        moved = [text[slice(*place)] for text, place in zip(texts, words, strict=False)]
        if moved != dataset.surface:
            raise UserError(f"{where}: template {template!r} does not keep the labelled words; "
                            "it needs a plain {text}")  # fmt: skip
    # Texts that are in a template already fill the {text} of the new one.
    whole = template.replace("{text}", dataset.filled or "{text}")
    return replace(dataset, texts=texts, spans=spans, words=words, template="", filled=whole)


def filled(dataset: ConceptDataset, template: str) -> tuple[list[str], Spans]:
    """Fill a template from a dataset's texts and fields, as ``fill`` does."""
    values = dataset.fields.assign(text=dataset.texts)
    return fill(values, template, f"dataset {dataset.name!r}")


def fill(values: pd.DataFrame, template: str, where: str) -> tuple[list[str], Spans]:
    """Fill the template for each row; return the texts [n] and where each field stands [n].

    Raises
    ------
    UserError
        There is no such field, a row has no value of it, or the template cannot be filled;
        ``where`` begins the message.
    """
    names = list(dict.fromkeys(template_fields(template)))
    for name in names:
        if name not in values.columns:
            known = [str(column) for column in values.columns]
            raise UserError(f"{where}: template field {{{name}}}: {suggestion(name, known)}")
        missing = np.flatnonzero(values[name].isna())
        if len(missing):
            row = missing[0] + 1
            cell = f"template field {{{name}}}: row {row}"
            raise UserError(f"{where}: {cell}: no value in that column")
    rows = values[names].astype(object).to_dict("records")
    parts = list(string.Formatter().parse(template))
    spans: Spans = {name: [] for name in names}
    texts = []
    try:
        for row in rows:
            text, places = "", {}
            for literal, field, spec, conversion in parts:
                text += literal
                if field is not None:
                    kind = f"!{conversion}" if conversion else ""
                    value = f"{{{field}{kind}:{spec}}}".format_map(row)
                    places[field] = (len(text), len(text) + len(value))
                    text += value
            texts.append(text)
            for name, place in places.items():
                spans[name].append(place)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(f"{where}: template {template!r} cannot be filled: {error}") from None
    return texts, spans
