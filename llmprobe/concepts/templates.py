"""Texts put into a template, and where in it each field has come to stand."""

from __future__ import annotations

import string
from dataclasses import replace

import numpy as np

from llmprobe.concepts.dataset import ConceptDataset
from llmprobe.config import template_fields
from llmprobe.errors import UserError, suggestion

Spans = dict[str, list[tuple[int, int]]]


def templated(dataset: ConceptDataset, template: str) -> ConceptDataset:
    """The texts put into ``template``, whose fields are text and the dataset's other fields."""
    texts, spans = filled(dataset, template)
    return replace(dataset, texts=texts, spans=spans, template="")


def filled(dataset: ConceptDataset, template: str) -> tuple[list[str], Spans]:
    """The template filled for each row, and where each of its fields stands. -> [n], each [n]

    Raises
    ------
    UserError
        There is no such field, a row has no value of it, or the template cannot be filled.
    """
    where = f"dataset {dataset.name!r}: template field"
    names = list(dict.fromkeys(template_fields(template)))
    values = dataset.fields.assign(text=dataset.texts)
    for name in names:
        if name not in values.columns:
            known = [str(column) for column in values.columns]
            raise UserError(f"{where} {{{name}}}: {suggestion(name, known)}")
        missing = np.flatnonzero(values[name].isna())
        if len(missing):
            raise UserError(f"{where} {{{name}}}: row {missing[0] + 1}: no value in that column")
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
        raise UserError(
            f"dataset {dataset.name!r}: template {template!r} cannot be filled: {error}"
        ) from None
    return texts, spans
