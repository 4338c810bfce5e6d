"""Which examples of several datasets are about the same thing."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

from llmprobe.datasets.dataset import ConceptDataset
from llmprobe.datasets.groups import group_indices
from llmprobe.ground.errors import UserError

_NUMBERS_OF_ROWS = {"id", "ids", "index", "row", "group", "groups", "unit", "pair", "fold"}
"""Fields that number the rows of one file, so that equal values in two files say nothing."""
_WORD = re.compile(r"[^\W\d_]{2}")


def shared_units(datasets: Sequence[ConceptDataset], entity: str | None = None) -> list[np.ndarray]:
    """Number the units of all datasets together, so that a unit in several has one number.

    Rows are one unit if they are one in their own dataset (by group or text), if their texts are
    equal (``groups.plain``), if they name the same entity, or, in two forms of one dataset, if
    their groups are equal; along chains too. Equal groups of unrelated datasets mean nothing.

    Parameters
    ----------
    entity
        The field that names what a row is about. By default every field of words that several
        datasets have, if in each of them all rows with the same value are one unit: a city, say,
        but not a country of many cities.

    Returns
    -------
    The unit of each row of each dataset. [datasets][n]

    Raises
    ------
    UserError
        No dataset has the field ``entity``.
    """
    if entity is not None and not any(entity in dataset.fields for dataset in datasets):
        raise UserError(f"transfer: entity: no dataset has a field {entity!r}")
    own = [group_indices(dataset.units, len(dataset)) for dataset in datasets]
    of_own: Keys = {
        number: [("own", number, unit) for unit in units] for number, units in enumerate(own)
    }
    every = [of_own, _keys_of_texts(datasets), *_keys_of_forms(datasets)]
    fields = _entities(datasets, own) if entity is None else [entity]
    every += [_keys_of_field(datasets, field) for field in fields]
    rows: list[int] = []
    values: list[object] = []
    start = 0
    for number, dataset in enumerate(datasets):
        for of_rows in (one[number] for one in every if number in one):
            known = [(row, key) for row, key in enumerate(of_rows, start) if key is not None]
            rows += [row for row, _ in known]
            values += [key for _, key in known]
        start += len(dataset)
    # As texts: pandas would confuse keys that are tuples of different kinds.
    codes = pd.factorize(np.array([repr(value) for value in values], dtype=object))[0]
    size = start + int(codes.max()) + 1
    edges = coo_array((np.ones(len(rows)), (rows, start + codes)), shape=(size, size))
    unit_of = connected_components(edges, directed=False)[1][:start]
    return np.split(unit_of, np.cumsum([len(dataset) for dataset in datasets])[:-1])


Keys = dict[int, list[object]]
"""By the number of a dataset, a key for each of its rows; None for a row without one."""


def _keys_of_texts(datasets: Sequence[ConceptDataset]) -> Keys:
    return {
        number: [("text", text) for text in dataset.plain_texts]
        for number, dataset in enumerate(datasets)
    }


def _keys_of_forms(datasets: Sequence[ConceptDataset]) -> list[Keys]:
    """Return the groups of datasets from one source; without groups, rows of the same labels."""
    of_groups: Keys = {}
    of_rows: Keys = {}
    for number, dataset in enumerate(datasets):
        origin = (dataset.source, dataset.version, dataset.description)
        if not dataset.source:
            continue
        if dataset.groups is not None:
            of_groups[number] = [("group", origin, str(group)) for group in dataset.groups]
        else:
            labels = tuple(dataset.labels.tolist())
            content = (origin, len(dataset), hash(labels))
            of_rows[number] = [("row", content, row) for row in range(len(dataset))]
    return [of_groups, of_rows]


def _keys_of_field(datasets: Sequence[ConceptDataset], field: str) -> Keys:
    return {
        number: [
            None if pd.isna(value) else ("entity", field, " ".join(str(value).split()).casefold())
            for value in dataset.fields[field]
        ]
        for number, dataset in enumerate(datasets)
        if field in dataset.fields
    }


def _entities(datasets: Sequence[ConceptDataset], own: Sequence[np.ndarray]) -> list[str]:
    """Return the fields whose values name one unit each, in every dataset that has the field."""
    names: dict[str, list[bool]] = {}
    for dataset, units in zip(datasets, own, strict=True):
        for name in map(str, dataset.fields.columns):
            if name.casefold() not in _NUMBERS_OF_ROWS:
                names.setdefault(name, []).append(_names_units(dataset.fields[name], units))
    return [name for name, fits in names.items() if len(fits) > 1 and all(fits)]


def _names_units(values: pd.Series, units: np.ndarray) -> bool:
    """Whether there are several values, all words, and all rows with one value are of one unit."""
    known = values.dropna().astype(str)
    if known.nunique() < 2 or not known.map(lambda text: bool(_WORD.search(text))).all():
        return False
    of_value = pd.Series(units, index=values.index).loc[known.index].groupby(known).nunique()
    return bool((of_value == 1).all())
